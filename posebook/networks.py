"""One convolutional trunk, named heads.

The same class builds the exact sizes of papers A and B, the small size that a CPU trains in minutes, and what came
after them: a ResNet-18 as the trunk, heads that answer with maps; a `Config` tells them apart. The papers' pooling
rounds *up*, as cuda-convnet did: 104 -> 52 would be 51 if it rounded down.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from posebook.files import whole_file
from posebook.targets import MAP_STRIDE


@dataclass(frozen=True)
class Head:
    """A stack of fully connected layers.

    Attributes:
        outputs: numbers in the answer.
        hidden: widths of the hidden layers, each followed by ReLU.
        keep: probability to *keep* a unit of the first hidden layer (the authors' "dropout 0.25" keeps a quarter;
            PyTorch's `p` is the probability to drop, 1 - keep).
        activation: of the answer: 'linear', 'tanh' or 'sigmoid'.
        density: the head learns a `ResidualDensity` beside its answer (the codec `targets.ResidualLikelihood`).
    """

    outputs: int
    hidden: tuple[int, ...] = (512, 512)
    keep: float = 1.0
    activation: str = "linear"
    density: bool = False


@dataclass(frozen=True)
class MapHead:
    """Deconvolutions that each double the side of the trunk's maps, then one map for each joint (Simple Baselines,
    Xiao et al. 2018). The last layer starts near zero, as there: begun at random, the first maps are a noise far
    above the target, and what the head does to be rid of it silences it for good.

    Attributes:
        outputs: numbers in the answer: `side` x `side` of each joint in turn, rows before columns.
        side: of the answer's maps in cells: the trunk's last side, doubled once or several times.
        channels: maps of the deconvolutions (the paper: 256).
    """

    outputs: int
    side: int
    channels: int = 64


@dataclass(frozen=True)
class Config:
    """Sizes of a network.

    Attributes:
        trunk: 'papers': convolutions with pooling, as below; 'resnet18': torchvision's, of which only `crop` and
            `heads` count here.
        crop: side of the input in pixels.
        channels, kernels: maps and kernel sides of the convolutions; each is followed by max-pooling 3, stride 2.
        linear_last: no ReLU after the last convolution (paper B).
        normalise_after: index of the convolution followed by local response normalisation, or None.
        average_gradients: the trunk learns from the mean of the heads' gradients, not from their sum (paper B). It
            matters to plain gradient descent; AdamW, which divides a gradient by its own size, takes out the factor.
        heads: name -> `Head` or `MapHead`.
    """

    crop: int
    channels: tuple[int, ...]
    heads: Mapping[str, Head | MapHead]
    kernels: tuple[int, ...] = (9, 5, 5)
    linear_last: bool = False
    normalise_after: int | None = None
    average_gradients: bool = False
    trunk: str = "papers"


SIZES = {"small": 64, "small-b": 64, "paper-a": 112, "paper-b": 112, "resnet18": 64}
"""Size of a network by name -> side of its input in pixels."""


def small(heads: Mapping[str, Head | MapHead], channels: Sequence[int] = (16, 32, 32)) -> Config:
    """The book's size for a CPU: 64 px input, the papers' kernels, few maps (`channels`)."""
    return Config(crop=SIZES["small"], channels=tuple(channels), heads=heads)


def paper_a(outputs: dict[str, int] | None = None) -> Config:
    """Paper A's network: 112 px; layer sides 104, 52, 48, 24, 20, 10; one stack of layers for each task.

    Default outputs are the paper's: 16 numbers of regression, 512 joint windows, 448 part windows.

    Known from the authors' code: kernels, pooling, 16 maps in conv2 and conv3. Not found, and therefore ours: 16 maps
    in conv1, and the fully connected widths, which we take from paper B.
    """
    outputs = outputs or {"regression": 16, "joints": 512, "parts": 448}
    heads = {name: _head(name, count, SIZES["paper-a"] // MAP_STRIDE, (1024, 2048)) for name, count in outputs.items()}
    return Config(SIZES["paper-a"], (16, 16, 16), heads)


def small_b(heads: Mapping[str, Head | MapHead], channels: Sequence[int] = (16, 32, 32)) -> Config:
    """Paper B's layers at the book's size for a CPU: as `small`, with normalisation and a linear last convolution."""
    return Config(SIZES["small-b"], tuple(channels), heads, linear_last=True, normalise_after=1, average_gradients=True)


def paper_b(outputs: dict[str, int] | None = None, keep: float = 0.25) -> Config:
    """Paper B's network: 8.92 M parameters with the 51 numbers of 17 joints in 3D, 21.06 M with 1700 joint windows too.

    Where the normalisation sits (after conv2's ReLU, before its pooling) is our reading of "after conv2".

    Args:
        outputs: task -> numbers in its answer; default both. keep: of the first hidden layer of each head.
    """
    outputs = outputs or {"pose3d": 51, "joints": 1700}
    heads = {name: _head(name, count, SIZES["paper-b"] // MAP_STRIDE, (1024, 2048), keep)
             for name, count in outputs.items()}
    return Config(SIZES["paper-b"], (32, 64, 64), heads, linear_last=True, normalise_after=1, average_gradients=True)


def resnet18(heads: Mapping[str, Head | MapHead]) -> Config:
    """Torchvision's ResNet-18 without its last pooling and classifier, untrained, at the book's 64 px."""
    return Config(SIZES["resnet18"], (), heads, kernels=(), trunk="resnet18")


def _head(task: str, outputs: int, side: int, hidden: tuple[int, ...] = (512, 512),
          keep: float = 1.0) -> Head | MapHead:
    """Paper B's answer in 3D passes through a tanh; of the detections, the sigmoid is part of the loss. `side`: of the
    maps, for the tasks that answer with maps."""
    if task in ("heatmaps", "softargmax"):
        return MapHead(outputs, side)
    return Head(outputs, hidden, keep, "tanh" if task == "pose3d" else "linear", task == "rle")


@dataclass(frozen=True)
class Layer:
    """Name, output shape (channels, side) and receptive field of one stage of the trunk, in input pixels."""

    name: str
    channels: int
    side: int
    receptive_field: int
    step: int


class PoseNetwork(nn.Module):
    """Trunk plus heads.

    The input is float (N, 3, crop, crop) in 0..1. The training set's mean image is subtracted inside (buffers
    `mean_image` (3, crop, crop) and `spread`, a scalar), so that weights and normalisation travel together.

    Args:
        config: sizes.

    Raises:
        ValueError: if there is no head, or the crop is too small for the layers.
    """

    mean_image: torch.Tensor
    spread: torch.Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        if not config.heads:
            raise ValueError("a network needs at least one head")
        self.config = config
        self.register_buffer("mean_image", torch.full((3, config.crop, config.crop), 0.5))
        self.register_buffer("spread", torch.tensor(0.25))
        self.trunk = _trunk(config)
        last = layers(config)[-1]
        self.features = last.channels * last.side ** 2
        self.heads = nn.ModuleDict()
        # the second and further heads draw after all else: trunk and first head of a seed are the same without them
        for number, (name, head) in enumerate(config.heads.items()):
            made = _maps(last, head) if isinstance(head, MapHead) else _stack(self.features, head)
            self.heads[name] = made
            (self if number == 0 else made).apply(_initialise)
            if isinstance(head, MapHead):
                *_, weight, _ = made.parameters()                    # of the last layer, and its bias
                nn.init.normal_(weight, std=0.001)
        self.densities = nn.ModuleDict({name: ResidualDensity() for name, head in config.heads.items()
                                        if isinstance(head, Head) and head.density})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean_image.device

    def normalise_with(self, images: torch.Tensor) -> None:
        """Set the normalisation from training inputs (N, 3, crop, crop) in 0..1."""
        self.mean_image.copy_(images.mean(dim=0))
        self.spread.copy_((images - self.mean_image).std())

    @torch.no_grad()
    def start_at(self, head: str, answer: torch.Tensor) -> None:
        """Make the head start near `answer` for every input: the last layer's bias, its weights shrunk. Of a head with
        more outputs than `answer` has numbers, the first of them.

        A regressor that starts at the mean pose need not find it first, and its first gradients are small: large
        ones can silence ReLU units for good (see the chapter on regression).
        """
        sizes = self.config.heads[head]
        if isinstance(sizes, MapHead):
            raise ValueError(f"the head {head} answers with maps, so it has no bias that could be a pose")
        tanh = sizes.activation == "tanh"
        if tanh and not (answer.abs() < 1).all():
            raise ValueError(f"the head {head} answers between -1 and 1, but the mean target reaches "
                             f"{answer.abs().max():.2f}; are the joints in millimetres?")
        *_, last = (layer for layer in self.heads[head].modules() if isinstance(layer, nn.Linear))
        last.bias[:len(answer)] = torch.atanh(answer) if tanh else answer
        last.weight.mul_(0.1)

    def forward(self, images: torch.Tensor, heads: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Answers of the heads (default all), name -> (N, outputs)."""
        heads = list(self.heads) if heads is None else heads
        features = self.trunk((images - self.mean_image) / self.spread)
        if self.config.average_gradients and len(heads) > 1 and features.requires_grad:
            features.register_hook(lambda gradient: gradient / len(heads))
        return self.answer(features, heads)

    def answer(self, features: torch.Tensor, heads: Sequence[str]) -> dict[str, torch.Tensor]:
        """Answers of the heads to the trunk's last maps (N, C, h, w)."""
        flat = features.flatten(1)
        return {name: self.heads[name](features).flatten(1) if isinstance(self.config.heads[name], MapHead)
                else self.heads[name](flat) for name in heads}


