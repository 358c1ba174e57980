"""Both families on the same features: a pose regressed by one head, and a pose put together from what another head
detects, with the same network and the same images.

`fit` learns springs and weights from training images, `predict` gives the poses of every way, `score` their tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from posebook import metrics, pictorial, results, training
from posebook.datasets import PoseDataset
from posebook.networks import PoseNetwork
from posebook.pictorial import Springs
from posebook.skeleton import ABSENT, OCCLUDED, VISIBLE

STEP = 2
"""Side of a map's cell, in pixels of the network's input."""
COMPONENTS = 3
"""Components of the springs that have several."""
WAYS = ("regression", "soft window", "best window", "best cell", "tree", "tree, mixture", "tree and regression")
"""The ways to a pose: the regression head; from the windows of each joint by itself the mean, the most probable window,
and the cell with the most evidence; the best tree with one and with several components; and the latter with the
regression as one more spring."""
BATCH = 128


@dataclass(frozen=True)
class Families:
    """What is learned from training images, in cells.

    Attributes:
        springs: way -> springs with weights; error: (J, 2) variance of the regression's error; longest: (L,) 99.9 %
            of the training limbs are no longer, in pixels of the network's input.
    """

    springs: dict[str, Springs]
    error: torch.Tensor
    longest: np.ndarray


def fit(network: PoseNetwork, codecs: dict[str, training.Codec], train_set: PoseDataset, count: int = 80,
        seed: int = 0) -> Families:
    """Learn springs from all poses of a training set, and weights from `count` of its images on which all joints are
    labelled.

    Raises:
        ValueError: if the network does not regress and detect joints, or no image has all joints labelled.
    """
    if not {"regression", "joints"} <= set(codecs):
        raise ValueError(f"both families need the tasks regression and joints; the network has {', '.join(codecs)}")
    skeleton, crop = train_set.skeleton, network.config.crop
    joints, state = (part.numpy() for part in training.central_labels(train_set, crop))
    cells = (joints + 0.5) / STEP - 0.5
    some = np.flatnonzero(train_set.complete())
    if not len(some):
        raise ValueError(f"no image of {train_set.name} has all joints labelled; the weights are learned from such")
    some = some[np.linspace(0, len(some) - 1, min(count, len(some))).astype(int)]
    answers = training.run_network(network, train_set.subset(some), amp=False)
    true = torch.from_numpy(cells[some])
    points = (codecs["regression"].decode(answers["regression"]) + 0.5) / STEP - 0.5
    error = ((points - true) ** 2).mean(dim=0).clamp(min=0.25)
    windows = pictorial.window_scores(codecs["joints"], answers["joints"], STEP)
    found = {}
    for way, components in (("tree", 1), ("tree, mixture", COMPONENTS)):
        springs = pictorial.learn_springs(cells, state, skeleton, components, seed)
        found[way] = pictorial.learn_weights(springs, windows, true)
    both = _with_regression(found["tree, mixture"], windows, points, error)
    plain = pictorial.learn_springs(cells, state, skeleton, COMPONENTS, seed)
    found["tree and regression"] = pictorial.learn_weights(plain, both, true)
    longest = np.nanquantile(_lengths(np.where((state != ABSENT)[..., None], joints, np.nan), skeleton), 0.999, axis=0)
    return Families({**found, "evidence": found["tree, mixture"]}, error, longest)


def _with_regression(springs: Springs, windows: torch.Tensor, points: torch.Tensor,
                     error: torch.Tensor) -> torch.Tensor:
    """Evidence of windows, weighted as in `springs`, and of the regression, in one map (N, J, H, W)."""
    return windows * springs.evidence[:, None, None] + pictorial.point_scores(points, error, *windows.shape[2:])


def predict(families: Families, network: PoseNetwork, codecs: dict[str, training.Codec],
            data: PoseDataset) -> dict[str, np.ndarray]:
    """Joints (N, J, 2) of every way of `WAYS`, in pixels of the network's input."""
    answers = training.run_network(network, data, amp=False)
    poses: dict[str, list[torch.Tensor]] = {way: [] for way in WAYS}
    for regression, joints in zip(answers["regression"].split(BATCH), answers["joints"].split(BATCH), strict=True):
        regressed = codecs["regression"].decode(regression)
        windows = pictorial.window_scores(codecs["joints"], joints, STEP)
        points = (regressed + 0.5) / STEP - 0.5
        together = _with_regression(families.springs["evidence"], windows, points, families.error)
        poses["regression"].append(regressed)
        poses["soft window"].append(codecs["joints"].decode(joints))
        poses["best window"].append(codecs["joints"].decode(joints, hard=True))
        poses["best cell"].append(_to_pixels(_best_cell(windows)))
        for way, scores in (("tree", windows), ("tree, mixture", windows), ("tree and regression", together)):
            poses[way].append(_to_pixels(pictorial.best_pose(families.springs[way], scores).joints))
    return {way: torch.cat(parts).numpy() for way, parts in poses.items()}


