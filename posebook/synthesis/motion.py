"""Motion capture: CMU's ASF/AMC, BVH and exponential maps, DeepMimic's humanoid3d, and how it moves the `cmu_mb` rig.

CMU's three formats describe one skeleton; the humanoid is brought to its form. Every clip becomes global rotations per
bone of the capture, in its world: y up, x to the person's left and z forward when nobody turns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

UNIT = 25.4 / 0.45
"""Millimetres in one unit of CMU's skeletons, whose files say `length 0.45` (of inches)."""

_SIDES = {"LeftShoulder": "clavicle", "LeftArm": "humerus", "LeftForeArm": "radius", "LeftHand": "hand",
          "LeftFingerBase": "hand", "LeftHandFinger1": "fingers", "LThumb": "hand", "LHipJoint": "hipjoint",
          "LeftUpLeg": "femur", "LeftLeg": "tibia", "LeftFoot": "foot", "LeftToeBase": "toes"}
BONE_OF = {"Hips": "root", "LowerBack": "lowerback", "Spine": "upperback", "Spine1": "thorax", "Neck": "lowerneck",
           "Neck1": "upperneck", "Head": "head", **{b: "l" + name for b, name in _SIDES.items()},
           **{("R" + b[1:] if b[1].isupper() else b.replace("Left", "Right")): "r" + name
              for b, name in _SIDES.items()}}
"""Bone of the rig -> bone of the capture whose rotation it takes. The thumb stays with the hand."""

_BVH_NAMES = {"Hips": "root", "Chest": "upperback", "Chest2": "thorax", "lowerback": "lowerback",
              "lowerneck": "lowerneck", "Neck": "upperneck", "Head": "head", "LFingers": "lfingers",
              "RFingers": "rfingers", "LThumb": "lthumb", "RThumb": "rthumb", "lhand": "lhand", "rhand": "rhand",
              "LHipJoint": "lhipjoint", "RHipJoint": "rhipjoint",
              **{full + part: side + name for full, side in (("Left", "l"), ("Right", "r"))
                 for part, name in {"Hip": "femur", "Knee": "tibia", "Ankle": "foot", "Toe": "toes",
                                    "Collar": "clavicle", "Shoulder": "humerus", "Elbow": "radius",
                                    "Wrist": "wrist"}.items()}}

# Order of the 38 joints in an exponential-map row: CMU's BVH hierarchy with its end sites (None).
_LEG = ("{0}hipjoint", "{0}femur", "{0}tibia", "{0}foot", "{0}toes", None)
_ARM = ("{0}clavicle", "{0}humerus", "{0}radius", "{0}wrist", "{0}hand", "{0}fingers", None, "{0}thumb", None)
EXPMAP_JOINTS: tuple[str | None, ...] = (
    "root", *(j and j.format("l") for j in _LEG), *(j and j.format("r") for j in _LEG), "lowerback", "upperback",
    "thorax", "lowerneck", "upperneck", "head", None, *(j and j.format("l") for j in _ARM),
    *(j and j.format("r") for j in _ARM))
_EXPMAP_PARENTS = (-1, 0, 1, 2, 3, 4, 5, 0, 7, 8, 9, 10, 11, 0, 13, 14, 15, 16, 17, 18, 15, 20, 21, 22, 23, 24, 25,
                   23, 27, 15, 29, 30, 31, 32, 33, 34, 32, 36)
# Rest directions of that skeleton: legs splayed by 20 degrees, arms straight out.
_TWENTY = np.sin(np.deg2rad(20)), np.cos(np.deg2rad(20))
_EXPMAP_DIRECTIONS = {
    f"{side}{name}": direction
    for side, sign in (("l", 1), ("r", -1))
    for name, direction in {
        "femur": (sign * _TWENTY[0], -_TWENTY[1], 0), "tibia": (sign * _TWENTY[0], -_TWENTY[1], 0),
        "foot": (sign * 0.09, -0.25, 0.96), "toes": (0, 0, 1), "humerus": (sign, 0, 0), "radius": (sign, 0, 0),
        "hand": (sign, 0, 0), "fingers": (sign, 0, 0)}.items()}
