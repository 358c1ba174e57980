"""The embedded `people` data set, and the generator that made it.

The generator's ingredients are painted for the tests (`ingredients.py`): a figure of boxes in wider boxes. Where
POSEBOOK_ASSETS names the folder of the real ones, the tests that hold for any body run with these instead.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import ingredients
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posebook import geometry
from posebook.files import read_sums, sha256
from posebook.skeleton import BODY_PARTS, H36M17, OCCLUDED, VISIBLE
from posebook.synthesis import (
    Recipe,
    assets,
    body,
    lens,
    motion,
    pools,
    record,
    render,
    render_anew,
    render_record,
    scene,
    shards,
    synthesize,
    things,
    wardrobe,
)

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
PEOPLE = Path(__file__).parents[1] / "data" / "people"
LEAST = {"train": 8000, "validation": 1000, "test": 1000}
ASSETS = os.environ.get("POSEBOOK_ASSETS")
needs_assets = pytest.mark.skipif(not ASSETS, reason="POSEBOOK_ASSETS does not name the folder of real ingredients")



@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """The folder of painted ingredients."""
    return ingredients.paint(tmp_path_factory.mktemp("painted"))


# ---------------------------------------------------------------- the committed files

@pytest.fixture(scope="module")
def tables():
    return {split: pa.concat_tables(pq.read_table(path) for path in sorted(PEOPLE.glob(f"{split}-*.parquet")))
            for split in LEAST}


def column(table, name, *shape):
    return table[name].combine_chunks().flatten().to_numpy().astype(np.float64).reshape(len(table), *shape)


@pytest.fixture(scope="module")
def poses(tables):
    """All splits' joints (N, 17, 3), pixels (N, 17, 2), intrinsics (N, 3, 3) and subjects (N,)."""
    def together(name, *shape):
        return np.concatenate([column(t, name, *shape) for t in tables.values()])
    subjects = np.concatenate([t["subject"].to_numpy(zero_copy_only=False) for t in tables.values()])
    return together("joints3d", 17, 3), together("joints2d", 17, 2), together("camera", 3, 3), subjects


def strings(tables, name):
    return np.concatenate([t[name].to_numpy(zero_copy_only=False) for t in tables.values()])


def with_effect(tables, name):
    """(N,) bool: which pictures have a difficulty."""
    return np.array([name in effects.split() for effects in strings(tables, "effects")])


def joint(points, name):
    return points[:, H36M17.index(name)]


def test_counts_size_and_schema(tables):
    for split, least in LEAST.items():
        assert len(tables[split]) >= least
        assert tables[split].schema.remove_metadata().equals(record.schema())
    assert sum(path.stat().st_size for path in PEOPLE.iterdir()) <= 32_000_000


def test_checksums_match():
    sums = read_sums(PEOPLE)
    assert set(sums) == {path.name for path in PEOPLE.glob("*.parquet")}
    assert all(sha256(PEOPLE / name) == digest for name, digest in sums.items())


def test_images_are_rgb_squares_that_differ(tables):
    from PIL import Image
    for table in tables.values():
        images = table["image"].to_pylist()
        assert len(set(images)) == len(images)
        for data in images[::97]:
            with Image.open(io.BytesIO(data)) as picture:
                assert picture.format == "JPEG" and picture.mode == "RGB" and picture.size == (128, 128)
                assert np.asarray(picture).std() > 5


def test_camera_projects_joints_onto_their_pixels(poses):
    joints, pixels, cameras, _ = poses
    image = np.einsum("nij,nkj->nki", cameras, joints)
    assert abs(image[..., :2] / image[..., 2:] - pixels).max() < 0.01
    assert joints[..., 2].min() > 500


def test_joints_and_box_lie_in_the_image(tables, poses):
    pixels, cut = poses[1], with_effect(tables, "cut")
    there = record.inside(pixels, 128)
    assert there[~cut].all()
    assert (there[cut].sum(1) >= 8).all() and (there[cut].sum(1) <= 15).all()
    boxes = np.concatenate([column(t, "box", 4) for t in tables.values()])
    assert boxes.min() >= 0 and boxes.max() <= 128
    assert (boxes[~cut, 2:] - boxes[~cut, :2]).max(1).min() > 60  # the person fills the crop
    held = (pixels > boxes[:, None, :2] - 3) & (pixels < boxes[:, None, 2:] + 2)
    assert held[there].mean() > 0.999


def test_every_difficulty_has_its_share(tables):
    for name in ("tumbling", "things", "others", "cut", "blur"):
        found, share = with_effect(tables, name), getattr(Recipe(), name)
        assert 0.6 * share < found.mean() <= 1.15 * share, name
    assert (with_effect(tables, "tumbling") == (strings(tables, "action") == "tumbling")).all()


@pytest.fixture(scope="module")
def labels(tables):
    """Part labels (M, 128, 128) of every 10th picture, and the pictures' numbers (M,)."""
    from PIL import Image
    data = [row for t in tables.values() for row in t["parts"].to_pylist()]
    pick = np.arange(0, len(data), 10)
    return np.stack([np.asarray(Image.open(io.BytesIO(data[i]))) for i in pick]), pick


ENDS = {"wrist": ("lower_arm", "hand"), "elbow": ("upper_arm", "lower_arm"), "knee": ("upper_leg", "lower_leg"),
        "ankle": ("lower_leg", "foot"), "head_top": ("head",), "nose": ("head",)}


def parts_at(name):
    side, _, kind = name.partition("_") if name.startswith(("left", "right")) else ("", "", name)
    return [1 + BODY_PARTS.index(f"{side}_{part}" if side else part) for part in ENDS[kind]]


def near(labels, pixels, reach=2):
    """Labels (K, 25) around points (K, 2) of as many label images."""
    x, y = np.clip(np.round(pixels).astype(int), reach, labels.shape[-1] - 1 - reach).T
    rows = np.arange(len(x))
    return np.stack([labels[rows, y + dy, x + dx] for dy in range(-reach, reach + 1)
                     for dx in range(-reach, reach + 1)], 1)


def test_a_visible_joint_lies_on_its_own_parts(tables, poses, labels):
    """And so left and right of joints and part labels agree."""
    images, pick = labels
    pixels, state = poses[1][pick], np.concatenate([column(t, "state", 17) for t in tables.values()])[pick]
    assert images.max() == len(BODY_PARTS)
    for name in (j for j in H36M17.joints if j.split("_", 1)[-1] in ENDS or j in ENDS):
        j = H36M17.index(name)
        seen = (state[:, j] == VISIBLE) & record.inside(pixels[:, j], 128)
        found = near(images[seen], pixels[seen, j])
        own = np.isin(found, parts_at(name)).any(1)
        assert seen.sum() > 150 and own.mean() > 0.985, f"{name}: {own.mean():.3f} of {seen.sum()}"
        if "_" in name and name != "head_top":  # the other side's parts are where the limbs cross, and nowhere else
            other = "right" + name[4:] if name.startswith("left") else "left" + name[5:]
            assert np.isin(found, parts_at(other)).any(1).mean() < 0.35, name


def test_what_hides_a_joint_is_not_its_part(tables, poses, labels):
    """At an occluded wrist the picture shows another part, a thing or a bystander, seldom the hand."""
    images, pick = labels
    pixels, state = poses[1][pick], np.concatenate([column(t, "state", 17) for t in tables.values()])[pick]
    for name in ("left_wrist", "right_wrist", "left_ankle", "right_ankle"):
        j = H36M17.index(name)
        hidden = (state[:, j] == OCCLUDED) & record.inside(pixels[:, j], 128)
        on = near(images[hidden], pixels[hidden, j], 0)[:, 0]
        assert hidden.sum() > 50 and np.isin(on, parts_at(name)).mean() < 0.3, name


def test_splits_share_no_subject_clip_or_background():
    splits = {split: shards.distinct(sorted(PEOPLE.glob(f"{split}-*.parquet"))) for split in LEAST}
    assert [len(found["subject"]) for found in splits.values()] == [1000, 125, 125]
    shards.assert_no_leak(splits)
    with pytest.raises(ValueError, match="train and test share the subject train-0-00000; keep the splits apart"):
        shards.assert_no_leak({"train": splits["train"], "test": splits["train"]})


def test_many_actions_subjects_and_directions(tables, poses):
    actions = {split: set(t["action"].to_pylist()) for split, t in tables.items()}
    assert len(actions["train"]) >= 8
    assert actions["validation"] <= actions["train"] and actions["test"] <= actions["train"]
    assert len(actions["validation"] & actions["test"]) >= 6
    assert len(set(poses[3])) >= 1250
    facing = _forward(poses[0])[strings(tables, "action") != "tumbling"]
    bins = np.histogram(np.arctan2(facing[:, 0], facing[:, 2]), bins=8, range=(-np.pi, np.pi))[0]
    assert bins.min() > len(facing) / 20


def test_limbs_keep_their_length_within_a_subject(poses):
    joints, _, _, subjects = poses
    ends = np.einsum("elj,njd->neld", H36M17.limb_weights, joints)
    lengths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=-1)
    rigid = [i for i, limb in enumerate(H36M17.limbs) if H36M17.side(limb.name) != "middle"]
    assert len(rigid) == 8
    for subject in np.unique(subjects):
        own = lengths[subjects == subject][:, rigid]
        assert (np.ptp(own, axis=0) < 0.01 * own.mean(0)).all()


def test_body_sizes_are_human_and_varied(poses):
    joints = poses[0]
    legs = (np.linalg.norm(joint(joints, "left_hip") - joint(joints, "left_knee"), axis=1)
            + np.linalg.norm(joint(joints, "left_knee") - joint(joints, "left_ankle"), axis=1))
    assert legs.min() > 550 and legs.max() < 1150 and legs.std() > 30


