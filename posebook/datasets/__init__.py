"""Data sets, all as one `PoseDataset`: `people` (embedded), `lspet` (downloaded or brought by the reader), `human36m`
(brought by a reader who holds its licence)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from posebook.datasets.base import CROP, STORED, PoseDataset, crop_image, crop_poses, join
from posebook.datasets.human36m import load_human36m
from posebook.datasets.lspet import download_lspet, load_lspet
from posebook.datasets.packed import open_packed, pack, read_about
from posebook.datasets.people import find_shards, load_people, load_person_free
from posebook.datasets.streamed import StreamedPeople
from posebook.skeleton import H36M17, LSP14, Skeleton

__all__ = ["PoseDataset", "StreamedPeople", "crop_image", "crop_poses", "download_lspet", "join", "load",
           "load_human36m", "load_lspet", "load_people", "load_person_free", "open_packed", "pack", "pack_people"]

CUT = {"size": STORED, "crop": CROP, "region": "full"}
"""How people's crops are cut unless an option says otherwise."""


def load(name: str, split: str, folder: str | Path | None = None, **options: Any) -> PoseDataset:
    """Load a data set by name: `people` (folder optional), `lspet` or `human36m` (folder needed), or `people+lspet`,
    the embedded people and lspet (whose folder it is) joined, labelled with LSP14. A packed set (`pack`) in
    folder/split is opened instead; its crops were cut when it was packed.

    Raises:
        ValueError: for an unknown name or split; OSError: where files are missing or damaged.
    """
    if options.get("limit") is not None and options["limit"] < 1:
        raise ValueError(f"limit must be at least 1, not {options['limit']}; leave it out for the whole split")
    if folder is not None and (Path(folder) / split / "about.json").is_file():
        return _open(Path(folder) / split, name, split, **options)
    if name == "people":
        return load_people(split, folder, **options)
    if name == "lspet":
        if folder is None:
            raise ValueError("lspet is not part of this book: name its folder (--data DIR), or fetch it with "
                             "`python -m posebook download lspet --data DIR`")
        return load_lspet(folder, split, **options)
    if name == "human36m":
        if folder is None:
            raise ValueError("human36m is not part of this book and may not be passed on: name the folder of your own "
                             "copy (--data DIR); the appendix says how to get one")
        return load_human36m(folder, split, **options)
    if name == "people+lspet":
        return join([load("people", split, None, **options).as_skeleton(LSP14),
                     load("lspet", split, folder, **options).as_skeleton(LSP14)])
    raise ValueError(f"there is no data set {name!r}; known are people, lspet, people+lspet and human36m")


def _open(folder: Path, name: str, split: str, limit: int | None = None, skeleton: Skeleton = H36M17,
          **options: Any) -> PoseDataset:
    """A packed set, if it is the one that is asked for: its crops cannot be cut anew."""
    about = read_about(folder)
    asked = {"name": name, "split": split, **CUT, **options}
    if different := [f"{key} {about.get(key)} instead of {value}" for key, value in asked.items()
                     if about.get(key) != value]:
        raise ValueError(f"{folder} was packed with {', '.join(different)}; pack it again, or load the files")
    data = open_packed(folder).as_skeleton(skeleton)
    return data if limit is None else data.subset(np.linspace(0, len(data) - 1, min(limit, len(data))).astype(int))


def pack_people(split: str, folder: str | Path | None, out: str | Path, **options: Any) -> int:
    """Pack a split of people, file by file, into `out`/`split`, from where `load("people", split, out)` reads it.

    Args:
        folder: with the Parquet files, default the embedded ones; options: of `load_people`.

    Returns:
        How many images there are.
    """
    return pack((load_people(split, folder, files=[path], **options) for path in find_shards(split, folder)),
                Path(out) / split, {**CUT, **options})
