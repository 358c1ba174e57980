"""Every metric of the book, with its definition where it is computed.

The names of pose metrics clash between papers, so each function here says what it counts, what it divides by, and
what it leaves out. Rules that hold for all of them:

- Arrays are predicted (N, J, D), true (N, J, D) and state (N, J) of ABSENT, OCCLUDED, VISIBLE; D is 2 (pixels) or
  3 (millimetres, camera frame). Occluded joints count; absent ones never do, whatever their coordinates hold.
- "Within" means less than or equal to. Fractions run from 0 to 1.
- Whatever a distance is divided by (torso, head, box, limb) is read from the ground truth, never from a prediction.
- Arithmetic is float64. Wrong shapes, non-finite predictions and non-finite labelled joints raise `ValueError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from posebook.geometry import procrustes
from posebook.skeleton import ABSENT, VISIBLE, Skeleton


@dataclass(frozen=True, eq=False)
class Score:
    """What a metric found, per item (a joint or a limb) and per image.

    Attributes:
        per_item: (K,) float64, the mean over the images in which the item counted; NaN where it never did.
        counts: (K,) int64, in how many images the item counted.
        names: the K items.
        per_image: (N,) float64, the mean over the items that counted in the image; NaN where none did.
    """

    per_item: np.ndarray
    counts: np.ndarray
    names: tuple[str, ...]
    per_image: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over the items that counted at all: each joint weighs the same, however often it is labelled.

        Not the pooled mean; the two agree only where every item counted equally often. NaN where nothing counted.
        """
        counted = self.counts > 0
        return float(self.per_item[counted].mean()) if counted.any() else float("nan")

    @property
    def pooled(self) -> float:
        """Mean over all counted (image, item) pairs: an item that is labelled more often weighs more."""
        counted = self.counts > 0
        return float(np.average(self.per_item[counted], weights=self.counts[counted])) if counted.any() \
            else float("nan")


# ---------------------------------------------------------------------------------------------------- normalisers


def box_size(boxes: np.ndarray) -> np.ndarray:
    """The longer side of the person box: the normaliser of PCK as first defined.

    Args:
        boxes: (N, 4) x0, y0, x1, y1 in pixels, half open.

    Returns:
        (N,) float64, max(height, width) in pixels.

    Raises:
        ValueError: on another shape, or a box that is empty or not finite.
    """
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be (N, 4) as x0, y0, x1, y1, got {boxes.shape}")
    sides = boxes[:, 2:] - boxes[:, :2]
    bad = ~(np.isfinite(sides) & (sides > 0)).all(axis=1)
    if bad.any():
        raise ValueError(f"box {int(bad.argmax())} is empty or not finite; a box needs x1 > x0 and y1 > y0")
    return sides.max(axis=1)


