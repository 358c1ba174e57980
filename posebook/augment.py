"""Random changes of whole batches, on the device where the batch is.

One affine matrix a sample moves the pixels and the joints. A mirror also exchanges the names of left and right
joints: the picture's left hand becomes the person's other hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from posebook import geometry
from posebook.skeleton import ABSENT, Skeleton


@dataclass(frozen=True)
class Augmentation:
    """How far the random changes go. The default does nothing: the central crop.

    Attributes:
        shift: largest shift of the crop, as a fraction of its side, each way.
        angle: largest rotation in degrees, each way.
        scale: largest magnification s; the factor is drawn log-uniformly between 1/s and s.
        mirror: probability of a mirror image.
        colour: standard deviation of the PCA colour noise (Krizhevsky 2012; paper B uses 0.1).
    """

    shift: float = 0.0
    angle: float = 0.0
    scale: float = 1.0
    mirror: float = 0.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        if min(self.shift, self.angle, self.mirror, self.colour) < 0 or self.scale < 1 or self.mirror > 1:
            raise ValueError(f"unusable augmentation {self}: no negative amounts, scale at least 1, mirror at most 1")


NONE = Augmentation()
BOOK = Augmentation(shift=0.06, angle=30.0, scale=1.2, mirror=0.5, colour=0.1)
"""What the book's training uses unless a chapter says otherwise."""


def draw_matrices(count: int, config: Augmentation, source_size: int, target_size: int, generator: torch.Generator,
                  device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Random crops: (N, 2, 3) matrices from stored-crop pixels to input pixels, and (N,) bool, mirrored or not.

    Numbers are drawn on the CPU, so that a seed means the same on every device.
    """
    draw = torch.rand(count, 5, generator=generator)
    scale = torch.exp((2 * draw[:, 0] - 1) * float(np.log(config.scale)))
    angle = (2 * draw[:, 1] - 1) * float(np.deg2rad(config.angle))
    shift = (2 * draw[:, 2:4] - 1) * config.shift * target_size
    mirror = draw[:, 4] < config.mirror
    matrices = geometry.similarity(scale, angle, shift, mirror, source_size, target_size)
    return matrices.to(device), mirror.to(device)


def colour_basis(images: np.ndarray, sample: int = 500) -> torch.Tensor:
    """(3, 3) float32: eigenvectors of the RGB covariance of a data set's pixels, times its eigenvalues.

    Args:
        images: (N, 3, H, W) uint8; at most `sample` images, spread evenly, are looked at.
    """
    step = max(1, len(images) // sample)
    pixels = images[::step].transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64) / 255
    values, vectors = np.linalg.eigh(np.cov(pixels))
    return torch.from_numpy((vectors * values).astype(np.float32))


def augment(images: torch.Tensor, joints: torch.Tensor, state: torch.Tensor, skeleton: Skeleton, config: Augmentation,
            size: int, generator: torch.Generator, basis: torch.Tensor | None = None,
            joints3d: torch.Tensor | None = None,
            part: tuple[int, slice] | None = None) -> tuple[torch.Tensor, ...]:
    """Augment a batch.

    Args:
        images: (N, 3, S, S) uint8; joints: (N, J, 2) stored-crop pixels; state: (N, J); all on one device.
        size: side of the result; generator: a CPU generator, the only source of randomness.
        basis: from `colour_basis`, needed when `config.colour` is not zero.
        joints3d: (N, J, 3) camera millimetres, turned and mirrored with the picture (`geometry.turn_with_crop`).
        part: what is given is only these rows of a batch of so many, and changes as it would within the whole.

    Returns:
        images (N, 3, size, size) float32 in 0..1 (colour noise may leave that range a little), laid out channels
        last; joints (N, J, 2) in input pixels, absent joints zero; state (N, J); and joints3d (N, J, 3) if it was
        given. Joints may lie outside the picture: see `targets`.
    """
    device = images.device
    count, rows = part or (len(images), slice(None))
    drawn = draw_matrices(count, config, images.shape[-1], size, generator, device)
    matrices, mirror = (numbers[rows] for numbers in drawn)
    tint = torch.zeros(len(images), 3, device=device)
    if config.colour:
        if basis is None:
            raise ValueError("colour noise needs the data set's colour basis; see augment.colour_basis")
        strength = torch.randn(count, 3, generator=generator)[rows].to(device) * config.colour
        tint = strength @ basis.to(device).T
    pixels = _warp_and_tint(images, matrices, tint, size)
    swap = torch.from_numpy(skeleton.mirror).to(device)
    moved = geometry.transform(matrices, joints)
    moved = torch.where(mirror[:, None, None], moved[:, swap], moved)
    state = torch.where(mirror[:, None], state[:, swap], state)
    done = pixels, moved * (state != ABSENT).unsqueeze(-1), state
    if joints3d is None:
        return done
    turned = geometry.turn_with_crop(matrices, joints3d)
    return *done, torch.where(mirror[:, None, None], turned[:, swap], turned)


def _warp_and_tint(images: torch.Tensor, matrices: torch.Tensor, tint: torch.Tensor, size: int) -> torch.Tensor:
    """(N, 3, size, size) float32 in 0..1, laid out channels last as the network wants it; tint is (N, 3)."""
    pixels = torch.empty(len(images), 3, size, size, device=images.device, memory_format=torch.channels_last)
    # On a CPU a few images at a time: then they stay in its cache from one operation to the next.
    part = 16 if images.device.type == "cpu" else len(images)
    for picture, matrix, colour, out in zip(*(t.split(part) for t in (images, matrices, tint, pixels)), strict=True):
        out.copy_(geometry.warp(picture.float(), matrix, size).mul_(1 / 255).add_(colour[:, :, None, None]))
    return pixels


def centre(images: torch.Tensor, size: int) -> torch.Tensor:
    """The test-time input: (N, 3, S, S) uint8 -> the central (N, 3, size, size) float32 in 0..1, pixels untouched."""
    start = (images.shape[-1] - size) // 2
    return images[:, :, start:start + size, start:start + size].float() / 255
