"""The human body: MakeHuman's base mesh, its macro targets, its joints, and linear blend skinning.

Lengths are millimetres in the body's rest frame: x to the person's left, y up, z forward (MakeHuman stores
decimetres in the same frame). The rig is `cmu_mb`: 31 bones named as in the CMU motion capture.
"""

from __future__ import annotations

import gzip
import itertools
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from posebook.files import reading

FETCH = "fetch it again from its source"
MILLIMETRES = 100.0
"""MakeHuman's unit, the decimetre, in millimetres."""

JOINT_SOURCE: dict[str, tuple[str, str]] = {
    "right_hip": ("RightUpLeg", "joint-r-upper-leg"), "right_knee": ("RightLeg", "joint-r-knee"),
    "right_ankle": ("RightFoot", "joint-r-ankle"), "left_hip": ("LeftUpLeg", "joint-l-upper-leg"),
    "left_knee": ("LeftLeg", "joint-l-knee"), "left_ankle": ("LeftFoot", "joint-l-ankle"),
    "spine": ("Spine", "joint-spine-2"), "neck": ("Neck", "joint-neck"),
    "left_shoulder": ("LeftArm", "joint-l-shoulder"), "left_elbow": ("LeftForeArm", "joint-l-elbow"),
    "left_wrist": ("LeftHand", "joint-l-hand"), "right_shoulder": ("RightArm", "joint-r-shoulder"),
    "right_elbow": ("RightForeArm", "joint-r-elbow"), "right_wrist": ("RightHand", "joint-r-hand"),
}
"""Joint -> (bone that carries it, cube of the mesh whose centre it is). The other three are made in `pose_joints`."""


@dataclass(frozen=True)
class Mesh:
    """Triangles with texture coordinates. faces, uv_faces: (F, 3) int; group: (F,) index into `groups`."""

    vertices: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    uv_faces: np.ndarray
    group: np.ndarray
    groups: tuple[str, ...]


def read_obj(path: Path) -> Mesh:
    """Read a Wavefront OBJ file; polygons become triangle fans, vertices stay in the file's units.

    Raises:
        OSError: if the file is damaged, naming it; ValueError: if it has no faces.
    """
    with reading(path, FETCH):
        return _parse_obj(path)


def _parse_obj(path: Path) -> Mesh:
    vertices, uv, faces, uv_faces, group, groups = [], [[0.0, 0.0]], [], [], [], [""]
    for line in path.read_text(encoding="utf-8").splitlines():
        word, _, rest = line.partition(" ")
        if word == "v":
            vertices.append([float(x) for x in rest.split()[:3]])
        elif word == "vt":
            uv.append([float(x) for x in rest.split()[:2]])
        elif word == "g":
            if rest.strip() not in groups:
                groups.append(rest.strip())
            current = groups.index(rest.strip())
        elif word == "f":
            corners = [(c.split("/") + ["0"])[:2] for c in rest.split()]
            for i in range(1, len(corners) - 1):
                triangle = (corners[0], corners[i], corners[i + 1])
                faces.append([int(c[0]) - 1 for c in triangle])
                uv_faces.append([int(c[1] or 0) for c in triangle])
                group.append(current if len(groups) > 1 else 0)
    if not faces:
        raise ValueError(f"{path} has no faces; fetch it again from its source")
    mesh = Mesh(np.array(vertices), np.array(uv), np.array(faces), np.array(uv_faces), np.array(group), tuple(groups))
    for used, points in ((mesh.faces, mesh.vertices), (mesh.uv_faces, mesh.uv)):
        if used.min() < 0 or used.max() >= len(points) or not np.isfinite(points).all():
            raise ValueError("a face names a point that is not there, or a point is no finite number")
    return mesh


@dataclass(frozen=True)
class Shape:
    """Macro parameters of an adult body, each in [0, 1]; `ancestry` are three weights that sum to 1
    (the names are those of MakeHuman's target files)."""

    male: float = 0.5
    old: float = 0.0
    muscle: float = 0.5
    weight: float = 0.5
    height: float = 0.5
    proportions: float = 0.5
    ancestry: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)

    def target_weights(self) -> dict[str, float]:
        """File stem of a target -> how much of it. A value between two corners is mixed linearly."""
        sex = {"female": 1 - self.male, "male": self.male}
        age = {"young": 1 - self.old, "old": self.old}
        muscle = _three(self.muscle, "minmuscle", "averagemuscle", "maxmuscle")
        weight = _three(self.weight, "minweight", "averageweight", "maxweight")
        height = _three(self.height, "minheight", "", "maxheight")
        proportions = _three(self.proportions, "uncommonproportions", "", "idealproportions")
        ancestry = dict(zip(("african", "asian", "caucasian"), self.ancestry, strict=True))
        found: dict[str, float] = {}
        for (s, a), (b, c) in zip(itertools.product(sex, age), itertools.product(sex.values(), age.values()),
                                  strict=True):
            for name, share in ancestry.items():
                found[f"{name}-{s}-{a}"] = b * c * share
            for (m, d), (w, e) in itertools.product(muscle.items(), weight.items()):
                found[f"universal-{s}-{a}-{m}-{w}"] = b * c * d * e
            for w, e in weight.items():
                for label, f in (*height.items(), *proportions.items()):
                    if label:  # these targets come for average muscles only
                        found[f"{s}-{a}-averagemuscle-{w}-{label}"] = b * c * e * f
        return {name: value for name, value in found.items() if value > 0}


