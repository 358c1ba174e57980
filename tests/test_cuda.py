"""On a GPU: every network, task and option, each against the same on the CPU.

Without a GPU these are skipped, and `test_device.py` lets them run on the pretend one of `pretend.py`, in a process
of its own: POSEBOOK_PRETEND_GPU=1 asks for it.
"""

import functools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pretend
import pytest
import torch

from posebook import augment, explain, export, film, geometry, limits, metrics, networks, pictorial, training
from posebook.augment import NONE
from posebook.datasets import load_people
from posebook.networks import SIZES, build_network
from posebook.skeleton import H36M17, LSP14, SKELETONS
from posebook.targets import TASKS, Coordinates, build_codecs
from posebook.training import TrainConfig, train

PRETEND = "POSEBOOK_PRETEND_GPU" in os.environ
DEVICE = pretend.set_up() if PRETEND else torch.device("cuda", 0)
if not PRETEND and not torch.cuda.is_available():
    pytest.skip("there is no CUDA device here", allow_module_level=True)
MAPS = ("heatmaps", "softargmax")
CLOSE = {"rel": 1e-5, "abs": 1e-6} if PRETEND else {"rel": 0.02, "abs": 1e-3}
"""How near a GPU comes to the CPU: it adds in another order, and AdamW's first steps make much of little."""
TWO_DEVICES = "on the CPU and one on pretend|same device|different device"


@pytest.fixture(autouse=True)
def found_by_itself(monkeypatch):
    """'auto' takes the pretend GPU, as it takes a real one. In full float32, not TF32, to be compared with the CPU."""
    real = training.pick_device
    monkeypatch.setattr(training, "pick_device", lambda name="auto": DEVICE if name == "auto" else real(name))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@functools.cache
