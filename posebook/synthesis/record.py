"""One picture and all that is known about it: who, doing what, seen from where, what is in the way.

A record depends on (seed, split, index) alone. Every concern (camera, light, obstacles ...) draws from a random stream
of its own, so that switching one off in the `Recipe` changes no other draw. (What follows from it does change: without
tumbling the posture is another, and so is the camera that looks at it.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from posebook.geometry import project
from posebook.skeleton import H36M17
from posebook.synthesis import body, motion
from posebook.synthesis.lens import develop, encode, encode_parts
from posebook.synthesis.pools import SPLITS, Pools, Studio
from posebook.synthesis.render import Stage, Weather, join, joint_states, render, stage_person
from posebook.synthesis.scene import Camera, Panorama, random_camera
from posebook.synthesis.things import random_thing
from posebook.synthesis.wardrobe import Look, Person, dress, random_look

if TYPE_CHECKING:
    import pyarrow as pa

PER_SUBJECT = 8
"""Pictures of one subject."""
MARGIN = 1.5
"""Side of the crop over the largest extent of the joints."""
FLYING = {"running", "jumping", "climbing", "basketball", "soccer", "punching", "kicking", "gymnastics", "dancing"}
"""Actions in which both feet may leave the ground; in all others the lowest point touches it."""
SHARES = {"walking": 1.2, "climbing": 0.8, "washing": 0.4, "reaching": 0.4, "punching": 0.6, "sword play": 0.8,
          "directing traffic": 0.7, "washing a window": 0.7}
"""How often an action is drawn, where not once."""
HIDDEN = 8
"""Obstacles that hide more joints than this are put elsewhere, or left out."""
CLOSE, NEAR_CAMERA = 500.0, 1200.0
"""A bystander keeps this far from the subject's joints and from the camera, mm over the ground."""
SEEN = 0.15
"""Share of a bystander's surface that the picture must reach."""
MOMENTS = 6
"""Moments that a motion-blurred picture is the mean of."""


@dataclass(frozen=True)
class Recipe:
    """What makes pictures hard: the share of pictures with each difficulty, and how they are written.

    Attributes:
        tumbling: the whole posture turned at random, as in the air or on the ground, under an action name of its own.
        things: a post, board, crate or ball before the person; others: a bystander; cut: the picture's edge cuts
            the person off; blur: the person moves while the shutter is open.
        lens: blur, noise and colour cast of the camera.
        size: pixels a side; quality: of the JPEG.
    """

    tumbling: float = 0.12
    things: float = 0.2
    others: float = 0.15
    cut: float = 0.12
    blur: float = 0.12
    lens: bool = True
    size: int = 128
    quality: int = 65

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("tumbling", "things", "others", "cut", "blur")}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"the share of {name} must lie between 0 and 1, not {share}")
        if not all(isinstance(n, int) for n in (self.size, self.quality)) or (
                self.size < 16 or not 1 <= self.quality <= 95):
            raise ValueError("size must be an integer, at least 16, and quality one from 1 to 95, not "
                             f"{self.size} and {self.quality}")


@dataclass(frozen=True)
class Shot:
    """What one picture shows."""

    clip: int
    frame: int
    background: int


@dataclass(frozen=True)
class Actor:
    """A subject: her look, her dressed body, and what she does in her pictures."""

    look: Look
    person: Person
    shots: tuple[Shot, ...]


@lru_cache(maxsize=3)
def actor(studio: Studio, split: str, subject: int, seed: int) -> Actor:
    """Subject number `subject` of a split; the last few are kept."""
    rng = np.random.default_rng([seed, SPLITS.index(split), subject, 0])
    look = Look.from_json(random_look(rng, studio.wardrobe).to_json())  # as it is stored
    return Actor(look, dress(studio.model, studio.wardrobe, look, H36M17.joints),
                 tuple(plan(studio.pools[split], rng, PER_SUBJECT)))


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


