"""Human3.6M (Ionescu, Papava, Olaru, Sminchisescu 2014): the poses of paper B, for readers who hold the licence.

The data may not be passed on, so nothing of them is shipped or fetched: this module reads the files as they come out of
the official archives (the appendix says which, and where they go). What it relies on:

- `S1/MyPoseFeatures/D2_Positions/Walking 1.54138969.cdf`: variable `Pose`, one row of 32 joints a frame, pixels.
- `S1/MyPoseFeatures/D3_Positions_mono/Walking 1.54138969.cdf`: the same in the camera's frame, millimetres, x right,
  y down, z forward, which is this book's frame; or `D3_Positions/Walking 1.cdf` in the room's frame.
- `metadata.xml`: the cameras. The 2D positions include the lens's distortion, the intrinsics in `PoseDataset.camera`
  do not, so a plain `geometry.project` misses `joints` by up to some pixels of the 1000; `Camera.project` does not.
- `S1/Videos/Walking 1.54138969.mp4`, or pictures made from it (`extract_frames`).

The data tell nothing about occlusion: every joint inside the picture is VISIBLE. Frames count from zero in
`groups["frame"]`, pictures from one in file names and `ids`. Whether the 2D positions count the first pixel as 0 or as
1 is not documented; they are taken as they are (a pixel here is less than a tenth of one of a 64 pixel crop).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from posebook import geometry
from posebook.datasets.base import CROP, ENLARGE, STORED, PoseDataset, crop_image, read_image
from posebook.files import whole_file
from posebook.skeleton import ABSENT, H36M17, VISIBLE, Skeleton

if TYPE_CHECKING:
    from av.container import InputContainer

SPLITS = {"train": ("S1", "S5", "S6", "S7"), "validation": ("S8",),
          "train+validation": ("S1", "S5", "S6", "S7", "S8"), "test": ("S9", "S11")}
"""Subjects. The papers train on all five of `train+validation`; keeping S8 apart is this book's own choice, so that
nothing is ever chosen by looking at S9 and S11."""
CAMERAS = ("54138969", "55011271", "58860488", "60457274")
"""In the order in which metadata.xml counts them."""
ACTIONS = ("Directions", "Discussion", "Eating", "Greeting", "Phoning", "Posing", "Purchases", "Sitting", "SittingDown",
           "Smoking", "TakingPhoto", "Waiting", "Walking", "WalkingDog", "WalkingTogether")
ALIASES = {"Photo": "TakingPhoto", "WalkDog": "WalkingDog", "WalkTogether": "WalkingTogether"}
"""Other names of actions, in the files of some subjects."""
TRIALS = 2
"""Every subject does every action twice; the names of the two differ from subject to subject."""
JOINTS = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)
"""Which of the 32 joints are H36M17's, in its order; the others are toes and ends of hands, or repeat one of these."""
LEAVE_OUT = ("S11/Directions.54138969",)
"""Views whose video is known to be damaged in the official archive."""
AGREE = 20.0
"""Pixels: how far, as a median, 2D positions may lie from the projection of the 3D positions. The release made the
former by this very projection, so the limit is generous; files of another person or camera are far beyond it."""
BOXES = ("joints", "official")


@dataclass(frozen=True)
class Protocol:
    """One way of reporting numbers on Human3.6M.

    Attributes:
        metric: name of the function in `posebook.metrics` that makes the number.
        runs: the actions of each network to be trained: one entry, one network.
    """

    metric: str
    runs: tuple[tuple[str, ...], ...]


PROTOCOLS = {"1": Protocol("mpjpe", (ACTIONS,)), "2": Protocol("pa_mpjpe", (ACTIONS,)),
             "per-action": Protocol("mpjpe", tuple((action,) for action in ACTIONS))}
"""All train on `train+validation` and test on `test`. Protocol 2 is protocol 1 after Procrustes alignment; `per-action`
is paper B's own: one network for each action, tested on that action, the four cameras being separate samples."""


