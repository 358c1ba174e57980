"""Boxes, affine crops, mirrors, warps, the pinhole camera and Procrustes alignment.

Every spatial change of an image is a 2x3 affine matrix that maps *source pixels to target pixels*. The same matrix
moves the pixels (`warp`) and the joints (`transform`), so the two cannot drift apart.

Pixel convention: x right, y down, and the *centre* of the first pixel is (0, 0). A box x0, y0, x1, y1 is half open:
it covers pixels x0 .. x1-1, so its edges lie at x0 - 0.5 and x1 - 0.5 in pixel coordinates.

The small matrix functions take NumPy arrays and torch tensors alike and return what they were given.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from posebook.skeleton import ABSENT

Array = TypeVar("Array", np.ndarray, torch.Tensor)


def check_box(box: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return `box` (4,) as float32 if it is usable with an image of this size.

    Raises:
        ValueError: if it is not four finite numbers, has no area, or does not touch the image.
    """
    box = np.asarray(box, np.float32)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise ValueError(f"a box is four finite numbers x0, y0, x1, y1; got {box.tolist()}")
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"box {box.tolist()} has no area; give x0 < x1 and y0 < y1 in pixels")
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        raise ValueError(f"box {box.tolist()} lies outside the image of {width} x {height} pixels")
    return box


def joints_box(joints: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Tight half-open box around the labelled joints of one pose: joints (J, 2), state (J,) -> (4,) float32.

    Raises:
        ValueError: if fewer than two joints are labelled or they all lie on one spot.
    """
    labelled = np.asarray(joints, np.float32)[np.asarray(state) != ABSENT]
    if len(labelled) < 2 or np.ptp(labelled, axis=0).max() <= 0:
        raise ValueError("a box around a pose needs two labelled joints at different places")
    return np.concatenate([labelled.min(axis=0), labelled.max(axis=0) + 1]).astype(np.float32)


def square_box(box: np.ndarray, enlarge: float = 1.0) -> np.ndarray:
    """The square about the centre of `box` (4,) with `enlarge` times its longer side. It may leave the image."""
    x0, y0, x1, y1 = np.asarray(box, np.float32)
    half = max(x1 - x0, y1 - y0) * enlarge / 2
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    return np.array([cx - half, cy - half, cx + half, cy + half], np.float32)


def crop_matrix(box: np.ndarray, width: int, height: int | None = None) -> np.ndarray:
    """(2, 3) float32 that maps source pixels to the pixels of a `width` x `height` crop which shows exactly `box`.

    The box's *edges* meet the crop's edges, hence the halves: pixel centres sit half a pixel inside the edges.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    sx, sy = width / (x1 - x0), (height or width) / (y1 - y0)
    return np.array([[sx, 0, (0.5 - x0) * sx - 0.5], [0, sy, (0.5 - y0) * sy - 0.5]], np.float32)


def similarity(scale: torch.Tensor, angle: torch.Tensor, shift: torch.Tensor, mirror: torch.Tensor,
               source_size: int, target_size: int) -> torch.Tensor:
    """Affine matrices that turn, scale, mirror and shift a square image about its centre.

    Args:
        scale: (N,) magnification; angle: (N,) radians, positive turns clockwise on screen (x towards y).
        shift: (N, 2) where the source's centre lands, in target pixels from the target's centre.
        mirror: (N,) bool, left and right of the picture exchanged before the turn.
        source_size, target_size: side lengths in pixels.

    Returns:
        (N, 2, 3) float32, source pixels -> target pixels. With scale 1 and nothing else it is the central crop.
    """
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    flip = 1.0 - 2.0 * mirror.to(scale.dtype)
    linear = torch.stack([torch.stack([cos * flip, -sin], -1), torch.stack([sin * flip, cos], -1)], -2)
    source_centre, target_centre = (source_size - 1) / 2, (target_size - 1) / 2
    centre = torch.full((len(scale), 2, 1), source_centre, dtype=scale.dtype, device=scale.device)
    offset = target_centre + shift.unsqueeze(-1) - linear @ centre
    return torch.cat([linear, offset], dim=-1)


def transform(matrix: Array, points: Array) -> Array:
    """Apply (..., 2, 3) affine matrices to (..., K, 2) points."""
    return points @ matrix[..., :2].swapaxes(-1, -2) + matrix[..., None, :, 2]


def invert(matrix: Array) -> Array:
    """Inverse of (..., 2, 3) affine matrices."""
    a, b, c, d = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 0], matrix[..., 1, 1]
    det = a * d - b * c
    stack = torch.stack if isinstance(matrix, torch.Tensor) else np.stack
    linear = stack([stack([d, -b], -1), stack([-c, a], -1)], -2) / det[..., None, None]
    shift = -(linear @ matrix[..., 2:])
    return torch.cat([linear, shift], -1) if isinstance(matrix, torch.Tensor) else np.concatenate([linear, shift], -1)


def warp(images: torch.Tensor, matrix: torch.Tensor, size: int) -> torch.Tensor:
    """Move pixels with the matrices that move joints: bilinear, the border is repeated outside.

    Args:
        images: (N, C, H, W) float; matrix: (N, 2, 3), source pixels -> target pixels; size: side of the square result.

    Returns:
        (N, C, size, size) of the same type.
    """
    height, width = images.shape[-2:]
    # grid_sample counts from -1 to 1 between the outer *edges* when align_corners is False, so the way is
    # target pixel -> source pixel (the inverse) -> that count. Both are affine: one matrix does it.
    half = torch.tensor([[2 / width], [2 / height]], dtype=matrix.dtype, device=matrix.device)
    to_grid = invert(matrix) * half
    to_grid[..., 2] += half[:, 0] / 2 - 1
    axis = torch.arange(size, dtype=matrix.dtype, device=matrix.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    pixels = torch.stack([x.flatten(), y.flatten(), torch.ones_like(x).flatten()], dim=1)
    grid = torch.einsum("nij,pj->npi", to_grid, pixels).view(-1, size, size, 2)
    return F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="border", align_corners=False)


def project(points: Array, camera: Array) -> Array:
    """Pinhole projection: camera coordinates (..., K, 3) in mm and intrinsics (..., 3, 3) -> pixels (..., K, 2).

    Raises:
        ValueError: if a point lies behind the camera.
    """
    if (points[..., 2] <= 0).any():
        raise ValueError("a point lies behind the camera; move the camera away")
    image = points @ camera.swapaxes(-1, -2)
    return image[..., :2] / image[..., 2:]


def procrustes(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Align predicted poses (N, J, D) to true ones by scale, rotation and shift, never by a reflection.

    The least-squares similarity transform of Umeyama (1991): the sign of the smallest singular direction is flipped
    where the best orthogonal matrix would be a mirror. A pose whose joints all coincide can only be moved.
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    mean_p, mean_t = predicted.mean(axis=1, keepdims=True), true.mean(axis=1, keepdims=True)
    p, t = predicted - mean_p, true - mean_t
    u, s, vt = np.linalg.svd(np.swapaxes(t, 1, 2) @ p)
    sign = np.ones_like(s)
    sign[:, -1] = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    rotation = (u * sign[:, None, :]) @ vt
    spread = (p ** 2).sum(axis=(1, 2))
    scale = np.divide((s * sign).sum(axis=1), spread, out=np.zeros_like(spread), where=spread > 0)
    return scale[:, None, None] * p @ np.swapaxes(rotation, 1, 2) + mean_t
