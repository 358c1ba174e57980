"""What detection costs: window targets against a plain loop, and a training step with one, two and three tasks.

    OMP_NUM_THREADS=1 python benchmarks/detection.py             # a minute; prints two tables
    OMP_NUM_THREADS=1 python benchmarks/detection.py --write     # also stores detection.json

All ways take turns in one process, so the ratios hold on a machine that does other things as well. Wanted: targets at
least 100 times as fast as the loop (the one in tests/test_targets.py), three tasks at most 1.35 times one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from posebook import networks, results, training
from posebook.augment import BOOK, augment, colour_basis
from posebook.datasets import PoseDataset
from posebook.skeleton import LSP14, VISIBLE
from posebook.targets import build_codecs

BATCH, CROP, STORED = 64, 64, 80
TASKS = {"regression": ("regression",), "+ joints": ("regression", "joints"), "+ parts": ("regression", "parts"),
         "+ both": ("regression", "joints", "parts")}


def noise(count: int = BATCH) -> PoseDataset:
    """Random pictures and poses: the cost does not depend on what is in them."""
    rng = np.random.default_rng(0)
    return PoseDataset("noise", "train", LSP14, rng.integers(0, 255, (count, 3, STORED, STORED), np.uint8),
                       rng.uniform(10, 70, (count, 14, 2)).astype(np.float32), np.full((count, 14), VISIBLE, np.uint8),
                       np.tile(np.eye(2, 3, dtype=np.float32), (count, 1, 1)), np.arange(count).astype(str))


def steps_of(data: PoseDataset) -> dict[str, Callable[[], None]]:
    """A whole training step for each choice of tasks: augmentation, targets, network, losses, optimiser."""
    basis = colour_basis(data.images)
    batch = [torch.from_numpy(array) for array in (data.images, data.joints, data.state)]
    config = training.TrainConfig(device="cpu")
    ways = {}
    for name, tasks in TASKS.items():
        codecs = build_codecs(tasks, LSP14, CROP)
        network = networks.build_network("small", {task: codec.outputs for task, codec in codecs.items()}, 0)
        network.to(memory_format=torch.channels_last).train()
        optimizer, generator = training._optimizer(network, config), torch.Generator().manual_seed(0)

        def step(codecs=codecs, network=network, optimizer=optimizer, generator=generator) -> None:
            images, joints, state = augment(*batch, LSP14, BOOK, CROP, generator, basis)
            with torch.autocast("cpu", torch.bfloat16):
                output = network(images.contiguous(memory_format=torch.channels_last))
            loss = sum(codec.loss(output[task], *codec.encode(joints, state)) for task, codec in codecs.items())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        ways[name] = step
    return ways


def targets_of(data: PoseDataset) -> dict[str, Callable[[], None]]:
    """Joint and part labels of a batch with the codecs, and with the loop."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from test_targets import by_hand
    joints, state = torch.from_numpy(data.joints), torch.from_numpy(data.state)
    codecs = build_codecs(("joints", "parts"), LSP14, CROP)
    grid = codecs["joints"].grid
    ends = np.einsum("elj,njd->neld", LSP14.limb_weights, data.joints)

    def loop() -> None:
        for pose, limbs in zip(data.joints, ends, strict=True):
            for joint in pose:
                by_hand(joint, joint, grid)
            for start, end in zip(*limbs, strict=True):
                by_hand(start, end, grid)
    return {"codecs": lambda: [codec.encode(joints, state) for codec in codecs.values()], "loop": loop}


def measure(ways: dict[str, Callable[[], None]], turns: int) -> dict[str, float]:
    """Median seconds of each way, in turns."""
    for work in ways.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns):
        for name in list(ways) if turn % 2 else reversed(list(ways)):
            began = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - began)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what detection costs; see the head of this file.")
    parser.add_argument("--write", action="store_true", help="store the numbers in benchmarks/detection.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = noise()
    step, target = measure(steps_of(data), 60), measure(targets_of(data), 5)
    print(results.table(["one step", "ms", "regression = 1"],
                        [[name, s * 1e3, s / step["regression"]] for name, s in step.items()], 2))
    print(f"\ntargets of {BATCH} poses: codecs {target['codecs'] * 1e3:.2f} ms, loop {target['loop'] * 1e3:.0f} ms, "
          f"{target['loop'] / target['codecs']:.0f} times")
    if options.write:
        record = {"batch": BATCH, "step_seconds": step, "target_seconds": target,
                  "step_ratio": {name: s / step["regression"] for name, s in step.items()},
                  "target_ratio": target["loop"] / target["codecs"], "environment": results.environment()}
        results.write_record(Path(__file__).with_suffix(".json"), record)


if __name__ == "__main__":
    main()