@dataclass(frozen=True)
class Camera:
    """A calibrated camera: rotation (3, 3) and position (3,) in the room (mm), intrinsics (3, 3) in pixels,
    radial (3,) and tangential (2,) distortion."""

    rotation: np.ndarray
    position: np.ndarray
    intrinsics: np.ndarray
    radial: np.ndarray
    tangential: np.ndarray

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) points of the room -> the camera's frame, both in mm."""
        return (points - self.position) @ self.rotation.T

    def project(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) points in the camera's frame, mm -> (..., 2) pixels, with the lens's distortion."""
        plane = points[..., :2] / points[..., 2:]
        square = (plane ** 2).sum(-1, keepdims=True)
        bend = 1 + square * (self.radial[0] + square * (self.radial[1] + square * self.radial[2]))
        tilt = plane @ self.tangential[::-1]
        bent = plane * (bend + tilt[..., None]) + self.tangential[::-1] * square
        return bent * np.diag(self.intrinsics)[:2] + self.intrinsics[:2, 2]


@dataclass(frozen=True)
class View:
    """What one camera saw of one sequence, such as subject S1, action WalkingDog, sequence 'WalkDog 1'."""

    subject: str
    action: str
    sequence: str
    camera: str

    @property
    def clip(self) -> str:
        """What all cameras filmed at once: subject and sequence."""
        return f"{self.subject}/{self.sequence}"

    def __str__(self) -> str:
        return f"{self.clip}.{self.camera}"

    def file(self, folder: Path, kind: str, ending: str = "", camera: bool = True) -> Path:
        """`<folder>/S1/<kind>/WalkDog 1.54138969<ending>`, or without the camera."""
        return folder / self.subject / kind / f"{self.sequence}{f'.{self.camera}' if camera else ''}{ending}"


@dataclass(frozen=True)
class Labels:
    """The chosen frames of one view: frames (K,) counted from zero, joints (K, 17, 2), joints3d (K, 17, 3), boxes
    (K, 4) or None; `total` frames have a pose."""

    view: View
    frames: np.ndarray
    joints: np.ndarray
    joints3d: np.ndarray
    boxes: np.ndarray | None
    total: int


def load_human36m(folder: str | Path, split: str, size: int = STORED, crop: int = CROP, limit: int | None = None,
                  skeleton: Skeleton = H36M17, actions: Sequence[str] | None = None, step: int = 64,
                  cameras: Sequence[str] = CAMERAS, boxes: str = "joints",
                  leave_out: Collection[str] = LEAVE_OUT, progress: bool = True) -> PoseDataset:
    """Read one split of Human3.6M and crop the person in every `step`-th frame; nothing is returned unless all of it
    could be read.

    Labels, counts of frames and the presence of every picture are checked before the first picture is decoded. Joints
    outside the picture are ABSENT (their place in 3D is kept), all others VISIBLE. `groups` holds subject, action, clip
    ('S1/Walking 1'), camera and frame.

    Args:
        folder: holds `metadata.xml` and the subjects' folders S1, S5 ... (see the module and the appendix).
        split: one of `SPLITS`.
        size, crop: sides of the stored crop and of the network's input, pixels.
        limit: at most so many samples, spread evenly over the split.
        skeleton: joints to convert to; the files hold H36M17.
        actions: some of `ACTIONS` (the names in `ALIASES` are understood); default all.
        step: take frames 0, step, 2 step ... of every video (50 frames a second).
        cameras: some of `CAMERAS`.
        boxes: 'joints' crops around the joints like the other data sets; 'official' so that the input shows the
            data set's own box (`MySegmentsMat/ground_truth_bb`), made square.
        leave_out: views ('S9/Waiting 1.55011271') or clips ('S9/Waiting 1') not to read, counted in `skipped`.

    Raises:
        FileNotFoundError, OSError: a folder or file is missing or damaged; ValueError: an unknown choice, files that do
        not belong together (counts of frames, 2D and 3D), poses that are not finite; ImportError: a library is missing.
        Each names the file and what to do.
    """
    if boxes not in BOXES:
        raise ValueError(f"boxes must be one of {', '.join(BOXES)}, not {boxes!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}; leave it out for the whole split")
    folder = Path(folder)
    known = read_cameras(folder / "metadata.xml")
    views, skipped = find_views(folder, split, actions, cameras, leave_out)
    labels = [_read_labels(folder, view, known[view.subject, view.camera], step, boxes) for view in views]
    for row in labels:
        _check_pictures(folder, row, step)
    labels = _spread(labels, limit)
    rows: list[tuple] = []
    images = np.empty((sum(len(row.frames) for row in labels), 3, size, size), np.uint8)
    for row in _progress(labels, f"human36m {split}", progress):
        lens = known[row.view.subject, row.view.camera].intrinsics
        for i, (frame, image) in enumerate(_pictures(folder, row)):
            images[len(rows)], *placed = _crop(image, row, i, lens, size, crop)
            rows.append((*placed, row.joints3d[i], lens, f"{row.view}/{frame + 1:06d}", row.view.subject,
                         row.view.action, row.view.clip, row.view.camera, frame))
    joints, state, to_source, joints3d, lenses, ids, *groups = (np.stack(column) for column in zip(*rows, strict=True))
    names = ("subject", "action", "clip", "camera", "frame")
    return PoseDataset("human36m", split, H36M17, images, joints, state, to_source, ids,
                       joints3d=joints3d.astype(np.float32), camera=lenses.astype(np.float32),
                       groups=dict(zip(names, groups, strict=True)), skipped=skipped).as_skeleton(skeleton)


def extract_frames(folder: str | Path, split: str, step: int = 64, actions: Sequence[str] | None = None,
                   cameras: Sequence[str] = CAMERAS, leave_out: Collection[str] = LEAVE_OUT,
                   progress: bool = True) -> int:
    """Write every `step`-th frame of the videos to `S1/Images/Walking 1.54138969/img_000001.jpg` and so on, whole and
    unscaled; `load_human36m` then reads these and needs no video. Pictures that are there already are kept.

    Returns:
        how many pictures were written. Arguments and errors are those of `load_human36m`.
    """
    from PIL import Image
    folder, written = Path(folder), 0
    known = read_cameras(folder / "metadata.xml")
    views, _ = find_views(folder, split, actions, cameras, leave_out)
    labels = [_read_labels(folder, view, known[view.subject, view.camera], step, "joints") for view in views]
    for row in labels:
        _check_video(folder, row)
    for row in _progress(labels, f"frames of {split}", progress):
        target = row.view.file(folder, "Images")
        missing = [frame for frame in row.frames.tolist() if not (target / picture_name(frame)).is_file()]
        for frame, image in _decode(row.view.file(folder, "Videos", ".mp4"), missing):
            with whole_file(target / picture_name(frame)) as part:
                Image.fromarray(image).save(part, "JPEG", quality=95)
            written += 1
    return written


def picture_name(frame: int) -> str:
    """File name of a frame that is counted from zero: pictures count from one, as `ffmpeg` writes them."""
    return f"img_{frame + 1:06d}.jpg"


# ------------------------------------------------------------------------------------------------- which files


def action_of(name: str) -> str:
    """The action of a sequence ('WalkDog 1' -> 'WalkingDog') or of an action's other name.

    Raises:
        ValueError: if it is none of the data set's.
    """
    if not _known(name):
        raise ValueError(f"{name!r} is no action of Human3.6M; known are {', '.join(ACTIONS)}")
    return _plain(name)


def _plain(name: str) -> str:
    plain = re.sub(r" \d+$", "", name)
    return ALIASES.get(plain, plain)


def _known(name: str) -> bool:
    return _plain(name) in ACTIONS


def find_views(folder: Path, split: str, actions: Sequence[str] | None = None, cameras: Sequence[str] = CAMERAS,
               leave_out: Collection[str] = LEAVE_OUT) -> tuple[list[View], dict[str, int]]:
    """The views of a split, in a fixed order, and how many were left out (in the form of `PoseDataset.skipped`).

    Raises:
        ValueError: an unknown split, action or camera, or nothing left; FileNotFoundError: a subject, one of the two
        sequences of an action, or a camera is missing, naming it.
    """
    if split not in SPLITS:
        raise ValueError(f"human36m has the splits {', '.join(SPLITS)}, not {split!r}")
    if unknown := set(cameras) - set(CAMERAS):
        raise ValueError(f"Human3.6M has the cameras {', '.join(CAMERAS)}, not {', '.join(sorted(unknown))}")
    if wrong := [name for name in leave_out if not (re.fullmatch(r"S\d+/[^/.]+(\.\d{8})?", name)
                                                    and _known(name.split("/")[1].split(".")[0]))]:
        raise ValueError(f"leave_out names {wrong[0]!r}; it takes a view, like 'S9/Waiting 1.55011271', or a clip, "
                         "like 'S9/Waiting 1'")
    if isinstance(actions, str):
        actions = (actions,)
    wanted = sorted({action_of(action) for action in (ACTIONS if actions is None else actions)}, key=ACTIONS.index)
    if missing := [subject for subject in SPLITS[split] if not (folder / subject).is_dir()]:
        raise FileNotFoundError(f"{folder} has no folder {missing[0]}, but the split {split} is "
                                f"{', '.join(SPLITS[split])}: unpack that subject's archives there too")
    views, left = [], 0
    for subject in SPLITS[split]:
        for action in wanted:
            for sequence in _sequences(folder, subject, action, leave_out):
                for view in (View(subject, action, sequence, camera) for camera in CAMERAS if camera in cameras):
                    if str(view) in leave_out or view.clip in leave_out:
                        left += 1
                    elif (path := view.file(folder, "MyPoseFeatures/D2_Positions", ".cdf")).is_file():
                        views.append(view)
                    else:
                        raise FileNotFoundError(_missing(path, view))
    if not views:
        raise ValueError("these actions, cameras and leave_out leave nothing to read; ask for more of them")
    return views, {"views left out": left} if left else {}


def _sequences(folder: Path, subject: str, action: str, leave_out: Collection[str]) -> list[str]:
    """Names of the sequences in which a subject does an action, sorted."""
    poses = folder / subject / "MyPoseFeatures" / "D2_Positions"
    if not poses.is_dir():
        raise FileNotFoundError(f"there is no folder {poses}; unpack the archive of D2_Positions of {subject}")
    present = {path.name.split(".")[0] for path in poses.glob("[!._]*.cdf")}  # '_ALL' belongs to no action
    if strange := sorted(name for name in present if not _known(name)):
        raise ValueError(f"{poses} holds {strange[0]!r}, which is no action of Human3.6M; move its files elsewhere")
    present |= {name.split("/")[1].split(".")[0] for name in leave_out if name.startswith(f"{subject}/")}
    found = sorted(name for name in present if action_of(name) == action)
    if len(found) < TRIALS:
        raise FileNotFoundError(f"{poses} holds {len(found)} of the {TRIALS} sequences of {action}"
                                f"{''.join(f' ({name})' for name in found)}: unpack the archive of D2_Positions of "
                                f"{subject} again, or choose other actions")
    return found


def _missing(path: Path, view: View) -> str:
    return (f"there is no {path}; unpack the archive of {path.parent.name} of {view.subject} again, choose other "
            f"cameras or actions, or do without this view: leave_out={{..., '{view}'}}")


# ------------------------------------------------------------------------------------------------- labels


def read_cameras(path: Path) -> dict[tuple[str, str], Camera]:
    """The cameras of all eleven subjects from metadata.xml: (subject, camera) -> `Camera`.

    Its element `w0` holds 300 numbers: three angles and a position for each camera and subject, then for each camera
    focal length (2), principal point (2), radial (3) and tangential (2) distortion, which all subjects share.

    Raises:
        FileNotFoundError, OSError: missing or damaged; ValueError: if it does not hold these numbers.
    """
    from xml.etree import ElementTree
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; it holds the cameras and lies in the code archive of the "
                                "Human3.6M site: copy it there")
    try:
        element = ElementTree.parse(path).getroot().find(".//w0")
        words = [] if element is None else (element.text or "").strip(" \n\t[]").replace(",", " ").split()
        numbers = np.array(words, np.float64)
    except (ElementTree.ParseError, UnicodeDecodeError, ValueError) as error:
        raise OSError(f"{path} cannot be read ({error}); copy it anew from the code archive of the Human3.6M "
                      "site") from error
    if numbers.shape != (300,) or not np.isfinite(numbers).all():
        raise ValueError(f"{path} must hold 300 numbers in its element w0, but holds {len(numbers)}; copy it anew from "
                         "the code archive of the Human3.6M site")
    places, lenses = numbers[:264].reshape(len(CAMERAS), 11, 6), numbers[264:].reshape(len(CAMERAS), 9)
    return {(f"S{s + 1}", camera): _camera(places[c, s], lenses[c])
            for c, camera in enumerate(CAMERAS) for s in range(11)}


def _camera(place: np.ndarray, lens: np.ndarray) -> Camera:
    (sx, sy, sz), (cx, cy, cz) = np.sin(place[:3]), np.cos(place[:3])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    intrinsics = np.array([[lens[0], 0, lens[2]], [0, lens[1], lens[3]], [0, 0, 1]])
    return Camera(about_x @ about_y @ about_z, place[3:], intrinsics, lens[4:7], lens[7:])


def read_poses(path: Path, dimensions: int) -> np.ndarray:
    """(F, 17, 2 or 3) float64: the joints of H36M17 in every frame of a CDF file, in the file's unit.

    Raises:
        FileNotFoundError, OSError: missing or damaged; ValueError: no poses of 32 joints, or some that are not finite;
        ImportError: without cdflib.
    """
    cdflib = _need("cdflib", "reading the poses of Human3.6M")
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; unpack the archive of {path.parent.name} again")
    try:
        _check_claims(path)
        raw = np.asarray(cdflib.CDF(path).varget("Pose"), np.float64)
    except Exception as error:  # cdflib raises many kinds for a damaged file; all mean the same to the reader
        raise OSError(f"{path} cannot be read as a CDF file with a variable Pose ({error}); unpack its archive "
                      "again") from error
    if raw.size == 0 or raw.shape[-1] != 32 * dimensions:
        raise ValueError(f"{path}: Pose must hold {32 * dimensions} numbers a frame, 32 joints in {dimensions}D, but "
                         f"has the shape {raw.shape}; unpack the archive of {path.parent.name} there")
    poses = raw.reshape(-1, 32, dimensions)[:, JOINTS]
    if broken := np.flatnonzero(~np.isfinite(poses).all(axis=(1, 2))).tolist():
        raise ValueError(f"{path}: the pose of frame {broken[0]} and {len(broken) - 1} others are not finite numbers; "
                         "unpack its archive again, or name the clip in leave_out")
    return poses


def _check_claims(path: Path) -> None:
    """Raise ValueError if a CDF file of version 3 claims more than it holds: more entries of a record than fit into it,
    more values than bytes (of packed ones 1,032 times as many, which is all that gzip can do), an index that leads back
    to itself. cdflib believes such numbers, and loops for minutes, or takes all memory.

    Places of the numbers, all big-endian: CDF Internal Format Description. Files that are packed as a whole, and older
    ones, are left to cdflib.
    """
    content = path.read_bytes()
    if content[:8].hex() != "cdf300010000ffff":
        return

    def number(place: int, width: int = 4) -> int:
        return int.from_bytes(content[place:place + width], "big", signed=True)

    def check(record: int, kinds: Collection[int], needs: int) -> None:
        if record < 8 or number(record + 8) not in kinds or not needs <= number(record, 8) <= len(content) - record:
            raise ValueError(f"the record at byte {record} is damaged")

    top, seen = number(20, 8), set()
    check(top, [2], 84 + 4 * max(number(top + 56), 0))
    for variable, count in (number(top + 20, 8), number(top + 60)), (number(top + 12, 8), number(top + 44)):
        for _ in range(min(count, len(content))):
            own = number(variable + 8) == 8              # its own dimensions, or those of all of its kind
            dimensions = number(variable + 340 if own else top + 56)
            sizes, vary = (variable + 344, variable + 344 + 4 * dimensions) if own else (top + 84, variable + 340)
            check(variable, (3, 8), max(vary + 4 * dimensions - variable, 340))
            values = (number(variable + 24) + 1) * number(variable + 64) * math.prod(
                number(sizes + 4 * k) for k in range(dimensions) if number(vary + 4 * k))
            if values > len(content) * (1032 if number(variable + 44) & 4 else 1):
                raise ValueError(f"{values:,} values are claimed in {len(content):,} bytes")
            left = [number(variable + 28, 8)] if number(variable + 24) >= 0 else []
            while left:
                index = left.pop()
                entries, used = number(index + 20), number(index + 24)
                check(index, [6], 28 + 16 * max(entries, used))
                if index in seen:
                    raise ValueError("its index leads back to itself")
                seen.add(index)
                places = [number(index + 28 + 8 * entries + 8 * k, 8) for k in range(used)]
                left += [place for place in (*places, number(index + 12, 8)) if place and number(place + 8) == 6]
            variable = number(variable + 12, 8)


def read_boxes(path: Path, frames: np.ndarray, total: int) -> np.ndarray:
    """(K, 4) float32: the half-open boxes x0, y0, x1, y1 of `frames` (K,), in pixels.

    The file is MATLAB's 7.3 format, which is HDF5: `Masks` refers to one picture for each of its `total` frames, stored
    column by column, in which the box is 1.

    Raises:
        FileNotFoundError, OSError: missing or damaged; ValueError: another number of frames, or an empty box;
        ImportError: without h5py.
    """
    h5py = _need("h5py", "reading the official boxes of Human3.6M")
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; unpack the archive of the boxes (ground truth bounding boxes, "
                                ".mat) there, or read with boxes='joints'")
    try:
        with h5py.File(path, "r") as file:
            masks = file["Masks"]
            references = masks[()].ravel()
            count = len(references)
            found = [np.asarray(file[references[frame]]).T > 0 for frame in frames if frame < count]
    except Exception as error:  # h5py raises many kinds for a damaged file; all mean the same to the reader
        raise OSError(f"{path} cannot be read as a MATLAB 7.3 file with Masks ({error}); unpack its archive again, or "
                      "read with boxes='joints'") from error
    if count < total:
        raise ValueError(f"{path} holds boxes of {count} frames, but there are poses of {total}; unpack its archive "
                         "again, or read with boxes='joints'")
    if empty := [int(frame) for frame, mask in zip(frames, found, strict=True) if not mask.any()]:
        raise ValueError(f"{path} has no box in frame {empty[0]}; read with boxes='joints', or name the view in "
                         "leave_out")
    return np.array([_extent(mask) for mask in found], np.float32)


def _extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 (half open) of what is true in a mask (H, W)."""
    y, x = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return x[0], y[0], x[-1] + 1, y[-1] + 1


