"""The papers' sizes to the last parameter, and weight files that can be trusted."""

import json
import math
import os
import pickle
import sys
from dataclasses import replace

import pytest
import torch
from samples import tiny
from torch import nn

from posebook.networks import (
    Config,
    Head,
    PoseNetwork,
    ResidualDensity,
    ResponseNorm,
    build_network,
    count_parameters,
    layers,
    load_network,
    paper_a,
    paper_b,
    save_network,
    small,
    small_b,
    take_trunk,
)
from posebook.skeleton import LSP14
from posebook.targets import POSES, build_codecs

REGRESSION = {"regression": Head(28)}


def conv_parameters(network):
    return [count_parameters(layer) for layer in network.trunk if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("config", [paper_a(), paper_b()], ids=["A", "B"])
def test_sides_and_receptive_fields_are_the_papers(config):
    found = layers(config)
    assert [layer.name for layer in found] == ["conv1", "pool1", "conv2", "pool2", "conv3", "pool3"]
    assert [layer.side for layer in found] == [104, 52, 48, 24, 20, 10]
    fields = {layer.name: layer.receptive_field for layer in found}
    assert (fields["conv1"], fields["conv2"], fields["conv3"], fields["pool3"]) == (9, 19, 39, 47)
    steps = {layer.name: layer.step for layer in found}
    assert (steps["conv1"], steps["conv2"], steps["conv3"], steps["pool3"]) == (1, 2, 4, 8)


def test_paper_b_has_exactly_the_parameters_of_the_paper():
    network = PoseNetwork(paper_b({"pose3d": 51}))
    assert conv_parameters(network) == [7_808, 51_264, 102_464]
    assert count_parameters(network) == 8_919_859
    assert network.features == 6400


def test_paper_b_with_detection_has_two_stacks_on_one_trunk():
    with torch.device("meta"):                              # shapes only: 21 million numbers are not needed here
        network = PoseNetwork(paper_b())
    first, second, third = 6400 * 1024 + 1024, 1024 * 2048 + 2048, 2048 * 1700 + 1700
    assert count_parameters(network) == 8_919_859 + first + second + third == 21_056_983
    assert round(count_parameters(network) / 1e6, 2) == 21.06
    assert list(network.heads) == ["pose3d", "joints"]


def test_paper_a_has_16_maps_and_16_answers():
    with torch.device("meta"):
        network = PoseNetwork(paper_a())
    assert [layer.out_channels for layer in network.trunk if isinstance(layer, nn.Conv2d)] == [16, 16, 16]
    assert conv_parameters(network) == [9 * 9 * 3 * 16 + 16, 5 * 5 * 16 * 16 + 16, 5 * 5 * 16 * 16 + 16]
    assert network.heads["regression"][-1].out_features == 16


@pytest.mark.parametrize("config", [small(REGRESSION), paper_b(), tiny(), Config(50, (2, 3), REGRESSION, (4, 6))],
                         ids=["small", "B", "tiny", "odd"])
def test_real_shapes_agree_with_the_arithmetic(config):
    network = PoseNetwork(config).eval()
    x, found = torch.rand(1, 3, config.crop, config.crop), {}
    for name, layer in network.trunk.named_children():
        x = layer(x)
        found[name] = tuple(x.shape[1:])
    for stage in layers(config):
        assert found[stage.name] == (stage.channels, stage.side, stage.side)


@pytest.mark.parametrize("config", [small(REGRESSION), paper_a()], ids=["small", "A"])
def test_receptive_fields_by_asking_which_pixels_matter(config):
    trunk = PoseNetwork(config).trunk
    x = image = torch.rand(1, 3, config.crop, config.crop, requires_grad=True)
    for name, layer in trunk.named_children():
        with torch.no_grad():                               # positive weights and inputs: nothing cancels or is cut
            if isinstance(layer, nn.Conv2d):
                layer.weight.abs_()
        if isinstance(layer, nn.MaxPool2d):                 # a mean has the same field as a maximum, and uses all of it
            layer = nn.AvgPool2d(3, 2, ceil_mode=True)
        x = layer(x)
        stage = next((s for s in layers(config) if s.name == name), None)
        if stage is None:
            continue
        touched = []
        for position in (0, 1):
            grad, = torch.autograd.grad(x[0, 0, position, position], image, retain_graph=True)
            rows = grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
            touched.append((rows.min().item(), rows.max().item()))
        assert touched[0] == (0, stage.receptive_field - 1), name
        assert touched[1][0] == stage.step, name


def test_paper_b_normalises_after_conv2_and_leaves_conv3_linear():
    names = [name for name, _ in PoseNetwork(paper_b()).trunk.named_children()]
    assert names == ["conv1", "relu1", "pool1", "conv2", "relu2", "norm2", "pool2", "conv3", "pool3"]
    assert [n for n, _ in PoseNetwork(tiny()).trunk.named_children()] == ["conv1", "relu1", "pool1", "conv2", "relu2",
                                                                       "pool2"]


def test_keep_is_the_probability_to_keep_a_unit():
    with torch.device("meta"):
        network = PoseNetwork(paper_b())
    for head in network.heads.values():
        assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == [0.75]
        assert [type(layer).__name__ for layer in head][:3] == ["Linear", "ReLU", "Dropout"]
    assert isinstance(network.heads["pose3d"][-1], nn.Tanh) and isinstance(network.heads["joints"][-1], nn.Linear)
    dropout = nn.Dropout(PoseNetwork(tiny(keep=0.25)).heads["regression"][2].p)
    assert (dropout(torch.ones(20_000)) > 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert not any(isinstance(layer, nn.Dropout) for layer in PoseNetwork(tiny()).heads["regression"])


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="at least one head"):
        PoseNetwork(Config(32, (4,), {}, (5,)))
    with pytest.raises(ValueError, match="crop of 20 px is too small: conv3"):
        layers(Config(20, (4, 4, 4), REGRESSION, (5, 3, 3)))
    with pytest.raises(ValueError, match="activation must be one of"):
        PoseNetwork(Config(32, (4, 4), {"regression": Head(2, (4,), activation="relu6")}, (5, 3)))
    with pytest.raises(ValueError, match="zip"):
        layers(Config(32, (4, 4), REGRESSION, (5, 3, 3)))


def test_normalisation_travels_with_the_weights():
    network = PoseNetwork(tiny())
    images = torch.rand(20, 3, 32, 32) * torch.linspace(0.1, 1, 32)
    network.normalise_with(images)
    normalised = (images - network.mean_image) / network.spread
    assert normalised.mean(dim=0).abs().max() < 1e-5 and normalised.std().item() == pytest.approx(1, abs=1e-4)
    assert {"mean_image", "spread"} <= set(network.state_dict())
    assert "mean_image" not in dict(network.named_parameters())
    head = network.eval()(images)["regression"]
    torch.testing.assert_close(head, network.heads["regression"](network.trunk(normalised).flatten(1)))


def test_start_at_makes_the_answers_gather_around_the_given_one():
    network = build_tiny().eval()
    answer = torch.linspace(0, 1, 28)
    before = network(torch.rand(50, 3, 32, 32))["regression"]
    network.start_at("regression", answer)
    after = network(torch.rand(50, 3, 32, 32))["regression"]
    torch.testing.assert_close(network.heads["regression"][-1].bias, answer)
    assert (after - answer).abs().mean() < 0.2 * before.abs().mean()
    assert after.std(dim=0).max() > 0                       # still an answer to the image


def build_tiny(seed=0):
    torch.manual_seed(seed)
    return PoseNetwork(tiny())


def test_a_seed_rules_the_initial_weights():
    one, same, other = (build_network("small", {"regression": 28}, seed) for seed in (1, 1, 2))
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.trunk.conv1.weight, other.trunk.conv1.weight)
    assert build_network("paper-a", {"regression": 28}, 0).config == paper_a({"regression": 28})


