"""Floors: what a pose costs that is guessed without learning. A network that does not beat them has learned nothing.

All floors know the person's box, exactly as the network does.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from posebook import geometry
from posebook.augment import centre
from posebook.datasets import PoseDataset
from posebook.skeleton import ABSENT


def mean_pose(training: PoseDataset) -> np.ndarray:
    """(J, 2) float32: the mean of every labelled joint, in pixels of the stored crop.

    Raises:
        ValueError: if a joint is never labelled.
    """
    labelled = (training.state != ABSENT)[..., None]
    counts = labelled.sum(axis=0)
    if (counts == 0).any():
        raise ValueError(f"{training.name} never labels {training.skeleton.joints[int((counts[:, 0] == 0).argmax())]}")
    return ((training.joints * labelled).sum(axis=0) / counts).astype(np.float32)


def predict_mean_pose(pose: np.ndarray, data: PoseDataset) -> np.ndarray:
    """The same pose (J, 2), stored-crop pixels, for every image of `data`: (N, J, 2) in source pixels."""
    return geometry.transform(data.to_source, np.broadcast_to(pose, data.joints.shape))


def predict_nearest(training: PoseDataset, data: PoseDataset, crop: int, side: int = 16) -> np.ndarray:
    """The pose of the training image that looks most alike: (N, J, 2) in source pixels.

    Likeness is the squared distance of the central crops, reduced to `side` x `side` colour pixels; mirror images of
    the training set are searched as well. Where the neighbour lacks a joint, the mean pose fills in.
    """
    gallery, queries = _thumbnails(training, crop, side), _thumbnails(data, crop, side)
    width = training.images.shape[-1]
    mirrored = training.joints[:, training.skeleton.mirror] * np.array([-1, 1], np.float32) + [width - 1, 0]
    poses = np.concatenate([training.joints, mirrored]).astype(np.float32)
    state = np.concatenate([training.state, training.state[:, training.skeleton.mirror]])
    gallery = torch.cat([gallery, gallery.flip(-1)]).flatten(1)
    # |q - g|^2 = |q|^2 - 2 q.g + |g|^2, and |q|^2 is the same for all g.
    distance = (gallery ** 2).sum(dim=1) - 2 * queries.flatten(1) @ gallery.T
    nearest = distance.argmin(dim=1).numpy()
    found = np.where((state[nearest] != ABSENT)[..., None], poses[nearest], mean_pose(training))
    return geometry.transform(data.to_source, found)


def mean_pose3d(training: PoseDataset) -> np.ndarray:
    """(J, 3) float32: the mean of every joint minus the root, camera millimetres, where both are labelled.

    Raises:
        ValueError: if a joint is never labelled together with the root.
    """
    both = ((training.state != ABSENT) & (training.state[:, [training.skeleton.root]] != ABSENT))[..., None]
    relative = geometry.root_relative(training.need("joints3d"), training.skeleton)
    counts = both.sum(axis=0)
    if (counts == 0).any():
        raise ValueError(f"{training.name} never labels {training.skeleton.joints[int((counts[:, 0] == 0).argmax())]} "
                         "together with the root")
    return ((relative * both).sum(axis=0) / counts).astype(np.float32)


def predict_nearest3d(training: PoseDataset, data: PoseDataset) -> np.ndarray:
    """The 3D pose of the training person whose *true* 2D joints are nearest: (N, J, 3) millimetres, root at zero.

    2D poses are compared in pixels of the stored crop, which is cut to the person's size, over the joints that the
    tested person has; neighbours have all joints. Mirror images of the training set are searched as well. It knows the
    true 2D pose of the tested image, which no network is told.

    Raises:
        ValueError: if no training person has all joints.
    """
    whole = training.complete()
    if not whole.any():
        raise ValueError(f"nobody in {training.name} {training.split} has all joints labelled")
    skeleton, width = training.skeleton, training.images.shape[-1]
    flipped = training.joints[:, skeleton.mirror] * np.array([-1, 1], np.float32)
    flipped[..., 0] += width - 1
    poses = np.concatenate([training.joints[whole], flipped[whole]])
    relative = geometry.root_relative(training.need("joints3d")[whole], skeleton)
    relative = np.concatenate([relative, geometry.mirror3d(relative, skeleton)])
    nearest = []
    for joints, labelled in zip(data.joints, data.state != ABSENT, strict=True):
        away = ((poses[:, labelled] - joints[labelled]) ** 2).sum(axis=(1, 2))
        nearest.append(int(away.argmin()))
    return relative[nearest]


def _thumbnails(data: PoseDataset, crop: int, side: int) -> torch.Tensor:
    """(N, 3, side, side) float32 in 0..1, made in blocks so that memory stays small."""
    return torch.cat([F.adaptive_avg_pool2d(centre(torch.from_numpy(data.images[begin:begin + 512]), crop), side)
                      for begin in range(0, len(data), 512)])
