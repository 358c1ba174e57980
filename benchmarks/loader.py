"""How much a 3D training step with joint detection (small-b, batch 64) waits for its data.

The training loop on a set in memory, and on the same set packed on disk (`posebook.datasets.pack`), against the step
alone on a resident batch. The packed file has just been written, so the system still holds it in memory: what is
measured is the way, not the disk.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import Row, Training, in_turns, median, ratio

from posebook.datasets import load_people, open_packed, pack

STEPS = 5
"""Steps in a turn. More than one, since an epoch has a beginning that is not part of every step."""


def measure(quick: bool = False) -> list[Row]:
    data = load_people("train", limit=500 if quick else 4000)
    with tempfile.TemporaryDirectory() as folder:
        pack([data], Path(folder) / "people")
        packed, bench = open_packed(Path(folder) / "people"), Training(data, "small-b", ("pose3d", "joints"))
        seconds = in_turns({"alone": lambda: bench.resident(STEPS), "memory": lambda: bench.loop(STEPS),
                            "packed": lambda: bench.loop(STEPS, packed)}, 2 if quick else 8)
    return [Row(f"3D training loop, data {where}: speed of the step alone", ratio(seconds["alone"], seconds[way], True),
                0.9, True, median(seconds[way], True) / STEPS)
            for way, where in (("memory", "in memory"), ("packed", "packed on disk"))]
