"""Figures that a reader can touch. Each is a piece of HTML with its data and a little script inside: it works in
the built book without a kernel, in JupyterLab and on Colab, with `display(HTML(window_grid(...)))`.
"""

from __future__ import annotations

import json
import uuid
from importlib import resources

import numpy as np

from posebook.skeleton import Skeleton
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


def _filled(name: str, data: dict) -> str:
    """The template with its data, under an id that no other figure on the page has."""
    text = resources.files("posebook.interactive").joinpath(name).read_text(encoding="utf-8")
    safe = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return text.replace("FIGURE_ID", f"figure-{uuid.uuid5(uuid.NAMESPACE_OID, name + safe).hex[:12]}").replace(
        "FIGURE_DATA", safe)