def render_record(studio: Studio, split: str, index: int, seed: int, recipe: Recipe | None = None) -> dict:
    """Make one picture with everything known about it; the subject is `index // PER_SUBJECT`.

    Returns:
        A row of the data set (see `schema`).
    """
    recipe = recipe or Recipe()
    dice: Callable[[str], np.random.Generator] = partial(_dice, seed, SPLITS.index(split), index)
    wanted = {name for name in ("tumbling", "things", "others", "cut", "blur")
              if dice(name).random() < getattr(recipe, name)}
    subject = index // PER_SUBJECT
    who = actor(studio, split, subject, seed)
    shot = who.shots[index % PER_SUBJECT]
    clip, path = studio.pools[split].clips[shot.clip], studio.pools[split].panoramas[shot.background]
    pose = stand(studio, who.person, clip, shot.frame)
    if "tumbling" in wanted:
        pose = _tumble(studio, who.person, pose, dice("tumbling"))
    vertices, joints = embody(studio, who.person, pose)
    camera = _crop_camera(dice("camera"), vertices, joints, recipe.size)
    whole = camera
    if "cut" in wanted:
        camera = _cut(dice("cut"), camera, joints, recipe.size)
    was_cut, camera = camera is not whole, _as_stored(camera)
    weather = _weather(dice("light"), studio.panorama(path))
    alone = stage_person(who.person, vertices, studio.model.bones)
    obstacles: dict[str, Stage | None] = {
        "things": _thing(dice("things"), camera, joints, recipe.size, weather.panorama)
        if "things" in wanted else None,
        "others": _bystander(studio, split, subject, seed, dice("others"), camera, joints, recipe.size)
        if "others" in wanted else None}
    around = [stage for stage in obstacles.values() if stage]
    stage = join([alone, *around])
    moments = [stage]
    if "blur" in wanted and shot.frame + _frame_step(clip) < len(clip):
        moments += [join([alone_then, *around]) for alone_then in
                    _moving(studio, who.person, alone, pose, clip, shot.frame, dice("blur"))]
    light, parts = render(moments, camera, weather, recipe.size, dice("render"))
    effects = {"tumbling": "tumbling" in wanted, "cut": was_cut, "blur": len(moments) > 1,
               **{name: stage is not None for name, stage in obstacles.items()}}
    return {"image": encode(develop(light, dice("lens"), recipe.lens), recipe.quality), "parts": encode_parts(parts),
            **_truth(camera, vertices, joints, recipe.size),
            "state": joint_states(stage, H36M17.joints, studio.model.bones, joints, camera),
            "subject": f"{split}-{seed}-{subject:05d}", "clip": clip.name,
            "action": "tumbling" if "tumbling" in wanted else clip.action, "frame": shot.frame,
            "background": weather.panorama.name, "effects": " ".join(name for name, on in effects.items() if on),
            "look": who.look.to_json(), "pose": pose.turns.ravel(), "root": pose.root,
            "view": _view(camera), "yaw": weather.yaw, "exposure": weather.exposure}


def render_anew(studio: Studio, row: dict, camera: Camera | None = None, background: str | None = None,
                size: int = 128) -> dict:
    """Draw the person of a stored row once more, alone, from this or another camera, before this or another panorama.

    Args:
        row: of the data set (look, pose, root, view, camera, background, yaw, exposure are read).
        camera: of the new picture, in the world where the ground is y = 0; default the row's own.

    Returns:
        image (size, size, 3) uint8 without the lens's flaws, parts (size, size) uint8, joints2d (17, 2) pixels,
        joints3d (17, 3) camera mm, state (17,).

    Raises:
        ValueError: for a damaged look; KeyError: for a background that the assets lack.
    """
    person = dress(studio.model, studio.wardrobe, Look.from_json(row["look"]), H36M17.joints)
    pose = body.Pose(np.asarray(row["pose"], np.int16).reshape(-1, 3), np.asarray(row["root"], np.float32))
    vertices, joints = embody(studio, person, pose)
    camera = camera or stored_camera(row)
    weather = Weather(studio.panorama_named(background or row["background"]), row["yaw"], row["exposure"])
    stage = stage_person(person, vertices, studio.model.bones)
    light, parts = render([stage], camera, weather, size, np.random.default_rng(0))
    joints3d = camera.to_camera(joints)
    return {"image": develop(light, np.random.default_rng(0), imperfect=False), "parts": parts,
            "joints2d": project(joints3d, camera.intrinsics), "joints3d": joints3d,
            "state": joint_states(stage, H36M17.joints, studio.model.bones, joints, camera)}


