"""How much of a training step is spent on data, and what the customary data loading would cost.

Three ways to run the same training step, at the book's size (small network, 64 px, batch 64, one thread):

    resident    the step alone: one batch, already augmented and encoded, used again and again
    posebook    `posebook.training`: gather from memory, augment the batch, encode, and the step
    customary   a `Dataset` that decodes and augments one JPEG at a time (Pillow, torchvision.transforms.v2) behind a
                `DataLoader`, once in this process and once with one worker process

The machine may be busy: the first three take turns of a few steps each, so that a disturbance hits all alike, and
medians are compared beside sums, and beside the processor time that this process itself used, which other jobs disturb
least. The worker would work ahead during the others' turns, so it is measured in blocks of its own between theirs; its
processor time is spent in another process. Needs torchvision, which the package itself does not.

    python benchmarks/throughput.py [--fake] [--steps 120] [--write]
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from posebook import geometry, networks, results, training
from posebook.augment import BOOK, augment, centre, colour_basis
from posebook.datasets import PoseDataset, load_people
from posebook.datasets.base import CROP, ENLARGE, STORED
from posebook.datasets.people import people_folder, read_shard
from posebook.skeleton import ABSENT, LSP14, VISIBLE
from posebook.targets import Coordinates

TURN = 5
"""Steps in a turn. More than one, since an epoch has a beginning that is not part of every step."""
BLOCKS = 6
"""The measurement is cut into so many parts, each with its own turn of the worker process."""
WORKER = "customary, 1 worker"
TARGETS = {"posebook / resident": 0.9, "posebook / customary": 2.0}


def fake_people(count: int = 2000, side: int = 128) -> tuple[PoseDataset, list[bytes]]:
    """A set of the size of `people` without its files: smooth noise, random joints, and the same as JPEG."""
    rng = np.random.default_rng(0)
    files, images = [], np.empty((count, 3, STORED, STORED), np.uint8)
    for n in range(count):
        picture = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((side, side))
        images[n] = np.asarray(picture.resize((STORED, STORED))).transpose(2, 0, 1)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=75)
        files.append(buffer.getvalue())
    joints = rng.uniform(10, STORED - 10, (count, 14, 2)).astype(np.float32)
    to_source = np.tile(geometry.invert(geometry.crop_matrix((0, 0, side, side), STORED)), (count, 1, 1))
    data = PoseDataset("fake", "train", LSP14, images, joints, np.full((count, 14), VISIBLE, np.uint8), to_source,
                       np.arange(count).astype(str))
    return data, files


def real_people() -> tuple[PoseDataset, list[bytes]]:
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


class Bench:
    """One network and optimiser, and the ways to feed them."""

    def __init__(self, data: PoseDataset, files: list[bytes], batch: int) -> None:
        self.data, self.batch = data, batch
        self.config = training.TrainConfig(batch=batch, device="cpu")
        self.codec = Coordinates(len(LSP14), CROP)
        self.network = networks.build_network("small", {"regression": self.codec.outputs}, 0)
        self.network.normalise_with(centre(torch.from_numpy(data.images[:500]), CROP))
        self.network.to(memory_format=torch.channels_last).train()
        self.optimizer = training._optimizer(self.network, self.config)
        self.scaler = torch.amp.GradScaler(enabled=False)
        self.basis = colour_basis(data.images)
        parts = [torch.from_numpy(array[:batch]) for array in (data.images, data.joints, data.state)]
        images, joints, state = augment(*parts, LSP14, BOOK, CROP, torch.Generator().manual_seed(0), self.basis)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.target = self.codec.encode(joints, state)
        self.loader = OneByOne(data, files, self.basis)
        self.turn = 0

    def step(self, images: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> None:
        """What `training` does with a batch once it has it."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.amp):
            output = self.network(images)
        loss = self.codec.loss(output["regression"], target, mask)
        loss.item()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def resident(self) -> None:
        for _ in range(TURN):
            self.step(self.images, *self.target)

    def posebook(self) -> None:
        """A turn of the training loop itself: an epoch that ends after so many steps."""
        self.turn += 1
        training._epoch(self.network, {"regression": self.codec}, self.data, self.config, self.turn, TURN,
                        self.optimizer, self.scaler, self.basis, torch.device("cpu"), None)

    def batches(self, workers: int) -> Iterator[list[torch.Tensor]]:
        loader = DataLoader(self.loader, self.batch, shuffle=True, drop_last=True, num_workers=workers)
        while True:
            yield from loader

    def customary(self, batches: Iterator[list[torch.Tensor]]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(TURN):
                images, joints, state = next(batches)
                self.step(images.contiguous(memory_format=torch.channels_last), *self.codec.encode(joints, state))
        return run


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the clock, and seconds of this process on a processor."""
    began = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def matmul_speed(dtype: torch.dtype, size: int = 512, repeats: int = 15) -> float:
    """Thousand million multiply-adds a second of one thread: the unit that makes machines comparable."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    a @ b
    return size ** 3 / float(np.median([timed(lambda: a @ b)[0] for _ in range(repeats)])) / 1e9


def measure(bench: Bench, turns: int) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Seconds of a step in every turn, way -> (turns, 2) as `timed` gives them, and the machine's speed."""
    here = bench.batches(0)
    ways = {"resident": bench.resident, "posebook": bench.posebook, "customary": bench.customary(here)}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in (*ways, WORKER)}
    unit: dict[str, list[float]] = {"bfloat16": [], "float32": []}
    for work in ways.values():
        work()
    for block in range(BLOCKS):
        for name in unit:
            unit[name].append(matmul_speed(getattr(torch, name)))
        for turn in range(turns // BLOCKS):
            names = list(ways) if (block + turn) % 2 else list(ways)[::-1]       # nobody always follows the same one
            for name in names:
                seconds[name].append(timed(ways[name]))
        ahead = bench.batches(1)
        work = bench.customary(ahead)
        work()                                              # start of the process, and what it prepared meanwhile
        seconds[WORKER] += [timed(work) for _ in range(turns // BLOCKS)]
        del work
        ahead.close()
    return {name: np.array(values) / TURN for name, values in seconds.items()}, unit


def report(seconds: dict[str, np.ndarray], unit: dict[str, list[float]], batch: int) -> tuple[str, dict]:
    """The table to read, and the record to keep."""
    summaries = {"median": {k: np.median(v[:, 0]) for k, v in seconds.items()},
                 "sum": {k: v[:, 0].mean() for k, v in seconds.items()},
                 "processor": {k: np.median(v[:, 1]) if k != WORKER else np.nan for k, v in seconds.items()}}
    rows = [[name, *(s[name] * 1e3 for s in summaries.values()), batch / summaries["median"][name]] for name in seconds]
    header = ["one step", "median ms", "mean ms", "median ms on the processor", "images/s (median)"]
    steps = results.table(header, rows, 1)
    ratios = {f"posebook / {name}": {how: s[name] / s["posebook"] for how, s in summaries.items()}
              for name in seconds if name != "posebook"}
    speeds = results.table(["throughput", "by medians", "by sums", "by processor time", "wanted, at least"],
                           [[name, *ratio.values(), TARGETS.get(name)] for name, ratio in ratios.items()], 2)
    speed = {name: float(np.median(values)) for name, values in unit.items()}
    text = ", ".join(f"{value:.0f} thousand million multiply-adds/s in {name}" for name, value in speed.items())
    record = {"batch": batch, "steps": TURN * len(seconds["resident"]), "step_seconds": summaries, "throughput": ratios,
              "wanted": TARGETS, "one_thread_gmacs": speed}
    return f"{steps}\n\n{speeds}\n\nOne thread of this machine: {text}.", record


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the training step; see the head of this file.")
    parser.add_argument("--fake", action="store_true", help="do not read data/people: a made-up set of the same size")
    parser.add_argument("--steps", type=int, default=120, help="steps of each way (default 120)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--write", action="store_true", help="store the numbers in benchmarks/throughput.json")
    options = parser.parse_args()
    if options.steps < BLOCKS * TURN or options.batch < 2:
        parser.error(f"--steps must be at least {BLOCKS * TURN}, --batch at least 2")
    torch.set_num_threads(1)
    data, files = fake_people() if options.fake else real_people()
    seconds, unit = measure(Bench(data, files, options.batch), options.steps // TURN)
    text, record = report(seconds, unit, options.batch)
    print(f"{data.name}: {len(data)} images, batch {options.batch}, {record['steps']} steps of each\n\n{text}")
    if options.write:
        path = Path(__file__).with_suffix(".json")
        results.write_record(path, {"data": data.name, "images": len(data), **record,
                                    "environment": results.environment()})
        print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
