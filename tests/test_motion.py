"""Reading motion files of every format, and what is refused. The files are written here."""

import json

import numpy as np
import pytest

from posebook.synthesis import motion

UPRIGHT = (1.0, 0, 0, 0)
TURNS = ("root", "chest", "neck", "right_hip", "right_knee", "right_ankle", "right_shoulder", "right_elbow",
         "left_hip", "left_knee", "left_ankle", "left_shoulder", "left_elbow")


def row(duration=0.02, at=(0.0, 0.85, 0), **turns):
    """A humanoid3d frame with the root `at` a point (m); what is not named rests."""
    frame = [duration, *at]
    for joint in TURNS:
        hinge = joint.endswith(("knee", "elbow"))
        frame += [turns.get(joint, 0.0)] if hinge else list(turns.get(joint, UPRIGHT))
    return frame


def quaternion(axis, degrees):
    """w x y z about one of the humanoid's own axes: x forward, y up, z to its right."""
    half = np.deg2rad(degrees) / 2
    return [np.cos(half), *(np.sin(half) * np.eye(3)["xyz".index(axis)])]


def write(folder, *frames, name="humanoid3d_a.txt"):
    path = folder / name
    path.write_text(json.dumps({"Loop": "none", "Frames": frames}))
    return path


def read(folder, **turns):
    return motion.read_humanoid3d(write(folder, row(**turns)), "a", "walking")


def pointing(clip, bone, frame=0):
    """Where a bone points: x to the person's left, y up, z forward."""
    return clip.rotations[bone][frame] @ clip.directions[bone]


def turn(axis, degrees):
    return motion.Rotation.from_euler(axis, degrees, degrees=True).as_matrix()


# ---------------------------------------------------------------- the humanoid

def test_the_humanoid_rests_upright_with_hanging_arms(tmp_path):
    clip = read(tmp_path)
    for side in "lr":
        for bone in ("femur", "tibia", "humerus", "radius", "hand"):
            assert np.allclose(pointing(clip, side + bone), [0, -1, 0])
        assert np.allclose(pointing(clip, f"{side}foot"), [0, 0, 1])
    for bone in ("root", "lowerback", "upperback", "thorax", "lowerneck", "upperneck", "head", "lfemur", "rclavicle"):
        assert np.allclose(clip.rotations[bone][0], np.eye(3))
    assert np.allclose(clip.root, [[0, 850, 0]]) and 800 < clip.leg < 860


def test_arms_rest_straight_out_as_in_the_other_captures(tmp_path):
    clip = read(tmp_path)
    assert np.allclose(clip.directions["lhumerus"], [1, 0, 0]) and np.allclose(clip.directions["rhumerus"], [-1, 0, 0])
    assert np.allclose(clip.rotations["lhand"][0], turn("z", -90))


@pytest.mark.parametrize("side", ["left", "right"])
def test_knees_bend_backwards_and_elbows_forwards(tmp_path, side):
    clip = read(tmp_path, **{f"{side}_knee": -np.deg2rad(40), f"{side}_elbow": np.deg2rad(70)})
    s, c = np.sin(np.deg2rad([40, 70])), np.cos(np.deg2rad([40, 70]))
    assert np.allclose(pointing(clip, f"{side[0]}tibia"), [0, -c[0], -s[0]])
    assert np.allclose(pointing(clip, f"{side[0]}radius"), [0, -c[1], s[1]])
    assert np.allclose(pointing(clip, f"{side[0]}femur"), [0, -1, 0])
    other = "r" if side == "left" else "l"
    assert np.allclose(pointing(clip, f"{other}tibia"), [0, -1, 0])


def test_left_is_left(tmp_path):
    clip = read(tmp_path, left_shoulder=quaternion("x", 90), right_hip=quaternion("x", -30))
    assert np.allclose(pointing(clip, "lhumerus"), [1, 0, 0])
    assert np.allclose(pointing(clip, "rhumerus"), [0, -1, 0])
    assert np.allclose(pointing(clip, "rfemur"), [-0.5, -np.sqrt(0.75), 0])
    assert np.allclose(pointing(clip, "lfemur"), [0, -1, 0])


def test_the_humanoid_walks_the_way_it_faces(tmp_path):
    """It faces its world's +x, which is forward; turned left by 90 degrees it walks to -z, the left."""
    frames = [row(at=(0, 0.9, 0)), row(at=(1, 0.9, 0)), row(at=(1, 0.9, -1), root=quaternion("y", 90))]
    clip = motion.read_humanoid3d(write(tmp_path, *frames), "a", "walking")
    assert np.allclose(clip.root, [[0, 900, 0], [0, 900, 1000], [1000, 900, 1000]])
    assert np.allclose(clip.rotations["root"][1] @ [0, 0, 1], [0, 0, 1])
    assert np.allclose(clip.rotations["root"][2] @ [0, 0, 1], [1, 0, 0])


