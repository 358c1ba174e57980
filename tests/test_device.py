"""What can be known of the GPU path without a GPU: that no tensor stays behind on the CPU, that half precision learns
what full precision learns, that the networks can be compiled.

Two stand-ins for a GPU do the first. PyTorch's fake tensors know shape, type and device and nothing else: they are on
`cuda` and obey CUDA's own rules of autocast, but without a driver they can have no gradient, since autograd asks the
driver for a stream. The pretend GPU (`pretend.py`) is no CUDA, but has gradients and true numbers, so whole trainings
run on it. With a real GPU, see `test_cuda.py`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from posebook import augment, training
from posebook.augment import NONE
from posebook.datasets import load_people
from posebook.networks import SIZES, Head, PoseNetwork, build_network, small_b
from posebook.skeleton import H36M17
from posebook.targets import TASKS, Coordinates, build_codecs
from posebook.training import TrainConfig


def tasks_of(size):
    """All tasks, but for the maps, to which the sides of the papers' trunks cannot be doubled."""
    return tuple(t for t in TASKS if not (size.startswith("paper") and t in ("heatmaps", "softargmax")))


def test_everything_works_on_a_pretend_gpu():
    """Every test of `test_cuda.py`, in a process of its own."""
    checks = Path(__file__).with_name("test_cuda.py")
    answer = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(checks),
                             "-k", "not two_gpus"],
                            cwd=checks.parents[1], capture_output=True, text=True, check=False,
                            env={**os.environ, "POSEBOOK_PRETEND_GPU": "1"})
    assert answer.returncode == 0, answer.stdout[-8000:] + answer.stderr[-2000:]
    assert " passed" in answer.stdout and "skipped" not in answer.stdout, answer.stdout


# ----------------------------------------------------------------------------------------- fake tensors on CUDA


@pytest.fixture
def fake_cuda(monkeypatch):
    """Tensors on CUDA that know their shape, type and device, and that autocast believes in."""
    # Autograd counts the devices at a process's first gradient. If it met these, it would start threads for them, and
    # later tests could no longer fork processes that compute gradients.
    torch.ones(1, requires_grad=True).sum().backward()
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
    tasks = tasks_of(size)
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


# ---------------------------------------------------------------------------------------- half precision on the CPU


@pytest.fixture
def half(monkeypatch):
    """`amp` means bfloat16 here, whatever this processor is quick at."""
    monkeypatch.setattr(training, "precision", lambda device, amp=True: torch.bfloat16 if amp else torch.float32)


def trained(size, codecs, amp, count=8, epochs=1, **options):
    """A run of `epochs` on a few people, plain SGD: after one step the weights have moved along the gradient."""
    crop = SIZES[size]
    data = load_people("train", limit=count, crop=crop, size=crop * 80 // 64)
    keep = 1.0 if size == "paper-b" else None                      # the same units in both runs: none is dropped
    network = build_network(size, {name: codec.outputs for name, codec in codecs.items()}, 0, keep=keep)
    before = {name: value.clone() for name, value in network.named_parameters()}
    config = TrainConfig(epochs=epochs, batch=count, optimizer="sgd", decay=0.0, augmentation=NONE, device="cpu",
                         amp=amp, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "task_gradients", lambda *_: {})
        run = training.train(network, codecs, data, data.subset([0, 1]), config, progress=False)
    moved = {name: (value - before[name]).detach().double() for name, value in network.named_parameters()}
    return run, moved


def cosine(one, other, part):
    a, b = (torch.cat([v.flatten() for k, v in moved.items() if k.startswith(part)]) for moved in (one, other))
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize("size", SIZES)
def test_half_precision_takes_the_step_of_full_precision(size, half):
    """Every task's loss within 1 %. The trunk's and every head's gradient points the same way; of the ResNet, whose
    batch norm divides by the spread of eight pictures, less exactly."""
    codecs = build_codecs(tasks_of(size), H36M17, SIZES[size])
    (exact, there), (rough, here) = (trained(size, codecs, amp, 4 if size.startswith("paper") else 8)
                                      for amp in (False, True))
    for name, loss in exact.history[0]["train_losses"].items():
        assert rough.history[0]["train_losses"][name] == pytest.approx(loss, rel=0.01), name
    assert exact.history[0]["train_losses"] != rough.history[0]["train_losses"]
    least = 0.9 if size == "resnet18" else 0.995
    for part in ("trunk.", *(f"heads.{name}." for name in codecs)):
        assert least < cosine(here, there, part) < 1 + 1e-9, part


def test_half_precision_learns_what_full_precision_learns(half):
    codecs = build_codecs(TASKS, H36M17, 64)
    runs = [trained("small", codecs, amp, epochs=5, rate=0.002, warmup=0)[0] for amp in (False, True)]
    for a, b in zip(*(run.history for run in runs), strict=True):
        for name, loss in a["train_losses"].items():
            began = runs[0].history[0]["train_losses"][name]
            assert b["train_losses"][name] == pytest.approx(loss, abs=0.02 * began), name
    first, last = (runs[1].history[k]["train_loss"] for k in (0, -1))
    assert last < 0.95 * first


def in_autocast(loss):
    def computed(*arguments):
        with torch.autocast("cpu", torch.bfloat16):
            return loss(*arguments)
    return computed


def in_bfloat16(loss):
    def computed(codec, output, target, mask):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "float", torch.Tensor.bfloat16)
            return loss(codec, output, target.bfloat16(), mask.bfloat16())
    return computed