_HUMANOID_DIRECTIONS = {
    f"{side}{name}": direction
    for side, sign in (("l", 1), ("r", -1))
    for name, direction in {
        "femur": (0, -1, 0), "tibia": (0, -1, 0), "foot": (0, 0, 1), "toes": (0, 0, 1), "humerus": (sign, 0, 0),
        "radius": (sign, 0, 0), "hand": (sign, 0, 0), "fingers": (sign, 0, 0)}.items()}

# Where a humanoid3d row holds what: first column of each joint. Four numbers are a quaternion w x y z, one is a hinge.
_HUMANOID_COLUMNS = {"root": 4, "chest": 8, "neck": 12, "right_hip": 16, "right_knee": 20, "right_ankle": 21,
                     "right_shoulder": 25, "right_elbow": 29, "left_hip": 30, "left_knee": 34, "left_ankle": 35,
                     "left_shoulder": 39, "left_elbow": 43}
_HUMANOID_WIDTH = 44
_HUMANOID_LEG = 1000 * 0.25 * (1.686184 + 1.63948)  # mm: hip to knee and knee to ankle in humanoid.urdf, used at 1/4
# The humanoid faces +x with its right on +z: columns are where its axes lie in the world of the other captures.
_HUMANOID_WORLD = np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]])

HUMANOID3D_ACTIONS = {
    "backflip": "gymnastics", "cartwheel": "gymnastics", "crawl": "crawling", "dance_a": "dancing",
    "dance_b": "dancing", "getup_faceup": "getting up", "kick": "kicking", "punch": "punching", "roll": "gymnastics",
    "spin": "gymnastics", "spinkick": "kicking"}
"""DeepMimic's clip, whose file is humanoid3d_<clip>.txt, -> what is done; the spin is one through the air.

getup_facedown is left out: its hands, which have no wrists to bend, reach up to 190 mm into the ground. walk, run and
jump are left out because CMU's captures, from which they may come, have these actions."""

LYING_ACTIONS = frozenset({"climbing", "jumping", "crawling", "getting up", "gymnastics", "kicking"})
"""Actions in which the pelvis may well lie down or turn upside down; in all others such a frame is a slip."""


@dataclass(frozen=True, eq=False)
class Clip:
    """One recording.

    Attributes:
        name: where it comes from, e.g. "amc/02_05"; action: what is done; fps: frames a second.
        root: (T, 3) position of the pelvis, mm, y up.
        rotations: capture's bone -> (T, 3, 3) global rotation, columns map rest to posed.
        directions: capture's bone -> (3,) its direction in the capture's rest pose.
        leg: length of thigh and shank of the capture's skeleton, mm.
    """

    name: str
    action: str
    fps: float
    root: np.ndarray
    rotations: dict[str, np.ndarray]
    directions: dict[str, np.ndarray]
    leg: float

    def __len__(self) -> int:
        return len(self.root)

    @cached_property
    def sound(self) -> np.ndarray:
        """Frames (K,) that can be used. Captures slip now and then: the pelvis spins faster than 750 degrees a
        second, or lies down although the action is done standing. Such moments are left out with 0.75 s around them."""
        pelvis = self.rotations["root"]
        step = max(1, round(self.fps / 30))
        turned = np.einsum("tij,tij->t", pelvis[:-step], pelvis[step:])
        bad = np.zeros(len(self), bool)
        bad[step:] = np.rad2deg(np.arccos(np.clip((turned - 1) / 2, -1, 1))) * self.fps / step > 750
        if self.action not in LYING_ACTIONS:
            bad |= pelvis[:, 1, 1] < np.cos(np.deg2rad(45))
        reach = round(0.75 * self.fps)
        near = np.convolve(bad, np.ones(2 * reach + 1), "full")[reach:reach + len(bad)] > 0
        return np.flatnonzero(~near)


