"""What a message costs: the generalised distance transform against trying every pair of cells.

    OMP_NUM_THREADS=1 python benchmarks/pictorial.py             # a minute; prints a table
    OMP_NUM_THREADS=1 python benchmarks/pictorial.py --write     # also stores pictorial.json

All take turns in one process, on the same maps. Wanted: at least 50 times as fast at 64 x 64 cells as trying every pair
of cells, as the plain version does that the tests compare with (tests/test_pictorial.py). Most of that is already won
by doing one axis after the other; "pairs along axes" shows how much.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from posebook import pictorial, results

SIDES = (16, 32, 64)
MAPS = 32
"""Maps at a time: with few of them, Python's own time for each step of the envelope counts."""


def along_axes(scores: torch.Tensor, offset: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """The message by trying every pair along each axis: two tables in place of the envelope."""
    for axis in (1, 0):                                          # y, then x
        cells = torch.arange(scores.shape[-1 if axis == 0 else -2])
        table = -(cells[None, :] - cells[:, None] - offset[axis]) ** 2 / (2 * variance[axis])
        lines = scores if axis == 0 else scores.transpose(1, 2)
        best = (lines[..., None, :] + table).amax(dim=-1)
        scores = best if axis == 0 else best.transpose(1, 2)
    return scores


def seconds(work, turns: int) -> float:
    """Median time of a call."""
    taken = []
    for _ in range(turns):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a message costs; see the head of this file.")
    parser.add_argument("--write", action="store_true", help="store the numbers in benchmarks/pictorial.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from test_pictorial import quadratic
    offset, variance = torch.tensor([3.3, -5.2]), torch.tensor([9.0, 16.0])
    rows, found = [], {}
    for side in SIDES:
        maps = torch.randn(MAPS, side, side, generator=torch.Generator().manual_seed(0)) * 3
        envelope, _ = pictorial.distance_transform(maps, offset, variance)
        torch.testing.assert_close(along_axes(maps, offset, variance), envelope)
        ways = {"linear": [], "along_axes": [], "quadratic": []}
        for _ in range(3):
            ways["linear"].append(seconds(lambda maps=maps: pictorial.distance_transform(maps, offset, variance), 3))
            ways["along_axes"].append(seconds(lambda maps=maps: along_axes(maps, offset, variance), 3))
            few = maps[:4]                                        # each map alone costs the same
            ways["quadratic"].append(seconds(lambda few=few: quadratic(few, offset, variance), 1) * MAPS / len(few))
        linear, axes, slow = (float(np.median(ways[name])) for name in ways)
        found[str(side)] = {"linear_seconds": linear, "along_axes_seconds": axes, "quadratic_seconds": slow,
                            "ratio": slow / linear}
        rows.append([f"{side} x {side}", linear * 1e3, axes * 1e3, slow * 1e3, slow / linear])
    print(results.table([f"{MAPS} maps of cells", "envelope, ms", "pairs along axes, ms", "every pair, ms",
                         "envelope: times as fast as every pair"], rows, 1))
    if options.write:
        record = {"maps": MAPS, "sides": found, "environment": results.environment()}
        results.write_record(Path(__file__).with_suffix(".json"), record)


if __name__ == "__main__":
    main()
