"""A million poses through projection, Procrustes and MPJPE, on one thread."""

from __future__ import annotations

import numpy as np
from common import LARGE, Row, in_turns, median, product, ratio

from posebook import geometry, metrics

POSES, BLOCK, ALLOWED = 1_000_000, 100_000, 10.0
"""Poses; how many at a time; seconds allowed for all."""


def measure(quick: bool = False) -> list[Row]:
    count = BLOCK // 10 if quick else BLOCK
    rng = np.random.default_rng(0)
    true = rng.normal(0, 300, (count, 17, 3)).astype(np.float32) + np.float32([0, 0, 4000])
    predicted = true + rng.normal(0, 100, true.shape).astype(np.float32)
    state = np.full(true.shape[:2], 2)
    camera = np.array([[1000, 0, 500], [0, 1000, 500], [0, 0, 1]], np.float32)
    ways = {"projection": lambda: geometry.project(true, camera),
            "Procrustes": lambda: geometry.procrustes(predicted, true),
            "MPJPE": lambda: metrics.mpjpe(predicted, true, state, 0)}
    seconds = in_turns({**ways, "unit": product(LARGE)}, 2 if quick else 5)
    seconds = {name: value * (1 if name == "unit" else POSES / count) for name, value in seconds.items()}
    everything = sum(seconds[name] for name in ways)
    return [Row("a million poses, projection + Procrustes + MPJPE: of the 10 s allowed", median(everything) / ALLOWED,
                1, seconds=median(everything)),
            *(Row(f"a million poses, {name}: in matrix products ({LARGE})", ratio(seconds[name], seconds["unit"]),
                  seconds=median(seconds[name])) for name in ways)]