def _forward(joints):
    """Unit vector (N, 3) out of the chest, from the hips' line and the trunk."""
    across = joint(joints, "left_hip") - joint(joints, "right_hip")
    out = np.cross(across, joint(joints, "neck") - joint(joints, "pelvis"))
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def test_who_faces_the_camera_has_the_left_shoulder_on_the_picture_s_right(poses):
    joints, pixels = poses[:2]
    toward = -_forward(joints)[:, 2]
    gap = joint(pixels, "left_shoulder")[:, 0] - joint(pixels, "right_shoulder")[:, 0]
    upright = joint(pixels, "neck")[:, 1] < joint(pixels, "pelvis")[:, 1] - 15
    assert (upright & (toward > 0.8)).sum() > 200
    assert (gap[upright & (toward > 0.8)] > 0).mean() > 0.97
    assert (gap[upright & (toward < -0.8)] < 0).mean() > 0.97


def test_the_nose_points_forward(poses):
    joints = poses[0]
    ahead = ((joint(joints, "nose") - joint(joints, "neck")) * _forward(joints)).sum(1)
    assert (ahead > 0).mean() > 0.97


def test_knees_bend_backwards_from_the_thigh(poses):
    """The shank turns towards the back, about the axis from the right hip to the left."""
    joints = poses[0]
    across = joint(joints, "left_hip") - joint(joints, "right_hip")
    for side in ("left", "right"):
        thigh = joint(joints, f"{side}_knee") - joint(joints, f"{side}_hip")
        shank = joint(joints, f"{side}_ankle") - joint(joints, f"{side}_knee")
        turn = np.cross(thigh, shank)
        bent = np.linalg.norm(turn, axis=1) > np.sin(np.deg2rad(25)) * (np.linalg.norm(thigh, axis=1)
                                                                       * np.linalg.norm(shank, axis=1))
        assert bent.sum() > 300
        assert ((turn * across).sum(1)[bent] > 0).mean() > 0.95


def test_states_are_plausible(tables, poses):
    states = np.concatenate([column(t, "state", 17) for t in tables.values()])
    assert set(np.unique(states)) == {OCCLUDED, VISIBLE}
    seen = states == VISIBLE
    assert 0.6 < seen.mean() < 0.95
    for name in ("things", "others"):
        assert seen[with_effect(tables, name)].mean() < seen.mean()
    free = ~(with_effect(tables, "things") | with_effect(tables, "others") | with_effect(tables, "tumbling"))
    facing, seen = -_forward(poses[0])[free, 2], seen[free]
    nose = seen[:, H36M17.index("nose")]
    assert nose[facing > 0.9].mean() > 0.8 and nose[facing < -0.9].mean() < 0.1


# ---------------------------------------------------------------- the generator, without ingredients

def _turn(axis, degrees):
    return motion.Rotation.from_euler(axis, degrees, degrees=True).as_matrix()


TINY_HEADS = np.array([[0.0, 0, 0], [0, 100, 0], [0, 200, 0]])
TINY_PARENTS = np.array([-1, 0, 1])


def test_skinning_at_rest_changes_nothing():
    rng = np.random.default_rng(0)
    vertices = rng.normal(size=(20, 3)) * 100
    weights = rng.dirichlet([1, 1, 1], 20)
    still = body.bone_transforms(np.tile(np.eye(3), (3, 1, 1)), TINY_HEADS, TINY_PARENTS, TINY_HEADS[0])
    assert np.allclose(body.skin(vertices, weights, still), vertices)


def test_skinning_turns_a_child_about_its_own_head():
    rotations = np.stack([np.eye(3), _turn("z", 90), _turn("z", 90)])
    moved = body.bone_transforms(rotations, TINY_HEADS, TINY_PARENTS, np.zeros(3))
    points = body.move_points(np.array([[0, 50.0, 0], [0, 200, 0], [0, 300, 0]]), np.array([0, 1, 2]), moved)
    assert np.allclose(points, [[0, 50, 0], [-100, 100, 0], [-200, 100, 0]])
    assert np.allclose(body.skin(np.array([[0, 300.0, 0]]), np.array([[0, 0, 1.0]]), moved), [[-200, 100, 0]])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6))
def test_smallest_rotation_turns_one_direction_onto_the_other(numbers):
    a, b = np.array(numbers[:3]), np.array(numbers[3:])
    if min(np.linalg.norm(a), np.linalg.norm(b)) < 0.1:
        return
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    rotation = motion.smallest_rotation(a, b)
    assert np.allclose(rotation @ a, b, atol=1e-6)
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6) and np.linalg.det(rotation) > 0


def test_smallest_rotation_of_opposite_directions():
    assert np.allclose(motion.smallest_rotation(np.array([0, 1.0, 0]), np.array([0, -1.0, 0])) @ [0, 1, 0], [0, -1, 0])


ASF = """:units
  length 0.45
:root
   order TX TY TZ RX RY RZ
:bonedata
  begin
     name lfemur
     direction 0 -1 0
     length 7
     axis 0 0 20 XYZ
    dof rx ry rz
  end
  begin
     name ltibia
     direction 0 -1 0
     length 8
     axis 0 0 20 XYZ
    dof rx
  end
  begin
     name rfemur
     direction 0 -1 0
     length 7
     axis 0 0 0 XYZ
  end
  begin
     name rtibia
     direction 0 -1 0
     length 8
     axis 0 0 0 XYZ
  end
:hierarchy
  begin
    root lfemur rfemur
    lfemur ltibia
    rfemur rtibia
  end
"""
AMC = """:FULLY-SPECIFIED
:DEGREES
1
root 1 2 3 0 90 0
lfemur 0 0 0
ltibia 30
2
root 1 2 3 0 0 0
lfemur 10 20 30
ltibia 0
"""


def test_acclaim_motion(tmp_path):
    (tmp_path / "a.asf").write_text(ASF)
    (tmp_path / "a.amc").write_text(AMC)
    clip = motion.read_amc(tmp_path / "a.amc", motion.read_asf(tmp_path / "a.asf"), "a", "walking")
    axis = _turn("z", 20)
    assert len(clip) == 2 and np.isclose(clip.leg, 15 * 25.4 / 0.45)
    assert np.allclose(clip.root[0], np.array([1, 2, 3]) * 25.4 / 0.45)
    assert np.allclose(clip.rotations["rtibia"][0], _turn("y", 90))
    assert np.allclose(clip.rotations["ltibia"][0], _turn("y", 90) @ axis @ _turn("x", 30) @ axis.T)
    about_fixed_axes = _turn("z", 30) @ _turn("y", 20) @ _turn("x", 10)
    assert np.allclose(clip.rotations["ltibia"][1], axis @ about_fixed_axes @ axis.T)


def test_exponential_maps_turn_row_vectors(tmp_path):
    row = np.zeros((2, 117))
    row[1, 3:6] = 0, np.pi / 2, 0
    np.savetxt(tmp_path / "a.txt", row, delimiter=",")
    clip = motion.read_expmap(tmp_path / "a.txt", "a", "walking")
    assert len(clip) == 1 and np.allclose(clip.rotations["head"][0], _turn("y", -90))


def test_slipped_frames_are_left_out():
    turning = _turn("y", np.r_[np.zeros(60), np.full(60, 90.0)][:, None])
    clip = motion.Clip("a", "walking", 30.0, np.zeros((120, 3)), {"root": turning}, {}, 800.0)
    assert 60 not in clip.sound and 10 in clip.sound and 110 in clip.sound


def _camera():
    return scene.random_camera(np.random.default_rng(3), np.array([0, 900.0, 0]), 1800.0)


def test_rays_run_through_the_points_they_see():
    camera = _camera()
    points = np.random.default_rng(0).uniform(-500, 500, (50, 3)) + (0, 900, 0)
    directions = camera.rays(geometry.project(camera.to_camera(points), camera.intrinsics))
    wanted = points - camera.centre
    assert np.allclose(directions, wanted / np.linalg.norm(wanted, axis=1, keepdims=True))
    assert np.allclose(camera.rotation @ camera.rotation.T, np.eye(3)) and np.linalg.det(camera.rotation) > 0
    assert camera.rotation[1, 1] < -0.5  # y down in the camera, up in the world


def test_crop_keeps_half_pixels():
    camera = _camera()
    crop = camera.crop(np.array([100.5, 200.5]), 256.0, 128)
    point = np.linalg.inv(camera.intrinsics) @ [101.5, 201.5, 1]  # middle of the square's first 2 x 2 pixels, plus 0.5
    assert np.allclose(geometry.project(point, crop.intrinsics), [0, 0])


def test_points_behind_the_camera_are_refused():
    with pytest.raises(ValueError, match="behind the camera"):
        geometry.project(np.array([[0, 0, -1.0]]), np.eye(3))


def test_uniform_surroundings_light_all_sides_alike():
    coefficients = np.zeros((9, 3))
    coefficients[0] = 0.282095 * 4 * np.pi  # projection of radiance 1
    light = scene.Light(coefficients, np.array([0, 1.0, 0]), np.zeros(3))
    assert np.allclose(light.ambient(scene._fibonacci(20)), np.pi, rtol=1e-3)


def test_turned_panorama_and_turned_light_agree():
    radiance = np.full((32, 64, 3), 0.1)
    radiance[6:10, 16:26] = 5
    panorama = scene.Panorama("spot", radiance)
    light = panorama.light.turned(1.1)
    seen = panorama.look_up(light.direction[None], 1.1)
    assert seen.max() > 1
    probe = scene._fibonacci(100)
    brightest = probe[light.ambient(probe).sum(1).argmax()]
    assert brightest @ light.direction > 0.7


