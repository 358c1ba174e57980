"""Codecs: how a pose becomes numbers that a network is asked for, and how its answer becomes a pose again.

A codec has `encode`, `loss` and `decode`; the training loop knows nothing else about a task. `Coordinates` is the
2D regression target, `ParentRelative` paper B's in 3D; `JointWindows` and `PartWindows` are the two detection targets
on a `WindowGrid`. `HeatMaps`, `SoftArgmax` and `ResidualLikelihood` are what came after the papers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from posebook.geometry import from_parent_relative, to_parent_relative
from posebook.skeleton import ABSENT, H36M17, Skeleton

MAP_STRIDE = 4
"""Input pixels in a cell of a heat map, in a row: 16 x 16 cells at 64 px (Simple Baselines: 64 x 48 at 256 x 192)."""


def _without_absent(joints: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """Joints (N, J, D) with absent ones at zero: whatever they hold, 0 times infinity is no number and would leak."""
    return torch.where((state != ABSENT)[..., None], joints, 0)


@dataclass(frozen=True)
class Coordinates:
    """The regression target of paper A: joint coordinates over the side of the crop, (x, y) / size.

    Attributes:
        joints: number of joints J; the network's head has 2 J outputs, x and y of each joint in turn.
        size: side of the network's input in pixels.
    """

    joints: int
    size: int

    @property
    def outputs(self) -> int:
        """Numbers in the network's answer: x and y of each joint in turn."""
        return 2 * self.joints

    def encode(self, joints: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pose to target.

        Joints outside the picture are left out, as in the authors' code: the network cannot see them.

        Args:
            joints: (N, J, 2) in input pixels; state: (N, J).

        Returns:
            target (N, 2 J) float32, and mask (N, 2 J) float32, 1 where the number counts.
        """
        inside = ((joints > -0.5) & (joints < self.size - 0.5)).all(dim=-1)
        mask = (inside & (state != ABSENT)).float().repeat_interleave(2, dim=1)
        return _without_absent(joints, state).flatten(1) / self.size, mask

    def loss(self, output: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Mean squared error over the numbers that count; zero if none does. Computed in float32."""
        return ((output.float() - target) ** 2 * mask).sum() / mask.sum().clamp(min=1)

    def decode(self, output: torch.Tensor) -> torch.Tensor:
        """Network output (N, 2 J) to joints (N, J, 2) in input pixels."""
        return output.float().unflatten(1, (self.joints, 2)) * self.size


@dataclass(frozen=True)
class ParentRelative:
    """The regression target of paper B: every joint minus its parent, in camera coordinates, over `scale`.

    Short offsets vary less than places, both sides share the lengths of their limbs, and a hidden joint can be guessed
    from its neighbour (the paper's reasons). They fit into a tanh, since no bone has 1200 mm.

    Attributes:
        skeleton: names the joints and their parents; the head has 3 J outputs, x, y and z of each joint in turn.
        size: side of the network's input in pixels; scale: millimetres that become 1 (paper B, code: 1200).
    """

    skeleton: Skeleton
    size: int
    scale: float = 1200.0

    @property
    def outputs(self) -> int:
        """Numbers in the network's answer: x, y and z of each joint in turn."""
        return 3 * len(self.skeleton)

    def encode(self, joints: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pose to target.

        The root does not count, as it is always zero; nor does an offset of which one end is absent.

        Args:
            joints: (N, J, 3) camera millimetres; state: (N, J).

        Returns:
            target (N, 3 J) float32, and mask (N, 3 J) float32, 1 where the number counts.
        """
        labelled = state != ABSENT
        both = labelled & labelled[:, self.skeleton.parents]
        both[:, self.skeleton.root] = False
        target = torch.where(both[..., None], to_parent_relative(joints, self.skeleton), 0) / self.scale
        return target.flatten(1), both.float().repeat_interleave(3, dim=1)

    def loss(self, output: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Mean squared error over the numbers that count; zero if none does. Computed in float32.

        Paper B adds 1/2 of the *sum* over the numbers to 1/2 of the sum over the windows; of means, as here,
        the same balance would need the weight 1700 / 51 = 33 for the detection.
        """
        return ((output.float() - target) ** 2 * mask).sum() / mask.sum().clamp(min=1)

    def decode(self, output: torch.Tensor) -> torch.Tensor:
        """Network output (N, 3 J) to joints (N, J, 3) in millimetres, the root at zero: added up down the tree."""
        offsets = output.float().unflatten(1, (len(self.skeleton), 3)) * self.scale
        return from_parent_relative(offsets, self.skeleton)


@dataclass(frozen=True)
class WindowGrid:
    """Square windows that slide over a square picture; window k of a row covers the pixels `stride` k to
    `stride` k + `window` - 1 (paper A, code).

    A row has ceil((size - window) / stride) + 1 windows, so the last one may reach past the border. Paper A: 112 px,
    windows of 30 in steps of 12, 8 x 8; paper B: steps of 10, 10 x 10.

    Attributes:
        size: side of the network's input; window: side of a window; stride: step; all in pixels.

    Raises:
        ValueError: for a number below 1, or a window larger than the picture.
    """

    size: int
    window: int = 30
    stride: int = 12

    def __post_init__(self) -> None:
        if min(self.size, self.window, self.stride) < 1:
            raise ValueError(f"size, window and stride must be at least 1 pixel, not {self.size}, {self.window}, "
                             f"{self.stride}")
        if self.window > self.size:
            raise ValueError(f"a window of {self.window} px does not fit into a picture of {self.size} px")

    @property
    def side(self) -> int:
        """Windows in a row."""
        return -(-(self.size - self.window) // self.stride) + 1

    def edges(self, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Lower and upper edges (side,) of the windows of a row. A pixel's centre lies half a pixel inside its edges,
        so window 0 reaches from -0.5 up to, but not including, `window` - 0.5."""
        low = torch.arange(self.side, device=device) * self.stride - 0.5
        return low, low + self.window

    def centres(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """(side, side, 2): x and y of the centre of the window in row i, column j."""
        low, high = self.edges(device)
        middle = (low + high) / 2
        return torch.stack(torch.meshgrid(middle, middle, indexing="xy"), dim=-1)


def paper_a_grid(crop: int = 64) -> WindowGrid:
    """Paper A's 8 x 8 windows for an input of any size: 30 px in steps of 12 at 112 px, 17 in steps of 7 at 64 px."""
    return WindowGrid(crop, round(30 * crop / 112), round(12 * crop / 112))


def paper_b_grid(crop: int = 112) -> WindowGrid:
    """Paper B's windows for an input of any size: 30 px in steps of 10 at 112 px, 10 x 10 of them.

    That is what the authors' code and their released demo do; the paper's text says windows of 10 px in steps of 10.
    At 64 px it is 17 in steps of 6, 9 x 9.
    """
    return WindowGrid(crop, round(30 * crop / 112), round(10 * crop / 112))


def points_inside(points: torch.Tensor, grid: WindowGrid) -> torch.Tensor:
    """Which windows hold which points: (N, K, 2) -> (N, K, side, side) bool, rows (y) before columns (x).

    Half open: a window owns its left and upper edge but not its right and lower one, so it covers exactly `window`
    pixels, and a point on an edge has one answer (paper A's joint label, code).
    """
    low, high = grid.edges(points.device)
    held = (points[..., None] >= low) & (points[..., None] < high)  # (N, K, 2, side)
    return held[..., 1, :, None] & held[..., 0, None, :]


def share_inside(start: torch.Tensor, end: torch.Tensor, grid: WindowGrid) -> torch.Tensor:
    """Which share of a straight piece lies in which window: ends (N, K, 2) -> (N, K, side, side) in 0..1.

    The piece is start + t (end - start) for t from 0 to 1. Each window is a range of x times a range of y, and each
    range cuts out an interval of t; where the two intervals overlap the piece is inside. A piece without length
    is a point: its share is 0 or 1.
    """
    low, high = grid.edges(start.device)
    first, last = _interval(start[..., None], (end - start)[..., None], low, high)  # (N, K, 2, side)
    begin = torch.maximum(first[..., 1, :, None], first[..., 0, None, :])
    finish = torch.minimum(last[..., 1, :, None], last[..., 0, None, :])
    return (finish - begin).clamp(min=0)


def _interval(start: torch.Tensor, step: torch.Tensor, low: torch.Tensor,
              high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First and last t in 0..1 with low <= start + t step < high; (0, 0) where there is none."""
    still = step == 0
    safe = torch.where(still, torch.ones_like(step), step)
    to_low, to_high = (low - start) / safe, (high - start) / safe
    first = torch.minimum(to_low, to_high).clamp(0, 1)
    last = torch.maximum(to_low, to_high).clamp(0, 1)
    held = ((start >= low) & (start < high)).to(first.dtype)
    return torch.where(still, torch.zeros_like(first), first), torch.where(still, held, last)


@dataclass(frozen=True)
class _Windows:
    """What the two detection codecs share: one yes-or-no question for each of K things and each window."""

    skeleton: Skeleton
    grid: WindowGrid

    @property
    def names(self) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def outputs(self) -> int:
        """Numbers in the network's answer: logits of all windows (rows, then columns) of each thing in turn."""
        return len(self.names) * self.grid.side ** 2

    @property
    def size(self) -> int:
        """Side of the network's input."""
        return self.grid.size

    def loss(self, output: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Mean logistic loss over the windows that count; zero if none does. `output` are logits; in float32."""
        each = functional.binary_cross_entropy_with_logits(output.float(), target, reduction="none")
        return (each * mask).sum() / mask.sum().clamp(min=1)

    def probabilities(self, output: torch.Tensor) -> torch.Tensor:
        """Logits (N, outputs) to (N, K, side, side) in 0..1."""
        return torch.sigmoid(output.float()).unflatten(1, (len(self.names), self.grid.side, self.grid.side))

    def decode(self, output: torch.Tensor, hard: bool = False) -> torch.Tensor:
        """Logits (N, outputs) to one point for each thing, (N, K, 2) in input pixels.

        Soft: the mean of the window centres, weighted by their probabilities. Hard: the centre of the most probable
        window (the first of equals), the authors' box.
        """
        probability = self.probabilities(output).flatten(2)
        centres = self.grid.centres(output.device).reshape(-1, 2)
        if hard:
            return centres[probability.argmax(dim=-1)]
        return probability @ centres / probability.sum(dim=-1, keepdim=True).clamp(min=1e-12)

    def paint(self, probability: torch.Tensor, sigma: float | None = None) -> torch.Tensor:
        """Paper A's picture of a detection: a Gaussian at every window's centre, weighted by its probability.

        Args:
            probability: (N, K, side, side); sigma: in pixels, default half a window (paper A, code: 15 of 30).

        Returns:
            (N, K, size, size), not normalised.
        """
        low, high = self.grid.edges(probability.device)
        pixels = torch.arange(self.grid.size, device=probability.device)
        away = pixels[None, :] - ((low + high) / 2)[:, None]
        bump = torch.exp(-away ** 2 / (2 * (sigma or self.grid.window / 2) ** 2))  # (side, size)
        return torch.einsum("nkij,iy,jx->nkyx", probability, bump, bump)

    def _spread(self, labels: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """labels (N, K, side, side) and counts (N, K) as flat float32 target and mask."""
        return labels.float().flatten(1), counts.float().repeat_interleave(self.grid.side ** 2, dim=1)


@dataclass(frozen=True)
class JointWindows(_Windows):
    """Joint-point detection: is this joint in this window? (Paper A, code.)

    Occluded joints count like visible ones, absent joints do not. A joint beyond the last window is in none: all its
    windows say no.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """What is asked about: the joints."""
        return self.skeleton.joints

    def encode(self, joints: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Joints (N, J, 2) in input pixels and state (N, J) to target and mask, (N, outputs) float32 of 0 and 1."""
        return self._spread(points_inside(joints, self.grid), state != ABSENT)


@dataclass(frozen=True)
class PartWindows(_Windows):
    """Body-part detection: does more than `share` of this limb's length lie in this window? (Paper A, code: 0.3.)

    Attributes:
        share: of the limb's length; without: limbs that are never asked about, by name, as the authors' code can do.

    Raises:
        ValueError: if the share is not between 0 and 1, or `without` names no limb of the skeleton or leaves none.
    """

    share: float = 0.3
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"the share of a part must be at least 0 and below 1, not {self.share}")
        if unknown := sorted(set(self.without) - set(self.skeleton.limb_names)):
            raise ValueError(f"{self.skeleton.name} has no part {', '.join(unknown)}; it has "
                             f"{', '.join(self.skeleton.limb_names)}")
        if set(self.without) >= set(self.skeleton.limb_names):
            raise ValueError("no part would be left to detect")

    @property
    def names(self) -> tuple[str, ...]:
        """What is asked about: the limbs."""
        return tuple(self.skeleton.limb_names)

    def encode(self, joints: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Joints (N, J, 2) in input pixels and state (N, J) to target and mask, (N, outputs) float32 of 0 and 1.

        A part with an absent joint does not count.
        """
        weights = torch.from_numpy(self.skeleton.limb_weights).to(joints)
        labelled = state != ABSENT
        start, end = torch.einsum("elj,njd->enld", weights, _without_absent(joints, state))
        needed = weights.sum(dim=0) > 0                                                     # (L, J)
        counts = (labelled[:, None, :] | ~needed).all(dim=-1)
        if self.without:
            asked = torch.tensor([name not in self.without for name in self.names], device=joints.device)
            counts = counts & asked
        return self._spread(share_inside(start, end, self.grid) > self.share, counts)


@dataclass(frozen=True)
class _Maps:
    """What the two codecs with a map for each joint share: `side` x `side` cells over a picture of `size` pixels."""

    joints: int
    size: int
    side: int

    @property
    def outputs(self) -> int:
        """Numbers in the network's answer: the cells (rows, then columns) of each joint's map in turn."""
        return self.joints * self.side ** 2

    @property
    def cell(self) -> float:
        """Side of a cell in input pixels."""
        return self.size / self.side

    def to_cells(self, joints: torch.Tensor) -> torch.Tensor:
        """Pixels to cells: the centre of the first cell is (0, 0) there, as that of the first pixel is here."""
        return (joints + 0.5) / self.cell - 0.5

    def to_pixels(self, cells: torch.Tensor) -> torch.Tensor:
        """Undo `to_cells`. Leaving out the halves moves every joint by half a cell less half a pixel."""
        return (cells + 0.5) * self.cell - 0.5

    def maps(self, output: torch.Tensor) -> torch.Tensor:
        """Network output (N, outputs) to maps (N, J, side, side) in float32."""
        return output.float().unflatten(1, (self.joints, self.side, self.side))


@dataclass(frozen=True)
class HeatMaps(_Maps):
    """A map for each joint that is high where the joint is: the target of Simple Baselines (Xiao et al. 2018), after
    Tompson et al. (2014).

    Attributes:
        joints: number of joints; size: side of the network's input in pixels; side: of a map in cells.
        sigma: standard deviation in cells of the Gaussian around the joint, which has height 1.
    """

    sigma: float = 1.0

    def encode(self, joints: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Joints (N, J, 2) in input pixels and state (N, J) to target and mask, (N, outputs) float32. Joints that are
        absent or outside the picture do not count, as in `Coordinates`."""
        inside = ((joints > -0.5) & (joints < self.size - 0.5)).all(dim=-1) & (state != ABSENT)
        cells = torch.arange(self.side, device=joints.device)
        joints = _without_absent(joints, state)
        bump = torch.exp(-(self.to_cells(joints)[..., None] - cells) ** 2 / (2 * self.sigma ** 2))   # (N, J, 2, side)
        target = bump[..., 1, :, None] * bump[..., 0, None, :]
        return target.float().flatten(1), inside.float().repeat_interleave(self.side ** 2, dim=1)

    def loss(self, output: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Mean squared error over the cells that count; zero if none does. Computed in float32."""
        return ((output.float() - target) ** 2 * mask).sum() / mask.sum().clamp(min=1)

    def decode(self, output: torch.Tensor) -> torch.Tensor:
        """Network output (N, outputs) to joints (N, J, 2) in input pixels: the highest cell, moved by a quarter of a
        cell towards the higher of its two neighbours in each direction, as Simple Baselines does. Even of a perfect map
        the answer is off by up to a quarter of a cell, and by half a one at the border."""
        maps = self.maps(output)
        y, x = (part.long() for part in _highest(maps))
        padded = functional.pad(maps, (1, 1, 1, 1), mode="reflect").flatten(2)         # no lean at the border

        def near(dx: int, dy: int) -> torch.Tensor:
            index = (y + 1 + dy) * (self.side + 2) + x + 1 + dx
            return padded.gather(2, index[..., None])[..., 0]

        lean = torch.stack([near(1, 0) - near(-1, 0), near(0, 1) - near(0, -1)], dim=-1).sign()
        return self.to_pixels(torch.stack([x, y], dim=-1) + 0.25 * lean)


def _highest(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, J, side, side) to row and column (N, J) of each map's highest cell, the first of equals."""
    place = maps.flatten(2).argmax(dim=-1)
    return torch.div(place, maps.shape[-1], rounding_mode="floor"), place % maps.shape[-1]


@dataclass(frozen=True)
class SoftArgmax(_Maps):
    """Integral regression (Sun et al. 2018): the map becomes a distribution by a softmax, the joint is its mean.

    Unlike the highest cell the mean can be differentiated, so the loss is on the coordinates, and unlike it the mean
    is finer than a cell. No heat map is prescribed: the network finds its own.

    Attributes:
        joints: number of joints; size: side of the network's input in pixels; side: of a map in cells.
    """

    def encode(self, joints: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Coordinates.encode`."""
        return Coordinates(self.joints, self.size).encode(joints, state)

    def loss(self, output: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Mean absolute error over the coordinates that count (the paper found it better than the squared one); zero if
        none does. In float32."""
        return ((self.decode(output).flatten(1) / self.size - target).abs() * mask).sum() / mask.sum().clamp(min=1)

    def decode(self, output: torch.Tensor) -> torch.Tensor:
        """Network output (N, outputs) to joints (N, J, 2) in input pixels."""
        chance = self.maps(output).flatten(2).softmax(dim=-1).unflatten(2, (self.side, self.side))
        cells = torch.arange(self.side, dtype=torch.float32, device=output.device)
        return self.to_pixels(torch.stack([chance.sum(dim=2) @ cells, chance.sum(dim=3) @ cells], dim=-1))


@dataclass(frozen=True)
class ResidualLikelihood:
    """Residual log-likelihood estimation, RLE (Li et al. 2021): regression that also says how sure it is, and
    learns what shape its errors have.

    The answer is a place and, through a sigmoid, a size of the error for every coordinate. The loss is minus the log
    likelihood of the true place. Its density is a Laplace one times a correction that a small flow learns
    (`networks.ResidualDensity`, which lives in the network beside the head); after training only the place is needed.

    Attributes:
        joints: number of joints J; size: side of the network's input in pixels. The head has 4 J outputs: x and y of
            each joint, then the sizes of their errors, before the sigmoid.
    """

    joints: int
    size: int

    @property
    def outputs(self) -> int:
        """Numbers in the network's answer, see above."""
        return 4 * self.joints

    def encode(self, joints: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Coordinates.encode`: target and mask (N, 2 J)."""
        return Coordinates(self.joints, self.size).encode(joints, state)

    def loss(self, output: torch.Tensor, target: torch.Tensor, mask: torch.Tensor,
             density: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Mean over the joints that count of minus the log likelihood; zero if none counts. In float32.

        With the error in units of its predicted size: the Laplace density of each coordinate, the flow's density of
        both, and the size itself, twice, since both densities are of an error that was divided by it (the paper's
        equation 10, without its constant). `density`: errors (..., 2) to their learned log density (...).
        """
        place, size = output.float().split(2 * self.joints, dim=1)
        size = torch.sigmoid(size)
        error = (target - place) / (size + 1e-9)
        counts = mask.reshape(len(mask), self.joints, 2)[..., 0]
        laplace = (torch.log(2 * size) + error.abs()).reshape(*counts.shape, 2).sum(dim=-1)
        flow = torch.log(size).reshape(*counts.shape, 2).sum(dim=-1) - density(
            error.reshape(*counts.shape, 2))
        return ((laplace + flow) * counts).sum() / counts.sum().clamp(min=1)

    def decode(self, output: torch.Tensor) -> torch.Tensor:
        """Network output (N, 4 J) to joints (N, J, 2) in input pixels."""
        return Coordinates(self.joints, self.size).decode(output[:, :2 * self.joints])

    def sizes(self, output: torch.Tensor) -> torch.Tensor:
        """Network output (N, 4 J) to the predicted sizes of the errors (N, J, 2) in input pixels."""
        return torch.sigmoid(output[:, 2 * self.joints:].float()).reshape(len(output), self.joints, 2) * self.size


POSES = ("regression", "heatmaps", "softargmax", "rle")
"""Tasks whose answer decodes to a pose in the picture, every joint's place in pixels."""
TASKS = ("regression", "pose3d", "joints", "parts", "heatmaps", "softargmax", "rle")
"""What a network can be asked for, the names of its heads: joints in 2D, in 3D, the two detections, and three later
ways to joints in 2D."""
Codec = Coordinates | ParentRelative | JointWindows | PartWindows | HeatMaps | SoftArgmax | ResidualLikelihood


def build_codecs(tasks: tuple[str, ...], skeleton: Skeleton, size: int,
                 without: tuple[str, ...] = (), grid: WindowGrid | None = None) -> dict[str, Codec]:
    """The codecs of some tasks, in the order of `TASKS`.

    Args:
        size: side of the network's input, pixels; without: parts that are never asked about.
        grid: windows of the detections; default those of the paper whose skeleton it is, scaled to the input: paper B's
            for H36M17, paper A's for all others.

    Raises:
        ValueError: for an unknown task or part, or none.
    """
    if not tasks or set(tasks) - set(TASKS):
        raise ValueError(f"tasks must be some of {', '.join(TASKS)}, not {', '.join(tasks) or 'none'}")
    grid = grid or (paper_b_grid(size) if skeleton == H36M17 else paper_a_grid(size))
    makers: dict[str, Callable[[], Codec]] = {
        "regression": lambda: Coordinates(len(skeleton), size),
        "pose3d": lambda: ParentRelative(skeleton, size),
        "joints": lambda: JointWindows(skeleton, grid),
        "parts": lambda: PartWindows(skeleton, grid, without=without),
        "heatmaps": lambda: HeatMaps(len(skeleton), size, size // MAP_STRIDE),
        "softargmax": lambda: SoftArgmax(len(skeleton), size, size // MAP_STRIDE),
        "rle": lambda: ResidualLikelihood(len(skeleton), size)}
    return {task: makers[task]() for task in TASKS if task in tasks}
