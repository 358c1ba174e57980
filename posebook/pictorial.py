"""Pictorial structures: scores of single joints, springs between neighbours, and exact inference on the tree.

A pose p = (p_1 ... p_J), each joint a cell of a map, has the score

    sum_j  u_j S_j(p_j)  +  sum over limbs  max_m [ b_m - w_j |p_j - p_parent - offset_m|^2 / (2 variance_m) ]

(Felzenszwalb & Huttenlocher 2005). The components m are clusters of offsets, as in Yang & Ramanan 2013, whose types
carry an appearance and a preference for their neighbours' types as well; ours do not. S_j is the evidence for joint j,
from a network's detection head or any other heat map. Because the joints form a tree, the best pose of all is found
by passing messages from the leaves to the root and back. A message is a *generalised distance transform*: for every
place of the parent the best place of the child. Its envelope is built in a time linear in the number of cells.

Maps are indexed row (y), then column (x); places and offsets are x, y in cells, like pixels everywhere in the book.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from posebook.skeleton import ABSENT, Skeleton
from posebook.targets import JointWindows, points_inside


@dataclass(frozen=True)
class Springs:
    """Where a joint lies, seen from its parent: for each joint a mixture of M axis-aligned Gaussians.

    Attributes:
        skeleton: the tree.
        offset: (J, M, 2) mean of joint minus parent, in cells; variance: (J, M, 2), in cells squared.
        bias: (J, M) what choosing a component adds to the score, -inf for one that does not exist. The root hangs on
            nothing: its rows of all three are not used, but must be valid.
        evidence: (J,) weight u of each joint's scores; stiffness: (J,) weight w of each joint's spring.

    Raises:
        ValueError: on construction, for shapes that do not fit, numbers that are not finite, a variance or stiffness
            that is zero or negative, negative evidence, or a joint without any component.
    """

    skeleton: Skeleton
    offset: torch.Tensor
    variance: torch.Tensor
    bias: torch.Tensor
    evidence: torch.Tensor
    stiffness: torch.Tensor

    def __post_init__(self) -> None:
        joints = len(self.skeleton)
        count = self.bias.shape[-1]
        shapes = {"offset": (joints, count, 2), "variance": (joints, count, 2), "bias": (joints, count),
                  "evidence": (joints,), "stiffness": (joints,)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if tuple(value.shape) != shape:
                raise ValueError(f"{name} of the springs of {self.skeleton.name} must have shape {shape}, "
                                 f"not {tuple(value.shape)}")
            if name != "bias" and not torch.isfinite(value).all():
                raise ValueError(f"{name} of the springs must be finite numbers")
        if (self.variance <= 0).any() or (self.stiffness <= 0).any():
            raise ValueError("a spring's variance and stiffness must be above 0; a joint that is fixed to its parent "
                             "has a small variance, one that is free a large one")
        if (self.evidence < 0).any():
            raise ValueError("evidence must not have a negative weight")
        if torch.isnan(self.bias).any() or (self.bias == math.inf).any() or (self.bias.amax(dim=1) == -math.inf).any():
            raise ValueError("each joint needs a component with a finite bias, and no bias may be NaN or infinity")

    def to(self, device: torch.device | str) -> Springs:
        """The same on another device."""
        return replace(self, **{name: getattr(self, name).to(device)
                                for name in ("offset", "variance", "bias", "evidence", "stiffness")})


def learn_springs(joints: np.ndarray, state: np.ndarray, skeleton: Skeleton, components: int = 1, seed: int = 0,
                  least: float = 1.0) -> Springs:
    """Springs of training poses: the mean and variance of each joint minus its parent, where both are labelled.

    Several components are clusters of these differences (k-means, as Yang & Ramanan 2013, section 5, make their
    part types), each with its own mean and variance; the bias is the logarithm of the cluster's share, less that of
    the Gaussian's norm.

    Args:
        joints: (N, J, 2) in cells; state: (N, J). components: at most so many for each joint.
        seed: of k-means. least: no variance below this (cells squared), for clusters of a few points.

    Raises:
        ValueError: if a joint and its parent are labelled together in fewer than two poses, or components < 1.
    """
    from scipy.cluster.vq import kmeans2
    if components < 1:
        raise ValueError(f"a joint needs at least one component, not {components}")
    count = len(skeleton)
    offset, variance = torch.zeros(count, components, 2), torch.ones(count, components, 2)
    bias = torch.full((count, components), -math.inf)
    bias[skeleton.root, 0] = 0
    for j in skeleton.order_down[1:]:
        parent = skeleton.parents[j]
        both = (state[:, [j, parent]] != ABSENT).all(axis=1)
        if both.sum() < 2:
            raise ValueError(f"{skeleton.joints[j]} and {skeleton.joints[parent]} are labelled together in "
                             f"{both.sum()} poses; a spring needs two")
        away = (joints[both, j] - joints[both, parent]).astype(np.float64)
        label = np.zeros(len(away), int)
        groups = min(components, len(np.unique(away, axis=0)))
        if groups > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")             # a cluster that ends up empty: there is one component less
                _, label = kmeans2(away, groups, minit="++", seed=np.random.default_rng(seed))
        for m in np.unique(label):
            mine = away[label == m]
            spread = np.maximum(mine.var(axis=0), least)
            offset[j, m], variance[j, m] = torch.from_numpy(mine.mean(axis=0)), torch.from_numpy(spread)
            bias[j, m] = math.log(len(mine) / len(away)) - 0.5 * math.log(spread.prod()) - math.log(2 * math.pi)
    ones = torch.ones(count)
    return Springs(skeleton, offset, variance, bias, ones, ones.clone())


def cell_centres(size: int, step: int) -> np.ndarray:
    """(size / step,) where the centres of a map's cells lie in a row of pixels, for cells of `step` x `step` pixels.

    Raises:
        ValueError: if the cells do not fill the row.
    """
    if step < 1 or size % step:
        raise ValueError(f"cells of {step} px do not fill {size} px")
    return (np.arange(size // step, dtype=np.float32) + 0.5) * step - 0.5


def window_scores(codec: JointWindows, output: torch.Tensor, step: int = 1) -> torch.Tensor:
    """Evidence for every cell from a detection head: the sum of the log-odds of all windows that hold its centre.

    If a joint is at p, the windows that hold p should say yes and all others no. With windows that answer
    independently, the logarithm of that probability is this sum plus a constant. They are not independent, so the sum
    exaggerates, and it holds what the detector knows about usual places once for each window. A cell in no window
    scores 0.

    Args:
        output: logits (N, codec.outputs); step: side of a cell in pixels.

    Returns:
        (N, J, size / step, size / step).
    """
    grid = codec.grid
    line = torch.from_numpy(cell_centres(grid.size, step)).to(output.device)
    held = points_inside(torch.stack([line, line], -1)[None], grid)[0]             # (cells, side, side)
    along = held.any(dim=2).to(output.dtype)                                       # (cells, side): the rows of windows
    logits = output.reshape(len(output), len(codec.names), grid.side, grid.side)
    return torch.einsum("yi,nkij,xj->nkyx", along, logits, along)


def point_scores(points: torch.Tensor, variance: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Evidence from another estimate of each joint, such as a regressor's: a spring to a fixed place.

    Args:
        points: (N, J, 2) in cells; variance: (J, 2) of its error, in cells squared.

    Returns:
        (N, J, height, width): the logarithm of a Gaussian about the point, 0 at its centre.
    """
    along = [-(torch.arange(side, device=points.device) - points[..., axis, None]) ** 2 / (2 * variance[:, axis, None])
             for axis, side in ((0, width), (1, height))]
    return along[1][..., :, None] + along[0][..., None, :]