def test_saved_weights_come_back_in_half_precision(tmp_path):
    network = build_tiny()
    network.normalise_with(torch.rand(5, 3, 32, 32))
    path = tmp_path / "new" / "weights.safetensors"
    save_network(path, network, {"task": "regression", "seed": 3, "pose": [0.5, 1.25]})
    loaded, about = load_network(path)
    assert about == {"task": "regression", "seed": 3, "pose": [0.5, 1.25]}
    assert loaded.config == network.config and not loaded.training
    for name, value in network.state_dict().items():
        assert loaded.state_dict()[name].dtype == torch.float32
        assert torch.equal(loaded.state_dict()[name], value.half().float()), name
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images)["regression"], network.eval()(images)["regression"], rtol=0.02, atol=0.02)
    assert path.stat().st_size < 2 * sum(v.numel() for v in network.state_dict().values()) + 4000
    assert [p.name for p in path.parent.iterdir()] == ["weights.safetensors"]


def test_all_settings_survive_the_file(tmp_path):
    config = Config(40, (4, 4), {"a": Head(3, (5, 6), 0.25, "tanh"), "b": Head(2, ())}, (5, 3), True, 1)
    save_network(tmp_path / "w", PoseNetwork(config), {})
    assert load_network(tmp_path / "w")[0].config == config