def test_back_and_neck_share_out_their_bend(tmp_path):
    clip = read(tmp_path, chest=quaternion("z", -60), neck=quaternion("y", 30))
    bowed = {bone: clip.rotations[bone][0] for bone in clip.rotations}
    for bone, degrees in {"root": 0, "lowerback": 20, "upperback": 40, "thorax": 60, "lclavicle": 60}.items():
        assert np.allclose(bowed[bone], turn("x", degrees))  # forward and down
    for bone, degrees in {"lowerneck": 10, "upperneck": 20, "head": 30}.items():
        assert np.allclose(bowed[bone], turn("x", 60) @ turn("y", degrees))
    assert np.allclose(pointing(clip, "lhumerus"), turn("x", 60) @ [0, -1, 0])
    assert np.allclose(pointing(clip, "ltibia"), [0, -1, 0])


def test_the_frame_rate_is_that_of_the_usual_duration(tmp_path):
    frames = [row(0.02), row(0.04), row(0.02), row(0.02), row(0.0)]  # the last frame lasts no time in many files
    assert motion.read_humanoid3d(write(tmp_path, *frames), "a", "walking").fps == pytest.approx(50)


def test_quaternions_need_not_be_of_unit_length(tmp_path):
    clip = read(tmp_path, left_hip=np.array(quaternion("z", 50)) * 0.7)
    assert np.allclose(clip.rotations["lfemur"][0], turn("x", -50))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"Frames": []}', '{"Frames": 3}', '{"Frames": [[1, 2]]}',
                                  '{"Frames": ["ab"]}', '{"Frames": [[1, 2], [1]]}'])
def test_what_is_no_humanoid_is_refused_by_name(tmp_path, text):
    (tmp_path / "odd.txt").write_text(text)
    with pytest.raises(ValueError, match=r"odd\.txt is no humanoid3d motion"):
        motion.read_humanoid3d(tmp_path / "odd.txt", "a", "walking")


@pytest.mark.parametrize("frames", [[row(at=(0, np.nan, 0))], [row(0.0), row()], [row(-1.0), row()],
                                    [row(chest=(0, 0, 0, 0))], [row(left_hip=(3, 0, 0, 0))]])
def test_damaged_frames_are_refused_by_name(tmp_path, frames):
    with pytest.raises(ValueError, match=r"humanoid3d_a\.txt is damaged"):
        motion.read_humanoid3d(write(tmp_path, *frames), "a", "walking")


def test_an_upside_down_pelvis_is_sound_in_gymnastics_only(tmp_path):
    path = write(tmp_path, *[row(root=quaternion("z", 180))] * 3)
    assert len(motion.read_humanoid3d(path, "a", "gymnastics").sound) == 3
    assert len(motion.read_humanoid3d(path, "a", "walking").sound) == 0


def test_actions_are_named_plainly():
    assert set(motion.HUMANOID3D_ACTIONS.values()) >= {"dancing", "kicking", "gymnastics"}
    assert not any(clip.startswith("humanoid3d") for clip in motion.HUMANOID3D_ACTIONS)


# ---------------------------------------------------------------- any file

def bvh_of_cmu(frames):
    """A BVH file with CMU's joints, each with an offset of its own and all rotations 0."""
    names = list(motion._BVH_NAMES)
    lines = ["HIERARCHY", f"ROOT {names[0]}", "{", "OFFSET 0 0 0",
             "CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation"]
    for name in names[1:]:
        lines += [f"JOINT {name}", "{", "OFFSET 0 -1 0.5", "CHANNELS 3 Zrotation Yrotation Xrotation",
                  "End Site", "{", "OFFSET 0 -1 0", "}", "}"]
    numbers = " ".join(["0"] * (3 + 3 * len(names)))
    return "\n".join([*lines, "}", "MOTION", f"Frames: {frames}", "Frame Time: 0.02", *[numbers] * frames])


def asf_and_amc():
    """An Acclaim skeleton with all of CMU's bones, hanging from the root, and two frames at rest."""
    bones = sorted(set(motion.BONE_OF.values()) - {"root"})
    spec = "\n".join(f"begin\nname {b}\ndirection 0 -1 0.5\nlength 1\naxis 0 0 0 XYZ\ndof rx\nend" for b in bones)
    skeleton = f":bonedata\n{spec}\n:hierarchy\nbegin\nroot {' '.join(bones)}\nend\n"
    moves = "\n".join(f"{frame}\nroot 0 0 0 0 0 0\n" + "\n".join(f"{b} 0" for b in bones) for frame in (1, 2))
    return skeleton, f":FULLY-SPECIFIED\n:DEGREES\n{moves}\n"