def _to_pixels(cells: torch.Tensor) -> torch.Tensor:
    return (cells.float() + 0.5) * STEP - 0.5


def _best_cell(scores: torch.Tensor) -> torch.Tensor:
    """(N, J, 2) the middle of the cells with the highest score: all cells between the same windows' edges are equal."""
    highest = (scores >= scores.amax(dim=(2, 3), keepdim=True) - 1e-4).float()
    share = highest / highest.sum(dim=(2, 3), keepdim=True)
    y, x = (torch.arange(side, dtype=torch.float32) for side in scores.shape[2:])
    return torch.stack([share.sum(dim=2) @ x, share.sum(dim=3) @ y], dim=-1)


def _lengths(joints: np.ndarray, skeleton) -> np.ndarray:
    """(N, L) lengths of the limbs of poses (N, J, 2)."""
    ends = np.einsum("elj,njd->enld", skeleton.limb_weights, joints)
    return np.linalg.norm(ends[0] - ends[1], axis=-1)


def score(families: Families, poses: dict[str, np.ndarray], data: PoseDataset, crop: int) -> dict[str, dict]:
    """The book's table (`results.score`) for every way, and

    - "pck_per_image", for comparing two ways image by image;
    - "visible" and "occluded": PCK@0.2 of such joints alone;
    - "too_long": share of predicted limbs that are longer than 99.9 % of the training limbs of their name;
    - "on_one_spot": share of people with both wrists or both ankles within two pixels of each other. In the truth this
      is rare; detectors that answer for each joint alone often take one leg for both.
    """
    skeleton = data.skeleton
    torso = metrics.torso_diameter(data.source_joints, data.state, skeleton)
    found = {}
    for way, joints in poses.items():
        source = training.to_source(data, crop, joints)
        table = results.score(source, data)
        for name, mark in (("visible", VISIBLE), ("occluded", OCCLUDED)):
            only = np.where(data.state == mark, data.state, ABSENT)
            table[name] = metrics.pck(source, data.source_joints, only, torso, 0.2).mean
        table["pck_per_image"] = results.pck_per_image(source, data)
        table["too_long"] = float((_lengths(joints, skeleton) > families.longest).mean())
        table["on_one_spot"] = float(on_one_spot(joints, skeleton).mean())
        found[way] = table
    return found


def on_one_spot(joints: np.ndarray, skeleton, within: float = 2.0) -> np.ndarray:
    """(N,) bool: both wrists or both ankles of a pose (N, J, 2) lie within so many pixels of each other."""
    pairs = [[skeleton.index(f"{side}_{joint}") for side in ("left", "right")] for joint in ("wrist", "ankle")]
    return np.any([np.linalg.norm(joints[:, i] - joints[:, j], axis=-1) <= within for i, j in pairs], axis=0)