def test_saving_again_replaces_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_network(path, build_tiny(0), {"seed": 0})
    before = path.read_bytes()

    def broken(*_):
        raise OSError("disk full")
    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        save_network(path, build_tiny(1), {"seed": 1})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_missing_weights_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="train first, or name a file with --weights"):
        load_network(tmp_path / "none.safetensors")


class Trap:
    """Unpickling this makes a folder: a stand-in for code that runs when a file is opened."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "flipped header", "no header", "other sizes", "pickle",
                                  "torch pickle", "config no network"])
def test_a_damaged_or_foreign_file_gives_one_sentence_and_runs_nothing(tmp_path, kind):
    from safetensors.torch import save_file
    path, sprung = tmp_path / "w.safetensors", tmp_path / "sprung"
    save_network(path, build_tiny(), {})
    whole = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no weights\n" * 50)
    elif kind == "truncated":
        path.write_bytes(whole[:-100])
    elif kind == "flipped header":
        path.write_bytes(b"\xff" * 8 + whole[8:])
    elif kind == "no header":
        save_file({"x": torch.ones(3)}, path)
    elif kind == "other sizes":
        path.write_bytes(whole.replace(b'[16]', b'[17]'))
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Trap(sprung)))
    elif kind == "torch pickle":
        torch.save({"x": Trap(sprung)}, path)
    else:
        save_file({"x": torch.ones(3)}, path, {"config": json.dumps({"crop": 3}), "about": "{}"})
    assert kind in ("empty", "text") or path.read_bytes() != whole
    with pytest.raises(ValueError, match="does not hold a network of this book, or is damaged") as error:
        load_network(path)
    assert str(path) in str(error.value) and not sprung.exists()


def test_further_heads_leave_the_weights_of_the_first_as_they_were():
    alone = build_network("small", {"regression": 28}, 4).state_dict()
    three = build_network("small", {"regression": 28, "joints": 896, "parts": 640}, 4).state_dict()
    assert all(torch.equal(value, three[name]) for name, value in alone.items()) and len(three) > len(alone)
    with pytest.raises(ValueError, match="size must be one of small, small-b, paper-a, paper-b"):
        build_network("large", {"regression": 28}, 0)
    with pytest.raises(ValueError, match="at least one head"):
        build_network("small", {}, 0)


def test_paper_a_has_a_stack_for_each_of_its_three_tasks():
    with torch.device("meta"):
        network = PoseNetwork(paper_a())
    assert {name: head[-1].out_features for name, head in network.heads.items()} == {
        "regression": 16, "joints": 512, "parts": 448}


@pytest.mark.parametrize("channels", [1, 4, 32])
def test_the_response_norm_is_the_library_s_and_works_in_half_precision(channels):
    maps = torch.randn(3, channels, 7, 6) * 30
    ours, theirs = ResponseNorm(channels), nn.LocalResponseNorm(5, alpha=0.0025, beta=0.75)
    torch.testing.assert_close(ours(maps), theirs(maps), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        half = ours(maps.bfloat16())
    assert half.dtype == torch.bfloat16
    large = (maps * 20).half()                                   # their squares are beyond float16
    ours16 = ResponseNorm(channels).half()(large)
    torch.testing.assert_close(ours16.float(), theirs(large.float()), rtol=0.02, atol=0.5)
    torch.testing.assert_close(half.float(), theirs(maps), rtol=0.03, atol=0.1)


def test_the_small_size_of_paper_b_has_its_layers_and_heads():
    network = build_network("small-b", {"pose3d": 51, "joints": 17 * 81}, 0, keep=0.5)
    ours, papers = ([name for name, _ in net.trunk.named_children()] for net in (network, PoseNetwork(paper_b())))
    assert ours == papers
    assert isinstance(network.heads["pose3d"][-1], nn.Tanh) and isinstance(network.heads["joints"][-1], nn.Linear)
    assert [layer.p for layer in network.heads["pose3d"] if isinstance(layer, nn.Dropout)] == [0.5]
    assert network.config.crop == 64 and network.config.average_gradients
    plain = build_network("small-b", {"pose3d": 51}, 0)
    assert not any(isinstance(layer, nn.Dropout) for layer in plain.heads["pose3d"])
    for keep in (0, 1.5):
        with pytest.raises(ValueError, match="keep must be above 0 and at most 1"):
            build_network("small-b", {"pose3d": 51}, 0, keep=keep)
    with pytest.raises(ValueError, match="paper A's network has no dropout"):
        build_network("paper-a", {"regression": 16}, 0, keep=0.5)


def test_the_trunk_learns_from_the_mean_of_the_heads_gradients():
    """Paper B: averaged at pool3; each head's own layers see their own gradient in full."""
    images = torch.rand(4, 3, 64, 64)
    network = build_network("small-b", {"pose3d": 51, "joints": 20}, 0)
    summed = PoseNetwork(replace(network.config, average_gradients=False))
    summed.load_state_dict(network.state_dict())
    for net in (network, summed):
        answer = net(images)
        ((answer["pose3d"] ** 2).sum() + (answer["joints"] ** 2).sum()).backward()
    for (name, ours), (_, theirs) in zip(network.named_parameters(), summed.named_parameters(), strict=True):
        factor = 0.5 if name.startswith("trunk") else 1
        torch.testing.assert_close(ours.grad, theirs.grad * factor, rtol=1e-4, atol=1e-6)


