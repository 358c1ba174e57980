"""Bugs on purpose, and what they cost: the runs behind the appendix "Debugging a pose network, by symptom".

    python tools/bug_museum.py                      all exhibits, three seeds, records into book/results
    python tools/bug_museum.py --only mirror --seeds 0

Every bug is the healthy program with exactly one thing exchanged. A bug of the *training* gets a training of its own;
most go on from chapter 3's network, which is quick and shows what a good network loses. A bug of the *evaluation* needs
none: the healthy weights are scored twice, rightly and wrongly, which leaves the luck of the seed out of its price.
What is finished is passed over, so a stopped museum goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from posebook import augment, floors, networks, results, training
from posebook.datasets import PoseDataset, load_people
from posebook.skeleton import ABSENT, LSP14, Skeleton
from posebook.targets import Coordinates, build_codecs

Sets = tuple[PoseDataset, PoseDataset]
"""What is trained on, and what is called validation."""
TASK = "regression"
CONTINUED = training.TrainConfig(epochs=8, epoch_size=2000, rate=5e-4, warmup=0.5, mean_start=False)
"""Chapter 3's finished regressor is trained on for a little while: a network that has something to lose."""
ANEW = training.TrainConfig(epochs=10, warmup=1.0, augmentation=augment.NONE)
"""From the beginning and without augmentation: a network that learns its few pictures by heart."""
PERSONS = 250
"""So many persons, 8 pictures each, are what the exhibit `leak` has."""
SHOWN = 6
"""So many people of the test split are kept with their predicted poses, for the pictures."""


# ------------------------------------------------------------------------------------------------------- the bugs


def names_kept(skeleton: Skeleton) -> Skeleton:
    """The same skeleton with a mirror that exchanges nobody; the original is not touched."""
    other = replace(skeleton)
    other.__dict__["mirror"] = np.arange(len(skeleton))              # where cached_property looks first
    return other


def mirror_without_swap() -> AbstractContextManager:
    """The mirror image of a batch keeps its names: the picture's left hand stays the left hand."""
    def careless(images, joints, state, skeleton, *others):
        return augment.augment(images, joints, state, names_kept(skeleton), *others)
    return patch.object(training, "augment", careless)


class RowColumn(Coordinates):
    """x and y exchanged on the way out, as by `joints[..., ::-1]` for a library that wants rows and columns."""

    def decode(self, output: torch.Tensor) -> torch.Tensor:
        return super().decode(output).flip(-1)


