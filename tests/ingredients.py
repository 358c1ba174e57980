"""Ingredients painted by hand: an assets folder, as `posebook.synthesis` reads it, with a figure of boxes.

The figure stands where a person would, one box for each bone of the rig `cmu_mb`; clothes are wider boxes that hang on
it, motions are swings of arms and legs, panoramas a sky with a sun above a chequered floor. Everything is made here
from numbers; nothing is taken from MakeHuman, CMU or Poly Haven. Lengths are decimetres: x to the figure's left, y up,
z forward.
"""

import gzip
import itertools
import json
from pathlib import Path

import numpy as np

_MIDDLE = {"pelvis": (0, 0, 0), "spine-4": (0, 1, 0), "spine-2": (0, 2.2, 0), "spine-1": (0, 3.6, 0),
           "neck": (0, 5.2, 0), "head": (0, 6.2, 0), "head-2": (0, 8, 0), "mouth": (0, 6.6, 0.8)}
_LEFT = {"upper-leg": (0.9, -0.2, 0), "knee": (1, -4.2, 0.1), "ankle": (1.1, -8, 0), "toe-3-1": (1.15, -8.4, 1.0),
         "toe-3-2": (1.2, -8.5, 1.8), "clavicle": (0.3, 4.9, 0), "shoulder": (1.8, 4.8, 0), "elbow": (3.8, 3, -0.1),
         "hand": (5.6, 1.4, 0.1), "hand-3": (6, 1.05, 0.2), "finger-2-1": (6.4, 0.7, 0.2),
         "finger-2-2": (6.8, 0.35, 0.2), "finger-1-1": (5.8, 1.2, 0.5), "finger-1-2": (6.1, 0.9, 0.8)}
JOINTS = {**{f"joint-{name}": np.array(at, float) for name, at in _MIDDLE.items()},
          **{f"joint-{side}-{name}": np.array(at) * (sign, 1, 1) for name, at in _LEFT.items()
             for side, sign in (("l", 1), ("r", -1))}}
"""Cube of the mesh -> where its centre lies."""
CROWN, NOSE = np.array([0, 8.2, 0]), np.array([0, 7.0, 1.2])

# Bone -> its parent, the joints at its ends, and half the width and depth of its box.
_TRUNK = {"Hips": ("", "pelvis", "spine-4", 1.4, 0.9), "LowerBack": ("Hips", "spine-4", "spine-2", 1.3, 0.85),
          "Spine": ("LowerBack", "spine-2", "spine-1", 1.4, 0.9), "Spine1": ("Spine", "spine-1", "neck", 1.5, 0.9),
          "Neck": ("Spine1", "neck", "", 0.5, 0.5), "Neck1": ("Neck", "", "head", 0.5, 0.5),
          "Head": ("Neck1", "head", "head-2", 0.75, 0.9)}
_LIMBS = {"LHipJoint": ("Hips", "pelvis", "upper-leg", 0.3, 0.3),
          "LeftUpLeg": ("LHipJoint", "upper-leg", "knee", 0.7, 0.7),
          "LeftLeg": ("LeftUpLeg", "knee", "ankle", 0.5, 0.5),
          "LeftFoot": ("LeftLeg", "ankle", "toe-3-1", 0.4, 0.35),
          "LeftToeBase": ("LeftFoot", "toe-3-1", "toe-3-2", 0.4, 0.3),
          "LeftShoulder": ("Spine1", "clavicle", "shoulder", 0.4, 0.4),
          "LeftArm": ("LeftShoulder", "shoulder", "elbow", 0.45, 0.45),
          "LeftForeArm": ("LeftArm", "elbow", "hand", 0.38, 0.38),
          "LeftHand": ("LeftForeArm", "hand", "hand-3", 0.3, 0.2),
          "LeftFingerBase": ("LeftHand", "hand-3", "finger-2-1", 0.3, 0.15),
          "LeftHandFinger1": ("LeftFingerBase", "finger-2-1", "finger-2-2", 0.28, 0.12),
          "LThumb": ("LeftHand", "finger-1-1", "finger-1-2", 0.12, 0.12)}


