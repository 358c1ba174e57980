"""People that are read from their Parquet files while the network learns: for sets that are larger than memory.

Three ways to give people to a training:

- `load_people`: all crops in memory, 19 kB each at 80 pixels. The simplest and quickest where they fit.
- `pack` and `open_packed`: all crops in one file on disk, cut once. The same numbers as from memory. Needs room
  for the file on a disk that is quick at random places, since a batch is read from all over it.
- `StreamedPeople`: nothing is prepared. Whole files are read, one after the other, and crops are cut when a batch needs
  them. Suits sets of any size, on slow or distant drives too. The order is random within a window only.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from posebook.datasets.base import CROP, STORED, PoseDataset
from posebook.datasets.people import GROUPS, count_rows, crop_rows, find_shards, read_shard, row_names
from posebook.skeleton import H36M17, Skeleton

WINDOW = 4000
"""People among whom an epoch's order is mixed, as their JPEG files about 12 MB."""
SOME = 2000
"""Samples in `StreamedPeople.some`."""
SHARDS_OF_SOME = 4
"""Files that they come from, spread evenly over the set."""
STREAMED = ("image", "joints2d", "joints3d", "state", "camera", *GROUPS)
"""Columns that are read; part labels are left behind, as in a packed set."""


class StreamedPeople:
    """A split of people of which only a window is in memory.

    `order` gives an epoch's order: files in random order, and people mixed within a window. `subset` reads people by
    their numbers. Asked for in such an order, every file is read once an epoch, and held while people of it are to
    come: of no more people than the window and two files, and of those as they are in the files, as JPEG. Beside them
    an epoch's order takes 8 bytes a person. Only the people who are asked for become crops, so that several processes,
    each with its share of every batch, divide that work. All of them read all files.

    Args:
        split, folder, size, crop, skeleton: as for `load_people`.
        window: people among whom the order is mixed; as many as there are, or more, mix all.

    Raises:
        FileNotFoundError, OSError, ValueError: as `load_people`, and for a window below 1. Files are opened for their
            number of people only; one that is damaged further in is named when it is read.
    """

    def __init__(self, split: str, folder: str | Path | None = None, size: int = STORED, crop: int = CROP,
                 skeleton: Skeleton = H36M17, window: int = WINDOW) -> None:
        if window < 1:
            raise ValueError(f"the window must hold at least 1 person, not {window}")
        self.name, self.split, self.skeleton, self.window = "people", split, skeleton, window
        self.files = find_shards(split, folder)
        self.counts = np.array([count_rows(path) for path in self.files])
        self._ends, self._sizes = self.counts.cumsum(), (size, crop)
        self._held: dict[int, dict[str, Any]] = {}
        self._reading = threading.Lock()                 # the loop reads ahead in a thread of its own
        if not len(self):
            raise ValueError(f"nobody is in {self.files[0].parent}/{split}-*.parquet")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __repr__(self) -> str:
        return f"StreamedPeople({self.split}, {self.counts.tolist()}, window {self.window})"

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """(N,) the numbers of all people, each once, as `generator` has them.

        Files are laid out in random order. A person of one that begins at place `a` and ends at `b` there is drawn to a
        place between `a` and `b` or up to half a window beside them: sorting by these places gives the order.
        """
        files = torch.randperm(len(self.files), generator=generator)
        counts, ends = torch.from_numpy(self.counts)[files], torch.from_numpy(self._ends)[files]
        stop = counts.cumsum(0)
        low, high = (stop - counts - self.window / 2).clamp(min=0), (stop + self.window / 2).clamp(max=len(self))
        numbers = torch.arange(len(self)) + (ends - stop).repeat_interleave(counts)
        drawn = torch.rand(len(self), generator=generator, dtype=torch.float64)
        places = low.repeat_interleave(counts) + drawn * (high - low).repeat_interleave(counts)
        return numbers[places.argsort(stable=True)]

    def subset(self, index: Sequence[int] | np.ndarray) -> PoseDataset:
        """The people with these numbers, in that order, as a data set in memory.

        Raises:
            OSError: if a file is damaged, naming it.
        """
        numbers = np.asarray(index, int)
        if not len(numbers):
            return self.some.subset(numbers)
        picked = []
        for file, number in zip(np.searchsorted(self._ends, numbers, side="right"), numbers, strict=True):
            shard, row = self._shard(int(file)), number - self._ends[file] + self.counts[file]
            picked.append({name: column[row] for name, column in shard.items()})
        rows = {name: [row[name] for row in picked] for name in picked[0]}
        return crop_rows({name: column if name == "image" else np.array(column) for name, column in rows.items()},
                         self.split, *self._sizes).as_skeleton(self.skeleton)

    def _shard(self, file: int) -> dict[str, Any]:
        """The rows of a file. Of those that are held, the first that came goes first: it is used up first, too."""
        with self._reading:
            if file not in self._held:
                path = self.files[file]
                rows = read_shard(path, STREAMED)
                if len(rows["image"]) != self.counts[file]:
                    raise OSError(f"{path} has changed while it was used; start again")
                self._held[file] = {**rows, "id": row_names(path, len(rows["image"]))}
                while sum(self.counts[k] for k in self._held) > self.window + 2 * self.counts.max():
                    del self._held[next(iter(self._held))]
            return self._held[file]

    @functools.cached_property
    def some(self) -> PoseDataset:
        """At most `SOME` people of a few files: what stands for the set where a training needs pixels and poses of the
        whole, as for the mean image."""
        there = np.flatnonzero(self.counts)
        files = there[np.linspace(0, len(there) - 1, min(SHARDS_OF_SOME, len(there))).astype(int)]
        numbers = [np.linspace(self._ends[k] - self.counts[k], self._ends[k] - 1,
                               min(SOME // len(files), self.counts[k])).astype(int) for k in files]
        return self.subset(np.concatenate(numbers))