def test_a_head_with_tanh_starts_at_the_answer_it_is_given():
    network = build_network("small-b", {"pose3d": 51}, 0)
    answer = torch.linspace(-0.4, 0.4, 51)
    images = torch.rand(8, 3, 64, 64)
    before = (network(images)["pose3d"] - answer).abs().mean()
    network.start_at("pose3d", answer)
    assert (network(images)["pose3d"] - answer).abs().mean() < before
    with torch.no_grad():
        network.heads["pose3d"][-2].weight.zero_()
    torch.testing.assert_close(network(images)["pose3d"], answer.expand(8, 51))


def test_a_trunk_is_taken_whole_or_not_at_all():
    source, network = (build_network("small-b", {task: 5}, seed) for task, seed in (("joints", 1), ("pose3d", 2)))
    source.spread.fill_(0.7)
    head = network.heads["pose3d"][0].weight.clone()
    take_trunk(network, source)
    assert all(torch.equal(v, source.trunk.state_dict()[k]) for k, v in network.trunk.state_dict().items())
    assert network.spread == source.spread and torch.equal(network.heads["pose3d"][0].weight, head)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    for other, what in ((build_network("small", {"joints": 5}, 0), "linear_last False instead of True"),
                        (build_network("small-b", {"joints": 5}, 0, (4, 8, 8)), r"channels \(4, 8, 8\) instead of"),
                        (PoseNetwork(small_b({"joints": Head(5)}, (16, 32, 32))), None)):
        if what:
            with pytest.raises(ValueError, match=what):
                take_trunk(network, other)
            assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
        else:
            take_trunk(network, other)


