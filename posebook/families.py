"""Both families on the same features: a pose regressed by one head, and a pose put together from what another head
detects, with the same network and the same images.

`fit` learns springs and weights from training images, `predict` gives the poses of every way, `score` their tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from posebook import metrics, pictorial, results, training
from posebook.datasets import PoseDataset
from posebook.networks import PoseNetwork
from posebook.pictorial import Springs
from posebook.skeleton import ABSENT, OCCLUDED, VISIBLE, Skeleton
from posebook.targets import Codec, Coordinates, JointWindows

STEP = 2
"""Side of a map's cell, in pixels of the network's input."""
COMPONENTS = 3
"""Components of the springs that have several."""
WAYS = ("regression", "soft window", "best window", "best cell", "tree", "tree, mixture", "tree and regression")
"""The ways to a pose: the regression head; from the windows of each joint by itself the mean, the most probable window,
and the cell with the most evidence; the best tree with one and with several components; and the latter with the
regression as one more spring."""
BATCH = 128
SCALES = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Factors of all weights of evidence, of which the best is chosen. The likelihood judges all poses by their
probability and mistrusts evidence that is sometimes far off; the single best pose, by which a way is scored, wants the
evidence to count for more."""


@dataclass(frozen=True)
class Families:
    """What is learned from training images, in cells.

    Attributes:
        springs: way -> springs with weights.
        error: (J, 2) variance of the regression's error.
        longest: (L,) 99.9 % of the training limbs are no longer, in pixels of the network's input.
    """

    springs: dict[str, Springs]
    error: torch.Tensor
    longest: np.ndarray


def fit(network: PoseNetwork, codecs: dict[str, Codec], train_set: PoseDataset, held_out: PoseDataset,
        seed: int = 0) -> Families:
    """Learn springs from the poses that the network was trained on, and weights from images that it has not seen: each
    joint's by likelihood, their common scale by the joints that the best pose finds.

    Args:
        held_out: images on which all joints are labelled (see `for_weights`), none of which is scored later.

    Raises:
        ValueError: if the network does not regress and detect joints, or a joint is absent in `held_out`.
    """
    regression, detection = _both(codecs)
    skeleton, crop = train_set.skeleton, network.config.crop
    joints, state = (part.numpy() for part in training.central_labels(train_set, crop))
    cells = (joints + 0.5) / STEP - 0.5
    if not len(held_out) or not held_out.complete().all():
        raise ValueError("weights are learned from images on which all joints are labelled; see for_weights")
    answers = training.run_network(network, held_out, amp=False)
    true = (training.central_labels(held_out, crop)[0] + 0.5) / STEP - 0.5
    points = (regression.decode(answers["regression"]) + 0.5) / STEP - 0.5
    error = ((points - true) ** 2).mean(dim=0).clamp(min=0.25)
    windows = pictorial.window_scores(detection, answers["joints"], STEP)
    found = {}
    for way, components in (("tree", 1), ("tree, mixture", COMPONENTS)):
        springs = pictorial.learn_springs(cells, state, skeleton, components, seed)
        found[way] = _scaled(pictorial.learn_weights(springs, windows, true), windows, held_out, crop)
    both = _with_regression(found["tree, mixture"], windows, points, error)
    found["tree and regression"] = _scaled(pictorial.learn_weights(springs, both, true), both, held_out, crop)
    longest = np.nanquantile(_lengths(np.where((state != ABSENT)[..., None], joints, np.nan), skeleton), 0.999, axis=0)
    return Families(found, error, longest)


def _both(codecs: dict[str, Codec]) -> tuple[Coordinates, JointWindows]:
    regression, detection = codecs.get("regression"), codecs.get("joints")
    if not isinstance(regression, Coordinates) or not isinstance(detection, JointWindows):
        raise ValueError(f"both families need the tasks regression and joints; the network has {', '.join(codecs)}")
    return regression, detection


