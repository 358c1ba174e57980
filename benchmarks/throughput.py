"""How much of a training step is spent on data, and what the customary data loading would cost.

Four ways to run the same training step, at the book's size (small network, 64 px, batch 64, one thread):

    alone       the step alone: one batch, already augmented and encoded, used again and again
    loop        `posebook.training`: gather from memory, augment the batch, encode, and the step
    customary   a `Dataset` that decodes and augments one JPEG at a time (Pillow, torchvision.transforms.v2) behind a
                `DataLoader`, in this process
    worker      the same with one worker process, which takes a second processor

The first three take turns. The worker would work ahead during the others' turns, so it is measured by itself after
them. The loop prepares the next batch in a second thread: the clock says what the network waits for, and the processor
time what both threads together work; on a machine whose processors are all taken, expect the latter. Needs torchvision,
which the package itself does not.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
import torch
from common import Row, Training, in_turns, median, product, ratio
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from posebook import geometry
from posebook.augment import BOOK
from posebook.datasets import PoseDataset, load_people
from posebook.datasets.base import CROP, ENLARGE, STORED
from posebook.datasets.people import people_folder, read_shard
from posebook.skeleton import ABSENT, LSP14

STEPS, BATCH = 5, 64
"""Steps in a turn (more than one, since an epoch has a beginning that is not part of every step); images in a step."""


def people() -> tuple[PoseDataset, list[bytes]]:
    """The first file of the embedded training set, cropped in memory, and its JPEGs."""
    files = read_shard(people_folder() / "train-00000.parquet")["image"]
    return load_people("train").subset(np.arange(len(files))).as_skeleton(LSP14), files


class OneByOne(Dataset):
    """The customary data set: everything happens in `__getitem__`, for one image, in Python."""

    def __init__(self, data: PoseDataset, files: list[bytes], basis: torch.Tensor) -> None:
        self.files, self.basis = files, basis
        self.joints, self.state = torch.from_numpy(data.source_joints), torch.from_numpy(data.state)
        self.swap = torch.from_numpy(LSP14.mirror)
        turn = v2.RandomAffine(BOOK.angle, (BOOK.shift * CROP / STORED,) * 2, (1 / BOOK.scale, BOOK.scale),
                               interpolation=v2.InterpolationMode.BILINEAR)
        self.move = v2.Compose([turn, v2.CenterCrop(CROP)])
        self.convert = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        joints, state = self.joints[index], self.state[index]
        with Image.open(io.BytesIO(self.files[index])) as file:
            picture = file.convert("RGB")
        labelled = joints[state != ABSENT].numpy()
        box = geometry.square_box(np.r_[labelled.min(0), labelled.max(0) + 1], ENLARGE * STORED / CROP)
        box = np.clip(box, 0, [*picture.size, *picture.size])
        crop = picture.resize((STORED, STORED), Image.Resampling.BILINEAR, box=tuple(box.tolist()))
        points = geometry.transform(torch.from_numpy(geometry.crop_matrix(box, STORED)), joints)
        crop, points = self.move(crop, tv_tensors.KeyPoints(points, canvas_size=(STORED, STORED)))
        if torch.rand(()) < BOOK.mirror:
            crop, points = v2.functional.horizontal_flip(crop), v2.functional.horizontal_flip(points)
            points, state = points[self.swap], state[self.swap]
        noise = self.basis @ (torch.randn(3) * BOOK.colour)
        return self.convert(crop) + noise[:, None, None], points.as_subclass(torch.Tensor), state


def customary(bench: Training, files: list[bytes], workers: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """A turn of steps with customary loading, and what ends it."""
    loader = DataLoader(OneByOne(bench.data, files, bench.basis), BATCH, shuffle=True, drop_last=True,
                        num_workers=workers)

    def endless() -> Iterator[list[torch.Tensor]]:
        while True:
            yield from loader
    batches = endless()

    def run() -> None:
        for _ in range(STEPS):
            images, *labels = next(batches)
            bench.step(images.contiguous(memory_format=torch.channels_last), labels)
    return run, batches.close


def measure(quick: bool = False) -> list[Row]:
    data, files = people()
    bench, turns = Training(data), 2 if quick else 8
    here, _ = customary(bench, files, 0)
    seconds = in_turns({"alone": lambda: bench.resident(STEPS), "loop": lambda: bench.loop(STEPS), "customary": here,
                        "unit": product()}, turns)
    ahead, end = customary(bench, files, 1)
    worker = in_turns({"worker": ahead}, turns)["worker"]
    end()
    return [
        Row("training loop: speed of the step alone", ratio(seconds["alone"], seconds["loop"], True), 0.9, True,
            median(seconds["loop"], True) / STEPS),
        Row("training loop: speed of the step alone, processor time", ratio(seconds["alone"], seconds["loop"]), None,
            True, median(seconds["loop"]) / STEPS),
        Row("training loop: times as fast as customary loading", ratio(seconds["customary"], seconds["loop"], True),
            2.0, True, median(seconds["customary"], True) / STEPS),
        Row("training loop: times as fast as customary loading with a worker process",
            median(worker, True) / median(seconds["loop"], True), None, True, median(worker, True) / STEPS),
        Row("training step alone, 64 images: in matrix products (512)",
            ratio(seconds["alone"], seconds["unit"]) / STEPS, seconds=median(seconds["alone"]) / STEPS)]
