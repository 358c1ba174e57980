"""Draw the three pictures of the landing page: what the shipped networks say about one person of the test split.

    python tools/make_cover.py [--assets DIR] [--person 33] [--out assets]

The networks see the stored picture, as they always do. With the assets from which people are made (`--assets`, see
book/appendix-assets.md) the same person is drawn again from the same camera, finer, to be looked at.
"""

from __future__ import annotations

import argparse
import base64
import io
from pathlib import Path

import numpy as np
from clean_notebooks import ROOT
from PIL import Image

from posebook import draw, geometry, networks, results, training
from posebook.datasets import load_people
from posebook.datasets.people import find_shards
from posebook.skeleton import H36M17, LSP14, Skeleton
from posebook.targets import build_codecs

SIDE = 480
COLOURS = {**draw.COLOURS, "left": "#3DA5F0", "middle": "#B8C0C8"}     # a brighter blue, since the ground is dark
GROUND, TRUTH = "#0F151C", "#FFFFFF"
WRIST = "left_wrist"


def sharp_picture(person: int, assets: str | None) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: the stored picture enlarged, or the person drawn again without the lens's flaws."""
    import pyarrow.parquet as pq
    row = pq.read_table(find_shards("test")[0]).slice(person, 1).to_pylist()[0]
    if assets is None:
        stored = Image.open(io.BytesIO(row["image"])).convert("RGB")
        return np.asarray(stored.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    from posebook.synthesis import render_anew
    from posebook.synthesis.pools import open_studio
    from posebook.synthesis.record import stored_camera
    camera = stored_camera(row).crop((-0.5, -0.5), 128, SIDE)
    return render_anew(open_studio(assets), row, camera, size=SIDE)["image"]


def jpeg(picture: np.ndarray, quality: int = 80) -> str:
    """A picture as an SVG image over the whole ground."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, optimize=True)
    code = base64.b64encode(buffer.getvalue()).decode()
    return f'<image width="{SIDE}" height="{SIDE}" href="data:image/jpeg;base64,{code}"/>'


def svg(title: str, *parts: str) -> str:
    """One square picture with rounded corners."""
    whole = f'width="{SIDE}" height="{SIDE}"'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" {whole} viewBox="0 0 {SIDE} {SIDE}" role="img">'
            f'<title>{title}</title><defs><clipPath id="c"><rect {whole} rx="18"/></clipPath></defs>'
            f'<g clip-path="url(#c)"><rect {whole} fill="{GROUND}"/>{"".join(parts)}</g></svg>\n')


def line(ends: np.ndarray, colour: str, width: float, dashes: str = "", opacity: float = 1) -> str:
    (x, y), (u, v) = ends
    more = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (f'<path d="M{x:.1f} {y:.1f}L{u:.1f} {v:.1f}" stroke="{colour}" stroke-width="{width:.1f}" '
            f'stroke-opacity="{opacity}" stroke-linecap="round" fill="none"{more}/>')


def dot(place: np.ndarray, colour: str, radius: float, edge: str = "#FFFFFF") -> str:
    return (f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="{radius}" fill="{colour}" stroke="{edge}" '
            'stroke-width="1.5"/>')


def bones(skeleton: Skeleton) -> list[tuple[int, int]]:
    """(child, parent) of every joint that has a parent, from the root outwards."""
    return [(j, int(skeleton.parents[j])) for j in skeleton.order_down if j != skeleton.root]


def figure(places: np.ndarray, skeleton: Skeleton, width: float) -> str:
    """A predicted pose: the person's left blue and solid, the right orange and dashed."""
    parts = []
    for halo in (True, False):
        for j, parent in bones(skeleton):
            side = skeleton.side(skeleton.joints[j])
            dashes = f"{width * 1.6:.0f} {width * 1.5:.0f}" if side == "right" and not halo else ""
            parts.append(line(places[[j, parent]], GROUND if halo else COLOURS[side], width + 4 * halo, dashes,
                              0.6 if halo else 1))
    return "".join(parts) + "".join(dot(p, COLOURS[skeleton.side(name)], width * 0.8)
                                    for p, name in zip(places, skeleton.joints, strict=True))


def joints_picture(picture: np.ndarray, joints: np.ndarray) -> str:
    return svg("A rendered runner, and over her the 14 joints that a network gives", jpeg(picture),
               figure(joints, LSP14, 6))


def map_picture(picture: np.ndarray, painted: np.ndarray, window: np.ndarray, grid: list[np.ndarray]) -> str:
    """painted (SIDE, SIDE), 0 to 1: how much speaks for the wrist; window, grid: boxes x0, y0, x1, y1."""
    grey = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2) * 0.7
    glow = painted[..., None] * 0.72
    shown = grey * (1 - glow) + np.array([40, 220, 160]) * glow
    boxes = [f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" fill="none" '
             'stroke="#FFFFFF" stroke-opacity="0.13"/>' for x0, y0, x1, y1 in grid]
    x0, y0, x1, y1 = window
    best = (f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" fill="none" '
            'stroke="#FFFFFF" stroke-width="3" rx="3"/>')
    return svg("The same picture, with a glow where a detector sees the left wrist",
               jpeg(shown.astype(np.uint8), 78), *boxes, best)


