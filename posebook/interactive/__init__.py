"""Figures that a reader can touch. Each is a piece of HTML with its data and a little script inside: it works in
the built book without a kernel, in JupyterLab and on Colab, with `display(HTML(window_grid(...)))`. README.md says how
they are made and what they share.
"""

from __future__ import annotations

import base64
import io
import json
import uuid
from collections.abc import Sequence
from importlib import resources

import numpy as np

from posebook import geometry, metrics
from posebook.pictorial import Springs
from posebook.skeleton import ABSENT, Skeleton
from posebook.targets import PartWindows


def window_grid(joints: np.ndarray, skeleton: Skeleton, codec: PartWindows, limb: str) -> str:
    """HTML in which the reader moves the ends of a limb over the detection windows and sees which turn positive.

    Works with mouse, touch and keyboard (arrow keys move the end or the window that has the focus).

    Args:
        joints: (J, 2) a pose in pixels of the network's input; limb: the part to begin with, by name.

    Raises:
        ValueError: if the skeleton has no such limb, or the pose is not one of it.
    """
    joints = np.asarray(joints, float)
    if joints.shape != (len(skeleton), 2) or not np.isfinite(joints).all():
        raise ValueError(f"a pose of {skeleton.name} is ({len(skeleton)}, 2) finite numbers, not {joints.shape}")
    if limb not in skeleton.limb_names:
        raise ValueError(f"{skeleton.name} has no part {limb}; it has {', '.join(skeleton.limb_names)}")
    ends = np.einsum("elj,jd->led", skeleton.limb_weights, joints)
    grid = codec.grid
    return _filled("window_grid.html", {
        "size": grid.size, "window": grid.window, "stride": grid.stride, "side": grid.side, "share": codec.share,
        "limb": skeleton.limb_names.index(limb),
        "limbs": [{"name": name.replace("_", " "), "side": skeleton.side(name), "ends": pair.round(2).tolist()}
                  for name, pair in zip(skeleton.limb_names, ends, strict=True)]})


def structure(springs: Springs, peaks: Sequence[tuple[str, float, float, float]], side: int = 30,
              width: float = 1.5) -> str:
    """HTML in which the reader moves peaks of evidence and the stiffness of springs, and the best pose follows.

    The page computes it by the messages of `pictorial.best_pose`, with one component a spring. Mouse, touch and
    keyboard.

    Args:
        springs: of a tree of at most four joints, with one component, in cells; the weights of evidence are not used,
            since peaks have heights. peaks: (joint's name, x, y, height) of each bump of evidence. side: of the map,
            width: standard deviation of a bump, in cells.

    Raises:
        ValueError: if the tree is too large or a spring has several components, or if a peak names no joint or lies
            outside of the map.
    """
    skeleton = springs.skeleton
    if len(skeleton) > 4 or springs.bias.shape[1] > 1:
        raise ValueError(f"the figure has colours for four joints, and springs with one component; {skeleton.name} has "
                         f"{len(skeleton)} joints and {springs.bias.shape[1]} components")
    order = list(skeleton.order_down)                                   # the page wants parents before children
    names = [skeleton.joints[j] for j in order]
    for name, x, y, _ in peaks:
        if name not in names or not (0 <= x < side and 0 <= y < side):
            raise ValueError(f"the peak of {name} at {x}, {y} does not fit: joints are {', '.join(names)}, the map has "
                             f"{side} x {side} cells")
    return _filled("structure.html", {
        "side": side, "width": width, "background": 1e-3, "joints": [name.replace("_", " ") for name in names],
        "parents": [order.index(int(skeleton.parents[j])) for j in order],
        "offsets": [springs.offset[j, 0].tolist() for j in order],
        "variances": [(springs.variance[j, 0] / springs.stiffness[j]).tolist() for j in order],
        "peaks": [{"joint": names.index(name), "x": x, "y": y, "height": height} for name, x, y, height in peaks]})


