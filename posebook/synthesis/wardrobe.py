"""Clothes, shoes, hair: MakeHuman's `mhclo` garments fitted to any body, and dressed people.

A garment vertex hangs on three vertices of the base mesh: a weighted mean plus an offset that is scaled with the
body. The same weights mix the skin weights, so the garment moves with the skin below it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from posebook.datasets.base import decode
from posebook.files import reading
from posebook.synthesis.body import FETCH, BodyModel, Mesh, Shape, read_obj

TEXTURE_SIZE = 384
"""Side of the stored textures in pixels: at 128-pixel pictures nothing finer can be seen."""


@dataclass(frozen=True)
class Garment:
    """One piece of the wardrobe.

    Attributes:
        name: its folder's name; mesh: triangles and texture coordinates.
        reference: (V, 3) vertices of the base mesh; weights: (V, 3); offsets: (V, 3) in decimetres of the base mesh.
        scales: per axis, the two base vertices and the distance between them for which the offsets were made.
        hidden: base vertices that the garment covers; texture: path or None.
    """

    name: str
    mesh: Mesh
    reference: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    scales: tuple[tuple[int, int, float], ...]
    hidden: np.ndarray
    texture: Path | None

    def fit(self, body: np.ndarray) -> np.ndarray:
        """(V, 3) rest vertices in mm on a morphed body (B, 3) in mm."""
        scale = np.array([abs(body[a, axis] - body[b, axis]) / length for axis, (a, b, length)
                          in enumerate(self.scales)])
        return np.einsum("vk,vkd->vd", self.weights, body[self.reference]) + self.offsets * scale

    def skin_weights(self, body_weights: np.ndarray) -> np.ndarray:
        """(V, 31) skin weights mixed from the body's; negative mixing weights are taken as zero."""
        mix = np.clip(self.weights, 0, None)
        mix = mix / np.maximum(mix.sum(1, keepdims=True), 1e-6)
        return np.einsum("vk,vkb->vb", mix, body_weights[self.reference]).astype(np.float32)

    @cached_property
    def components(self) -> np.ndarray:
        """(F,) label of the connected piece that each triangle belongs to."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components
        f, n = self.mesh.faces, len(self.mesh.vertices)
        links = coo_matrix((np.ones(2 * len(f)), (np.r_[f[:, 0], f[:, 1]], np.r_[f[:, 1], f[:, 2]])), (n, n))
        return connected_components(links, directed=False)[1][f[:, 0]]


def read_garment(path: Path) -> Garment:
    """Read an `mhclo` file with the mesh that it names.

    Raises:
        OSError: if a file is damaged, naming it; ValueError: if it has another number of vertices than its mesh.
    """
    with reading(path, FETCH):
        return _parse_garment(path)


def _parse_garment(path: Path) -> Garment:
    scales: dict[str, tuple[int, int, float]] = {}
    rows, hidden, words_of, section = [], [], {}, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if not words or words[0] == "#":
            continue
        if words[0] in ("verts", "delete_verts"):
            section = words[0]
        elif words[0].endswith("_scale"):
            scales[words[0][0]] = int(words[1]), int(words[2]), float(words[3])
        elif not words[0].isdigit():
            words_of[words[0]] = words[-1]
        elif section == "verts":
            rows.append(words if len(words) > 1 else [words[0]] * 3 + ["1", "0", "0", "0", "0", "0"])
        else:
            hidden += _ranges(words)
    mesh = read_obj(path.with_name(words_of["obj_file"]))
    if len(rows) != len(mesh.vertices):
        raise ValueError(f"{path} fits {len(rows)} vertices, but its mesh has {len(mesh.vertices)}; fetch it again")
    table = np.array(rows, float)
    return Garment(path.parent.name, mesh, table[:, :3].astype(int), table[:, 3:6], table[:, 6:9],
                   tuple((a, b, length) for a, b, length in (scales[axis] for axis in "xyz")),
                   np.array(sorted(set(hidden)), int), _texture(path, words_of.get("material")))


def _ranges(words: list[str]) -> list[int]:
    """`3 5 - 7` -> 3, 5, 6, 7."""
    out: list[int] = []
    for i, word in enumerate(words):
        if word == "-":
            continue
        start = int(words[i - 2]) + 1 if i > 1 and words[i - 1] == "-" else int(word)
        out += range(start, int(word) + 1)
    return out


def _texture(path: Path, material: str | None) -> Path | None:
    """The picture that the garment's material names, if it is there."""
    described = path.parent / material if material else None
    if described is None or not described.is_file():
        return None
    with reading(described, FETCH):
        for line in described.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words[:1] == ["diffuseTexture"]:
                return next((p for p in (described.parent / words[1], path.parent / words[1]) if p.is_file()), None)
    return None


