"""Small stand-ins that several tests share: painted people, folders of data sets, tiny networks."""

import io
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from posebook import geometry, training
from posebook.datasets import PoseDataset
from posebook.networks import Config, Head
from posebook.skeleton import H36M17, LSP14, VISIBLE, Skeleton
from posebook.synthesis.lens import encode_parts
from posebook.targets import Coordinates

# A person who faces the camera: her right is on the left of the picture. About two units tall, hips at the origin.
_FACING = {
    "head_top": (0, -1), "nose": (0.02, -0.87), "neck": (0, -0.75), "spine": (0, -0.4), "pelvis": (0, 0),
    "left_shoulder": (0.2, -0.65), "left_elbow": (0.35, -0.35), "left_wrist": (0.4, -0.05), "left_hip": (0.12, 0.01),
    "left_knee": (0.15, 0.5), "left_ankle": (0.16, 1.0)}
FACING = {**_FACING, **{f"right{name[4:]}": (-x, y) for name, (x, y) in _FACING.items() if name.startswith("left")}}


def pose(skeleton: Skeleton, centre: tuple[float, float], scale: float) -> np.ndarray:
    """(J, 2) float32: a standing person, hips at `centre`, 2 x `scale` pixels tall."""
    return (np.array([FACING[name] for name in skeleton.joints]) * scale + centre).astype(np.float32)


def painted(joints: np.ndarray, width: int, height: int, sigma: float) -> np.ndarray:
    """(H, W, 3) uint8: black, with one smooth white blob at every point of `joints` (K, 2)."""
    y, x = np.mgrid[:height, :width]
    away = (x - joints[:, 0, None, None]) ** 2 + (y - joints[:, 1, None, None]) ** 2
    grey = np.exp(-away / (2 * sigma ** 2)).max(axis=0) * 255
    return np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=2)


def centroid(plane: np.ndarray) -> np.ndarray:
    """(2,) x and y of the centre of mass of a picture (H, W) with one blob."""
    plane = np.asarray(plane, np.float64)
    y, x = np.mgrid[:plane.shape[0], :plane.shape[1]]
    return np.array([(x * plane).sum(), (y * plane).sum()]) / plane.sum()


def people(count: int = 24, seed: int = 0, split: str = "train", side: int = 40,
           skeleton: Skeleton = LSP14) -> PoseDataset:
    """Painted people of different sizes at different places; source images are the crops, twice as large."""
    rng = np.random.default_rng(seed)
    joints = np.stack([pose(skeleton, rng.uniform(0.4, 0.6, 2) * side, rng.uniform(0.2, 0.3) * side)
                       for _ in range(count)])
    images = np.stack([painted(j, side, side, 1.2).transpose(2, 0, 1) for j in joints])
    to_source = np.tile(geometry.invert(geometry.crop_matrix((0, 0, 2 * side, 2 * side), side)), (count, 1, 1))
    state = np.full(joints.shape[:2], VISIBLE, np.uint8)
    return PoseDataset("painted", split, skeleton, images, joints, state, to_source,
                       np.array([f"{split}-{i}" for i in range(count)]))


def tiny(joints: int = 14, keep: float = 1.0) -> Config:
    """A network that takes milliseconds a step: 32 px, two layers of 4 maps."""
    return Config(32, (4, 4), {"regression": Head(2 * joints, (16,), keep)}, kernels=(5, 3))


CODECS = {"regression": Coordinates(14, 32)}


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def lspet_folder(folder, count: int = 12):
    """A folder like LSP extended: images/im00001.jpg ... and joints.mat, 14x3xN, counted from one.

    Returns the zero-based joints (N, 14, 2) that it holds.
    """
    (folder / "images").mkdir(parents=True)
    joints = np.stack([pose(LSP14, (45 + i % 5, 60 - i % 7), 40 + i % 4) for i in range(count)])
    for number, joint in enumerate(joints, 1):
        (folder / "images" / f"im{number:05d}.jpg").write_bytes(jpeg(painted(joint, 90 + number % 3, 120, 3)))
    write_mat(folder, joints, np.ones((count, 14)))
    return joints


def write_mat(folder, joints: np.ndarray, flags: np.ndarray) -> None:
    """joints (N, 14, 2) zero-based and flags (N, 14) to a joints.mat as it is published."""
    from scipy.io import savemat
    raw = np.concatenate([joints + 1.0, flags[..., None]], axis=2).transpose(1, 2, 0)
    savemat(folder / "joints.mat", {"joints": raw})


def people_shard(path, count: int = 6, side: int = 96, seed: int = 0) -> np.ndarray:
    """One Parquet file like data/people/*.parquet with painted people; returns its joints (N, 17, 2).

    Its part labels say head above the hips and left foot below, all over the picture."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    rng = np.random.default_rng(seed)
    joints = np.stack([pose(H36M17, rng.uniform(0.45, 0.55, 2) * side, rng.uniform(0.3, 0.38) * side)
                       for _ in range(count)])
    depth = np.concatenate([(joints - side / 2) * 40, np.full((count, 17, 1), 4000.0)], axis=2).astype(np.float32)
    camera = np.array([[100, 0, side / 2], [0, 100, side / 2], [0, 0, 1]], np.float32)

    def fixed(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        flat = values.reshape(len(values), -1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel(), kind), flat.shape[1])

    labels = np.where(np.arange(side)[None, :, None] < joints[:, :1, 1, None], 1, 11).astype(np.uint8)
    columns = {
        "parts": pa.array([encode_parts(np.broadcast_to(row, (side, side))) for row in labels], pa.binary()),
        "effects": pa.array([""] * count),
        "image": pa.array([jpeg(painted(j, side, side, 2)) for j in joints], pa.binary()),
        "joints2d": fixed(joints, pa.float32()), "joints3d": fixed(depth, pa.float32()),
        "state": fixed(np.tile(np.array([2, 1] * 8 + [2], np.uint8), (count, 1)), pa.uint8()),
        "camera": fixed(np.tile(camera, (count, 1, 1)), pa.float32()),
        "box": fixed(np.tile(np.array([0, 0, side, side], np.float32), (count, 1)), pa.float32()),
        "subject": pa.array([f"s{i // 2}" for i in range(count)]), "clip": pa.array(["01_01"] * count),
        "action": pa.array(["walk"] * count), "frame": pa.array(range(count), pa.int32()),
        "background": pa.array(["meadow"] * count)}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return joints


@contextmanager
def stopped_before(epoch: int, monkeypatch):
    """Ctrl-C as soon as a training in the block begins this epoch; it is an error if none does."""
    real = training._epoch

    def interrupted(*arguments):
        if arguments[4] == epoch:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "_epoch", interrupted)
        yield