def read_asf(path: Path) -> dict[str, dict]:
    """Bones of an Acclaim skeleton: name -> direction (3,), length (units), axis (3,) degrees, dof, parent."""
    bones: dict[str, dict] = {"root": {"parent": None, "dof": ["rx", "ry", "rz"], "axis": np.zeros(3)}}
    section = ""
    bone: dict = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0].startswith(":"):
            section = words[0]
        elif section == ":bonedata":
            if words[0] == "begin":
                bone = {"dof": []}
            elif words[0] == "end":
                bones[bone["name"]] = bone
            elif words[0] == "name":
                bone["name"] = words[1]
            elif words[0] == "direction":
                bone["direction"] = np.array(words[1:4], float)
            elif words[0] == "length":
                bone["length"] = float(words[1])
            elif words[0] == "axis":
                if words[4].upper() != "XYZ":
                    raise ValueError(f"{path}: axis order {words[4]} of {bone['name']}; only XYZ is read")
                bone["axis"] = np.array(words[1:4], float)
            elif words[0] == "dof":
                bone["dof"] = words[1:]
        elif section == ":hierarchy" and words[0] not in ("begin", "end"):
            for child in words[1:]:
                bones[child]["parent"] = words[0]
    return bones


def read_amc(path: Path, bones: dict[str, dict], name: str, action: str, fps: float = 30.0) -> Clip:
    """Read an Acclaim motion for the skeleton `bones`.

    A bone's local rotation is C R C^-1 with C from its axis and R from its angles, both XYZ about fixed axes.
    """
    values: dict[str, list[list[float]]] = {bone: [] for bone in bones}
    frames = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if not words or words[0][0] in "#:":
            continue
        if len(words) == 1 and words[0].isdigit():
            frames += 1
        else:
            values[words[0]].append([float(x) for x in words[1:]])
    root = np.array(values["root"])
    rotations: dict[str, np.ndarray] = {}
    for bone, spec in bones.items():  # the file lists parents first
        angles = np.zeros((frames, 3))
        given = root[:, 3:] if bone == "root" else np.array(values[bone])
        for column, dof in enumerate(spec["dof"]):
            angles[:, "xyz".index(dof[1])] = given[:, column]
        frame = _matrix("xyz", spec["axis"][None])[0]
        local = frame @ _matrix("xyz", angles) @ frame.T
        rotations[bone] = rotations[spec["parent"]] @ local if spec["parent"] else local
    directions = {bone: spec["direction"] for bone, spec in bones.items() if "direction" in spec}
    leg = UNIT * sum(bones[side + part]["length"] for side in "lr" for part in ("femur", "tibia")) / 2
    return Clip(name, action, fps, UNIT * root[:, :3], rotations, directions, leg)


def read_bvh(path: Path, name: str, action: str) -> Clip:
    """Read a BVH file of CMU's skeleton (channels in the order that the file declares)."""
    joints: list[dict] = []
    stack: list[int] = []
    lines = iter(path.read_text(encoding="utf-8").splitlines())
    for line in lines:
        words = line.split()
        if not words:
            continue
        if words[0] in ("ROOT", "JOINT", "End"):
            joints.append({"name": words[1] if words[0] != "End" else None, "parent": stack[-1] if stack else -1,
                           "channels": []})
            stack.append(len(joints) - 1)
        elif words[0] == "OFFSET":
            joints[-1]["offset"] = np.array(words[1:4], float)
        elif words[0] == "CHANNELS":
            joints[-1]["channels"] = words[2:]
        elif words[0] == "}":
            stack.pop()
        elif words[0] == "MOTION":
            break
    next(lines)
    fps = 1 / float(next(lines).split(":")[1])
    table = np.array([line.split() for line in lines if line.strip()], float)
    rotations: list[np.ndarray] = []
    column = 0
    for joint in joints:
        count = len(joint["channels"])
        values, column = table[:, column:column + count], column + count
        turning = [(c[0], values[:, i]) for i, c in enumerate(joint["channels"]) if c.endswith("rotation")]
        local = (_matrix("".join(axis for axis, _ in turning), np.stack([v for _, v in turning], 1)) if turning
                 else np.broadcast_to(np.eye(3), (len(table), 3, 3)))
        rotations.append(rotations[joint["parent"]] @ local if joint["parent"] >= 0 else local)
    directions = {}
    for joint in joints:
        parent = joints[joint["parent"]]["name"]
        if joint["parent"] >= 0 and np.any(joint["offset"]) and _BVH_NAMES[parent] not in directions:
            directions[_BVH_NAMES[parent]] = joint["offset"] / np.linalg.norm(joint["offset"])
    length = {j["name"]: float(np.linalg.norm(j["offset"])) for j in joints}
    leg = UNIT * sum(length[side + part] for side in ("Left", "Right") for part in ("Knee", "Ankle")) / 2
    named = {_BVH_NAMES[j["name"]]: r for j, r in zip(joints, rotations, strict=True) if j["name"]}
    for side in "lr":  # the files' wrists disagree with the capture's own, so hands go straight on from the forearm
        named[f"{side}hand"] = named[f"{side}fingers"] = named[f"{side}radius"]
    return Clip(name, action, fps, UNIT * table[:, :3], named, directions, leg)