class Wardrobe:
    """All garments of the unpacked `makehuman/` folder, read when first worn."""

    def __init__(self, folder: Path) -> None:
        self._files = {path.stem: path for kind in ("clothes", "hair")
                       for path in sorted(folder.glob(f"{kind}/*/*.mhclo"))}
        self._garments: dict[str, Garment] = {}
        self._textures: dict[Path, np.ndarray] = {}
        hair = sorted(path.stem for path in folder.glob("hair/*/*.mhclo"))
        self.hair = tuple(name for name in hair if self[name].texture is not None)
        self.shoes = tuple(n for n in self._files if n.startswith("shoes"))
        self.outfits = tuple(n for n in self._files if "suit" in n)
        self.hats = tuple(n for n in self._files if n == "fedora")

    def __getitem__(self, name: str) -> Garment:
        if name not in self._garments:
            self._garments[name] = read_garment(self._files[name])
        return self._garments[name]

    def texture(self, garment: Garment) -> np.ndarray:
        """(S, S, 4) float32 sRGB and opacity in [0, 1]; plain light grey where the garment has no texture."""
        from PIL import Image
        if garment.texture is None:
            return np.tile(np.array([0.75, 0.75, 0.75, 1], np.float32), (8, 8, 1))
        if garment.texture not in self._textures:
            with reading(garment.texture, FETCH):
                picture = Image.fromarray(decode(garment.texture, "RGBA"))
                small = picture.resize((TEXTURE_SIZE, TEXTURE_SIZE), Image.Resampling.BOX)
            self._textures[garment.texture] = np.asarray(small, np.float32) / 255
        return self._textures[garment.texture]


@dataclass(frozen=True)
class Look:
    """Everything fixed about how a person looks: body, garments by name, colours (sRGB in [0, 1]).

    A hat is worn without hair and has the shoes' colour.
    """

    shape: Shape
    outfit: str
    shoes: str
    hair: str | None
    hat: str | None
    skin: tuple[float, float, float]
    hair_colour: tuple[float, float, float]
    eye_colour: tuple[float, float, float]
    top_colour: tuple[float, float, float] | None
    bottom_colour: tuple[float, float, float] | None
    shoe_colour: tuple[float, float, float] | None

    def to_json(self) -> str:
        """Short JSON, numbers to four digits."""
        numbers = json.loads(json.dumps(asdict(self)), parse_float=lambda text: round(float(text), 4))
        return json.dumps(numbers, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Look:
        """The look that `to_json` wrote. Raises ValueError on anything else."""
        try:
            raw = json.loads(text)
            shape = Shape(**_with_tuples(raw.pop("shape")))
            return cls(shape, **_with_tuples(raw))
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"this is not the look of a person as `people` stores it ({error})") from error