# ----------------------------------------------------------------------------------------------- the distance transform

ByJoint = dict[int, torch.Tensor]
"""A tensor for each joint, by the joint's index."""
Transform = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def distance_transform(scores: torch.Tensor, offset: torch.Tensor,
                       variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The best child for every place of the parent, one axis after the other (Felzenszwalb & Huttenlocher 2012).

    best(p) = max over q of scores(q) - (q_x - p_x - offset_x)^2 / (2 variance_x) - the same for y.

    Args:
        scores: (N, H, W); offset, variance: (2,) x and y, in cells; the offset need not be whole.

    Returns:
        best (N, H, W), and where (N, H, W, 2): the q that reaches it, x and y, int64.
    """
    n, height, width = scores.shape
    along_y, where_y = _best_of_line(scores.transpose(1, 2).reshape(-1, height), offset[1], variance[1])
    along_y, where_y = (part.reshape(n, width, height).transpose(1, 2) for part in (along_y, where_y))
    best, where_x = _best_of_line(along_y.reshape(-1, width), offset[0], variance[0])
    best, where_x = best.reshape(n, height, width), where_x.reshape(n, height, width)
    return best, torch.stack([where_x, where_y.gather(2, where_x)], dim=-1)


def _best_of_line(values: torch.Tensor, offset: torch.Tensor,
                  variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In one dimension, for many lines (L, n) at once: the upper envelope of n parabolas, read at p + offset.

    Cell q stands for the parabola values[q] - a (x - q)^2. Going from left to right, a new parabola takes over from the
    last one on the envelope where they cross, and is higher from there on, since the difference of two of them is a
    straight line. If that is left of where the last one took over itself, the last one is nowhere the highest and is
    dropped. Each parabola is added once and dropped at most once: linear in n. The envelope is read by binary search.
    """
    lines, n = values.shape
    a = 1 / (2 * variance)
    everyone = torch.arange(lines, device=values.device)
    apex = torch.zeros(lines, n, dtype=torch.int64, device=values.device)     # cells on the envelope, left to right
    begins = values.new_full((lines, n), math.inf)                            # from which x on each is the highest
    last = torch.full((lines,), -1, device=values.device)                     # place of the last one in these lists
    level = values - a * torch.arange(n, device=values.device, dtype=values.dtype) ** 2
    for q in range(n):
        added = everyone[values[:, q] > -math.inf]
        crossing, waiting = values.new_full((lines,), -math.inf), added[last[added] >= 0]
        while len(waiting):
            k = last[waiting]
            rival = apex[waiting, k]
            x = (level[waiting, rival] - level[waiting, q]) / (2 * a * (q - rival))
            crossing[waiting] = x
            beaten = x <= begins[waiting, k]
            last[waiting[beaten]] -= 1
            waiting = waiting[beaten]             # the first one begins at -inf, and is never beaten
        last[added] += 1
        apex[added, last[added]] = q
        begins[added, last[added]] = crossing[added]
    begins = torch.where(torch.arange(n, device=values.device) <= last[:, None], begins, math.inf)
    x = torch.arange(n, device=values.device, dtype=values.dtype) + offset
    k = torch.searchsorted(begins, x.expand(lines, n).contiguous(), right=True) - 1
    where = apex.gather(1, k.clamp(min=0))
    return values.gather(1, where) - a * (x - where) ** 2, where


# ------------------------------------------------------------------------------------------------- the best pose


@dataclass(frozen=True)
class BestPose:
    """joints (N, J, 2) in cells, x and y; score (N,) of the whole pose; component (N, J) of each spring, int64."""

    joints: torch.Tensor
    score: torch.Tensor
    component: torch.Tensor


def best_pose(springs: Springs, scores: torch.Tensor, transform: Transform = distance_transform) -> BestPose:
    """The pose with the highest score of all, exactly: messages from the leaves to the root, then back from the root's
    best place.

    A joint without evidence (scores that are all the same) gets its place from its neighbours.

    Args:
        scores: (N, J, H, W) evidence; -inf forbids a cell.
        transform: what finds the best child; `distance_transform`, or a slower one in tests.

    Raises:
        ValueError: see `check_scores`.
    """
    check_scores(springs, scores)
    skeleton = springs.skeleton
    belief, _, component, place = upward(springs, scores, transform)
    n, _, _, width = scores.shape
    root = belief[skeleton.root].flatten(1)
    score, cell = root.max(dim=1)
    joints = torch.zeros(n, len(skeleton), 2, dtype=torch.int64, device=scores.device)
    joints[:, skeleton.root] = torch.stack([cell % width, cell // width], dim=-1)
    chosen = torch.zeros(n, len(skeleton), dtype=torch.int64, device=scores.device)
    everyone = torch.arange(n, device=scores.device)
    for j in skeleton.order_down[1:]:
        x, y = joints[:, skeleton.parents[j]].unbind(-1)
        chosen[:, j] = component[j][everyone, y, x]
        joints[:, j] = place[j][everyone, y, x]
    return BestPose(joints, score, chosen)


def max_marginals(springs: Springs, scores: torch.Tensor, transform: Transform = distance_transform) -> torch.Tensor:
    """(N, J, H, W): the score of the best pose that has joint j in this cell. Its maximum is the same for all joints.

    Raises:
        ValueError: see `check_scores`.
    """
    check_scores(springs, scores)
    skeleton = springs.skeleton
    belief, messages, _, _ = upward(springs, scores, transform)
    from_above = {skeleton.root: torch.zeros_like(scores[:, 0])}
    children = _children(skeleton)
    for j in skeleton.order_down[1:]:
        parent = skeleton.parents[j]
        others = sum((messages[c] for c in children[parent] if c != j), torch.zeros_like(scores[:, 0]))
        rest = _weighted(springs, scores, parent) + from_above[parent] + others
        from_above[j] = _message(springs, j, rest, transform, down=True)[0]
    return torch.stack([belief[j] + from_above[j] for j in range(len(skeleton))], dim=1)


def upward(springs: Springs, scores: torch.Tensor,
           transform: Transform = distance_transform) -> tuple[ByJoint, ByJoint, ByJoint, ByJoint]:
    """Messages from the leaves to the root, the first half of `best_pose`. Four dictionaries by joint's index: belief
    (N, H, W), own evidence and all that comes from below; message (N, H, W) to the parent; the component (N, H, W) and
    the place (N, H, W, 2) that it stands for."""
    skeleton, children = springs.skeleton, _children(springs.skeleton)
    belief: ByJoint = {}
    messages: ByJoint = {}
    component: ByJoint = {}
    place: ByJoint = {}
    for j in reversed(skeleton.order_down):
        belief[j] = sum((messages[c] for c in children[j]), _weighted(springs, scores, j))
        if j != skeleton.root:
            messages[j], component[j], place[j] = _message(springs, j, belief[j], transform)
    return belief, messages, component, place


def _message(springs: Springs, j: int, belief: torch.Tensor, transform: Transform,
             down: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For every place of the parent the best of all components: score, component, place. `down`: the other way round,
    for every place of the child the best parent."""
    sign = -1 if down else 1
    existing = [m for m in range(springs.bias.shape[1]) if springs.bias[j, m] > -math.inf]
    each = [transform(belief, sign * springs.offset[j, m].to(belief), _effective_variance(springs, j, m).to(belief))
            for m in existing]
    values = torch.stack([best + springs.bias[j, m].to(best) for (best, _), m in zip(each, existing, strict=True)])
    best, index = values.max(dim=0)
    places = torch.stack([where for _, where in each])
    place = places.gather(0, index[None, ..., None].expand(1, *index.shape, 2))[0]
    return best, torch.tensor(existing, device=belief.device)[index], place


def _effective_variance(springs: Springs, j: int, m: int) -> torch.Tensor:
    return springs.variance[j, m] / springs.stiffness[j]


def _weighted(springs: Springs, scores: torch.Tensor, j: int) -> torch.Tensor:
    """(N, H, W) a joint's evidence with its weight; whatever the weight, forbidden cells stay forbidden."""
    forbidden = scores[:, j] == -math.inf
    # Filled before the product, since its gradient would be 0 times infinity there.
    return (scores[:, j].masked_fill(forbidden, 0) * springs.evidence[j].to(scores)).masked_fill(forbidden, -math.inf)


def _children(skeleton: Skeleton) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {j: [] for j in range(len(skeleton))}
    for j in skeleton.order_down[1:]:
        found[int(skeleton.parents[j])].append(j)
    return found


def check_scores(springs: Springs, scores: torch.Tensor) -> None:
    """Raises `ValueError` for score maps (N, J, H, W) that no inference can use: another number of joints, NaN or
    +infinity, a map without any finite value, or maps smaller than a spring is long."""
    skeleton = springs.skeleton
    if scores.ndim != 4 or scores.shape[1] != len(skeleton):
        raise ValueError(f"scores for {skeleton.name} must be (N, {len(skeleton)}, H, W), not {tuple(scores.shape)}")
    bad = torch.isnan(scores) | (scores == math.inf)
    if bad.any():
        image, joint = bad.flatten(2).any(dim=2).nonzero()[0].tolist()
        raise ValueError(f"the score map of image {image}, {skeleton.joints[joint]}, holds NaN or infinity")
    empty = (scores == -math.inf).flatten(2).all(dim=2)
    if empty.any():
        image, joint = empty.nonzero()[0].tolist()
        raise ValueError(f"the score map of image {image}, {skeleton.joints[joint]}, has no finite value; where a "
                         "joint has no evidence, give it the same score everywhere")
    hangs = torch.arange(len(skeleton), device=springs.bias.device) != skeleton.root
    there = hangs[:, None] & (springs.bias > -math.inf)
    used = torch.where(there[..., None], springs.offset.abs(), 0).amax(dim=(0, 1))
    for axis, (side, name) in enumerate(((scores.shape[3], "wide"), (scores.shape[2], "high"))):
        if used[axis] >= side:
            raise ValueError(f"maps that are {side} cells {name} are smaller than a spring of {used[axis]:.1f} cells; "
                             "springs and maps must have the same scale")


# ------------------------------------------------------------------------------------------------- the whole posterior


@dataclass(frozen=True)
class Posterior:
    """All poses at once, with probability proportional to exp(score), where the exponentials of a spring's components
    are summed, not the largest taken.

    Attributes:
        springs: of the model; belief: (N, J, H, W) float64: each joint's evidence and all that comes from below it.
        log_partition: (N,) float64, the logarithm of the sum of exp(score) over all poses.
        marginals: (N, J, H, W) float64: the probability of each joint in each cell.
    """

    springs: Springs
    belief: torch.Tensor
    log_partition: torch.Tensor
    marginals: torch.Tensor

    def sample(self, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """(N, count, J, 2) poses drawn from the posterior, int64, x and y: the root from its marginal, every other
        joint given its parent."""
        skeleton = self.springs.skeleton
        n, _, height, width = self.belief.shape
        poses = torch.zeros(n, count, len(skeleton), 2, dtype=torch.int64, device=self.belief.device)
        root = self.marginals[:, skeleton.root].flatten(1)
        cells = torch.multinomial(root, count, replacement=True, generator=generator)
        poses[:, :, skeleton.root] = torch.stack([cells % width, cells // width], dim=-1)
        for j in skeleton.order_down[1:]:
            parents = poses[:, :, skeleton.parents[j]]
            likely = self.belief[:, None, j] + _spring_from(self.springs, j, parents, height, width)
            flat = torch.softmax(likely.flatten(2), dim=-1).flatten(0, 1)
            cells = torch.multinomial(flat, 1, generator=generator).reshape(n, count)
            poses[:, :, j] = torch.stack([cells % width, cells // width], dim=-1)
        return poses


def posterior(springs: Springs, scores: torch.Tensor) -> Posterior:
    """The posterior by sum-product: like `best_pose`, with sums in place of maxima. In float64.

    A message is the belief blurred by the spring's Gaussian, one axis after the other. Exact but for a floor: what is
    less than `TINY` of the largest term of its line counts as `TINY`.

    Raises:
        ValueError: see `check_scores`.
    """
    check_scores(springs, scores)
    scores = scores.double()
    skeleton, children = springs.skeleton, _children(springs.skeleton)
    belief, messages = _sum_upward(springs, scores)
    from_above = {skeleton.root: torch.zeros_like(scores[:, 0])}
    for j in skeleton.order_down[1:]:
        parent = int(skeleton.parents[j])
        others = sum((messages[c] for c in children[parent] if c != j), torch.zeros_like(scores[:, 0]))
        from_above[j] = _blurred(springs, j, _weighted(springs, scores, parent) + from_above[parent] + others, -1)
    total = torch.logsumexp(belief[skeleton.root].flatten(1), dim=1)
    marginals = torch.stack([torch.softmax((belief[j] + from_above[j]).flatten(1), dim=1).reshape(scores[:, 0].shape)
                             for j in range(len(skeleton))], dim=1)
    return Posterior(springs, torch.stack([belief[j] for j in range(len(skeleton))], dim=1), total, marginals)


def _sum_upward(springs: Springs, scores: torch.Tensor) -> tuple[ByJoint, ByJoint]:
    skeleton, children = springs.skeleton, _children(springs.skeleton)
    belief: ByJoint = {}
    messages: ByJoint = {}
    for j in reversed(skeleton.order_down):
        belief[j] = sum((messages[c] for c in children[j]), _weighted(springs, scores, j))
        if j != skeleton.root:
            messages[j] = _blurred(springs, j, belief[j], 1)
    return belief, messages


TINY = 1e-300
"""Keeps logarithms of sums finite. It matters only where all evidence contradicts a spring by hundreds of nats."""


def _blurred(springs: Springs, j: int, belief: torch.Tensor, sign: int) -> torch.Tensor:
    """log of the sum over q of exp(belief(q) + spring): (N, H, W) float64. sign 1 to the parent, -1 to the child."""
    _, height, width = belief.shape
    found = []
    for m in range(springs.bias.shape[1]):
        if springs.bias[j, m] == -math.inf:
            continue
        offset, variance = sign * springs.offset[j, m].double(), _effective_variance(springs, j, m).double()
        along_y = _log_blur(belief.transpose(1, 2), _kernel(height, offset[1], variance[1])).transpose(1, 2)
        found.append(_log_blur(along_y, _kernel(width, offset[0], variance[0])) + springs.bias[j, m].double())
    return torch.logsumexp(torch.stack(found), dim=0)


def _kernel(n: int, offset: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """(n, n): for place p (row) and cell q (column) exp(-(q - p - offset)^2 / (2 variance))."""
    cells = torch.arange(n, device=offset.device, dtype=torch.float64)
    return torch.exp(-(cells[None, :] - cells[:, None] - offset) ** 2 / (2 * variance))


def _log_blur(belief: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """log(kernel @ exp(belief)) along the last axis, without overflow."""
    highest = belief.amax(dim=-1, keepdim=True).clamp(min=-1e300)           # a line of -inf gives -1e300
    return (torch.exp(belief - highest) @ kernel.T).clamp(min=TINY).log() + highest


def _spring_from(springs: Springs, j: int, parents: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(N, C, H, W) float64: the spring's part of the score of joint j in every cell, components summed, for parents
    (N, C, 2)."""
    y, x = (torch.arange(side, device=parents.device, dtype=torch.float64) for side in (height, width))
    found = []
    for m in range(springs.bias.shape[1]):
        if springs.bias[j, m] == -math.inf:
            continue
        offset, variance = springs.offset[j, m].double(), _effective_variance(springs, j, m).double()
        along = [-(cells - parents[..., axis, None] - offset[axis]) ** 2 / (2 * variance[axis])
                 for axis, cells in ((0, x), (1, y))]
        found.append(along[1][..., :, None] + along[0][..., None, :] + springs.bias[j, m].double())
    return torch.logsumexp(torch.stack(found), dim=0)


def log_score(springs: Springs, scores: torch.Tensor, joints: torch.Tensor) -> torch.Tensor:
    """(N,) float64: the score of given poses (N, J, 2), whole cells x and y, components summed."""
    skeleton, everyone = springs.skeleton, torch.arange(len(scores), device=scores.device)
    x, y = joints.unbind(-1)
    evidence = sum(_weighted(springs, scores, j)[everyone, y[:, j], x[:, j]].double() for j in range(len(skeleton)))
    away = (joints - joints[:, skeleton.parents]).double()
    strain = (away[:, :, None] - springs.offset) ** 2 / (2 * springs.variance)                    # (N, J, M, 2)
    each = springs.bias - springs.stiffness[:, None] * strain.sum(dim=-1)
    others = torch.tensor([j for j in range(len(skeleton)) if j != skeleton.root], device=scores.device)
    return evidence + torch.logsumexp(each, dim=2)[:, others].sum(dim=1)


def learn_weights(springs: Springs, scores: torch.Tensor, joints: torch.Tensor, steps: int = 25,
                  rate: float = 0.2, pull: float = 1e-2) -> Springs:
    """Weights of evidence and stiffness of every joint, by maximum likelihood of the true poses.

    Likelihood and not a structured hinge: it asks for no margin and no task loss to be chosen. Springs and scores alone
    count the same evidence several times (windows overlap), which the weights repair. A few steps of Adam; the images
    should be others than those that the evidence was trained on, or it is trusted too much.

    Args:
        scores: (N, J, H, W); joints: (N, J, 2) true poses in cells, all labelled; rounded, and clamped to the map.
        steps, rate: of Adam; pull: penalty on the squared logarithms of the weights, towards 1.

    Returns:
        The springs with new weights.

    Raises:
        ValueError: see `check_scores`; also if a true joint lies in a forbidden cell.
    """
    check_scores(springs, scores)
    height, width = scores.shape[2:]
    true = joints.round().long()
    true = torch.stack([true[..., 0].clamp(0, width - 1), true[..., 1].clamp(0, height - 1)], dim=-1)
    if not torch.isfinite(log_score(springs, scores, true)).all():
        raise ValueError("a true joint lies in a cell that its scores forbid")
    logs = [torch.zeros(len(springs.skeleton), dtype=torch.float64, device=scores.device, requires_grad=True)
            for _ in range(2)]
    optimizer = torch.optim.Adam(logs, lr=rate)
    for _ in range(steps):
        now = replace(springs, evidence=(springs.evidence.double() * logs[0].exp()),
                      stiffness=(springs.stiffness.double() * logs[1].exp()))
        belief, _ = _sum_upward(now, scores.double())
        total = torch.logsumexp(belief[springs.skeleton.root].flatten(1), dim=1)
        loss = (total - log_score(now, scores, true)).mean() + pull * sum((w ** 2).sum() for w in logs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    evidence, stiffness = (w.detach().exp() for w in logs)
    return replace(springs, evidence=(springs.evidence * evidence).float(),
                   stiffness=(springs.stiffness * stiffness).float())