def read_expmap(path: Path, name: str, action: str, fps: float = 60.0) -> Clip:
    """Read rows of 117 numbers: root position and the exponential maps of 38 joints.

    The files' maps turn *row* vectors, so each is the inverse of the column rotation used here. The first frame of
    every file is the skeleton's calibration pose and is left out.
    """
    table = np.loadtxt(path, delimiter=",")[1:]
    rotations: list[np.ndarray] = []
    for joint, parent in enumerate(_EXPMAP_PARENTS):
        local = Rotation.from_rotvec(-table[:, 3 + 3 * joint:6 + 3 * joint]).as_matrix()
        rotations.append(local if parent < 0 else rotations[parent] @ local)
    named = {bone: r for bone, r in zip(EXPMAP_JOINTS, rotations, strict=True) if bone}
    directions = {bone: np.array(d, float) / np.linalg.norm(d) for bone, d in _EXPMAP_DIRECTIONS.items()}
    return Clip(name, action, fps, UNIT * table[:, :3], named, directions, UNIT * 14.83)


def read_humanoid3d(path: Path, name: str, action: str) -> Clip:
    """Read a clip of DeepMimic's humanoid: JSON whose "Frames" are rows of 44 numbers.

    A row is a duration (s), the root's position (m, y up) and rotation, then joint by joint what turns it against its
    parent: a quaternion, or an angle (rad) about the humanoid's z, which is negative for a bent knee and positive for
    a bent elbow. The humanoid rests upright with hanging arms. One joint bends its back and one its neck, so their
    bend is shared out among the bones of each; wrists, toes and collar bones do not move of their own.

    Frames are taken as they are, and fps is for the usual duration: one of DeepMimic's files has one odd frame.

    Raises:
        ValueError: if the file is no such JSON, or holds an infinite number or a quaternion far from length 1.
    """
    table = _humanoid_table(path)
    local = {joint: _humanoid_local(table, joint, path) for joint in _HUMANOID_COLUMNS}
    lower, middle, chest = _bent_along(local["root"], local["chest"])
    low_neck, high_neck, head = _bent_along(chest, local["neck"])
    named = {"root": local["root"], "lowerback": lower, "upperback": middle, "thorax": chest,
             "lowerneck": low_neck, "upperneck": high_neck, "head": head}
    for side, sign in (("left", 1), ("right", -1)):
        thigh = local["root"] * local[f"{side}_hip"]
        shank = thigh * local[f"{side}_knee"]
        foot = shank * local[f"{side}_ankle"]
        # The other captures rest with arms straight out, and so shall this one: the thumb relies on it.
        hang = Rotation.from_euler("z", -90 * sign, degrees=True)
        upper_arm = chest * local[f"{side}_shoulder"]
        forearm = upper_arm * local[f"{side}_elbow"] * hang
        own = {"hipjoint": local["root"], "femur": thigh, "tibia": shank, "foot": foot, "toes": foot,
               "clavicle": chest, "humerus": upper_arm * hang, "radius": forearm, "hand": forearm, "fingers": forearm}
        named.update({side[0] + bone: rotation for bone, rotation in own.items()})
    directions = {bone: np.array(d, float) for bone, d in _HUMANOID_DIRECTIONS.items()}
    fps = 1 / float(np.median(table[:-1, 0])) if len(table) > 1 else 30.0  # the last duration is often 0
    return Clip(name, action, fps, 1000 * table[:, 1:4] @ _HUMANOID_WORLD.T,
                {bone: rotation.as_matrix() for bone, rotation in named.items()}, directions, _HUMANOID_LEG)