def stored_camera(row: dict) -> Camera:
    """The camera of a row of the data set, in the world."""
    view = np.asarray(row["view"], float)
    return Camera(np.asarray(row["camera"], float).reshape(3, 3), Rotation.from_rotvec(view[:3]).as_matrix(), view[3:])


def _view(camera: Camera) -> np.ndarray:
    """(6,) float32: rotation vector from the world to the camera, and the camera's centre in mm."""
    return np.r_[Rotation.from_matrix(camera.rotation).as_rotvec(), camera.centre].astype(np.float32)


def _as_stored(camera: Camera) -> Camera:
    """The camera after the rounding that storing it brings."""
    return stored_camera({"view": _view(camera), "camera": camera.intrinsics.astype(np.float32)})


_CONCERNS = ("tumbling", "things", "others", "cut", "blur", "camera", "light", "lens", "render")


def _dice(seed: int, split: int, index: int, concern: str) -> np.random.Generator:
    """The random stream of one concern of one picture. Its first draw decides whether the picture has it at all."""
    return np.random.default_rng([seed, split, index, 1 + _CONCERNS.index(concern)])


def stand(studio: Studio, person: Person, clip: motion.Clip, frame: int) -> body.Pose:
    """The person in a frame of a clip, on the ground y = 0 with the pelvis above the origin.

    The lowest point touches the ground; only in the actions `FLYING` may it be above, by as much as it is above the
    clip's own ground (2nd percentile of its lowest soles), if that is more than 40 mm.
    """
    flying = clip.action in FLYING
    sampled = np.unique(np.r_[np.linspace(0, len(clip) - 1, min(len(clip), 60)).astype(int) if flying else [], frame]
                        ).astype(int)
    rotations = motion.retarget(clip, studio.model.bones, person.heads, person.tails, sampled)
    leg = np.linalg.norm(np.diff(person.joints[_LEG], axis=0), axis=1).sum()
    transforms = body.bone_transforms(rotations, person.heads, studio.model.parents,
                                      clip.root[sampled] * leg / clip.leg)
    here = int(np.searchsorted(sampled, frame))
    soles = body.move_points(person.rest[person.soles], person.sole_bones, transforms)[..., 1].min(1)
    height = _lowest(person, transforms[here]) - np.percentile(soles, 2)
    return _placed(studio, person, rotations[here], height if flying and height >= 40 else 0.0)


def _placed(studio: Studio, person: Person, rotations: np.ndarray, height: float) -> body.Pose:
    """Global rotations (B, 3, 3) as a pose above the origin whose lowest point is at `height`."""
    parents = studio.model.parents
    centred = body.Pose.from_rotations(rotations, parents, np.zeros(3))
    transforms = centred.transforms(person.heads, parents)
    pelvis = body.move_points(person.joints[:1], person.joint_bones[:1], transforms)[0]
    shift = np.array([-pelvis[0], height - _lowest(person, transforms), -pelvis[2]], np.float32)
    return replace(centred, root=shift)


_LEG = [H36M17.index(j) for j in ("left_hip", "left_knee", "left_ankle")]


def _lowest(person: Person, transforms: np.ndarray) -> float:
    """Height of the lowest of the soles and of a sample of the surface, for transforms (B, 3, 4)."""
    soles = body.move_points(person.rest[person.soles], person.sole_bones, transforms)
    skin = body.skin(person.rest[::40], person.weights[::40], transforms)
    return float(min(soles[:, 1].min(), skin[:, 1].min()))


def _tumble(studio: Studio, person: Person, pose: body.Pose, rng: np.random.Generator) -> body.Pose:
    """The posture turned at random; half of the time on the ground, else up to 0.9 m above it."""
    rng.random()
    transforms = pose.transforms(person.heads, studio.model.parents)
    turn = Rotation.random(random_state=rng).as_matrix()
    return _placed(studio, person, turn @ transforms[:, :, :3], max(0.0, rng.uniform(-900, 900)))


