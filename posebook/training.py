"""One training loop for every chapter.

Written to be read from top to bottom: `train` prepares, `_epoch` is the loop, everything else is bookkeeping. Data
stay uint8 in memory; a batch goes to the device, is augmented there as a whole, encoded, and fed to the network.

All randomness of an epoch comes from (seed, epoch), and the state of the run is saved after every epoch: a killed
run therefore continues exactly as if it had not been killed.

Several processes can train one network together (`parallel`): order and augmentation of every sample, the losses and
the steps are those of one process, up to rounding. Only dropout is not: each process draws it for its own share.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from posebook import geometry, metrics, parallel
from posebook.augment import BOOK, Augmentation, augment, centre, colour_basis
from posebook.datasets import PoseDataset, StreamedPeople, crop_image
from posebook.datasets.base import ENLARGE
from posebook.files import reading, whole_file
from posebook.networks import PoseNetwork, build_network
from posebook.skeleton import ABSENT, LSP14, VISIBLE
from posebook.targets import (
    POSES,
    Codec,
    Coordinates,
    JointWindows,
    ParentRelative,
    PartWindows,
    ResidualLikelihood,
)

CHECKPOINT = "checkpoint.pt"
ANEW = "remove it to start anew"


@dataclass(frozen=True)
class TrainConfig:
    """What a run is, apart from its network and data.

    Attributes:
        epochs: how many; batch: images a step, of all processes together.
        epoch_size: images in an epoch; 0 means each training image once. With a larger number the set is shuffled and
            gone through again and again, so that sets of any size can be given the same number of steps.
        optimizer: 'adamw' or 'sgd' with momentum 0.9, the value in the authors' rewrite of paper B.
        rate: learning rate at its highest; it rises over the first `warmup` epochs, then falls along a cosine to zero.
        decay: weight decay.
        seed: rules initial weights, order and augmentation.
        patience: stop after so many epochs without a lower validation loss and keep the weights of the lowest one;
            0 runs all epochs and keeps the last weights, so that validation chooses nothing.
        mean_start: start the heads that regress a pose at the training set's mean.
        normalise: subtract the mean image and divide by the spread of the pixels; else pixels stay in 0..1.
        augmentation: see `augment.Augmentation`.
        device: 'auto' takes a GPU if there is one. amp: compute in half precision where that is quick (`precision`).
        weights: task -> factor of its loss in the sum; a task that is not named has 1, one with 0 is not computed.
        freeze_trunk: only the heads learn; the trunk stays as it is given.
    """

    epochs: int = 150
    batch: int = 64
    epoch_size: int = 0
    optimizer: str = "adamw"
    rate: float = 1e-3
    warmup: float = 3.0
    decay: float = 1e-2
    seed: int = 0
    patience: int = 0
    mean_start: bool = True
    normalise: bool = True
    augmentation: Augmentation = field(default=BOOK)
    device: str = "auto"
    amp: bool = True
    weights: dict[str, float] = field(default_factory=dict)
    freeze_trunk: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or self.rate <= 0 or min(self.warmup, self.patience, self.epoch_size) < 0:
            raise ValueError("epochs, batch and rate must be positive, warmup, patience and epoch_size not negative: "
                             f"{self}")
        if self.optimizer not in ("adamw", "sgd"):
            raise ValueError(f"optimizer must be adamw or sgd, not {self.optimizer!r}")
        for task, weight in self.weights.items():
            if not (np.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of {task} must be a number, at least 0, not {weight}")

    def weight(self, task: str) -> float:
        """The factor of a task's loss."""
        return self.weights.get(task, 1.0)


@dataclass
class Run:
    """A finished training: the network with the weights that were kept, and one dict of numbers an epoch."""

    network: PoseNetwork
    history: list[dict[str, Any]]
    kept_epoch: int


