"""What a split may draw from: clips of motion and panoramas, dealt so that no two splits share one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from posebook.synthesis import motion
from posebook.synthesis.assets import Assets, find_assets
from posebook.synthesis.body import BodyModel
from posebook.synthesis.scene import Panorama, read_panorama
from posebook.synthesis.wardrobe import Wardrobe

SPLITS = ("train", "validation", "test")

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
class Pools:
    """What a split may draw from: clips and panoramas, none shared with another split."""

    clips: tuple[motion.Clip, ...]
    panoramas: tuple[Path, ...]


def read_clips(assets: Assets) -> list[motion.Clip]:
    """All clips of two or more frames, duplicates left out (the sources overlap).

    Raises:
        ValueError: for a file of no known format, or a damaged one, naming it.
    """
    known: list[motion.Clip] = []
    for folder in assets.motion:
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and not _aside(p)):
            named = _name_and_action(folder, path)
            clip = motion.read_clip(path, *named) if named else None
            if clip and len(clip) > 1 and len(clip.sound) and not any(_same_recording(clip, other) for other in known):
                known.append(clip)
    return known


def _aside(path: Path) -> bool:
    """Whether a file is no motion but goes with one: a skeleton, a licence, a note."""
    return path.suffix == ".asf" or path.stem.upper() in ("README", "LICENSE", "LICENCE") or path.name[0] == "."


def _name_and_action(folder: Path, path: Path) -> tuple[str, str] | None:
    """The clip's name in the data set and what it shows; None for a clip that is left out."""
    if folder.name == "cmu_asf_amc":
        usual = "climbing" if path.stem.startswith("01_") else path.parent.name
        return f"amc/{path.stem}", _AMC_ACTIONS.get(path.stem, usual)
    if folder.name == "cmu_expmap":
        action = path.parent.name
        return f"expmap/{path.parent.parent.name}/{path.stem}", _EXPMAP_ACTIONS.get(action, action)
    if folder.name == "humanoid3d":
        name = path.stem.removeprefix("humanoid3d_")
        known = motion.HUMANOID3D_ACTIONS.get(name)
        return (f"humanoid3d/{name}", known) if known else None
    # CMU's walks lie in the folder itself, what a reader adds in a folder named after the action
    return f"bvh/{path.stem}", "walking" if path.parent == folder else path.parent.name


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


def fingerprint(pools: dict[str, Pools]) -> str:
    """Tells apart what splits may draw from: a checksum of the names of clips and panoramas, and the clips' lengths."""
    text = repr([(split, [(clip.name, len(clip)) for clip in pool.clips], [path.name for path in pool.panoramas])
                 for split, pool in pools.items()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _rank(name: str) -> str:
    """A fixed shuffle: order by a hash of the name."""
    return hashlib.sha256(name.encode()).hexdigest()


class Studio:
    """Everything read once: body model, wardrobe, the pools of every split, panoramas as they are needed."""

    def __init__(self, assets: Assets) -> None:
        self.model = BodyModel(assets.makehuman)
        self.wardrobe = Wardrobe(assets.makehuman)
        self.pools = split_pools(read_clips(assets), list(assets.environments.glob("*.jpg")))
        self._panoramas: dict[Path, Panorama] = {}

    def panorama(self, path: Path) -> Panorama:
        """Read once, then kept."""
        if path not in self._panoramas:
            self._panoramas[path] = read_panorama(path)
        return self._panoramas[path]

    def panorama_named(self, name: str) -> Panorama:
        """Raises KeyError for a name that no pool holds."""
        paths = {path.stem: path for pool in self.pools.values() for path in pool.panoramas}
        if name not in paths:
            raise KeyError(f"the assets hold no panorama {name!r}")
        return self.panorama(paths[name])


@lru_cache(maxsize=1)
def open_studio(assets: str) -> Studio:
    """The studio for an assets folder (see `find_assets`); the last one is kept."""
    return Studio(find_assets(assets))