def _read_labels(folder: Path, view: View, camera: Camera, step: int, boxes: str) -> Labels:
    """Every `step`-th pose of a view, after checking that its files belong together."""
    if step < 1:
        raise ValueError(f"step must be at least 1, not {step}; 1 takes every frame")
    flat_path = view.file(folder, "MyPoseFeatures/D2_Positions", ".cdf")
    deep_path = view.file(folder, "MyPoseFeatures/D3_Positions_mono", ".cdf")
    in_room = not deep_path.is_file()
    if in_room:
        deep_path = view.file(folder, "MyPoseFeatures/D3_Positions", ".cdf", camera=False)
        if not deep_path.is_file():
            raise FileNotFoundError(f"{view} has neither D3_Positions_mono nor {deep_path}; unpack one of the two "
                                    f"archives of {view.subject}, or name the view in leave_out")
    flat, deep = read_poses(flat_path, 2), read_poses(deep_path, 3)
    if len(flat) != len(deep):
        raise ValueError(f"{view}: {flat_path.parent.name} has {len(flat)} frames, {deep_path.parent.name} "
                         f"{len(deep)}; both must come from the same release: unpack their archives again, or name the "
                         "clip in leave_out")
    if in_room:
        deep = camera.to_camera(deep)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = float(np.median(np.linalg.norm(camera.project(deep) - flat, axis=-1)))
    if not apart <= AGREE:
        raise ValueError(f"{view}: the 2D positions lie {apart:.0f} pixels (median) from the projection of "
                         f"{deep_path.parent.name}: one of the files or metadata.xml belongs to another view; unpack "
                         "them again")
    frames = np.arange(0, len(flat), step)
    areas = None
    if boxes == "official":
        areas = read_boxes(view.file(folder, "MySegmentsMat/ground_truth_bb", ".mat"), frames, len(flat))
    return Labels(view, frames, flat[frames], deep[frames], areas, len(flat))


