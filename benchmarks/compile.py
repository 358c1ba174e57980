"""What `torch.compile` gains: a whole training step, compiled and not, in turns in one process.

    OMP_NUM_THREADS=1 python benchmarks/compile.py [--sizes small resnet18] [--turns 20] [--device cuda] [--write]

A step is what `training` does with a batch once it has it: the network, the loss, the gradient, the optimizer's step.
On a CPU its processor time is taken, which other programs disturb least, on a GPU the clock. The first compiled step
contains the compilation; its seconds, by the clock, are given apart. They are few where PyTorch has compiled the same
before and kept it (TORCHINDUCTOR_FORCE_DISABLE_CACHES=1 forbids that).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from posebook import networks, results, training
from posebook.skeleton import LSP14
from posebook.targets import Coordinates


def step_of(network: torch.nn.Module, codec: Coordinates, optimizer: torch.optim.Optimizer, images: torch.Tensor,
            device: torch.device, amp: bool) -> tuple[float, float]:
    """One step; returns its seconds: processor time on a CPU, else by the clock; and by the clock."""
    target, mask = torch.full((len(images), codec.outputs), 0.5, device=device), torch.ones(1, device=device)
    began, worked = time.perf_counter(), time.process_time()
    with training._autocast(device, amp):
        answer = network(images)["regression"]
    loss = codec.loss(answer, target, mask.expand_as(target))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    loss.item()                                                    # waits for a GPU
    clock = time.perf_counter() - began
    return time.process_time() - worked if device.type == "cpu" else clock, clock


def measure(size: str, batch: int, turns: int, device: torch.device, amp: bool) -> dict:
    """Seconds of a step each way, the ratio of their medians, and what compiling cost."""
    codec, ways, options = Coordinates(len(LSP14), networks.SIZES[size]), {}, training.TrainConfig()
    for way in ("eager", "compiled"):
        network = networks.build_network(size, {"regression": codec.outputs}, 0)
        network.to(device, memory_format=torch.channels_last)
        optimizer = training._optimizer(network, options)
        ways[way] = (torch.compile(network) if way == "compiled" else network, codec, optimizer)
    images = torch.rand(batch, 3, codec.size, codec.size, device=device).contiguous(memory_format=torch.channels_last)
    first = {way: step_of(*parts, images, device, amp)[1] for way, parts in ways.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(turns):
        for way in sorted(ways, reverse=bool(turn % 2)):           # nobody always follows the same one
            seconds[way].append(step_of(*ways[way], images, device, amp)[0])
    median = {way: float(np.median(values)) for way, values in seconds.items()}
    return {"batch": batch, "step_seconds": median, "compiled / eager": median["compiled"] / median["eager"],
            "compile_seconds": first["compiled"] - first["eager"],
            "precision": str(training.precision(device, amp)).split(".")[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure torch.compile; see the head of this file.")
    parser.add_argument("--sizes", nargs="+", choices=networks.SIZES, default=["small", "small-b", "resnet18"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-amp", action="store_true", help="compute in float32")
    parser.add_argument("--write", action="store_true", help="store the numbers in benchmarks/compile.json")
    options = parser.parse_args()
    if options.turns < 2 or options.batch < 2:
        parser.error("--turns and --batch must be at least 2")
    device = training.pick_device(options.device)
    found = {size: measure(size, options.batch, options.turns, device, not options.no_amp) for size in options.sizes}
    rows = [[size, *(one["step_seconds"][way] * 1e3 for way in ("eager", "compiled")), one["compiled / eager"],
             one["compile_seconds"]] for size, one in found.items()]
    print(results.table(["network", "step, ms", "compiled, ms", "compiled / eager", "compiling, s"], rows, 2))
    if options.write:
        path = Path(__file__).with_suffix(".json")
        results.write_record(path, {"turns": options.turns, "sizes": found, "environment": results.environment()})
        print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