def images_a_second(seconds: float = 3.0) -> float:
    """Training speed of the book's small regressor on this machine, now, measured for a few seconds on noise."""
    generator = np.random.default_rng(0)
    count = 256
    skeleton = LSP14
    data = PoseDataset("noise", "train", skeleton, generator.integers(0, 255, (count, 3, 80, 80), np.uint8),
                       generator.uniform(20, 60, (count, len(skeleton), 2)).astype(np.float32),
                       np.full((count, len(skeleton)), VISIBLE, np.uint8), np.tile(np.eye(2, 3, dtype=np.float32),
                                                                                  (count, 1, 1)),
                       np.arange(count).astype(str))
    codecs: dict[str, Codec] = {"regression": Coordinates(len(skeleton), 64)}
    network = build_network("small", {"regression": 2 * len(skeleton)}, 0)
    train(network, codecs, data, data, TrainConfig(epochs=1), progress=False)                     # warm
    began, seen = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        train(network, codecs, data, data.subset(np.arange(8)), TrainConfig(epochs=1), progress=False)
        seen += count
    return seen / (time.perf_counter() - began)


def pick_device(name: str = "auto") -> torch.device:
    """'auto' -> CUDA where there is one, else the CPU; any other name as PyTorch understands it."""
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if device.type == "cuda" and parallel.world() > 1:               # each process has one of its own
        return torch.device("cuda", torch.cuda.current_device())
    return device