def _spread(labels: list[Labels], limit: int | None) -> list[Labels]:
    """At most `limit` frames, evenly spread over all views."""
    total = sum(len(row.frames) for row in labels)
    if limit is None or limit >= total:
        return labels
    pick, start, chosen = np.linspace(0, total - 1, limit).astype(int), 0, []
    for row in labels:
        here = pick[(pick >= start) & (pick < start + len(row.frames))] - start
        start += len(row.frames)
        if len(here):
            chosen.append(Labels(row.view, row.frames[here], row.joints[here], row.joints3d[here],
                                 None if row.boxes is None else row.boxes[here], row.total))
    return chosen


# ------------------------------------------------------------------------------------------------- pictures


def _check_pictures(folder: Path, row: Labels, step: int) -> None:
    """Raise if a picture that will be needed is not there; nothing is decoded."""
    pictures = row.view.file(folder, "Images")
    if not pictures.is_dir():
        _check_video(folder, row)
        return
    if missing := [frame for frame in row.frames.tolist() if not (pictures / picture_name(frame)).is_file()]:
        held = sum(1 for _ in pictures.glob("img_*.jpg"))
        raise FileNotFoundError(f"{pictures} holds {held} pictures but not {picture_name(missing[0])}, which "
                                f"step={step} needs of the {row.total} frames that have poses: extract the frames "
                                "again with that step, or remove the folder to read the video")