def space_picture(predicted: np.ndarray, true: np.ndarray, degrees: float = 50) -> str:
    """Two root-relative poses (17, 3) in camera mm, seen from the side of the camera, a little from above."""
    angle, tilt = np.radians(degrees), np.radians(-12)
    around = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    over = np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]])
    floor = predicted[:, 1].max() + 40

    def project(points: np.ndarray) -> np.ndarray:
        x, y, z = (np.asarray(points) @ around.T @ over.T).T
        scale = 4200 / (4200 + z) * SIDE / 2050
        return np.stack([SIDE / 2 + x * scale, SIDE * 0.47 + y * scale], axis=1)

    steps = np.arange(-1200, 1201, 300)
    parts = [line(project([[a, floor, -1200], [a, floor, 1200]]), "#5B6B7B", 1, opacity=0.7) for a in steps]
    parts += [line(project([[-1200, floor, a], [1200, floor, a]]), "#5B6B7B", 1, opacity=0.7) for a in steps]
    on_floor = [project(np.stack([pose[:, 0], np.full(17, floor), pose[:, 2]], axis=1)) for pose in (predicted, true)]
    parts += [line(on_floor[0][[j, p]], "#000000", 9, opacity=0.45) for j, p in bones(H36M17)]
    here, there = project(predicted), project(true)
    parts += [line(there[[j, p]], TRUTH, 3, opacity=0.75) for j, p in bones(H36M17)]
    return svg("The pose in space that a network gives, in colour, and the true one, in white, seen from the side",
               *parts, figure(here, H36M17, 7))


def main(arguments: list[str] | None = None) -> None:
    """Ask the networks, and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", help="folder of the ingredients of people, for a finer picture of the same person")
    parser.add_argument("--person", type=int, default=33, help="number in the test split")
    parser.add_argument("--out", type=Path, default=ROOT / "assets")
    options = parser.parse_args(arguments)
    weights, person = results.results_folder("weights"), np.array([options.person])
    flat, solid = (load_people("test", skeleton=skeleton).subset(person) for skeleton in (LSP14, H36M17))
    detector, regressor3d = (networks.load_network(weights / f"{name}.safetensors")[0]
                             for name in ("detection-people", "three-d-joint"))
    codecs = build_codecs(("regression", "joints"), LSP14, detector.config.crop)

    def enlarged(places: np.ndarray) -> np.ndarray:
        return (places + 0.5) * SIDE / 128 - 0.5

    def from_input(places: np.ndarray) -> np.ndarray:
        """Pixels of the network's input, the middle of the stored crop, to pixels of the shown picture."""
        margin = (flat.images.shape[-1] - detector.config.crop) / 2
        return enlarged(geometry.transform(flat.to_source, np.asarray(places, np.float32)[None] + margin)[0])

    joints = enlarged(training.predict(detector, codecs["regression"], flat)[0])
    cells, which = codecs["joints"], LSP14.index(WRIST)
    answers = cells.probabilities(training.run_network(detector, flat, "cpu", amp=False)["joints"])
    small = cells.paint(answers[:, [which]])[0, 0].numpy()
    low, high = from_input([[-0.5, -0.5], [detector.config.crop - 0.5] * 2])
    painted = np.zeros((SIDE, SIDE), np.float32)
    place = tuple(np.round([*low, *high]).astype(int))
    size = (place[2] - place[0], place[3] - place[1])
    painted[place[1]:place[3], place[0]:place[2]] = np.asarray(Image.fromarray(small).resize(size))
    painted = np.clip((painted / painted.max() - 0.15) / 0.85, 0, 1)
    corners = [(i, j) for i in range(cells.grid.side) for j in range(cells.grid.side)]
    boxes = [from_input([[cells.grid.stride * j - 0.5, cells.grid.stride * i - 0.5],
                         [cells.grid.stride * j - 0.5 + cells.grid.window,
                          cells.grid.stride * i - 0.5 + cells.grid.window]]).ravel() for i, j in corners]
    best = boxes[int(answers[0, which].argmax())]
    pose3d = build_codecs(("pose3d",), H36M17, regressor3d.config.crop)["pose3d"]
    predicted, true = (geometry.root_relative(pose, H36M17)[0]
                       for pose in (training.predict3d(regressor3d, pose3d, solid), solid.joints3d))
    picture = sharp_picture(options.person, options.assets)
    for name, text in (("joints", joints_picture(picture, joints)),
                       ("map", map_picture(picture, painted, best, boxes)),
                       ("space", space_picture(predicted, true))):
        path = options.out / f"cover-{name}.svg"
        path.write_text(text, encoding="utf-8")
        print(f"{path.name}: {len(text) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
