"""Leeds Sports Pose Extended (Johnson and Everingham 2011): 10,000 photographs of sportspeople, 14 joints each.

The labels came from the crowd and are noisy; `joints.mat` is 14x3xN, and its third column says 1 = labelled (the
other coordinates mean nothing). The original, smaller LSP stores 3x14xN with 1 = *occluded*: the opposite flag in
another order, so that file is refused by name. Labels count pixels from one; they are shifted to zero on reading.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np

from posebook.datasets.base import CROP, STORED, PoseDataset, crop_poses, read_image
from posebook.datasets.download import fetch_all
from posebook.files import whole_file
from posebook.skeleton import ABSENT, LSP14, VISIBLE

SPLITS = {"train": (1, 7500), "validation": (7501, 8500), "test": (8501, 10000)}
"""Image numbers, both ends included. The split is this book's own: LSP extended was published as training data."""
MIN_LABELLED = 10
"""Images with fewer labelled joints than this are skipped, and counted."""
MIRROR = "https://raw.githubusercontent.com/axelcarlier/lsp/8fabf3183516b1be5f9d44bd1c516609637e983e/"


def read_joints(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read `joints.mat`.

    Returns:
        joints (N, 14, 2) float32 in zero-based pixels of the photograph; state (N, 14) ABSENT or VISIBLE (the file
        does not tell occluded joints apart); (N,) how many labelled joints had to be dropped as not finite.

    Raises:
        FileNotFoundError, OSError: missing or damaged; ValueError: a file of the other flavour or of another shape.
    """
    from scipy.io import loadmat
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; lspet needs joints.mat beside a folder images/ "
                                "(`python -m posebook download lspet --data DIR` fetches both)")
    try:
        content = path.read_bytes()
        if content[126:128] in (b"IM", b"MI"):
            _check_types(content, 128, "little" if content[126:128] == b"IM" else "big")
        mat = loadmat(path)
    except Exception as error:  # SciPy raises many kinds for a damaged file; all mean the same to the reader
        raise OSError(f"{path} cannot be read as a MATLAB file ({error}); fetch it again") from error
    if "joints" not in mat:
        raise ValueError(f"{path} has no variable 'joints'; it holds {sorted(k for k in mat if not k.startswith('_'))}")
    raw = np.asarray(mat["joints"], np.float64)
    if raw.ndim == 3 and raw.shape[:2] == (3, 14):
        raise ValueError(f"{path} is 3x14xN: that is LSP, where the third row marks *occluded* joints. "
                         "LSP extended is 14x3xN with 1 = labelled; give the folder of LSP extended")
    if raw.ndim != 3 or raw.shape[:2] != (14, 3):
        raise ValueError(f"{path}: 'joints' must be 14x3xN, got {raw.shape}")
    joints = raw[:, :2].transpose(2, 0, 1) - 1
    labelled = raw[:, 2].T == 1
    broken = labelled & ~np.isfinite(joints).all(axis=2)
    labelled &= ~broken
    joints[~labelled] = 0
    return joints.astype(np.float32), np.where(labelled, VISIBLE, ABSENT).astype(np.uint8), broken.sum(axis=1)


def _check_types(content: bytes, start: int, order: Literal["little", "big"]) -> None:
    """Raise ValueError if an element of a MATLAB 5 file has a type that there is none of, which SciPy looks up without
    asking, and may crash; or more bytes than there are. Layout: MathWorks, MAT-File Format, Level 5."""
    matrix, packed = 14, 15
    while start + 8 <= len(content):
        kind, size = (int.from_bytes(content[start + k:start + k + 4], order) for k in (0, 4))
        if kind >> 16:                                   # a short one, with its size in the upper half
            kind, size = kind & 0xFFFF, 0
        if kind not in (*range(1, 8), 9, 12, 13, matrix, packed, 16, 17, 18) or start + 8 + size > len(content):
            raise ValueError(f"it has an element of the type {kind} with {size} bytes")
        inside = content[start + 8:start + 8 + size]
        if kind == packed:
            _check_types(zlib.decompressobj().decompress(inside, 1 << 28), 0, order)
        elif kind == matrix:
            _check_types(inside, 0, order)
        start += 8 + (size if kind == packed else -(-size // 8) * 8)


def load_lspet(folder: str | Path, split: str, size: int = STORED, crop: int = CROP, limit: int | None = None,
               cache: str | Path | None = None, progress: bool = True) -> PoseDataset:
    """Read one split and crop every person; the crops are cached, since decoding the photographs takes minutes.

    Skipped and counted in `PoseDataset.skipped`: images with fewer than `MIN_LABELLED` labelled joints; labelled
    joints that lie outside their image or are not finite (the joint is dropped, the image stays).

    Args:
        folder: holds `joints.mat` and `images/im00001.jpg` ...
        split: 'train', 'validation' or 'test' (see `SPLITS`).
        size, crop: sides of the stored crop and of the network's input, pixels.
        limit: read only the first so many images of the split.
        cache: folder for the finished crops; default `$POSEBOOK_CACHE` or `~/.cache/posebook`.

    Raises:
        FileNotFoundError, OSError: missing or damaged files; ValueError: wrong label file, number of images or split.
    """
    folder = Path(folder)
    if split not in SPLITS:
        raise ValueError(f"lspet has the splits {', '.join(SPLITS)}, not {split!r}")
    joints, state, broken = read_joints(folder / "joints.mat")
    numbers = _numbers(folder, split, len(joints), limit)
    cached = _cache_file(cache, folder / "joints.mat", split, size, crop, limit)
    if (known := _load_cache(cached, split)) is not None:
        return known
    dropped = int(broken[numbers.start - 1:numbers.stop - 1].sum())
    skipped = {"joints that are not finite": dropped} if dropped else {}
    rows, kept = [], []
    for number in _progress(numbers, f"lspet {split}", progress):
        image = read_image(folder / "images" / f"im{number:05d}.jpg")
        pose, mark = joints[number - 1], state[number - 1].copy()
        outside = (mark != ABSENT) & ((pose < -0.5) | (pose > np.array(image.shape[1::-1]) - 0.5)).any(axis=1)
        if outside.any():
            skipped["joints outside their image"] = skipped.get("joints outside their image", 0) + int(outside.sum())
            mark[outside] = ABSENT
        if (mark != ABSENT).sum() < MIN_LABELLED:
            reason = f"images with fewer than {MIN_LABELLED} labelled joints"
            skipped[reason] = skipped.get(reason, 0) + 1
            continue
        try:
            rows.append((*crop_poses(image, pose, mark, size, crop), mark))
        except ValueError as error:
            raise ValueError(f"image {number} of {folder}: {error}") from error
        kept.append(f"im{number:05d}")
    if not rows:
        raise ValueError(f"lspet {split}: none of {len(numbers)} images has {MIN_LABELLED} labelled joints")
    images, moved, to_source, marks = (np.stack(column) for column in zip(*rows, strict=True))
    dataset = PoseDataset("lspet", split, LSP14, images, moved, marks, to_source, np.array(kept), skipped=skipped)
    _save_cache(cached, dataset)
    return dataset


def _numbers(folder: Path, split: str, labels: int, limit: int | None) -> range:
    """Image numbers of the split; raises if the files there do not match the labels one to one."""
    first, last = SPLITS[split]
    present = {p.name for p in (folder / "images").glob("im*.jpg")} if (folder / "images").is_dir() else set()
    expected = {f"im{n:05d}.jpg" for n in range(1, labels + 1)}
    if present != expected:
        missing, extra = sorted(expected - present), sorted(present - expected)
        example = f"; first missing: {missing[0]}" if missing else f"; first without a label: {extra[0]}"
        raise ValueError(f"{folder}: joints.mat labels {labels} images, images/ holds {len(present)}{example}. "
                         "Labels are matched by number, so both must be complete: fetch the data again")
    if labels < last:
        raise ValueError(f"{folder} ends at image {labels}; the {split} split is images {first}-{last}. "
                         "Use a complete copy, or another split")
    return range(first, last + 1)[:limit]


def _progress(items: Iterable[int], label: str, show: bool) -> Iterable[int]:
    from tqdm import tqdm
    return tqdm(items, desc=label, unit="image", disable=not show)


def _cache_file(cache: str | Path | None, mat: Path, split: str, size: int, crop: int, limit: int | None) -> Path:
    from posebook.datasets import base
    root = Path(cache or os.environ.get("POSEBOOK_CACHE") or Path.home() / ".cache" / "posebook")
    # The key holds everything the crops depend on, so that a change of labels or of the crop never meets old pixels.
    key = hashlib.sha256(mat.read_bytes() + repr((split, size, crop, limit, base.ENLARGE, MIN_LABELLED)).encode())
    return root / f"lspet-{split}-{size}-{key.hexdigest()[:16]}.npz"


def _save_cache(path: Path, dataset: PoseDataset) -> None:
    try:
        with whole_file(path) as part, open(part, "wb") as file:
            np.savez(file, images=dataset.images, joints=dataset.joints, state=dataset.state,
                     to_source=dataset.to_source, ids=dataset.ids,
                     reasons=np.array(list(dataset.skipped), dtype=str),
                     counts=np.array(list(dataset.skipped.values()), dtype=np.int64))
    except OSError as error:  # a cache that cannot be written costs time, not the run
        print(f"(the crops are not cached: {error})")


def _load_cache(path: Path, split: str) -> PoseDataset | None:
    """The cached crops, or None if there are none that can be read."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as data:
            skipped = dict(zip(data["reasons"].tolist(), data["counts"].tolist(), strict=True))
            return PoseDataset("lspet", split, LSP14, data["images"], data["joints"], data["state"],
                               data["to_source"], data["ids"], skipped=skipped)
    except Exception as error:                           # a damaged archive or array can raise very much
        print(f"(the cached crops {path} are damaged and made again: {error})")
        return None


def download_lspet(folder: str | Path, base_url: str = MIRROR, workers: int = 8) -> None:
    """Fetch all 10,000 photographs and the labels from the public mirror (about 170 MB), each file verified.

    A second call fetches only what is missing or damaged. Raises `OSError` naming the files that could not be had.
    """
    table = resources.files("posebook.datasets").joinpath("lspet.sha256").read_text()
    files = {name: digest for digest, name in (line.split(maxsplit=1) for line in table.splitlines())}
    fetch_all(base_url, files, Path(folder), workers)
