"""Lifeless things that hide a part of a person: crates, boards, posts and balls, from trimesh's primitives."""

from __future__ import annotations

import numpy as np

from posebook.synthesis.render import Stage, stage_thing
from posebook.synthesis.scene import Camera, Panorama
from posebook.synthesis.wardrobe import to_srgb


def random_thing(rng: np.random.Generator, camera: Camera, target: np.ndarray, extent: float,
                 panorama: Panorama) -> Stage:
    """A thing between the camera and a point.

    Args:
        target: (3,) the point that it stands before, mm in the world; extent: of the person, mm.
        panorama: where its surface pattern is cut from.
    """
    share = rng.uniform(0.55, 0.93)  # of the way from the camera to the target
    place = camera.centre + (target - camera.centre) * share
    reach = extent * share  # what covers the person from here
    kind = rng.choice(["post", "board", "crate", "ball"], p=[0.35, 0.25, 0.25, 0.15])
    vertices, faces = _primitive(rng, kind, reach)
    low = vertices[:, 1].min()
    place = place + rng.normal(0, 0.08 * reach, 3)
    if kind == "post" or (kind == "crate" and rng.random() < 0.7):  # these stand on the ground
        vertices = vertices * (1, max(1.0, place[1] + 0.25 * reach) / (-2 * low), 1)
        place[1] = -vertices[:, 1].min()
    vertices = vertices + place
    return stage_thing(vertices, faces, _box_uv(vertices, faces), _pattern(rng, panorama))


def _primitive(rng: np.random.Generator, kind: str, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) in mm around the origin and faces (F, 3), turned about the vertical."""
    from trimesh import creation
    if kind == "ball":
        mesh = creation.icosphere(subdivisions=2, radius=reach * rng.uniform(0.06, 0.14))
    elif kind == "post" and rng.random() < 0.6:
        mesh = creation.cylinder(radius=reach * rng.uniform(0.02, 0.07), height=reach, sections=20)
        mesh.vertices = mesh.vertices[:, [0, 2, 1]]  # trimesh's cylinders lie along z
        mesh.faces = mesh.faces[:, ::-1]
    else:
        sides = {"post": (0.04, 1.0, 0.04), "board": (0.5, 0.07, 0.03), "crate": (0.28, 0.22, 0.2)}[kind]
        mesh = creation.box(extents=reach * np.array(sides) * rng.uniform(0.6, 1.5, 3))
    yaw = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    # corners are not shared between sides, so that edges stay sharp under smooth normals
    if kind != "ball":
        return (mesh.triangles.reshape(-1, 3) @ turn.T), np.arange(3 * len(mesh.faces)).reshape(-1, 3)
    return np.asarray(mesh.vertices) @ turn.T, np.asarray(mesh.faces)


def _box_uv(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 3, 2) texture coordinates: each triangle seen along the axis that it faces; the pattern fills the thing."""
    corners = vertices[faces]
    normals = abs(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    unit = (corners - vertices.min(0)) / np.ptp(vertices, axis=0).max()
    axes = np.array([[2, 1], [0, 2], [0, 1]])[normals.argmax(1)]
    return np.take_along_axis(unit, axes[:, None, :].repeat(3, 1), axis=2)


def _pattern(rng: np.random.Generator, panorama: Panorama, side: int = 48) -> np.ndarray:
    """(side, side, 3) sRGB: a piece of the panorama as relief, in a colour of its own or (half the time) the
    panorama's."""
    import colorsys
    height, width = panorama.radiance.shape[:2]
    row, column = rng.integers(height // 4, height - height // 4 - side), rng.integers(width - side)
    piece = to_srgb(panorama.radiance[row:row + side, column:column + side])
    colour = np.array(colorsys.hsv_to_rgb(rng.random(), rng.beta(1.2, 2), rng.uniform(0.1, 0.9)))
    own = rng.random() < 0.5
    relief = piece if own else np.clip(piece.mean(-1, keepdims=True) / max(piece.mean(), 0.05), 0.5, 1.6) * colour
    return np.clip(relief, 0, 1).astype(np.float32)
