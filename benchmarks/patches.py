"""What average patches cost beside the forward pass: 10,000 images of people through the shipped 3D network, once only
through the layer, once with the patches of all maps cut and averaged (wanted: at most 1.3 times).

    OMP_NUM_THREADS=1 python benchmarks/patches.py [--turns 3] [--write]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from posebook import explain, networks, results
from posebook.datasets import join, load_people


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what average patches cost.")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="store the numbers in benchmarks/patches.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network, _ = networks.load_network(results.results_folder("weights") / "three-d-joint.safetensors")
    data = join([load_people(split) for split in ("train", "validation", "test")])
    record = {"images": len(data), "layers": {}, "environment": results.environment()}
    for layer in ("conv2", "conv3"):
        ratios, seconds = [], []
        for _ in range(options.turns):
            began = time.perf_counter()
            for _batch in explain._streamed(network, layer, data, 256):
                pass
            middle = time.perf_counter()
            explain.average_patches(network, layer, data)
            seconds.append(middle - began)
            ratios.append((time.perf_counter() - middle) / (middle - began))
        record["layers"][layer] = {"forward_seconds": float(np.median(seconds)), "ratio": float(np.median(ratios))}
    print(results.table([f"{len(data)} images", "forward, seconds", "with average patches, times"],
                        [[layer, row["forward_seconds"], row["ratio"]] for layer, row in record["layers"].items()], 2))
    if options.write:
        results.write_record(Path(__file__).with_suffix(".json"), record)


if __name__ == "__main__":
    main()
