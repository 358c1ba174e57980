"""Lifting: from 2D joints to 3D joints with a small fully connected network (Martinez et al. 2017).

Fed with *true* 2D joints it says how much of the third dimension the 2D pose tells: a ceiling for what can be hoped for
from better 2D joints, and a floor for what is left to learn from the picture itself. Fed with the joints that a network
sees (`seen_by`), it is the second of two steps from a picture to a pose in 3D. It has a loop of its own, without
pictures, checkpoints and mixed precision: it trains in minutes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from posebook import geometry, training
from posebook.augment import Augmentation, draw_matrices
from posebook.datasets import PoseDataset
from posebook.networks import PoseNetwork
from posebook.skeleton import ABSENT, VISIBLE, Skeleton
from posebook.targets import Codec, ParentRelative

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
        """2D poses (N, 3 J) as `lifter_input` gives them to (N, outputs)."""
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


def seen_by(network: PoseNetwork, codec: Codec, head: str, data: PoseDataset) -> PoseDataset:
    """The data set with the joints that a network sees in the place of the true ones, none of them absent; `data` is
    declared with the network's skeleton. Its joints in 3D are not touched."""
    in_source = training.predict(network, codec, data, head=head)
    return replace(data, joints=geometry.transform(geometry.invert(data.to_source), in_source),
                   state=np.full_like(data.state, VISIBLE))


def train_lifter(train_set: PoseDataset, codec: ParentRelative, config: LiftingConfig,
                 flat: PoseDataset | None = None) -> Lifter:
    """Train a lifter on the 2D and 3D joints of a data set; evaluation mode.

    Args:
        flat: where the 2D joints are read, of the same images in the same order, maybe in another skeleton, maybe
            those that a network sees; default the true ones of `train_set`.

    Raises:
        ValueError: if the data set has no joints in 3D, or another skeleton than the codec, or `flat` other images.
    """
    flat = train_set if flat is None else flat
    if train_set.joints3d is None:
        raise ValueError(f"lifting needs joints in 3D, which {train_set.name} does not have; people has them")
    if train_set.skeleton != codec.skeleton:
        raise ValueError(f"the codec is for {codec.skeleton.name}, {train_set.name} is labelled with "
                         f"{train_set.skeleton.name}")
    if not np.array_equal(flat.ids, train_set.ids):
        raise ValueError(f"the 2D joints must be of the same {len(train_set)} images as the joints in 3D")
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    lifter = Lifter(len(flat.skeleton), codec.outputs, config.width, config.keep)
    optimizer = torch.optim.AdamW(lifter.parameters(), lr=config.rate)
    steps = -(-len(train_set) // config.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.rate, config.epochs * steps)
    joints, seen, joints3d, state = (torch.from_numpy(a) for a in (flat.joints, flat.state, train_set.joints3d,
                                                                   train_set.state))
    for _ in range(config.epochs):
        for index in torch.randperm(len(train_set), generator=generator).split(config.batch):
            if len(index) < 2:                                           # batch norm needs two
                continue
            turned = _turned(joints[index], seen[index], joints3d[index], state[index], flat.skeleton, codec.skeleton,
                             generator)
            loss = codec.loss(lifter(lifter_input(*turned[:2])), *codec.encode(*turned[2:]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return lifter.eval()


def _turned(joints: torch.Tensor, seen: torch.Tensor, joints3d: torch.Tensor, state: torch.Tensor, flat: Skeleton,
            solid: Skeleton, generator: torch.Generator) -> list[torch.Tensor]:
    """The poses as turned and mirrored pictures show them: 2D joints of the skeleton `flat` and which are seen, 3D
    joints of `solid` and their state."""
    matrices, mirror = draw_matrices(len(joints), TURNED, 1, 1, generator)
    moved = [(geometry.transform(matrices, joints), flat), (seen, flat),
             (geometry.turn_with_crop(matrices, joints3d), solid), (state, solid)]
    return [torch.where(mirror.view(-1, *[1] * (a.ndim - 1)), a[:, torch.from_numpy(skeleton.mirror)], a)
            for a, skeleton in moved]


@torch.no_grad()
def lift(lifter: Lifter, codec: ParentRelative, flat: PoseDataset) -> np.ndarray:
    """Joints (N, J, 3) in millimetres, the root at zero, from the 2D joints of a data set: true ones, or `seen_by`."""
    return codec.decode(lifter(lifter_input(torch.from_numpy(flat.joints), torch.from_numpy(flat.state)))).numpy()
