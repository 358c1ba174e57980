"""Joint declarations, and conversions between them.

A `Skeleton` is declared once, by *name*: which joints, in which order, how they hang together, and which
pairs of them make a limb. Everything that other code needs as index lists (mirror permutations, parents,
limb matrices) is derived here, so that no list of magic numbers lives anywhere else.

Left and right are the person's, never the viewer's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

ABSENT, OCCLUDED, VISIBLE = 0, 1, 2
"""State of a joint: no label / labelled but hidden / labelled and seen. Absent never enters a loss or a metric."""


@dataclass(frozen=True)
class Limb:
    """A rigid piece between two ends. An end is the mean of one or more joints (the torso ends between the hips)."""

    name: str
    start: tuple[str, ...]
    end: tuple[str, ...]


def _limb(name: str, start: str, end: str) -> Limb:
    """Declare a limb; `"left_hip+right_hip"` means the midpoint of the two."""
    return Limb(name, tuple(start.split("+")), tuple(end.split("+")))


@dataclass(frozen=True)
class Skeleton:
    """An ordered set of joints with a tree over them.

    Attributes:
        name: short name, as used on the command line and in records.
        joints: joint names in storage order.
        parent: joint name -> parent's name; the root is the one joint that is not a key.
        limbs: the body parts, as pairs of joints.

    Raises:
        ValueError: on construction, if names repeat, a parent or a limb names an unknown joint, a left joint has
            no right partner, or the parents do not form one tree.
    """

    name: str
    joints: tuple[str, ...]
    parent: dict[str, str]
    limbs: tuple[Limb, ...]

    def __post_init__(self) -> None:
        known = set(self.joints)
        if len(known) != len(self.joints):
            raise ValueError(f"skeleton {self.name}: a joint is named twice")
        in_limbs = (joint for limb in self.limbs for joint in limb.start + limb.end)
        for joint in (*self.parent, *self.parent.values(), *in_limbs):
            if joint not in known:
                raise ValueError(f"skeleton {self.name}: unknown joint {joint!r}")
        for joint in self.joints:
            if _partner(joint) not in known:
                raise ValueError(f"skeleton {self.name}: {joint} has no mirror partner {_partner(joint)}")
        if len(self.joints) - len(self.parent) != 1:
            raise ValueError(f"skeleton {self.name}: exactly one joint must be without a parent")
        for joint in self.joints:
            seen = {joint}
            while joint in self.parent:
                joint = self.parent[joint]
                if joint in seen:
                    raise ValueError(f"skeleton {self.name}: the parents of {joint} form a circle")
                seen.add(joint)

    def __len__(self) -> int:
        return len(self.joints)

    def index(self, joint: str) -> int:
        """Position of a joint by name. Raises `KeyError` that lists the joints there are."""
        if joint not in self.joints:
            raise KeyError(f"{self.name} has no joint {joint!r}; it has {', '.join(self.joints)}")
        return self.joints.index(joint)

    @cached_property
    def mirror(self) -> np.ndarray:
        """(J,) int64: `joints[:, mirror]` swaps left and right. Its own inverse."""
        return np.array([self.joints.index(_partner(joint)) for joint in self.joints])

    @cached_property
    def root(self) -> int:
        """Index of the joint without a parent."""
        return next(i for i, joint in enumerate(self.joints) if joint not in self.parent)

    @cached_property
    def parents(self) -> np.ndarray:
        """(J,) int64: index of each joint's parent; the root is its own parent."""
        return np.array([self.joints.index(self.parent.get(joint, joint)) for joint in self.joints])

    @cached_property
    def order_down(self) -> tuple[int, ...]:
        """Joint indices from the root outwards: a parent always comes before its children."""
        def depth(i: int) -> int:
            return 0 if i == self.root else 1 + depth(int(self.parents[i]))
        return tuple(sorted(range(len(self)), key=depth))

    @cached_property
    def limb_names(self) -> tuple[str, ...]:
        """In the order of `limbs`."""
        return tuple(limb.name for limb in self.limbs)

    @cached_property
    def limb_weights(self) -> np.ndarray:
        """(2, L, J) float32: `np.einsum("elj,njd->neld", weights, joints)` gives both ends of every limb."""
        weights = np.zeros((2, len(self.limbs), len(self)), np.float32)
        for row, limb in enumerate(self.limbs):
            for end, names in enumerate((limb.start, limb.end)):
                for name in names:
                    weights[end, row, self.joints.index(name)] = 1 / len(names)
        return weights

    def side(self, joint: str) -> str:
        """'left', 'right' or 'middle', of a joint or a limb, by its name."""
        prefix = joint.split("_")[0]
        return prefix if prefix in ("left", "right") else "middle"


