"""What a message of the pictorial structure costs: the generalised distance transform (envelopes) against trying every
pair of cells, as the plain version does that the tests compare with (tests/test_pictorial.py). Most is already won by
doing one axis after the other; "pairs along each axis" shows how much.
"""

from __future__ import annotations

import torch
from common import Row, from_tests, in_turns, median, ratio

from posebook import pictorial

MAPS, FEW = 32, 4
"""Maps at a time (with few of them, Python's own time for each step of the envelope counts); maps for the slowest way,
where each map alone costs the same."""


def along_axes(scores: torch.Tensor, offset: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """The message by trying every pair along each axis: two tables in place of the envelope."""
    for axis in (1, 0):                                          # y, then x
        cells = torch.arange(scores.shape[-1 if axis == 0 else -2])
        table = -(cells[None, :] - cells[:, None] - offset[axis]) ** 2 / (2 * variance[axis])
        lines = scores if axis == 0 else scores.transpose(1, 2)
        best = (lines[..., None, :] + table).amax(dim=-1)
        scores = best if axis == 0 else best.transpose(1, 2)
    return scores


def measure(quick: bool = False) -> list[Row]:
    quadratic = from_tests("test_pictorial").quadratic
    offset, variance = torch.tensor([3.3, -5.2]), torch.tensor([9.0, 16.0])
    rows = []
    for side in (16,) if quick else (16, 32, 64):
        maps = torch.randn(MAPS, side, side, generator=torch.Generator().manual_seed(0)) * 3
        envelope, _ = pictorial.distance_transform(maps, offset, variance)
        torch.testing.assert_close(along_axes(maps, offset, variance), envelope)
        seconds = in_turns({"envelopes": lambda maps=maps: pictorial.distance_transform(maps, offset, variance),
                            "axes": lambda maps=maps: along_axes(maps, offset, variance),
                            "pairs": lambda maps=maps: quadratic(maps[:FEW], offset, variance)}, 3)
        seconds["pairs"] *= MAPS / FEW
        rows += [Row(f"{MAPS} messages of {side} x {side} cells, envelopes: times as fast as every pair",
                     ratio(seconds["pairs"], seconds["envelopes"]), 50 if side == 64 else None, True,
                     median(seconds["envelopes"])),
                 Row(f"{MAPS} messages of {side} x {side} cells, pairs along each axis: times as fast as every pair",
                     ratio(seconds["pairs"], seconds["axes"]), None, True, median(seconds["axes"]))]
    return rows
