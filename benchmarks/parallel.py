"""What it brings to share a training on CPUs, and what streaming costs.

Two processes with one thread each (gloo), against one process with one and with two threads: the training loop of the
small regressor at batch 64, in images a second. On one machine processes share its memory and caches, so this says
little about several GPUs. And the loop on people that are streamed from their files, against people in memory.

    OMP_NUM_THREADS=1 python benchmarks/parallel.py [--turns 5] [--write]

All ways take turns. Ratios are medians over turns, with the lowest and the highest: on a busy machine they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from posebook import networks, parallel, results, training  # noqa: E402
from posebook.datasets import StreamedPeople, load_people  # noqa: E402
from posebook.targets import build_codecs  # noqa: E402

IMAGES = 640
WAYS = {"one process, one thread": (1, 1, "memory"), "one process, two threads": (1, 2, "memory"),
        "two processes, one thread each": (2, 1, "memory"), "streamed, one process, one thread": (1, 1, "stream")}


def images_a_second(threads: int, kind: str) -> float:
    """Of a whole epoch of `IMAGES` after a first one that warms up, preparation included and validation not."""
    torch.set_num_threads(threads)
    stream = StreamedPeople("train")
    data = stream if kind == "stream" else load_people("train", limit=2000)
    codecs = build_codecs(("regression",), data.skeleton, 64)
    network = networks.build_network("small", {"regression": codecs["regression"].outputs}, 0)
    config = training.TrainConfig(epochs=2, epoch_size=IMAGES, device="cpu")
    run = training.train(network, codecs, data, stream.some.subset(np.arange(8)), config, progress=False)
    return IMAGES / run.history[-1]["seconds"]


def start(processes: int, threads: int, kind: str) -> float:
    """Measure in processes of their own."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), __file__, "--here", str(threads), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure two processes against one, and streaming against memory.")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="store the numbers in benchmarks/parallel.json")
    parser.add_argument("--here", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        with parallel.processes("cpu"):
            print(json.dumps(images_a_second(int(options.here[0]), options.here[1])))
        return
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    load = []
    for turn in range(options.turns):
        for name in list(WAYS)[:: 1 if turn % 2 else -1]:
            load.append(os.getloadavg()[0])
            found[name].append(start(*WAYS[name]))
    base = np.array(found["one process, one thread"])
    record = {"images_a_second": {name: {"median": np.median(values), "lowest": min(values), "highest": max(values)}
                                  for name, values in found.items()},
              "of_one_process_with_one_thread": {
                  name: {"median": np.median(values / base), "lowest": (values / base).min(),
                         "highest": (values / base).max()} for name, values in found.items()},
              "processors": os.cpu_count(), "turns": options.turns, "images": IMAGES,
              "load": {"lowest": min(load), "highest": max(load)}, "environment": results.environment()}
    print(results.table(["way", "images a second", "of one process, one thread", "lowest", "highest"], [
        [name, record["images_a_second"][name]["median"], *(values[k] for k in ("median", "lowest", "highest"))]
        for name, values in record["of_one_process_with_one_thread"].items()], 2))
    print(f"load of the machine: {min(load):.1f} to {max(load):.1f} on {os.cpu_count()} processors")
    if options.write:
        results.write_record(Path(__file__).with_suffix(".json"), record)


if __name__ == "__main__":
    main()
