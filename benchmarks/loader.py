"""A 3D training step with joint detection (small-b, batch 64, one thread, bfloat16), fed in three ways that take turns:

    resident    one batch, augmented and encoded before, used again and again: the step alone
    memory      the training loop on a data set in memory
    packed      the training loop on the same set packed on disk (`posebook.datasets.pack`). The file has just been
                written, so the system still holds it in memory: what is measured is the way, not the disk

Wanted: both loops at 0.9 of the resident step's speed or more.

    OMP_NUM_THREADS=1 python benchmarks/loader.py [--turns 20] [--write]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from posebook import networks, results, training
from posebook.augment import augment, colour_basis
from posebook.datasets import PoseDataset, load_people, open_packed, pack
from posebook.skeleton import H36M17
from posebook.targets import build_codecs

STEPS = 5
"""Steps in a turn."""


class Bench:
    """One network, and the ways to feed it."""

    def __init__(self, data: PoseDataset) -> None:
        self.config = training.TrainConfig(batch=64, device="cpu")
        self.codecs = build_codecs(("pose3d", "joints"), H36M17, 64)
        outputs = {task: codec.outputs for task, codec in self.codecs.items()}
        self.network = networks.build_network("small-b", outputs, 0).to(memory_format=torch.channels_last).train()
        self.optimizer = training._optimizer(self.network, self.config)
        self.scaler = torch.amp.GradScaler(enabled=False)
        self.basis = colour_basis(data.images)
        arrays = [torch.from_numpy(a[:64]) for a in (data.images, data.joints, data.state, data.joints3d)]
        images, *labels = augment(*arrays[:3], H36M17, self.config.augmentation, 64, torch.Generator().manual_seed(0),
                                  self.basis, arrays[3])
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = {task: training._encode(codec, *labels) for task, codec in self.codecs.items()}
        self.epoch = 0

    def resident(self) -> None:
        for _ in range(STEPS):
            with torch.autocast("cpu", torch.bfloat16):
                output = self.network(self.images)
            loss = sum(codec.loss(output[task], *self.labels[task]) for task, codec in self.codecs.items())
            loss.item()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()

    def loop(self, data: PoseDataset) -> None:
        self.epoch += 1
        training._epoch(self.network, self.codecs, data, self.config, self.epoch, STEPS, self.optimizer, self.scaler,
                        self.basis, torch.device("cpu"), None)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how much a 3D training step waits for its data.")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--write", action="store_true", help="store the numbers in benchmarks/loader.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_people("train", limit=4000)
    with tempfile.TemporaryDirectory() as folder:
        pack([data], Path(folder) / "people")
        packed, bench = open_packed(Path(folder) / "people"), Bench(data)
        ways = {"resident": bench.resident, "memory": lambda: bench.loop(data), "packed": lambda: bench.loop(packed)}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(options.turns + 1):
            for name in list(ways)[:: 1 if turn % 2 else -1]:
                began = time.perf_counter()
                ways[name]()
                if turn:                                                            # the first one warms up
                    seconds[name].append((time.perf_counter() - began) / STEPS)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    record = {"batch": 64, "turns": options.turns, "steps_a_turn": STEPS, "median_step_seconds": median,
              "of_resident_speed": {name: median["resident"] / value for name, value in median.items()},
              "environment": results.environment()}
    print(results.table(["way", "median ms a step", "of resident speed"],
                        [[name, value * 1e3, record["of_resident_speed"][name]] for name, value in median.items()], 2))
    if options.write:
        results.write_record(Path(__file__).with_suffix(".json"), record)


if __name__ == "__main__":
    main()