def _with_tuples(raw: dict) -> dict:
    """What JSON has stored as lists was tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}


SKIN_TONES = np.array([[58, 38, 31], [84, 54, 42], [112, 73, 53], [143, 97, 70], [178, 126, 94], [206, 156, 122],
                       [226, 181, 150], [240, 204, 180]]) / 255
HAIR_TONES = np.array([[20, 17, 16], [28, 22, 19], [48, 33, 24], [78, 52, 34], [112, 74, 42], [150, 108, 62],
                       [196, 160, 104], [125, 55, 30], [130, 128, 126], [205, 203, 200]]) / 255


def random_look(rng: np.random.Generator, wardrobe: Wardrobe) -> Look:
    """Draw a person: adult, of either sex, any age, build, ancestry and skin tone (drawn independently)."""
    male = float(rng.random() < 0.5)
    sex = "male" if male else "female"
    old = float(rng.beta(1, 2.2))
    shape = Shape(abs(male - rng.uniform(0, 0.15)), old, float(np.clip(rng.normal(0.5, 0.2), 0, 1)),
                  float(np.clip(rng.normal(0.5, 0.22), 0, 1)), float(np.clip(rng.normal(0.5, 0.045), 0.38, 0.62)),
                  float(np.clip(rng.normal(0.5, 0.25), 0, 1)), tuple(rng.dirichlet([0.5, 0.5, 0.5]).tolist()))
    own = [n for n in wardrobe.outfits if n.startswith(sex)]
    shared = [n for n in wardrobe.outfits if "casual" in n or "work" in n or "sport" in n]
    outfit = str(rng.choice(own if rng.random() < 0.6 else shared))
    styles = [n for n in wardrobe.hair if n.startswith("short")] if male and rng.random() < 0.9 else wardrobe.hair
    bald = rng.random() < (0.05 + 0.25 * old if male else 0.0)
    hat = str(rng.choice(wardrobe.hats)) if wardrobe.hats and rng.random() < 0.06 else None  # hair would pierce it
    tone = rng.uniform(0, len(SKIN_TONES) - 1)
    skin = [np.interp(tone, range(len(SKIN_TONES)), SKIN_TONES[:, c]) for c in range(3)]
    pool = [8, 9] if rng.random() < old ** 2 else [0, 0, 1, 2, 3] if tone < 4 else [0, 1, 2, 3, 4, 5, 6, 7]
    return Look(
        shape, outfit, str(rng.choice(wardrobe.shoes)), None if bald or hat else str(rng.choice(styles)), hat,
        _jitter(rng, np.array(skin), 0.04), _jitter(rng, HAIR_TONES[rng.choice(pool)], 0.15),
        tuple(np.array([[70, 45, 30], [50, 32, 22], [95, 115, 130], [90, 95, 60]])[rng.integers(4)] / 255),
        _cloth_colour(rng, 0.85), _cloth_colour(rng, 0.6), _cloth_colour(rng, 0.4))


def _jitter(rng: np.random.Generator, colour: np.ndarray, amount: float) -> tuple[float, float, float]:
    return tuple(np.clip(colour * (1 + rng.uniform(-amount, amount, 3)), 0, 1).tolist())


def _cloth_colour(rng: np.random.Generator, share: float) -> tuple[float, float, float] | None:
    """A cloth colour in HSV, greys included; None (the texture's own colours) for the rest of the draws."""
    import colorsys
    hue, saturation, value = rng.random(), rng.beta(1.2, 2.4), rng.uniform(0.08, 0.95)
    return colorsys.hsv_to_rgb(hue, saturation, value) if rng.random() < share else None


@dataclass(frozen=True)
class Person:
    """A dressed body, ready to be posed: one triangle mesh with materials.

    Attributes:
        rest: (V, 3) mm; weights: (V, 31); faces: (F, 3); uv: (F, 3, 2); material: (F,) index into `textures`.
        part: (F,) the bone that carries most of each triangle.
        textures: per material (h, w, 4) float32 *linear* colour and opacity.
        skin: (F,) bool, bare skin that cloth may cover; garment: (F,) bool, cloth or shoes.
        joints: (17, 3) rest joints; joint_bones: (17,) the bone that carries each.
        heads, tails: (31, 3) bone ends at rest; soles: (S,) vertices that touch the ground; soles_bones: (S,).
    """

    rest: np.ndarray
    weights: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    material: np.ndarray
    part: np.ndarray
    textures: tuple[np.ndarray, ...]
    skin: np.ndarray
    garment: np.ndarray
    joints: np.ndarray
    joint_bones: np.ndarray
    heads: np.ndarray
    tails: np.ndarray
    soles: np.ndarray
    sole_bones: np.ndarray


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] to linear light (IEC 61966-2-1)."""
    srgb = np.asarray(srgb, np.float32)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light, clipped to [0, 1], to sRGB."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


class _Builder:
    """Collects pieces of mesh into the arrays of a `Person`."""

    def __init__(self) -> None:
        self.vertices: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        self.pieces: list[tuple[np.ndarray, np.ndarray, int, str]] = []
        self.textures: list[np.ndarray] = []
        self.count = 0

    def add(self, vertices: np.ndarray, weights: np.ndarray) -> int:
        start, self.count = self.count, self.count + len(vertices)
        self.vertices.append(vertices)
        self.weights.append(weights)
        return start

    def paint(self, start: int, faces: np.ndarray, uv: np.ndarray, texture: np.ndarray, kind: str) -> None:
        """Add triangles; texture (h, w, 4) is sRGB and becomes linear here."""
        if len(faces):
            linear = np.concatenate([to_linear(texture[..., :3]), texture[..., 3:]], axis=-1).astype(np.float32)
            self.textures.append(linear)
            self.pieces.append((faces + start, uv, len(self.textures) - 1, kind))


def dress(model: BodyModel, wardrobe: Wardrobe, look: Look, names: tuple[str, ...]) -> Person:
    """Build the dressed person for a look; `names` are the joints to carry along (H36M17's)."""
    body = model.morph(look.shape)
    build = _Builder()
    garments = [wardrobe[n] for n in (look.outfit, look.shoes, look.hair, look.hat) if n]
    _add_body(build, model, body, garments, look)
    for garment in garments:
        start = build.add(garment.fit(body), garment.skin_weights(model.weights))
        _paint_garment(build, start, garment, wardrobe.texture(garment), look, build.weights[-1], model.bones)
    heads, tails = model.bone_ends(body)
    joints, joint_bones = model.rest_joints(body, names)
    # helpers that only carry clothes, and skin below them, are left behind here
    used, faces = np.unique(np.concatenate([p[0] for p in build.pieces]), return_inverse=True)
    faces = faces.reshape(-1, 3)
    rest, weights = np.concatenate(build.vertices)[used], np.concatenate(build.weights)[used]
    kind = np.concatenate([[p[3]] * len(p[0]) for p in build.pieces])
    part = weights[faces].sum(1).argmax(1)
    soles, sole_bones = _soles(rest, faces, part, model.bones)
    return Person(rest, weights, faces, np.concatenate([p[1] for p in build.pieces]),
                  np.concatenate([[p[2]] * len(p[0]) for p in build.pieces]), part, tuple(build.textures),
                  kind == "skin", kind == "garment", joints, joint_bones, heads, tails, soles, sole_bones)


def _add_body(build: _Builder, model: BodyModel, body: np.ndarray, garments: list[Garment], look: Look) -> None:
    mesh = model.mesh
    start = build.add(body, model.weights)
    hidden = np.zeros(len(body), bool)
    for garment in garments:
        hidden[garment.hidden] = True
    is_skin = (mesh.group == mesh.groups.index("body")) & ~hidden[mesh.faces].all(1)
    _solid(build, start, mesh.faces[is_skin], look.skin, "skin")
    for side in "lr":
        eye = mesh.faces[mesh.group == mesh.groups.index(f"helper-{side}-eye")]
        corners = mesh.vertices[eye].mean(1)
        middle, front = corners[:, :2].mean(0), corners[:, 2].max()
        iris = (np.linalg.norm(corners[:, :2] - middle, axis=1) < 0.065) & (corners[:, 2] > front - 0.1)
        _solid(build, start, eye[iris], look.eye_colour, "eye")
        _solid(build, start, eye[~iris], (0.85, 0.83, 0.8), "eye")


def _solid(build: _Builder, start: int, faces: np.ndarray, colour: tuple[float, float, float], kind: str) -> None:
    build.paint(start, faces, np.zeros((len(faces), 3, 2)), np.array([[[*colour, 1]]], np.float32), kind)


def _paint_garment(build: _Builder, start: int, garment: Garment, texture: np.ndarray, look: Look,
                   weights: np.ndarray, bones: tuple[str, ...]) -> None:
    """Recolour a garment piece by piece: trousers, top and shoes take their own colours, hair its own."""
    faces, uv = garment.mesh.faces, garment.mesh.uv[garment.mesh.uv_faces]
    kind = "hair" if garment.name == look.hair else "garment"
    if garment.name == look.outfit:
        bottom = _below_waist(garment, weights, bones)
        regions = [(bottom, look.bottom_colour), (~bottom, look.top_colour)]
    else:
        regions = [(np.ones(len(faces), bool), look.hair_colour if garment.name == look.hair else look.shoe_colour)]
    for chosen, colour in regions:
        if chosen.any():
            build.paint(start, faces[chosen], uv[chosen], recolour(texture, uv[chosen], colour), kind)


def _below_waist(garment: Garment, weights: np.ndarray, bones: tuple[str, ...]) -> np.ndarray:
    """(F,) bool, the triangles of trousers or skirt: whole connected pieces that the legs carry, or, in an outfit of
    one piece, what the pelvis and the legs carry."""
    legs = [b for b, bone in enumerate(bones) if bone.endswith(("UpLeg", "Leg", "Foot", "ToeBase"))]
    hips = [b for b, bone in enumerate(bones) if bone.endswith(("Hips", "HipJoint"))]
    share = weights[garment.mesh.faces].mean(1)
    if garment.components.max() == 0:
        return share[:, legs + hips].sum(1) > 0.5
    per_piece = np.bincount(garment.components, share[:, legs].sum(1)) / np.bincount(garment.components)
    return per_piece[garment.components] > 0.45


def recolour(texture: np.ndarray, uv: np.ndarray, colour: tuple[float, float, float] | None) -> np.ndarray:
    """Keep a texture's relief, replace its colour: brightness relative to the mean under `uv`, times `colour`."""
    if colour is None:
        return texture
    grey = texture[..., :3].mean(-1)
    mean = sample(texture, uv.reshape(-1, 2))[:, :3].mean()
    relief = np.clip(grey / max(mean, 0.02), 0.35, 1.7)[..., None]
    return np.concatenate([np.clip(relief * np.array(colour, np.float32), 0, 1), texture[..., 3:]], axis=-1)


def sample(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Nearest texel (N, C) for texture coordinates (N, 2), v upwards, repeating."""
    height, width = texture.shape[:2]
    x = (uv[:, 0] % 1 * width).astype(int).clip(0, width - 1)
    y = ((1 - uv[:, 1]) % 1 * height).astype(int).clip(0, height - 1)
    return texture[y, x]


def _soles(rest: np.ndarray, faces: np.ndarray, part: np.ndarray, bones: tuple[str, ...]) -> tuple[np.ndarray,
                                                                                              np.ndarray]:
    """Lowest visible vertices of each foot and toe bone."""
    vertices, owners = [], []
    for b, bone in enumerate(bones):
        if bone.endswith(("Foot", "ToeBase")) and (part == b).any():
            own = np.unique(faces[part == b])
            lowest = own[np.argsort(rest[own, 1])[:40]]
            vertices.append(lowest)
            owners.append(np.full(len(lowest), b))
    return np.concatenate(vertices), np.concatenate(owners)


