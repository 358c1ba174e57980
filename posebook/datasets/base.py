"""`PoseDataset`: labelled person crops in memory, and how a photograph becomes one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from posebook import geometry
from posebook.files import reading
from posebook.skeleton import ABSENT, PART_MIRROR, Skeleton, convert

CROP = 64
"""Side of the network's input at the book's size, pixels."""
STORED = 80
"""Side of a stored crop: the input plus a margin that random crops and rotations may look into."""
ENLARGE = 1.2
"""Side of the box that the *input* shows, over the longer side of the tight box around the joints."""
NOWHERE = -1e4
"""Both coordinates of every joint in a crop without a person, state OCCLUDED. No crop or rotation brings it in from so
far outside: a detector learns "in no window", and the regressor, which is not asked about joints outside, nothing."""


@dataclass(frozen=True)
class PoseDataset:
    """Square crops around one person each, in memory as the network will need them: nothing is decoded later.

    Attributes:
        name, split: where the data come from, for records.
        skeleton: declares the order of the joints.
        images: (N, 3, S, S) uint8 RGB.
        joints: (N, J, 2) float32, pixels of the stored crop; absent joints are (0, 0).
        state: (N, J) uint8, ABSENT / OCCLUDED / VISIBLE.
        to_source: (N, 2, 3) float32, crop pixels -> pixels of the source image.
        ids: (N,) strings naming the source image.
        joints3d: (N, J, 3) float32, camera millimetres, or None.
        camera: (N, 3, 3) float32 intrinsics of the *source image*, or None.
        parts: (N, S, S) uint8, 1 + index in BODY_PARTS of what the pixel shows, 0 elsewhere, or None.
        groups: further columns (subject, clip, action ...), each (N,).
        skipped: what was left out on reading, reason -> count.
    """

    name: str
    split: str
    skeleton: Skeleton
    images: np.ndarray
    joints: np.ndarray
    state: np.ndarray
    to_source: np.ndarray
    ids: np.ndarray
    joints3d: np.ndarray | None = None
    camera: np.ndarray | None = None
    parts: np.ndarray | None = None
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, j = len(self.images), len(self.skeleton)
        expected = {"joints": (n, j, 2), "state": (n, j), "to_source": (n, 2, 3), "ids": (n,)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{self.name}: {name} must have shape {shape}, got {getattr(self, name).shape}")
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ValueError(f"{self.name}: images must be uint8 (N, 3, S, S), "
                             f"got {self.images.dtype} {self.images.shape}")
        if not np.isfinite(self.joints).all():
            raise ValueError(f"{self.name}: joints hold NaN or infinity; mark such joints ABSENT with coordinates zero")
        if self.joints3d is not None and not (self.joints3d.shape == (n, j, 3) and np.isfinite(self.joints3d).all()):
            raise ValueError(f"{self.name}: joints3d must be {(n, j, 3)} finite numbers, absent joints zero")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def source_joints(self) -> np.ndarray:
        """(N, J, 2) float32: the joints in pixels of the source images, where metrics are measured."""
        return geometry.transform(self.to_source, self.joints)

    def need(self, column: str) -> np.ndarray:
        """`joints3d`, `camera` or `parts`, where one cannot do without.

        Raises:
            ValueError: if this data set has none.
        """
        values = getattr(self, column)
        if values is None:
            raise ValueError(f"{self.name} {self.split} has no {column}, and this cannot be done without; the embedded "
                             "people have them (parts with parts=True)")
        return values

    def subset(self, index: Sequence[int] | np.ndarray) -> PoseDataset:
        """The samples at `index` (integers or a boolean mask), in that order."""
        index = np.asarray(index)
        index = index if len(index) else index.astype(int)                               # an empty list is of floats
        pick = {name: getattr(self, name)[index] for name in ("images", "joints", "state", "to_source", "ids")}
        for name in ("joints3d", "camera", "parts"):
            pick[name] = None if getattr(self, name) is None else getattr(self, name)[index]
        return replace(self, **pick, groups={k: v[index] for k, v in self.groups.items()})

    def as_skeleton(self, target: Skeleton) -> PoseDataset:
        """The same images labelled with another skeleton (see `skeleton.convert` for what can be made from what)."""
        if target.name == self.skeleton.name:
            return self
        joints, state = convert(self.joints, self.state, self.skeleton, target)
        joints3d = None
        if self.joints3d is not None:
            joints3d = convert(self.joints3d, self.state, self.skeleton, target)[0]
        return replace(self, skeleton=target, joints=joints, state=state, joints3d=joints3d)

    def mirrored(self) -> PoseDataset:
        """Every sample as a mirror shows it: left joints and parts become right ones.

        The mirror stands on the source image's first column, so that x becomes -x there, in the camera's frame and
        for its principal point. Mirrored twice is the same again.
        """
        swap, side = self.skeleton.mirror, self.images.shape[-1]
        start, flip = np.array([side - 1, 0], np.float32), np.array([-1, 1], np.float32)
        joints = np.where((self.state != ABSENT)[..., None], start + self.joints * flip, 0)[:, swap]
        to_source = self.to_source.copy()
        to_source[:, :, 2] += to_source[:, :, 0] * (side - 1)  # the crop's last column is its first now
        to_source *= np.array([[1, -1, -1], [-1, 1, 1]], np.float32)
        parts = None if self.parts is None else PART_MIRROR[self.parts[..., ::-1]]
        joints3d = None if self.joints3d is None else geometry.mirror3d(self.joints3d, self.skeleton)
        signs = np.array([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]], np.float32)
        camera = None if self.camera is None else self.camera * signs
        return replace(self, images=self.images[..., ::-1], joints=joints, state=self.state[:, swap],
                       to_source=to_source, parts=parts, joints3d=joints3d, camera=camera)

    def complete(self) -> np.ndarray:
        """(N,) bool: no joint is absent."""
        return (self.state != ABSENT).all(axis=1)

    def upright(self) -> np.ndarray:
        """(N,) bool: the head end of the torso is above both labelled hips in the picture. Needs neck and hips."""
        neck, *hips = (self.skeleton.index(name) for name in ("neck", "left_hip", "right_hip"))
        labelled = (self.state[:, [neck, *hips]] != ABSENT).all(axis=1)
        return labelled & (self.joints[:, [neck], 1] < self.joints[:, hips, 1]).all(axis=1)


def join(sets: Sequence[PoseDataset]) -> PoseDataset:
    """Several data sets, labelled with one skeleton and stored at one size, as one. Only 2D labels are kept.

    Raises:
        ValueError: if skeletons or sizes differ.
    """
    first = sets[0]
    for other in sets[1:]:
        if other.skeleton.name != first.skeleton.name or other.images.shape[1:] != first.images.shape[1:]:
            raise ValueError(f"{first.name} and {other.name} cannot be joined: they have the skeletons "
                             f"{first.skeleton.name} and {other.skeleton.name}, and crops of "
                             f"{first.images.shape[1:]} and {other.images.shape[1:]}")
    images, joints, state, to_source, ids = (np.concatenate([getattr(s, name) for s in sets])
                                             for name in ("images", "joints", "state", "to_source", "ids"))
    skipped: dict[str, int] = {}
    for s in sets:
        for reason, count in s.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
    return PoseDataset("+".join(s.name for s in sets), first.split, first.skeleton, images, joints, state, to_source,
                       ids, skipped=skipped)


def crop_image(image: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """Cut `box` out of a uint8 image and resize it to (size, size, ...).

    A picture (H, W, 3) is smoothed when it shrinks, and where the box leaves it, its border is repeated. Labels (H, W)
    are never mixed, and are 0 outside. The pixels agree with
    `geometry.crop_matrix(box, size)` to a fraction of a pixel (tested with painted dots).

    Raises:
        ValueError: if the box is unusable with this image (see `geometry.check_box`).
    """
    from PIL import Image
    height, width = image.shape[:2]
    x0, y0, x1, y1 = geometry.check_box(box, width, height).tolist()
    left, top, right, bottom = (max(0, int(np.ceil(v))) for v in (-x0, -y0, x1 - width, y1 - height))
    if max(left, top, right, bottom) > 2 * max(width, height):
        raise ValueError(f"box {np.asarray(box).tolist()} is far larger than the image of {width} x {height} pixels")
    if left or top or right or bottom:
        margins = ((top, bottom), (left, right), (0, 0))[:image.ndim]
        image = np.pad(image, margins, mode="edge" if image.ndim == 3 else "constant")
    area = (x0 + left, y0 + top, x1 + left, y1 + top)
    kind = Image.Resampling.BILINEAR if image.ndim == 3 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize((size, size), kind, box=area))


def crop_poses(image: np.ndarray, joints: np.ndarray, state: np.ndarray,
               size: int = STORED, crop: int = CROP) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The stored crop of one labelled person, so that its central `crop` pixels show `ENLARGE` times the person.

    Args:
        image: (H, W, 3) uint8; joints: (J, 2) pixels; state: (J,); size: side of the stored crop.

    Returns:
        pixels (3, size, size) uint8; joints (J, 2) in crop pixels, absent ones zero; to_source (2, 3).
    """
    box = geometry.square_box(geometry.joints_box(joints, state), ENLARGE * size / crop)
    to_crop = geometry.crop_matrix(box, size)
    moved = np.where((state != ABSENT)[:, None], geometry.transform(to_crop, joints.astype(np.float32)), 0)
    return crop_image(image, box, size).transpose(2, 0, 1), moved, geometry.invert(to_crop)


MOST_PIXELS = 100_000_000
"""Of a picture that is read. A small file may claim any size, and one of 60,000 x 60,000 pixels would fill 10 GB."""


def decode(source: Path | str | BinaryIO, mode: str | None = "RGB") -> np.ndarray:
    """The pixels (H, W, ...) of a picture, in one of Pillow's modes, turned as its EXIF orientation says.

    Raises:
        ValueError: if it has more than `MOST_PIXELS`; whatever Pillow raises: if it is damaged.
    """
    from PIL import Image, ImageOps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)       # its limit is below ours, its error above
        with Image.open(source) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels, more than {MOST_PIXELS:,}")
            upright = ImageOps.exif_transpose(image)
            return np.asarray(upright if mode is None else upright.convert(mode))


def read_image(path: Path | str) -> np.ndarray:
    """Read a picture as (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Raises:
        FileNotFoundError: if there is no such file; OSError: if it is damaged, too large or no image, naming the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no image {path}")
    with reading(path, "fetch it again or leave it out", "as an image"):
        return decode(path)
