"""A training as a film: the poses that a network gives to a few people, from its first step to its last."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import numpy as np

from posebook import training
from posebook.datasets import PoseDataset
from posebook.networks import PoseNetwork, build_network
from posebook.skeleton import ABSENT
from posebook.targets import Codec
from posebook.training import TrainConfig

STEPS, FRAMES = 2500, 100
"""As many steps of 64 pictures as 20 epochs of the book's 8,000 people, and a frame every 25 of them. A frame is an
epoch of its own here: that is how often `training` lets somebody watch."""

_PACE = TrainConfig(epochs=FRAMES, epoch_size=STEPS * 64 // FRAMES, batch=64, rate=0.002, warmup=0.15 * FRAMES)
RECIPES = {
    "book": _PACE,
    "first-day": replace(_PACE, optimizer="sgd", rate=0.01, warmup=0.0, mean_start=False, normalise=False)}
"""The book's own settings at the rate of chapter 4, and those of chapter 3's first day (SGD, raw pixels)."""


def cast(data: PoseDataset, count: int = 8) -> np.ndarray:
    """(count,) numbers of people at even distances among those who are wholly in the picture: nobody is picked.

    Raises:
        ValueError: if there are fewer.
    """
    whole = np.flatnonzero((data.state != ABSENT).all(axis=1))
    if len(whole) < count:
        raise ValueError(f"a film needs {count} people who are wholly in the picture, {data.name} {data.split} has "
                         f"{len(whole)}")
    return whole[np.linspace(0, len(whole) - 1, count).round().astype(int)]


def read_poses(poses: list[list[str]]) -> np.ndarray:
    """(F, people, J, 2) float, from the lines of a record."""
    return np.array([[[float(v) for v in line.split()] for line in frame] for frame in poses]).reshape(
        len(poses), len(poses[0]), -1, 2)


def record(size: str, codec: Codec, train_set: PoseDataset, validation: PoseDataset, config: TrainConfig,
           people: np.ndarray, progress: bool = True) -> dict:
    """Train a regressor of a `networks.SIZES` size and keep the poses of `validation`'s `people` after every epoch.

    Returns:
        "images": (F,) training pictures seen before each frame, the first 0; "loss", "pck", "spread": (F,) on the whole
        validation set, as `training.validate` gives them; "poses": F lists with a line of text for each of the people,
        x and y of every joint in pixels of the central crop, to a tenth (`read_poses` reads them); "ids": the people;
        "config", "seconds".
    """
    some, poses, first = validation.subset(people), [], {}

    def watch(epoch: int, network: PoseNetwork) -> None:
        if epoch < 0:
            first.update(training.validate(network, {"regression": codec}, validation, config))
        answers = training.run_network(network, some, config.device, config.amp)["regression"]
        poses.append([" ".join(f"{v:.1f}" for v in pose.flatten()) for pose in codec.decode(answers).numpy()])

    began = time.perf_counter()
    network = build_network(size, {"regression": codec.outputs}, config.seed)
    run = training.train(network, {"regression": codec}, train_set, validation, config, progress=progress, watch=watch)
    rows = [first, *run.history]
    pictures = config.epoch_size or len(train_set)
    return {"ids": some.ids.tolist(), "images": [pictures * n for n in range(len(rows))],
            "loss": [row["validation_loss"] for row in rows], "pck": [row["validation_pck"] for row in rows],
            "spread": [row["spread"] for row in rows], "poses": poses, "config": asdict(config),
            "seconds": round(time.perf_counter() - began, 1)}
