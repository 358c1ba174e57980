"""A million poses through projection, Procrustes and MPJPE: seconds, one thread, and as a share of what it costs to
multiply matrices of 1024 x 1024 (a unit that travels from machine to machine).

    python benchmarks/geometry.py [--poses 1000000] [--write]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from posebook import geometry, metrics, results

BLOCK = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--poses", type=int, default=1_000_000)
    parser.add_argument("--write", action="store_true", help="store the numbers in benchmarks/geometry.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    true = rng.normal(0, 300, (BLOCK, 17, 3)).astype(np.float32) + np.float32([0, 0, 4000])
    predicted = true + rng.normal(0, 100, true.shape).astype(np.float32)
    state = np.full(true.shape[:2], 2)
    camera = np.array([[1000, 0, 500], [0, 1000, 500], [0, 0, 1]], np.float32)
    seconds = {"projection": 0.0, "procrustes": 0.0, "mpjpe": 0.0}
    for _ in range(-(-options.poses // BLOCK)):
        for name, work in (("projection", lambda: geometry.project(true, camera)),
                           ("procrustes", lambda: geometry.procrustes(predicted, true)),
                           ("mpjpe", lambda: metrics.mpjpe(predicted, true, state, 0))):
            began = time.perf_counter()
            work()
            seconds[name] += time.perf_counter() - began
    square = torch.randn(1024, 1024)
    square @ square
    began = time.perf_counter()
    for _ in range(20):
        square @ square
    unit = (time.perf_counter() - began) / 20
    record = {"poses": -(-options.poses // BLOCK) * BLOCK, "seconds": {**seconds, "all": sum(seconds.values())},
              "matrix_product_seconds": unit, "environment": results.environment()}
    print(results.table([f"{options.poses:,} poses", "seconds", "matrix products"],
                        [[name, value, value / unit] for name, value in record["seconds"].items()]))
    if options.write:
        results.write_record(Path(__file__).with_suffix(".json"), record)


if __name__ == "__main__":
    main()