def errors_of_losses(codecs, monkeypatch, mistake=lambda loss: loss):
    """Trains, and says how far each task's losses were from those of the same answers in float32, relatively."""
    found = {name: [] for name in codecs}
    for name, codec in codecs.items():
        real = type(codec).loss
        wrong = mistake(real)

        def noted(self, output, *arguments, real=real, computed=wrong, name=name):
            assert output.dtype == torch.bfloat16 or not torch.is_grad_enabled()       # validation's are float32 again
            loss = computed(self, output, *arguments)
            with torch.autocast("cpu", enabled=False), torch.no_grad():
                exact = real(self, output.float(), *arguments).item()
            found[name].append(abs(loss.item() - exact) / exact)
            return loss
        monkeypatch.setattr(type(codec), "loss", noted)
    trained("small", codecs, amp=True, epochs=3, rate=0.01, warmup=0)
    return {name: max(errors) for name, errors in found.items()}


def test_training_computes_its_losses_in_float32(half, monkeypatch):
    assert errors_of_losses(build_codecs(TASKS, H36M17, 64), monkeypatch) == dict.fromkeys(TASKS, 0)


@pytest.mark.parametrize(("mistake", "tasks"), [
    (in_autocast, ("softargmax", "rle")), (in_bfloat16, ("regression", "pose3d", "joints", "parts", "heatmaps"))])
def test_a_loss_in_half_precision_is_found(mistake, tasks, half, monkeypatch):
    """What the test above is for. Within autocast it is the matrix products that suffer: those of RLE's flow, and the
    mean of a soft-argmax. The others lose by adding up in bfloat16."""
    errors = errors_of_losses(build_codecs(tasks, H36M17, 64), monkeypatch, mistake)
    assert all(error > 1e-6 for error in errors.values()), errors


# ------------------------------------------------------------------------------------------------------- compiled


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is none here")
def test_a_compiled_network_answers_and_learns_alike():
    """One compilation, forward and backward, of the smallest network with all that paper B's has: half a minute of
    processor time, less where PyTorch keeps what it has compiled."""
    config = small_b({"regression": Head(28, (16,))}, (4, 4, 4))
    eager = PoseNetwork(config)
    compiled = torch.compile(eager)
    pictures, found = torch.rand(2, 3, 64, 64), []
    for network in (eager, compiled):
        eager.zero_grad()
        answer = network(pictures)["regression"]
        answer.square().sum().backward()
        found.append([answer.detach(), *(p.grad.clone() for p in eager.parameters())])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