def _other(name: str) -> str:
    """The same bone on the right; a bone of the trunk is its own."""
    if name in _TRUNK:
        return name
    return "Right" + name[4:] if name.startswith("Left") else "R" + name[1:]


def tube(rings: list[list[int]]) -> list[list[int]]:
    """Quads, seen from outside counter-clockwise, around rings of four vertices from one end to the other."""
    sides = [[a[i], a[(i + 1) % 4], b[(i + 1) % 4], b[i]] for a, b in itertools.pairwise(rings) for i in range(4)]
    return [rings[0][::-1], *sides, rings[-1]]


class Figure:
    """The figure of boxes: vertices, faces by group, and for every bone the rings of its box."""

    def __init__(self) -> None:
        self.vertices: list[np.ndarray] = []
        self.faces: list[tuple[str, list[int]]] = []
        self.rings: dict[str, list[list[int]]] = {}
        self.carried: dict[str, list[int]] = {}
        for bone, (_, start, end, wide, deep) in _TRUNK.items():
            self._box(bone, _trunk_joint(start), _trunk_joint(end), wide, deep)
        for bone, (_, start, end, wide, deep) in _LIMBS.items():
            a, b = (np.array(_LEFT.get(name, _MIDDLE.get(name)), float) for name in (start, end))
            self._box(bone, a, b, wide, deep)
            points = np.array(self.vertices)[np.ravel(self.rings[bone])] * (-1, 1, 1)
            self._add(_other(bone), points.reshape(3, 4, 3)[:, ::-1])
        self._peaks()
        for name, at in JOINTS.items():
            self._cube(name, at, 0.05)
        for side, sign in (("l", 1), ("r", -1)):
            self.carried["Head"] += self._cube(f"helper-{side}-eye", np.array([0.3 * sign, 7.4, 0.85]), 0.1)

    def _points(self, points: np.ndarray) -> list[int]:
        start = len(self.vertices)
        self.vertices += list(points)
        return list(range(start, start + len(points)))

    def _box(self, bone: str, start: np.ndarray, end: np.ndarray, wide: float, deep: float) -> None:
        along = (end - start) / np.linalg.norm(end - start)
        across = np.cross((0, 1, 0) if abs(along[2]) > 0.7 else (0, 0, 1), along)
        across /= -np.linalg.norm(across) if along[1] < 0 else np.linalg.norm(across)
        corners = np.array([[-wide, -deep], [wide, -deep], [wide, deep], [-wide, deep]])
        ring = corners @ np.stack([across, np.cross(along, across)])
        self._add(bone, np.stack([start + (end - start) * t + ring for t in (0, 0.5, 1)]))

    def _add(self, bone: str, rings: np.ndarray) -> None:
        index = np.array(self._points(rings.reshape(-1, 3))).reshape(3, 4).tolist()
        self.rings[bone], self.carried[bone] = index, list(np.ravel(index))
        self.faces += [("body", quad) for quad in tube(index)]

    def _peaks(self) -> None:
        """One topmost vertex of the head, a nose, and what stands out further than the nose: chin and cheeks."""
        around = np.array([[0.12, -0.12], [0.12, 0.12], [-0.12, 0.12], [-0.12, -0.12]])
        peaks = [(self.rings["Head"][-1], CROWN)]
        for at in (NOSE, np.array([0, 6.4, 1.3]), np.array([0.5, 6.9, 1.3]), np.array([-0.5, 6.9, 1.3])):
            peaks.append((self._points(np.c_[around + at[:2], np.full(4, 0.9)]), at))
        for ring, at in peaks:
            peak = self._points(at[None])
            self.faces += [("body", [ring[i], ring[(i + 1) % 4], *peak]) for i in range(4)]
            self.carried["Head"] += [v for v in ring + peak if v not in self.carried["Head"]]

    def _cube(self, group: str, centre: np.ndarray, half: float) -> list[int]:
        ring = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        ends = [self._points(np.c_[ring, np.full(4, z)] * half + centre) for z in (-1, 1)]
        self.faces += [(group, quad) for quad in tube(ends)]
        return ends[0] + ends[1]

    def where(self, index: int) -> np.ndarray:
        return self.vertices[index]


