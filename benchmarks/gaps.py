"""What lies behind the largest gaps of a training step (`step.py`): other ways to do the same work, in turns with the
way that is taken. The appendix on speed tells what follows from them.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import torch
from common import Row, Training, in_turns, median, noise, ratio
from torch.nn.functional import conv2d, unfold

from posebook import geometry, training
from posebook.augment import Augmentation, draw_matrices

BATCH, CROP, STORED = 64, 64, 80
LAYOUTS = {"pixel by pixel": torch.channels_last, "map by map": torch.contiguous_format}


def gradient_of_weights(maps: torch.Tensor, weights: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """What a convolution's way back computes for its weights alone (3 x 3, a margin of one, step one)."""
    return torch.ops.aten.convolution_backward(gradient, maps, weights, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1,
                                               [False, True, False])[1]


def as_product(maps: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The same as one product of matrices: (K, N P) x (N P, C 9), with P places in each of N pictures."""
    columns = unfold(maps, 3, padding=1).transpose(1, 2).flatten(0, 1)
    return (gradient.flatten(2).transpose(1, 2).flatten(0, 1).T @ columns).view(-1, maps.shape[1], 3, 3)


def last_stage(turns: int) -> list[Row]:
    """A convolution of the last stage of a ResNet-18: 512 to 512 maps of 2 x 2 pixels."""
    maps, gradient, weights = torch.randn(BATCH, 512, 2, 2), torch.randn(BATCH, 512, 2, 2), torch.randn(512, 512, 3, 3)
    ways = {"product": lambda: as_product(maps, gradient)}
    for title, layout in LAYOUTS.items():
        laid = [values.to(memory_format=layout) for values in (maps, weights, gradient)]
        torch.testing.assert_close(gradient_of_weights(*laid), as_product(maps, gradient), rtol=1e-3, atol=1e-2)
        ways[title] = lambda laid=laid: gradient_of_weights(*laid)
    seconds = in_turns(ways, turns)
    return [Row(f"ResNet's last stage, gradient of the weights, {title}: times the same sum as a product",
                ratio(seconds[title], seconds["product"]), seconds=median(seconds[title])) for title in LAYOUTS]


def first_layer(turns: int) -> list[Row]:
    """The first layer of the small networks, whose input has three maps: the two layouts, ahead and back."""
    filters = Training(noise()).network.trunk[0]
    images = torch.rand(BATCH, 3, CROP, CROP)
    ahead, back = {}, {}
    for title, layout in LAYOUTS.items():
        laid = images.to(memory_format=layout)
        weights = filters.weight.detach().to(memory_format=layout).requires_grad_()
        ahead[title] = lambda laid=laid, weights=weights: conv2d(laid, weights, None, filters.stride, filters.padding)
        answer = ahead[title]()
        gradient = torch.randn_like(answer)
        back[title] = lambda answer=answer, weights=weights, gradient=gradient: torch.autograd.grad(
            answer, weights, gradient, retain_graph=True)
    rows = []
    for phase, ways in (("forward", ahead), ("backward", back)):
        seconds = in_turns(ways, turns)
        rows.append(Row(f"first layer {phase}, map by map: of pixel by pixel, as it is",
                        ratio(seconds["map by map"], seconds["pixel by pixel"]),
                        seconds=median(seconds["map by map"])))
    return rows


def augmentation(turns: int) -> list[Row]:
    """Turning pictures, against looking up four numbers for each of theirs and nothing else."""
    images = torch.rand(16, 3, STORED, STORED)
    matrices, _ = draw_matrices(16, Augmentation(), STORED, CROP, torch.Generator().manual_seed(0))
    places = torch.randint(0, images.numel(), (16 * 3 * CROP * CROP,)).sort()[0]

    def look_up() -> None:
        for _ in range(4):
            images.take(places)
    seconds = in_turns({"sampling": lambda: geometry.warp(images, matrices, CROP), "lookups": look_up}, 4 * turns)
    return [Row("turning a batch of pictures: of four lookups for each of their numbers",
                ratio(seconds["sampling"], seconds["lookups"]), seconds=median(seconds["sampling"]))]


def kept(keep: bool, turns: int) -> dict[str, float]:
    """In a process of its own: fresh pages of memory and seconds for a step, with or without `training.keep_memory`."""
    done = subprocess.run([sys.executable, __file__, "keep" if keep else "give back", str(turns)], check=True,
                          capture_output=True, text=True)
    return json.loads(done.stdout)


def _steps(turns: int) -> dict[str, float]:
    bench = Training(noise())
    bench.resident(3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds = in_turns({"step": lambda: bench.resident(1)}, turns)["step"]
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return {"pages": pages / (turns + 1), "seconds": median(seconds)}


def memory(turns: int) -> list[Row]:
    """What it costs to give back what a step frees: two processes, since the setting cannot be taken back."""
    given_back, at_hand = kept(False, turns), kept(True, turns)
    return [Row("step that gives memory back: time of one that keeps it", given_back["seconds"] / at_hand["seconds"],
                seconds=given_back["seconds"]),
            Row("step that gives memory back: thousands of fresh pages", given_back["pages"] / 1000),
            Row("step that keeps its memory: thousands of fresh pages", at_hand["pages"] / 1000)]


def measure(quick: bool = False) -> list[Row]:
    turns = 2 if quick else 8
    return last_stage(turns) + first_layer(turns) + augmentation(turns) + memory(turns)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "keep":
        training.keep_memory()
    print(json.dumps(_steps(int(sys.argv[2]))))
