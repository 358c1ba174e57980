"""`people`: rendered persons with exact 2D and 3D joints, shipped with the book (see data/README.md)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posebook import geometry
from posebook.datasets.base import CROP, NOWHERE, STORED, PoseDataset, crop_image, crop_poses, decode
from posebook.files import read_sums, reading, sha256
from posebook.skeleton import ABSENT, BODY_PARTS, H36M17, OCCLUDED, Skeleton

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "validation", "test")
GROUPS = ("subject", "clip", "action", "frame", "background", "effects")
WIDTHS = {"joints2d": 34, "joints3d": 51, "state": 17, "camera": 9, "box": 4}
"""How many numbers a row of these columns holds."""
POSED = ("look", "pose", "root", "view", "yaw", "exposure")
"""Columns for `synthesis.render_anew` alone, which crops do without."""
RESTORE = "restore or make it again"
NAMED = "the name is that of its file and row; restore or make the file again"
REGIONS = ("full", "upper")
LEGS = [H36M17.index(f"{side}_{joint}") for side in ("left", "right") for joint in ("knee", "ankle")]
LEAST = 6
"""An upper-body crop needs so many of its joints in the picture."""
FREE_SIDES = range(64, 39, -4)
"""Sides of the squares that are looked for beside a person, pixels of the stored picture, largest first."""


def people_folder() -> Path:
    """Where the embedded data lie: `data/people` of a checkout, or inside the installed package."""
    package = Path(__file__).resolve().parents[1]
    places = (package.parent / "data" / "people", package / "_data" / "people")
    return next((place for place in places if place.is_dir()), places[0])


def read_shard(path: str | Path, columns: Sequence[str] | None = None) -> dict[str, Any]:
    """Columns of one Parquet file of people, as arrays; `image` and `parts` stay lists of JPEG and PNG bytes.

    If a file SHA256SUMS lies beside it and names it, the checksum is verified first.

    Args:
        columns: which to read; default all but `POSED`.

    Raises:
        FileNotFoundError: no such file; OSError: damaged; ValueError: a column is missing.
    """
    import pyarrow.parquet as pq
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; it comes with the book's repository, or is made with "
                                "`python -m posebook synthesize`")
    published = read_sums(path.parent)
    if path.name in published and published[path.name] != sha256(path):
        raise OSError(f"{path} does not have the SHA-256 that SHA256SUMS gives; restore it, for example with "
                      "`git checkout -- data/people`, or pass damaged='skip' to do without it")
    wanted = list(columns or ("image", "parts", "joints2d", "joints3d", "state", "camera", "box", *GROUPS))
    with reading(path, "restore or make it again, or pass damaged='skip' to do without it", "as Parquet"):
        file = pq.ParquetFile(path)
        if missing := set(wanted) - set(file.schema_arrow.names):
            raise ValueError(f"{path} lacks the columns {', '.join(sorted(missing))}; it is no shard of people, or "
                             "one of an older version: make it again")
        table = file.read(wanted)
        return {name: _column(table[name], WIDTHS.get(name)) for name in wanted}


def count_rows(path: Path) -> int:
    """How many people a file holds, of which only the end is read.

    Raises:
        OSError: if it is damaged, naming it.
    """
    import pyarrow.parquet as pq
    with reading(path, RESTORE, "as Parquet"):
        rows: int = pq.read_metadata(path).num_rows
    return rows


def row_names(path: Path, count: int) -> np.ndarray:
    """(count,) what names the rows of a file: its own name and their numbers."""
    return np.array([f"{path.stem}-{row:04d}" for row in range(count)])


def _column(column: pa.ChunkedArray, width: int | None) -> Any:
    import pyarrow as pa
    if column.null_count:
        raise ValueError("a value is missing")
    if pa.types.is_binary(column.type):
        return column.to_pylist()
    values = np.stack(column.to_numpy()) if pa.types.is_fixed_size_list(column.type) else column.to_numpy()
    if width and (values.shape[1:] != (width,) or not np.isfinite(values).all()):
        raise ValueError(f"a column does not hold {width} finite numbers a row")
    return values


def find_shards(split: str, folder: str | Path | None = None) -> list[Path]:
    """The files of a split, in order.

    Raises:
        ValueError: for an unknown split; FileNotFoundError: if there is none.
    """
    if split not in SPLITS:
        raise ValueError(f"people has the splits {', '.join(SPLITS)}, not {split!r}")
    folder = Path(folder or people_folder())
    paths = sorted(folder.glob(f"{split}-*.parquet"))
    if not paths:
        raise FileNotFoundError(f"there is no {split}-*.parquet in {folder}; the files come with the book's "
                                "repository, or are made with `python -m posebook synthesize`")
    return paths


def load_people(split: str, folder: str | Path | None = None, size: int = STORED, crop: int = CROP,
                limit: int | None = None, skeleton: Skeleton = H36M17, region: str = "full", parts: bool = False,
                damaged: str = "refuse", files: Sequence[Path] | None = None) -> PoseDataset:
    """Read one split of people and crop every person.

    Joints outside the picture are ABSENT (their place in 3D is kept). The crop is made around those inside.

    Args:
        split: 'train', 'validation' or 'test': no person, clip or background is in two of them.
        folder: holds `<split>-00000.parquet` and so on; default the embedded data.
        size, crop: sides of the stored crop and of the network's input, pixels.
        limit: at most so many samples, spread evenly over the split.
        skeleton: joints to convert to; the files hold H36M17.
        region: 'full', or 'upper' for crops around all joints but knees and ankles, which are then ABSENT. People of
            whom fewer than `LEAST` such joints are in the picture are skipped.
        parts: whether to read the part labels too.
        damaged: 'refuse' damaged files, or 'skip' them, counted in `skipped`.
        files: only these of the split's files (`find_shards`), for sets that are read part by part.

    Raises:
        FileNotFoundError, OSError: missing or damaged file, naming it, or all of them damaged; ValueError: unknown
        split, region or choice, a limit below 1, no shard of people, or nobody left.
    """
    if region not in REGIONS or damaged not in ("refuse", "skip"):
        raise ValueError(f"region must be one of {', '.join(REGIONS)} and damaged 'refuse' or 'skip', not {region!r} "
                         f"and {damaged!r}")
    rows, skipped = _read(list(files or find_shards(split, folder)), damaged)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}; leave it out for the whole split")
    total = len(rows["image"])
    if not total:
        raise OSError(f"all files of {split} are damaged; restore them, or make them again")
    pick = np.arange(total) if limit is None or limit >= total else np.linspace(0, total - 1, limit).astype(int)
    state = _states(rows["joints2d"].reshape(-1, 17, 2), rows["state"], rows["image"][0], region, rows["id"][0])
    if region == "upper":
        fit = (state[pick] != ABSENT).sum(1) >= LEAST
        skipped = {**skipped, f"fewer than {LEAST} joints": int((~fit).sum())}
        pick = pick[fit]
        if not len(pick):
            raise ValueError(f"nobody in {split} has {LEAST} joints of the upper body in the picture; "
                             "read region='full'")
    chosen = {name: [column[i] for i in pick] if isinstance(column, list) else column[pick]
              for name, column in rows.items()}
    skipped = {reason: count for reason, count in skipped.items() if count}
    return replace(crop_rows(chosen, split, size, crop, region, parts), skipped=skipped).as_skeleton(skeleton)


def crop_rows(rows: dict[str, Any], split: str, size: int, crop: int, region: str = "full",
              parts: bool = False) -> PoseDataset:
    """Crop the people in some rows of the files, at least one, with an `id` for each; the rest as for `load_people`."""
    state = _states(rows["joints2d"].reshape(-1, 17, 2), rows["state"], rows["image"][0], region, rows["id"][0])
    joints = np.where((state != ABSENT)[..., None], rows["joints2d"].reshape(-1, 17, 2), 0).astype(np.float32)
    cropped = [crop_poses(_pixels(image, name), pose, known, size, crop)
               for image, name, pose, known in zip(rows["image"], rows["id"], joints, state, strict=True)]
    images, moved, to_source = (np.stack(column) for column in zip(*cropped, strict=True))
    labels = None
    if parts:
        labels = np.stack([_crop_parts(drawn, matrix, size, name) for drawn, matrix, name in
                           zip(rows["parts"], to_source, rows["id"], strict=True)])
    return PoseDataset(
        "people", split, H36M17, images, moved, state, to_source, rows["id"],
        joints3d=rows["joints3d"].reshape(-1, 17, 3), camera=rows["camera"].reshape(-1, 3, 3), parts=labels,
        groups={name: rows[name] for name in GROUPS})


def load_person_free(split: str, folder: str | Path | None = None, size: int = STORED, limit: int | None = None,
                     skeleton: Skeleton = H36M17) -> PoseDataset:
    """Crops that show nobody, for detectors (paper A's loader has them too): from each picture without bystanders
    the largest square of `FREE_SIDES` that holds no pixel of the person, enlarged to `size`.

    They are as large as the person leaves room, so they show less of the world, and are less sharp, than crops of
    people. Of several places for the largest square one is drawn, always the same for a picture. All joints lie at
    `NOWHERE`.

    Args:
        limit: at most so many, spread evenly over the split; the others as for `load_people`.

    Raises:
        As `load_people`.
    """
    found = []
    for path in find_shards(split, folder):
        rows = read_shard(path, ("image", "parts", "effects"))
        for row, (image, parts) in enumerate(zip(rows["image"], rows["parts"], strict=True)):
            name = f"{path.stem}-{row:04d}-free"
            draw = np.random.default_rng(list(name.encode()))
            free = None if "others" in rows["effects"][row] else _free_square(_labels(parts, name) > 0, draw)
            if free is not None:
                found.append((image, free, name))
    if not found or (limit is not None and limit < 1):
        raise ValueError(f"{split} leaves no square without a person, or the limit {limit} is below 1")
    count = len(found) if limit is None else min(limit, len(found))
    chosen = [found[i] for i in np.linspace(0, len(found) - 1, count).astype(int)]
    images = np.stack([crop_image(_pixels(image), box, size).transpose(2, 0, 1) for image, box, _ in chosen])
    to_source = np.stack([geometry.invert(geometry.crop_matrix(box, size)) for _, box, _ in chosen])
    shape = (count, len(skeleton))
    return PoseDataset("people without people", split, skeleton, images, np.full((*shape, 2), NOWHERE, np.float32),
                       np.full(shape, OCCLUDED, np.uint8), to_source, np.array([name for *_, name in chosen]))


def _free_square(taken: np.ndarray, draw: np.random.Generator) -> np.ndarray | None:
    """(4,) box of one of the largest squares of `FREE_SIDES` without a taken pixel, or None."""
    sums = np.pad(taken.astype(int), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    for side in FREE_SIDES:
        held = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
        places = np.argwhere(held == 0)
        if len(places):
            y, x = places[draw.integers(len(places))]
            return np.array([x, y, x + side, y + side], np.float32)
    return None


def _read(paths: list[Path], damaged: str) -> tuple[dict[str, Any], dict[str, int]]:
    """All files' columns, with an `id` for every row, and how many files were skipped."""
    found: list[dict[str, Any]] = []
    skipped: dict[str, int] = {}
    for path in paths:
        try:
            shard = read_shard(path)
        except OSError:
            if damaged == "refuse":
                raise
            skipped["damaged file"] = skipped.get("damaged file", 0) + 1
            continue
        shard["id"] = row_names(path, len(shard["image"]))
        found.append(shard)
    names = found[0] if found else {"image": []}
    return {name: sum((s[name] for s in found), []) if isinstance(names[name], list)
            else np.concatenate([s[name] for s in found]) for name in names}, skipped


def _states(joints: np.ndarray, state: np.ndarray, image: bytes, region: str, name: str) -> np.ndarray:
    """(N, 17) the stored states, ABSENT where a joint is outside the picture or not in the region."""
    side = _pixels(image, name).shape[0]
    state = np.where(((joints >= -0.5) & (joints <= side - 0.5)).all(-1), state, ABSENT).astype(np.uint8)
    if region == "upper":
        state[:, LEGS] = ABSENT
    return state


def _pixels(data: bytes, name: str = "a person") -> np.ndarray:
    with reading(f"the picture of {name}", NAMED):
        return decode(io.BytesIO(data))


def _labels(data: bytes, name: str) -> np.ndarray:
    with reading(f"the part labels of {name}", NAMED):
        labels = decode(io.BytesIO(data), None)
        if labels.dtype != np.uint8 or labels.ndim != 2 or labels.max() > len(BODY_PARTS):
            raise ValueError("they are no picture of numbers of body parts")
        return labels


def _crop_parts(data: bytes, to_source: np.ndarray, size: int, name: str) -> np.ndarray:
    """(size, size) uint8 part labels of the crop whose pixels `to_source` (2, 3) maps to the picture's."""
    corners = geometry.transform(to_source, np.array([[-0.5, -0.5], [size - 0.5, size - 0.5]], np.float32)) + 0.5
    return crop_image(_labels(data, name), corners.ravel(), size)
