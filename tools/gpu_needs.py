"""What a training step of the papers' sizes asks of a GPU: the computed parts of the page appendix-gpu.

    python tools/gpu_needs.py               print the tables (`write_pages.py` puts them into the page)
    python tools/gpu_needs.py --measure     also measure a step on this processor, into benchmarks/gpu.json (a minute)

Counted on PyTorch's `meta` device, where tensors have shapes and no numbers: multiplications and additions by its FLOP
counter, memory as all that autograd keeps for the backward pass, once each. Only the times are estimates: peak speeds
that the maker publishes, times a share of them that networks of this kind reach.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from posebook import networks, results, training
from posebook.skeleton import LSP14
from posebook.targets import Coordinates

SIZES = ("paper-a", "paper-b", "resnet18")
BATCH = 64
CARDS = {"T4 (Colab)": (16, "float16", 65), "RTX 3060": (12, "bfloat16", 25), "RTX 4090": (24, "bfloat16", 165),
         "A100": (40, "bfloat16", 312), "H100": (80, "bfloat16", 989)}
"""GB of memory; the half precision to take; its peak in 10^12 operations a second, without sparsity, adding up in
float32: NVIDIA's data sheets."""
SHARE = (0.05, 0.30)
"""Of the peak: from networks whose layers are too small to fill the card, to those that fill it."""
OVERHEAD = (2, 8)
"""Milliseconds in which Python asks for the some hundred operations of a step: no step is faster on any card."""
MEASURED = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.json"


def network_of(size: str) -> tuple[networks.PoseNetwork, Coordinates]:
    """The network that regresses the 14 joints of LSP, and its codec."""
    codec = Coordinates(len(LSP14), networks.SIZES[size])
    return networks.build_network(size, {"regression": codec.outputs}, 0), codec


def count(size: str) -> dict[str, float]:
    """"operations" and "kept" bytes of float32 for one picture, "parameters", and "fixed" bytes: the weights, their
    gradients and AdamW's two averages, which no batch changes."""
    with torch.device("meta"):
        network, _ = network_of(size)
        pictures = torch.zeros(BATCH, 3, network.config.crop, network.config.crop)
    own = {id(p) for p in network.parameters()} | {id(b) for b in network.buffers()}
    kept: dict[int, tuple[torch.Tensor, int]] = {}                       # holds them: else an id is given again

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in own:
            kept[id(base)] = base, base.numel() * base.element_size()
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(pictures)["regression"].sum().backward()
    parameters = networks.count_parameters(network)
    return {"operations": counter.get_total_flops() / BATCH, "kept": sum(size for _, size in kept.values()) / BATCH,
            "parameters": parameters, "fixed": 16 * parameters}


def measure(size: str, batch: int = 16, steps: int = 5) -> float:
    """Seconds of processor time that a step takes here for one picture, in `training.precision`, one thread."""
    network, codec = network_of(size)
    network.to(memory_format=torch.channels_last)
    optimizer = training._optimizer(network, training.TrainConfig())
    images = torch.rand(batch, 3, codec.size, codec.size).contiguous(memory_format=torch.channels_last)
    target, seconds = torch.full((batch, codec.outputs), 0.5), []
    for _ in range(steps + 1):
        began = time.process_time()
        with training._autocast(torch.device("cpu"), True):
            answer = network(images)["regression"]
        optimizer.zero_grad(set_to_none=True)
        codec.loss(answer, target, torch.ones_like(target)).backward()
        optimizer.step()
        seconds.append(time.process_time() - began)
    return float(np.median(seconds[1:])) / batch


def needs() -> str:
    """Counted: parameters, operations and memory of each size; measured: this processor."""
    record = read(MEASURED)
    rows = []
    for size in SIZES:
        one = count(size)
        rows.append([f"`{size}`", f"{one['parameters'] / 1e6:.1f} million", f"{one['operations'] / 1e9:.1f} × 10⁹",
                     f"{one['fixed'] / 2**20:,.0f} MiB", f"{one['kept'] / 2**20:.1f} MiB",
                     f"{(one['fixed'] + 256 * one['kept']) / 2**30:.1f} GiB",
                     f"{record['seconds_a_picture'][size] * 1e3:.0f} ms"])
    return results.table(["size", "parameters", "operations a picture", "weights, gradients, AdamW",
                          "kept for each picture", "in all, 256 pictures", "a picture on a processor (measured)"], rows)


def cards() -> str:
    """Estimated: a step of 64 pictures on each card."""
    rows = []
    for card, (memory, kind, peak) in CARDS.items():
        times = []
        for size in SIZES:
            operations = BATCH * count(size)["operations"]
            low, high = (operations / (peak * 1e12 * share) * 1e3 for share in SHARE[::-1])
            times.append(f"{max(low, OVERHEAD[0]):.0f} to {max(high, OVERHEAD[1]):.0f} ms")
        rows.append([card, f"{memory} GB", kind, f"{peak}", *times])
    return results.table(["card", "memory", "half precision", "peak, 10¹² a second",
                          *(f"`{size}` (estimate)" for size in SIZES)], rows)


def processor() -> str:
    """Where and how the measured column was measured."""
    record = read(MEASURED)
    about = record["environment"]
    return (f"Measured on {about['hardware']}, one thread, {record['precision']}, PyTorch {about['torch']}, in "
            f"processor time, with `python tools/gpu_needs.py --measure`.")


def read(path: Path) -> dict:
    return results.read_record(path)


PARTS = {"gpu-needs": needs, "gpu-cards": cards, "gpu-processor": processor}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="measure this processor, into benchmarks/gpu.json")
    options = parser.parse_args()
    if options.measure:
        torch.set_num_threads(1)
        results.write_record(MEASURED, {
            "seconds_a_picture": {size: measure(size) for size in SIZES},
            "precision": str(training.precision(torch.device("cpu"))).split(".")[1],
            "environment": results.environment()})
    for part in PARTS.values():
        print(part(), end="\n\n")


if __name__ == "__main__":
    main()