def _partner(joint: str) -> str:
    side, _, rest = joint.partition("_")
    return {"left": f"right_{rest}", "right": f"left_{rest}"}.get(side, joint)


_ARMS = {"left_elbow": "left_shoulder", "left_wrist": "left_elbow",
         "right_elbow": "right_shoulder", "right_wrist": "right_elbow"}
_LEGS = {"left_knee": "left_hip", "left_ankle": "left_knee", "right_knee": "right_hip", "right_ankle": "right_knee"}
_ARM_LIMBS = (_limb("left_upper_arm", "left_shoulder", "left_elbow"),
              _limb("left_lower_arm", "left_elbow", "left_wrist"),
              _limb("right_upper_arm", "right_shoulder", "right_elbow"),
              _limb("right_lower_arm", "right_elbow", "right_wrist"))
_LEG_LIMBS = (_limb("left_upper_leg", "left_hip", "left_knee"), _limb("left_lower_leg", "left_knee", "left_ankle"),
              _limb("right_upper_leg", "right_hip", "right_knee"),
              _limb("right_lower_leg", "right_knee", "right_ankle"))

LSP14 = Skeleton(
    "LSP14",
    ("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
     "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top"),
    {**_ARMS, **_LEGS, "head_top": "neck", "left_shoulder": "neck", "right_shoulder": "neck",
     "left_hip": "neck", "right_hip": "neck"},
    (_limb("torso", "neck", "left_hip+right_hip"), _limb("head", "neck", "head_top"), *_ARM_LIMBS, *_LEG_LIMBS))
"""Leeds Sports Pose, full body. The ten limbs are the ten parts over which PCP is customarily reported."""

