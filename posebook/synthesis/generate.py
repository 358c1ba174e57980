"""From ingredients to the `people` data set: who, doing what, seen from where, and the files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from posebook.files import whole_file
from posebook.geometry import project
from posebook.skeleton import H36M17
from posebook.synthesis import body, motion
from posebook.synthesis.assets import Assets, find_assets
from posebook.synthesis.render import Surface, Weather, joint_states, render
from posebook.synthesis.scene import Camera, Panorama, random_camera, read_panorama
from posebook.synthesis.wardrobe import Look, Person, Wardrobe, dress, random_look

SPLITS = ("train", "validation", "test")
PER_SUBJECT = 8
"""Pictures of one subject."""
MARGIN = 1.5
"""Side of the crop over the largest extent of the joints."""
FLYING = {"running", "jumping", "climbing", "basketball", "soccer", "punching"}
"""Actions in which both feet may leave the ground; in all others the lowest sole touches it."""
SHARES = {"walking": 1.2, "climbing": 0.8, "washing": 0.4, "reaching": 0.4, "punching": 0.6, "sword play": 0.8,
          "directing traffic": 0.7, "washing a window": 0.7}
"""How often an action is drawn, where not once."""

# What CMU's subjects 01-03 do (mocap.cs.cmu.edu), by trial; climbing is on playground equipment that is not shown.
_AMC_ACTIONS = {"01_01": "jumping", "01_05": "jumping", "02_01": "walking", "02_02": "walking", "02_03": "running",
                "02_04": "jumping", "02_05": "punching", "02_06": "reaching", "02_07": "sword play",
                "02_08": "sword play", "02_09": "sword play", "02_10": "washing", "03_01": "walking",
                "03_02": "walking", "03_03": "jumping", "03_04": "jumping"}
_EXPMAP_ACTIONS = {"basketball_signal": "signals", "directing_traffic": "directing traffic",
                   "washwindow": "washing a window"}
# Pictures of one place, which therefore share a split.
_PLACES = {"bl_studio": "studio", "pmndrs_studio": "studio", "bl_sunrise": "meadow", "pmndrs_sunrise": "meadow",
           "bl_sunset": "venice", "pmndrs_sunset": "venice", "pmndrs_venice": "venice"}


@dataclass(frozen=True)
class Shot:
    """What one picture shows."""

    clip: int
    frame: int
    background: int


@dataclass(frozen=True)
class Pools:
    """What a split may draw from: clips and panoramas, none shared with another split."""

    clips: tuple[motion.Clip, ...]
    panoramas: tuple[Path, ...]


def read_clips(assets: Assets) -> list[motion.Clip]:
    """All readable clips, duplicates left out (the three sources overlap)."""
    clips: list[motion.Clip] = []
    for folder in assets.motion:
        if folder.name == "cmu_asf_amc":
            for skeleton in sorted(folder.glob("*/*.asf")):
                bones = motion.read_asf(skeleton)
                for path in sorted(skeleton.parent.glob("*.amc")):
                    action = _AMC_ACTIONS.get(path.stem, "climbing")
                    clips.append(motion.read_amc(path, bones, f"amc/{path.stem}", action))
        elif folder.name == "cmu_expmap":
            for path in sorted(folder.glob("*/*/*.txt")):
                name = f"expmap/{path.parent.parent.name}/{path.stem}"
                action = _EXPMAP_ACTIONS.get(path.parent.name, path.parent.name)
                clips.append(motion.read_expmap(path, name, action))
        else:
            clips += [motion.read_bvh(path, f"bvh/{path.stem}", "walking") for path in sorted(folder.glob("*.bvh"))]
    known: list[motion.Clip] = []
    for clip in clips:
        if len(clip.sound) and not any(_same_recording(clip, other) for other in known):
            known.append(clip)
    return known


def _same_recording(a: motion.Clip, b: motion.Clip) -> bool:
    """Whether one clip is (part of) the other, at whatever frame rate: all its poses lie on the other's path.

    Between copies the gap is below 5 mm; between different recordings of CMU's it was never below 26 mm.
    """
    return min(_gap(a, b), _gap(b, a)) < 12


def _gap(a: motion.Clip, b: motion.Clip) -> float:
    """Median distance (mm) of poses from the middle of `a` to the path of `b`, which is straight between frames."""
    middle = _path(a)[len(a) // 4:max(3 * len(a) // 4, len(a) // 4 + 1)]
    start, step = _path(b)[:-1], np.diff(_path(b), axis=0)
    gaps = []
    for pose in middle[::max(1, len(middle) // 12)]:
        along = np.clip(((pose - start) * step).sum(1) / np.maximum((step ** 2).sum(1), 1e-9), 0, 1)
        gaps.append(np.linalg.norm(pose - start - along[:, None] * step, axis=1).min())
        if len(gaps) == 3 and min(gaps) > 100:  # most pairs are nowhere near
            break
    return float(np.median(gaps))


@lru_cache(maxsize=256)
def _path(clip: motion.Clip) -> np.ndarray:
    """(T, 18) a clip as a curve in mm: the pelvis, and points carried by legs and chest."""
    lever = np.array([30.0, -300, 60])
    carried = [clip.rotations[bone] @ lever for bone in ("lfemur", "rfemur", "ltibia", "rtibia", "thorax")]
    return np.concatenate([clip.root, *carried], axis=1)


def split_pools(clips: list[motion.Clip], panoramas: list[Path]) -> dict[str, Pools]:
    """Deal clips (action by action) and panoramas (place by place) to the splits, the same way every time.

    An action with one clip goes to train; with two, to train and test; with three or more, to all three.
    """
    pools: dict[str, list[motion.Clip]] = {split: [] for split in SPLITS}
    for action in sorted({clip.action for clip in clips}):
        own = sorted((c for c in clips if c.action == action), key=lambda c: _rank(c.name))
        held = max(1, len(own) // 6) if len(own) > 1 else 0
        test, validation = held, held if len(own) > 2 else 0
        pools["test"] += own[:test]
        pools["validation"] += own[test:test + validation]
        pools["train"] += own[test + validation:]
    places: dict[str, list[Path]] = {}
    for path in sorted(panoramas):
        places.setdefault(_PLACES.get(path.stem, path.stem), []).append(path)
    order = sorted(places)
    shares = {"test": order[1::5], "validation": order[3::5]}
    shares["train"] = [place for place in order if place not in shares["test"] + shares["validation"]]
    found = {split: Pools(tuple(pools[split]), tuple(p for place in shares[split] for p in places[place]))
             for split in SPLITS}
    for split, pool in found.items():
        if not pool.clips or not pool.panoramas:
            raise ValueError(f"too few clips or panoramas to give {split} its own; add some below motion/ and "
                             "environments/")
    return found


def _rank(name: str) -> str:
    """A fixed shuffle: order by a hash of the name."""
    return hashlib.sha256(name.encode()).hexdigest()


class Studio:
    """Everything read once: body model, wardrobe, the pools of every split, panoramas as they are needed."""

    def __init__(self, assets: Assets) -> None:
        self.model = body.BodyModel(assets.makehuman)
        self.wardrobe = Wardrobe(assets.makehuman)
        self.pools = split_pools(read_clips(assets), list(assets.environments.glob("*.jpg")))
        self._panoramas: dict[Path, Panorama] = {}

    def panorama(self, path: Path) -> Panorama:
        if path not in self._panoramas:
            self._panoramas[path] = read_panorama(path)
        return self._panoramas[path]


@lru_cache(maxsize=1)
def open_studio(assets: str) -> Studio:
    """The studio for an assets folder (see `find_assets`); the last one is kept."""
    return Studio(find_assets(assets))


def plan(pool: Pools, rng: np.random.Generator, count: int) -> list[Shot]:
    """What a subject does: for each picture an action, a clip of it, a frame at least half a second from her other
    frames of that clip where the clip is long enough, and a background."""
    actions = sorted({clip.action for clip in pool.clips})
    weights = np.array([SHARES.get(action, 1.0) for action in actions])
    shots: list[Shot] = []
    for _ in range(count):
        action = rng.choice(actions, p=weights / weights.sum())
        clip = int(rng.choice([i for i, c in enumerate(pool.clips) if c.action == action]))
        taken = np.array([s.frame for s in shots if s.clip == clip])
        tries = rng.choice(pool.clips[clip].sound, size=40)
        far = [f for f in tries if not len(taken) or abs(taken - f).min() >= pool.clips[clip].fps / 2]
        shots.append(Shot(clip, int((far or tries)[0]), int(rng.integers(len(pool.panoramas)))))
    return shots


def render_record(studio: Studio, split: str, index: int, seed: int, size: int = 128, quality: int = 75) -> dict:
    """Make one picture with everything known about it.

    The subject is `index // PER_SUBJECT`; all depends on (seed, split, index) alone.

    Returns:
        A row of the data set (see `schema`).
    """
    subject = index // PER_SUBJECT
    person, look, shots = _subject(studio, split, subject, seed)
    shot = shots[index % PER_SUBJECT]
    clip = studio.pools[split].clips[shot.clip]
    rng = np.random.default_rng([seed, SPLITS.index(split), index, 1])
    transforms = _pose(studio.model, person, clip, shot.frame)
    vertices = body.skin(person.rest, person.weights, transforms)
    joints = body.move_points(person.joints, person.joint_bones, transforms)
    camera = _crop_camera(rng, vertices, joints, size)
    path = studio.pools[split].panoramas[shot.background]
    panorama = studio.panorama(path)
    yaw = rng.uniform(0, 2 * np.pi)
    weather = Weather(panorama, yaw, _exposure(rng, panorama))
    surface = Surface(vertices, person.faces)
    image, covered = render(person, vertices, surface, camera, weather, size, rng)
    state = joint_states(person, H36M17.joints, studio.model.bones, joints, surface, camera)
    intrinsics = camera.intrinsics.astype(np.float32)
    joints3d = _rounded(camera.to_camera(joints), 64)
    joints2d = _rounded(project(joints3d.astype(np.float64), intrinsics.astype(np.float64)), 512)
    rows, columns = np.nonzero(covered >= 0.5)
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
    return {"image": encode(image, quality), "joints2d": joints2d.ravel(), "joints3d": joints3d.ravel(),
            "state": state, "camera": intrinsics.ravel(), "box": box,
            "subject": f"{split}-{seed}-{subject:05d}", "clip": clip.name, "action": clip.action,
            "frame": shot.frame, "background": panorama.name}


def _rounded(values: np.ndarray, steps: int) -> np.ndarray:
    """To 1/64 mm or 1/512 pixel: what lies below is noise that files cannot compress."""
    return (np.round(values * steps) / steps).astype(np.float32)


@lru_cache(maxsize=2)
def _subject(studio: Studio, split: str, subject: int, seed: int) -> tuple[Person, Look, list[Shot]]:
    rng = np.random.default_rng([seed, SPLITS.index(split), subject, 0])
    look = random_look(rng, studio.wardrobe)
    return (dress(studio.model, studio.wardrobe, look, H36M17.joints), look,
            plan(studio.pools[split], rng, PER_SUBJECT))


def _pose(model: body.BodyModel, person: Person, clip: motion.Clip, frame: int) -> np.ndarray:
    """Transforms (31, 3, 4) that put the person into a frame, standing on y = 0 with the pelvis above the origin.

    The ground is where the soles are lowest over the clip (2nd percentile); a sole that comes within 40 mm of it,
    or any lowest sole of an action that keeps a foot down, is put exactly on it.
    """
    sampled = np.unique(np.r_[np.linspace(0, len(clip) - 1, min(len(clip), 60)).astype(int), frame])
    rotations = motion.retarget(clip, model.bones, person.heads, person.tails, sampled)
    leg = np.linalg.norm(np.diff(person.joints[_LEG], axis=0), axis=1).sum()
    transforms = body.bone_transforms(rotations, person.heads, model.parents, clip.root[sampled] * leg / clip.leg)
    lowest = body.move_points(person.rest[person.soles], person.sole_bones, transforms)[..., 1].min(1)
    here = int(np.searchsorted(sampled, frame))
    height = lowest[here] - np.percentile(lowest, 2)
    if clip.action not in FLYING or height < 40:
        height = 0.0
    chosen = transforms[here].copy()
    pelvis = body.move_points(person.joints[:1], person.joint_bones[:1], chosen)[0]
    chosen[:, :, 3] -= (pelvis[0], lowest[here] - height, pelvis[2])
    return chosen


_LEG = [H36M17.index(j) for j in ("left_hip", "left_knee", "left_ankle")]


def _crop_camera(rng: np.random.Generator, vertices: np.ndarray, joints: np.ndarray, size: int) -> Camera:
    """A random camera, cropped to a square around the joints that holds the whole person."""
    low, high = joints.min(0), joints.max(0)
    camera = random_camera(rng, (low + high) / 2, float(np.linalg.norm(high - low)))
    seen = project(camera.to_camera(joints), camera.intrinsics)
    outline = project(camera.to_camera(vertices), camera.intrinsics)
    middle = (seen.min(0) + seen.max(0)) / 2
    side = max(MARGIN * np.ptp(seen, axis=0).max(), 2.06 * abs(outline - middle).max())
    return camera.crop(middle - side / 2, side, size)


def _exposure(rng: np.random.Generator, panorama: Panorama) -> float:
    """Scale of the light so that a mid-grey, upright surface comes out neither black nor white."""
    light = panorama.light
    around = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1]])
    mean = light.ambient(around).mean() + 0.35 * light.lamp.mean()
    wanted = np.clip(mean / np.pi, 0.35, 0.9)
    return float(wanted / (mean / np.pi) * rng.uniform(0.8, 1.25))


def encode(image: np.ndarray, quality: int) -> bytes:
    """(H, W, 3) uint8 to JPEG with halved colour resolution."""
    from PIL import Image
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True, subsampling=2)
    return buffer.getvalue()


def schema():
    """The Arrow schema of a `people` file."""
    import pyarrow as pa
    return pa.schema([
        ("image", pa.binary()), ("joints2d", pa.list_(pa.float32(), 34)), ("joints3d", pa.list_(pa.float32(), 51)),
        ("state", pa.list_(pa.uint8(), 17)), ("camera", pa.list_(pa.float32(), 9)), ("box", pa.list_(pa.float32(), 4)),
        ("subject", pa.string()), ("clip", pa.string()), ("action", pa.string()), ("frame", pa.int32()),
        ("background", pa.string())])


def synthesize(assets: str | Path, out: str | Path, counts: dict[str, int], seed: int, size: int = 128,
               workers: int = 1, quality: int = 75) -> dict[str, Path]:
    """Make a data set: one Parquet file a split, and SHA256SUMS.

    The same arguments give the same bytes, whatever the number of workers.

    Args:
        assets: folder with the ingredients (see `find_assets`); out: folder for the files, made if needed.
        counts: pictures for each of "train", "validation", "test"; a split may be left out.
        seed: any non-negative number; size: pixels a side; workers: processes; quality: of the JPEGs.

    Returns:
        Split -> its file.

    Raises:
        FileNotFoundError: if an ingredient is missing. RuntimeError: if the ray caster is not installed.
        ValueError: on an unknown split, or a number that is not positive.
    """
    unknown = set(counts) - set(SPLITS)
    if unknown:
        raise ValueError(f"unknown split {', '.join(sorted(unknown))}; there are {', '.join(SPLITS)}")
    if not counts or min(*counts.values(), size, workers, 1) < 1 or seed < 0 or not 1 <= quality <= 95:
        raise ValueError("counts, size and workers must be at least 1, seed at least 0, quality 1 to 95")
    out = Path(out)
    find_assets(assets)
    _check_ray_caster()
    out.mkdir(parents=True, exist_ok=True)
    tables = {split: _table(_rows(str(assets), split, counts[split], seed, size, workers, quality))
              for split in SPLITS if split in counts}
    assert_no_leak(tables)
    files = {split: out / f"{split}.parquet" for split in tables}
    for split, table in tables.items():
        _write_table(table, files[split])
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files.values())
    with whole_file(out / "SHA256SUMS") as part:
        part.write_text(sums, encoding="utf-8")
    return files


def _check_ray_caster() -> None:
    Surface(np.eye(3), np.array([[0, 1, 2]]))


def _rows(assets: str, split: str, count: int, seed: int, size: int, workers: int, quality: int) -> Iterator[dict]:
    jobs = [(assets, split, first, min(first + PER_SUBJECT, count), seed, size, quality)
            for first in range(0, count, PER_SUBJECT)]
    if workers == 1:
        for job in jobs:
            yield from _work(job)
        return
    from multiprocessing import get_context
    with get_context("spawn").Pool(workers) as pool:
        for rows in pool.imap(_work, jobs):
            yield from rows


def _work(job: tuple) -> list[dict]:
    assets, split, first, last, seed, size, quality = job
    studio = open_studio(assets)
    return [render_record(studio, split, index, seed, size, quality) for index in range(first, last)]


def _table(rows: Iterator[dict]):
    import pyarrow as pa
    return pa.Table.from_pylist(list(rows), schema=schema())


def assert_no_leak(tables: dict) -> None:
    """Raise ValueError if two splits share a subject, a clip or a background."""
    names = list(tables)
    for column in ("subject", "clip", "background"):
        values = {name: set(tables[name][column].to_pylist()) for name in names}
        for i, a in enumerate(names):
            for b in names[i + 1:]:
                if shared := values[a] & values[b]:
                    raise ValueError(f"{a} and {b} share the {column} {sorted(shared)[0]}; keep the splits apart")


def _write_table(table, path: Path) -> None:
    import pyarrow.parquet as pq
    plain = ["joints2d", "joints3d", "camera", "box"]
    floats = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in plain}
    with whole_file(path) as part:
        pq.write_table(table, part, compression="zstd", compression_level=19, column_encoding=floats,
                       use_dictionary=["subject", "clip", "action", "background"], write_statistics=False,
                       row_group_size=4096)