class HalfPixel(Coordinates):
    """Labels that put the *corner* of the first pixel at (0, 0), decoded as if it were its centre."""

    def encode(self, joints: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().encode(joints + 0.5, state)


def every_tenth(sets: Sets) -> Sets:
    """The first `PERSONS`, with every tenth image as validation set: other pictures of the same persons and clips."""
    subjects = sets[0].groups["subject"]
    _, first = np.unique(subjects, return_index=True)
    few = sets[0].subset(np.isin(subjects, subjects[np.sort(first)[:PERSONS]]))
    held = np.arange(len(few)) % 10 == 0
    return few.subset(~held), few.subset(held)

def never_eval() -> AbstractContextManager:
    """`network.eval()` does nothing good: the network is scored in training mode, with dropout at work."""
    return patch.object(networks.PoseNetwork, "eval", lambda self: self.train())


def same(thing):
    """Nothing is exchanged."""
    return thing


def remade(kind: type) -> Callable[[Coordinates], Coordinates]:
    """The same codec with another class."""
    return lambda codec: kind(**codec.__dict__)


@dataclass(frozen=True)
class Bug:
    """One thing that is wrong, and nothing else.

    Attributes:
        says: in a few words; codec: the right codec -> the wrong one; around: where the program is patched;
        sets: the right (training, validation) -> the wrong ones.
    """

    says: str
    codec: Callable[[Coordinates], Coordinates] = same
    around: Callable[[], AbstractContextManager] = nullcontext
    sets: Callable[[Sets], Sets] = same


@dataclass(frozen=True)
class Exhibit:
    """A training: the healthy program, or the same with a bug; and what its weights are then scored with.

    Attributes:
        bug: of the training; scored_with: bugs of the evaluation that the finished weights, and every epoch, are scored
            with too; keep: of the head's first hidden layer; config: `CONTINUED` or `ANEW`.
    """

    bug: Bug = Bug("nothing")
    scored_with: tuple[str, ...] = ()
    keep: float = 1.0
    config: training.TrainConfig = CONTINUED


EVALUATION_BUGS = {
    "row-column": Bug("x and y exchanged in decode", remade(RowColumn)),
    "never-eval": Bug("dropout at work while scored", around=never_eval)}
EXHIBITS = {
    "healthy": Exhibit(scored_with=("row-column",)),
    "mirror": Exhibit(Bug("mirror without swapping names", around=mirror_without_swap)),
    "dropout": Exhibit(scored_with=("never-eval",), keep=0.5),
    "leak": Exhibit(Bug("validation images of the training persons", sets=every_tenth), config=ANEW),
    "half-pixel": Exhibit(Bug("labels half a pixel off", remade(HalfPixel)))}


# ------------------------------------------------------------------------------------------------------- the runs


def beginning(exhibit: Exhibit, outputs: int, seed: int) -> networks.PoseNetwork:
    """The network before the training: chapter 3's, or untrained."""
    network = networks.build_network("small", {TASK: outputs}, seed, keep=exhibit.keep)
    if exhibit.config.mean_start:
        return network
    learned, _ = networks.load_network(results.shipped_weights("people"))
    numbers = learned.state_dict().values()                # in the same order; a dropout layer shifts only the names
    network.load_state_dict(dict(zip(network.state_dict(), numbers, strict=True)))
    return network


def run(name: str, seed: int, sets: Sets, test: PoseDataset, quick: bool = False) -> dict:
    """Train one exhibit and measure it; the record says all there is to say.

    Args:
        sets: the right training and validation sets; test: other people, scored at the end alone; quick: two epochs.
    """
    exhibit = EXHIBITS[name]
    size = networks.SIZES["small"]
    codec = exhibit.bug.codec(build_codecs((TASK,), LSP14, size)[TASK])
    codecs = {TASK: codec}
    network = beginning(exhibit, codec.outputs, seed)
    config = replace(exhibit.config, seed=seed, **({"epochs": 2, "epoch_size": 0} if quick else {}))
    train_set, validation = exhibit.bug.sets(sets)
    beside = {bug: (EVALUATION_BUGS[bug], validation) for bug in exhibit.scored_with}
    if exhibit.bug.sets is not same:                                   # the true validation set, for comparison
        beside["honest"] = (Bug("nothing"), sets[1])
    before = training.validate(network, codecs, validation, config)
    with exhibit.bug.around(), validated_beside(beside):
        done = training.train(network, codecs, train_set, validation, config, progress=False)
    ways = {"network": Bug("nothing"), **{bug: EVALUATION_BUGS[bug] for bug in exhibit.scored_with}}
    measured_on = {"validation": validation, "test": test}
    if exhibit.bug.sets is not same:
        measured_on["honest validation"] = sets[1]
    found = {where: {way: price(predict(network, bug, codec, data), data) for way, bug in ways.items()}
             for where, data in measured_on.items()}
    for where, data in measured_on.items():
        found[where]["mean_pose"] = price(floors.predict_mean_pose(floors.mean_pose(train_set), data), data)
        if name in ("healthy", "leak") and seed == 0:                      # the same for every seed
            found[where]["nearest_neighbour"] = price(floors.predict_nearest(train_set, data, size), data)
    people = shown(test)
    poses = {way: predict(network, bug, codec, people) for way, bug in ways.items()}
    record = {"name": f"bug-{name}-{seed}", "exhibit": name, "bug": exhibit.bug.says, "seed": seed,
              "dataset": "people", "skeleton": LSP14.name, "tasks": [TASK], "network": asdict(network.config),
              "config": asdict(config), "training_images": len(train_set), "validation_images": len(validation),
              "parameters": networks.count_parameters(network), "kept_epoch": done.kept_epoch,
              "seconds": sum(row["seconds"] for row in done.history), "before": before,
              "history": done.history,
              "on_training_images": training.validate(network, codecs, spread_out(train_set, 1000), config),
              "measured": found, "shown": {"ids": people.ids.tolist(), "poses": poses}}
    if "never-eval" in exhibit.scored_with:                            # the same weights, the same images, five times
        record["again"] = [price(predict(network, EVALUATION_BUGS["never-eval"], codec, test), test)["pck@0.2_torso"]
                           for _ in range(5)]
    return {**record, "environment": results.environment()}


def validated_beside(beside: dict[str, tuple[Bug, PoseDataset]]) -> AbstractContextManager:
    """Every epoch is validated as usual, and under "beside" once more for each of these, wrongly or on other images.
    The training does not notice: it draws its random numbers anew in each epoch."""
    right = training.validate

    def validate(network, codecs, data, config):
        row = right(network, codecs, data, config)
        row["beside"] = {}
        for name, (bug, images) in beside.items():
            with bug.around():
                wrong = {task: bug.codec(codec) for task, codec in codecs.items()}
                row["beside"][name] = right(network, wrong, images, config)
        return row

    return patch.object(training, "validate", validate)


def predict(network: networks.PoseNetwork, bug: Bug, codec: Coordinates, data: PoseDataset) -> np.ndarray:
    """Joints (N, J, 2) in source pixels, with a bug of the evaluation."""
    with bug.around():
        return training.predict(network, bug.codec(codec), data)


def price(predicted: np.ndarray, data: PoseDataset) -> dict:
    """The book's scores of predictions (N, J, 2) in source pixels, the error in millimetres, and the width."""
    return {**results.score(predicted, data), "millimetres": millimetres(predicted, data),
            "width": width(predicted, data)}


def millimetres(predicted: np.ndarray, data: PoseDataset) -> float:
    """Mean distance of predicted (N, J, 2) from true joints, mm, as if each lay in its true joint's plane.

    A pixel is worth depth / focal length there. Only joints in front of the camera and labelled count.
    """
    depth, focal = data.joints3d[..., 2], data.camera[:, None, 0, 0]
    counts = (data.state != ABSENT) & (depth > 0)
    pixels = np.linalg.norm(predicted - data.source_joints, axis=-1)
    return float((pixels * depth / focal)[counts].mean())


def width(predicted: np.ndarray, data: PoseDataset) -> float:
    """How far left joints lie from their right partners in predictions (N, J, 2), over how far they truly do: near 0
    for a network that cannot tell them apart and puts both in the middle."""
    left, right = np.array([(j, k) for j, k in enumerate(data.skeleton.mirror) if j < k]).T
    both = (data.state[:, left] != ABSENT) & (data.state[:, right] != ABSENT)
    apart, truly = (np.linalg.norm(pose[:, left] - pose[:, right], axis=-1)[both].sum()
                    for pose in (predicted, data.source_joints))
    return float(apart / truly)


def shown(data: PoseDataset) -> PoseDataset:
    """The people of the pictures: upright, nothing cut off, spread evenly over the split."""
    fit = np.flatnonzero(data.upright() & data.complete())
    return spread_out(data.subset(fit), SHOWN)


def spread_out(data: PoseDataset, count: int) -> PoseDataset:
    """At most so many samples, spread evenly."""
    return data.subset(np.linspace(0, len(data) - 1, min(count, len(data))).astype(int))


def main(arguments: list[str] | None = None) -> int:
    """Train what is not yet there, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(EXHIBITS), default=list(EXHIBITS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--limit", type=int, help="a trial: only so many images of each split, two epochs")
    parser.add_argument("--out", type=Path, default=results.results_folder(), help="default: book/results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    train_set, validation, test = (load_people(split, skeleton=LSP14, limit=options.limit)
                                   for split in ("train", "validation", "test"))
    for seed in options.seeds:
        for name in options.only:
            path = options.out / f"bug-{name}-{seed}.json"
            if path.exists():
                continue
            record = run(name, seed, (train_set, validation), test, options.limit is not None)
            results.write_record(path, record)
            score = record["measured"]["test"]["network"]
            print(f"{path.stem}: PCK@0.2 {score['pck@0.2_torso']:.3f}, {score['millimetres']:.0f} mm, swapped "
                  f"{score['swapped']:.3f}, {record['seconds']:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