def _check_video(folder: Path, row: Labels) -> None:
    """Raise if the video is missing, damaged, or says that it is shorter than the poses. It may be longer: many of the
    official videos go on after the last pose."""
    path = row.view.file(folder, "Videos", ".mp4")
    if not path.is_file():
        raise FileNotFoundError(f"{row.view} has neither {path} nor a folder {row.view.file(folder, 'Images')}; unpack "
                                f"the archive of the videos of {row.view.subject}, or name the view in leave_out")
    with _open_video(path) as video:
        frames = video.streams.video[0].frames if video.streams.video else 0
    if 0 < frames < row.total:
        raise ValueError(f"{path} has {frames} frames, but there are poses of {row.total}; unpack its archive again, "
                         f"or name the view in leave_out ('{row.view}')")


def _pictures(folder: Path, row: Labels) -> Iterator[tuple[int, np.ndarray]]:
    """(frame, picture) for each frame of the row, in order."""
    pictures = row.view.file(folder, "Images")
    if pictures.is_dir():
        return ((frame, read_image(pictures / picture_name(frame))) for frame in row.frames.tolist())
    return _decode(row.view.file(folder, "Videos", ".mp4"), row.frames.tolist())


def _open_video(path: Path) -> InputContainer:
    av = _need("av", "reading the videos of Human3.6M")
    try:
        return av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise OSError(f"{path} cannot be read as a video ({error}); unpack its archive again, or name the view in "
                      "leave_out") from error