def test_a_reader_is_chosen_by_the_file(tmp_path):
    (tmp_path / "walk.BVH").write_text(bvh_of_cmu(4))
    skeleton, moves = asf_and_amc()
    (tmp_path / "02.asf").write_text(skeleton)
    (tmp_path / "02_05.amc").write_text(moves)
    np.savetxt(tmp_path / "maps.txt", np.zeros((6, 117)), delimiter=",")
    write(tmp_path, row(), row(), row(), name="human.txt")
    frames = {"walk.BVH": 4, "02_05.amc": 2, "maps.txt": 5, "human.txt": 3}
    for file, count in frames.items():
        clip = motion.read_clip(tmp_path / file, f"own/{file}", "walking")
        assert len(clip) == count and clip.name == f"own/{file}" and clip.action == "walking"
        assert set(motion.BONE_OF.values()) <= clip.rotations.keys()


def test_an_acclaim_motion_takes_the_skeleton_of_its_subject(tmp_path):
    skeleton, moves = asf_and_amc()
    (tmp_path / "02_05.amc").write_text(moves)
    with pytest.raises(FileNotFoundError, match=r"02_05\.amc needs the one skeleton .* holds 0"):
        motion.read_clip(tmp_path / "02_05.amc", "a", "walking")
    for name in ("02.asf", "03.asf"):
        (tmp_path / name).write_text(skeleton)
    assert len(motion.read_clip(tmp_path / "02_05.amc", "a", "walking")) == 2
    (tmp_path / "02.asf").rename(tmp_path / "04.asf")
    with pytest.raises(FileNotFoundError, match="holds 2"):
        motion.read_clip(tmp_path / "02_05.amc", "a", "walking")


@pytest.mark.parametrize(("name", "text"), [("walk.fbx", "anything"), ("walk", "anything"), ("walk.txt", "left, right"),
                                            ("walk.txt", ""), ("walk.txt", "1,2,3\n4,5,6\n")])
def test_unknown_formats_are_refused_in_one_sentence(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name} is of no known motion format; .*bvh.*amc.*humanoid3d") as refusal:
        motion.read_clip(tmp_path / name, "a", "walking")
    assert "\n" not in str(refusal.value)


DAMAGED = {"empty.bvh": "", "garbage.bvh": "HIERARCHY\n}\n}", "cut.bvh": bvh_of_cmu(3)[:-40],
           "still.bvh": bvh_of_cmu(0), "nan.bvh": bvh_of_cmu(1).replace("0 0 0 0 0 0", "nan 0 0 0 0 0"),
           "other.bvh": bvh_of_cmu(1).replace("JOINT LeftHip", "JOINT mixamorig"),
           "frozen.bvh": bvh_of_cmu(1).replace("Frame Time: 0.02", "Frame Time: 0"),
           "cut.txt": ",".join(["0"] * 117) + "\n1,2", "words.txt": ",".join(["a"] * 117),
           "first.txt": ",".join(["0"] * 117), "open.txt": '{"Frames": [[1,', "empty.amc": "", "words.amc": "1\nroot a"}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused_by_name(tmp_path, name):
    (tmp_path / "a.asf").write_text(asf_and_amc()[0])
    (tmp_path / name).write_text(DAMAGED[name])
    with pytest.raises(ValueError, match=name) as refusal:
        motion.read_clip(tmp_path / name, "a", "walking")
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


def test_a_skeleton_with_remarks_is_read_and_one_with_other_axes_refused(tmp_path):
    skeleton, moves = asf_and_amc()
    for name, text in (("remarks", "# measured in 2002\n\n" + skeleton), ("axes", skeleton.replace("XYZ", "ZYX"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.asf").write_text(text)
        (tmp_path / name / "a.amc").write_text(moves)
    motion.read_clip(tmp_path / "remarks" / "a.amc", "a", "walking")
    with pytest.raises(ValueError, match=r"a\.asf: axis order ZYX of .*; only XYZ is read"):
        motion.read_clip(tmp_path / "axes" / "a.amc", "a", "walking")


def test_binary_files_and_other_skeletons_are_refused(tmp_path):
    for name in ("bytes.bvh", "bytes.txt"):
        (tmp_path / name).write_bytes(bytes(range(256)))
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            motion.read_clip(tmp_path / name, "a", "walking")
    lines = bvh_of_cmu(1).replace("JOINT RightKnee", "JOINT RightAnkle")
    (tmp_path / "no_knee.bvh").write_text(lines)
    with pytest.raises(ValueError, match=r"no_knee\.bvh"):
        motion.read_clip(tmp_path / "no_knee.bvh", "a", "walking")


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        motion.read_clip(tmp_path / "none.bvh", "a", "walking")
