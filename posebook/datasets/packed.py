"""Data sets larger than memory: crops in one file on disk, of which only the batches that are asked for are read.

`pack` writes a folder once, part by part; `open_packed` gives an ordinary `PoseDataset` whose images stay on disk. All
else (joints, states, cameras: about 1 kB a person) is held in memory. When to take this, and when `StreamedPeople`, is
said in `posebook.datasets.streamed`.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from posebook.datasets.base import PoseDataset
from posebook.files import reading, whole_folder
from posebook.skeleton import SKELETONS

ARRAYS = ("joints", "state", "to_source", "ids", "joints3d", "camera")
"""Columns that a packed set keeps; part labels are left behind."""


class ImageFile:
    """uint8 images (N, 3, S, S) in a .npy file, indexed like an array; what is asked for is read, and no more.

    The file is mapped into memory anew for every access. A map that stays keeps every page that was ever read in the
    process's memory, as long as the machine has room, and the machine may be shared.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        mapped = self._map()
        self.shape: tuple[int, ...] = mapped.shape
        self.dtype, self.ndim = mapped.dtype, mapped.ndim

    def _map(self) -> np.ndarray:
        with reading(self.path, "pack the data set again", "as an array"):
            mapped: np.ndarray = np.lib.format.open_memmap(self.path, mode="r")
        return mapped

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.array(self._map()[index])


def pack(parts: Iterable[PoseDataset], folder: str | Path, about: dict[str, Any] | None = None) -> int:
    """Write data sets of one kind, one after the other, as one packed set; only one part is in memory at a time.

    Whole or not at all: it is written beside `folder` and renamed at the end.

    Args:
        parts: at least one, with the same skeleton, size and columns; folder: must not exist yet; about: plain values
            to keep with the set, such as how it was cut.

    Returns:
        How many images there are.

    Raises:
        FileExistsError: if `folder` exists, or another process made it meanwhile; OSError: on a full disk;
            ValueError: if there is no part, or parts differ.
    """
    with whole_folder(folder) as draft:
        return _write(parts, draft, about or {})


def _write(parts: Iterable[PoseDataset], folder: Path, about: dict[str, Any]) -> int:
    first: tuple[Any, ...] | None = None
    columns: dict[str, list[np.ndarray]] = {}
    groups: dict[str, list[np.ndarray]] = {}
    count = 0
    with (folder / "raw").open("wb") as raw:
        for part in parts:
            kind = (part.name, part.split, part.skeleton.name, part.images.shape[1:], part.joints3d is None,
                    part.camera is None, sorted(part.groups))
            if first is not None and kind != first:
                raise ValueError(f"parts of a packed data set must be of one kind: {kind} is not {first}")
            first = kind
            raw.write(np.ascontiguousarray(part.images).tobytes())
            for name in ARRAYS:
                if getattr(part, name) is not None:
                    columns.setdefault(name, []).append(getattr(part, name))
            for name, values in part.groups.items():
                groups.setdefault(name, []).append(values)
            count += len(part)
    if first is None:
        raise ValueError("there is nothing to pack")
    _finish_images(folder, (count, *first[3]))
    for name, kept in {**columns, **{f"group-{name}": v for name, v in groups.items()}}.items():
        array, buffer = np.concatenate(kept), io.BytesIO()     # NumPy does not say why it could not write to a file
        np.save(buffer, array.astype(str) if array.dtype == object else array, allow_pickle=False)
        (folder / f"{name}.npy").write_bytes(buffer.getbuffer())
    about = {**about, "name": first[0], "split": first[1], "skeleton": first[2], "groups": sorted(groups)}
    (folder / "about.json").write_text(json.dumps(about))
    return count


def _finish_images(folder: Path, shape: tuple[int, ...]) -> None:
    """images.npy: the header, which needs the number of images, before the pixels that were written as they came."""
    with (folder / "images.npy").open("wb") as out, (folder / "raw").open("rb") as raw:
        np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
        shutil.copyfileobj(raw, out, 1 << 24)
    (folder / "raw").unlink()


def read_about(folder: str | Path) -> dict[str, Any]:
    """What is kept with a packed set.

    Raises:
        FileNotFoundError: if there is no packed set; OSError: if it is damaged.
    """
    path = Path(folder) / "about.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no packed data set; make one with `python -m posebook pack`")
    with reading(path, "pack the data set again"):
        about: dict[str, Any] = dict(json.loads(path.read_text()))
    return about


def open_packed(folder: str | Path) -> PoseDataset:
    """The data set that `pack` wrote. Its `images` are an `ImageFile`: indexed like an array, never read whole.

    Raises:
        FileNotFoundError: if there is no packed set; OSError: if it is damaged.
    """
    folder = Path(folder)
    about = read_about(folder)
    with reading(folder, "pack the data set again"):
        arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in ARRAYS
                  if (folder / f"{name}.npy").is_file()}
        groups = {name: np.load(folder / f"group-{name}.npy", allow_pickle=False) for name in about["groups"]}
        images: Any = ImageFile(folder / "images.npy")                        # an array to all that read it
        return PoseDataset(about["name"], about["split"], SKELETONS[about["skeleton"]], images, groups=groups, **arrays)
