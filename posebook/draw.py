"""Every picture of a pose in the book, with one convention.

The person's left is blue and solid, the right is orange and dashed, the middle is grey: told apart without colour,
and safe for colour-blind readers (Okabe and Ito's palette). A ring marks an occluded joint, a dot a visible one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from posebook.skeleton import ABSENT, PART_COLOURS, VISIBLE, Skeleton

COLOURS = {"left": "#0072B2", "right": "#E69F00", "middle": "#7F7F7F"}
STYLES = {"left": "-", "right": (0, (2.2, 1.2)), "middle": "-"}


def show_image(ax: Axes, image: np.ndarray) -> None:
    """Show a picture, (3, H, W) or (H, W, 3), uint8 or float 0..1, without axes."""
    pixels = np.asarray(image)
    pixels = pixels.transpose(1, 2, 0) if pixels.shape[0] == 3 and pixels.shape[-1] != 3 else pixels
    ax.imshow(pixels if pixels.dtype == np.uint8 else np.clip(pixels, 0, 1))
    ax.set_axis_off()


def show_parts(ax: Axes, parts: np.ndarray, image: np.ndarray | None = None) -> None:
    """Show part labels (S, S) in the colours of `skeleton.PART_COLOURS`, over `image` (3, S, S) uint8 in pale grey."""
    colours = PART_COLOURS[parts]
    if image is not None:
        grey = np.repeat(128 + image.mean(axis=0)[..., None] / 2, 3, axis=2).astype(np.uint8)
        colours = np.where(parts[..., None] > 0, colours, grey)
    show_image(ax, colours)


def draw_pose(ax: Axes, joints: np.ndarray, skeleton: Skeleton, state: np.ndarray | None = None, *,
              width: float = 2.0, alpha: float = 1.0, halo: bool = True) -> None:
    """Draw one pose in pixels.

    Args:
        joints: (J, 2), x right and y down; state: (J,), absent joints and limbs that need one are left out.
        halo: a thin white edge under the lines, so that they can be seen on any photograph.
    """
    joints = np.asarray(joints, float)
    state = np.full(len(skeleton), VISIBLE) if state is None else np.asarray(state)
    ends = np.einsum("elj,jd->led", skeleton.limb_weights, np.where((state != ABSENT)[:, None], joints, 0))
    for limb, name, weights in zip(ends, skeleton.limb_names, skeleton.limb_weights.sum(axis=0), strict=True):
        if (state[weights > 0] == ABSENT).any():
            continue
        side = skeleton.side(name)
        if halo:
            ax.plot(*limb.T, color="white", lw=width + 1.6, alpha=0.75 * alpha, solid_capstyle="round")
        ax.plot(*limb.T, color=COLOURS[side], ls=STYLES[side], lw=width, alpha=alpha, solid_capstyle="round")
    for name, joint, mark in zip(skeleton.joints, joints, state, strict=True):
        if mark != ABSENT:
            colour = COLOURS[skeleton.side(name)]
            ax.plot(*joint, "o", ms=width + 2, mec=colour if mark != VISIBLE else "white", mew=0.8, alpha=alpha,
                    mfc=colour if mark == VISIBLE else "white")


def contact_sheet(images: np.ndarray, poses: Sequence[np.ndarray | None], skeleton: Skeleton,
                  states: Sequence[np.ndarray] | None = None, titles: Sequence[str] | None = None, *,
                  columns: int = 6, side: float = 1.25, width: float = 1.4) -> Figure:
    """A sheet of pictures with poses drawn over them: images (N, 3, H, W), poses (N, J, 2) in their pixels."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * side, rows * (side + (0.2 if titles else 0))),
                                squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.set_axis_off()
    for i, (ax, image) in enumerate(zip(axes.flat, images, strict=False)):
        show_image(ax, image)
        ax.set_xlim(-0.5, image.shape[-1] - 0.5)
        ax.set_ylim(image.shape[-2] - 0.5, -0.5)
        if (pose := poses[i]) is not None:
            draw_pose(ax, pose, skeleton, None if states is None else states[i], width=width)
        if titles:
            ax.set_title(titles[i], fontsize=7, pad=2)
    return figure


def legend(ax: Axes, **options: Any) -> None:
    """Explain the sides, in the same colours and strokes."""
    for side in ("left", "right", "middle"):
        label = side if side == "middle" else f"person's {side}"
        ax.plot([], [], color=COLOURS[side], ls=STYLES[side], lw=2, label=label)
    ax.legend(**options)