def embody(studio: Studio, person: Person, pose: body.Pose) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and joints (17, 3) of a person in a pose, in the world."""
    transforms = pose.transforms(person.heads, studio.model.parents)
    return (body.skin(person.rest, person.weights, transforms),
            body.move_points(person.joints, person.joint_bones, transforms))


def _moving(studio: Studio, person: Person, now: Stage, pose: body.Pose, clip: motion.Clip, frame: int,
            rng: np.random.Generator) -> list[Stage]:
    """The person at `MOMENTS` moments of 1/60 to 1/25 s. Between two frames every vertex moves straight on."""
    rng.random()
    step = _frame_step(clip)
    turns = motion.retarget(clip, studio.model.bones, person.heads, person.tails, np.array([frame, frame + step]))
    leg = np.linalg.norm(np.diff(person.joints[_LEG], axis=0), axis=1).sum() / clip.leg
    transforms = pose.transforms(person.heads, studio.model.parents)
    turned = transforms[0, :, :3] @ turns[0, 0].T  # tumbling turns the whole motion
    root = pose.root + turned @ (clip.root[frame + step] - clip.root[frame]) * leg
    later = body.skin(person.rest, person.weights, body.bone_transforms(turned @ turns[1], person.heads,
                                                                        studio.model.parents, root))
    open_for = rng.uniform(1 / 60, 1 / 25) * clip.fps / step
    return [replace(now, vertices=now.vertices + share * open_for * (later - now.vertices))
            for share in np.linspace(0, 1, MOMENTS)]


def _frame_step(clip: motion.Clip) -> int:
    """Frames in a thirtieth of a second."""
    return max(1, round(clip.fps / 30))


def _crop_camera(rng: np.random.Generator, vertices: np.ndarray, joints: np.ndarray, size: int) -> Camera:
    """A random camera, cropped to a square around the joints that holds the whole person."""
    low, high = joints.min(0), joints.max(0)
    camera = random_camera(rng, (low + high) / 2, float(np.linalg.norm(high - low)))
    seen = project(camera.to_camera(joints), camera.intrinsics)
    outline = project(camera.to_camera(vertices), camera.intrinsics)
    middle = (seen.min(0) + seen.max(0)) / 2
    side = max(MARGIN * np.ptp(seen, axis=0).max(), 2.06 * abs(outline - middle).max())
    return camera.crop(middle - side / 2, side, size)


def inside(pixels: np.ndarray, size: int) -> np.ndarray:
    """(...) bool: which points (..., 2) lie in a square picture."""
    return np.all((pixels >= -0.5) & (pixels <= size - 0.5), axis=-1)


def _cut(rng: np.random.Generator, camera: Camera, joints: np.ndarray, size: int) -> Camera:
    """A closer square that leaves 8 to 15 of the joints in the picture; the camera itself if none is found."""
    rng.random()
    seen = project(camera.to_camera(joints), camera.intrinsics)
    for _ in range(40):
        side = size * rng.uniform(0.4, 0.8)
        corner = seen[rng.integers(len(seen))] + rng.normal(0, 0.15, 2) * size - side / 2
        closer = camera.crop(corner, side, size)
        if 8 <= inside(project(camera.to_camera(joints), closer.intrinsics), size).sum() <= 15:
            return closer
    return camera


def _weather(rng: np.random.Generator, panorama: Panorama) -> Weather:
    """The panorama turned anyhow, and exposed so that a mid-grey, upright surface comes out neither black nor white."""
    yaw = float(np.float32(rng.uniform(0, 2 * np.pi)))
    light = panorama.light
    around = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1]])
    mean = light.ambient(around).mean() + 0.35 * light.lamp.mean()
    wanted = np.clip(mean / np.pi, 0.35, 0.9)
    return Weather(panorama, yaw, float(np.float32(wanted / (mean / np.pi) * rng.uniform(0.8, 1.25))))


def _hides(stage: Stage, camera: Camera, joints: np.ndarray) -> int:
    """How many joints have the stage between them and the camera."""
    rays = joints - camera.centre
    length = np.linalg.norm(rays, axis=1)
    face, distance, _ = stage.surface.first_hit(np.broadcast_to(camera.centre, rays.shape), rays / length[:, None])
    return int(((face >= 0) & (distance < length)).sum())


def _thing(rng: np.random.Generator, camera: Camera, joints: np.ndarray, size: int,
           panorama: Panorama) -> Stage | None:
    """A thing that hides 1 to `HIDDEN` of the joints in the picture, None if no try gives one."""
    rng.random()
    extent = float(np.linalg.norm(np.ptp(joints, axis=0)))
    there = joints[inside(project(camera.to_camera(joints), camera.intrinsics), size)]
    for _ in range(6):
        thing = random_thing(rng, camera, there[rng.integers(len(there))], extent, panorama)
        if 1 <= _hides(thing, camera, there) <= HIDDEN:
            return thing
    return None


def _bystander(studio: Studio, split: str, subject: int, seed: int, rng: np.random.Generator, camera: Camera,
               joints: np.ndarray, size: int) -> Stage | None:
    """The neighbouring subject of the same split, beside, behind or before this one, and to be seen in the picture;
    None if no place is found."""
    rng.random()
    person = actor(studio, split, subject - 1 if subject else 1, seed).person
    clips = studio.pools[split].clips
    clip = clips[rng.integers(len(clips))]
    vertices, _ = embody(studio, person, stand(studio, person, clip, int(rng.choice(clip.sound))))
    vertices = vertices @ Rotation.from_euler("y", rng.uniform(0, 2 * np.pi)).as_matrix().T
    centre = joints[0] * (1, 0, 1)
    forward = (centre - camera.centre) * (1, 0, 1)
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, (0, 1, 0))
    for _ in range(20):
        spot = rng.uniform(-1000, 1000) * right + rng.uniform(-1500, 2500) * forward
        place = centre + spot
        apart = np.linalg.norm((joints - place) * (1, 0, 1), axis=1).min()
        if apart < CLOSE or np.linalg.norm((place - camera.centre) * (1, 0, 1)) < NEAR_CAMERA:
            continue
        moved = vertices + place
        seen = inside(project(camera.to_camera(moved), camera.intrinsics), size).mean() if (
            camera.to_camera(moved)[:, 2].min() > 0) else 0
        if seen < SEEN:
            continue
        stage = stage_person(person, moved, studio.model.bones, subject=False)
        if _hides(stage, camera, joints) <= HIDDEN:
            return stage
    return None


def _truth(camera: Camera, vertices: np.ndarray, joints: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Where joints and person are. The box is the outline of the whole person, hidden or not, within the picture."""
    joints3d = _rounded(camera.to_camera(joints), 64)
    outline = project(camera.to_camera(vertices), camera.intrinsics) + 0.5  # edges of pixels, not centres
    box = np.clip(np.r_[outline.min(0), outline.max(0)], 0, size).astype(np.float32)
    return {"joints2d": _rounded(project(joints3d.astype(np.float64), camera.intrinsics), 512).ravel(),
            "joints3d": joints3d.ravel(), "camera": camera.intrinsics.astype(np.float32).ravel(),
            "box": _rounded(box, 8)}


def _rounded(values: np.ndarray, steps: int) -> np.ndarray:
    """To 1/64 mm, 1/512 or 1/8 pixel: what lies below is noise that files cannot compress."""
    return (np.round(values * steps) / steps).astype(np.float32)


def schema() -> pa.Schema:
    """The Arrow schema of a `people` shard."""
    import pyarrow as pa

    def floats(count: int) -> pa.DataType:
        return pa.list_(pa.float32(), count)
    return pa.schema([
        ("image", pa.binary()), ("parts", pa.binary()), ("joints2d", floats(34)), ("joints3d", floats(51)),
        ("state", pa.list_(pa.uint8(), 17)), ("camera", floats(9)), ("box", floats(4)), ("subject", pa.string()),
        ("clip", pa.string()), ("action", pa.string()), ("frame", pa.int32()), ("background", pa.string()),
        ("effects", pa.string()), ("look", pa.string()), ("pose", pa.list_(pa.int16(), 93)), ("root", floats(3)),
        ("view", floats(6)), ("yaw", pa.float32()), ("exposure", pa.float32())])
