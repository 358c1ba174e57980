"""Ray casting with Embree: the picture of a posed person in a panorama, and which joints are seen.

Four rays a pixel (2 x 2) find the first surface; it is shaded with its texture, smooth normals, the panorama's
diffuse light, a shadow ray towards the panorama's strongest light and a few short occlusion rays. The ground carries
the person's shadow.

Measured on one core of a shared server processor (128 x 128 pixels, 65,536 primary rays, about 29,000 triangles):
66 ms of processor time for `render`; 0.12 s for a whole record, with posing, scene building, labels and JPEG.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from posebook.skeleton import OCCLUDED, VISIBLE
from posebook.synthesis.scene import Camera, Light, Panorama
from posebook.synthesis.wardrobe import Person, sample, to_srgb

SUPERSAMPLING = 2
COVER = 14.0
"""Cloth this close (mm) behind bare skin is taken for cloth that the skin has pierced, and shown instead."""


class Surface:
    """A triangle soup that rays can be cast at. vertices (V, 3) mm, faces (F, 3)."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        """Raises RuntimeError if the ray caster is not installed."""
        try:
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore_scene import EmbreeScene
        except ImportError as error:
            raise RuntimeError("rendering needs the Embree ray caster: pip install embreex") from error
        self._scene = EmbreeScene(robust=True)
        self._mesh = TriangleMesh(self._scene, np.ascontiguousarray(vertices[faces], np.float32))

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
class Weather:
    """How a panorama is used for one picture: turned by `yaw`; `exposure` scales all light, in linear units."""

    panorama: Panorama
    yaw: float
    exposure: float


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


def render(person: Person, vertices: np.ndarray, surface: Surface, camera: Camera, weather: Weather, size: int,
           rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture.

    Args:
        vertices: (V, 3) posed vertices in the world, mm; surface: the same, for casting rays.
        camera: of the crop; size: pixels a side.

    Returns:
        image (size, size, 3) uint8 sRGB, and the share (size, size) of each pixel that the person covers.
    """
    fine = (np.arange(size * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - 0.5
    pixels = np.stack(np.meshgrid(fine, fine), axis=-1).reshape(-1, 2)
    directions = camera.rays(pixels)
    light = weather.panorama.light.turned(weather.yaw)
    hits = _primary(person, surface, camera, directions, _candidates(vertices, camera, pixels))
    radiance = weather.panorama.look_up(directions, weather.yaw)
    radiance *= _ground_shade(surface, camera.centre, directions, vertices, light)[:, None]
    if len(hits.ray):
        radiance[hits.ray] = _shade(person, vertices, surface, camera, directions[hits.ray], hits, light, rng)
    covered = np.zeros(len(pixels))
    covered[hits.ray] = 1
    linear = _shrink((radiance * weather.exposure).reshape(len(fine), len(fine), 3))
    return ((to_srgb(linear) * 255).round().astype(np.uint8), _shrink(covered.reshape(len(fine), len(fine), 1))[..., 0])


def _shrink(fine: np.ndarray) -> np.ndarray:
    """Mean over blocks of supersamples; clipped first, as a sensor clips."""
    n, s = fine.shape[0] // SUPERSAMPLING, SUPERSAMPLING
    return np.clip(fine, 0, 1).reshape(n, s, n, s, -1).mean((1, 3))


def _candidates(vertices: np.ndarray, camera: Camera, pixels: np.ndarray) -> np.ndarray:
    """Indices of pixels within the person's bounding box: no other ray can meet her."""
    seen = camera.to_camera(vertices) @ camera.intrinsics.T
    seen = seen[:, :2] / seen[:, 2:]
    low, high = seen.min(0) - 1, seen.max(0) + 1
    return np.flatnonzero(((pixels >= low) & (pixels <= high)).all(1))


def _primary(person: Person, surface: Surface, camera: Camera, directions: np.ndarray, rays: np.ndarray) -> _Hits:
    """First opaque surface on each ray: hair with holes lets the ray through, pierced cloth covers skin."""
    origins = np.broadcast_to(camera.centre, (len(rays), 3))
    face, distance, weights = surface.first_hit(origins, directions[rays])
    found = face >= 0
    rays, face, distance, weights = rays[found], face[found], distance[found], weights[found]
    colour = _texture(person, face, weights)
    for _ in range(4):
        clear = np.flatnonzero(colour[:, 3] < 0.5)
        if not len(clear):
            break
        face[clear], distance[clear], weights[clear] = _behind(surface, camera, directions, rays[clear],
                                                               distance[clear])
        colour[clear] = np.where((face[clear] >= 0)[:, None], _texture(person, face[clear], weights[clear]), 1)
    pierced = np.flatnonzero(person.skin[face] & (face >= 0))
    next_face, next_distance, next_weights = _behind(surface, camera, directions, rays[pierced], distance[pierced],
                                                     COVER)
    cloth = person.garment[next_face] & (next_face >= 0)
    pierced = pierced[cloth]
    face[pierced], distance[pierced], weights[pierced] = (next_face[cloth], next_distance[cloth], next_weights[cloth])
    colour[pierced] = _texture(person, face[pierced], weights[pierced])
    solid = (face >= 0) & (colour[:, 3] >= 0.5)
    return _Hits(rays[solid], face[solid], distance[solid], weights[solid], colour[solid])


def _behind(surface: Surface, camera: Camera, directions: np.ndarray, rays: np.ndarray, distance: np.ndarray,
            reach: float = 1e9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    start = distance + 0.5
    face, further, weights = surface.first_hit(camera.centre + directions[rays] * start[:, None], directions[rays],
                                               reach)
    return face, further + start, weights


def _texture(person: Person, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
    uv = np.einsum("nk,nkd->nd", weights, person.uv[face])
    colour = np.empty((len(face), 4), np.float32)
    for material in np.unique(person.material[face]):
        chosen = person.material[face] == material
        colour[chosen] = sample(person.textures[material], uv[chosen])
    return colour


def _shade(person: Person, vertices: np.ndarray, surface: Surface, camera: Camera, directions: np.ndarray,
           hits: _Hits, light: Light, rng: np.random.Generator) -> np.ndarray:
    """Radiance (N, 3) of diffuse surfaces under the panorama's light."""
    corners = person.faces[hits.face]
    normals = np.einsum("nk,nkd->nd", hits.weights, vertex_normals(vertices, person.faces)[corners])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    normals *= -np.sign((normals * directions).sum(1, keepdims=True) - 1e-9)  # cloth is seen from both sides
    points = camera.centre + directions * (hits.distance - 1.0)[:, None] + normals * 4
    lamp = np.clip(normals @ light.direction, 0, None)
    lit = lamp > 0
    toward = np.broadcast_to(light.direction, points.shape)
    lamp[lit] *= surface.first_hit(points[lit], toward[lit])[0] < 0
    openness = _openness(surface, points, normals, rng)
    irradiance = light.ambient(normals) * openness[:, None] + lamp[:, None] * light.lamp
    return hits.colour[:, :3] * irradiance / np.pi


def _openness(surface: Surface, points: np.ndarray, normals: np.ndarray, rng: np.random.Generator,
              rays: int = 3, reach: float = 350.0) -> np.ndarray:
    """Share (N,) of cosine-weighted directions that leave freely; a third of what is blocked still arrives."""
    blocked = np.zeros(len(points))
    for _ in range(rays):
        direction = rng.normal(size=points.shape)
        direction = direction / np.linalg.norm(direction, axis=1, keepdims=True) * 0.98 + normals
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        blocked += surface.first_hit(points, direction, reach)[0] >= 0
    return 1 - 0.67 * blocked / rays


def _ground_shade(surface: Surface, centre: np.ndarray, directions: np.ndarray, vertices: np.ndarray,
                  light: Light) -> np.ndarray:
    """Factor (N,) for background rays that meet the ground: the person keeps off the lamp, and light from above."""
    factor = np.ones(len(directions))
    down = np.flatnonzero(directions[:, 1] < -0.02)
    ground = centre - directions[down] * (centre[1] / directions[down, 1])[:, None]
    near = np.linalg.norm(ground[:, [0, 2]] - vertices[:, [0, 2]].mean(0), axis=1) < 3500
    down, ground = down[near], ground[near] + (0, 2, 0)
    up = light.ambient(np.array([[0.0, 1, 0]])).mean()
    lamp = light.lamp.mean() * max(light.direction[1], 0)
    toward = np.broadcast_to(light.direction, ground.shape)
    shadow = surface.first_hit(ground, toward)[0] >= 0
    low = vertices[vertices[:, 1] < 250]
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


def joint_states(person: Person, names: tuple[str, ...], bones: tuple[str, ...], joints: np.ndarray,
                 surface: Surface, camera: Camera) -> np.ndarray:
    """VISIBLE or OCCLUDED (J,) for joints (J, 3) in the world.

    A joint lies inside the body, so it counts as visible if the first surface on the ray from the camera to it is
    no more than the body's radius there (`ADJACENT`) in front of it *and* belongs to a bone that meets at the joint.
    A ray that reaches the joint without meeting a surface sees it too. Clothes and hair belong to the bone that
    carries them.
    """
    rays = joints - camera.centre
    length = np.linalg.norm(rays, axis=1)
    face, distance, _ = surface.first_hit(np.broadcast_to(camera.centre, rays.shape), rays / length[:, None])
    state = np.empty(len(joints), np.uint8)
    for j, name in enumerate(names):
        side, _, kind = name.partition("_") if name.startswith(("left", "right")) else ("", "", name)
        near, radius = ADJACENT[kind]
        near = {bone.format(side[:1].upper(), side.capitalize()) for bone in near}
        free = face[j] < 0 or distance[j] > length[j]
        own = bones[person.part[face[j]]] in near and length[j] - distance[j] < radius
        state[j] = VISIBLE if free or own else OCCLUDED
    return state
