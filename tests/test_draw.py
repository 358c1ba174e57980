"""Pictures of poses: sides told apart twice, absent joints left out, hidden ones ringed."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from samples import people, pose

from posebook import draw
from posebook.skeleton import ABSENT, BODY_PARTS, LSP14, OCCLUDED, PART_COLOURS, VISIBLE


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def artists(ax):
    """Lines of limbs without halo, halos, and joint marks."""
    limbs = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_color() != "white"]
    halos = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_color() == "white"]
    return limbs, halos, [line for line in ax.lines if line.get_marker() == "o"]


JOINTS = pose(LSP14, (20, 20), 15)


def test_every_limb_and_joint_is_drawn_where_it_is(ax):
    draw.draw_pose(ax, JOINTS, LSP14)
    limbs, halos, marks = artists(ax)
    assert (len(limbs), len(halos), len(marks)) == (10, 10, 14)
    np.testing.assert_allclose([[m.get_xdata()[0], m.get_ydata()[0]] for m in marks], JOINTS, atol=1e-5)
    arm = limbs[LSP14.limb_names.index("left_lower_arm")]
    ends = JOINTS[[LSP14.index("left_elbow"), LSP14.index("left_wrist")]]
    np.testing.assert_allclose(np.stack([arm.get_xdata(), arm.get_ydata()], 1), ends, atol=1e-5)
    torso = limbs[LSP14.limb_names.index("torso")]
    hips = JOINTS[[LSP14.index("left_hip"), LSP14.index("right_hip")]].mean(axis=0)
    np.testing.assert_allclose([torso.get_xdata()[1], torso.get_ydata()[1]], hips, atol=1e-5)


def test_left_and_right_differ_in_colour_and_in_stroke(ax):
    draw.draw_pose(ax, JOINTS, LSP14, halo=False)
    limbs, halos, marks = artists(ax)
    assert not halos
    style = {side: {(line.get_color(), line.is_dashed()) for line, name in zip(limbs, LSP14.limb_names, strict=True)
                    if LSP14.side(name) == side} for side in ("left", "right", "middle")}
    assert all(len(found) == 1 for found in style.values())
    (left,), (right,), (middle,) = style.values()
    assert len({left[0], right[0], middle[0]}) == 3
    assert not left[1] and right[1]
    left_mark, right_mark = marks[LSP14.index("left_wrist")], marks[LSP14.index("right_wrist")]
    assert left_mark.get_markerfacecolor() == left[0] and right_mark.get_markerfacecolor() == right[0]


def test_absent_joints_and_their_limbs_are_not_drawn(ax):
    state = np.full(14, VISIBLE)
    state[LSP14.index("left_elbow")] = ABSENT               # both pieces of that arm
    state[LSP14.index("right_hip")] = ABSENT                # the thigh, and the torso that ends between the hips
    joints = JOINTS.copy()
    joints[state == ABSENT] = np.nan
    draw.draw_pose(ax, joints, LSP14, state)
    limbs, halos, marks = artists(ax)
    assert (len(limbs), len(halos), len(marks)) == (6, 6, 12)
    assert all(np.isfinite(line.get_xdata()).all() and np.isfinite(line.get_ydata()).all() for line in ax.lines)


def test_occluded_joints_are_rings(ax):
    state = np.full(14, VISIBLE)
    state[2] = OCCLUDED
    draw.draw_pose(ax, JOINTS, LSP14, state)
    marks = artists(ax)[2]
    assert marks[2].get_markerfacecolor() == "white" and marks[2].get_markeredgecolor() == draw.COLOURS["right"]
    assert marks[1].get_markerfacecolor() == draw.COLOURS["right"] and marks[1].get_markeredgecolor() == "white"


@pytest.mark.parametrize("shape", [(3, 20, 30), (20, 30, 3)])
def test_pictures_of_both_orders_are_shown(ax, shape):
    draw.show_image(ax, np.zeros(shape, np.uint8))
    assert ax.images[0].get_array().shape == (20, 30, 3) and not ax.axison


def test_floats_beyond_the_range_are_clipped_without_a_warning(ax, recwarn):
    draw.show_image(ax, np.linspace(-0.5, 1.5, 300).reshape(3, 10, 10))
    assert ax.images[0].get_array().min() == 0 and ax.images[0].get_array().max() == 1 and not recwarn.list


def test_contact_sheet_shows_each_picture_with_its_pose():
    data = people(5)
    poses = [*data.joints[:4], None]
    figure = draw.contact_sheet(data.images, poses, LSP14, list(data.state), [f"p{i}" for i in range(5)], columns=3)
    try:
        axes = figure.axes
        assert len(axes) == 6 and [len(a.images) for a in axes] == [1] * 5 + [0]
        assert [bool(a.lines) for a in axes] == [True] * 4 + [False] * 2
        assert [a.get_title() for a in axes[:5]] == ["p0", "p1", "p2", "p3", "p4"]
        assert axes[0].get_ylim() == (39.5, -0.5)           # y points down
        figure.canvas.draw()
    finally:
        plt.close(figure)


def test_legend_explains_the_sides(ax):
    draw.legend(ax)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["person's left", "person's right", "middle"]


def test_parts_have_their_colours_over_a_pale_picture():
    parts = np.zeros((8, 8), np.uint8)
    parts[2:4, 2:4] = 3
    for image, around in ((None, (0, 0, 0)), (np.full((3, 8, 8), 100, np.uint8), (178, 178, 178))):
        figure, ax = plt.subplots()
        draw.show_parts(ax, parts, image)
        shown = np.asarray(ax.images[0].get_array())
        assert tuple(shown[2, 2]) == tuple(PART_COLOURS[3]) and tuple(shown[0, 0]) == around
        plt.close(figure)


# Machado, Oliveira and Fernandes (2009), severity 1.0: linear RGB -> what is left of it for a colour-blind eye.
EYES = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def seen(colours, eye):
    """CIE Lab coordinates of colours (N, 3), 0..255, as this eye sees them; 2 units are just noticed by a usual one."""
    values = np.asarray(colours) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.transpose(EYES[eye]), 0, 1) @ XYZ.T / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("eye", EYES)
def test_the_sides_stay_apart_for_colour_blind_readers(eye):
    def smallest(some, others):
        return np.linalg.norm(seen(some, eye)[:, None] - seen(others, eye), axis=2).min()
    rgb = {side: [tuple(round(255 * v) for v in to_rgb(colour))] for side, colour in draw.COLOURS.items()}
    assert smallest(rgb["left"], rgb["right"]) > 40
    assert min(smallest(rgb["middle"], rgb[side]) for side in ("left", "right")) > 25
    parts = {side: [PART_COLOURS[1 + i] for i, name in enumerate(BODY_PARTS) if name.startswith(side)]
             for side in ("left", "right")}
    assert smallest(parts["left"], parts["right"]) > 35
    greens = [[(44, 110, 60)], [(214, 39, 40)]]             # a dark green and a red: this test can fail
    assert (smallest(*greens) > 35) == (eye in ("usual", "tritanopia"))