def _decode(path: Path, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(frame, picture (H, W, 3) uint8) for ascending `frames`. The video is read once from its start, since seeking is
    not exact in every file, and one picture at a time is held."""
    if not frames:
        return
    wanted, seen = set(frames), 0
    with _open_video(path) as video:
        try:
            for seen, picture in enumerate(video.decode(video=0), 1):
                if seen - 1 in wanted:
                    yield seen - 1, picture.to_ndarray(format="rgb24")
                if seen - 1 == frames[-1]:
                    return
        except (_need("av", "").FFmpegError, IndexError) as error:
            raise OSError(f"{path} cannot be decoded beyond its first {seen} frames ({error}); unpack its archive "
                          "again, or name the view in leave_out") from error
    lacking = next(frame for frame in frames if frame >= seen)
    raise OSError(f"{path} ends after {seen} frames, before frame {lacking} that has a pose; unpack its archive "
                  "again, or name the view in leave_out")


def _crop(image: np.ndarray, row: Labels, i: int, lens: np.ndarray, size: int,
          crop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (3, size, size), joints (17, 2) in them, state (17,) and to_source (2, 3) of the i-th frame of a row."""
    height, width = image.shape[:2]
    name = f"{row.view}, frame {row.frames[i]}"
    if abs(lens[0, 2] / width - 0.5) > 0.1 or abs(lens[1, 2] / height - 0.5) > 0.1:
        raise ValueError(f"{name}: the picture is {width} x {height} pixels, but its camera's axis meets it at "
                         f"{lens[0, 2]:.0f}, {lens[1, 2]:.0f}: frames must be extracted whole and unscaled")
    joints = row.joints[i].astype(np.float32)
    inside = ((joints >= -0.5) & (joints <= np.array([width, height], np.float32) - 0.5)).all(axis=1)
    state = np.where(inside, VISIBLE, ABSENT).astype(np.uint8)
    try:
        box = geometry.joints_box(joints, state) if row.boxes is None else row.boxes[i]
        box = geometry.square_box(box, size / crop * (ENLARGE if row.boxes is None else 1))
        pixels = crop_image(image, box, size).transpose(2, 0, 1)
    except ValueError as error:
        raise ValueError(f"{name}: {error}; name the view in leave_out") from error
    to_crop = geometry.crop_matrix(box, size)
    moved = np.where(inside[:, None], geometry.transform(to_crop, joints), 0).astype(np.float32)
    return pixels, moved, state, geometry.invert(to_crop)


def _need(name: str, purpose: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{purpose} needs the package {name}: pip install \"posebook[human36m]\", or in a checkout "
                          "pip install \".[human36m]\"") from error


def _progress(items: Sequence[Labels], label: str, show: bool) -> Iterable[Labels]:
    from tqdm import tqdm
    return tqdm(items, desc=label, unit="view", disable=not show)