def _three(value: float, low: str, middle: str, high: str) -> dict[str, float]:
    return {low: max(0.0, 1 - 2 * value), middle: 1 - abs(2 * value - 1), high: max(0.0, 2 * value - 1)}


class BodyModel:
    """Base mesh, targets and rig, read once from the unpacked `makehuman/` folder.

    Attributes:
        bones: 31 names, parents first; parents: (31,) index of each bone's parent, -1 for the root.
        weights: (V, 31) float32 skin weights, rows sum to 1, of all vertices with the helpers that carry clothes.
    """

    def __init__(self, folder: Path) -> None:
        self.mesh = read_obj(folder / "base_mesh" / "base.obj")
        path = folder / "rigs" / "rig.cmu_mb.json"
        with reading(path, FETCH):
            rig = json.loads(path.read_text(encoding="utf-8"))
            self.bones = _parents_first({name: bone["parent"] for name, bone in rig.items()})
            self.parents = np.array([self.bones.index(rig[b]["parent"]) if rig[b]["parent"] else -1
                                     for b in self.bones])
            self._ends = {(b, end): rig[b][end] for b in self.bones for end in ("head", "tail")}
        path = folder / "rigs" / "weights.cmu_mb.json"
        weights = np.zeros((len(self.mesh.vertices), len(self.bones)), np.float32)
        with reading(path, FETCH):
            table = json.loads(path.read_text(encoding="utf-8"))["weights"]
            for b, name in enumerate(self.bones):
                for vertex, value in table.get(name, []):
                    weights[int(vertex), b] += value
        weights[weights.sum(1) == 0, 0] = 1
        self.weights = weights / weights.sum(1, keepdims=True)
        self._target_files = {p.name.split(".")[0]: p
                              for p in sorted((folder / "targets" / "macrodetails").rglob("*.target.gz"))}
        self._targets: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @cached_property
    def cubes(self) -> dict[str, np.ndarray]:
        """Name of a joint cube -> the vertices whose mean is the joint."""
        mesh = self.mesh
        return {name: np.unique(mesh.faces[mesh.group == i]) for i, name in enumerate(mesh.groups)
                if name.startswith("joint-")}

    def morph(self, shape: Shape) -> np.ndarray:
        """(V, 3) float64 rest vertices in mm of the body with this shape."""
        vertices = self.mesh.vertices.copy()
        for name, value in shape.target_weights().items():
            if name in self._target_files:
                index, offset = self._target(name)
                vertices[index] += value * offset
        return vertices * MILLIMETRES

    def _target(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        if name not in self._targets:
            path = self._target_files[name]
            with reading(path, FETCH):
                text = gzip.decompress(path.read_bytes()).decode("utf-8")
                rows = [line for line in text.splitlines() if line and not line.startswith("#")]
                table = np.array(" ".join(rows).split(), np.float64).reshape(-1, 4)
                if not np.isfinite(table).all() or not ((table[:, 0] >= 0)
                                                        & (table[:, 0] < len(self.mesh.vertices))).all():
                    raise ValueError("it moves a vertex that is not there, or by no finite number")
            self._targets[name] = table[:, 0].astype(int), table[:, 1:]
        return self._targets[name]

    def bone_ends(self, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Heads and tails (31, 3) of the bones in the rest pose of a morphed body."""
        def place(end: dict) -> np.ndarray:
            index = self.cubes[end["cube_name"]] if end["strategy"] == "CUBE" else end["vertex_indices"]
            return vertices[index].mean(0)
        heads, tails = (np.array([place(self._ends[b, end]) for b in self.bones]) for end in ("head", "tail"))
        return heads, tails

    @cached_property
    def crown(self) -> int:
        """Index of the topmost vertex of the skin."""
        return int(self._skin_extreme(self.mesh.vertices[:, 1]))

    @cached_property
    def nose(self) -> int:
        """Index of the skin's foremost vertex on the head's middle line."""
        v = self.mesh.vertices
        above_mouth = v[:, 1] > v[self.cubes["joint-mouth"], 1].mean()
        return int(self._skin_extreme(np.where(above_mouth & (abs(v[:, 0]) < 0.05), v[:, 2], -np.inf)))

    def _skin_extreme(self, key: np.ndarray) -> int:
        skin = np.unique(self.mesh.faces[self.mesh.group == self.mesh.groups.index("body")])
        return skin[np.argmax(key[skin])]

    def rest_joints(self, vertices: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Rest positions (J, 3) of the joints in `names` and the bone (J,) that carries each.

        The pelvis has no cube of its own: it is the middle of the hips, which the bone Hips carries rigidly.
        """
        points, bones = [], []
        for name in names:
            if name == "pelvis":
                hips = [self.cubes[JOINT_SOURCE[side][1]] for side in ("left_hip", "right_hip")]
                point, bone = np.mean([vertices[c].mean(0) for c in hips], axis=0), "Hips"
            elif name in ("head_top", "nose"):
                point, bone = vertices[self.crown if name == "head_top" else self.nose], "Head"
            else:
                bone, cube = JOINT_SOURCE[name]
                point = vertices[self.cubes[cube]].mean(0)
            points.append(point)
            bones.append(self.bones.index(bone))
        return np.array(points), np.array(bones)


def _parents_first(parents: dict[str, str]) -> tuple[str, ...]:
    order: list[str] = []
    while len(order) < len(parents):
        ready = [b for b, p in parents.items() if b not in order and (not p or p in order)]
        if not ready:
            raise ValueError("the rig's bones do not form a tree; fetch rigs/rig.cmu_mb.json again")
        order += ready
    return tuple(order)


def bone_transforms(rotations: np.ndarray, heads: np.ndarray, parents: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Affine maps (..., B, 3, 4) from the rest pose to the posed body.

    Args:
        rotations: (..., B, 3, 3) global rotation of every bone, from rest to posed.
        heads: (B, 3) rest positions of the bones' heads, mm; parents: (B,) with -1 for the root, parents first.
        root: (..., 3) posed position of the root's head.
    """
    placed = np.empty((*rotations.shape[:-2], 3))
    for b, parent in enumerate(parents):
        placed[..., b, :] = root if parent < 0 else (
            placed[..., parent, :] + rotations[..., parent, :, :] @ (heads[b] - heads[parent]))
    shift = placed - np.einsum("...bij,bj->...bi", rotations, heads)
    return np.concatenate([rotations, shift[..., None]], axis=-1)


TURN = 1e-4
"""Step in which a stored pose counts turns, rad."""


@dataclass(frozen=True)
class Pose:
    """A posture in the form in which the data set stores it; pictures are drawn from these very numbers.

    Attributes:
        turns: (B, 3) int16, rotation vector of every bone relative to its parent, in steps of `TURN`.
        root: (3,) float32, the first bone's head in the world, mm.
    """

    turns: np.ndarray
    root: np.ndarray

    @classmethod
    def from_rotations(cls, rotations: np.ndarray, parents: np.ndarray, root: np.ndarray) -> Pose:
        """From global rotations (B, 3, 3), parents first."""
        above = np.concatenate([np.eye(3)[None], rotations])[parents + 1]  # the root's parent is the world
        local = np.swapaxes(above, 1, 2) @ rotations
        return cls((Rotation.from_matrix(local).as_rotvec() / TURN).round().astype(np.int16),
                   np.asarray(root, np.float32))

    def transforms(self, heads: np.ndarray, parents: np.ndarray) -> np.ndarray:
        """(B, 3, 4), see `bone_transforms`."""
        rotations = Rotation.from_rotvec(self.turns * TURN).as_matrix()
        for b, parent in enumerate(parents):
            if parent >= 0:
                rotations[b] = rotations[parent] @ rotations[b]
        return bone_transforms(rotations, heads, parents, self.root.astype(float))


def skin(vertices: np.ndarray, weights: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """Linear blend skinning: (V, 3) rest vertices, (V, B) weights, (B, 3, 4) transforms -> (V, 3) posed."""
    blended = (weights @ transforms.reshape(len(transforms), 12)).reshape(-1, 3, 4)
    return np.einsum("vij,vj->vi", blended[..., :3], vertices) + blended[..., 3]


def move_points(points: np.ndarray, bones: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """Points (P, 3) each carried rigidly by one bone (P,) -> (..., P, 3) for transforms (..., B, 3, 4)."""
    chosen = transforms[..., bones, :, :]
    return np.einsum("...pij,pj->...pi", chosen[..., :3], points) + chosen[..., 3]