def test_a_mean_target_that_a_tanh_cannot_give_is_refused():
    network = build_network("small-b", {"pose3d": 51}, 0)
    with pytest.raises(ValueError, match="but the mean target reaches 1.20; are the joints in millimetres"):
        network.start_at("pose3d", torch.full((51,), 1.2))


def test_a_head_that_answers_with_maps_cannot_start_at_a_pose():
    network = build_network("small", {"heatmaps": 14 * 16 ** 2}, 0)
    with pytest.raises(ValueError, match="the head heatmaps answers with maps, so it has no bias that could be a pose"):
        network.start_at("heatmaps", torch.zeros(28))


def test_only_the_heads_that_are_asked_for_answer_and_share_the_mean():
    images = torch.rand(2, 3, 64, 64)
    network = build_network("small-b", {"pose3d": 51, "joints": 20}, 0)
    both, one = network(images), network(images, ["pose3d"])
    assert list(one) == ["pose3d"] and torch.equal(one["pose3d"], both["pose3d"])
    gradients = []
    for heads in (None, ["pose3d"]):
        network.zero_grad()
        (network(images, heads)["pose3d"] ** 2).sum().backward()
        gradients.append(network.trunk.conv1.weight.grad.clone())
    torch.testing.assert_close(gradients[1], 2 * gradients[0], rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------ since then

def test_the_learned_density_integrates_to_one():
    density = ResidualDensity()
    torch.manual_seed(3)
    for coupling in density.couplings:
        nn.init.normal_(coupling[-1].weight, std=0.1)
        nn.init.normal_(coupling[-1].bias, std=0.3)
    line = torch.linspace(-12, 12, 601)
    plane = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1)
    with torch.no_grad():
        log_density = density(plane)
    assert (log_density.exp().sum() * (line[1] - line[0]) ** 2).item() == pytest.approx(1, abs=2e-3)
    normal = -(plane ** 2).sum(-1) / 2 - math.log(2 * math.pi)
    assert (log_density - normal).abs().max() > 1                             # and is no longer the normal one
    assert torch.allclose(ResidualDensity()(plane), normal, atol=1e-4)        # as which it began


def test_a_resnet_is_torchvisions_and_its_sizes_are_told_truly():
    network = build_network("resnet18", {"regression": 28}, 0).eval()
    from torchvision.models import resnet18
    whole = resnet18(weights=None).eval()
    stages = network.trunk.state_dict()
    whole.load_state_dict(stages | {"fc.weight": whole.fc.weight, "fc.bias": whole.fc.bias})
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = network.trunk(images)
    assert torch.allclose(whole(images), whole.fc(maps.mean(dim=(2, 3))), atol=1e-4)
    found = {layer.name: layer for layer in layers(network.config)}
    x = images
    for name, module in network.trunk.named_children():
        x = module(x)
        layer = found.get({"maxpool": "pool1"}.get(name, name))
        if layer:
            assert x.shape[1:] == (layer.channels, layer.side, layer.side), name
    assert layer.receptive_field == 435 and network.features == 512 * 2 * 2   # the field: He et al.'s layers, by hand


@pytest.mark.parametrize("size", ["small", "small-b", "resnet18"])
@pytest.mark.parametrize("task", POSES)
def test_heads_of_later_targets_fit_their_codecs_and_survive_the_file(tmp_path, size, task):
    codec = build_codecs((task,), LSP14, 64)[task]
    network = build_network(size, {task: codec.outputs}, 1)
    path = tmp_path / "weights.safetensors"
    save_network(path, network, {})
    images = torch.rand(3, 3, 64, 64)
    again, _ = load_network(path)
    answer = again(images)[task]
    assert answer.shape == (3, codec.outputs) and codec.decode(answer).shape == (3, 14, 2)
    assert again.config == network.config
    assert (task in again.densities) == (task == "rle")


def test_maps_that_cannot_be_grown_are_refused():
    with pytest.raises(ValueError, match="maps of 28 cells cannot be grown from the trunk's 10 by doubling"):
        build_network("paper-a", {"heatmaps": 14 * 28 ** 2}, 0)


def test_a_missing_torchvision_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ImportError, match="pip install torchvision"):
        build_network("resnet18", {"regression": 28}, 0)
