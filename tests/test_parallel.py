"""Several processes train one network: as one process would, whatever dies.

Real processes that `torchrun` starts on this machine, and that talk through gloo.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from samples import people

from posebook import parallel
from posebook.augment import Augmentation
from posebook.networks import Config, Head, PoseNetwork
from posebook.skeleton import ABSENT, LSP14
from posebook.targets import Coordinates, JointWindows, ResidualLikelihood, WindowGrid
from posebook.training import TrainConfig, train

HERE = Path(__file__).resolve().parent
GRID = WindowGrid(32, 9, 8)
CODECS = {"regression": Coordinates(14, 32), "joints": JointWindows(LSP14, GRID), "rle": ResidualLikelihood(14, 32)}
MOVES = Augmentation(shift=0.05, angle=10, scale=1.1, mirror=0.5, colour=0.1)
CONFIG = TrainConfig(epochs=4, batch=6, rate=3e-3, warmup=1, augmentation=MOVES, device="cpu", amp=False)
TOLERANCE = 1e-4
"""Largest relative difference of losses between one process and several: they add up the same numbers in another order,
and AdamW's first steps, which divide a gradient by its own size, enlarge the rounding."""


def gaps(count=19, seed=0, split="train"):
    """People of whom most joints are not labelled: of some none, of some all, so that shares of a batch differ."""
    data = people(count, seed=seed, split=split)
    chance = np.random.default_rng(seed).uniform(0, 1, (count, 1))
    state = np.where(np.random.default_rng(seed + 1).uniform(0, 1, data.state.shape) < chance, data.state, ABSENT)
    state[::4] = ABSENT
    joints = np.where((state == ABSENT)[..., None], 0, data.joints).astype(np.float32)
    return replace(data, state=state.astype(np.uint8), joints=joints)


def network(tasks, seed=0, keep=1.0):
    torch.manual_seed(seed)
    heads = {name: Head(CODECS[name].outputs, (16,), keep, density=name == "rle") for name in tasks}
    return PoseNetwork(Config(32, (4, 4), heads, kernels=(5, 3)))


def fit(folder=None, tasks=("regression", "joints"), config=CONFIG, count=19, **options):
    """19 people in batches of 6: the last batch is a single one, so that one of two processes has nothing to do."""
    codecs = {name: CODECS[name] for name in tasks}
    return train(network(tasks), codecs, gaps(count), gaps(8, 5, "validation"), config, folder, progress=False,
                 **options)


def numbers(run):
    """All losses and gradients in a history, one after the other."""
    def flat(value):
        return [x for v in value.values() for x in flat(v)] if isinstance(value, dict) else [value]
    return np.array([x for row in run for x in flat({k: v for k, v in row.items() if k != "seconds"})], float)


def assert_same_curve(one, other):
    assert len(one) == len(other)
    np.testing.assert_allclose(numbers(one), numbers(other), rtol=TOLERANCE, atol=1e-7)


def torchrun(name, *arguments, processes=2):
    """Start processes that each call one of the functions below by its name."""
    environment = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
               __file__, name, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answers(process):
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    return [json.loads(line) for line in out.splitlines()]


def curves():
    """Histories: of two tasks; of one with a density to learn; of heads alone of which one does not count."""
    for tasks in (("regression", "joints"), ("rle",)):
        yield fit(tasks=tasks).history
    yield fit(tasks=("regression", "rle"), config=replace(CONFIG, weights={"rle": 0.0}, freeze_trunk=True)).history


def test_two_processes_learn_what_one_learns():
    for found, expected in zip(answers(torchrun("curves")), curves(), strict=True):
        assert_same_curve(found, expected)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with parallel.processes("cpu"):
        for answer in globals()[sys.argv[1]](*sys.argv[2:]):
            print(json.dumps(answer))