def keep_memory() -> bool:
    """Have the GNU C library keep what a step frees for the next step; False where there is another C library.

    By default it gives the top of its memory back to the system, which must blank fresh pages for the next step:
    thousands a step of the small network, hardly any with this setting, and up to a quarter more time, depending on the
    machine (`benchmarks/gaps.py`). The price is that the process stays as large as its largest step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    trim, pad, mmap = -1, -2, -3                                     # names of the settings, from malloc.h
    mallopt(trim, 2**31 - 1)
    mallopt(pad, 2**28)
    return bool(mallopt(mmap, 2**30) or mallopt(mmap, 2**25))       # older versions allow no more than the latter


def precision(device: torch.device, amp: bool = True) -> torch.dtype:
    """What a network computes in: with `amp` bfloat16 (float16 on GPUs older than Ampere, which have bfloat16 only in
    emulation), else float32; and float32 on processors that cannot multiply bfloat16 numbers, as those of many laptops:
    on one of these, emulation was 7 to 16 times slower."""
    if not amp:
        return torch.float32
    if device.type == "cuda":
        return torch.float16 if torch.cuda.get_device_capability(device) < (8, 0) else torch.bfloat16
    if device.type == "cpu":
        able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()       # older versions cannot tell
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
    return torch.bfloat16


def _autocast(device: torch.device, amp: bool) -> torch.autocast:
    """Where a network computes: in `precision`."""
    chosen = precision(device, amp)
    return torch.autocast(device.type, torch.bfloat16 if chosen == torch.float32 else chosen,
                          enabled=chosen != torch.float32)


def train(network: PoseNetwork, codecs: dict[str, Codec], training: PoseDataset | StreamedPeople,
          validation: PoseDataset, config: TrainConfig, folder: str | Path | None = None, progress: bool = True,
          watch: Callable[[int, PoseNetwork], None] | None = None) -> Run:
    """Train `network` on `training` and watch `validation`; which weights are kept, see `TrainConfig.patience`.

    Args:
        network: heads named as the codecs; its normalisation is set anew from `training`; codecs: task -> codec; the
            sum of their losses, with the weights of `config`, is what is learned. History rows hold the sum
            (train_loss, validation_loss) and its parts (train_losses, validation_losses: task -> loss, without weight);
            of several tasks also `task_gradients`.
        training: for sets larger than memory a packed one (`open_packed`) or a stream (`StreamedPeople`), of which
            `some` people stand for all in the mean image, the mean pose, the colours and the tasks' gradients.
        folder: where the checkpoint lives. If it holds one of the same run, training continues there. None keeps
            nothing and cannot be resumed.
        progress: show a progress bar.
        watch: called with the epoch and the network before the first epoch (as -1) and after each.

    Of several processes (`parallel.processes`) all call this alike. The first validates, watches and writes, and a
    checkpoint of any number of processes can be continued by any other.

    Raises:
        ValueError: if network, codecs and data do not fit, `folder` holds a checkpoint of a different run, or the
            processes do not train the same.
        FloatingPointError: when the loss is not finite; the batch is saved in `folder` as nonfinite-batch.pt.
    """
    some = training.some if isinstance(training, StreamedPeople) else training
    _check(network, codecs, config, some, validation)
    device = pick_device(config.device)
    if device.type == "cpu":
        keep_memory()
    folder = Path(folder) if folder is not None else None
    size, origin = network.config.crop, _origin(network)
    if config.normalise:
        network.normalise_with(centre(torch.from_numpy(some.images[:2000]), size))
    else:
        network.mean_image.zero_()
        network.spread.fill_(1)
    for name, codec in codecs.items():
        if config.mean_start and isinstance(codec, Coordinates | ParentRelative | ResidualLikelihood):
            network.start_at(name, mean_target(some, codec))
    # PyTorch's own types do not know of memory_format.
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.trunk.requires_grad_(not config.freeze_trunk)
    for name in codecs:                                              # of what does not learn, no gradients are awaited
        for part in (network.heads, network.densities):
            if name in part:
                part[name].requires_grad_(config.weight(name) > 0)
    optimizer = _optimizer(network, config)
    scaler = torch.amp.GradScaler(device.type, enabled=precision(device, config.amp) == torch.float16)
    basis = colour_basis(some.images) if config.augmentation.colour else None
    run = repr((config, network.config, codecs, _fingerprint(training), _fingerprint(validation), origin))
    parallel.agree(run)
    history: list[dict[str, Any]] = []
    best: dict[str, Any] = {"loss": float("inf"), "epoch": -1, "weights": None}
    start = 0
    if folder is not None and (state := parallel.on_first(_read_checkpoint, folder / CHECKPOINT, run)):
        start, history, best = _restore(folder / CHECKPOINT, state, network, optimizer, scaler)
    replica = parallel.replicate(network)
    steps = -(-(config.epoch_size or len(training)) // config.batch)
    if watch and not start:
        parallel.on_first(watch, -1, network)
    for epoch in _bar(range(start, config.epochs), start, config.epochs, progress and parallel.rank() == 0):
        if config.patience and epoch - 1 - best["epoch"] >= config.patience:
            break
        began = time.perf_counter()
        losses = _epoch(replica, codecs, training, config, epoch, steps, optimizer, scaler, basis, device, folder)
        seconds = time.perf_counter() - began
        row = {"epoch": epoch, "train_loss": _weighted(losses, config), "train_losses": losses,
               **parallel.on_first(_measure, network, codecs, some, validation, config),
               "rate": config.rate * rate_factor(config, epoch, 0, steps), "seconds": round(seconds, 3)}
        history.append(row)
        if row["validation_loss"] < best["loss"]:
            weights = {k: v.detach().clone() for k, v in network.state_dict().items()}
            best = {"loss": row["validation_loss"], "epoch": epoch, "weights": weights}
        if watch:
            parallel.on_first(watch, epoch, network)
        if folder is not None:
            parallel.on_first(_save, folder / CHECKPOINT, {
                "run": run, "epoch": epoch, "history": history, "best": best, "network": network.state_dict(),
                "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()})
    if config.patience:
        network.load_state_dict(best["weights"])
    return Run(network, history, best["epoch"] if config.patience else history[-1]["epoch"])


def _measure(network: PoseNetwork, codecs: dict[str, Codec], training: PoseDataset, validation: PoseDataset,
             config: TrainConfig) -> dict[str, Any]:
    """What is measured after an epoch, for its row of the history."""
    pull = {}
    if len(codecs) > 1 and not config.freeze_trunk:
        pull = {"gradients": task_gradients(network, codecs, training, config)}
    return {**validate(network, codecs, validation, config), **pull}


def _epoch(replica: PoseNetwork | DistributedDataParallel, codecs: dict[str, Codec],
           data: PoseDataset | StreamedPeople, config: TrainConfig, epoch: int, steps: int,
           optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, basis: torch.Tensor | None,
           device: torch.device, folder: Path | None) -> dict[str, float]:
    """One epoch; returns the mean loss of each task. This is the loop that the book is about.

    `replica`: the network, or what `parallel.replicate` made of it.
    """
    network = parallel.original(replica)
    network.train()
    network.trunk.train(not config.freeze_trunk)                     # its batch norm, if any, is left as it is too
    # Dropout draws from the global generator. Processes must not draw alike, since their samples differ.
    torch.manual_seed(config.seed * 100_003 + epoch + parallel.rank() * 1_000_000_007)
    totals = dict.fromkeys(codecs, 0.0)
    learned = [name for name in codecs if config.weight(name)]
    batches = _batches(data, config, epoch, steps, network.config.crop, basis, device)
    for step, (index, images, *labels) in enumerate(batches):
        with _autocast(device, config.amp):
            output = replica(images.contiguous(memory_format=torch.channels_last), learned)
        losses, counts = {}, {}
        for name in learned:
            losses[name], counts[name] = _loss_and_count(network, name, codecs[name], output[name], labels)
        parts, values = parallel.means(losses, counts)
        loss, value = _weighted(parts, config), _weighted(values, config)
        if not np.isfinite(value):
            parallel.on_first(_stop_not_finite, value, epoch, step, data.subset(index), folder)
        for group in optimizer.param_groups:
            group["lr"] = config.rate * rate_factor(config, epoch, step, steps)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        for name, mean in values.items():
            totals[name] += mean * len(index)
    return {name: total / (config.epoch_size or len(data)) for name, total in totals.items()}


def _encode(codec: Codec, joints: torch.Tensor, state: torch.Tensor,
            joints3d: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Target and mask, from the labels that the codec is about."""
    if not isinstance(codec, ParentRelative):
        return codec.encode(joints, state)
    if joints3d is None:
        raise ValueError("poses in 3D are encoded from joints in 3D, and these labels have none")
    return codec.encode(joints3d, state)


