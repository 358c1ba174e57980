"""Boxes, affine crops, mirrors, warps, the pinhole camera, poses relative to a joint, and Procrustes alignment.

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

from posebook.skeleton import ABSENT, Skeleton

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
        ValueError: if a point lies behind the camera, or a focal length is zero or not finite.
    """
    _check_camera(camera)
    if not (points[..., 2] > 0).all():
        raise ValueError("a point lies behind the camera, or is not a number; move the camera away")
    image = points @ camera.swapaxes(-1, -2)
    return image[..., :2] / image[..., 2:]


def projection_jacobian(points: Array, camera: Array) -> Array:
    """How far the picture of a point moves when the point moves: (..., K, 2, 3) pixels a mm, for `project`'s arguments.

    With p = (u, v) and the camera's rows k1, k2, k3 (k3 = 0, 0, 1): dp/dP = (k1 - u k3, k2 - v k3) / z. The third
    column is why depth is hard: straight along the ray it cancels, and nothing moves.

    Raises:
        ValueError: as `project`.
    """
    pixels = project(points, camera)
    rows = camera[..., None, :2, :] - pixels[..., None] * camera[..., None, 2:, :]
    return rows / points[..., 2, None, None]


def _check_camera(camera: Array) -> None:
    focal = camera[..., 0, 0] * camera[..., 1, 1]
    if not ((abs(focal) > 0) & (abs(camera[..., :2, :]) < float("inf")).all(-1).all(-1)).all():
        raise ValueError("a camera's focal length is zero or not finite; look at its intrinsics")
    if not ((camera[..., 2, :2] == 0).all() and (camera[..., 2, 2] == 1).all()):
        raise ValueError("a camera's last row must be 0, 0, 1; was the matrix transposed?")


def crop_camera(camera: Array, matrix: Array) -> Array:
    """Intrinsics of the camera that takes a crop: the picture's (..., 3, 3) and the crop's (..., 2, 3), source to crop.

    A crop that is enlarged s times has s times the focal length: the crop looks nearer and is not. Who forgets it
    reads wrong distances from a crop.
    """
    linear: Array = matrix[..., :2] @ camera[..., :2, :]
    centre, last, shape = linear[..., 2:] + matrix[..., 2:], camera[..., 2:, :], (*linear.shape[:-2], 1, 3)
    if isinstance(camera, torch.Tensor):
        return torch.cat([torch.cat([linear[..., :2], centre], -1), last.expand(shape)], -2)
    return np.concatenate([np.concatenate([linear[..., :2], centre], -1), np.broadcast_to(last, shape)], -2)


def turn_with_crop(matrix: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Poses (N, J, 3) in camera mm as a turned, mirrored or scaled crop shows them; matrix: (N, 2, 3) of `similarity`.

    A picture that is turned about any point is, up to a shift, the picture of a world turned about the camera's axis,
    and likewise for mirrors. Scale changes the focal length (`crop_camera`) and no pose. Exact for square pixels, up to
    where the person stands, which root- and parent-relative poses do not say. A mirror still needs left and right
    exchanged (`augment`).
    """
    linear = matrix[:, :, :2]
    linear = linear / linear.norm(dim=1, keepdim=True)                    # columns of length 1: no scale
    return torch.cat([points[..., :2] @ linear.mT, points[..., 2:]], dim=-1)


def root_relative(joints: Array, skeleton: Skeleton) -> Array:
    """Joints (..., J, D) minus their root joint."""
    return joints - joints[..., [skeleton.root], :]


def to_parent_relative(joints: Array, skeleton: Skeleton) -> Array:
    """Each joint (..., J, D) minus its parent (paper B); the root minus itself: zero."""
    return joints - joints[..., skeleton.parents, :]


def from_parent_relative(offsets: Array, skeleton: Skeleton) -> Array:
    """The exact inverse of `to_parent_relative`, up to where the root is: offsets (..., J, D) added up down the tree.

    The root comes to lie at zero, whatever its own offset says.
    """
    zero = torch.zeros_like if isinstance(offsets, torch.Tensor) else np.zeros_like
    joints: list = [None] * len(skeleton)
    joints[skeleton.root] = zero(offsets[..., skeleton.root, :])
    for j in skeleton.order_down[1:]:
        joints[j] = joints[skeleton.parents[j]] + offsets[..., j, :]
    return torch.stack(joints, -2) if isinstance(offsets, torch.Tensor) else np.stack(joints, -2)


def mirror3d(joints: Array, skeleton: Skeleton) -> Array:
    """The pose (..., J, 3) that a mirror shows: x becomes -x, and left joints become right ones. Its own inverse."""
    swapped = joints[..., skeleton.mirror, :]
    flip = np.array([-1, 1, 1], np.float32)
    return swapped * (torch.from_numpy(flip).to(swapped) if isinstance(joints, torch.Tensor) else flip)


def procrustes(predicted: Array, true: Array) -> Array:
    """Align predicted poses (N, J, D) to true ones by scale, rotation and shift, never by a reflection.

    The least-squares similarity transform of Umeyama (1991): the sign of the smallest singular direction is flipped
    where the best orthogonal matrix would be a mirror. A pose whose joints all coincide can only be moved. Computed in
    float64, on the device where tensors are; arrays come back as arrays.

    Raises:
        ValueError: if the shapes differ or a pose is not finite.
    """
    if predicted.shape != true.shape or predicted.ndim != 3:
        raise ValueError(f"Procrustes needs two sets of poses of one shape (N, J, D), got {tuple(predicted.shape)} and "
                         f"{tuple(true.shape)}")
    if not isinstance(predicted, torch.Tensor):
        both = (torch.from_numpy(np.asarray(poses, np.float64)) for poses in (predicted, true))
        return procrustes(*both).numpy()
    if not len(predicted):
        return predicted.double()
    # Small blocks stay in a CPU's cache from one operation to the next: 1.5 times as fast for a million poses.
    block = 4096 if predicted.device.type == "cpu" else len(predicted)
    return torch.cat([_align(p.double(), t.double()) for p, t in zip(predicted.split(block), true.split(block),
                                                                     strict=True)])


def _align(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    mean_t = true.mean(dim=1, keepdim=True)
    p, t = predicted - predicted.mean(dim=1, keepdim=True), true - mean_t
    spread = (p ** 2).sum(dim=(1, 2))
    if not (torch.isfinite(spread) & torch.isfinite(mean_t).all(dim=2)[:, 0]).all():
        raise ValueError("a pose holds NaN or infinity; mark such joints absent, or look where the network diverged")
    u, s, vt = torch.linalg.svd(t.mT @ p)
    # The sign of det(u) det(vt), which is 1 or -1 up to rounding.
    sign = torch.ones_like(s)
    sign[:, -1] = (torch.linalg.det(u) * torch.linalg.det(vt)).sign()
    rotation = (u * sign[:, None, :]) @ vt
    scale = torch.where(spread > 0, (s * sign).sum(dim=1) / torch.where(spread > 0, spread, 1), 0)
    return scale[:, None, None] * p @ rotation.mT + mean_t