def test_a_cloth_keeps_its_relief_and_takes_the_colour():
    texture = np.ones((4, 4, 4), np.float32)
    texture[:2, :, :3], texture[2:, :, :3] = 0.2, 0.6
    uv = np.stack(np.meshgrid([0.1, 0.4, 0.6, 0.9], [0.1, 0.4, 0.6, 0.9]), -1).reshape(1, -1, 2)
    new = wardrobe.recolour(texture, uv, (0.5, 0.1, 0.1))
    assert np.allclose(new[0, 0, :3], [0.25, 0.05, 0.05]) and np.allclose(new[3, 0, :3], [0.75, 0.15, 0.15])
    assert wardrobe.recolour(texture, uv, None) is texture


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_macro_targets_share_out_one_body(male, old, muscle, weight):
    weights = body.Shape(male, old, muscle, weight).target_weights()
    assert np.isclose(sum(v for k, v in weights.items() if k.startswith("universal")), 1)
    assert np.isclose(sum(v for k, v in weights.items() if k.split("-")[0] in ("african", "asian", "caucasian")), 1)


def _facing_triangle(bone):
    big = np.array([[-900.0, -900, 1000], [900, -900, 1000], [0, 1800, 1000]])
    no = np.zeros(1, bool)
    return render.Stage(big, np.array([[0, 1, 2]]), np.zeros((1, 3, 2)), np.zeros(1, int),
                        (np.ones((2, 2, 4), np.float32),), no, no, np.ones(1, np.uint8), np.array([bone]))


def test_a_joint_is_seen_through_its_own_part_only():
    pytest.importorskip("embreex")
    camera = scene.Camera(np.eye(3), np.eye(3), np.zeros(3))
    bones = ("Head", "LeftHand")
    joints = np.array([[0, 0, 1050.0], [0, 0, 1200.0], [0, 0, 900.0]])  # just behind, far behind, in front
    for bone, wanted in ((0, [VISIBLE, OCCLUDED, VISIBLE]), (1, [OCCLUDED, OCCLUDED, VISIBLE]),
                         (-1, [OCCLUDED, OCCLUDED, VISIBLE])):  # -1: a thing or a bystander
        states = render.joint_states(_facing_triangle(bone), ("nose",) * 3, bones, joints, camera)
        assert states.tolist() == wanted


def _weather():
    return render.Weather(scene.Panorama("grey", np.full((32, 64, 3), 0.5)), 0.0, 1.0)


def _eye(size):
    """A camera at eye height that looks along +z and sees 45 degrees to each side."""
    turn = np.diag([-1.0, -1, 1])  # x right and y down, in a world of y up
    return scene.Camera(np.array([[size / 2, 0, size / 2 - 0.5], [0, size / 2, size / 2 - 0.5], [0, 0, 1]]), turn,
                        np.array([0, 1500.0, 0]))


def _board(left, right, depth, part):
    """An upright rectangle before the camera of `_eye`, 1.2 to 1.8 m above the ground; one part of the subject."""
    corners = np.array([[-left, 1200.0, depth], [-right, 1200, depth], [-right, 1800, depth], [-left, 1800, depth]])
    stage = render.stage_thing(corners, np.array([[0, 1, 2], [0, 2, 3]]), np.zeros((2, 3, 2)),
                               np.full((2, 2, 3), 0.9, np.float32))
    return replace(stage, part=np.full(2, part, np.uint8), bone=np.zeros(2, int))


def test_labels_and_picture_show_what_is_in_front():
    pytest.importorskip("embreex")
    behind, front = _board(-500, 500, 2000, 3), _board(0, 500, 1000, 0)
    light, parts = render.render([render.join([behind, front])], _eye(64), _weather(), 64, np.random.default_rng(0))
    assert light.shape == (64, 64, 3) and light.min() >= 0 and light.max() <= 1
    middle = parts[32]
    # at 2 m, 500 mm are 8 pixels: columns 24 to 31 show part 3; from column 32 on the thing in front hides it
    assert (middle[25:32] == 3).all() and (middle[33:] == 0).all() and (middle[:23] == 0).all()
    free = render.render([behind], _eye(64), _weather(), 64, np.random.default_rng(0))[1]
    assert (free[32, 25:39] == 3).all()


def test_what_stands_behind_the_camera_is_not_in_the_picture():
    pytest.importorskip("embreex")
    board, behind = _board(-300, 300, 1000, 3), _board(-300, 300, -1000, 5)
    alone, both = (render.render([render.join(stages)], _eye(32), _weather(), 32, np.random.default_rng(0))
                   for stages in ([board], [board, behind]))
    np.testing.assert_array_equal(alone[1], both[1])
    assert set(np.unique(both[1])) == {0, 3}
    assert abs(alone[0] - both[0])[:10].max() < 1e-6  # the sky; the board and the ground lie in another's shadow


def test_motion_blur_smears_the_picture_but_not_the_labels():
    pytest.importorskip("embreex")
    now = _board(-200, 200, 1000, 5)
    path = [replace(now, vertices=now.vertices - (x, 0, 0)) for x in np.linspace(0, 300, 6)]
    size = 64
    sharp, labels = render.render([now], _eye(size), _weather(), size, np.random.default_rng(0))
    smeared, same = render.render([now, *path], _eye(size), _weather(), size, np.random.default_rng(0))
    np.testing.assert_array_equal(labels, same)
    row = abs(sharp - smeared)[32].sum(-1)
    assert row[24:30].max() > 0.05 and row[:20].max() < 0.02 and row[52:].max() < 0.02
    assert np.flatnonzero(row > 0.05).max() >= 44  # where the board has moved to


def test_a_thing_stands_between_camera_and_target():
    pytest.importorskip("trimesh")
    panorama = scene.Panorama("grey", np.random.default_rng(0).uniform(0, 1, (256, 512, 3)))
    camera, target = _camera(), np.array([0, 900.0, 0])
    kinds = set()
    for seed in range(40):
        stage = things.random_thing(np.random.default_rng(seed), camera, target, 1800.0, panorama)
        kinds.add(len(stage.faces))
        assert np.isfinite(stage.vertices).all() and (stage.bone == -1).all() and (stage.part == 0).all()
        assert stage.uv.min() >= 0 and stage.uv.max() <= 1
        assert camera.to_camera(stage.vertices)[:, 2].min() > 0
    assert len(kinds) >= 3


def test_a_thing_hides_joints_that_are_in_the_picture():
    """Also where the crop lies off the camera's axis."""
    pytest.importorskip("trimesh")
    pytest.importorskip("embreex")
    panorama = scene.Panorama("grey", np.random.default_rng(0).uniform(0, 1, (256, 512, 3)))
    joints = np.random.default_rng(1).uniform((-300, 0, -300), (300, 1800, 300), (17, 3))
    camera = _camera()
    seen = geometry.project(camera.to_camera(joints), camera.intrinsics)
    closer = camera.crop(np.sort(seen, axis=0)[3], np.ptp(seen[:, 1]) * 0.6, 64)
    there = record.inside(geometry.project(camera.to_camera(joints), closer.intrinsics), 64)
    assert 3 < there.sum() < 14 and abs(closer.intrinsics[0, 2] - 31.5) > 10
    found = 0
    for seed in range(20):
        thing = record._thing(np.random.default_rng(seed), closer, joints, 64, panorama)
        if thing is not None:
            found += 1
            assert 1 <= record._hides(thing, closer, joints[there]) <= record.HIDDEN
    assert found > 10


def test_a_joint_is_seen_through_the_holes_of_hair():
    pytest.importorskip("embreex")
    stage = _facing_triangle(-1)
    camera = scene.Camera(np.eye(3), np.eye(3), np.zeros(3))
    for opacity, wanted in ((1.0, OCCLUDED), (0.0, VISIBLE)):
        texture = np.full((2, 2, 4), opacity, np.float32)
        states = render.joint_states(replace(stage, textures=(texture,)), ("nose",), ("Head",),
                                     np.array([[0, 0, 1200.0]]), camera)
        assert states.tolist() == [wanted]


def test_the_lens_repeats_itself_and_a_perfect_one_does_nothing():
    light = np.random.default_rng(0).uniform(0, 1, (32, 32, 3))
    a, b, c = (lens.develop(light, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (a == b).all() and (a != c).any() and a.dtype == np.uint8
    clean = lens.develop(light, np.random.default_rng(1), imperfect=False)
    np.testing.assert_array_equal(clean, (wardrobe.to_srgb(light) * 255).round().astype(np.uint8))


def test_part_labels_survive_their_png():
    from PIL import Image
    parts = np.random.default_rng(0).integers(0, 15, (128, 128)).astype(np.uint8)
    data = lens.encode_parts(parts)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), parts)


def test_a_pose_is_kept_to_a_fraction_of_a_millimetre():
    rng = np.random.default_rng(0)
    rotations = motion.Rotation.random(3, random_state=rng).as_matrix()
    exact = body.bone_transforms(rotations, TINY_HEADS, TINY_PARENTS, np.array([10.0, 20, 30]))
    pose = body.Pose.from_rotations(rotations, TINY_PARENTS, np.array([10.0, 20, 30]))
    assert pose.turns.dtype == np.int16
    points, bones = np.array([[0, 300.0, 0]]), np.array([2])
    kept = body.move_points(points, bones, pose.transforms(TINY_HEADS, TINY_PARENTS))
    assert abs(kept - body.move_points(points, bones, exact)).max() < 0.1
    again = body.Pose.from_rotations(pose.transforms(TINY_HEADS, TINY_PARENTS)[:, :, :3], TINY_PARENTS, pose.root)
    assert abs(again.turns.astype(int) - pose.turns).max() <= 1


