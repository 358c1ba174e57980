"""The embedded `people` data set, and the generator that made it.

Tests that need the ingredients run where POSEBOOK_ASSETS names their folder.
"""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posebook import geometry
from posebook.skeleton import H36M17, OCCLUDED, VISIBLE
from posebook.synthesis import assets, body, generate, motion, render, scene, synthesize, wardrobe

pq = pytest.importorskip("pyarrow.parquet")
PEOPLE = Path(__file__).parents[1] / "data" / "people"
LEAST = {"train": 2000, "validation": 300, "test": 300}
ASSETS = os.environ.get("POSEBOOK_ASSETS")
needs_assets = pytest.mark.skipif(not ASSETS, reason="POSEBOOK_ASSETS does not name the folder of ingredients")


# ---------------------------------------------------------------- the committed files

@pytest.fixture(scope="module")
def tables():
    return {split: pq.read_table(PEOPLE / f"{split}.parquet") for split in LEAST}


def column(table, name, *shape):
    return np.array(table[name].to_pylist(), np.float64).reshape(len(table), *shape)


@pytest.fixture(scope="module")
def poses(tables):
    """All splits' joints (N, 17, 3), pixels (N, 17, 2), intrinsics (N, 3, 3) and subjects (N,)."""
    def together(name, *shape):
        return np.concatenate([column(t, name, *shape) for t in tables.values()])
    subjects = np.concatenate([t["subject"].to_numpy(zero_copy_only=False) for t in tables.values()])
    return together("joints3d", 17, 3), together("joints2d", 17, 2), together("camera", 3, 3), subjects


def joint(points, name):
    return points[:, H36M17.index(name)]


def test_counts_size_and_schema(tables):
    for split, least in LEAST.items():
        assert len(tables[split]) >= least
        assert tables[split].schema.remove_metadata().equals(generate.schema())
    assert sum(path.stat().st_size for path in PEOPLE.iterdir()) <= 8_000_000