def skeletons(images: np.ndarray, truth: np.ndarray, poses: dict[str, np.ndarray], skeleton: Skeleton,
              names: Sequence[str]) -> str:
    """HTML with pictures, true and predicted 3D poses side by side, that can be turned by mouse, touch and keyboard.

    Plotly draws it (a copy of its 3D part lies in `assets/vendor`, and the built book loads it from there).

    Args:
        images: (N, 3, S, S) uint8; truth: (N, J, 3) root-relative millimetres in camera coordinates; poses: predictor's
            name -> (N, J, 3), the same; names: what each person's button says.

    Raises:
        ValueError: if shapes do not fit or there is nothing to show.
    """
    shape = (len(images), len(skeleton), 3)
    if not len(images) or not poses or len(names) != len(images):
        raise ValueError("the figure needs people, a name for each, and the poses of one predictor at least")
    for name, pose in {"truth": truth, **poses}.items():
        if np.shape(pose) != shape or not np.isfinite(pose).all():
            raise ValueError(f"the poses of {name} must be {shape} finite numbers, not {np.shape(pose)}")
    return _filled("skeletons.html", {
        "joints": [joint.replace("_", " ") for joint in skeleton.joints],
        "bones": [[int(skeleton.parents[j]), j, skeleton.side(joint)] for j, joint in enumerate(skeleton.joints)
                  if j != skeleton.root],
        "people": [{"name": names[n], "image": _jpeg(images[n]), "truth": np.rint(truth[n]).astype(int).tolist(),
                    "poses": {name: np.rint(pose[n]).astype(int).tolist() for name, pose in poses.items()}}
                   for n in range(len(images))]})


def pairs(matrices: dict[str, dict[str, np.ndarray]], pose: np.ndarray, skeleton: Skeleton,
          chosen: tuple[str, str]) -> str:
    """HTML with matrices over pairs of joints, values from -1 to 1; the two joints of a cell light up on a body.

    Mouse, touch and keyboard (arrow keys go from cell to cell).

    Args:
        matrices: what they are of -> coordinate -> (J, J), NaN where nothing is known; the first is shown first.
        pose: (J, 2) the body that is drawn, x right and y down; chosen: the two joints to begin with, by name.

    Raises:
        ValueError: if a shape does not fit or there is no matrix; KeyError: for an unknown joint.
    """
    count = len(skeleton)
    shapes = {np.shape(m) for each in matrices.values() for m in each.values()}
    if shapes != {(count, count)} or np.shape(pose) != (count, 2) or len({tuple(m) for m in matrices.values()}) != 1:
        raise ValueError(f"the figure needs matrices ({count}, {count}) of the same coordinates and a body "
                         f"({count}, 2)")
    low, high = np.min(pose, axis=0), np.max(pose, axis=0)
    numbers = {kind: {axis: [[None if np.isnan(v) else round(float(v), 3) for v in row] for row in np.asarray(m, float)]
                      for axis, m in each.items()} for kind, each in matrices.items()}
    return _filled("pairs.html", {
        "joints": [joint.replace("_", " ") for joint in skeleton.joints], "parents": skeleton.parents.tolist(),
        "pose": ((np.asarray(pose) - low) / (high - low).max() * 2).round(3).tolist(), "matrices": numbers,
        "chosen": [skeleton.index(name) for name in chosen]})


def neurons(averages: np.ndarray, patches: np.ndarray, scores: np.ndarray, controls: np.ndarray, dead: np.ndarray,
            skeleton: Skeleton, label: str, control_label: str) -> str:
    """HTML with a button for each map of a layer; chosen, it shows its strongest patches and how selective it is.

    Args:
        averages: (C, 3, R, R) float 0..1; patches: (C, 9, 3, R, R) uint8; scores, controls: (C, J) in 0..1, the bars
            and the lines to compare them with; dead: (C,) bool; label, control_label: what bars and lines are.

    Raises:
        ValueError: if shapes do not fit.
    """
    count, joints = np.shape(scores)
    if joints != len(skeleton) or np.shape(controls) != (count, joints) or len(averages) != count \
            or np.shape(patches)[:2] != (count, 9) or len(dead) != count:
        raise ValueError(f"the figure needs, for each of C maps, an average, nine patches and {len(skeleton)} scores")
    gain = np.nan_to_num(np.asarray(scores, float) - np.asarray(controls, float)).max(axis=1)
    sheets = [np.concatenate([np.concatenate(list(row), axis=2) for row in nine.reshape(3, 3, *nine.shape[1:])], axis=1)
              for nine in patches]
    return _filled("neurons.html", {
        "joints": [joint.replace("_", " ") for joint in skeleton.joints], "label": label, "controlLabel": control_label,
        "chosen": int(gain.argmax()),
        "maps": [{"average": _jpeg(np.rint(averages[c] * 255).astype(np.uint8)), "patches": _jpeg(sheets[c]),
                  "score": np.nan_to_num(scores[c]).round(3).tolist(), "dead": bool(dead[c]),
                  "control": np.nan_to_num(controls[c]).round(3).tolist()} for c in range(count)]})


