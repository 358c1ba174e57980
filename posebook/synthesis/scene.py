"""Where the person stands: perspective camera, and a panorama that is both background and light.

World: y up, millimetres, ground at y = 0. Camera: x right, y down, z forward. Pixels: the first's centre is (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from posebook.datasets.base import decode
from posebook.files import reading
from posebook.synthesis.wardrobe import to_linear


@dataclass(frozen=True)
class Camera:
    """Pinhole camera: intrinsics (3, 3); rotation (3, 3) world to camera; centre (3,) in the world, mm."""

    intrinsics: np.ndarray
    rotation: np.ndarray
    centre: np.ndarray

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) to camera coordinates."""
        return (points - self.centre) @ self.rotation.T

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Unit directions (N, 3) in the world through pixels (N, 2)."""
        homogeneous = np.c_[pixels, np.ones(len(pixels))]
        directions = homogeneous @ np.linalg.inv(self.intrinsics).T @ self.rotation
        return directions / np.linalg.norm(directions, axis=1, keepdims=True)

    def crop(self, corner: np.ndarray, side: float, size: int) -> Camera:
        """The same camera, seeing only the square that starts at `corner` (2,), resized to `size` pixels.

        `corner` is the outer edge of the square's first pixel, so the pixel's centre lies half a new pixel inside.
        """
        scale = size / side
        change = np.array([[scale, 0, -scale * corner[0] - 0.5], [0, scale, -scale * corner[1] - 0.5], [0, 0, 1]])
        return Camera(change @ self.intrinsics, self.rotation, self.centre)


def random_camera(rng: np.random.Generator, middle: np.ndarray, height: float) -> Camera:
    """A camera somewhere around the person, at any yaw.

    Field of view 28 to 70 degrees; the person fills 30 to 90 % of the frame's height and stands anywhere in it; the
    camera is held between knee height and 2.6 m, tilted as needed, rolled by a few degrees. The frame is 1000 x 1000.

    Args:
        middle: (3,) centre of the person, mm; height: her extent in mm.
    """
    view = np.deg2rad(rng.uniform(28, 70))
    share = rng.uniform(0.3, 0.9)
    distance = max(height / (2 * np.tan(view / 2) * share), 1500.0)
    yaw = rng.uniform(0, 2 * np.pi)
    up = np.clip(rng.normal(1450, 450), 450, 2600) - middle[1]
    flat = np.sqrt(max(distance ** 2 - up ** 2, (0.6 * distance) ** 2))
    centre = middle + np.array([flat * np.sin(yaw), up, flat * np.cos(yaw)])
    rotation = _look_at(middle - centre, rng.normal(0, np.deg2rad(2.5)))
    # turn the camera a little so that the person stands off the middle, but stays in the frame
    room = max(0.0, 0.95 - share) * view / 2
    side, tilt = rng.uniform(-room, room, 2)
    rotation = _turn(side, 1) @ _turn(tilt, 0) @ rotation
    focal = 500 / np.tan(view / 2)
    return Camera(np.array([[focal, 0, 499.5], [0, focal, 499.5], [0, 0, 1]]), rotation, centre)


def _look_at(forward: np.ndarray, roll: float) -> np.ndarray:
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, (0, 1, 0))
    right = right / np.linalg.norm(right)
    return _turn(roll, 2) @ np.stack([right, np.cross(forward, right), forward])


def _turn(angle: float, axis: int) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    a, b = [i for i in range(3) if i != axis]
    out = np.eye(3)
    out[a, a], out[a, b], out[b, a], out[b, b] = c, -s, s, c
    return out


@dataclass(frozen=True)
class Panorama:
    """An equirectangular picture (H, W, 3) in linear light, y up, its first column towards +z, turning right
    (towards -x) along a row, as one sees it from inside."""

    name: str
    radiance: np.ndarray

    def look_up(self, directions: np.ndarray, yaw: float) -> np.ndarray:
        """Bilinear radiance (N, 3) along unit directions (N, 3), the panorama turned by `yaw`."""
        height, width = self.radiance.shape[:2]
        x = ((np.arctan2(-directions[:, 0], directions[:, 2]) + yaw) / (2 * np.pi) % 1) * width - 0.5
        y = (np.arccos(np.clip(directions[:, 1], -1, 1)) / np.pi * height - 0.5).clip(0, height - 1.001)
        x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
        fx, fy = (x - x0)[:, None], (y - y0)[:, None]
        left, right = x0 % width, (x0 + 1) % width
        r = self.radiance
        return ((r[y0, left] * (1 - fx) + r[y0, right] * fx) * (1 - fy)
                + (r[y0 + 1, left] * (1 - fx) + r[y0 + 1, right] * fx) * fy)

    @cached_property
    def _directions(self) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.radiance.shape[:2]
        polar = (np.arange(height) + 0.5) / height * np.pi
        azimuth = (np.arange(width) + 0.5) / width * 2 * np.pi
        sine = np.sin(polar)[:, None]
        directions = np.stack([-sine * np.sin(azimuth), np.broadcast_to(np.cos(polar)[:, None], (height, width)),
                               sine * np.cos(azimuth)], axis=-1)
        return directions, np.broadcast_to(sine * (2 * np.pi / width) * (np.pi / height), (height, width))

    @cached_property
    def light(self) -> Light:
        """Split the panorama into one directional light and the rest as second-order spherical harmonics."""
        directions, solid = self._directions
        luminance = self.radiance @ np.array([0.2126, 0.7152, 0.0722], np.float32)
        above = np.where(directions[..., 1] > 0.05, luminance, 0)
        # clipped skies hide how bright the sun is: above the horizon, count what is nearly white several times
        boost = 1 + 5 * (np.clip((luminance - 0.85) / 0.15, 0, 1) * (directions[..., 1] > 0))[..., None]
        radiance = self.radiance * boost
        strong = above >= np.quantile(above, 0.985)
        energy = (radiance * solid[..., None])[strong].sum(0)
        weight = (luminance * solid)[strong]
        direction = (directions[strong] * weight[:, None]).sum(0)
        spread = np.linalg.norm(direction) / weight.sum()  # near 1 for one sun, near 0 for lights all around
        share = np.clip(spread, 0, 1) ** 2
        rest = np.where(strong[..., None], radiance * (1 - share), radiance) * solid[..., None]
        coefficients = np.einsum("hwk,hwc->kc", harmonics(directions), rest)
        return Light(coefficients, direction / np.linalg.norm(direction), energy * share)


@dataclass(frozen=True)
class Light:
    """coefficients (9, 3) of the radiance around; direction (3,) and irradiance (3,) of one distant lamp."""

    coefficients: np.ndarray
    direction: np.ndarray
    lamp: np.ndarray

    def ambient(self, normals: np.ndarray) -> np.ndarray:
        """Irradiance (N, 3) on surfaces with unit normals (N, 3) from all but the lamp.

        Ramamoorthi and Hanrahan, "An efficient representation for irradiance environment maps", 2001: the clamped
        cosine keeps pi, 2 pi / 3 and pi / 4 of the bands 0, 1 and 2.
        """
        bands = np.repeat([np.pi, 2 * np.pi / 3, np.pi / 4], [1, 3, 5])
        return np.maximum(harmonics(normals) @ (bands[:, None] * self.coefficients), 0)

    def turned(self, yaw: float) -> Light:
        """The light of the panorama turned by `yaw` (see `Panorama.look_up`): directions turn the other way."""
        probe = _fibonacci(64)
        seen = harmonics(probe @ _yaw(yaw)) @ self.coefficients
        coefficients = np.linalg.lstsq(harmonics(probe), seen, rcond=None)[0]
        return Light(coefficients, _yaw(yaw) @ self.direction, self.lamp)


def _yaw(angle: float) -> np.ndarray:
    """World direction of what the unturned panorama shows along a direction, as a matrix."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _fibonacci(count: int) -> np.ndarray:
    i = np.arange(count) + 0.5
    polar, azimuth = np.arccos(1 - 2 * i / count), np.pi * (1 + 5 ** 0.5) * i
    return np.stack([np.sin(polar) * np.sin(azimuth), np.cos(polar), np.sin(polar) * np.cos(azimuth)], 1)