def _loss(network: PoseNetwork, name: str, codec: Codec, output: torch.Tensor,
          labels: Sequence[torch.Tensor]) -> torch.Tensor:
    """The loss of one task."""
    return _loss_and_count(network, name, codec, output, labels)[0]


def _loss_and_count(network: PoseNetwork, name: str, codec: Codec, output: torch.Tensor,
                    labels: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of one task, a mean, and over how many numbers. That of a likelihood needs the density that the network
    has learned beside the head."""
    target, mask = _encode(codec, *labels)
    density = (network.densities[name],) if name in network.densities else ()
    return codec.loss(output, target, mask, *density), mask.sum()


def _weighted(losses: dict[str, Any], config: TrainConfig) -> Any:
    """The sum of the tasks' losses, each with its weight."""
    return sum(config.weight(name) * loss for name, loss in losses.items())


def _batches(data: PoseDataset | StreamedPeople, config: TrainConfig, epoch: int, steps: int, size: int,
             basis: torch.Tensor | None, device: torch.device) -> Iterator[tuple[Any, ...]]:
    """The epoch's augmented batches, in order: (indices, images, joints, state), and joints3d where there are any.

    Of several processes each gives its share of every batch, with the indices of the whole.

    One thread prepares the next batch while the network learns from this one. It alone draws from the generator, so
    the numbers are the same as without it.
    """
    generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
    count = config.epoch_size or len(data)
    rounds = [_order(data, generator) for _ in range(-(-count // len(data)))]
    order, mine = torch.cat(rounds)[:count].numpy(), parallel.share()

    def prepare(step: int) -> tuple[Any, ...]:
        index = np.sort(order[step * config.batch:(step + 1) * config.batch])
        rows = data.subset(index[mine])
        images, joints, state = (torch.from_numpy(a).to(device) for a in (rows.images, rows.joints, rows.state))
        joints3d = None if rows.joints3d is None else torch.from_numpy(rows.joints3d).to(device)
        return index, *augment(images, joints, state, data.skeleton, config.augmentation, size, generator, basis,
                               joints3d, (len(index), mine))

    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(prepare, 0)
        for step in range(steps):
            ready = coming.result()
            if step + 1 < steps:
                coming = ahead.submit(prepare, step + 1)
            yield ready


def _order(data: PoseDataset | StreamedPeople, generator: torch.Generator) -> torch.Tensor:
    """(N,) all samples once, shuffled; those of a stream as it can be read."""
    return data.order(generator) if isinstance(data, StreamedPeople) else torch.randperm(len(data), generator=generator)


def rate_factor(config: TrainConfig, epoch: int, step: int, steps: int) -> float:
    """Learning rate over its maximum: a linear rise during the warm-up, then half a cosine down to zero."""
    now = epoch + (step + 1) / steps
    if now < config.warmup:
        return now / config.warmup
    return 0.5 * (1 + float(np.cos(np.pi * min(1.0, (now - config.warmup) / max(1e-9, config.epochs - config.warmup)))))


@torch.no_grad()
def validate(network: PoseNetwork, codecs: dict[str, Codec], data: PoseDataset,
             config: TrainConfig) -> dict[str, Any]:
    """Losses, and for each task that gives a pose its PCK@0.2 (torso) or MPJPE, on the central crops of a data set.

    The regression's is called validation_pck, others' validation_pck_joints and so on, and the 3D regression's, in
    millimetres, validation_mpjpe.

    `spread` is the standard deviation of the predicted joints over images, over that of the true joints. It is the
    collapse detector: a network that answers every image with the same pose has spread 0.
    """
    outputs = run_network(network, data, config.device, config.amp)
    labels = all_labels(data, network.config.crop)
    there = [part.to(network.device) for part in labels]
    losses = {name: _loss(network, name, codec, outputs[name].to(network.device), there).item()
              for name, codec in codecs.items()}
    row = {"validation_loss": _weighted(losses, config), "validation_losses": losses}
    true = labels[0].numpy()
    if "pose3d" in codecs:
        predicted, root = codecs["pose3d"].decode(outputs["pose3d"]).numpy(), data.skeleton.root
        row["validation_mpjpe"] = metrics.mpjpe(predicted, data.need("joints3d"), data.state, root).mean
        row["spread"] = spread(predicted, geometry.root_relative(data.need("joints3d"), data.skeleton), data.state)
    for name in (*POSES, "joints"):
        if name not in codecs:
            continue
        predicted = codecs[name].decode(outputs[name]).numpy()
        key = "validation_pck" if name == "regression" else f"validation_pck_{name}"
        if name != "joints":
            row["spread"] = spread(predicted, true, data.state)
        if {"left_hip", "right_hip"} <= set(data.skeleton.joints):
            torso = metrics.torso_diameter(true, data.state, data.skeleton)
            row[key] = metrics.pck(predicted, true, data.state, torso, 0.2).mean
    return row


def spread(predicted: np.ndarray, true: np.ndarray, state: np.ndarray) -> float:
    """Collapse detector: how much predictions (N, J, 2) vary over images, relative to the labelled truth."""
    labelled = np.where((state != ABSENT)[..., None], true, np.nan)
    return float(predicted.std(axis=0).mean() / np.nanstd(labelled, axis=0).mean())


def task_gradients(network: PoseNetwork, codecs: dict[str, Codec], data: PoseDataset, config: TrainConfig,
                   count: int = 128) -> dict[str, dict[str, float]]:
    """How the tasks pull at the trunk: the gradient of each task's loss, without its weight, at the trunk's parameters.

    Measured in float32 on the central crops of the first `count` images, without dropout; nothing is changed.

    Returns:
        "norm": task -> Euclidean norm; "cosine": "one, other" -> cosine of the angle between two tasks' gradients,
        1 where they want the same, 0 where they have nothing to do with each other, below 0 where they disagree.
    """
    device = network.device
    some = data.subset(np.arange(min(count, len(data))))
    images = centre(torch.from_numpy(some.images).to(device), network.config.crop)
    labels = [part.to(device) for part in all_labels(some, network.config.crop)]
    learning = network.training
    network.eval()
    output = network(images)
    parameters = list(network.trunk.parameters())
    gradients, undo = {}, len(network.heads) if network.config.average_gradients else 1      # each task by itself
    for name, codec in codecs.items():
        if config.weight(name):
            loss = _loss(network, name, codec, output[name], labels)
            slopes = torch.autograd.grad(loss, parameters, retain_graph=True)
            gradients[name] = undo * torch.cat([slope.flatten() for slope in slopes])
    network.train(learning)
    norms = {name: gradient.norm().item() for name, gradient in gradients.items()}
    cosines = {f"{one}, {other}": torch.cosine_similarity(gradients[one], gradients[other], dim=0).item()
               for one, other in itertools.combinations(gradients, 2)}
    return {"norm": norms, "cosine": cosines}


@torch.no_grad()
def run_network(network: PoseNetwork, data: PoseDataset, device: str = "auto", amp: bool = True,
                batch: int = 256) -> dict[str, torch.Tensor]:
    """Answers of all heads for the central crops of a data set, head -> (N, outputs) float32 on the CPU."""
    where = pick_device(device)
    network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]  # as in `train`
    network.eval()
    answers: dict[str, list[torch.Tensor]] = {name: [] for name in network.heads}
    for begin in range(0, len(data), batch):
        images = centre(torch.from_numpy(data.images[begin:begin + batch]).to(where), network.config.crop)
        with _autocast(where, amp):
            for name, answer in network(images.contiguous(memory_format=torch.channels_last)).items():
                answers[name].append(answer.float().cpu())
    return {name: torch.cat(parts) for name, parts in answers.items()}


def predict(network: PoseNetwork, codec: Codec, data: PoseDataset, device: str = "auto",
            head: str = "regression", hard: bool = False) -> np.ndarray:
    """Joints (N, J, 2) that a head gives, in pixels of the *source images*. Full precision, so that a record can be
    repeated. `hard`: of joint windows, and of no other codec, the centre of the best (see `JointWindows.decode`)."""
    answers = run_network(network, data, device, amp=False)[head]
    if not hard:
        return to_source(data, network.config.crop, codec.decode(answers).numpy())
    if not isinstance(codec, JointWindows):
        raise ValueError(f"hard decoding is for joint windows, not for {head}")
    return to_source(data, network.config.crop, codec.decode(answers, hard=True).numpy())


def predict3d(network: PoseNetwork, codec: Codec, data: PoseDataset, device: str = "auto") -> np.ndarray:
    """Joints (N, J, 3) that the head pose3d gives: millimetres, the root at zero. Full precision."""
    return codec.decode(run_network(network, data, device, amp=False)["pose3d"]).numpy()


def to_source(data: PoseDataset, crop: int, joints: np.ndarray) -> np.ndarray:
    """Joints (N, J, 2) in pixels of the central crop to pixels of the source images."""
    to_stored = geometry.invert(_to_input(data, crop))
    return geometry.transform(data.to_source, geometry.transform(to_stored, joints))


@torch.no_grad()
def predict_pose(network: PoseNetwork, codec: Codec, image: np.ndarray, box: np.ndarray,
                 head: str = "regression") -> np.ndarray:
    """Joints (J, 2) in pixels of `image` (H, W, 3) uint8, for the person in the tight `box` (4,), from one head.
    Computed where the network is."""
    square = geometry.square_box(geometry.check_box(box, image.shape[1], image.shape[0]), ENLARGE)
    crop = crop_image(image, square, network.config.crop)
    answer = network(torch.from_numpy(crop.transpose(2, 0, 1)[None].copy()).to(network.device).float() / 255)
    joints = codec.decode(answer[head])[0].cpu().numpy()
    return geometry.transform(geometry.invert(geometry.crop_matrix(square, network.config.crop)), joints)


def central_labels(data: PoseDataset, crop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Joints (N, J, 2) in pixels of the central crop, and their state (N, J)."""
    return torch.from_numpy(geometry.transform(_to_input(data, crop), data.joints)), torch.from_numpy(data.state)


def all_labels(data: PoseDataset, crop: int) -> tuple[torch.Tensor, ...]:
    """`central_labels`, and joints3d (N, J, 3) in camera millimetres where the data set has them: a central crop is
    neither turned nor mirrored."""
    return *central_labels(data, crop), *([] if data.joints3d is None else [torch.from_numpy(data.joints3d)])


def encode_central(codec: Codec, data: PoseDataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Target and mask of the central crops of a data set."""
    return _encode(codec, *all_labels(data, codec.size))


def _to_input(data: PoseDataset, crop: int) -> np.ndarray:
    """(1, 2, 3): stored-crop pixels to the pixels of the central crop."""
    start = (data.images.shape[-1] - crop) // 2
    return np.array([[[1, 0, -start], [0, 1, -start]]], np.float32)


def mean_target(data: PoseDataset, codec: Coordinates | ParentRelative | ResidualLikelihood) -> torch.Tensor:
    """(outputs,) the mean training pose, encoded; absent joints do not count. The constant that loses least."""
    target, mask = encode_central(codec, data)
    return (target * mask).sum(dim=0) / mask.sum(dim=0).clamp(min=1)


def mean_pose_loss(train_set: PoseDataset, codec: Coordinates | ParentRelative, data: PoseDataset) -> float:
    """The regression's loss on the central crops of `data` if every answer is the mean pose of `train_set`: what a loss
    has to be compared with, since some data sets are harder than others."""
    answer = mean_target(train_set, codec).expand(len(data), -1)
    return codec.loss(answer, *encode_central(codec, data)).item()


def _check(network: PoseNetwork, codecs: dict[str, Codec], config: TrainConfig, *sets: PoseDataset) -> None:
    if config.batch < parallel.world():
        raise ValueError(f"a batch of {config.batch} cannot be shared by {parallel.world()} processes: make it larger, "
                         "or start fewer")
    if set(codecs) != set(network.heads):
        raise ValueError(f"the network has heads {sorted(network.heads)}, the codecs are {sorted(codecs)}")
    if unknown := sorted(set(config.weights) - set(codecs)):
        raise ValueError(f"a weight is given for {', '.join(unknown)}, but the tasks are {', '.join(codecs)}")
    if not any(config.weight(name) for name in codecs):
        raise ValueError("all tasks have the weight 0: nothing would be learned")
    for data in sets:
        if data.skeleton != sets[0].skeleton:
            raise ValueError(f"{data.name} {data.split} is labelled with {data.skeleton.name}, {sets[0].name} "
                             f"{sets[0].split} with {sets[0].skeleton.name}; see PoseDataset.as_skeleton")
        if not len(data):
            raise ValueError(f"{data.name} {data.split} is empty")
        if data.images.shape[-1] < network.config.crop:
            raise ValueError(f"{data.name}: stored crops of {data.images.shape[-1]} px are smaller than the "
                             f"network's input of {network.config.crop} px")
    for name, codec in codecs.items():
        if isinstance(codec, ParentRelative) and any(data.joints3d is None for data in sets):
            raise ValueError(f"{name} needs joints in 3D, which {sets[0].name} does not have; people has them")
        head = network.config.heads[name]
        if isinstance(codec, ParentRelative | JointWindows | PartWindows):
            own = codec.skeleton == sets[0].skeleton
        else:
            own = codec.joints == len(sets[0].skeleton)
        if not own:
            raise ValueError(f"the codec of {name} is for another skeleton than the data's, {sets[0].skeleton.name}")
        if head.outputs != codec.outputs:
            raise ValueError(f"head {name} gives {head.outputs} numbers; its codec with {sets[0].skeleton.name} needs "
                             f"{codec.outputs}")
        if codec.size != network.config.crop:
            raise ValueError(f"the codec of {name} is for {codec.size} px, the network's input has "
                             f"{network.config.crop} px")


def _optimizer(network: PoseNetwork, config: TrainConfig) -> torch.optim.Optimizer:
    """Weight decay for matrices and kernels, none for biases: they cannot overfit by growing."""
    learning = list((network.heads if config.freeze_trunk else network).parameters())
    groups = [{"params": [p for p in learning if p.ndim > 1], "weight_decay": config.decay},
              {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=config.rate, fused=True)


def _save(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()                                            # PyTorch does not say that a disk is full
    torch.save(state, buffer)
    with whole_file(path) as part:
        part.write_bytes(buffer.getbuffer())


def _read_checkpoint(path: Path, run: str) -> dict[str, Any] | None:
    """The state of a training that has stopped, or None if it has not begun."""
    if not path.exists():
        return None
    with reading(path, ANEW, "as a checkpoint"):
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["run"] != run:
            raise ValueError(f"{path} belongs to a run with other settings or data; choose another folder or remove "
                             f"it.\nthere: {state['run']}\nhere:  {run}")
    return state


def _restore(path: Path, state: dict[str, Any], network: PoseNetwork, optimizer: torch.optim.Optimizer,
             scaler: torch.amp.GradScaler) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
    """Put the state of the checkpoint `path` into place; returns the epoch to go on with, the history and the best."""
    with reading(path, ANEW, "as a checkpoint"):
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        return state["epoch"] + 1, state["history"], state["best"]


def _fingerprint(data: PoseDataset | StreamedPeople) -> str:
    """Tells one data set from another of the same size."""
    digest, some = ((hashlib.sha256(repr(data).encode()), data.some) if isinstance(data, StreamedPeople) else
                    (hashlib.sha256(), data))
    for labels in (some.joints, some.state, some.joints3d):
        digest.update(b"" if labels is None else np.ascontiguousarray(labels).tobytes())
    return f"{data.name} {data.skeleton.name} {len(data)} {digest.hexdigest()[:12]}"


def _origin(network: PoseNetwork) -> str:
    """Tells the weights that a training starts from: drawn with another seed, or a trunk that was taken."""
    digest = hashlib.sha256()
    for parameter in network.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _stop_not_finite(value: float, epoch: int, step: int, batch: PoseDataset, folder: Path | None) -> None:
    where = ""
    if folder is not None:
        path = folder / "nonfinite-batch.pt"
        arrays = {name: torch.from_numpy(getattr(batch, name)) for name in ("images", "joints", "state")}
        _save(path, {**arrays, "ids": batch.ids.tolist()})
        where = f"; the batch is saved in {path}"
    raise FloatingPointError(f"the loss is {value} at epoch {epoch}, step {step}{where}. "
                             "Lower the learning rate, or look for unusual labels in that batch")


def _bar(epochs: range, start: int, total: int, show: bool) -> Iterable[int]:
    from tqdm import tqdm
    return tqdm(epochs, initial=start, total=total, unit="epoch", disable=not show)