UPPER8 = Skeleton(
    "UPPER8",
    ("head", "left_shoulder", "neck", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    {**_ARMS, "head": "neck", "left_shoulder": "neck", "right_shoulder": "neck"},
    (_limb("head", "neck", "head"), _limb("left_shoulder", "neck", "left_shoulder"),
     _limb("right_shoulder", "neck", "right_shoulder"), *_ARM_LIMBS))
"""The upper body of paper A: eight joints, seven parts, in the order of the authors' code."""

H36M17 = Skeleton(
    "H36M17",
    ("pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "spine", "neck", "nose",
     "head_top", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist"),
    {**_ARMS, **_LEGS, "left_hip": "pelvis", "right_hip": "pelvis", "spine": "pelvis", "neck": "spine", "nose": "neck",
     "head_top": "nose", "left_shoulder": "neck", "right_shoulder": "neck"},
    (_limb("torso", "neck", "pelvis"), _limb("head", "neck", "head_top"), *_ARM_LIMBS, *_LEG_LIMBS))
"""The 17 of Human3.6M's 32 joints that paper B uses, and the order in which `people` stores its joints."""

COCO17 = Skeleton(
    "COCO17",
    ("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
     "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
     "right_ankle"),
    {**_ARMS, **_LEGS, "left_eye": "nose", "right_eye": "nose", "left_ear": "left_eye", "right_ear": "right_eye",
     "left_shoulder": "nose", "right_shoulder": "nose", "left_hip": "left_shoulder", "right_hip": "right_shoulder"},
    (_limb("torso", "left_shoulder+right_shoulder", "left_hip+right_hip"), *_ARM_LIMBS, *_LEG_LIMBS))
"""COCO key points. They have no neck and no head top; the nose serves as the root of the tree."""

BODY_PARTS = ("head", "torso", "left_upper_arm", "left_lower_arm", "left_hand", "right_upper_arm", "right_lower_arm",
              "right_hand", "left_upper_leg", "left_lower_leg", "left_foot", "right_upper_leg", "right_lower_leg",
              "right_foot")
"""The 14 parts of a label image: the value i + 1 is part i, and 0 is everything that is not the person."""
PART_MIRROR = np.array([0] + [1 + BODY_PARTS.index(_partner(part)) for part in BODY_PARTS], np.uint8)
"""(15,) uint8: `PART_MIRROR[labels]` swaps left and right. Its own inverse."""
PART_COLOURS = np.array([
    (0, 0, 0), (255, 220, 120), (150, 150, 150), (31, 119, 180), (70, 160, 220), (140, 200, 245), (214, 39, 40),
    (235, 100, 90), (250, 160, 150), (70, 40, 150), (120, 90, 205), (180, 165, 240), (120, 70, 0), (180, 120, 20),
    (225, 175, 70)], np.uint8)
"""(15, 3) red, green, blue of the labels: the left side in blues and violets, the right in reds and browns."""

SKELETONS = {skeleton.name: skeleton for skeleton in (LSP14, UPPER8, H36M17, COCO17)}

# How a joint that a skeleton lacks is made from joints it has: the first recipe whose joints all exist is taken.
# Paper A's code defines the head as the midpoint of neck and head top (LSP) or as the nose (FLIC), and FLIC's neck
# as the mean of the shoulders; the others are the customary midpoints.
_RECIPES: dict[str, tuple[tuple[str, ...], ...]] = {
    "head": (("neck", "head_top"), ("nose",)),
    "neck": (("left_shoulder", "right_shoulder"),),
    "pelvis": (("left_hip", "right_hip"),),
    "spine": (("neck", "pelvis"), ("left_shoulder", "right_shoulder", "left_hip", "right_hip")),
}


def convert(joints: np.ndarray, state: np.ndarray, source: Skeleton, target: Skeleton, *,
            allow_absent: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Re-express poses in another skeleton, by joint name.

    A joint that `source` lacks is the mean of others where a recipe is known. Its state is the lowest of
    theirs: a mean with an absent joint is absent, a mean with an occluded one is occluded.

    Args:
        joints: (N, J, D) in any unit; state: (N, J) of ABSENT, OCCLUDED, VISIBLE.
        allow_absent: mark joints that cannot be had as ABSENT (coordinates zero) instead of raising.

    Returns:
        joints (N, K, D) float32 and state (N, K) uint8 of `target`.

    Raises:
        ValueError: if shapes do not fit `source`, or a joint cannot be had and `allow_absent` is false.
    """
    joints, state = np.asarray(joints), np.asarray(state)
    if joints.ndim != 3 or joints.shape[1] != len(source) or state.shape != joints.shape[:2]:
        raise ValueError(f"{source.name} needs joints (N, {len(source)}, D) and state (N, {len(source)}), "
                         f"got {joints.shape} and {state.shape}")
    out = np.zeros((len(joints), len(target), joints.shape[2]), np.float32)
    out_state = np.full((len(joints), len(target)), ABSENT, np.uint8)
    for k, name in enumerate(target.joints):
        recipes = ((name,), *_RECIPES.get(name, ()))
        found = next((r for r in recipes if set(r) <= set(source.joints)), None)
        if found is None:
            if not allow_absent:
                raise ValueError(f"{target.name}'s joint {name} cannot be made from {source.name}; "
                                 "pass allow_absent=True to leave it out of every loss and metric")
            continue
        picked = [source.joints.index(joint) for joint in found]
        out[:, k] = joints[:, picked].mean(axis=1)
        out_state[:, k] = state[:, picked].min(axis=1)
    out[out_state == ABSENT] = 0
    return out, out_state