def harmonics(directions: np.ndarray) -> np.ndarray:
    """The nine real spherical harmonics up to order two (..., 9) along unit directions (..., 3)."""
    x, y, z = np.moveaxis(directions, -1, 0)
    return np.stack([np.full_like(x, 0.282095), 0.488603 * y, 0.488603 * z, 0.488603 * x, 1.092548 * x * y,
                     1.092548 * y * z, 0.315392 * (3 * z * z - 1), 1.092548 * x * z,
                     0.546274 * (x * x - y * y)], axis=-1)


def read_panorama(path: Path) -> Panorama:
    """Read an equirectangular JPEG, mend dark specks in blown-out skies, and return it in linear light.

    Raises:
        OSError: if the file is damaged, naming it.
    """
    from scipy import ndimage
    with reading(path, "fetch it again or remove it", "as a panorama"):
        pixels = decode(path).astype(np.float32) / 255
    # a blown-out sky is white around the speck: where the neighbourhood is bright, fill what is darker from around it
    reach = max(5, pixels.shape[0] // 14)
    filled = ndimage.grey_closing(pixels, (reach, reach, 1), mode="wrap")
    around = ndimage.uniform_filter(pixels.mean(-1), 2 * reach, mode="wrap")
    speck = (around > 0.82) & ((filled - pixels).max(-1) > 0.15)
    return Panorama(path.stem, to_linear(np.where(speck[..., None], filled, pixels)))