def torso_diameter(true: np.ndarray, state: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Distance from left shoulder to right hip, or from right shoulder to left hip where one of the first is absent.

    Returns:
        (N,) float64 in the unit of `true`; NaN where both diagonals lack a joint. It can be 0 in a label where the
        two joints coincide; `pck` leaves such an image out.

    Raises:
        ValueError: if the skeleton has no shoulders or hips, or shapes do not fit it.
    """
    diagonal = _true_distance(true, state, skeleton, "left_shoulder", "right_hip")
    mirrored = _true_distance(true, state, skeleton, "right_shoulder", "left_hip")
    return np.where(np.isnan(diagonal), mirrored, diagonal)


def head_length(true: np.ndarray, state: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Distance from neck to head top, (N,) float64 in the unit of `true`; NaN where one of them is absent.

    Raises:
        ValueError: if the skeleton has no neck or no head top, or shapes do not fit it.
    """
    return _true_distance(true, state, skeleton, "neck", "head_top")


# -------------------------------------------------------------------------------------------- fractions of joints


def pck(predicted: np.ndarray, true: np.ndarray, state: np.ndarray, normaliser: np.ndarray | float,
        threshold: float, names: Sequence[str] | None = None) -> Score:
    """PCK, percentage of correct key points: a joint is right if it lies within threshold x normaliser of the truth.

    Args:
        normaliser: (N,) one length per image in the unit of the joints, or one number for all. An image whose
            normaliser is NaN (no torso labelled) or 0 (a torso of no length cannot measure anything) is not counted.
        threshold: fraction of the normaliser, as it reads: 0.1 is a tenth.
        names: the J joint names; their numbers if not given.

    Returns:
        Score over the J joints.

    Raises:
        ValueError: on bad input (see the module), or a negative or infinite normaliser.
    """
    relative = _relative_distances(predicted, true, state, normaliser)
    return _score(_within(relative, threshold), ~np.isnan(relative), names)


def pdj(predicted: np.ndarray, true: np.ndarray, state: np.ndarray, skeleton: Skeleton, threshold: float) -> Score:
    """PDJ, percentage of detected joints: PCK with the torso diameter as normaliser.

    For a skeleton without hips, take `torso_diameter` before converting and call `pck` with it.
    """
    return pck(predicted, true, state, torso_diameter(true, state, skeleton), threshold, skeleton.joints)


def pckh(predicted: np.ndarray, true: np.ndarray, state: np.ndarray, skeleton: Skeleton,
         threshold: float = 0.5) -> Score:
    """PCKh: PCK with the length of the head segment, neck to head top, as normaliser.

    MPII's own PCKh divides by 0.6 times the diagonal of an annotated head *box* instead. Our data have joints and no
    head boxes, so these values are comparable among each other, not with MPII's table.
    """
    return pck(predicted, true, state, head_length(true, state, skeleton), threshold, skeleton.joints)


def pck_curve(predicted: np.ndarray, true: np.ndarray, state: np.ndarray, normaliser: np.ndarray | float,
              thresholds: np.ndarray) -> np.ndarray:
    """PCK's mean over joints at each threshold: (T,) float64, entry t belonging to `thresholds[t]` itself."""
    relative = _relative_distances(predicted, true, state, normaliser)
    return np.array([_score(_within(relative, threshold), ~np.isnan(relative), None).mean
                     for threshold in np.asarray(thresholds, np.float64)])


def area_under(curve: np.ndarray, thresholds: np.ndarray) -> float:
    """Area under a curve over its thresholds by the trapezoid rule, divided by their range: 1 for a constant 1.

    Raises:
        ValueError: unless there are at least two thresholds, increasing, and one value for each.
    """
    curve, thresholds = np.asarray(curve, np.float64), np.asarray(thresholds, np.float64)
    if thresholds.ndim != 1 or len(thresholds) < 2 or curve.shape != thresholds.shape \
            or not (np.diff(thresholds) > 0).all():
        raise ValueError("area_under needs at least two increasing thresholds and one value of the curve for each, "
                         f"got shapes {curve.shape} and {thresholds.shape}")
    widths, heights = np.diff(thresholds), (curve[1:] + curve[:-1]) / 2
    return float((widths * heights).sum() / (thresholds[-1] - thresholds[0]))


def pcp(predicted: np.ndarray, true: np.ndarray, state: np.ndarray, skeleton: Skeleton, threshold: float = 0.5,
        strict: bool = True) -> Score:
    """PCP, percentage of correct parts: a limb is right if its ends lie within threshold x its true length.

    Strict (Pishchulin et al. 2012): each end. Loose: the mean of the two end distances. A limb counts in an image
    only if every joint that makes its ends is labelled and its true length is not 0. Note that a limb seen end-on
    has a short true length, which makes the same error in pixels weigh more.

    Returns:
        Score over the skeleton's L limbs.
    """
    predicted, true, labelled = _checked(predicted, true, state)
    _check_skeleton(true, skeleton)
    weights = skeleton.limb_weights.astype(np.float64)
    counted = np.stack([labelled[:, used > 0].all(axis=1) for used in weights.sum(axis=0)], axis=1)  # (N, L)
    predicted_ends = np.einsum("elj,njd->neld", weights, predicted)
    true_ends = np.einsum("elj,njd->neld", weights, true)
    lengths = _length(true_ends[:, 0] - true_ends[:, 1])
    counted &= lengths > 0
    ends = _length(predicted_ends - true_ends) / np.where(counted, lengths, np.nan)[:, None]
    error = ends.max(axis=1) if strict else ends.mean(axis=1)
    return _score(_within(error, threshold), counted, skeleton.limb_names)


# -------------------------------------------------------------------------------------------------- mean distances


def mpjpe(predicted: np.ndarray, true: np.ndarray, state: np.ndarray, root: int | None,
          names: Sequence[str] | None = None) -> Score:
    """MPJPE, mean per joint position error, in the unit of the joints (mm for 3D poses).

    Args:
        root: index of the joint that is moved to the origin in both poses, or None to compare them where they are.
            With a root, an image whose root is absent is not counted, and the root's own error of 0 is part of the
            mean, as in paper B.

    Returns:
        Score over the J joints; the smaller the better.
    """
    distances = _rooted_distances(predicted, true, state, root)
    return _score(distances, ~np.isnan(distances), names)


def pa_mpjpe(predicted: np.ndarray, true: np.ndarray, state: np.ndarray,
             names: Sequence[str] | None = None) -> Score:
    """PA-MPJPE: MPJPE after the similarity (rotation, one scale, translation; no reflection) that fits each best.

    Only labelled joints take part in the fit. An image with fewer than three is not counted, since two points can
    always be laid onto two others.
    """
    predicted, true, labelled = _checked(predicted, true, state)
    distances = np.full(labelled.shape, np.nan)
    # Images with the same labelled joints are fitted in one batch: the fit must not see the absent ones.
    patterns, which = np.unique(labelled, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        rows = np.flatnonzero(which.reshape(-1) == number)
        if pattern.sum() < 3:
            continue
        here = np.ix_(rows, np.flatnonzero(pattern))
        distances[here] = _length(procrustes(predicted[here], true[here]) - true[here])
    return _score(distances, ~np.isnan(distances), names)


def pck3d(predicted: np.ndarray, true: np.ndarray, state: np.ndarray, root: int | None, threshold: float = 150.0,
          names: Sequence[str] | None = None) -> Score:
    """3DPCK: a joint is right if it lies within `threshold` (mm) of the truth after aligning the roots as `mpjpe`."""
    distances = _rooted_distances(predicted, true, state, root)
    return _score(_within(distances, threshold), ~np.isnan(distances), names)


AUC3D_THRESHOLDS = np.arange(0.0, 151.0, 5.0)
"""0, 5, ..., 150 mm."""


def auc3d(predicted: np.ndarray, true: np.ndarray, state: np.ndarray, root: int | None,
          thresholds: np.ndarray = AUC3D_THRESHOLDS) -> float:
    """Area under 3DPCK's mean over joints, 0..1, by the trapezoid rule.

    Some published code averages the values at the thresholds instead, which weighs the two end points double.
    """
    distances = _rooted_distances(predicted, true, state, root)
    curve = [_score(_within(distances, threshold), ~np.isnan(distances), None).mean for threshold in thresholds]
    return area_under(np.array(curve), thresholds)


# -------------------------------------------------------------------------------------------------------- the rest


def _checked(predicted: np.ndarray, true: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted and true as float64, absent true joints zeroed (0 x NaN would leak), and labelled (N, J) bool."""
    predicted, true, state = np.asarray(predicted, np.float64), np.asarray(true, np.float64), np.asarray(state)
    if predicted.ndim != 3 or predicted.shape[2] not in (2, 3) or true.shape != predicted.shape \
            or state.shape != predicted.shape[:2]:
        raise ValueError("a metric needs predicted and true of one shape (N, J, 2) or (N, J, 3) and state (N, J), "
                         f"got {predicted.shape}, {true.shape} and {state.shape}")
    labelled = _labelled(true, state)
    if not np.isfinite(predicted).all():
        image, joint, _ = np.argwhere(~np.isfinite(predicted))[0]
        raise ValueError(f"the prediction of image {image}, joint {joint} is not finite; "
                         "look for the step in which the network diverged")
    return predicted, np.where(labelled[..., None], true, 0.0), labelled


def _length(steps: np.ndarray) -> np.ndarray:
    """(..., D) -> (...) Euclidean lengths; several times as fast as `np.linalg.norm` along a short last axis."""
    return np.sqrt(np.einsum("...d,...d->...", steps, steps))


def _labelled(true: np.ndarray, state: np.ndarray) -> np.ndarray:
    """(N, J) bool: which joints count, after checking that their labels can be used."""
    if not np.isin(state, range(ABSENT, VISIBLE + 1)).all():
        raise ValueError(f"state must hold {ABSENT} (absent), 1 (occluded) or {VISIBLE} (visible) only")
    labelled = state != ABSENT
    bad = labelled & ~np.isfinite(true).all(axis=-1)
    if bad.any():
        image, joint = np.argwhere(bad)[0]
        raise ValueError(f"the label of image {image}, joint {joint} is not finite; mark the joint absent")
    return labelled


def _check_skeleton(true: np.ndarray, skeleton: Skeleton) -> None:
    if true.shape[1] != len(skeleton):
        raise ValueError(f"{skeleton.name} has {len(skeleton)} joints, but the poses have {true.shape[1]}")


def _true_distance(true: np.ndarray, state: np.ndarray, skeleton: Skeleton, one: str, other: str) -> np.ndarray:
    """(N,) distance between two true joints, NaN where one is absent."""
    true, state = np.asarray(true, np.float64), np.asarray(state)
    if true.ndim != 3 or state.shape != true.shape[:2]:
        raise ValueError(f"a normaliser needs true (N, J, D) and state (N, J), got {true.shape} and {state.shape}")
    _check_skeleton(true, skeleton)
    missing = [joint for joint in (one, other) if joint not in skeleton.joints]
    if missing:
        raise ValueError(f"{skeleton.name} has no {missing[0]}, which the normaliser needs; "
                         "measure it in a skeleton that has it and hand it to pck")
    i, j = skeleton.index(one), skeleton.index(other)
    labelled = _labelled(true, state)
    # Blanked before subtracting, since an absent joint may hold infinity, and infinity minus itself warns.
    known = np.where((labelled[:, i] & labelled[:, j])[:, None, None], true[:, [i, j]], np.nan)
    return _length(known[:, 0] - known[:, 1])


def _relative_distances(predicted: np.ndarray, true: np.ndarray, state: np.ndarray,
                        normaliser: np.ndarray | float) -> np.ndarray:
    """(N, J) distances over normaliser, NaN where a joint does not count."""
    predicted, true, labelled = _checked(predicted, true, state)
    normaliser = np.asarray(normaliser, np.float64)
    if normaliser.shape not in ((), (len(true),)):
        raise ValueError(f"the normaliser must be one number or ({len(true)},), got {normaliser.shape}")
    if (normaliser < 0).any() or np.isinf(normaliser).any():
        raise ValueError("a normaliser must not be negative or infinite; use NaN where it is unknown")
    usable = np.broadcast_to(np.where(normaliser > 0, normaliser, np.nan), len(true))
    # Dividing, not multiplying the threshold: 29 / 100 <= 0.29 holds in floating point, 29 <= 0.29 * 100 does not.
    return np.where(labelled, _length(predicted - true) / usable[:, None], np.nan)


def _rooted_distances(predicted: np.ndarray, true: np.ndarray, state: np.ndarray, root: int | None) -> np.ndarray:
    """(N, J) distances after moving the root joint of both poses to the origin, NaN where a joint does not count."""
    predicted, true, labelled = _checked(predicted, true, state)
    if root is not None:
        if not 0 <= root < true.shape[1]:
            raise ValueError(f"root must be a joint number from 0 to {true.shape[1] - 1}, or None, got {root}")
        predicted, true = predicted - predicted[:, [root]], true - true[:, [root]]
        labelled = labelled & labelled[:, [root]]
    return np.where(labelled, _length(predicted - true), np.nan)


def _within(distances: np.ndarray, threshold: float) -> np.ndarray:
    """1.0 where a distance is at most the threshold, else 0.0 (also where the distance is NaN)."""
    if not (np.ndim(threshold) == 0 and np.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"a threshold must be one finite number that is not negative, got {threshold}")
    return (distances <= threshold).astype(np.float64)


def _score(values: np.ndarray, counted: np.ndarray, names: Sequence[str] | None) -> Score:
    """Mean of `values` (N, K) where `counted` (N, K), down each column and along each row."""
    names = tuple(str(k) for k in range(values.shape[1])) if names is None else tuple(names)
    if len(names) != values.shape[1]:
        raise ValueError(f"{values.shape[1]} names are needed, got {len(names)}")
    values = np.where(counted, values, 0.0)
    counts, per_image = counted.sum(axis=0), counted.sum(axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that says: nothing counted
        return Score(values.sum(axis=0) / counts, counts, names, values.sum(axis=1) / per_image)


def average_precision(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the precision-recall curve of a detector: the mean over the positives of the precision at their rank.

    Answers with equal scores share one rank (their last), so that ties cannot be broken in the detector's favour.

    Args:
        score: (M,) higher is surer; positive: (M,) bool.

    Returns:
        1 for a perfect order, about the share of positives for random scores, NaN without a positive.

    Raises:
        ValueError: if the shapes differ or a score is NaN.
    """
    score, positive = np.asarray(score), np.asarray(positive, bool)
    if score.shape != positive.shape or score.ndim != 1:
        raise ValueError(f"scores {score.shape} and labels {positive.shape} must be two lists of one length")
    if np.isnan(score).any():
        raise ValueError("a score is NaN; look at the network's answers")
    if not positive.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    hits, ranks = positive[order].cumsum(), np.arange(1, len(score) + 1)
    last = np.searchsorted(-score[order], -score[order], side="right") - 1  # of those with the same score
    return float((hits[last] / ranks[last])[positive[order]].mean())
