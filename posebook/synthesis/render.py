"""Ray casting with Embree: the picture of a posed person in a panorama, what part each pixel shows, and which joints
are seen.

Four rays a pixel find the first surface; it is shaded with its texture, smooth normals, the panorama's diffuse light,
a shadow ray towards the panorama's strongest light and a short occlusion ray. The ground carries the shadow.

Why this library: one core drew 128 x 128 pixels of a person of 29,000 triangles in a new pose each time in
47 ms with Embree (22 ms of it for the tree), 42 ms with NVIDIA Warp on the CPU and 29 ms with VTK through PyVista
(medians of 600 pictures, `benchmarks/renderers.json`); memory was flat for all three. VTK's picture lacks cast shadows
and occlusion, needs a second drawing for the part labels, and its bytes depend on the system's Mesa; it installs in
577 MiB where Embree takes 44. Warp draws the same picture as Embree in 389 MiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from posebook.skeleton import BODY_PARTS, OCCLUDED, VISIBLE
from posebook.synthesis.scene import Camera, Light, Panorama
from posebook.synthesis.wardrobe import Person, sample, to_linear

COVER = 14.0
"""Cloth this close (mm) behind bare skin is taken for cloth that the skin has pierced, and shown instead."""
GRID = np.array([[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]])
"""Where in a pixel a sharp picture is sampled."""
SPIRAL = np.array([[0.1, -0.4], [0.4, 0.25], [-0.2, 0.1], [-0.4, -0.25], [0.25, -0.1], [-0.1, 0.4]])
"""The same for a blurred picture: one place for each moment."""


class Surface:
    """Triangles that rays can be cast at. vertices (V, 3) mm, faces (F, 3)."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        """Raises RuntimeError if the ray caster is not installed."""
        try:
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore_scene import EmbreeScene
        except ImportError as error:
            raise RuntimeError("rendering needs the Embree ray caster and trimesh: pip install embreex trimesh"
                               ) from error
        self._scene = EmbreeScene(robust=True)
        self._mesh = TriangleMesh(self._scene, np.ascontiguousarray(vertices, np.float32),
                                  np.ascontiguousarray(faces, np.int32))

    def first_hit(self, origins: np.ndarray, directions: np.ndarray,
                  reach: float = 1e9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First triangle along each ray.

        Returns:
            face (N,), -1 where the ray meets nothing within `reach`; distance (N,); barycentric weights (N, 3).
        """
        if len(origins) == 0:
            return np.zeros(0, int), np.zeros(0), np.zeros((0, 3))
        hit = self._scene.run(np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(directions, np.float32),
                              dists=np.full(len(origins), reach, np.float32), output=1)
        u, v = hit["u"].astype(np.float64), hit["v"].astype(np.float64)
        return hit["primID"].astype(int), hit["tfar"].astype(np.float64), np.stack([1 - u - v, u, v], axis=1)


