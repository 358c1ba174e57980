"""`people`: rendered persons with exact 2D and 3D joints, shipped with the book (see data/README.md)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from posebook.datasets.base import CROP, STORED, PoseDataset, crop_poses
from posebook.datasets.download import sha256
from posebook.skeleton import H36M17, Skeleton

SPLITS = ("train", "validation", "test")
GROUPS = ("subject", "clip", "action", "frame", "background")


def people_folder() -> Path:
    """Where the embedded data lie: `data/people` of a checkout, or inside the installed package."""
    package = Path(__file__).resolve().parents[1]
    places = (package.parent / "data" / "people", package / "_data" / "people")
    return next((place for place in places if place.is_dir()), places[0])


def read_shard(path: str | Path) -> dict[str, np.ndarray | list[bytes]]:
    """Columns of one Parquet file of people, as arrays; `image` stays a list of JPEG bytes.

    If a file SHA256SUMS lies beside it and names it, the checksum is verified first.

    Raises:
        FileNotFoundError: no such file; OSError: damaged; ValueError: a column is missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; it comes with the book's repository, or is made with "
                                "`python -m posebook synthesize`")
    sums = path.parent / "SHA256SUMS"
    published = dict(reversed(line.split()) for line in sums.read_text().splitlines()) if sums.is_file() else {}
    if path.name in published and published[path.name] != sha256(path):
        raise OSError(f"{path} does not have the SHA-256 that SHA256SUMS gives; restore it, for example with "
                      "`git checkout -- data/people`")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise OSError(f"{path} cannot be read as Parquet ({error}); restore or make it again") from error
    wanted = {"image", "joints2d", "joints3d", "state", "camera", "box", *GROUPS}
    if missing := wanted - set(table.column_names):
        raise ValueError(f"{path} lacks the columns {', '.join(sorted(missing))}; it is no shard of people")
    return {name: _column(table[name]) for name in wanted}


def _column(column) -> np.ndarray | list[bytes]:
    import pyarrow as pa
    if pa.types.is_binary(column.type):
        return column.to_pylist()
    if pa.types.is_fixed_size_list(column.type):
        return np.stack(column.to_numpy())
    return column.to_numpy()


def load_people(split: str, folder: str | Path | None = None, size: int = STORED, crop: int = CROP,
                limit: int | None = None, skeleton: Skeleton = H36M17) -> PoseDataset:
    """Read one split of people and crop every person.

    Args:
        split: 'train', 'validation' or 'test': no person, clip or background is in two of them.
        folder: holds `<split>.parquet`; default the embedded data.
        size, crop: sides of the stored crop and of the network's input, pixels.
        limit: at most so many samples, spread evenly over the split.
        skeleton: joints to convert to; the file holds H36M17.

    Raises:
        FileNotFoundError, OSError: missing or damaged file; ValueError: unknown split, or no shard of people.
    """
    from PIL import Image
    if split not in SPLITS:
        raise ValueError(f"people has the splits {', '.join(SPLITS)}, not {split!r}")
    shard = read_shard(Path(folder or people_folder()) / f"{split}.parquet")
    total = len(shard["image"])
    pick = np.arange(total) if limit is None or limit >= total else np.linspace(0, total - 1, limit).astype(int)
    joints = shard["joints2d"].reshape(-1, 17, 2)[pick]
    state = shard["state"][pick].astype(np.uint8)
    rows = []
    for row, i in enumerate(pick):
        with Image.open(io.BytesIO(shard["image"][i])) as image:
            rows.append(crop_poses(np.asarray(image.convert("RGB")), joints[row], state[row], size, crop))
    images, moved, to_source = (np.stack(column) for column in zip(*rows, strict=True))
    dataset = PoseDataset(
        "people", split, H36M17, images, moved, state, to_source, np.array([f"{split}-{i:05d}" for i in pick]),
        joints3d=shard["joints3d"].reshape(-1, 17, 3)[pick], camera=shard["camera"].reshape(-1, 3, 3)[pick],
        groups={name: np.asarray(shard[name])[pick] for name in GROUPS})
    return dataset.as_skeleton(skeleton)