def _humanoid_table(path: Path) -> np.ndarray:
    """The frames (T, 44) of a humanoid3d file as they stand there."""
    try:
        table = np.array(json.loads(path.read_text(encoding="utf-8"))["Frames"], float)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no humanoid3d motion: it must be JSON with a list \"Frames\" of rows of "
                         f"{_HUMANOID_WIDTH} numbers ({type(error).__name__}: {error})") from error
    if table.ndim != 2 or not len(table) or table.shape[1] != _HUMANOID_WIDTH:
        raise ValueError(f"{path} is no humanoid3d motion: its frames have the shape {table.shape}, "
                         f"not (frames, {_HUMANOID_WIDTH})")
    if not np.isfinite(table).all() or (table[:-1, 0] <= 0).any():
        raise ValueError(f"{path} is damaged: a frame holds a number that is not finite, or lasts no time")
    return table


def _humanoid_local(table: np.ndarray, joint: str, path: Path) -> Rotation:
    """What turns a joint against its parent (the root: against the world), in the world of the other captures."""
    first = _HUMANOID_COLUMNS[joint]
    if joint.endswith(("knee", "elbow")):
        return Rotation.from_rotvec(table[:, [first]] * _HUMANOID_WORLD[:, 2])
    quaternions = table[:, first:first + 4]
    lengths = np.linalg.norm(quaternions, axis=1)
    if (abs(lengths - 1) > 0.5).any():  # DeepMimic's own differ by up to 0.42
        raise ValueError(f"{path} is damaged: frame {abs(lengths - 1).argmax()} turns {joint} by numbers that are no "
                         "unit quaternion")
    w, *axis = quaternions.T
    return Rotation.from_quat(np.column_stack([np.stack(axis, 1) @ _HUMANOID_WORLD.T, w]))


def _bent_along(start: Rotation, bend: Rotation) -> tuple[Rotation, Rotation, Rotation]:
    """Global rotations of three bones in a row after `start` that share out a joint's `bend` evenly."""
    part = bend.as_rotvec() / 3
    one, two, three = (start * Rotation.from_rotvec(k * part) for k in (1, 2, 3))
    return one, two, three


def read_clip(path: Path, name: str, action: str) -> Clip:
    """Read a motion of any known format: by its suffix, and a .txt by how it begins.

    An .amc needs its skeleton, an .asf, in the same folder: the one whose name it begins with, or the only one.
    .amc and exponential maps do not say their frame rate; they are taken for 30 and 60 frames a second.

    Raises:
        FileNotFoundError: if there is no such file, or no skeleton for an .amc.
        ValueError: if the format is unknown, the file is damaged, or it describes another skeleton.
    """
    path = Path(path)
    try:
        clip = _read_any(path, name, action)
        _check(clip, path)
    except Exception as error:                  # damaged text can go wrong in any way
        if isinstance(error, OSError) or str(path) in str(error):
            raise
        raise ValueError(f"{path} cannot be read: it is damaged or of another skeleton than CMU's "
                         f"({type(error).__name__}: {error})") from error
    return clip