@dataclass(frozen=True)
class Stage:
    """Everything solid at one moment, as one mesh.

    Attributes:
        vertices: (V, 3) mm in the world; faces: (F, 3); uv: (F, 3, 2).
        material: (F,) index into `textures`; textures: (h, w, 4) float32 linear colour and opacity.
        skin: (F,) bool, bare skin that cloth may cover; garment: (F,) bool, cloth or shoes.
        part: (F,) uint8, 1 + index in BODY_PARTS on the subject, 0 on everything else.
        bone: (F,) the subject's bone that carries the triangle, -1 on everything else.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    material: np.ndarray
    textures: tuple[np.ndarray, ...]
    skin: np.ndarray
    garment: np.ndarray
    part: np.ndarray
    bone: np.ndarray

    @cached_property
    def surface(self) -> Surface:
        """What rays are cast at."""
        return Surface(self.vertices, self.faces)

    @cached_property
    def normals(self) -> np.ndarray:
        """(V, 3) unit normals, the area-weighted mean of the triangles around each vertex."""
        return vertex_normals(self.vertices, self.faces)


def stage_person(person: Person, vertices: np.ndarray, bones: tuple[str, ...], subject: bool = True) -> Stage:
    """A posed person: `vertices` (V, 3) in the world. Bystanders (`subject=False`) have no parts."""
    table = np.array([part_of_bone(bone) for bone in bones], np.uint8)
    part, bone = (table[person.part], person.part) if subject else (np.zeros(len(person.faces), np.uint8),
                                                                    np.full(len(person.faces), -1))
    return Stage(vertices, person.faces, person.uv, person.material, person.textures, person.skin, person.garment,
                 part, bone)


def stage_thing(vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, texture: np.ndarray) -> Stage:
    """A lifeless thing with one texture (h, w, 3), sRGB in [0, 1]."""
    no = np.zeros(len(faces), bool)
    linear = np.concatenate([to_linear(texture), np.ones((*texture.shape[:2], 1), np.float32)], axis=-1)
    return Stage(vertices, faces, uv, no.astype(int), (linear,), no, no, no.astype(np.uint8), np.full(len(faces), -1))


def join(stages: Sequence[Stage]) -> Stage:
    """Several meshes as one."""
    if len(stages) == 1:
        return stages[0]
    vertices = np.cumsum([0] + [len(s.vertices) for s in stages])
    textures = np.cumsum([0] + [len(s.textures) for s in stages])

    def all_of(name: str) -> np.ndarray:
        return np.concatenate([getattr(s, name) for s in stages])
    return Stage(all_of("vertices"), np.concatenate([s.faces + n for s, n in zip(stages, vertices, strict=False)]),
                 all_of("uv"), np.concatenate([s.material + n for s, n in zip(stages, textures, strict=False)]),
                 tuple(texture for s in stages for texture in s.textures), all_of("skin"), all_of("garment"),
                 all_of("part"), all_of("bone"))


def part_of_bone(bone: str) -> int:
    """1 + index in BODY_PARTS of the part that a bone of the rig carries."""
    side = next((s for s in ("left", "right") if bone.startswith((s.capitalize(), s[0].upper() + "Thumb"))), None)
    ends = {"Arm": "upper_arm", "ForeArm": "lower_arm", "Hand": "hand", "FingerBase": "hand", "HandFinger1": "hand",
            "Thumb": "hand", "UpLeg": "upper_leg", "Leg": "lower_leg", "Foot": "foot", "ToeBase": "foot"}
    name = ends.get(bone.removeprefix("Left").removeprefix("Right") if "Thumb" not in bone else "Thumb")
    if side and name:
        return 1 + BODY_PARTS.index(f"{side}_{name}")
    return 1 + BODY_PARTS.index("head" if bone in ("Head", "Neck", "Neck1") else "torso")


@dataclass(frozen=True)
class Weather:
    """How a panorama is used for one picture: turned by `yaw`; `exposure` scales all light, in linear units."""

    panorama: Panorama
    yaw: float
    exposure: float

    @cached_property
    def light(self) -> Light:
        """That of the panorama, turned with it."""
        return self.panorama.light.turned(self.yaw)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals, the area-weighted mean of the triangles around each vertex."""
    corners = vertices[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    out = np.stack([np.bincount(faces.ravel(), np.repeat(face_normals[:, k], 3), len(vertices)) for k in range(3)], 1)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class _Hits:
    """What primary rays met: ray index, triangle, distance, barycentric weights, texture (N, 4)."""

    ray: np.ndarray
    face: np.ndarray
    distance: np.ndarray
    weights: np.ndarray
    colour: np.ndarray


def render(moments: Sequence[Stage], camera: Camera, weather: Weather, size: int,
           rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture.

    Args:
        moments: what is there while the shutter is open, evenly spread in time, the label's moment first. One moment
            makes a sharp picture of four samples a pixel; of several, each after the first gives one sample.
        camera: of the crop; size: pixels a side.

    Returns:
        light (size, size, 3) in linear units, 1 as bright as the sensor records; parts (size, size) uint8, the
        subject's part that fills most of each pixel at the first moment, 0 where she fills less than half.
    """
    corner = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).reshape(-1, 2).astype(float)
    middle = camera.rays(corner)
    behind = weather.panorama.look_up(middle, weather.yaw)
    labels = np.zeros((len(GRID), len(corner)), np.uint8)
    offsets = [GRID] if len(moments) == 1 else [SPIRAL[[k % len(SPIRAL)]] for k in range(len(moments) - 1)]
    total = np.zeros_like(behind)
    for stage, places in zip(moments[-len(offsets):], offsets, strict=True):
        shaded = behind * _ground_shade(stage, camera.centre, middle, weather.light)[:, None]
        pixels = (corner + places[:, None]).reshape(-1, 2)
        directions = camera.rays(pixels)
        hits = _primary(stage, camera, directions, _candidates(stage.vertices, camera, pixels))
        fine = np.tile(shaded, (len(places), 1))
        if len(hits.ray):
            fine[hits.ray] = _shade(stage, camera, directions[hits.ray], hits, weather.light, rng)
        # each sample is clipped as a sensor clips, so that edges against a bright sky stay smooth
        total += np.clip(fine * weather.exposure, 0, 1).reshape(len(places), *behind.shape).sum(0)
        if stage is moments[0]:
            labels.reshape(-1)[hits.ray] = stage.part[hits.face]
    if len(moments) > 1:
        pixels = (corner + GRID[:, None]).reshape(-1, 2)
        hits = _primary(moments[0], camera, camera.rays(pixels), _candidates(moments[0].vertices, camera, pixels))
        labels.reshape(-1)[hits.ray] = moments[0].part[hits.face]
    samples = sum(map(len, offsets))
    return (total / samples).reshape(size, size, 3), _most(labels).reshape(size, size)


def _most(labels: np.ndarray) -> np.ndarray:
    """(N,) the most frequent part of (S, N) samples, 0 where parts fill less than half of them."""
    counts = np.stack([(labels == part).sum(0) for part in range(1, len(BODY_PARTS) + 1)])
    return np.where(counts.sum(0) * 2 >= len(labels), counts.argmax(0) + 1, 0).astype(np.uint8)


def _candidates(vertices: np.ndarray, camera: Camera, pixels: np.ndarray) -> np.ndarray:
    """Indices of pixels within the bounding box of what lies before the camera: no other ray can meet anything."""
    seen = camera.to_camera(vertices) @ camera.intrinsics.T
    if seen[:, 2].min() < 1:  # something reaches behind the camera: its outline is not bounded
        return np.arange(len(pixels))
    seen = seen[:, :2] / seen[:, 2:]
    low, high = seen.min(0) - 1, seen.max(0) + 1
    return np.flatnonzero(((pixels >= low) & (pixels <= high)).all(1))


def _primary(stage: Stage, camera: Camera, directions: np.ndarray, rays: np.ndarray) -> _Hits:
    """First opaque surface on each ray: hair with holes lets the ray through, pierced cloth covers skin."""
    origins = np.broadcast_to(camera.centre, (len(rays), 3))
    face, distance, weights = stage.surface.first_hit(origins, directions[rays])
    found = face >= 0
    rays, face, distance, weights = rays[found], face[found], distance[found], weights[found]
    colour = _texture(stage, face, weights)
    for _ in range(4):
        clear = np.flatnonzero(colour[:, 3] < 0.5)
        if not len(clear):
            break
        face[clear], distance[clear], weights[clear] = _behind(stage, camera, directions, rays[clear],
                                                               distance[clear])
        colour[clear] = np.where((face[clear] >= 0)[:, None], _texture(stage, face[clear], weights[clear]), 1)
    pierced = np.flatnonzero(stage.skin[face] & (face >= 0))
    next_face, next_distance, next_weights = _behind(stage, camera, directions, rays[pierced], distance[pierced],
                                                     COVER)
    cloth = stage.garment[next_face] & (next_face >= 0)
    pierced = pierced[cloth]
    face[pierced], distance[pierced], weights[pierced] = (next_face[cloth], next_distance[cloth], next_weights[cloth])
    colour[pierced] = _texture(stage, face[pierced], weights[pierced])
    solid = (face >= 0) & (colour[:, 3] >= 0.5)
    return _Hits(rays[solid], face[solid], distance[solid], weights[solid], colour[solid])


def _behind(stage: Stage, camera: Camera, directions: np.ndarray, rays: np.ndarray, distance: np.ndarray,
            reach: float = 1e9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    start = distance + 0.5
    face, further, weights = stage.surface.first_hit(camera.centre + directions[rays] * start[:, None],
                                                     directions[rays], reach)
    return face, further + start, weights


def _texture(stage: Stage, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
    uv = np.einsum("nk,nkd->nd", weights, stage.uv[face])
    colour = np.empty((len(face), 4), np.float32)
    for material in np.unique(stage.material[face]):
        chosen = stage.material[face] == material
        colour[chosen] = sample(stage.textures[material], uv[chosen])
    return colour


def _shade(stage: Stage, camera: Camera, directions: np.ndarray, hits: _Hits, light: Light,
           rng: np.random.Generator) -> np.ndarray:
    """Radiance (N, 3) of diffuse surfaces under the panorama's light."""
    normals = np.einsum("nk,nkd->nd", hits.weights, stage.normals[stage.faces[hits.face]])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    normals *= -np.sign((normals * directions).sum(1, keepdims=True) - 1e-9)  # cloth is seen from both sides
    points = camera.centre + directions * (hits.distance - 1.0)[:, None] + normals * 4
    lamp = np.clip(normals @ light.direction, 0, None)
    lit = lamp > 0
    toward = np.broadcast_to(light.direction, points.shape)
    lamp[lit] *= stage.surface.first_hit(points[lit], toward[lit])[0] < 0
    openness = _openness(stage.surface, points, normals, rng)
    irradiance = light.ambient(normals) * openness[:, None] + lamp[:, None] * light.lamp
    return hits.colour[:, :3] * irradiance / np.pi


def _openness(surface: Surface, points: np.ndarray, normals: np.ndarray, rng: np.random.Generator,
              reach: float = 350.0) -> np.ndarray:
    """1 where one cosine-weighted random direction leaves freely; of what is blocked, a third still arrives."""
    direction = rng.normal(size=points.shape)
    direction = direction / np.linalg.norm(direction, axis=1, keepdims=True) * 0.98 + normals
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return 1 - 0.67 * (surface.first_hit(points, direction, reach)[0] >= 0)


def _ground_shade(stage: Stage, centre: np.ndarray, directions: np.ndarray, light: Light) -> np.ndarray:
    """Factor (N,) for background rays that meet the ground: what stands there keeps off the lamp, and light from
    above where it is close to the ground."""
    factor = np.ones(len(directions))
    down = np.flatnonzero(directions[:, 1] < -0.02)
    ground = centre - directions[down] * (centre[1] / directions[down, 1])[:, None]
    low, high = stage.vertices.min(0), stage.vertices.max(0)
    near = (np.linalg.norm(ground[:, [0, 2]] - (low + high)[[0, 2]] / 2, axis=1)
            < 2000 + np.linalg.norm((high - low)[[0, 2]]) / 2)
    down, ground = down[near], ground[near] + (0, 2, 0)
    up = light.ambient(np.array([[0.0, 1, 0]])).mean()
    lamp = light.lamp.mean() * max(light.direction[1], 0)
    shadow = stage.surface.first_hit(ground, np.broadcast_to(light.direction, ground.shape))[0] >= 0
    low = stage.vertices[stage.vertices[:, 1] < 250]
    contact = np.zeros(len(ground))
    if len(low):  # a soft dark patch around whatever is close to the ground
        for point in low[:: max(1, len(low) // 24)]:
            reach = 60 + 1.2 * max(point[1], 0)
            away = ((ground - point)[:, [0, 2]] ** 2).sum(1)
            contact = np.maximum(contact, np.exp(-away / (2 * reach ** 2)) * 60 / reach)
    factor[down] = (up * (1 - 0.5 * contact) + lamp * ~shadow) / (up + lamp)
    return factor


ADJACENT: dict[str, tuple[tuple[str, ...], float]] = {
    "pelvis": (("Hips", "LHipJoint", "RHipJoint", "LowerBack", "LeftUpLeg", "RightUpLeg"), 260),
    "spine": (("Hips", "LHipJoint", "RHipJoint", "LowerBack", "Spine", "Spine1"), 260),
    "neck": (("Spine1", "Neck", "Neck1", "LeftShoulder", "RightShoulder", "Spine"), 190),
    "nose": (("Head",), 60), "head_top": (("Head",), 130),
    "hip": (("Hips", "{0}HipJoint", "{1}UpLeg", "LowerBack"), 230), "knee": (("{1}UpLeg", "{1}Leg"), 150),
    "ankle": (("{1}Leg", "{1}Foot", "{1}ToeBase"), 120),
    "shoulder": (("Spine1", "{1}Shoulder", "{1}Arm"), 180), "elbow": (("{1}Arm", "{1}ForeArm"), 110),
    "wrist": (("{1}ForeArm", "{1}Hand", "{1}FingerBase", "{0}Thumb"), 90),
}
"""Joint -> (bones whose surface may lie in front of it, body radius there in mm). {0} is L or R, {1} Left or Right."""


def joint_states(stage: Stage, names: tuple[str, ...], bones: tuple[str, ...], joints: np.ndarray,
                 camera: Camera) -> np.ndarray:
    """VISIBLE or OCCLUDED (J,) for joints (J, 3) in the world, whether or not the picture reaches so far.

    A joint lies inside the body, so it counts as visible if the first surface on the ray from the camera to it is
    no more than the body's radius there (`ADJACENT`) in front of it *and* belongs to a bone that meets at the joint.
    A ray that reaches the joint without meeting a surface sees it too. Clothes and hair belong to the bone that
    carries them; as in the picture, rays pass through the holes of hair.
    """
    rays = joints - camera.centre
    length = np.linalg.norm(rays, axis=1)
    hits = _primary(stage, camera, rays / length[:, None], np.arange(len(rays)))
    face, distance = np.full(len(rays), -1), np.zeros(len(rays))
    face[hits.ray], distance[hits.ray] = hits.face, hits.distance
    state = np.empty(len(joints), np.uint8)
    for j, name in enumerate(names):
        side, _, kind = name.partition("_") if name.startswith(("left", "right")) else ("", "", name)
        templates, radius = ADJACENT[kind]
        near = {bone.format(side[:1].upper(), side.capitalize()) for bone in templates}
        free = face[j] < 0 or distance[j] > length[j]
        bone = stage.bone[face[j]]
        own = bone >= 0 and bones[bone] in near and length[j] - distance[j] < radius
        state[j] = VISIBLE if free or own else OCCLUDED
    return state