def layers(config: Config) -> list[Layer]:
    """Stages of the trunk with their sizes; receptive fields by the usual recursion over kernel and step.

    Raises:
        ValueError: if a stage would be left without a pixel.
    """
    if config.trunk == "resnet18":
        return _resnet18_layers(config.crop)
    side, field_, step = config.crop, 1, 1
    found = []
    for number, (channels, kernel) in enumerate(zip(config.channels, config.kernels, strict=True), 1):
        side, field_ = side - kernel + 1, field_ + (kernel - 1) * step
        if side < 3:
            raise ValueError(f"a crop of {config.crop} px is too small: conv{number} would be {side} px wide")
        found.append(Layer(f"conv{number}", channels, side, field_, step))
        side, field_, step = -(-(side - 3) // 2) + 1, field_ + 2 * step, step * 2
        found.append(Layer(f"pool{number}", channels, side, field_, step))
    return found


def _resnet18_layers(crop: int) -> list[Layer]:
    """ResNet-18 (He et al. 2016): every stage as (name, maps, (kernel, step) of its convolutions and pooling)."""
    two_blocks = [(3, 2), (3, 1), (3, 1), (3, 1)]
    stages = [("conv1", 64, [(7, 2)]), ("pool1", 64, [(3, 2)]), ("layer1", 64, [(3, 1)] * 4),
              ("layer2", 128, two_blocks), ("layer3", 256, two_blocks), ("layer4", 512, two_blocks)]
    side, field_, step = crop, 1, 1
    found = []
    for name, channels, steps in stages:
        for kernel, stride in steps:
            side, field_, step = -(-side // stride), field_ + (kernel - 1) * step, step * stride
        found.append(Layer(name, channels, side, field_, step))
    return found


def _resnet18_trunk() -> nn.Sequential:
    try:
        from torchvision.models import resnet18 as build
    except ImportError as error:
        raise ImportError("the ResNet-18 trunk comes from torchvision: pip install torchvision") from error
    stages = OrderedDict(build(weights=None).named_children())
    del stages["avgpool"], stages["fc"]
    return nn.Sequential(stages)


def _trunk(config: Config) -> nn.Sequential:
    if config.trunk == "resnet18":
        return _resnet18_trunk()
    trunk = nn.Sequential()
    before = 3
    for i, (channels, kernel) in enumerate(zip(config.channels, config.kernels, strict=True)):
        trunk.add_module(f"conv{i + 1}", nn.Conv2d(before, channels, kernel))
        if not (config.linear_last and i == len(config.channels) - 1):
            trunk.add_module(f"relu{i + 1}", nn.ReLU())
        if config.normalise_after == i:
            trunk.add_module(f"norm{i + 1}", ResponseNorm(channels))
        trunk.add_module(f"pool{i + 1}", nn.MaxPool2d(3, stride=2, ceil_mode=True))
        before = channels
    return trunk


class ResponseNorm(nn.Module):
    """Local response normalisation over 5 neighbouring maps: x / (1 + alpha mean(x^2)) ^ 0.75.

    alpha and beta are paper B's; the number of maps was not found, PyTorch's customary 5 is ours. The same numbers as
    `nn.LocalResponseNorm` (tested), several times as fast on a CPU, and in half precision too: the sum over neighbours
    is a 1 x 1 convolution with a band of ones.
    """

    band: torch.Tensor

    def __init__(self, channels: int, alpha: float = 0.0025, neighbours: int = 5) -> None:
        super().__init__()
        index = torch.arange(channels)
        band = ((index[:, None] - index).abs() <= neighbours // 2).float()
        self.register_buffer("band", band[..., None, None], persistent=False)
        self.root_alpha = (alpha / neighbours) ** 0.5

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, h, w), normalised, in their own precision."""
        small = maps * self.root_alpha              # before the square: a large map would overflow float16
        root = (nn.functional.conv2d(small * small, self.band).float() + 1).rsqrt()
        return maps * (root * root.sqrt()).to(maps.dtype)             # d ^ -0.75


def _stack(inputs: int, head: Head) -> nn.Sequential:
    stack = nn.Sequential()
    for i, width in enumerate(head.hidden):
        stack.append(nn.Linear(inputs, width))
        stack.append(nn.ReLU())
        if i == 0 and head.keep < 1:
            stack.append(nn.Dropout(1 - head.keep))
        inputs = width
    stack.append(nn.Linear(inputs, head.outputs))
    activations: dict[str, list[nn.Module]] = {"linear": [], "tanh": [nn.Tanh()], "sigmoid": [nn.Sigmoid()]}
    if head.activation not in activations:
        raise ValueError(f"activation must be one of {', '.join(activations)}, not {head.activation!r}")
    return stack.extend(activations[head.activation])


def _maps(last: Layer, head: MapHead) -> nn.Sequential:
    """Deconvolutions from the trunk's last maps up to the head's side, then a 1 x 1 convolution to its maps."""
    doublings = (head.side // last.side).bit_length() - 1
    if doublings < 1 or last.side << doublings != head.side:
        raise ValueError(f"maps of {head.side} cells cannot be grown from the trunk's {last.side} by doubling; "
                         "take another size of network")
    stack, inputs = nn.Sequential(), last.channels
    for _ in range(doublings):
        stack.append(nn.ConvTranspose2d(inputs, head.channels, 4, stride=2, padding=1, bias=False))
        stack.append(nn.BatchNorm2d(head.channels))
        stack.append(nn.ReLU())
        inputs = head.channels
    stack.append(nn.Conv2d(inputs, head.outputs // head.side ** 2, 1))
    return stack


def _coupling(width: int) -> nn.Sequential:
    """Of one number, a scale and a shift of another; both zero at the start."""
    first, middle, last = nn.Linear(1, width), nn.Linear(width, width), nn.Linear(width, 2)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(first, nn.LeakyReLU(), middle, nn.LeakyReLU(), last)


class ResidualDensity(nn.Module):
    """The learned shape of a regressor's errors: a RealNVP (Dinh et al. 2017) on the plane, as in residual
    log-likelihood estimation (Li et al. 2021).

    Six coupling layers send an error (already divided by its predicted size) to a standard normal variable: each leaves
    one of x and y as it is, and scales and shifts the other by amounts that a small network reads off the first.
    The last layers start at zero, so the density starts as the normal one.
    """

    def __init__(self, width: int = 64, layers: int = 6) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(_coupling(width) for _ in range(layers))

    def forward(self, errors: torch.Tensor) -> torch.Tensor:
        """Log density (...) of errors (..., 2), in float32."""
        moved = list(errors.float().unbind(-1))
        log_volume = torch.zeros_like(moved[0])
        for number, coupling in enumerate(self.couplings):
            still, moving = number % 2, 1 - number % 2
            scale, shift = coupling(moved[still][..., None]).unbind(-1)
            scale = torch.tanh(scale)
            moved[moving] = moved[moving] * torch.exp(scale) + shift
            log_volume = log_volume + scale
        return log_volume - (moved[0] ** 2 + moved[1] ** 2) / 2 - math.log(2 * math.pi)


def _initialise(module: nn.Module) -> None:
    """He initialisation: keeps the size of the signal through ReLU layers."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def take_trunk(network: PoseNetwork, source: PoseNetwork) -> None:
    """Start `network` with the trunk (conv1 to conv3) and the normalisation of another, as paper B's pre-training does.
    (`training.train` sets the normalisation anew, from its own training set.)

    Raises:
        ValueError: if the trunks differ, naming how; nothing is changed then.
    """
    ours, theirs = asdict(network.config), asdict(source.config)
    parts = ("trunk", "crop", "channels", "kernels", "linear_last", "normalise_after")
    if different := [f"{name} {theirs[name]} instead of {ours[name]}" for name in parts if theirs[name] != ours[name]]:
        raise ValueError(f"this trunk does not fit: it has {', '.join(different)}; train one of the same size")
    network.trunk.load_state_dict(source.trunk.state_dict())
    network.mean_image.copy_(source.mean_image)
    network.spread.copy_(source.spread)


def count_parameters(network: nn.Module) -> int:
    """Number of learned numbers."""
    return sum(parameter.numel() for parameter in network.parameters())


def build_network(size: str, outputs: dict[str, int], seed: int,
                  channels: Sequence[int] | None = None, keep: float | None = None) -> PoseNetwork:
    """A network, one of `SIZES`, with a head for each task (name -> numbers in its answer), the main task first.

    `seed` rules the initial weights; those of the trunk and of the first head do not depend on the other heads.
    `channels`: maps of the three convolutions, of the small sizes alone. `keep`: probability to keep a unit of the
    first hidden layer; default 0.25 for 'paper-b', else 1.

    Raises:
        ValueError: for an unknown size, no task, or maps that do not fit.
    """
    if size not in SIZES:
        raise ValueError(f"the network's size must be one of {', '.join(SIZES)}, not {size!r}")
    if not outputs:
        raise ValueError("a network needs at least one head")
    if channels and (not size.startswith("small") or len(channels) != 3 or min(channels) < 1):
        raise ValueError(f"only a small network can have other maps, three numbers of at least 1; not {size} with "
                         f"{list(channels)}")
    if keep is not None and (size == "paper-a" or not 0 < keep <= 1):
        raise ValueError(f"keep must be above 0 and at most 1, and paper A's network has no dropout; not {keep} with "
                         f"{size}")
    torch.manual_seed(seed)
    if size == "paper-a":
        return PoseNetwork(paper_a(outputs))
    if size == "paper-b":
        return PoseNetwork(paper_b(outputs, keep or 0.25))
    heads = {name: _head(name, count, SIZES[size] // MAP_STRIDE, keep=keep or 1.0) for name, count in outputs.items()}
    if size == "resnet18":
        return PoseNetwork(resnet18(heads))
    layers_of = small_b if size == "small-b" else small
    return PoseNetwork(layers_of(heads, channels) if channels else layers_of(heads))


def save_network(path: str | Path, network: PoseNetwork, about: dict) -> None:
    """Write weights as safetensors in half precision, with the sizes and `about` (plain values) in the header.

    Atomic: the file under its name is always whole. Unlike a pickle, it cannot run code when it is read.
    """
    from safetensors.torch import save
    tensors = {name: value.detach().cpu().half().contiguous() for name, value in network.state_dict().items()}
    with whole_file(path) as part:
        part.write_bytes(save(tensors, {"config": json.dumps(asdict(network.config)), "about": json.dumps(about)}))


def load_network(path: str | Path) -> tuple[PoseNetwork, dict]:
    """Read what `save_network` wrote: the network (float32, in evaluation mode) and `about`.

    Raises:
        FileNotFoundError: no such file; ValueError: damaged, or no network of this book.
    """
    from safetensors import safe_open
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there are no weights {path}; train first, or name a file with --weights")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}
        config = _config_from_dict(json.loads(header["config"]))
        with torch.device("meta"):                       # sizes alone: a header may claim more than memory holds
            sizes = {name: value.shape for name, value in PoseNetwork(config).state_dict().items()}
        if sizes != {name: value.shape for name, value in tensors.items()}:
            raise ValueError("its weights have other sizes than its header says")
        network = PoseNetwork(config)
        network.load_state_dict(tensors)
        return network.eval(), dict(json.loads(header["about"]))
    except Exception as error:                           # a damaged header can ask for anything
        raise ValueError(f"{path} does not hold a network of this book, or is damaged ({error})") from error


def _config_from_dict(values: dict) -> Config:
    """Undo `dataclasses.asdict`: lists from JSON become tuples again."""
    heads = {name: MapHead(**head) if "side" in head else Head(**{**head, "hidden": tuple(head["hidden"])})
             for name, head in values["heads"].items()}
    lists = {name: tuple(values[name]) for name in ("channels", "kernels")}
    return Config(**{**values, **lists, "heads": heads})
