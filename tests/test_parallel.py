"""Several processes train one network: as one process would, whatever dies.

Real processes that `torchrun` starts on this machine, and that talk through gloo.
"""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import people, people_shard

from posebook import __main__ as command
from posebook import parallel, results, training
from posebook.augment import Augmentation
from posebook.networks import Config, Head, PoseNetwork
from posebook.skeleton import ABSENT, LSP14
from posebook.targets import Coordinates, JointWindows, ResidualLikelihood, WindowGrid
from posebook.training import CHECKPOINT, TrainConfig, train

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


# ---------------------------------------------------------------------- what the processes do: they call it by its name

class Stop(Exception):
    pass


def stop_before(epoch, **options):
    """Train until an epoch, and no further."""
    real = training._epoch

    def stopping(*arguments):
        if arguments[4] == epoch:
            raise Stop
        return real(*arguments)

    training._epoch = stopping
    try:
        fit(**options)
    except Stop:
        return torch.load(options["folder"] / CHECKPOINT, weights_only=True)["history"]
    finally:
        training._epoch = real


def curves():
    """Histories: of two tasks; of one with a density to learn; of heads alone of which one does not count."""
    return [fit().history, fit(tasks=("rle",)).history,
            fit(tasks=("regression", "rle"), config=replace(CONFIG, weights={"rle": 0.0}, freeze_trunk=True)).history]


def mean_of_means():
    """Validation losses if each process counted the same, however few labels it has."""
    real = parallel.means
    parallel.means = lambda shares, counts: (shares, {name: share.item() for name, share in shares.items()})
    try:
        return [{"loss": row["validation_loss"]} for row in fit().history]
    finally:
        parallel.means = real


def die(folder):
    """The second process is killed in the second epoch."""
    real, calls = training.augment, []

    def deadly(*arguments):
        calls.append(1)
        if len(calls) == 6 and parallel.rank() == 1:                 # four steps an epoch
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    training.augment = deadly
    fit(folder=Path(folder))


def told(**options):
    """What each process says when it cannot train."""
    try:
        fit(**options)
        said = "nothing"
    except (ValueError, OSError, FloatingPointError) as error:
        said = f"{type(error).__name__}: {error}"
    everyone = [None] * parallel.world()
    torch.distributed.all_gather_object(everyone, said)
    return everyone


def not_finite(folder):
    """In the second step the second process alone finds a loss that is no number."""
    real, calls = Coordinates.loss, []

    def broken(*arguments):
        calls.append(1)
        return real(*arguments) * (float("nan") if parallel.rank() == 1 and len(calls) == 2 else 1)

    Coordinates.loss = broken
    try:
        return told(folder=folder, tasks=("regression",))
    finally:
        Coordinates.loss = real


def seeds():
    """What rules each process's dropout after a training."""
    fit(config=replace(CONFIG, epochs=1))
    everyone = [None] * parallel.world()
    torch.distributed.all_gather_object(everyone, torch.initial_seed())
    return everyone


def everything(folder):
    folder = Path(folder)
    return {"curves": curves(), "after one": fit(folder=folder / "one").history,
            "after a kill": fit(folder=folder / "killed").history,
            "before one": stop_before(2, folder=folder / "two"), "not finite": not_finite(folder / "nan"),
            "small batch": told(config=replace(CONFIG, batch=1)),
            "others": told(config=replace(CONFIG, seed=parallel.rank())),
            "damaged": told(folder=folder / "damaged"), "seeds": seeds(),
            "mean of means": mean_of_means()}


# ---------------------------------------------------------------------- what is expected of them