LOOK = wardrobe.Look(body.Shape(0.1, 0.25, 0.5, 0.5, 0.51234567, 0.5, (0.2, 0.3, 0.5)), "suit", "boots", None, "fedora",
                     (0.5, 0.4, 0.3), (0.1, 0.1, 0.1), (0.2, 0.3, 0.4), None, (0.123456789, 0, 1), None)


def test_a_look_is_read_as_it_was_written():
    kept = wardrobe.Look.from_json(LOOK.to_json())
    assert kept == wardrobe.Look.from_json(kept.to_json()) and kept.hat == "fedora" and kept.top_colour is None
    assert abs(kept.shape.height - LOOK.shape.height) < 1e-4
    for wrong in ("{}", "[1]", "no json", '{"shape": {"wings": 2}}'):
        with pytest.raises(ValueError, match="this is not the look of a person"):
            wardrobe.Look.from_json(wrong)


def test_every_bone_has_a_part_and_mirrored_bones_mirrored_parts():
    for bone in motion.BONE_OF:
        part = BODY_PARTS[render.part_of_bone(bone) - 1]
        swapped = {"L": "R", "R": "L"}.get(bone[0], bone[0]) + bone[1:]
        for a, b in (("Left", "Right"), ("Right", "Left")):
            if bone.startswith(a):
                swapped = b + bone[len(a):]
        if swapped in motion.BONE_OF:
            mirrored = BODY_PARTS[render.part_of_bone(swapped) - 1]
            assert part.replace("left", "x").replace("right", "left").replace("x", "right") == mirrored, bone


@pytest.mark.parametrize("wrong", [{"things": 1.5}, {"cut": -0.1}, {"size": 8}, {"size": 64.5}, {"quality": 100}])
def test_a_recipe_with_wrong_numbers_is_refused(wrong):
    with pytest.raises(ValueError, match="between 0 and 1|at least 16, and quality"):
        Recipe(**wrong)


def test_without_the_ray_caster_one_sentence_helps(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "embreex.mesh_construction", None)
    with pytest.raises(RuntimeError, match="pip install embreex"):
        render.Surface(np.eye(3), np.array([[0, 1, 2]]))


def _fake_clip(name, action):
    return motion.Clip(name, action, 30.0, np.zeros((3, 3)), {}, {}, 800.0)


def test_pools_are_disjoint_and_scarce_actions_go_to_train():
    clips = [_fake_clip(f"walk{i}", "walking") for i in range(8)] + [_fake_clip("c", "climbing")]
    panoramas = [Path(f"{name}.jpg") for name in ("a", "b", "c", "d", "bl_studio", "pmndrs_studio")]
    dealt = pools.split_pools(clips, panoramas)
    names = {split: {c.name for c in pool.clips} | {p.stem for p in pool.panoramas} for split, pool in dealt.items()}
    assert not names["train"] & names["test"] and not names["train"] & names["validation"]
    assert not names["test"] & names["validation"]
    assert "c" in {c.name for c in dealt["train"].clips}
    studios = [{"bl_studio", "pmndrs_studio"} & found for found in names.values()]
    assert sorted(map(len, studios)) == [0, 0, 2]
    with pytest.raises(ValueError, match="too few clips or panoramas"):
        pools.split_pools(clips[:1], panoramas)


@pytest.mark.parametrize(("folder", "path", "wanted"), [
    ("cmu_asf_amc", "01/01_01.amc", ("amc/01_01", "jumping")),
    ("cmu_asf_amc", "01/01_09.amc", ("amc/01_09", "climbing")),
    ("cmu_asf_amc", "dancing/77_01.amc", ("amc/77_01", "dancing")),
    ("cmu_expmap", "S5/washwindow/washwindow_2.txt", ("expmap/S5/washwindow_2", "washing a window")),
    ("cmu_bvh", "07_01.bvh", ("bvh/07_01", "walking")), ("cmu_bvh", "dancing/a.bvh", ("bvh/a", "dancing")),
    ("humanoid3d", "humanoid3d_cartwheel.txt", ("humanoid3d/cartwheel", "gymnastics")),
    ("humanoid3d", "humanoid3d_getup_facedown.txt", None)])
def test_a_clip_s_name_and_action_follow_from_where_it_lies(folder, path, wanted):
    assert pools._name_and_action(Path(folder), Path(folder) / path) == wanted


def test_copies_and_single_frames_are_no_clips(painted, tmp_path):
    motions = shutil.copytree(painted / "motion" / "cmu_expmap", tmp_path / "cmu_expmap")
    found = assets.Assets(tmp_path, (motions,), tmp_path)
    before = [clip.name for clip in pools.read_clips(found)]
    assert len(before) == 7
    walk = motions / "S1" / "walking" / "walking_1.txt"
    again = motions / "S2" / "walking" / "again.txt"
    again.parent.mkdir(parents=True)
    rows = walk.read_text().splitlines()
    again.write_text("\n".join(rows[:1] + rows[8:]))  # the calibration pose, and a later part of the same walk
    (again.parent / "short.txt").write_text("\n".join(rows[:2]))  # one frame
    (again.parent / "README.txt").write_text("no motion")
    assert [clip.name for clip in pools.read_clips(found)] == before


def _recording(times):
    """A walk along a circle, sampled at `times` (seconds)."""
    bones = ("lfemur", "rfemur", "ltibia", "rtibia", "thorax")
    swing = {b: _turn("x", 40 * np.sin(4.7 * times + k)[:, None]) for k, b in enumerate(bones)}
    root = 1000 * np.stack([np.sin(times), np.ones_like(times), np.cos(times)], 1)
    return motion.Clip("a", "walking", 30.0, root, swing, {}, 800.0)


def test_copies_of_a_recording_are_recognised():
    whole, finer = _recording(np.arange(0, 6, 1 / 60)), _recording(np.arange(1.003, 4, 1 / 120))
    later = _recording(np.arange(0, 6, 1 / 60) + 2 * np.pi)  # the same way, but out of step
    assert pools._same_recording(whole, finer) and pools._same_recording(finer, whole)
    assert not pools._same_recording(whole, later)


def _tar(path, name, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w:gz") as tar:
        for entry, entry_kind in (("good.txt", tarfile.REGTYPE), (name, kind)):
            info = tarfile.TarInfo(entry)
            info.type, info.size, info.linkname = entry_kind, 2 if entry_kind == tarfile.REGTYPE else 0, "/etc/passwd"
            tar.addfile(info, io.BytesIO(b"ab") if info.size else None)


def test_archives_are_unpacked_whole(tmp_path):
    _tar(tmp_path / "a.tar.gz", "folder/b.txt")
    folder = assets.extract(tmp_path / "a.tar.gz", tmp_path / "out")
    assert (folder / "folder" / "b.txt").read_bytes() == b"ab"
    assert assets.extract(tmp_path / "a.tar.gz", folder) == folder


@pytest.mark.parametrize(("name", "kind"), [("../evil.txt", tarfile.REGTYPE), ("/tmp/evil.txt", tarfile.REGTYPE),
                                            ("link", tarfile.SYMTYPE), ("link", tarfile.LNKTYPE)])
def test_archives_that_leave_their_folder_are_refused(tmp_path, name, kind):
    _tar(tmp_path / "a.tar.gz", name, kind)
    with pytest.raises(ValueError, match="link or leaves the folder"):
        assets.extract(tmp_path / "a.tar.gz", tmp_path / "deep" / "out")
    assert not list((tmp_path / "deep").iterdir()) and not (tmp_path / "evil.txt").exists()


def test_damaged_ingredients_are_named(tmp_path):
    _tar(tmp_path / "a.tar.gz", "folder/b.txt")
    (tmp_path / "half.tar.gz").write_bytes((tmp_path / "a.tar.gz").read_bytes()[:60])
    (tmp_path / "no.tar.gz").write_bytes(b"nonsense")
    for name in ("half", "no"):
        with pytest.raises(ValueError, match=f"{name}.tar.gz is damaged"):
            assets.extract(tmp_path / f"{name}.tar.gz", tmp_path / "deep" / "out")
    assert not list((tmp_path / "deep").iterdir())
    (tmp_path / "sky.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(OSError, match="sky.jpg cannot be read as a panorama"):
        scene.read_panorama(tmp_path / "sky.jpg")


def test_missing_ingredients_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="makehumancommunity"):
        synthesize(tmp_path, tmp_path / "out", {"train": 1}, seed=0)
    base = tmp_path / "makehuman" / "base_mesh"
    base.mkdir(parents=True)
    (base / "base.obj").write_text("")
    with pytest.raises(FileNotFoundError, match="lacks rigs/rig.cmu_mb.json"):
        assets.find_assets(tmp_path)
    (base.parent / "rigs").mkdir()
    for name in ("rigs/rig.cmu_mb.json", "rigs/weights.cmu_mb.json"):
        (base.parent / name).write_text("{}")
    for name in ("targets/macrodetails", "clothes", "hair"):
        (base.parent / name).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="CMU"):
        assets.find_assets(tmp_path)
    (tmp_path / "motion" / "cmu_bvh").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="Poly Haven"):
        assets.find_assets(tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"counts": {"training": 5}}, {"counts": {}}, {"counts": {"train": 0}},
                                   {"counts": {"train": 1}, "workers": 0}, {"counts": {"train": 1}, "seed": -1},
                                   {"counts": {"train": 1}, "seed": 0.5}, {"counts": {"train": 1}, "seed": "7"},
                                   {"counts": {"train": 10.5}}, {"counts": {"train": 1}, "workers": 1.5}])
def test_wrong_numbers_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="unknown split|at least"):
        synthesize(tmp_path, tmp_path, **{"seed": 0, **wrong})