def live_network(small: bool = False) -> str:
    """HTML in which the book's own 2D networks run, on the reader's pictures too, without a kernel.

    Unlike the other figures it works only in pages of the built book, which load `assets/live` from `_static`; anywhere
    else, JupyterLab for one, its place says so in a sentence.

    Args:
        small: a picture and its joints alone, without the maps behind them.
    """
    text = resources.files("posebook.interactive").joinpath("live.html").read_text(encoding="utf-8")
    instead = "" if small else " In JupyterLab, run the cells of this chapter instead."
    return text.replace("FIGURE_SMALL", " data-small" if small else "").replace("FIGURE_INSTEAD", instead)


def measures(image: np.ndarray, joints: np.ndarray, state: np.ndarray, joints3d: np.ndarray, skeleton: Skeleton,
             chosen: str, jitter: float = 7.0, aside: int = 12, seed: int = 0) -> str:
    """HTML in which the reader drags the joints of a predicted pose, and the measures of `metrics` move.

    Mouse, touch and keyboard; the prediction is drawn over the picture and from the side. Dragged in the picture, a
    joint moves in space by as many millimetres a pixel as fit the true pose best (a weak perspective).

    Args:
        image: (3, S, S) uint8; joints: (J, 2) the truth in its pixels; state: (J,); joints3d: (J, 3) millimetres in
            camera coordinates; chosen: the joint to begin with, by name; jitter: standard deviation of the prediction
            to begin with, in pixels of each axis, drawn with `seed`; aside: pixels by which a button moves everything.

    Raises:
        ValueError: if a shape does not fit, a labelled joint is not finite or jitter is negative; KeyError: for an
            unknown joint.
    """
    count = len(skeleton)
    state, truth, truth3 = np.asarray(state), np.asarray(joints, float).round(2), np.asarray(joints3d, float).round(1)
    if truth.shape != (count, 2) or truth3.shape != (count, 3) or state.shape != (count,):
        raise ValueError(f"the figure needs joints ({count}, 2), joints in 3D ({count}, 3) and a state ({count},) for "
                         f"{skeleton.name}, not {truth.shape}, {truth3.shape} and {state.shape}")
    known = state != ABSENT
    if not np.isfinite(truth3).all() or not np.isfinite(truth[known]).all() or known.sum() < 3 or jitter < 0:
        raise ValueError("the figure needs three labelled joints or more, finite numbers, and a jitter of 0 or more")
    truth = np.where(known[:, None], truth, 0)
    scale = _millimetres_a_pixel(truth[known], truth3[known])
    noise = np.random.default_rng(seed).normal(0, jitter, (count, 3)).round(2)
    rulers = {"box": metrics.box_size(geometry.joints_box(truth, state)[None]),
              "torso": metrics.torso_diameter(truth[None], state[None], skeleton),
              "head": metrics.head_length(truth[None], state[None], skeleton)}
    chain = skeleton.parents
    return _filled("measures.html", {
        "size": image.shape[-1], "image": _jpeg(image), "joints": _spoken(skeleton.joints),
        "sides": [skeleton.side(name) for name in skeleton.joints], "state": state.tolist(), "root": skeleton.root,
        "bones": [[int(chain[j]), j, skeleton.side(name)] for j, name in enumerate(skeleton.joints) if chain[j] != j],
        "limbs": [{"name": limb.name.replace("_", " "), "start": [skeleton.index(name) for name in limb.start],
                   "end": [skeleton.index(name) for name in limb.end]} for limb in skeleton.limbs],
        "mirror": skeleton.mirror.tolist(), "chosen": skeleton.index(chosen), "scale": scale,
        "aside": aside, "truth": truth.tolist(), "truth3": truth3.tolist(),
        "start": (truth + noise[:, :2]).round(2).tolist(), "start3": (truth3 + scale * noise).round(1).tolist(),
        "reach": round(1.3 * float(np.abs(truth3 - truth3[skeleton.root])[:, 1:].max())),
        "rulers": {name: float(value[0]) if value[0] > 0 else None for name, value in rulers.items()}})