def data_of(size="small", count=4, skeleton="H36M17"):
    crop = SIZES[size]
    return load_people("train", limit=count, crop=crop, size=crop * 80 // 64, skeleton=SKELETONS[skeleton])


def codecs_of(size, tasks=TASKS, skeleton=H36M17):
    maps = () if size.startswith("paper") else MAPS                # the papers' trunks cannot be doubled to the maps
    return build_codecs(tuple(t for t in tasks if t not in MAPS or t in maps), skeleton, SIZES[size])


def fitted(device, size="small", codecs=None, config=None, folder=None, data=None, **network):
    codecs = codecs or codecs_of(size)
    keep = 1.0 if size == "paper-b" else None          # dropout draws other numbers on a GPU
    net = build_network(size, {name: codec.outputs for name, codec in codecs.items()}, 0, keep=keep)
    if network:
        net = networks.PoseNetwork(replace(net.config, **network))
    config = replace(config or TrainConfig(epochs=1, batch=2, amp=False), device=device)
    data = data or data_of(size)
    return train(net, codecs, data, data, config, folder, progress=False)


def assert_alike(one, other, **close):
    """Two runs with the same numbers, up to rounding."""
    def flat(value, name=""):
        if isinstance(value, dict):
            return [pair for key, part in value.items() if key != "seconds" for pair in flat(part, f"{name} {key}")]
        return [(name, value)]

    close = close or CLOSE
    assert len(one.history) == len(other.history)
    for ours, theirs in zip(map(flat, one.history), map(flat, other.history), strict=True):
        for (name, a), (_, b) in zip(ours, theirs, strict=True):
            assert a == pytest.approx(b, **close), name
    for name, value in other.network.state_dict().items():
        ours = one.network.state_dict()[name].cpu()
        assert torch.allclose(ours, value.cpu(), rtol=close["rel"], atol=close["abs"]), name


def test_tensors_of_two_devices_do_not_meet():
    there, here = torch.arange(3.0, device=DEVICE), torch.arange(3.0)
    assert there.device == DEVICE and there.cpu().device.type == "cpu" and torch.equal(there.cpu(), here)
    for wrong in (lambda: there + here, lambda: torch.cat([there, here]), lambda: here @ there,
                  lambda: torch.where(here > 1, there, 0), lambda: there.clone().mul_(here)):
        with pytest.raises(RuntimeError, match=TWO_DEVICES):
            wrong()
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()
    assert (there[torch.tensor([2, 0])] * torch.tensor(2.0)).tolist() == [4, 0]       # these a GPU takes


@pytest.mark.parametrize("size", SIZES)
def test_every_network_learns_every_task_there(size, monkeypatch):
    if not size.startswith("small"):                   # 21 cosines of millions of numbers would take longest of all
        monkeypatch.setattr(training, "task_gradients", lambda *_: {})
    there = fitted("auto", size, data=data_of(size, 2))
    if not (PRETEND and size.startswith("paper")):     # these have the layers of the small ones, and take their time
        assert_alike(there, fitted("cpu", size, data=data_of(size, 2)))
    state = there.network.state_dict()
    assert {value.device for value in state.values()} == {DEVICE} and set(there.network.heads) == set(codecs_of(size))


@pytest.mark.parametrize("option", [
    {"average_gradients": True}, {"optimizer": "sgd"}, {"freeze_trunk": True}, {"normalise": False},
    {"mean_start": False}, {"patience": 1, "epochs": 2}, {"epoch_size": 3}, {"augmentation": NONE},
    {"weights": {"parts": 0.0, "joints": 2.0}}], ids=lambda option: next(iter(option)))
def test_every_option_works_there(option):
    network = {key: option[key] for key in option if key == "average_gradients"}
    config = replace(TrainConfig(epochs=1, batch=4, amp=False), **{k: v for k, v in option.items() if k not in network})
    codecs = codecs_of("small", ("regression", "pose3d", "joints", "parts"))
    assert_alike(*(fitted(device, "small", codecs, config, **network) for device in ("auto", "cpu")))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_there(half, monkeypatch, tmp_path):
    """float16 with the scaled loss of GPUs that have no bfloat16; the scale is kept in the checkpoint too."""
    monkeypatch.setattr(training, "precision", lambda device, amp=True: half if amp else torch.float32)
    config, exact = TrainConfig(epochs=2, batch=2), TrainConfig(epochs=2, batch=2, amp=False)
    codecs = codecs_of("small", ("regression", "joints", "rle"))
    run, other = (fitted("auto", "small", codecs, config, folder, data=data_of(count=2))
                  for config, folder in ((config, tmp_path), (exact, None)))
    ours, theirs = (history[0]["train_loss"] for history in (run.history, other.history))       # before the first step
    assert ours == pytest.approx(theirs, rel=0.02) and ours != theirs
    assert all(np.isfinite(row["validation_loss"]) for row in run.history)
    scaler = torch.load(tmp_path / training.CHECKPOINT, weights_only=True)["scaler"]
    assert bool(scaler) == (half == torch.float16)


def test_a_run_resumes_there(tmp_path, monkeypatch):
    config, codecs = TrainConfig(epochs=2, batch=2, amp=False), codecs_of("small", ("regression", "rle"))
    validate, calls = training.validate, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(*arguments)

    monkeypatch.setattr(training, "validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted("auto", "small", codecs, config, tmp_path)
    again, whole = fitted("auto", "small", codecs, config, tmp_path), fitted("auto", "small", codecs, config)
    # exactly, but for the gradient of CUDA's pooling, which is added up in any order
    assert_alike(again, whole, **({"rel": 0, "abs": 0} if PRETEND else CLOSE))


@pytest.mark.parametrize("what", ["encode", "loss", "decode", "augment"])
def test_a_tensor_that_is_left_on_the_cpu_is_found(what, monkeypatch):
    """The check can fail: each step of the way in turn forgets to say where its new tensor belongs."""
    codecs = codecs_of("small", ("regression",))
    if what == "augment":
        real = augment._warp_and_tint
        monkeypatch.setattr(augment, "_warp_and_tint", lambda images, matrices, tint, size: real(
            images, matrices, tint + torch.zeros(3), size))
    else:
        real = getattr(Coordinates, what)
        parts = {"encode": lambda found: (found[0] + 0 * torch.arange(34), found[1]),
                 "loss": lambda found: found * torch.ones(1), "decode": lambda found: found + torch.zeros(2)}
        monkeypatch.setattr(Coordinates, what, lambda self, *arguments: parts[what](real(self, *arguments)))
    fitted("cpu", "small", codecs)                                                     # there it goes unnoticed
    if what == "decode":                                                               # answers are decoded on the CPU
        with pytest.raises(RuntimeError, match=TWO_DEVICES):
            codecs["regression"].decode(torch.zeros(2, 34, device=DEVICE))
    else:
        with pytest.raises(RuntimeError, match=TWO_DEVICES):
            fitted("auto", "small", codecs)


def test_all_codecs_decode_there():
    data = data_of(count=4)
    for name, codec in codecs_of("small").items():
        answer = torch.randn(4, codec.outputs, generator=torch.Generator().manual_seed(0))
        here, there = codec.decode(answer), codec.decode(answer.to(DEVICE))
        assert there.device == DEVICE and torch.allclose(there.cpu(), here), name
        target, mask = training._encode(codec, *(part.to(DEVICE) for part in training.all_labels(data, 64)))
        assert target.device == mask.device == DEVICE, name
    windows = codecs_of("small")["parts"]
    there = windows.paint(windows.probabilities(torch.zeros(1, windows.outputs, device=DEVICE)))
    assert there.device == DEVICE and torch.isfinite(there.cpu()).all()


@pytest.fixture
def two():
    """A network on the CPU, and the same on the pretend GPU; it regresses and detects."""
    codecs = codecs_of("small", ("regression", "joints"), LSP14)
    here, there = (build_network("small", {name: c.outputs for name, c in codecs.items()}, 0).eval() for _ in range(2))
    return codecs, here, there.to(DEVICE)


def same(function, here, there):
    found = function(there)
    np.testing.assert_allclose(np.asarray(found), np.asarray(function(here)), rtol=1e-3, atol=1e-3)


def test_predictions_come_back_from_there(two):
    codecs, here, there = two
    data, codec = data_of(skeleton="LSP14"), codecs["regression"]
    for head in ("regression", "joints"):
        np.testing.assert_allclose(training.predict(there, codecs[head], data, head=head),
                                   training.predict(here, codecs[head], data, "cpu", head=head), atol=1e-3)
    assert there.device == DEVICE and here.device.type == "cpu"
    image, boxes = data.images[0].transpose(1, 2, 0), np.array([[10, 10, 60, 70]], np.float32)
    same(lambda net: training.predict_pose(net, codec, image, boxes[0]), here, there)
    same(lambda net: limits.predict_in_boxes(net, codec, [image], boxes), here, there)
    pixels, origin = torch.from_numpy(data.images[:2, :, 8:72, 8:72].copy()), {"skeleton": "LSP14"}
    for name, answer in export.outputs(there, origin, pixels).items():
        assert torch.allclose(answer, export.outputs(here, origin, pixels)[name], atol=1e-3), name


def test_pictures_and_weights_lie_there_channels_last(monkeypatch):
    seen, forward = [], networks.PoseNetwork.forward

    def noted(self, images, heads=None):
        seen.append(images)
        return forward(self, images, heads)

    monkeypatch.setattr(networks.PoseNetwork, "forward", noted)
    net = fitted("auto", "small", codecs_of("small", ("regression",))).network
    assert len(seen) >= 3 and {images.device for images in seen} == {DEVICE}
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images in seen)
    assert net.trunk.conv2.weight.is_contiguous(memory_format=torch.channels_last)


def test_weights_are_saved_from_there(two, tmp_path):
    _, here, there = two
    networks.save_network(tmp_path / "w.safetensors", there, {})
    again = networks.load_network(tmp_path / "w.safetensors")[0].state_dict()
    assert all(torch.allclose(again[name], value, atol=1e-3) for name, value in here.state_dict().items())


def test_explanations_come_back_from_there(two):
    _, here, there = two
    data = data_of(skeleton="LSP14")
    pictures = augment.centre(torch.from_numpy(data.images), 64)
    for function in (lambda net: explain.responses(net, "conv2", pictures),
                     lambda net: explain.best_places(net, "conv3", data).response,
                     lambda net: explain.average_patches(net, "conv2", data)[0],
                     lambda net: explain.selectivity(net, "conv3", data),
                     lambda net: explain.occlusion(net, "regression", pictures[0], 3, step=20),
                     lambda net: explain.gradient(net, "regression", pictures[0], 3),
                     lambda net: explain.maximise(net, "conv3", [0, 5], steps=2),
                     lambda net: explain.probe(net, "conv3", data, data),
                     lambda net: explain.weight_correlation(net, "regression", 2)):
        same(function, here, there)
    assert set(explain.features_report(there, data, 0)) == {"conv2", "conv3"}


def test_pictorial_structures_are_solved_there(two):
    codecs, *_ = two
    data = data_of(count=12, skeleton="LSP14")
    joints, state = (part.numpy() for part in training.central_labels(data, 64))
    cells = (joints + 0.5) / 8 - 0.5                                                   # 8 x 8 of them
    springs = pictorial.learn_springs(cells, state, LSP14)
    logits = torch.randn(2, codecs["joints"].outputs, generator=torch.Generator().manual_seed(1))
    true = torch.from_numpy(cells[:2])

    def all_of_it(device):
        on = springs.to(device)
        scores = pictorial.window_scores(codecs["joints"], logits.to(device), 8)
        scores = scores + pictorial.point_scores(true.to(device), torch.ones(14, 2, device=device), *scores.shape[2:])
        best, whole = pictorial.best_pose(on, scores), pictorial.posterior(on, scores)
        learned = pictorial.learn_weights(on, scores, true.to(device), steps=1)
        assert whole.sample(2).shape == (2, 2, 14, 2)
        return [best.joints, best.score, best.component, pictorial.max_marginals(on, scores), whole.marginals,
                whole.log_partition, learned.evidence, learned.stiffness]

    for a, b in zip(all_of_it(DEVICE), all_of_it("cpu"), strict=True):
        assert a.device == DEVICE
        np.testing.assert_allclose(a.cpu().numpy(), b.numpy(), rtol=1e-4, atol=1e-4)


def test_a_film_there(two):
    data, config = data_of(skeleton="LSP14"), TrainConfig(epochs=1, epoch_size=4, batch=2, amp=False)
    data = data.subset(data.complete())
    assert len(film.record("small", two[0]["regression"], data, data, config, [0], progress=False)["poses"]) == 2


def test_geometry_and_metrics_take_tensors_from_there():
    rng = np.random.default_rng(0)
    true, camera = rng.normal(size=(5, 17, 3)) * 300, np.array([[500.0, 0, 32], [0, 500, 32], [0, 0, 1]])
    points = true + [0, 0, 4000]
    for function in (lambda p, q: geometry.procrustes(p + 5, q), lambda p, q: geometry.mirror3d(p, H36M17),
                     lambda p, q: geometry.from_parent_relative(geometry.to_parent_relative(p, H36M17), H36M17)):
        there = function(*(torch.from_numpy(a).to(DEVICE) for a in (true, points)))
        np.testing.assert_allclose(there.cpu().numpy(), function(true, points), atol=1e-6)
    for function in (geometry.project, geometry.projection_jacobian):
        there = function(*(torch.from_numpy(a).to(DEVICE) for a in (points, camera)))
        np.testing.assert_allclose(there.cpu().numpy(), function(points, camera), atol=1e-6)
    assert metrics.mpjpe(true, true, np.ones((5, 17), int), 0).mean == 0
    with pytest.raises((TypeError, RuntimeError)):                        # metrics are NumPy's: the answers come first
        metrics.mpjpe(*(torch.from_numpy(a).to(DEVICE) for a in (true, true)), np.ones((5, 17), int), 0)


def histories_of_two_runs(folder, counts, *options):
    """The same training by `counts` processes each time, as `torchrun` starts them."""
    for count in counts:
        subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count),
                        "-m", "posebook", "train", "--tasks", "regression", "joints", "--limit", "16", "--epochs", "2",
                        "--batch", "8", "--out", str(folder / str(count)), *options], check=True,
                       cwd=Path(__file__).parents[1])
    return [json.loads((folder / str(count) / "record.json").read_text())["history"] for count in counts]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two CUDA devices here")
def test_two_gpus_learn_what_one_learns(tmp_path):
    for one, two in zip(*histories_of_two_runs(tmp_path, (1, 2)), strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=0.05)          # in half precision
