"""What detection costs: window targets of a batch against a plain loop (the one in tests/test_targets.py), and a
training step with one, two and three tasks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from common import Row, Training, from_tests, in_turns, median, noise, ratio

from posebook.datasets import PoseDataset
from posebook.skeleton import LSP14
from posebook.targets import build_codecs

TASKS = {"regression": ("regression",), "joints": ("regression", "joints"), "parts": ("regression", "parts"),
         "both": ("regression", "joints", "parts")}
STEPS, TIMES = 2, 10
"""Steps of training in a turn, and encodings of a batch: one alone is too short to be timed."""


def targets_of(data: PoseDataset) -> dict[str, Callable[[], None]]:
    """Joint and part labels of a batch with the codecs, and with the loop."""
    by_hand = from_tests("test_targets").by_hand
    joints, state = torch.from_numpy(data.joints), torch.from_numpy(data.state)
    codecs = build_codecs(("joints", "parts"), LSP14, 64)
    grid = codecs["joints"].grid
    ends = np.einsum("elj,njd->neld", LSP14.limb_weights, data.joints)

    def loop() -> None:
        for pose, limbs in zip(data.joints, ends, strict=True):
            for joint in pose:
                by_hand(joint, joint, grid)
            for start, end in zip(*limbs, strict=True):
                by_hand(start, end, grid)

    def codec() -> None:
        for _ in range(TIMES):
            for one in codecs.values():
                one.encode(joints, state)
    return {"codecs": codec, "loop": loop}


def measure(quick: bool = False) -> list[Row]:
    data, batch = noise(64 * STEPS), noise()
    benches = {name: Training(data, tasks=tasks) for name, tasks in TASKS.items()}
    step = in_turns({name: lambda bench=bench: bench.loop(STEPS) for name, bench in benches.items()},
                    1 if quick else 6)
    target = in_turns(targets_of(batch), 1)
    return [Row("window targets of a batch: times as fast as a plain loop",
                TIMES * ratio(target["loop"], target["codecs"]), 100, True, median(target["codecs"]) / TIMES),
            *(Row(f"training step with regression and {name}: of regression alone",
                  ratio(step[name], step["regression"]), 1.35 if name == "both" else None,
                  seconds=median(step[name]) / STEPS)
              for name in TASKS if name != "regression")]