def _millimetres_a_pixel(joints: np.ndarray, joints3d: np.ndarray) -> float:
    """The scale that takes 2D joints (J, 2) to x and y of the joints in 3D (J, 3) with the least squared error."""
    flat, solid = joints - joints.mean(axis=0), joints3d[:, :2] - joints3d[:, :2].mean(axis=0)
    return round(float((flat * solid).sum() / (flat ** 2).sum()), 3)


def film(images: np.ndarray, truth: np.ndarray, state: np.ndarray, takes: dict[str, dict], floor: dict[str, float],
         skeleton: Skeleton) -> str:
    """HTML in which the reader goes through trainings and sees what a network answers for a few people.

    A slider, a button that plays, and the arrow keys on the slider.

    Args:
        images: (N, 3, S, S) uint8, what the network sees; truth: (N, J, 2) in its pixels, state: (N, J); takes: a
            training's name -> its record of `posebook.film` with "images", "loss", "pck", "spread" (F,) and "poses"
            (F, N, J, 2); floor: "loss" and "pck" of the mean pose.

    Raises:
        ValueError: if a shape does not fit, a number is not finite or there is no training.
    """
    people, count = len(images), len(skeleton)
    if not takes or np.shape(truth) != (people, count, 2) or np.shape(state) != (people, count):
        raise ValueError(f"the figure needs a training and, for {people} people, joints ({people}, {count}, 2) with "
                         f"their state, not {np.shape(truth)} and {np.shape(state)}")
    shown = {}
    for name, take in takes.items():
        frames = len(take["images"])
        series = {key: np.asarray(take[key], float) for key in ("loss", "pck", "spread")}
        poses = np.asarray(take["poses"], float)
        if poses.shape != (frames, people, count, 2) or any(len(values) != frames for values in series.values()) \
                or not all(np.isfinite(values).all() for values in (poses, *series.values())):
            raise ValueError(f"{name}: a film of {frames} frames needs as many finite numbers of each kind, and poses "
                             f"({frames}, {people}, {count}, 2), not {poses.shape}")
        shown[name] = {"images": list(take["images"]), **{key: _significant(values) for key, values in series.items()},
                       "poses": np.rint(10 * poses).astype(int).reshape(frames, people, -1).tolist()}
    chain = skeleton.parents
    return _filled("film.html", {
        "size": images.shape[-1], "bones": [[int(chain[j]), j, skeleton.side(name)]
                                            for j, name in enumerate(skeleton.joints) if chain[j] != j],
        "people": [{"image": _jpeg(image), "truth": np.asarray(pose, float).round(1).tolist(), "state": marks.tolist()}
                   for image, pose, marks in zip(images, truth, np.asarray(state), strict=True)],
        "floor": {key: float(floor[key]) for key in ("loss", "pck")}, "takes": shown})


def _significant(values: np.ndarray) -> list[float]:
    """Four digits each: more cannot be seen."""
    return [float(f"{value:.4g}") for value in values]


def _spoken(names: Sequence[str]) -> list[str]:
    """Names of joints as they are read."""
    return [name.replace("_", " ") for name in names]


def _jpeg(image: np.ndarray) -> str:
    """(3, S, S) uint8 as an address that holds the picture itself."""
    from PIL import Image
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] != image.shape[2] or image.dtype != np.uint8:
        raise ValueError(f"a picture is (3, S, S) uint8, not {image.shape} {image.dtype}")
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _filled(name: str, data: dict) -> str:
    """The template with the shared script and style and its data, under an id that no other figure on the page has."""
    folder = resources.files("posebook.interactive")
    text, script, style = (folder.joinpath(file).read_text(encoding="utf-8").rstrip("\n")
                           for file in (name, "figure.js", "figure.css"))
    text = text.replace("FIGURE_SCRIPT", script).replace("FIGURE_STYLE", style)
    safe = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return text.replace("FIGURE_ID", f"figure-{uuid.uuid5(uuid.NAMESPACE_OID, name + safe).hex[:12]}").replace(
        "FIGURE_DATA", safe)