def _trunk_joint(name: str) -> np.ndarray:
    """A joint of the trunk; the middle of the neck, which has no cube, has no name."""
    return np.array(_MIDDLE[name] if name else (0, 5.7, 0), float)


def write_obj(path: Path, vertices: list[np.ndarray], faces: list[tuple[str, list[int]]]) -> None:
    """A Wavefront file; every face shows the whole of the texture."""
    lines = [f"v {x:.5f} {y:.5f} {z:.5f}" for x, y, z in vertices] + ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"]
    group = ""
    for own, face in faces:
        lines += [f"g {own}"] if own != group else []
        group = own
        lines.append("f " + " ".join(f"{v + 1}/{i + 1}" for i, v in enumerate(face)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# painted\n" + "\n".join(lines) + "\n")


def _write_rig(folder: Path, figure: Figure) -> None:
    neck = {"strategy": "MEAN", "vertex_indices": figure.rings["Neck"][-1]}   # the only joint without a cube

    def end(name: str, side: str) -> dict:
        cube = f"joint-{side}-{name}" if name in _LEFT else f"joint-{name}"
        return {"strategy": "CUBE", "cube_name": cube} if name else neck
    rig = {bone: {"parent": parent, "head": end(a, ""), "tail": end(b, "")}
           for bone, (parent, a, b, *_) in _TRUNK.items()}
    for bone, (parent, a, b, *_) in _LIMBS.items():
        rig[bone] = {"parent": parent, "head": end(a, "l"), "tail": end(b, "l")}
        rig[_other(bone)] = {"parent": _other(parent), "head": end(a, "r"), "tail": end(b, "r")}
    folder.mkdir(parents=True)
    by_name = dict(sorted(rig.items()))  # as in the real file, children before their parents
    (folder / "rig.cmu_mb.json").write_text(json.dumps(by_name))
    weights = {bone: [[int(v), 0.5] for v in own] for bone, own in figure.carried.items()}
    (folder / "weights.cmu_mb.json").write_text(json.dumps({"weights": weights}))


def _write_targets(folder: Path, figure: Figure) -> None:
    """Taller and smaller by a tenth, wider by a quarter, and men broader than women."""
    points = np.array(figure.vertices)
    moves = {}
    for sex in ("female", "male"):
        for age in ("young", "old"):
            for name, factor in (("max", 0.1), ("min", -0.1)):
                moves[f"height/{sex}-{age}-averagemuscle-averageweight-{name}height"] = points * (0, factor, 0)
            moves[f"universal-{sex}-{age}-averagemuscle-maxweight"] = points * (0.25, 0, 0.25)
        moves[f"caucasian-{sex}-young"] = points * (0.1 if sex == "male" else 0, 0, 0)
    for name, move in moves.items():
        path = folder / f"{name}.target.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = "\n".join(f"{i} {x:.4f} {y:.4f} {z:.4f}" for i, (x, y, z) in enumerate(move))
        path.write_bytes(gzip.compress(f"# painted\n{rows}\n".encode(), mtime=0))


def _picture(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)).save(path, quality=90)


def _write_garment(path: Path, figure: Figure, rows: list[list[float]], quads: list[list[int]], hidden: list[int],
                   texture: np.ndarray | None, material: str = "{0}.mhmat") -> None:
    """path: of the .mhclo. rows: three vertices of the figure, their weights and an offset, or one vertex alone."""
    points = []
    for row in rows:
        a = [int(v) for v in row[:3]] if len(row) > 1 else [int(row[0])]
        weights, offset = (row[3:6], row[6:]) if len(row) > 1 else ([1.0], [0, 0, 0])
        points.append(sum(w * figure.where(v) for w, v in zip(weights, a, strict=True)) + np.array(offset))
    write_obj(path.with_suffix(".obj"), points, [("cloth", quad) for quad in quads])
    feet, head = figure.rings["LeftLeg"][-1], figure.rings["Head"][-1]
    lines = ["# painted", "", f"name {path.stem}", f"obj_file {path.stem}.obj"]
    for axis, (a, b) in enumerate(((head[0], head[1]), (feet[0], head[0]), (head[1], head[2]))):
        length = abs(figure.where(a) - figure.where(b))[axis]
        lines.append(f"{'xyz'[axis]}_scale {a} {b} {length:.5f}")
    if texture is not None:
        lines.append(f"material {material.format(path.stem)}")
        described = path.parent / material.format(path.stem)
        described.parent.mkdir(exist_ok=True)
        described.write_text(f"# painted\nname cloth\ndiffuseTexture {path.stem}.png\n")
        _picture(path.parent / f"{path.stem}.png", texture)
    lines += ["verts 0", *(" ".join(str(x) for x in row) for row in rows)]
    if hidden:
        lines += ["delete_verts", _spans(sorted(hidden))]
    path.write_text("\n".join(lines) + "\n")


def _spans(numbers: list[int]) -> str:
    """3, 5, 6, 7 -> `3 5 - 7`."""
    spans: list[list[int]] = []
    for n in numbers:
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return " ".join(f"{a} - {b}" if b > a else f"{a}" for a, b in spans)


def _wider(figure: Figure, bones: list[str], share: float) -> tuple[list[list[float]], list[list[int]], list[int]]:
    """Rows, quads and hidden vertices of boxes around those of `bones`, wider by `share` of the diagonal."""
    rows: list[list[float]] = []
    quads, hidden = [], []
    for bone in bones:
        rings = []
        for ring in figure.rings[bone]:
            rings.append(list(range(len(rows), len(rows) + 4)))
            rows += [[ring[i], ring[(i + 2) % 4], ring[(i + 1) % 4], 1 + share, -share, 0, 0, 0, 0] for i in range(4)]
        quads += tube(rings)
        hidden += np.ravel(figure.rings[bone]).tolist()
    return rows, quads, hidden


def _weave(red: float, green: float, blue: float, holes: bool = False) -> np.ndarray:
    """A chequered texture (16, 16, 4), light and dark by turns; with `holes`, one square in four can be seen
    through."""
    y, x = np.indices((16, 16)) // 4
    colour = np.array([red, green, blue]) * np.where((x + y) % 2, 1.0, 0.6)[..., None]
    return np.concatenate([colour, 1.0 - (holes & (x % 2 == 0) & (y % 2 == 0))[..., None]], axis=-1)


def _write_wardrobe(folder: Path, figure: Figure) -> None:
    both = [name for bone in ("UpLeg", "Leg") for name in ("Left" + bone, "Right" + bone)]
    sleeves = [name for bone in ("Shoulder", "Arm", "ForeArm") for name in ("Left" + bone, "Right" + bone)]
    suit = _wider(figure, ["LowerBack", "Spine", "Spine1", *sleeves, "Hips", *both], 0.06)
    for name, colour in (("female_casualsuit01", (0.8, 0.7, 0.6)), ("male_casualsuit01", (0.5, 0.6, 0.8)),
                         ("male_worksuit01", (0.6, 0.6, 0.6))):
        _write_garment(folder / "clothes" / name / f"{name}.mhclo", figure, *suit, _weave(*colour))
    _write_dress(folder / "clothes" / "female_elegantsuit01" / "female_elegantsuit01.mhclo", figure)
    shoe = _wider(figure, [side + bone for side in ("Left", "Right") for bone in ("Foot", "ToeBase")], 0.05)
    for name in ("shoes01", "shoes02"):
        _write_garment(folder / "clothes" / name / f"{name}.mhclo", figure, *shoe, _weave(0.5, 0.4, 0.3))
    _, middle, high = figure.rings["Head"]
    cap = [[v] for v in middle]                                # fits the head, and rises above it
    cap += [[v, v, v, 1, 0, 0, 0, 0.3, 0] for v in high]
    over = tube([[0, 1, 2, 3], [4, 5, 6, 7]])
    for name, texture in (("short01", _weave(0.6, 0.5, 0.4)), ("short02", _weave(0.5, 0.5, 0.5, holes=True)),
                          ("bob01", _weave(0.5, 0.4, 0.4)), ("afro01", None)):
        _write_garment(folder / "hair" / name / f"{name}.mhclo", figure, cap, over, [], texture)
    brim = [[v, middle[(i + 2) % 4], v, 1.3, -0.3, 0, 0, 0.6, 0] for i, v in enumerate(middle)]
    _write_garment(folder / "clothes" / "fedora01" / "fedora.mhclo", figure,
                   brim + [[v, v, v, 1, 0, 0, 0, 0.6, 0] for v in high], over, [], _weave(0.7, 0.7, 0.7),
                   "materials/hat.mhmat")


def _write_dress(path: Path, figure: Figure) -> None:
    """One piece from the chest to the knees."""
    boxes = figure.rings
    levels = [boxes["LeftUpLeg"][-1] + boxes["RightUpLeg"][-1], boxes["Hips"][0], boxes["Hips"][2], boxes["Spine"][0],
              boxes["Spine1"][2]]
    rings = [[min(level, key=lambda v, want=corner: np.linalg.norm(figure.where(v)[[0, 2]] - want))
              for corner in ((-2, -1), (2, -1), (2, 1), (-2, 1))] for level in levels]
    rows = [[v, ring[(i + 2) % 4], v, 1.08, -0.08, 0, 0, 0, 0] for ring in rings for i, v in enumerate(ring)]
    hidden = [v for bone in ("Hips", "LowerBack", "Spine", "Spine1") for v in np.ravel(figure.rings[bone]).tolist()]
    quads = [quad[::-1] for quad in tube(np.arange(20).reshape(5, 4).tolist())]
    _write_garment(path, figure, rows, quads, hidden, _weave(0.9, 0.5, 0.5))


def _write_motion(folder: Path) -> None:
    """Exponential maps, 60 a second: three walks, three jumps and a kick, arms down, each with a swing of its own."""
    from posebook.synthesis.motion import EXPMAP_JOINTS
    column = {name: 3 + 3 * i for i, name in enumerate(EXPMAP_JOINTS) if name}
    moves = [(action, i, 0.3 + 0.12 * i) for action in ("walking", "jumping") for i in range(3)] + [("kicking", 0, 0.9)]
    for action, i, swing in moves:
        time = np.arange(31) / 60
        wave = swing * np.sin(2 * np.pi * (time + 0.1 * i))
        rows = np.zeros((31, 117))
        flight = 4 * np.sin(np.pi * time / 0.5) ** 2 if action == "jumping" else np.zeros(31)
        rows[:, :3] = np.stack([0.2 * i * np.ones(31), 17 + flight, 20 * time + i], 1)
        for side, sign in (("l", 1), ("r", -1)):
            rows[:, column[f"{side}femur"]] = sign * wave
            rows[:, column[f"{side}femur"] + 2] = sign * 0.3   # this skeleton rests with its legs apart
            rows[:, column[f"{side}tibia"]] = -abs(wave)       # the maps turn rows: a knee bends with less than 0
            rows[:, column[f"{side}humerus"] + 2] = sign * 1.1
            rows[:, column[f"{side}humerus"]] = -sign * wave
        path = folder / "cmu_expmap" / "S1" / action / f"{action}_{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(path, rows, fmt="%.5f", delimiter=",")


def _write_panoramas(folder: Path) -> None:
    """A sky with a sun at another place in each, above a floor in squares."""
    height, width = 128, 256
    y, x = np.indices((height, width))
    for i, name in enumerate(("bl_city", "bl_forest", "bl_night", "bl_studio", "pmndrs_studio")):
        sky = np.stack([0.4 + 0.1 * i * np.ones_like(y), 0.5 + y / 400, 0.7 - y / 300], -1)
        floor = np.where((x // 16 + y // 8) % 2, 0.25, 0.45)[..., None] * np.array([1.0, 0.9, 0.8])
        sun = np.hypot(x - 30 - 45 * i, y - 25 - 4 * i) < 7
        _picture(folder / f"{name}.jpg", np.where(sun[..., None], 1.0, np.where((y < 64)[..., None], sky, floor)))


def paint(folder: Path) -> Path:
    """Write the whole assets folder and return it."""
    figure = Figure()
    makehuman = folder / "makehuman"
    write_obj(makehuman / "base_mesh" / "base.obj", figure.vertices, figure.faces)
    _write_rig(makehuman / "rigs", figure)
    _write_targets(makehuman / "targets" / "macrodetails", figure)
    _write_wardrobe(makehuman, figure)
    _write_motion(folder / "motion")
    _write_panoramas(folder / "environments")
    return folder
