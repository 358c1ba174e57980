"""Lifting: from 2D joints to 3D joints with a small fully connected network (Martinez et al. 2017).

Fed with *true* 2D joints it says how much of the third dimension the 2D pose tells: a ceiling for what can be hoped for
from better 2D joints, and a floor for what is left to learn from the picture itself. It has a loop of its own, without
pictures, checkpoints and mixed precision: it trains in minutes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from posebook import geometry
from posebook.augment import Augmentation, draw_matrices
from posebook.datasets import PoseDataset
from posebook.skeleton import ABSENT, Skeleton
from posebook.targets import ParentRelative

TURNED = Augmentation(angle=30.0, mirror=0.5)
"""The turns and mirrors of the book's pictures; shift and scale say nothing, since poses are centred and scaled."""


@dataclass(frozen=True)
class LiftingConfig:
    """Width of the layers, probability to keep a unit, and how the lifter is trained."""

    width: int = 512
    keep: float = 0.9
    epochs: int = 100
    batch: int = 256
    rate: float = 1e-3
    seed: int = 0


class Lifter(nn.Module):
    """Martinez et al.: a linear layer, two residual blocks of two linear layers each, a linear layer; batch norm, ReLU
    and dropout after every one but the last. (N, 3 J) of `lifter_input` -> (N, outputs)."""

    def __init__(self, joints: int, outputs: int, width: int, keep: float) -> None:
        super().__init__()
        self.first = _layer(3 * joints, width, keep)
        self.blocks = nn.ModuleList(nn.Sequential(_layer(width, width, keep), _layer(width, width, keep))
                                    for _ in range(2))
        self.last = nn.Linear(width, outputs)

    def forward(self, poses: torch.Tensor) -> torch.Tensor:
        features = self.first(poses)
        for block in self.blocks:
            features = features + block(features)
        return self.last(features)


def _layer(inputs: int, outputs: int, keep: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(1 - keep))


def lifter_input(joints: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """2D joints (N, J, 2) in any pixels to (N, 3 J): x and y about the middle of the labelled joints, over their
    largest extent, then 1 for labelled joints and 0 for absent ones. Where the person stands and how large is lost."""
    labelled = state != ABSENT
    known = labelled[..., None]
    low = torch.where(known, joints, torch.inf).amin(dim=1, keepdim=True)
    high = torch.where(known, joints, -torch.inf).amax(dim=1, keepdim=True)
    extent = (high - low).amax(dim=2, keepdim=True).clamp(min=1e-6)
    centred = torch.where(known, (joints - (low + high) / 2) / extent, 0)
    return torch.cat([2 * centred.flatten(1), labelled.float()], dim=1)


def train_lifter(train_set: PoseDataset, codec: ParentRelative, config: LiftingConfig) -> Lifter:
    """Train a lifter on the true 2D and 3D joints of a data set; evaluation mode.

    Raises:
        ValueError: if the data set has no joints in 3D, or another skeleton than the codec.
    """
    if train_set.joints3d is None:
        raise ValueError(f"lifting needs joints in 3D, which {train_set.name} does not have; people has them")
    if train_set.skeleton != codec.skeleton:
        raise ValueError(f"the codec is for {codec.skeleton.name}, {train_set.name} is labelled with "
                         f"{train_set.skeleton.name}")
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    lifter = Lifter(len(train_set.skeleton), codec.outputs, config.width, config.keep)
    optimizer = torch.optim.AdamW(lifter.parameters(), lr=config.rate)
    steps = -(-len(train_set) // config.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.rate, config.epochs * steps)
    arrays = [torch.from_numpy(a) for a in (train_set.joints, train_set.state, train_set.joints3d)]
    for _ in range(config.epochs):
        for index in torch.randperm(len(train_set), generator=generator).split(config.batch):
            if len(index) < 2:                                           # batch norm needs two
                continue
            joints, state, joints3d = _turned(*(a[index] for a in arrays), train_set.skeleton, generator)
            loss = codec.loss(lifter(lifter_input(joints, state)), *codec.encode(joints3d, state))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return lifter.eval()


def _turned(joints: torch.Tensor, state: torch.Tensor, joints3d: torch.Tensor, skeleton: Skeleton,
            generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The poses as turned and mirrored pictures show them."""
    matrices, mirror = draw_matrices(len(joints), TURNED, 1, 1, generator)
    swap = torch.from_numpy(skeleton.mirror)
    moved = [geometry.transform(matrices, joints), state, geometry.turn_with_crop(matrices, joints3d)]
    return tuple(torch.where(mirror.view(-1, *[1] * (a.ndim - 1)), a[:, swap], a) for a in moved)


@torch.no_grad()
def lift(lifter: Lifter, codec: ParentRelative, data: PoseDataset) -> np.ndarray:
    """Joints (N, J, 3) in millimetres, the root at zero, from the *true* 2D joints of a data set."""
    return codec.decode(lifter(lifter_input(torch.from_numpy(data.joints), torch.from_numpy(data.state)))).numpy()