def torchrun(*command):
    """Start two processes on this machine."""
    environment = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           *map(str, command)], env=environment, capture_output=True, text=True, timeout=400,
                          check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def two(folder):
    """What two processes do, one thing after the other, since to start them takes longest."""
    killed = torchrun(__file__, "die", folder / "killed")            # comes back: the other one was not left waiting
    assert killed.returncode != 0 and "SIGKILL" in killed.stderr
    assert torch.load(folder / "killed" / CHECKPOINT, weights_only=True)["epoch"] == 0
    stop_before(2, folder=folder / "one")
    (folder / "damaged").mkdir()
    (folder / "damaged" / CHECKPOINT).write_text("hello")
    done = torchrun(__file__, "everything", folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)                                   # of the first: the other one prints nothing


@pytest.fixture(scope="module")
def one():
    return curves()


def test_two_processes_learn_what_one_learns(one, two):
    for found, expected in zip(two["curves"], one, strict=True):
        assert_same_curve(found, expected)
    assert len(numbers(one[0])) > 50


def test_the_mean_of_the_processes_means_is_another_curve(one, two):
    """So the test above would notice it."""
    away = np.abs(numbers(two["mean of means"]) / numbers([{"loss": row["validation_loss"]} for row in one[0]]) - 1)
    assert away.max() > 100 * TOLERANCE


def test_a_checkpoint_goes_on_with_any_number_of_processes(one, two, folder):
    assert_same_curve(two["after one"], one[0])
    assert_same_curve(two["before one"], one[0][:2])
    assert_same_curve(fit(folder=folder / "two").history, one[0])
    assert not [name for name in torch.load(folder / "one" / CHECKPOINT, weights_only=True)["network"]
                if name.startswith("module")]


def test_when_one_is_killed_all_end_and_the_same_command_continues(one, two):
    assert_same_curve(two["after a kill"], one[0])


def test_what_goes_wrong_all_say_in_the_same_sentence(two, folder):
    for case, sentence in (("not finite", "FloatingPointError: the loss is nan at epoch 0, step 1; the batch is saved"),
                           ("small batch", "ValueError: a batch of 1 cannot be shared by 2 processes"),
                           ("others", "ValueError: process 1 has other settings, data or initial weights than process"),
                           ("damaged", "OSError: .* cannot be read as a checkpoint")):
        first, second = two[case]
        assert re.match(sentence, first) and first == second
    assert len(torch.load(folder / "nan" / "nonfinite-batch.pt", weights_only=True)["ids"]) == 6     # the whole batch


def test_dropout_is_drawn_by_each_process_for_itself(two):
    assert len(set(two["seeds"])) == 2 and min(two["seeds"]) == CONFIG.seed * 100_003   # the first: as one would


def test_the_command_trains_from_a_stream_with_two_processes(tmp_path):
    for number, count in enumerate((9, 4, 12)):
        people_shard(tmp_path / f"train-{number:05d}.parquet", count, seed=number)
    people_shard(tmp_path / "validation-00000.parquet", 6, seed=99)
    arguments = ["train", "--stream", "--data", str(tmp_path), "--epochs", "2", "--batch", "8", "--channels", "2", "3",
                 "4", "--device", "cpu", "--out"]
    done = torchrun("-m", "posebook", *arguments, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes, run in") == 1
    assert command.main([*arguments, str(tmp_path / "one")]) == 0
    found, expected = (results.read_record(tmp_path / name / "record.json") for name in ("two", "one"))
    assert (found["processes"], expected["processes"]) == (2, 1) and results.check_record(found) == []
    for one, other in zip(found["history"], expected["history"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.02)     # it may compute in bfloat16


@pytest.mark.parametrize(("device", "sentence"), [("cuda:1", "several processes cannot share cuda:1"),
                                                  ("cuda", "this machine has .* GPUs for 9999 processes")])
def test_too_many_processes_for_the_gpus(device, sentence, monkeypatch):
    for name, value in (("WORLD_SIZE", "9999"), ("LOCAL_WORLD_SIZE", "9999"), ("LOCAL_RANK", "9998")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=sentence), parallel.processes(device):
        pass


if __name__ == "__main__":
    torch.set_num_threads(1)
    with parallel.processes("cpu"):
        print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