def test_checksums_match():
    lines = (PEOPLE / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == {f"{split}.parquet" for split in LEAST}
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((PEOPLE / name).read_bytes()).hexdigest() == digest


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
    pixels = poses[1]
    assert pixels.min() >= -0.5 and pixels.max() <= 127.5
    boxes = np.concatenate([column(t, "box", 4) for t in tables.values()])
    assert boxes.min() >= 0 and boxes.max() <= 128
    assert (boxes[:, 2:] - boxes[:, :2]).max(1).min() > 80  # the person fills the crop
    inside = (pixels > boxes[:, None, :2] - 3) & (pixels < boxes[:, None, 2:] + 2)
    assert inside.mean() > 0.999


def test_splits_share_no_subject_clip_or_background(tables):
    generate.assert_no_leak(tables)
    with pytest.raises(ValueError, match="share the subject"):
        generate.assert_no_leak({"train": tables["train"], "test": tables["train"]})


def test_many_actions_subjects_and_directions(tables, poses):
    actions = {split: set(t["action"].to_pylist()) for split, t in tables.items()}
    assert len(actions["train"]) >= 8
    assert actions["validation"] <= actions["train"] and actions["test"] <= actions["train"]
    assert len(actions["validation"] & actions["test"]) >= 6
    assert len(set(poses[3])) > 300
    facing = _forward(poses[0])
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
    assert 550 < legs.min() and legs.max() < 1150 and legs.std() > 30


def _forward(joints):
    """Unit vector (N, 3) out of the chest, from the hips' line and the trunk."""
    across = joint(joints, "left_hip") - joint(joints, "right_hip")
    out = np.cross(across, joint(joints, "neck") - joint(joints, "pelvis"))
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def test_who_faces_the_camera_has_the_left_shoulder_on_the_picture_s_right(poses):
    joints, pixels = poses[:2]
    toward = -_forward(joints)[:, 2]
    gap = joint(pixels, "left_shoulder")[:, 0] - joint(pixels, "right_shoulder")[:, 0]
    upright = joint(pixels, "neck")[:, 1] < joint(pixels, "pelvis")[:, 1] - 10
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
    facing = -_forward(poses[0])[:, 2]
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
    empty = np.zeros(0, int)
    return wardrobe.Person(big, np.ones((3, 1)), np.array([[0, 1, 2]]), np.zeros((1, 3, 2)), np.zeros(1, int),
                           np.array([bone]), (), empty, empty, empty, empty, empty, empty, empty, empty)


def test_a_joint_is_seen_through_its_own_part_only():
    pytest.importorskip("embreex")
    camera = scene.Camera(np.eye(3), np.eye(3), np.zeros(3))
    bones = ("Head", "LeftHand")
    joints = np.array([[0, 0, 1050.0], [0, 0, 1200.0], [0, 0, 900.0]])  # just behind, far behind, in front
    for bone, wanted in ((0, [VISIBLE, OCCLUDED, VISIBLE]), (1, [OCCLUDED, OCCLUDED, VISIBLE])):
        person = _facing_triangle(bone)
        surface = render.Surface(person.rest, person.faces)
        states = render.joint_states(person, ("nose",) * 3, bones, joints, surface, camera)
        assert states.tolist() == wanted


def test_without_the_ray_caster_one_sentence_helps(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "embreex.mesh_construction", None)
    with pytest.raises(RuntimeError, match="pip install embreex"):
        render.Surface(np.eye(3), np.array([[0, 1, 2]]))


def _fake_clip(name, action):
    return motion.Clip(name, action, 30.0, np.zeros((3, 3)), {}, {}, 800.0)


def test_pools_are_disjoint_and_scarce_actions_go_to_train():
    clips = [_fake_clip(f"walk{i}", "walking") for i in range(8)] + [_fake_clip("c", "climbing")]
    panoramas = [Path(f"{name}.jpg") for name in ("a", "b", "c", "d", "bl_studio", "pmndrs_studio")]
    pools = generate.split_pools(clips, panoramas)
    names = {split: {c.name for c in pool.clips} | {p.stem for p in pool.panoramas} for split, pool in pools.items()}
    assert not names["train"] & names["test"] and not names["train"] & names["validation"]
    assert not names["test"] & names["validation"]
    assert "c" in {c.name for c in pools["train"].clips}
    studios = [{"bl_studio", "pmndrs_studio"} & found for found in names.values()]
    assert sorted(map(len, studios)) == [0, 0, 2]
    with pytest.raises(ValueError, match="too few clips or panoramas"):
        generate.split_pools(clips[:1], panoramas)


def _recording(times):
    """A walk along a circle, sampled at `times` (seconds)."""
    bones = ("lfemur", "rfemur", "ltibia", "rtibia", "thorax")
    swing = {b: _turn("x", 40 * np.sin(4.7 * times + k)[:, None]) for k, b in enumerate(bones)}
    root = 1000 * np.stack([np.sin(times), np.ones_like(times), np.cos(times)], 1)
    return motion.Clip("a", "walking", 30.0, root, swing, {}, 800.0)


def test_copies_of_a_recording_are_recognised():
    whole, finer = _recording(np.arange(0, 6, 1 / 60)), _recording(np.arange(1.003, 4, 1 / 120))
    later = _recording(np.arange(0, 6, 1 / 60) + 2 * np.pi)  # the same way, but out of step
    assert generate._same_recording(whole, finer) and generate._same_recording(finer, whole)
    assert not generate._same_recording(whole, later)


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


def test_missing_ingredients_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="makehumancommunity"):
        synthesize(tmp_path, tmp_path / "out", {"train": 1}, seed=0)
    base = tmp_path / "makehuman" / "base_mesh"
    base.mkdir(parents=True)
    (base / "base.obj").write_text("")
    with pytest.raises(FileNotFoundError, match="CMU"):
        assets.find_assets(tmp_path)
    (tmp_path / "motion" / "cmu_bvh").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="Poly Haven"):
        assets.find_assets(tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"counts": {"training": 5}}, {"counts": {}}, {"counts": {"train": 0}},
                                   {"counts": {"train": 1}, "workers": 0}, {"counts": {"train": 1}, "quality": 0}])
def test_wrong_numbers_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="unknown split|at least"):
        synthesize(tmp_path, tmp_path, seed=0, **wrong)


# ---------------------------------------------------------------- the generator, with ingredients

@needs_assets
def test_same_seed_same_bytes(tmp_path):
    counts = {"train": 2, "validation": 1, "test": 1}
    files = [synthesize(ASSETS, tmp_path / name, counts, seed=5) for name in ("a", "b")]
    assert [a.read_bytes() for a in files[0].values()] == [b.read_bytes() for b in files[1].values()]
    other = synthesize(ASSETS, tmp_path / "c", {"train": 2}, seed=6)
    assert other["train"].read_bytes() != files[0]["train"].read_bytes()


@needs_assets
def test_bodies_are_symmetric_and_stand_on_the_ground():
    studio = generate.open_studio(ASSETS)
    look = wardrobe.random_look(np.random.default_rng(0), studio.wardrobe)
    person = wardrobe.dress(studio.model, studio.wardrobe, look, H36M17.joints)
    mirrored = person.joints[H36M17.mirror] * (-1, 1, 1)
    assert abs(mirrored - person.joints).max() < 5
    clip = next(c for c in studio.pools["train"].clips if c.action == "walking")
    vertices = body.skin(person.rest, person.weights, generate._pose(studio.model, person, clip, 5))
    assert abs(vertices[np.unique(person.faces), 1].min()) < 12