def _scaled(springs: Springs, scores: torch.Tensor, data: PoseDataset, crop: int) -> Springs:
    """The springs with all weights of evidence times that factor of `SCALES` which finds most joints of `data`
    (PCK@0.2; the smallest of equals)."""
    torso = metrics.torso_diameter(data.source_joints, data.state, data.skeleton)
    best = (-1.0, springs)
    for scale in SCALES:
        scaled = replace(springs, evidence=springs.evidence * scale)
        poses = training.to_source(data, crop, _to_pixels(pictorial.best_pose(scaled, scores).joints).numpy())
        found = metrics.pck(poses, data.source_joints, data.state, torso, 0.2).mean
        if found > best[0]:
            best = (found, scaled)
    return best[1]


def for_weights(data: PoseDataset, count: int = 80) -> np.ndarray:
    """Indices of `count` images, spread evenly, on which all joints are labelled."""
    some = np.flatnonzero(data.complete())
    return some[np.linspace(0, len(some) - 1, min(count, len(some))).astype(int)]


def _with_regression(springs: Springs, windows: torch.Tensor, points: torch.Tensor,
                     error: torch.Tensor) -> torch.Tensor:
    """Evidence of windows, weighted as in `springs`, and of the regression, in one map (N, J, H, W)."""
    return windows * springs.evidence[:, None, None] + pictorial.point_scores(points, error, *windows.shape[2:])


def predict(families: Families, network: PoseNetwork, codecs: dict[str, Codec],
            data: PoseDataset) -> dict[str, np.ndarray]:
    """Joints (N, J, 2) of every way of `WAYS`, in pixels of the network's input. Raises ValueError as `fit`."""
    regression, detection = _both(codecs)
    answers = training.run_network(network, data, amp=False)
    poses: dict[str, list[torch.Tensor]] = {way: [] for way in WAYS}
    for place, joints in zip(answers["regression"].split(BATCH), answers["joints"].split(BATCH), strict=True):
        regressed = regression.decode(place)
        windows = pictorial.window_scores(detection, joints, STEP)
        points = (regressed + 0.5) / STEP - 0.5
        together = _with_regression(families.springs["tree, mixture"], windows, points, families.error)
        poses["regression"].append(regressed)
        poses["soft window"].append(detection.decode(joints))
        poses["best window"].append(detection.decode(joints, hard=True))
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


def _lengths(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """(N, L) lengths of the limbs of poses (N, J, 2)."""
    ends = np.einsum("elj,njd->enld", skeleton.limb_weights, joints)
    return np.linalg.norm(ends[0] - ends[1], axis=-1)


def score(families: Families, poses: dict[str, np.ndarray], data: PoseDataset, crop: int) -> dict[str, dict]:
    """The book's table (`results.score`) for every way, and

    - "pck_per_image", for comparing two ways image by image;
    - "visible" and "occluded": PCK@0.2 of such joints alone;
    - "too_long": share of predicted limbs that are longer than 99.9 % of the training limbs of their name;
    - "on_one_spot": share of people with both wrists or both ankles within two pixels of each other, among those of
      whom all four are labelled. Answers for each joint alone often take one leg for both.

    The truth's "too_long" and "on_one_spot" are in `truth`.
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
        found[way] = {**table, **impossible(families, joints, data)}
    return found


def impossible(families: Families, joints: np.ndarray, data: PoseDataset, within: float = 2.0) -> dict[str, float]:
    """"too_long" and "on_one_spot" (see `score`) of poses (N, J, 2) in pixels of the network's input, of limbs and
    people that are labelled; the true poses may be asked about as well."""
    skeleton = data.skeleton
    labelled = data.state != ABSENT
    needed = skeleton.limb_weights.sum(axis=0) > 0                                      # (L, J)
    limbs = (labelled[:, None, :] | ~needed).all(axis=-1)
    pairs = [[skeleton.index(f"{side}_{joint}") for side in ("left", "right")] for joint in ("wrist", "ankle")]
    together = np.any([np.linalg.norm(joints[:, i] - joints[:, j], axis=-1) <= within for i, j in pairs], axis=0)
    whole = labelled[:, np.ravel(pairs)].all(axis=1)
    return {"too_long": float((_lengths(joints, skeleton) > families.longest)[limbs].mean()),
            "on_one_spot": float(together[whole].mean())}
