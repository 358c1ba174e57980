"""What all benchmarks share: the row of a table, turns, the machine's unit, and a training step to measure.

A benchmark is a module here with a function `measure(quick) -> list[Row]`; `run.py` calls it in processes of its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from posebook import networks, training
from posebook.augment import augment, centre, colour_basis
from posebook.datasets import PoseDataset
from posebook.skeleton import LSP14, VISIBLE
from posebook.targets import build_codecs

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
SMALL, LARGE = 512, 1024
"""Sides of the matrices whose product is the unit."""


class NotHere(Exception):
    """A benchmark cannot be run on this machine; the message says why."""


@dataclass(frozen=True)
class Row:
    """One figure, as one process found it.

    Attributes:
        name: what is compared with what; value: a ratio, of two ways in the same process, of a way to a limit, or to
            the time of a product of matrices.
        wanted: the value to reach, or None; more: whether larger values are the better ones.
        seconds: what the first of the two took, for readers of this machine; 0 where no time is compared.
    """

    name: str
    value: float
    wanted: float | None = None
    more: bool = False
    seconds: float = 0.0


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and seconds of this process (all its threads) on a processor."""
    began = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def in_turns(ways: dict[str, Callable[[], object]], turns: int) -> dict[str, np.ndarray]:
    """(turns, 2) seconds of each way, as `timed` gives them. All take turns, so that a disturbance hits all alike, and
    nobody always follows the same one; the first turn of each warms up and is not counted."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            seconds[name].append(timed(ways[name]))
    return {name: np.array(values[1:]) for name, values in seconds.items()}


def ratio(of: np.ndarray, to: np.ndarray, clock: bool = False) -> float:
    """Median over turns of one way's time over another's; of processor time, which other jobs disturb least, unless
    what counts is how long somebody waits."""
    column = 0 if clock else 1
    return float(np.median(of[:, column] / to[:, column]))


def median(seconds: np.ndarray, clock: bool = False) -> float:
    return float(np.median(seconds[:, 0 if clock else 1]))


def product(side: int = SMALL, dtype: torch.dtype = torch.float32) -> Callable[[], torch.Tensor]:
    """Multiplies two square matrices: the unit in which times travel from machine to machine."""
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    return lambda: a @ b


def from_tests(name: str):
    """A module of tests/: the plain versions that fast code is compared with live there."""
    sys.path.insert(0, str(ROOT / "tests"))
    return __import__(name)


def noise(count: int = 64, stored: int = 80) -> PoseDataset:
    """Random pictures and poses: the cost does not depend on what is in them."""
    rng = np.random.default_rng(0)
    return PoseDataset("noise", "train", LSP14, rng.integers(0, 255, (count, 3, stored, stored), np.uint8),
                       rng.uniform(10, 70, (count, 14, 2)).astype(np.float32), np.full((count, 14), VISIBLE, np.uint8),
                       np.tile(np.eye(2, 3, dtype=np.float32), (count, 1, 1)), np.arange(count).astype(str))


class Training:
    """A network in training, as `training.train` sets it up, and two ways to go on: with one batch that is prepared
    once (`resident`), and with the training loop itself (`loop`)."""

    def __init__(self, data: PoseDataset, size: str = "small", tasks: tuple[str, ...] = ("regression",),
                 batch: int = 64) -> None:
        self.data, self.epoch = data, 0
        self.config = training.TrainConfig(batch=batch, device="cpu")
        crop = networks.SIZES[size]
        self.codecs = build_codecs(tasks, data.skeleton, crop)
        self.network = networks.build_network(size, {task: codec.outputs for task, codec in self.codecs.items()}, 0)
        self.network.normalise_with(centre(torch.from_numpy(data.images[:500]), crop))
        self.network.to(memory_format=torch.channels_last).train()
        self.optimizer = training._optimizer(self.network, self.config)
        self.scaler = torch.amp.GradScaler(enabled=False)
        self.basis = colour_basis(data.images)
        arrays = [a[:batch] for a in (data.images, data.joints, data.state, data.joints3d) if a is not None]
        images, joints, state, *solid = (torch.from_numpy(array) for array in arrays)
        self.images, *self.labels = augment(images, joints, state, data.skeleton, self.config.augmentation, crop,
                                            torch.Generator().manual_seed(0), self.basis, *solid)

    def step(self, images: torch.Tensor, labels: list[torch.Tensor]) -> None:
        """What the loop does with a batch once it has it."""
        with training._autocast(CPU, self.config.amp):
            output = self.network(images)
        loss = sum(training._loss(self.network, name, codec, output[name], labels)
                   for name, codec in self.codecs.items())
        loss.item()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def resident(self, steps: int) -> None:
        for _ in range(steps):
            self.step(self.images, self.labels)

    def loop(self, steps: int, data: PoseDataset | None = None) -> None:
        """An epoch that ends after so many steps."""
        self.epoch += 1
        training._epoch(self.network, self.codecs, data or self.data, self.config, self.epoch, steps, self.optimizer,
                        self.scaler, self.basis, CPU, None)
