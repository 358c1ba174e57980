"""Where the time of a training step goes, and how far each layer is from what this processor can do.

    OMP_NUM_THREADS=1 python benchmarks/step.py            # prints the tables; needs torchvision for the ResNet
    OMP_NUM_THREADS=1 python benchmarks/step.py --write    # also keeps them in step.json, which the appendix shows

Three networks at the book's size (64 px, batch 64, one thread, the precision that `training.precision` chooses). The
step is taken apart where it runs: an identity between two layers notes the time on the way forward and on the way back,
so each layer is measured with the caches as the layers before left them. Time is the thread's own on a processor.

The limit of a layer is the roofline (Williams et al. 2009): its arithmetic at the speed of the largest product of
matrices, or its memory traffic at the speed of copying, whichever takes longer, both measured in the same process.
Arithmetic is counted by PyTorch's own counter. Traffic is what no implementation can avoid: forward, the input, the
weights and the output once each; backward, the output's gradient, the input and the weights, and their gradients.
Sampling a turned picture is neither arithmetic nor copying: its limit is looking up four numbers for each of its own.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from common import CPU, LARGE, SMALL, Row, Training, in_turns, median, product
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from posebook import results, training
from posebook.augment import augment
from posebook.datasets import load_people
from posebook.skeleton import LSP14

NETWORKS = {"small": ("small", ("regression",), True), "small-b": ("small-b", ("pose3d", "joints"), False),
            "resnet18": ("resnet18", ("heatmaps",), True)}
"""Name -> size, tasks, and whether with the joints of LSP14 (else those of Human3.6M)."""
COPIED = {"large": 2**26, "small": 2**21}
"""Numbers of four bytes in an array that is copied to measure the memory: 256 MB, which no cache holds, and 8 MB, like
the maps of a layer."""


class Watch:
    """Notes where time goes: every note ends a stretch and begins the next."""

    def __init__(self) -> None:
        self.spent: dict[tuple[str, str], float] = defaultdict(float)
        self.begin()

    def begin(self) -> None:
        self.behind, self.since = "", time.thread_time()

    def note(self, phase: str, name: str) -> None:
        """The stretch that ends now belongs to (phase, name)."""
        now = time.thread_time()
        self.spent[phase, name] += now - self.since
        self.since = now

    def back(self, name: str) -> None:
        """Backward, a layer is told of at its *beginning*: the stretch until now belongs to the one told of before."""
        self.note("backward", self.behind)
        self.behind = name


class _Mark(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, watch, name):
        ctx.watch, ctx.name = watch, name
        watch.note("forward", name)
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient):
        ctx.watch.back(ctx.name)
        return gradient, None, None


class Mark(nn.Module):
    """The identity behind a layer that tells the watch."""

    def __init__(self, watch: Watch, name: str) -> None:
        super().__init__()
        self.watch, self.name = watch, name

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return _Mark.apply(values, self.watch, self.name)


def groups(stack: nn.Sequential, prefix: str) -> dict[str, nn.Sequential]:
    """Title -> layers that are measured as one: each by itself, but one that works in place with the one before."""
    found: dict[str, nn.Sequential] = {}
    for name, layer in stack.named_children():
        title = prefix + (name if not name.isdigit() else f"{type(layer).__name__.lower()}{name}")
        if getattr(layer, "inplace", False):
            before, layers = found.popitem()
            found[f"{before} + {title}"] = nn.Sequential(*layers, layer)
        else:
            found[title] = nn.Sequential(layer)
    return found


def watched(stack: nn.Sequential, watch: Watch, prefix: str) -> nn.Sequential:
    """The same layers with a mark behind each."""
    return nn.Sequential(*(part for title, layers in groups(stack, prefix).items()
                           for part in (layers, Mark(watch, title))))


def take_apart(bench: Training, steps: int) -> dict[tuple[str, str], float]:
    """Seconds a step of every part, (phase, name) -> seconds. The step is that of `training._epoch`."""
    watch, network, data, config = Watch(), bench.network, bench.data, bench.config
    whole = network.trunk, dict(network.heads.items())
    network.trunk = nn.Sequential(Mark(watch, "normalise"), watched(network.trunk, watch, ""))
    for name, head in whole[1].items():
        network.heads[name] = watched(head, watch, f"{name} ")
    order, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    for step in range(steps + 2):
        if step == 2:
            watch.spent.clear()
        watch.begin()
        index = np.sort(order.choice(len(data), config.batch, replace=False))
        arrays = [a for a in (data.images, data.joints, data.state, data.joints3d) if a is not None]
        images, joints, state, *solid = (torch.from_numpy(array[index]) for array in arrays)
        watch.note("data", "gather")
        images, *labels = augment(images, joints, state, data.skeleton, config.augmentation, network.config.crop,
                                  generator, bench.basis, *solid)
        watch.note("data", "augment")
        with training._autocast(CPU, config.amp):
            output = network(images)
        watch.note("forward", "answers")
        targets = {name: training._encode(codec, *labels) for name, codec in bench.codecs.items()}
        watch.note("data", "encode")
        loss = sum(codec.loss(output[name], *targets[name]) for name, codec in bench.codecs.items())
        loss.item()
        watch.note("loss", "loss")
        bench.optimizer.zero_grad(set_to_none=True)
        watch.note("optimizer", "zero_grad")
        watch.behind = "loss"
        loss.backward()
        watch.note("backward", watch.behind)
        bench.optimizer.step()
        watch.note("optimizer", "step")
    network.trunk = whole[0]
    network.heads.update(whole[1])
    return {key: seconds / steps for key, seconds in watch.spent.items()}


def work_of(bench: Training) -> dict[tuple[str, str], tuple[float, float]]:
    """What every layer has to do: (phase, name) -> operations (a multiplication and an addition are two), bytes."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    network = bench.network

    def of_stack(stack: nn.Sequential, values: torch.Tensor, prefix: str, first: bool) -> torch.Tensor:
        for number, (title, layer) in enumerate(groups(stack, prefix).items()):
            values = values.detach().requires_grad_(not (first and number == 0))
            with training._autocast(CPU, bench.config.amp), FlopCounterMode(display=False) as ahead:
                answer = layer(values)
            with FlopCounterMode(display=False) as back:
                answer.backward(torch.ones_like(answer))
            size = {"in": values.numel() * values.element_size(), "out": answer.numel() * answer.element_size(),
                    "weights": sum(p.numel() * answer.element_size() for p in layer.parameters())}
            inner = size["in"] * (2 if values.requires_grad else 1)
            found["forward", title] = ahead.get_total_flops(), size["in"] + size["weights"] + size["out"]
            found["backward", title] = back.get_total_flops(), size["out"] + inner + 2 * size["weights"]
            values = answer
        return values
    features = of_stack(network.trunk, (bench.images - network.mean_image) / network.spread, "", True)
    for name, head in network.heads.items():
        maps = isinstance(head[0], nn.ConvTranspose2d)
        of_stack(head, features if maps else features.flatten(1), f"{name} ", False)
    pixels = bench.images.numel() * 4
    stored = bench.data.images[0].nbytes * len(bench.images)
    learned = sum(p.numel() for p in network.parameters()) * 4
    network.zero_grad(set_to_none=True)
    found |= {("data", "gather"): (0, 2 * stored), ("data", "augment"): (0, stored + pixels),
              ("forward", "normalise"): (0, 2 * pixels), ("optimizer", "step"): (0, 7 * learned)}
    return found


