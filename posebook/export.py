"""A network as an ONNX file, for whatever runs such files: the book's own page does, with onnxruntime-web.

One file holds everything from the pixels to the joints, so that no program that uses it has to repeat a step of ours:

| name | shape | what |
|---|---|---|
| input `pixels` | (N, 3, crop, crop) uint8 | red, green, blue of a square about a person (`about`: `enlarge`) |
| `regression` | (N, 2 J) float32 | the head's answer, joint coordinates over the side of the crop |
| `pose` | (N, J, 2) float32 | the same, decoded: x and y in pixels of the input, the first pixel's centre at (0, 0) |
| `joints` | (N, J side side) float32 | the head's answer, logits of all windows (rows, then columns) of each joint |
| `joints_probability` | (N, J, side, side) float32 | the same in 0..1 |
| `joints_mean` | (N, J, 2) float32 | mean of the windows' centres weighted by probability, pixels of the input |
| `joints_best` | (N, J, 2) float32 | centre of the most probable window, pixels of the input |
| `parts`, `parts_probability` | L instead of J | the same of the body parts |
| `pose3d` | (N, 3 J) float32 | the 3D head's answer |
| `pose_mm` | (N, J, 3) float32 | the same, decoded: millimetres from the root, x right, y down, z away |
| `heatmaps`, `softargmax`, `rle` | (N, ...) float32 | the answers of these heads, each with its decoded `..._pose` |
| `conv2`, `conv3` | (N, C, h, w) float32 | the maps of these convolutions, after the ReLU if there is one |

Outputs of heads that a network lacks are left out. What numbers and words belong to the file (`about`: joints, limbs,
windows, origin) travels inside as its metadata, JSON under the key `posebook`.

Weights are stored in half precision where that loses nothing, as in the book's own weights; all arithmetic is float32.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from posebook.datasets.base import ENLARGE
from posebook.files import whole_file
from posebook.networks import PoseNetwork
from posebook.skeleton import SKELETONS, Skeleton
from posebook.targets import Codec, JointWindows, PartWindows, build_codecs

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
"""Version of ONNX's operators. onnxruntime-web 1.30 runs it (tested), and so does every onnxruntime since 1.14."""
LAYERS = ("conv2", "conv3")
"""Convolutions whose maps a file gives out: those that the chapter on features looks into."""


def about(network: PoseNetwork, origin: dict) -> dict:
    """What a program needs to know to use the file: plain values.

    Args:
        origin: what `train` wrote beside the weights (dataset, skeleton, seed).

    Raises:
        ValueError: if it does not name a skeleton of this book.
    """
    skeleton = _skeleton(origin)
    codecs = build_codecs(tuple(network.heads), skeleton, network.config.crop)
    windows = next((codec.grid for codec in codecs.values() if hasattr(codec, "grid")), None)
    return {
        "crop": network.config.crop, "enlarge": ENLARGE, "skeleton": skeleton.name, "joints": list(skeleton.joints),
        "sides": [skeleton.side(name) for name in skeleton.joints],
        "limbs": [{"name": limb.name, "side": skeleton.side(limb.name), "start": list(limb.start),
                   "end": list(limb.end)} for limb in skeleton.limbs],
        "windows": windows and {"side": windows.side, "window": windows.window, "stride": windows.stride},
        "heads": list(network.heads),
        **{name: origin[name] for name in ("dataset", "seed", "tasks") if name in origin}}


class _WholeWay(nn.Module):
    """From bytes to decoded poses; a tuple of tensors, in the order of `names`."""

    def __init__(self, network: PoseNetwork, codecs: dict[str, Codec]) -> None:
        super().__init__()
        self.network, self.codecs = network, codecs
        self.names: list[str] = []

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        network = self.network
        maps, layer = (pixels.float() / 255 - network.mean_image) / network.spread, ""
        found: dict[str, torch.Tensor] = {}
        for name, module in network.trunk.named_children():
            maps = module(maps)
            layer = name if isinstance(module, nn.Conv2d) else layer
            if layer in LAYERS and (name == layer or isinstance(module, nn.ReLU)):
                found[layer] = maps                                      # a ReLU's answer takes its convolution's place
        answers = network.answer(maps, list(network.heads))
        for name, answer in answers.items():
            codec = self.codecs[name]
            if isinstance(codec, JointWindows | PartWindows):
                answers = {**answers, f"{name}_probability": codec.probabilities(answer),
                           f"{name}_mean": codec.decode(answer), f"{name}_best": codec.decode(answer, hard=True)}
            else:
                decoded = {"regression": "pose", "pose3d": "pose_mm"}.get(name, f"{name}_pose")
                answers = {**answers, decoded: codec.decode(answer)}
        answers |= found
        self.names = list(answers)
        return tuple(answers.values())


def outputs(network: PoseNetwork, origin: dict, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the exported file answers, computed by PyTorch where the network is: pixels (N, 3, crop, crop) uint8 -> name
    -> tensor on the CPU."""
    way = _WholeWay(network, build_codecs(tuple(network.heads), _skeleton(origin), network.config.crop)).eval()
    with torch.no_grad():
        answers = way(pixels.to(network.device))
    return {name: answer.cpu() for name, answer in zip(way.names, answers, strict=True)}


def export_network(network: PoseNetwork, origin: dict, path: str | Path) -> dict:
    """Write `path`, whole or not at all, and return `about`.

    Needs `onnx` and `onnxscript` (the extra `export`).

    Raises:
        ModuleNotFoundError: without them, saying what to install; ValueError: as `about`.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch's exporter stands on it)
    except ImportError as error:
        raise ModuleNotFoundError(f"exporting needs the package {error.name}: pip install onnx onnxscript") from error
    facts = about(network, origin)
    way = _WholeWay(network.eval(), build_codecs(tuple(network.heads), _skeleton(origin), network.config.crop)).eval()
    pixels = torch.zeros(2, 3, network.config.crop, network.config.crop, dtype=torch.uint8, device=network.device)
    with torch.no_grad():
        way(pixels)                                                      # names its outputs
    with _quiet():
        program = torch.onnx.export(way, (pixels,), dynamo=True, opset_version=OPSET, input_names=["pixels"],
                                    output_names=way.names, dynamic_shapes=({0: torch.export.Dim("N")},), verbose=False)
    assert program is not None, "PyTorch's newer exporter gives the model back"
    model = program.model_proto
    _halve(model)
    model.producer_name, model.doc_string = "posebook", ""
    _forget_source(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = "posebook", json.dumps(facts)
    onnx.checker.check_model(model)
    with whole_file(path) as part:
        part.write_bytes(model.SerializeToString(deterministic=True))
    return facts


def _skeleton(origin: dict) -> Skeleton:
    if origin.get("skeleton") not in SKELETONS:
        raise ValueError(f"the weights do not say which joints they are for, one of {', '.join(SKELETONS)}; "
                         "`python -m posebook train` writes weights that do")
    return SKELETONS[origin["skeleton"]]


def _halve(model: ModelProto) -> None:
    """Store every float32 tensor that survives half precision so, with a cast back before its use."""
    import numpy as np
    import onnx
    from onnx import numpy_helper
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        full = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = full.astype(np.float16)
        if full.size < 64 or not np.array_equal(half.astype(np.float32), full):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], f"widen {name}", to=1))      # to float32
    others = list(graph.node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend([*casts, *others])


def _forget_source(model: ModelProto) -> None:
    """Take out what the exporter notes of the source code: it is long, and has the paths of this machine."""
    for node in [model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer]:
        node.doc_string = ""
        del node.metadata_props[:]
    del model.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its progress and its own deprecations, which are not the reader's business."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


