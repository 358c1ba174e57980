"""Networks as ONNX files: what is inside, and that it stands for the same network. That a browser computes the same
numbers is in tests/pages."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from posebook import explain, export, networks
from posebook.__main__ import main
from posebook.datasets.base import ENLARGE
from posebook.results import results_folder
from posebook.skeleton import H36M17, LSP14
from posebook.targets import build_codecs

ORIGIN = {"skeleton": "LSP14", "dataset": "people", "seed": 3, "tasks": ["regression", "joints", "parts"]}


def network(tasks=("regression", "joints", "parts"), skeleton=LSP14, size="small", round_to_half=True):
    codecs = build_codecs(tasks, skeleton, 64)
    made = networks.build_network(size, {task: codec.outputs for task, codec in codecs.items()}, 0, (4, 6, 8)).eval()
    return made.half().float() if round_to_half else made


def shapes(values):
    return {v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in values}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "a.onnx"
    made = network()
    return made, export.export_network(made, ORIGIN, path), onnx.load(path), path


def test_a_file_names_what_goes_in_and_comes_out(exported):
    _, _, model, _ = exported
    assert shapes(model.graph.input) == {"pixels": ["N", 3, 64, 64]}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert shapes(model.graph.output) == {
        "regression": ["N", 28], "pose": ["N", 14, 2], "joints": ["N", 896], "joints_probability": ["N", 14, 8, 8],
        "joints_mean": ["N", 14, 2], "joints_best": ["N", 14, 2], "parts": ["N", 640],
        "parts_probability": ["N", 10, 8, 8], "parts_mean": ["N", 10, 2], "parts_best": ["N", 10, 2],
        "conv2": ["N", 6, 24, 24], "conv3": ["N", 8, 8, 8]}
    assert [(o.domain, o.version) for o in model.opset_import] == [("", export.OPSET)]


def test_a_file_carries_its_skeleton_windows_and_origin(exported):
    _, facts, model, _ = exported
    assert json.loads(next(p.value for p in model.metadata_props if p.key == "posebook")) == facts
    assert facts["joints"] == list(LSP14.joints) and facts["enlarge"] == ENLARGE and facts["crop"] == 64
    assert facts["limbs"][0] == {"name": "torso", "side": "middle", "start": ["neck"], "end": ["left_hip", "right_hip"]}
    assert facts["sides"][LSP14.index("left_knee")] == "left"
    assert facts["windows"] == {"side": 8, "window": 17, "stride": 7}
    assert (facts["dataset"], facts["seed"]) == ("people", 3)


def test_a_file_names_no_path_of_this_machine_and_is_the_same_each_time(exported, tmp_path):
    made, _, _, path = exported
    content = path.read_bytes()
    assert b"site-packages" not in content and b".py" not in content
    export.export_network(made, ORIGIN, tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").read_bytes() == content


def test_weights_are_stored_in_half_precision_only_where_nothing_is_lost(exported, tmp_path):
    made, _, model, _ = exported
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = stored["network.heads.joints.0.weight.half"]
    assert weights.dtype == np.float16
    np.testing.assert_array_equal(weights.astype(np.float32), made.heads["joints"][0].weight.detach().numpy())
    export.export_network(network(round_to_half=False), ORIGIN, tmp_path / "full.onnx")
    full = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "full.onnx").graph.initializer}
    assert full["network.heads.joints.0.weight"] == onnx.TensorProto.FLOAT


def test_what_the_file_computes_is_what_the_package_computes():
    made, pixels = network(), torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    found, codecs = export.outputs(made, ORIGIN, pixels), build_codecs(tuple(made.heads), LSP14, 64)
    with torch.no_grad():
        answers = made(pixels.float() / 255)
    for name, answer in answers.items():
        assert torch.equal(found[name], answer)
    assert torch.equal(found["pose"], codecs["regression"].decode(answers["regression"]))
    assert torch.equal(found["joints_best"], codecs["joints"].decode(answers["joints"], hard=True))
    assert torch.equal(found["parts_mean"], codecs["parts"].decode(answers["parts"]))
    assert torch.equal(found["parts_probability"], codecs["parts"].probabilities(answers["parts"]))
    for layer in export.LAYERS:
        assert torch.equal(found[layer], explain.responses(made, layer, pixels.float() / 255))
        assert (found[layer] >= 0).all()


def test_a_3d_network_of_paper_b_can_be_exported(tmp_path):
    made = network(("pose3d", "joints"), H36M17, "small-b")
    facts = export.export_network(made, {"skeleton": "H36M17"}, tmp_path / "b.onnx")
    found = shapes(onnx.load(tmp_path / "b.onnx").graph.output)
    assert found["pose_mm"] == ["N", 17, 3] and found["joints_probability"] == ["N", 17, 9, 9]
    assert facts["heads"] == ["pose3d", "joints"] and "seed" not in facts
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    linear_last = export.outputs(made, {"skeleton": "H36M17"}, pixels)["conv3"]
    assert torch.equal(linear_last, explain.responses(made, "conv3", pixels.float() / 255))
    assert (linear_last < 0).any()                                                # paper B's last maps have no ReLU


@pytest.mark.parametrize("tasks, skeleton, size", [
    (("regression", "joints", "parts"), LSP14, "small"), (("pose3d", "joints"), H36M17, "small-b"),
    (("softargmax", "rle"), LSP14, "small")])
def test_onnx_s_own_definition_of_the_operators_gives_the_package_s_numbers(tmp_path, tasks, skeleton, size):
    made, origin = network(tasks, skeleton, size), {"skeleton": skeleton.name}
    export.export_network(made, origin, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    assert {shape[0] for shape in shapes(model.graph.output).values()} == {"N"}
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = ReferenceEvaluator(model).run(None, {"pixels": pixels.numpy()})
    wanted = export.outputs(made, origin, pixels)
    assert [v.name for v in model.graph.output] == list(wanted)
    for ours, (name, theirs) in zip(found, wanted.items(), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4 * max(1, theirs.abs().max().item()), err_msg=name)


def test_a_network_with_heat_maps_can_be_exported(tmp_path):
    export.export_network(network(("heatmaps",)), ORIGIN, tmp_path / "a.onnx")
    assert shapes(onnx.load(tmp_path / "a.onnx").graph.output) == {
        "heatmaps": ["N", 14 * 16 * 16], "heatmaps_pose": ["N", 14, 2], "conv2": ["N", 6, 24, 24],
        "conv3": ["N", 8, 8, 8]}


def test_weights_without_a_skeleton_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="do not say which joints they are for, one of LSP14"):
        export.export_network(network(), {"dataset": "people"}, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_the_shipped_networks(tmp_path, capsys):
    weights = results_folder("weights") / "detection-people.safetensors"
    assert main(["export", "--weights", str(weights), "--out", str(tmp_path / "a.onnx")]) == 0
    assert "regression, joints, parts; opset 18, 4.9 MB" in capsys.readouterr().out
    assert list(shapes(onnx.load(tmp_path / "a.onnx").graph.input)) == ["pixels"]


@pytest.mark.parametrize("content, message", [(None, "there are no weights"), (b"x" * 100, "does not hold a network")])
def test_the_command_says_in_a_sentence_what_is_wrong_with_weights(content, message, tmp_path, capsys):
    weights = tmp_path / "w.safetensors"
    if content:
        weights.write_bytes(content)
    assert main(["export", "--weights", str(weights), "--out", str(tmp_path / "a.onnx")]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said and not (tmp_path / "a.onnx").exists()


def test_without_the_libraries_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match="pip install onnx onnxscript"):
        export.export_network(network(), ORIGIN, tmp_path / "a.onnx")