def test_motion_of_an_unknown_format_is_named(tmp_path):
    folder = tmp_path / "cmu_bvh"
    folder.mkdir()
    (folder / "dance.c3d").write_bytes(b"\x02P")
    with pytest.raises(ValueError, match=r"dance.c3d is of no known motion format; known are"):
        pools.read_clips(assets.Assets(tmp_path, (folder,), tmp_path))


# ---------------------------------------------------------------- the files

def _fake_row(studio, split, index, seed, recipe):
    """A row that could come from `render_record`, in microseconds."""
    rng = np.random.default_rng([index, seed])
    text = {name: f"{split}-{name}" for name in ("subject", "clip", "background")}
    number = {"frame": index, "yaw": 0.5, "exposure": 1.0}
    width = {"joints2d": 34, "joints3d": 51, "camera": 9, "box": 4, "root": 3, "view": 6}
    return {**text, **number, **{name: rng.normal(size=count).astype(np.float32) for name, count in width.items()},
            "image": rng.bytes(9), "parts": b"p", "state": np.ones(17, np.uint8), "action": "walking", "effects": "",
            "look": "{}", "pose": rng.integers(-9, 9, 93).astype(np.int16)}


@pytest.fixture
def factory(monkeypatch, tmp_path):
    """`synthesize` without ingredients; `made` lists the pictures that were made."""
    pytest.importorskip("embreex")
    made, dealt = [], {"train": pools.Pools((_fake_clip("a", "walking"),), (Path("meadow.jpg"),))}

    def row(studio, split, index, seed, recipe):
        made.append((split, index))
        return _fake_row(studio, split, index, seed, recipe)
    monkeypatch.setattr(shards, "find_assets", lambda folder: None)
    monkeypatch.setattr(shards, "open_studio", lambda folder: SimpleNamespace(pools=dealt))
    monkeypatch.setattr(shards, "render_record", row)
    monkeypatch.setattr(shards, "SHARD", 80)

    def run(**changes):
        made.clear()
        return synthesize("assets", tmp_path / "out", **{"counts": {"train": 200, "test": 10}, "seed": 3, **changes})
    run.dealt = dealt
    return run, made, tmp_path / "out"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_set_is_cut_into_shards(factory):
    run, made, out = factory
    files = run()
    assert [path.name for path in files["train"]] == [f"train-0000{i}.parquet" for i in range(3)]
    assert [pq.read_metadata(path).num_rows for path in files["train"] + files["test"]] == [80, 80, 40, 10]
    assert sorted(content(out)) == ["SHA256SUMS", "recipe.json", "test-00000.parquet", "train-00000.parquet",
                                    "train-00001.parquet", "train-00002.parquet"]
    assert len(made) == 210 and read_sums(out)["train-00001.parquet"] == sha256(files["train"][1])


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(factory, monkeypatch):
    run, made, out = factory
    whole = (run(), content(out))[1]
    for path in out.iterdir():
        path.unlink()
    real = shards.render_record
    monkeypatch.setattr(shards, "render_record", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt)
                        if a[1:3] == ("train", 100) else real(*a))
    with pytest.raises(KeyboardInterrupt):
        run()
    assert sorted(content(out)) == ["SHA256SUMS", "recipe.json", "train-00000.parquet"]
    monkeypatch.setattr(shards, "render_record", real)
    run()
    assert made[0] == ("train", 80) and len(made) == 130
    assert content(out) == whole
    run()
    assert not made


def test_a_finished_file_that_was_damaged_is_made_again_and_a_set_can_grow(factory):
    run, made, out = factory
    run()
    whole = content(out)
    (out / "train-00001.parquet").write_bytes(b"damaged")
    run()
    assert {index for _, index in made} == set(range(80, 160)) and content(out) == whole
    run(counts={"train": 300, "test": 10})
    assert {index for split, index in made} == set(range(160, 300))  # the last, short file and what follows it
    with pytest.raises(ValueError, match="already holds more pictures than asked for"):
        run(counts={"train": 80})


def test_a_folder_with_another_set_is_refused(factory):
    run, _, out = factory
    run()
    before = content(out)
    with pytest.raises(ValueError, match="made with another seed; choose an empty folder"):
        run(seed=4)
    with pytest.raises(ValueError, match="made with another quality, things"):
        run(recipe=Recipe(things=0, quality=90))
    run.dealt["train"] = pools.Pools((_fake_clip("b", "walking"),), (Path("meadow.jpg"),))
    with pytest.raises(ValueError, match="made with another ingredients"):
        run()
    assert content(out) == before
    for damaged in ("{", "[1]"):
        (out / "recipe.json").write_text(damaged)
        with pytest.raises(ValueError, match="recipe.json is damaged"):
            run()
    (out / "recipe.json").unlink()
    with pytest.raises(ValueError, match="holds .*.parquet, but no recipe.json"):
        run()
    with pytest.raises(ValueError, match="is a file; name a folder"):
        synthesize("assets", out / "SHA256SUMS", {"train": 1}, seed=0)