def limits(turns: int = 5) -> dict[str, float]:
    """What one thread of this machine can do: thousand million operations a second in products of matrices, by type;
    thousand million bytes a second, read and written, in copying; and thousand million lookups of single numbers, of
    places in rising order."""
    count = 2**20
    numbers, places = torch.rand(count), torch.randint(0, count, (count,)).sort()[0]
    ways, amount = {"lookups": lambda: numbers.take(places)}, {"lookups": count}
    able = training.precision(CPU) == torch.bfloat16
    for name, side in (("float32", LARGE), ("bfloat16", LARGE if able else SMALL)):
        ways[name], amount[name] = product(side, getattr(torch, name)), 2 * side ** 3
    for name, count in COPIED.items():
        source, target = torch.ones(count), torch.zeros(count)
        repeats = COPIED["large"] // count

        def copy(source=source, target=target, repeats=repeats) -> None:
            for _ in range(repeats):
                target.copy_(source)
        ways[name], amount[name] = copy, 8 * count * repeats
    slow = None if able else ways.pop("bfloat16")
    seconds = in_turns(ways, turns)
    if slow:                                                    # without instructions for it: once is enough
        seconds["bfloat16"] = in_turns({"bfloat16": slow}, 1)["bfloat16"]
    return {name: amount[name] / median(value) / 1e9 for name, value in seconds.items()}


