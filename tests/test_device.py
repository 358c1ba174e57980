"""What can be known of the GPU path without a GPU: that no tensor stays behind on the CPU, that half precision learns
what full precision learns, that the networks can be compiled.

Two stand-ins for a GPU do the first. PyTorch's fake tensors know shape, type and device and nothing else: they are on
`cuda` and obey CUDA's own rules of autocast, but without a driver they can have no gradient, since autograd asks the
driver for a stream. The pretend GPU (`pretend.py`) is no CUDA, but has gradients and true numbers, so whole trainings
run on it. With a real GPU, see `test_cuda.py`.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from posebook import augment, training
from posebook.networks import SIZES, build_network
from posebook.skeleton import H36M17
from posebook.targets import TASKS, Coordinates, build_codecs


def test_everything_works_on_a_pretend_gpu():
    """Every check of `pretend_checks.py`, in a process of its own."""
    checks = Path(__file__).with_name("pretend_checks.py")
    answer = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(checks)],
                            cwd=checks.parents[1], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout[-8000:] + answer.stderr[-2000:]
    assert " passed" in answer.stdout and "skipped" not in answer.stdout, answer.stdout


# ----------------------------------------------------------------------------------------- fake tensors on CUDA


@pytest.fixture
def fake_cuda(monkeypatch):
    """Tensors on CUDA that know their shape, type and device, and that autocast believes in."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        yield


def forward_on_cuda(size, tasks, half):
    """From bytes to losses and poses; returns what was made on the way."""
    crop = SIZES[size]
    codecs = build_codecs(tasks, H36M17, crop)
    with torch.device("cuda"):
        network = build_network(size, {name: codec.outputs for name, codec in codecs.items()}, 0)
        images = torch.zeros(4, 3, crop * 80 // 64, crop * 80 // 64, dtype=torch.uint8)
        labels = torch.zeros(4, 17, 2), torch.zeros(4, 17, dtype=torch.uint8)
        joints3d = torch.zeros(4, 17, 3)
    pixels, *moved = augment.augment(images, *labels, H36M17, augment.BOOK, crop, torch.Generator(), torch.zeros(3, 3),
                                     joints3d)
    with torch.autocast("cuda", half):
        answers = network(pixels)
    losses = {name: training._loss(network, name, codec, answers[name], moved) for name, codec in codecs.items()}
    poses = {name: codec.decode(answers[name]) for name, codec in codecs.items()}
    assert {p.device.type for p in (*network.parameters(), *network.buffers(), pixels, *moved)} == {"cuda"}
    return answers, losses, poses


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("size", SIZES)
def test_on_cuda_answers_are_half_and_losses_whole(size, half, fake_cuda):
    tasks = tuple(t for t in TASKS if not (size.startswith("paper") and t in ("heatmaps", "softargmax")))
    answers, losses, poses = forward_on_cuda(size, tasks, half)
    assert {(a.device.type, a.dtype) for a in answers.values()} == {("cuda", half)}
    for found in (losses, poses):
        assert set(found) == set(tasks) and {(v.device.type, v.dtype) for v in found.values()} == {("cuda",
                                                                                                     torch.float32)}


@pytest.mark.parametrize("what", ["encode", "loss", "decode", "augment"])
def test_fake_tensors_find_what_is_left_on_the_cpu(what, fake_cuda, monkeypatch):
    forward_on_cuda("small", ("regression",), torch.bfloat16)
    if what == "augment":
        real = augment._warp_and_tint
        monkeypatch.setattr(augment, "_warp_and_tint", lambda images, matrices, tint, size: real(
            images, matrices, tint + torch.zeros(3), size))
    else:
        real, left = getattr(Coordinates, what), {"encode": 34, "loss": 1, "decode": 2}[what]

        def forgetful(self, *arguments):
            found = real(self, *arguments)
            return found + torch.arange(left) if what != "encode" else (found[0] + torch.arange(left), found[1])
        monkeypatch.setattr(Coordinates, what, forgetful)
    with pytest.raises(RuntimeError, match="two different devices|on the same device|different device"):
        forward_on_cuda("small", ("regression",), torch.bfloat16)