def test_what_a_killed_run_left_half_written_is_removed(factory):
    run, _, out = factory
    out.mkdir()
    code = f"""
import os, signal
from posebook.files import whole_file
with whole_file({str(out / "train-00000.parquet")!r}) as part:
    part.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": str(PEOPLE.parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -9
    assert [path.suffix for path in out.iterdir()] == [".part"]
    run()
    assert len(content(out)) == 6 and not list(out.glob("*.part"))


def test_a_full_disk_is_told_in_one_sentence_and_leaves_whole_files(factory, monkeypatch):
    run, _, out = factory
    real, calls = pq.write_table, []

    def write(table, path, **options):
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(table, path, **options)
    monkeypatch.setattr(pq, "write_table", write)
    with pytest.raises(OSError, match="the disk that holds .* is full; make room; finished files are kept"):
        run()
    assert sorted(content(out)) == ["SHA256SUMS", "recipe.json", "train-00000.parquet"]
    monkeypatch.setattr(pq, "write_table", real)
    run()
    assert len(content(out)) == 6


@pytest.mark.parametrize("before", [None, "3"])
def test_workers_leave_the_environment_as_it_was(monkeypatch, before):
    if before is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", before)
    with shards._executor(2):
        assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    assert os.environ.get("OPENBLAS_NUM_THREADS") == before


def test_a_killed_worker_is_told_in_one_sentence(tmp_path):
    with pytest.raises(RuntimeError, match="a worker process was killed.*finished files are kept.*fewer workers"), \
            shards._executor(2) as executor, shards._plain_words(tmp_path):
        list(executor.map(os._exit, [9]))


# ---------------------------------------------------------------- the generator, with ingredients

@pytest.fixture(scope="module")
def folder(painted):
    """The real ingredients where POSEBOOK_ASSETS names them, else the painted ones."""
    pytest.importorskip("embreex")
    pytest.importorskip("trimesh")
    return ASSETS or str(painted)


@pytest.fixture(scope="module")
def studio(folder):
    return pools.open_studio(folder)


def test_same_seed_same_bytes_with_any_number_of_workers(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "JOB", record.PER_SUBJECT)
    counts, recipe = {"train": 10, "test": 1}, Recipe(size=64)
    for name, workers in (("a", 1), ("b", 2)):
        synthesize(folder, tmp_path / name, counts, seed=5, recipe=recipe, workers=workers)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    synthesize(folder, tmp_path / "c", {"test": 1}, seed=6, recipe=recipe)
    assert content(tmp_path / "c")["test-00000.parquet"] != content(tmp_path / "a")["test-00000.parquet"]


def test_a_difficulty_switched_off_changes_no_other_thing(studio):
    plain = Recipe(tumbling=0, things=0, others=0, cut=0, blur=0, lens=False)
    hard = Recipe(tumbling=0, things=1, others=0, cut=0, blur=1)
    a, b = (render_record(studio, "train", 3, 0, recipe) for recipe in (plain, hard))
    for name in ("joints2d", "joints3d", "camera", "pose", "root", "view", "yaw", "exposure", "look", "clip", "frame"):
        np.testing.assert_array_equal(a[name], b[name])
    assert a["effects"] == "" and set(b["effects"].split()) <= {"things", "blur"} and a["image"] != b["image"]


def test_a_stored_row_can_be_drawn_again_and_from_elsewhere(studio):
    from PIL import Image
    row = render_record(studio, "train", 11, 0, Recipe(tumbling=1, things=0, others=0, cut=0, blur=0, lens=False))
    again = render_anew(studio, row)
    np.testing.assert_allclose(again["joints2d"].ravel(), row["joints2d"], atol=0.01)
    np.testing.assert_allclose(again["joints3d"].ravel(), row["joints3d"], atol=0.02)
    np.testing.assert_array_equal(again["state"], row["state"])
    np.testing.assert_array_equal(again["parts"], np.asarray(Image.open(io.BytesIO(row["parts"]))))
    stored = np.asarray(Image.open(io.BytesIO(row["image"])).convert("RGB"), float)
    assert abs(stored - again["image"]).mean() < 6  # the JPEG, and other random shadow rays
    camera = record.stored_camera(row)
    turned = scene.random_camera(np.random.default_rng(2), np.array([0, 900.0, 0]), 1700.0)
    other = render_anew(studio, row, turned.crop(np.array([0.0, 0]), 1000.0, 96), "bl_city", size=96)
    assert other["image"].shape == (96, 96, 3)
    def in_world(joints, camera):
        return joints @ camera.rotation + camera.centre
    np.testing.assert_allclose(in_world(other["joints3d"], turned), in_world(again["joints3d"], camera), atol=1e-6)
    with pytest.raises(KeyError, match="no panorama 'the moon'"):
        render_anew(studio, row, background="the moon")


def test_bodies_are_symmetric_and_stand_on_the_ground(studio):
    look = wardrobe.random_look(np.random.default_rng(0), studio.wardrobe)
    person = wardrobe.dress(studio.model, studio.wardrobe, look, H36M17.joints)
    mirrored = person.joints[H36M17.mirror] * (-1, 1, 1)
    assert abs(mirrored - person.joints).max() < 5
    clip = next(c for c in studio.pools["train"].clips if c.action == "walking")
    vertices, joints = record.embody(studio, person, record.stand(studio, person, clip, 5))
    assert abs(vertices[np.unique(person.faces), 1].min()) < 12
    assert abs(joints[0, [0, 2]]).max() < 1e-2


@needs_assets
def test_memory_does_not_grow_with_the_number_of_pictures(studio):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    for index in range(800, 840):  # all caches are filled
        render_record(studio, "validation", index, 0)
    before = resident()
    for index in range(840, 920):
        render_record(studio, "validation", index, 0)
    assert resident() - before < 80e6  # a leaked mesh of 3 MB a picture would be 240e6


def test_what_a_difficulty_changes_follows_from_it_alone(studio):
    plain = Recipe(tumbling=0, things=0, others=0, cut=0, blur=0, lens=False)
    a = render_record(studio, "train", 9, 0, plain)
    for change, same in (({"lens": True}, ("parts", "state", "camera", "joints2d", "pose")),
                         ({"others": 1}, ("camera", "joints2d", "pose", "view", "box")),
                         ({"cut": 1}, ("pose", "root", "view", "joints3d", "yaw", "exposure"))):
        b = render_record(studio, "train", 9, 0, replace(plain, **change))
        assert a["image"] != b["image"]
        for name in same:
            np.testing.assert_array_equal(a[name], b[name], err_msg=f"{change} {name}")


def test_bystanders_are_in_the_picture_and_keep_their_distance(studio):
    recipe = Recipe(tumbling=0, things=0, others=1, cut=0, blur=0, lens=False)
    found = 0
    for index in range(16):
        row = render_record(studio, "train", index, 0, recipe)
        camera = record.stored_camera(row)
        joints = row["joints3d"].reshape(17, 3) @ camera.rotation + camera.centre
        stage = record._bystander(studio, "train", index // 8, 0, record._dice(0, 0, index, "others"), camera, joints,
                                  128)
        assert (stage is not None) == (row["effects"] == "others")
        if stage is not None:
            found += 1
            seen = geometry.project(camera.to_camera(stage.vertices), camera.intrinsics)
            assert record.inside(seen, 128).mean() >= record.SEEN and (stage.part == 0).all()
    assert found >= 12


def _plain(**changes):
    """A recipe without difficulties, for small pictures."""
    return Recipe(**{"tumbling": 0, "things": 0, "others": 0, "cut": 0, "blur": 0, "lens": False, "size": 64,
                     **changes})


def test_a_picture_agrees_with_what_is_known_about_it(studio):
    """Camera, joints, box, labels and states of one picture describe the same person."""
    from PIL import Image
    rows = [render_record(studio, "train", index, 1, _plain()) for index in range(16)]
    assert pa.Table.from_pylist(rows, schema=record.schema()).num_rows == 16
    on_own, lengths = [], []
    for row in rows:
        joints, pixels = row["joints3d"].reshape(17, 3), row["joints2d"].reshape(17, 2)
        camera = record.stored_camera(row)
        np.testing.assert_allclose(geometry.project(joints, camera.intrinsics), pixels, atol=0.01)
        parts = np.asarray(Image.open(io.BytesIO(row["parts"])))
        y, x = np.nonzero(parts)
        drawn = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        assert abs(drawn - row["box"]).max() < 1.5  # nothing else stands in this picture
        assert record.inside(pixels, 64).all()
        for name in (j for j in H36M17.joints if j.split("_", 1)[-1] in ENDS or j in ENDS):
            j = H36M17.index(name)
            if row["state"][j] == VISIBLE:
                on_own.append(np.isin(near(parts[None], pixels[None, j]), parts_at(name)).any())
        assert row["effects"] == "" and row["subject"] == f"train-1-{rows.index(row) // 8:05d}"
        lengths.append(np.linalg.norm(joints[H36M17.index("left_knee")] - joints[H36M17.index("left_hip")]))
    assert len(on_own) > 80 and np.mean(on_own) > 0.97
    assert np.ptp(lengths[:8]) < 1 and np.ptp(lengths[8:]) < 1  # one subject, one leg


def test_a_picture_is_cut_off_only_where_enough_of_the_person_stays(studio):
    shown = []
    for index in range(12):
        row = render_record(studio, "test", index, 0, _plain(cut=1, size=32))
        inside = record.inside(row["joints2d"].reshape(17, 2), 32).sum()
        assert (8 <= inside <= 15) == ("cut" in row["effects"])
        shown.append(inside)
    assert min(shown) <= 15
    camera, one_spot = _camera(), np.tile([0, 900.0, 0], (17, 1))
    assert record._cut(np.random.default_rng(0), camera, one_spot, 1000) is camera  # all joints or none


def test_obstacles_that_hide_too_much_are_left_out(studio):
    joints = np.tile([0, 900.0, 0], (17, 1))
    joints[0, 1] = 1700
    camera = _camera()
    spot = geometry.project(camera.to_camera(joints[1]), camera.intrinsics)
    close = camera.crop(spot - 30, 60, 64)  # sees 16 joints in one place, of which all or none are hidden
    panorama = studio.panorama(studio.pools["train"].panoramas[0])
    assert all(record._thing(np.random.default_rng(seed), close, joints, 64, panorama) is None for seed in range(5))
    away = replace(camera, rotation=_turn("y", 180) @ camera.rotation)
    assert record._bystander(studio, "train", 0, 0, np.random.default_rng(0), away, joints, 1000) is None


def test_the_exposure_follows_the_light(studio):
    for path in studio.pools["train"].panoramas:
        panorama = studio.panorama(path)
        brighter = scene.Panorama("brighter", panorama.radiance * 40)
        a, b = (record._weather(np.random.default_rng(3), one) for one in (panorama, brighter))
        assert a.yaw == b.yaw and a.exposure > 10 * b.exposure > 0
        assert studio.panorama(path) is panorama  # read once


def _long_clip(name, action, frames):
    still = np.tile(np.eye(3), (frames, 1, 1))
    return motion.Clip(name, action, 30.0, np.zeros((frames, 3)), {"root": still}, {}, 800.0)


def test_a_plan_spreads_a_subject_s_pictures_over_time():
    pool = pools.Pools((_long_clip("a", "walking", 400), _long_clip("b", "climbing", 400)), (Path("a"), Path("b")))
    for seed in range(20):
        shots = record.plan(pool, np.random.default_rng(seed), 8)
        for clip in (0, 1):
            frames = np.sort([shot.frame for shot in shots if shot.clip == clip])
            assert (np.diff(frames) >= 15).all()
        assert all(0 <= shot.frame < 400 and shot.background in (0, 1) for shot in shots)
    many = record.plan(pool, np.random.default_rng(0), 600)  # more than the clips have room for
    walking = np.mean([shot.clip == 0 for shot in many])
    assert abs(walking - 1.2 / (1.2 + 0.8)) < 0.06


def test_random_people_are_dressed_as_people_are(studio):
    looks = [wardrobe.random_look(np.random.default_rng(seed), studio.wardrobe) for seed in range(400)]
    assert looks[7] == wardrobe.random_look(np.random.default_rng(7), studio.wardrobe)
    men = [look for look in looks if look.shape.male > 0.5]
    women = [look for look in looks if look.shape.male < 0.5]
    assert 150 < len(men) < 250
    for look in looks:
        assert not (look.hat and look.hair) and look.shoes.startswith("shoes")
        assert look.hair is None or look.hair in studio.wardrobe.hair
        assert abs(sum(look.shape.ancestry) - 1) < 1e-9
        colours = [look.skin, look.hair_colour, look.eye_colour, look.top_colour, look.bottom_colour, look.shoe_colour]
        assert all(0 <= c <= 1 for colour in colours if colour for c in colour)
    assert all(look.hair or look.hat for look in women) and any(not (look.hair or look.hat) for look in men)
    assert np.mean([look.hair.startswith("short") for look in men if look.hair]) > 0.85
    assert any(not look.hair.startswith("short") for look in women if look.hair)
    for people, other in ((women, "male"), (men, "female")):
        strange = [look.outfit.startswith(other) for look in people]
        assert 0 < np.mean(strange) < 0.4
        assert all("elegant" not in look.outfit for look, odd in zip(people, strange, strict=True) if odd)
    assert 0.75 < np.mean([look.top_colour is not None for look in looks]) < 0.95


# ---------------------------------------------------------------- the generator, on the figure of boxes

BOXES = ingredients.Figure()
JUST_PAINTED = body.Shape(male=0.0, ancestry=(1.0, 0.0, 0.0))
"""No painted target changes this one: the body is the figure as it was painted."""


@pytest.fixture(scope="module")
def boxes(painted):
    """The studio of painted ingredients, also where there are real ones."""
    pytest.importorskip("embreex")
    pytest.importorskip("trimesh")
    return pools.open_studio(str(painted))


def _look(**changes):
    return replace(LOOK, **{"shape": JUST_PAINTED, "outfit": "female_casualsuit01", "shoes": "shoes01", "hat": None,
                            **changes})


def _dressed(boxes, **changes):
    return wardrobe.dress(boxes.model, boxes.wardrobe, _look(**changes), H36M17.joints)


def _upright(boxes, person):
    """The person as painted, on the ground: vertices and joints in the world."""
    lift = np.array([0, -person.rest[:, 1].min(), 0])
    return record.embody(boxes, person, body.Pose(np.zeros((31, 3), np.int16), person.heads[0] + lift))


def _view(size, behind=False):
    """A camera 4 m before the figure, or behind it, at the height of its hips."""
    side = -1 if behind else 1
    return scene.Camera(np.array([[2 * size, 0, size / 2 - 0.5], [0, 2 * size, size / 2 - 0.5], [0, 0, 1]]),
                        np.diag([side, -1, -side]).astype(float), np.array([0, 850.0, 4000 * side]))


def test_the_bones_of_the_painted_body_end_where_they_were_painted(boxes):
    model = boxes.model
    assert len(model.bones) == 31 and model.bones[0] == "Hips" and (model.parents < np.arange(31)).all()
    assert set(model.bones) == set(motion.BONE_OF)
    vertices = model.morph(JUST_PAINTED)
    np.testing.assert_allclose(vertices, 100 * np.array(BOXES.vertices), atol=1e-3)
    heads, tails = model.bone_ends(vertices)
    at = {name: 100 * point for name, point in ingredients.JOINTS.items()}
    for bone, start, end in (("Hips", "joint-pelvis", "joint-spine-4"), ("RightLeg", "joint-r-knee", "joint-r-ankle"),
                             ("LeftForeArm", "joint-l-elbow", "joint-l-hand")):
        b = model.bones.index(bone)
        np.testing.assert_allclose([heads[b], tails[b]], [at[start], at[end]], atol=1e-2)
    neck = model.bones.index("Neck")  # its end has no cube: the mean of some vertices
    np.testing.assert_allclose(tails[neck], [0, 570, 0], atol=1e-2)
    points, carried = model.rest_joints(vertices, H36M17.joints)
    wanted = {"pelvis": (at["joint-l-upper-leg"] + at["joint-r-upper-leg"]) / 2, "left_knee": at["joint-l-knee"],
              "right_wrist": at["joint-r-hand"], "head_top": 100 * ingredients.CROWN, "nose": 100 * ingredients.NOSE}
    for name, point in wanted.items():
        np.testing.assert_allclose(points[H36M17.index(name)], point, atol=1e-2, err_msg=name)
    assert model.bones[carried[H36M17.index("nose")]] == "Head"
    assert model.bones[carried[H36M17.index("pelvis")]] == "Hips"


def test_every_vertex_is_carried_by_its_bone_in_full(boxes):
    weights = boxes.model.weights
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    for bone, own in BOXES.carried.items():  # the files say 0.5
        assert (weights[own, boxes.model.bones.index(bone)] == 1).all(), bone


def test_targets_are_mixed_by_shares(boxes):
    painted = 100 * np.array(BOXES.vertices)
    for height, factor in ((0.5, 1), (0.75, 1.05), (1, 1.1), (0, 0.9)):
        grown = boxes.model.morph(replace(JUST_PAINTED, height=height))
        np.testing.assert_allclose(grown, painted * (1, factor, 1), atol=0.02)
    wide = boxes.model.morph(replace(JUST_PAINTED, weight=0.75))
    np.testing.assert_allclose(wide, painted * (1.125, 1, 1.125), atol=0.02)
    half_man = boxes.model.morph(body.Shape(male=0.5, ancestry=(0.0, 0.0, 1.0)))
    np.testing.assert_allclose(half_man, painted * (1.05, 1, 1), atol=0.02)


def test_a_mesh_of_polygons_becomes_triangles(tmp_path):
    corners = "\n".join(f"v {x} {y} 0" for x, y in ((0, 0), (2, 0), (3, 1), (1, 2), (0, 1)))
    (tmp_path / "five.obj").write_text(f"# a pentagon, no texture\n{corners}\nf 1 2 3 4 5\nf 1//1 2//1 3//1\n")
    mesh = body.read_obj(tmp_path / "five.obj")
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 1, 2]]
    assert (mesh.uv_faces == 0).all() and mesh.groups == ("",) and (mesh.group == 0).all()
    (tmp_path / "none.obj").write_text(corners)
    with pytest.raises(ValueError, match="none.obj has no faces; fetch it again"):
        body.read_obj(tmp_path / "none.obj")


SUIT = "clothes/female_casualsuit01/female_casualsuit01"
DAMAGE = {
    "base_mesh/base.obj": ("v 0 0 0\nf 1 2 9", "a face names a point that is not there"),
    "rigs/rig.cmu_mb.json": ('{"a": {"parent": "b"}, "b": {"parent": "a"}}', "do not form a tree"),
    "rigs/weights.cmu_mb.json": ('{"weights": {"Hips": [[99999, 1.0]]}}', "IndexError"),
    "targets/macrodetails/caucasian-male-young.target.gz": (b"no gzip", "BadGzipFile"),
    f"{SUIT}.mhclo": ("obj_file female_casualsuit01.obj\nverts 0\n3\n", "fits 1 vertices, but its mesh has"),
    f"{SUIT}.obj": ("v 0 0 nan\nf 1 1 1", "no finite number"),
    f"{SUIT}.mhmat": (b"\xff\xfe", "UnicodeDecodeError"),
    f"{SUIT}.png": (b"\x89PNG", "cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_ingredient_is_named(painted, tmp_path, name):
    folder = shutil.copytree(painted / "makehuman", tmp_path / "makehuman")
    content, reason = DAMAGE[name]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((OSError, ValueError), match=reason) as told:
        model, clothes = body.BodyModel(folder), wardrobe.Wardrobe(folder)
        model.morph(body.Shape(male=1.0))
        clothes.texture(clothes["female_casualsuit01"])
    assert str(folder / name) in str(told.value) and "\n" not in str(told.value)
    assert "fetch it again" in str(told.value)


@pytest.mark.parametrize("rows", ["99999 1 1 1", "3 inf 0 0", "3 1 1"])
def test_a_target_that_moves_what_is_not_there_is_refused(painted, tmp_path, rows):
    import gzip
    folder = shutil.copytree(painted / "makehuman", tmp_path / "makehuman")
    target = folder / "targets" / "macrodetails" / "caucasian-male-young.target.gz"
    target.write_bytes(gzip.compress(f"# painted\n{rows}\n".encode()))
    model = body.BodyModel(folder)
    np.testing.assert_allclose(model.morph(JUST_PAINTED), 100 * model.mesh.vertices)  # which does not need it
    with pytest.raises(OSError, match="caucasian-male-young.target.gz cannot be read"):
        model.morph(body.Shape(male=1.0))


def test_a_texture_that_is_not_there_is_done_without(painted, tmp_path):
    folder = shutil.copytree(painted / "makehuman", tmp_path / "makehuman")
    assert wardrobe.read_garment(folder / f"{SUIT}.mhclo").texture == folder / f"{SUIT}.png"
    hat = wardrobe.read_garment(folder / "clothes" / "fedora01" / "fedora.mhclo")
    assert hat.texture == folder / "clothes" / "fedora01" / "fedora.png"  # its material lies in a folder below
    (folder / f"{SUIT}.png").unlink()
    assert wardrobe.read_garment(folder / f"{SUIT}.mhclo").texture is None
    (folder / f"{SUIT}.mhmat").write_text("name cloth\n")
    assert wardrobe.read_garment(folder / f"{SUIT}.mhclo").texture is None
    (folder / f"{SUIT}.mhmat").unlink()
    plain = wardrobe.Wardrobe(folder)
    grey = plain.texture(plain["female_casualsuit01"])
    assert grey.shape[2] == 4 and np.allclose(grey[..., :3], 0.75) and (grey[..., 3] == 1).all()


def test_the_wardrobe_knows_what_is_worn_where(boxes):
    clothes = boxes.wardrobe
    assert clothes.hair == ("bob01", "short01", "short02")  # afro01 has no texture
    assert clothes.shoes == ("shoes01", "shoes02") and clothes.hats == ("fedora",) and len(clothes.outfits) == 4
    net = clothes.texture(clothes["short02"])
    assert net is clothes.texture(clothes["short02"]) and abs(net[..., 3].mean() - 0.75) < 0.01  # holes stay holes
    covered = [v for bone in ("LeftFoot", "LeftToeBase", "RightFoot", "RightToeBase") for v in BOXES.carried[bone]]
    assert clothes["shoes01"].hidden.tolist() == sorted(covered)


def test_clothes_fit_any_body(boxes):
    """They stand off it, grow with it along each axis, and are carried by what they cover."""
    model, painted = boxes.model, 100 * np.array(BOXES.vertices)
    for name in ("male_casualsuit01", "fedora", "shoes02"):
        garment = boxes.wardrobe[name]
        fitted = garment.fit(painted)
        np.testing.assert_allclose(fitted, 100 * garment.mesh.vertices, atol=0.05)
        scale = np.array([1.3, 1.1, 0.8])
        np.testing.assert_allclose(garment.fit(painted * scale), fitted * scale, atol=1e-6)
    weights = garment.skin_weights(model.weights)
    feet = [model.bones.index(side + bone) for side in ("Left", "Right") for bone in ("Foot", "ToeBase")]
    np.testing.assert_allclose(weights[:, feet].sum(1), 1, rtol=1e-6)
    person = _dressed(boxes)
    cloth, skin = (np.unique(person.faces[which]) for which in (person.garment, person.skin))
    trunk = [v for v in cloth if person.weights[v, model.bones.index("Spine1")] == 1]
    assert abs(person.rest[trunk, 0]).max() > 150 + 10  # half the width of the chest, and room
    assert not {"Spine1", "LeftLeg", "RightFoot"} & {model.bones[b] for b in person.part[person.skin]}
    assert {"Head", "LeftHand"} <= {model.bones[b] for b in person.part[person.skin]}
    assert len(cloth) and len(skin) and not set(cloth) & set(skin)


def test_trousers_end_at_the_waist(boxes):
    for name in ("female_casualsuit01", "female_elegantsuit01"):
        garment = boxes.wardrobe[name]
        below = wardrobe._below_waist(garment, garment.skin_weights(boxes.model.weights), boxes.model.bones)
        height = garment.mesh.vertices[garment.mesh.faces][..., 1]
        pieces = garment.components.max() + 1
        if "casual" in name:
            assert pieces == 14  # one for each bone that it covers
            assert (below == (height.mean(1) < -0.1)).all()
        else:
            assert pieces == 1 and below[height.max(1) < 1.05].all() and not below[height.min(1) > 1.5].any()


def test_colours_lie_where_they_are_worn(boxes):
    person = _dressed(boxes, skin=(0.1, 0.6, 0.1), top_colour=(0.8, 0.1, 0.1), bottom_colour=(0.1, 0.1, 0.8),
                      shoe_colour=(0.7, 0.7, 0.05))
    vertices, joints = _upright(boxes, person)
    camera = _view(64)
    stage = render.stage_person(person, vertices, boxes.model.bones)
    light, _ = render.render([stage], camera, _weather(), 64, np.random.default_rng(0))
    x, y = geometry.project(camera.to_camera(joints), camera.intrinsics).round().astype(int).T
    seen = {name: light[y[j], x[j]] for j, name in enumerate(H36M17.joints)}
    for name, strongest in (("spine", 0), ("left_elbow", 0), ("left_knee", 2), ("right_knee", 2), ("nose", 1)):
        assert seen[name].argmax() == strongest and seen[name].max() > 2 * np.sort(seen[name])[1], name
    ankle = light[y[H36M17.index("left_ankle")] + 2, x[H36M17.index("left_ankle")]]
    assert ankle[2] < 0.3 * ankle[:2].min()


def test_a_hat_tops_the_head_in_the_colour_of_the_shoes(boxes):
    bald, hatted = _dressed(boxes), _dressed(boxes, hat="fedora", shoe_colour=(0.6, 0.1, 0.1))
    assert np.isclose(bald.rest[:, 1].max(), 100 * ingredients.CROWN[1], atol=0.1)
    assert np.isclose(hatted.rest[:, 1].max(), 860, atol=1)  # 60 mm above the box of the head
    top = hatted.faces[(hatted.rest[hatted.faces][..., 1] > 800).any(1) & hatted.garment]
    material = hatted.material[(hatted.rest[hatted.faces][..., 1] > 800).any(1) & hatted.garment]
    assert len(top) and len(set(material)) == 1
    assert hatted.textures[material[0]][..., 0].mean() > 5 * hatted.textures[material[0]][..., 1].mean()
    np.testing.assert_allclose(bald.joints, hatted.joints)
    haired = _dressed(boxes, hair="bob01")
    loose = [(~person.skin & ~person.garment) for person in (bald, haired)]  # eyes; eyes and hair
    assert loose[0].sum() == 24 and loose[1].sum() == 24 + 12
    assert all((person.part[which] == boxes.model.bones.index("Head")).all()
               for person, which in zip((bald, haired), loose, strict=True))


def test_eyes_look_ahead(boxes):
    person = _dressed(boxes)
    eyes = ~person.skin & ~person.garment
    iris = [m for m in set(person.material[eyes]) if np.allclose(
        wardrobe.to_srgb(person.textures[m][0, 0, :3]), LOOK.eye_colour, atol=1e-3)]
    assert len(iris) == 2
    for m in iris:
        corners = person.rest[person.faces[person.material == m]]
        assert len(corners) == 2 and np.allclose(corners[..., 2], 95)  # the front of the box, 10 mm before its middle
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        assert (normal[:, 2] > 0).all()


def test_the_pixel_of_a_joint_shows_its_part(boxes):
    """And who is seen from behind hides the nose."""
    person = _dressed(boxes)
    vertices, joints = _upright(boxes, person)
    stage = render.stage_person(person, vertices, boxes.model.bones)
    nose = H36M17.index("nose")
    for behind in (False, True):
        camera = _view(64, behind)
        _, parts = render.render([stage], camera, _weather(), 64, np.random.default_rng(0))
        pixels = geometry.project(camera.to_camera(joints), camera.intrinsics)
        state = render.joint_states(stage, H36M17.joints, boxes.model.bones, joints, camera)
        assert (state[np.arange(17) != nose] == VISIBLE).all()
        assert state[nose] == (OCCLUDED if behind else VISIBLE)
        for name in (j for j in H36M17.joints if j.split("_", 1)[-1] in ENDS or j in ENDS):
            found = near(parts[None], pixels[None, H36M17.index(name)], 1)
            assert np.isin(found, parts_at(name)).any(), (name, behind)
        left, right = (pixels[H36M17.index(f"{side}_shoulder"), 0] for side in ("left", "right"))
        assert (left > right) != behind


def test_who_walks_touches_the_ground_and_who_jumps_leaves_it(boxes):
    person = _dressed(boxes)
    clips = {clip.action: clip for clip in boxes.pools["train"].clips}
    for frame in range(0, 30, 5):
        vertices, joints = record.embody(boxes, person, record.stand(boxes, person, clips["walking"], frame))
        assert abs(vertices[:, 1].min()) < 0.5 and abs(joints[0, [0, 2]]).max() < 0.01
    ratio = sum(np.linalg.norm(person.joints[H36M17.index(f"left_{a}")] - person.joints[H36M17.index(f"left_{b}")])
                for a, b in (("hip", "knee"), ("knee", "ankle"))) / clips["jumping"].leg
    low, high = (record.embody(boxes, person, record.stand(boxes, person, clips["jumping"], frame))[0][:, 1].min()
                 for frame in (0, 15))
    assert abs(low) < 0.5
    assert 4 * motion.UNIT * ratio - 20 < high < 4 * motion.UNIT * ratio + 200  # 4 units high, with the legs apart


def test_tumbling_turns_the_whole_posture(boxes):
    person, clip = _dressed(boxes), boxes.pools["train"].clips[0]
    pose = record.stand(boxes, person, clip, 4)
    _, before = record.embody(boxes, person, pose)
    heights = []
    for seed in range(12):
        turned = record._tumble(boxes, person, pose, np.random.default_rng(seed))
        _, after = record.embody(boxes, person, turned)
        np.testing.assert_allclose(np.linalg.norm(after[:, None] - after, axis=-1),
                                   np.linalg.norm(before[:, None] - before, axis=-1), atol=0.2)
        np.testing.assert_array_equal(turned.turns[1:], pose.turns[1:])
        assert abs(after[0, [0, 2]]).max() < 0.01  # the pelvis stays above the origin
        heights.append(record._lowest(person, turned.transforms(person.heads, boxes.model.parents)))
    on_ground = np.abs(heights) < 0.01
    assert 2 <= on_ground.sum() <= 10 and max(heights) < 900 and min(heights) > -0.01


def test_a_moving_person_is_smeared_along_her_way(boxes):
    person = _dressed(boxes)
    clip = next(clip for clip in boxes.pools["train"].clips if clip.action == "walking")
    pose = record.stand(boxes, person, clip, 5)
    leg = sum(np.linalg.norm(person.joints[H36M17.index(f"left_{a}")] - person.joints[H36M17.index(f"left_{b}")])
              for a, b in (("hip", "knee"), ("knee", "ankle")))
    speed = 20 * motion.UNIT * leg / clip.leg  # mm a second, forward
    hips = np.unique(person.faces[person.part == 0])
    for start in (pose, record._tumble(boxes, person, pose, np.random.default_rng(1))):
        vertices, _ = record.embody(boxes, person, start)
        now = render.stage_person(person, vertices, boxes.model.bones)
        way = start.transforms(person.heads, boxes.model.parents)[0, :, 2]  # where the pelvis' z points
        for seed in range(4):
            stages = record._moving(boxes, person, now, start, clip, 5, np.random.default_rng(seed))
            assert len(stages) == record.MOMENTS
            path = np.stack([stage.vertices for stage in stages])
            np.testing.assert_allclose(path[0], vertices)
            np.testing.assert_allclose(np.diff(path, axis=0), np.tile(path[1] - path[0], (5, 1, 1)), atol=1e-6)
            moved = (path[-1] - path[0])[hips]
            np.testing.assert_allclose(moved, np.outer(moved @ way, way), atol=0.1)
            shutter = moved @ way / speed
            assert shutter.min() > 1 / 60 - 1e-4 and shutter.max() < 1 / 25 + 1e-4


def test_a_picture_at_the_end_of_a_clip_is_sharp(boxes):
    smeared = []
    for index in range(24):
        row = render_record(boxes, "train", index, 2, _plain(blur=1, size=16))
        assert ("blur" in row["effects"]) == (row["frame"] + 2 < 30)
        smeared.append("blur" in row["effects"])
    assert any(smeared) and not all(smeared)


def test_a_row_with_a_damaged_look_is_not_drawn(boxes):
    row = render_record(boxes, "validation", 0, 0, _plain(size=16))
    look = json.loads(row["look"])
    del look["shape"]
    with pytest.raises(ValueError, match="this is not the look of a person"):
        render_anew(boxes, {**row, "look": json.dumps(look)}, size=16)
    elsewhere = render_anew(boxes, row, background="bl_city", size=16)
    np.testing.assert_array_equal(elsewhere["parts"], render_anew(boxes, row, size=16)["parts"])
    assert (elsewhere["image"] != render_anew(boxes, row, size=16)["image"]).any()