def profile(name: str, speed: dict[str, float], steps: int) -> dict:
    """One network: its step as it runs in training, and a row for every part of it."""
    size, tasks, flat = NETWORKS[name]
    data = load_people("train", limit=1000)
    bench = Training(data.as_skeleton(LSP14) if flat else data, size, tasks)
    kind = str(training.precision(CPU)).removeprefix("torch.")
    spent = take_apart(bench, steps)
    work = work_of(bench)
    turn = max(2, steps // 4)
    loop = median(in_turns({"loop": lambda: bench.loop(turn)}, 3)["loop"]) / turn
    rows = []
    for (phase, part), seconds in spent.items():
        operations, traffic = work.get((phase, part), (0, 0))
        limit = max(operations / speed[kind], traffic / speed["small"]) / 1e9
        if part == "augment":
            limit = max(limit, 4 * bench.images.numel() / speed["lookups"] / 1e9)
        rows.append({"phase": phase, "part": part, "seconds": seconds, "operations": operations, "bytes": traffic,
                     "limit_seconds": limit})
    return {"tasks": list(tasks), "precision": kind, "step_seconds": loop, "parts": rows}


def text(name: str, found: dict) -> str:
    """The profile of one network as a table: every layer forward and backward, slowest first."""
    lines = [[row["phase"], row["part"], row["seconds"] * 1e3, 100 * row["seconds"] / found["step_seconds"],
              row["operations"] / 1e9 or None, row["bytes"] / 1e6 or None, row["limit_seconds"] * 1e3 or None,
              row["limit_seconds"] / row["seconds"] if row["limit_seconds"] else None]
             for row in sorted(found["parts"], key=lambda row: -row["seconds"])]
    return results.table(["phase", f"part of a step of {name}", "ms", "% of the step", "operations, 10^9",
                          "MB", "limit, ms", "limit / measured"], lines, 2)


def reached(found: dict) -> float:
    """The sum of all limits, over the time of the step."""
    return sum(row["limit_seconds"] for row in found["parts"]) / found["step_seconds"]


def measure(quick: bool = False) -> list[Row]:
    speed = limits(2 if quick else 5)
    rows = []
    for name in ("small",) if quick else NETWORKS:
        found = profile(name, speed, 2 if quick else 8)
        rows.append(Row(f"training step of {name} ({' + '.join(found['tasks'])}): share of the machine's limit",
                        reached(found), None, True, found["step_seconds"]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NETWORKS, action="append")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--write", action="store_true", help="keep the profile in benchmarks/step.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    training.keep_memory()
    speed = limits()
    print("one thread: " + ", ".join(f"{name} {value:.1f}" for name, value in speed.items()) + " (10^9 a second)")
    networks = {name: profile(name, speed, options.steps) for name in options.only or NETWORKS}
    for name, found in networks.items():
        print(f"\n{text(name, found)}\n\n{name}: {found['step_seconds'] * 1e3:.1f} ms a step in training, parts "
              f"{sum(row['seconds'] for row in found['parts']) * 1e3:.1f} ms; {reached(found):.2f} of the limit")
    if options.write:
        results.write_record(Path(__file__).with_suffix(".json"), {
            "speed": speed, "networks": networks, "load": os.getloadavg()[0], "environment": results.environment()})


if __name__ == "__main__":
    main()