def _read_any(path: Path, name: str, action: str) -> Clip:
    suffix = path.suffix.lower()
    if suffix == ".bvh":
        return read_bvh(path, name, action)
    if suffix == ".amc":
        return read_amc(path, read_asf(_skeleton_of(path)), name, action)
    if suffix == ".txt":
        begin = path.read_text(encoding="utf-8").lstrip()
        if begin.startswith("{"):
            return read_humanoid3d(path, name, action)
        if begin.partition("\n")[0].count(",") == 3 + 3 * len(EXPMAP_JOINTS) - 1:
            return read_expmap(path, name, action)
    raise ValueError(f"{path} is of no known motion format; known are {', '.join(FORMATS)}")


FORMATS = ("CMU's skeleton as .bvh", "CMU's .amc with its .asf beside it", "exponential maps of CMU's skeleton as .txt",
           "DeepMimic's humanoid3d as .txt")
"""What `read_clip` reads."""


def _skeleton_of(path: Path) -> Path:
    """The .asf for an .amc."""
    beside = sorted(path.parent.glob("*.asf"))
    own = [skeleton for skeleton in beside if path.stem.startswith(skeleton.stem)] or beside
    if len(own) != 1:
        raise FileNotFoundError(f"{path} needs the one skeleton (.asf) that it is for beside it, but {path.parent} "
                                f"holds {len(own)} that may be")
    return own[0]


def _check(clip: Clip, path: Path) -> None:
    """Raise ValueError if `retarget` could not use the clip."""
    missing = sorted(set(BONE_OF.values()) - clip.rotations.keys())
    missing += sorted({BONE_OF[bone] for bone in _LIMBS} - clip.directions.keys())
    if missing:
        raise ValueError(f"{path} moves another skeleton than CMU's: it lacks the bone {missing[0]}")
    if not len(clip) or not np.isfinite(clip.root).all() or not all(
            np.isfinite(clip.rotations[bone]).all() for bone in BONE_OF.values()):
        raise ValueError(f"{path} is damaged: it holds no frame, or a number that is not finite")


def _matrix(order: str, degrees: np.ndarray) -> np.ndarray:
    return Rotation.from_euler(order, degrees, degrees=True).as_matrix()


def smallest_rotation(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The (3, 3) rotation by the smallest angle that turns the unit vector `source` onto `target`."""
    axis = np.cross(source, target)
    sine, cosine = float(np.linalg.norm(axis)), source @ target
    if sine < 1e-9:
        if cosine > 0:
            return np.eye(3)
        axis, sine = np.cross(source, np.eye(3)[np.argmin(abs(source))]), 0.0
    return Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.arctan2(sine, cosine)).as_matrix()


def retarget(clip: Clip, bones: tuple[str, ...], heads: np.ndarray, tails: np.ndarray,
             frames: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Global rotations (T, B, 3, 3) that put the rig into the clip's poses.

    Limb bones rest in different directions in the two skeletons, so each is first turned by the smallest rotation
    from its own rest direction to the capture's. Feet rest flat in both: only their heading is matched. Trunk, neck
    and head rest upright in both and keep the body's own posture; but the capture's heads are calibrated to look down
    (17 degrees in the median over all walking clips), which is taken off again, half of it in the neck.
    """
    out = []
    for b, bone in enumerate(bones):
        source = BONE_OF[bone]
        rotation = clip.rotations[source][frames]
        if bone in _LIMBS:
            own, other = _unit(tails[b] - heads[b]), _unit(clip.directions[source])
            if source.endswith(("foot", "toes")):
                own, other = (_unit(v * (1, 0, 1)) for v in (own, other))
            rotation = rotation @ smallest_rotation(own, other)
        elif bone in _LOOKS_DOWN:
            rotation = rotation @ _matrix("x", np.array([-_LOOKS_DOWN[bone]]))
        out.append(rotation)
    return np.stack(out, axis=1)


_LIMBS = {bone for bone in BONE_OF if bone.endswith(("Arm", "Hand", "FingerBase", "HandFinger1", "UpLeg", "Leg", "Foot",
                                                     "ToeBase")) and bone != "Hips"}
_LOOKS_DOWN = {"Neck1": 7.0, "Head": 14.0}


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
