"""Human3.6M: small folders in the official layout, written here, and everything that can be wrong with one.

No file of the data set is used. The formats are those that public readers of the real files rely on: CDF with a
variable `Pose`, MATLAB 7.3 with references to masks, MPEG-4, and the 300 numbers of metadata.xml.
"""

import builtins
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from samples import centroid, painted, pose

from posebook import metrics
from posebook.datasets import human36m, load, load_human36m
from posebook.datasets.human36m import CAMERAS, extract_frames, read_cameras, read_poses
from posebook.skeleton import ABSENT, H36M17, LSP14, VISIBLE

cdflib = pytest.importorskip("cdflib")
h5py = pytest.importorskip("h5py")
av = pytest.importorskip("av")

SIDE, FRAMES = 200, 7
USED = CAMERAS[:2]
RIGHT_WRIST = H36M17.index("right_wrist")
# Where the release keeps each joint, from the joint names that public readers list.
PLACES = {0: "pelvis", 1: "right_hip", 2: "right_knee", 3: "right_ankle", 6: "left_hip", 7: "left_knee",
          8: "left_ankle", 12: "spine", 13: "neck", 14: "nose", 15: "head_top", 17: "left_shoulder", 18: "left_elbow",
          19: "left_wrist", 25: "right_shoulder", 26: "right_elbow", 27: "right_wrist"}
JUNK = 4e5                                                                  # in the other 15 joints


def angles(subject: int, camera: int) -> np.ndarray:
    return np.array([0.3 * camera - 1.2, 0.1 * subject, 0.7 - 0.5 * camera])


def place(subject: int, camera: int) -> np.ndarray:
    return np.array([1800.0 + 100 * subject, -4800 + 900 * camera, 1500])


def lens(camera: int) -> np.ndarray:
    """Focal lengths, principal point, radial and tangential distortion: like the real ones, for 200 pixels."""
    return np.array([229 + camera, 228, 101, 99.5 + camera, -0.2, 0.24, -0.003, 0.002, -0.0014])


def turn(x: float, y: float, z: float) -> np.ndarray:
    from scipy.spatial.transform import Rotation
    return Rotation.from_euler("XYZ", [x, y, z]).as_matrix()


def seen(point: np.ndarray, numbers: np.ndarray) -> list[float]:
    """The pixel of one point in the camera's frame: radial and tangential distortion, written out."""
    fx, fy, cx, cy, k1, k2, k3, p1, p2 = numbers
    x, y = point[0] / point[2], point[1] / point[2]
    r2 = x * x + y * y
    stretch = 1 + k1 * r2 + k2 * r2 ** 2 + k3 * r2 ** 3 + p1 * y + p2 * x
    return [fx * (x * stretch + p2 * r2) + cx, fy * (y * stretch + p1 * r2) + cy]


def body(seed: int, frames: int = FRAMES) -> np.ndarray:
    """(F, 17, 3) mm in a camera's frame: a person who drifts to the right, and whose right wrist rises."""
    rng = np.random.default_rng(seed)
    flat = np.stack([pose(H36M17, (25 * f - 60, 40), 800) for f in range(frames)]).astype(np.float64)
    flat[:, RIGHT_WRIST] += np.arange(frames)[:, None] * [-70, -100]
    return np.concatenate([flat, 4500 + rng.uniform(-200, 200, (frames, 17, 1))], axis=2)


def spread(joints: np.ndarray) -> np.ndarray:
    """(F, 17, D) -> (F, 32, D), in the places of the release."""
    wide = np.full((len(joints), 32, joints.shape[2]), JUNK)
    for index, name in PLACES.items():
        wide[:, index] = joints[:, H36M17.index(name)]
    return wide


def write_cdf(path, poses: np.ndarray, compression: int = 0) -> None:
    from cdflib.cdfwrite import CDF
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    flat = poses.reshape(1, len(poses), -1).astype(np.float32)
    file = CDF(path)
    file.write_var({"Variable": "Pose", "Data_Type": 44, "Num_Elements": 1, "Rec_Vary": True,
                    "Dim_Sizes": list(flat.shape[1:]), "Compress": compression}, var_data=flat)
    file.close()


def write_masks(path, joints: np.ndarray) -> None:
    """A box of ones, 8 pixels around the joints (F, 17, 2), in the references of a MATLAB 7.3 cell array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        cells = file.create_dataset("Masks", (len(joints), 1), dtype=h5py.ref_dtype)
        for i, points in enumerate(joints):
            mask = np.zeros((SIDE, SIDE), np.uint8)
            (x0, y0), (x1, y1) = points.min(0).astype(int) - 8, points.max(0).astype(int) + 8
            mask[y0:y1, x0:x1] = 1
            cells[i, 0] = file.create_dataset(f"#refs#/m{i}", data=mask.T).ref


def pictures(joints: np.ndarray, side: int = SIDE) -> list[np.ndarray]:
    """One dot where the right wrist is: another place in every frame."""
    return [painted(points[[RIGHT_WRIST]], side, side, 4) for points in joints]


def write_video(path, images: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as video:
        stream = video.add_stream("mpeg4", rate=50)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *images[0].shape[1::-1], "yuv420p", 4_000_000
        for image in images:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        video.mux(stream.encode())


def write_metadata(path) -> None:
    numbers = [n for c in range(4) for s in range(1, 12) for n in (*angles(s, c), *place(s, c))]
    numbers += [n for c in range(4) for n in lens(c)]
    words = " ".join(repr(float(n)) for n in numbers)
    path.write_text(f"<document><mapping/><w0>[{words}]</w0></document>")


def write_view(folder, subject: int, sequence: str, camera: int, frames: int = FRAMES, seed: int = 0) -> None:
    deep = body(seed, frames)
    flat = np.array([[seen(point, lens(camera)) for point in points] for points in deep])
    name, home = f"{sequence}.{CAMERAS[camera]}", folder / f"S{subject}"
    write_cdf(home / "MyPoseFeatures" / "D2_Positions" / f"{name}.cdf", spread(flat))
    write_cdf(home / "MyPoseFeatures" / "D3_Positions_mono" / f"{name}.cdf", spread(deep))
    write_masks(home / "MySegmentsMat" / "ground_truth_bb" / f"{name}.mat", flat)
    write_video(home / "Videos" / f"{name}.mp4", [*pictures(flat), pictures(flat)[0]])     # one frame longer


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """S9 and S11 walking, each twice, seen by two cameras; S9 walks its dog, under another name, before one."""
    folder = tmp_path_factory.mktemp("human36m")
    write_metadata(folder / "metadata.xml")
    for subject, sequences in ((9, ("Walking", "Walking 1")), (11, ("Walking", "Walking 2"))):
        for trial, sequence in enumerate(sequences):
            for camera in (0, 1):
                write_view(folder, subject, sequence, camera, seed=10 * subject + 2 * trial + camera)
    for subject in (9, 11):
        for trial, sequence in enumerate(("WalkDog", "WalkDog 1")):
            write_view(folder, subject, sequence, 0, frames=2, seed=trial)
    return folder


@pytest.fixture
def folder(official, tmp_path):
    return shutil.copytree(official, tmp_path / "human36m")


def read(folder, split="test", **options):
    options = {"actions": ("Walking",), "cameras": USED, "step": 3, "progress": False, **options}
    return load_human36m(folder, split, **options)


def path(folder, kind: str, name: str):
    return next((folder / name.split("/")[0]).rglob(f"{kind}/{name.split('/')[1]}*"))


# ------------------------------------------------------------------------------------------------- what is read


def test_every_third_frame_of_every_view_comes_with_all_that_is_known(official):
    data = read(official)
    assert data.images.shape == (24, 3, 80, 80) and data.images.dtype == np.uint8 and data.skeleton is H36M17
    assert data.joints.dtype == data.joints3d.dtype == data.camera.dtype == data.to_source.dtype == np.float32
    assert (data.state == VISIBLE).all() and data.skipped == {} and len(set(data.ids)) == 24
    assert data.groups["frame"].tolist() == [0, 3, 6] * 8
    assert data.ids[:4].tolist() == ["S9/Walking.54138969/000001", "S9/Walking.54138969/000004",
                                     "S9/Walking.54138969/000007", "S9/Walking.55011271/000001"]
    assert data.groups["clip"][::6].tolist() == ["S9/Walking", "S9/Walking 1", "S11/Walking", "S11/Walking 2"]
    assert data.groups["subject"][::12].tolist() == ["S9", "S11"] and set(data.groups["action"]) == {"Walking"}
    assert data.groups["camera"][::3].tolist() == list(USED) * 4


def test_the_17_joints_are_picked_by_place_and_the_camera_is_the_files_own(official):
    data = read(official)
    for i in range(len(data)):
        subject, camera = int(data.groups["subject"][i][1:]), CAMERAS.index(data.groups["camera"][i])
        trial = int(data.groups["clip"][i][-1] in "12")
        true = body(10 * subject + 2 * trial + camera)[data.groups["frame"][i]]
        np.testing.assert_allclose(data.joints3d[i], true, atol=1e-3)
        np.testing.assert_allclose(data.source_joints[i], [seen(p, lens(camera)) for p in true], atol=1e-3)
        fx, fy, cx, cy = lens(camera)[:4]
        np.testing.assert_allclose(data.camera[i], [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], atol=1e-4)


def test_pictures_show_the_frame_that_the_labels_are_of(official):
    data = read(official, step=1)
    for image, joints in zip(data.images, data.joints, strict=True):
        np.testing.assert_allclose(centroid(np.maximum(image[0].astype(float) - 60, 0)), joints[RIGHT_WRIST], atol=0.5)
    assert len(np.unique(data.joints[:FRAMES, RIGHT_WRIST].round(), axis=0)) == FRAMES


def test_cameras_are_read_as_the_release_counts_them(official):
    known = read_cameras(official / "metadata.xml")
    assert len(known) == 44
    points = np.array([[100.0, -200, 4000], [-700, 500, 3500]])
    for subject, camera in ((1, 0), (9, 2), (11, 3)):
        found = known[f"S{subject}", CAMERAS[camera]]
        np.testing.assert_allclose(found.rotation, turn(*angles(subject, camera)), atol=1e-12)
        np.testing.assert_array_equal(found.position, place(subject, camera))
        np.testing.assert_allclose(found.project(points), [seen(p, lens(camera)) for p in points], atol=1e-9)
        np.testing.assert_allclose(found.to_camera(points @ found.rotation + found.position), points, atol=1e-6)
    plain = replace(found, radial=np.zeros(3), tangential=np.zeros(2))
    assert 0.1 < np.abs(plain.project(points) - found.project(points)).max() < 3


def test_positions_of_the_room_serve_where_those_of_the_camera_are_missing(folder):
    expected = read(folder).joints3d
    for subject in (9, 11):
        shutil.rmtree(folder / f"S{subject}" / "MyPoseFeatures" / "D3_Positions_mono")
    for subject, trial, sequence in ((9, 0, "Walking"), (9, 1, "Walking 1")):
        deep = body(10 * subject + 2 * trial)
        room = deep @ turn(*angles(subject, 0)) + place(subject, 0)          # the inverse of a rotation, to the rows
        write_cdf(folder / f"S{subject}" / "MyPoseFeatures" / "D3_Positions" / f"{sequence}.cdf", spread(room))
    with pytest.raises(FileNotFoundError, match="S11/Walking.54138969 has neither D3_Positions_mono nor .*S11"):
        read(folder, cameras=CAMERAS[:1])
    data = read(folder, cameras=CAMERAS[:1], leave_out=("S11/Walking", "S11/Walking 2"))
    np.testing.assert_allclose(data.joints3d, np.concatenate([expected[:3], expected[6:9]]), atol=5e-3)
    assert data.skipped == {"views left out": 2}


@pytest.mark.parametrize("step, frames", [(1, list(range(7))), (2, [0, 2, 4, 6]), (4, [0, 4]), (64, [0])])
def test_every_nth_frame_counts_from_the_first(official, step, frames):
    assert read(official, step=step).groups["frame"].tolist() == frames * 8


def test_a_limit_spreads_over_the_split(official):
    whole = read(official)
    for limit in (1, 5, 23):
        part = read(official, limit=limit)
        index = np.linspace(0, 23, limit).astype(int)
        assert part.ids.tolist() == whole.ids[index].tolist()
        np.testing.assert_array_equal(part.images, whole.images[index])
        np.testing.assert_array_equal(part.joints3d, whole.joints3d[index])
    assert len(read(official, limit=999)) == 24


def test_an_action_is_chosen_by_any_of_its_names(official):
    for name in ("WalkDog", "WalkingDog"):
        data = read(official, actions=(name,), cameras=CAMERAS[:1], step=1)
        assert len(data) == 8 and set(data.groups["action"]) == {"WalkingDog"}
        assert sorted(set(data.groups["clip"])) == ["S11/WalkDog", "S11/WalkDog 1", "S9/WalkDog", "S9/WalkDog 1"]
    both = read(official, actions=("WalkDog", "WalkingDog", "Walking"), cameras=CAMERAS[:1], step=1)
    assert len(both) == 8 + 28
    assert read(official, skeleton=LSP14).joints.shape == (24, 14, 2)


def test_nobody_is_in_two_splits_and_the_protocols_are_the_published_ones():
    train, validation, both, test = human36m.SPLITS.values()
    assert tuple(human36m.SPLITS) == ("train", "validation", "train+validation", "test")
    assert not set(train) & set(validation) and not set(both) & set(test) and sorted(train + validation) == sorted(both)
    assert both == ("S1", "S5", "S6", "S7", "S8") and test == ("S9", "S11")
    assert len(human36m.ACTIONS) == 15 and [len(p.runs) for p in human36m.PROTOCOLS.values()] == [1, 1, 15]
    assert {name: p.metric for name, p in human36m.PROTOCOLS.items()} == {"1": "mpjpe", "2": "pa_mpjpe",
                                                                          "per-action": "mpjpe"}
    assert all(callable(getattr(metrics, p.metric)) for p in human36m.PROTOCOLS.values())
    assert human36m.PROTOCOLS["per-action"].runs[12] == ("Walking",)
    assert {human36m.JOINTS[k]: name for k, name in enumerate(H36M17.joints)} == PLACES


def test_a_split_needs_only_its_own_subjects(tmp_path):
    write_metadata(tmp_path / "metadata.xml")
    for sequence in ("Eating", "Eating 1"):
        write_view(tmp_path, 8, sequence, 3)
    data = read(tmp_path, "validation", actions="Eating", cameras=CAMERAS[3:])
    assert set(data.groups["subject"]) == {"S8"} and data.split == "validation" and len(data) == 6
    with pytest.raises(FileNotFoundError, match="has no folder S1, but the split train is S1, S5, S6, S7"):
        read(tmp_path, "train", actions="Eating")


def test_the_official_box_fills_the_input(official):
    data = read(official, boxes="official", size=80, crop=64)
    scale = data.to_source[:, 0, 0]
    for i in range(len(data)):
        low, high = data.source_joints[i].min(0).astype(int) - 8, data.source_joints[i].max(0).astype(int) + 8
        np.testing.assert_allclose(scale[i] * 64, max(high - low), rtol=1e-4)
        middle = data.to_source[i] @ [39.5, 39.5, 1]
        np.testing.assert_allclose(middle, (low + high - 1) / 2, atol=1e-3)
    np.testing.assert_allclose(data.source_joints, read(official).source_joints, atol=1e-3)


def test_joints_outside_the_picture_are_absent(folder):
    name = "S9/Walking.54138969"
    flat = read_poses(path(folder, "D2_Positions", name), 2)
    flat[3, 0] = [20, -3]
    write_cdf(path(folder, "D2_Positions", name), spread(flat))
    data = read(folder)
    assert data.state[1, 0] == ABSENT and (data.joints[1, 0] == 0).all() and (data.state == ABSENT).sum() == 1
    assert data.joints3d[1, 0, 2] > 4000


# ------------------------------------------------------------------------------------------------- frames


def test_extracted_frames_give_what_the_video_gives(folder, monkeypatch):
    from_video = read(folder)
    options = {"actions": ("Walking",), "cameras": USED, "step": 3, "progress": False}
    assert extract_frames(folder, "test", **options) == 24
    assert extract_frames(folder, "test", **options) == 0
    names = [p.name for p in sorted((folder / "S9" / "Images" / "Walking 1.55011271").iterdir())]
    assert names == ["img_000001.jpg", "img_000004.jpg", "img_000007.jpg"]
    for subject in (9, 11):
        shutil.rmtree(folder / f"S{subject}" / "Videos")
    monkeypatch.setattr(human36m, "_open_video", lambda path: pytest.fail("a video was opened"))
    data = read(folder)
    assert data.ids.tolist() == from_video.ids.tolist()
    np.testing.assert_array_equal(data.joints, from_video.joints)
    assert np.abs(data.images.astype(int) - from_video.images).mean() < 2
    with pytest.raises(FileNotFoundError, match="Walking.54138969 holds 3 pictures but not img_000003.jpg, .* step=2"):
        read(folder, step=2)


def test_an_extraction_that_was_stopped_goes_on(folder):
    options = {"actions": ("Walking",), "cameras": USED, "step": 3, "progress": False}
    extract_frames(folder, "test", **options)
    gone = folder / "S11" / "Images" / "Walking.55011271" / "img_000004.jpg"
    whole = gone.read_bytes()
    gone.unlink()
    assert extract_frames(folder, "test", **options) == 1 and gone.read_bytes() == whole


def test_pictures_of_another_size_are_refused(folder):
    extract_frames(folder, "test", actions=("Walking",), cameras=USED, step=3, progress=False)
    picture = folder / "S9" / "Images" / "Walking.54138969" / "img_000004.jpg"
    Image.new("RGB", (100, 100)).save(picture)
    with pytest.raises(ValueError, match="S9/Walking.54138969, frame 3: the picture is 100 x 100 .* unscaled"):
        read(folder)
    picture.write_bytes(b"no picture")
    with pytest.raises(OSError, match="img_000004.jpg cannot be read as an image"):
        read(folder)


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("options, message", [
    ({"split": "dev"}, "splits train, validation, train"), ({"cameras": ("54138969", "1")}, "has the cameras .* not 1"),
    ({"actions": ("Juggling",)}, "'Juggling' is no action of Human3.6M; known are Directions"),
    ({"actions": ()}, "leave nothing to read"), ({"cameras": ()}, "leave nothing to read"),
    ({"step": 0}, "step must be at least 1"), ({"limit": 0}, "limit must be at least 1"),
    ({"boxes": "mine"}, "boxes must be one of joints, official"),
    ({"leave_out": ("Walking 1",)}, "leave_out names 'Walking 1'; it takes a view"),
    ({"leave_out": ("S9/Wlaking 1",)}, "leave_out names 'S9/Wlaking 1'")])
def test_unknown_choices_are_named(official, options, message):
    with pytest.raises(ValueError, match=message):
        read(official, **options)


def test_load_needs_the_readers_own_folder(official):
    with pytest.raises(ValueError, match="human36m is not part of this book .* name the folder of your own copy"):
        load("human36m", "test")
    data = load("human36m", "test", official, actions=("Walking",), cameras=USED, limit=2, progress=False)
    assert len(data) == 2 and data.name == "human36m"


def gone(kind: str, name: str):
    return lambda folder: path(folder, kind, name).unlink()


@pytest.mark.parametrize("damage, message", [
    (lambda folder: shutil.rmtree(folder / "S11"), "has no folder S11, but the split test is S9, S11"),
    (lambda folder: (folder / "metadata.xml").unlink(), "metadata.xml; it holds the cameras .* code archive"),
    (gone("D2_Positions", "S9/Walking 1.55011271"), r"no .*D2_Positions/Walking 1.55011271.cdf; .*leave_out="),
    (gone("D3_Positions_mono", "S9/Walking 1.55011271"), "S9/Walking 1.55011271 has neither D3_Positions_mono nor"),
    (gone("Videos", "S11/Walking 2.54138969"), r"S11/Walking 2.54138969 has neither .*mp4 nor a folder .*Images"),
    (lambda folder: [p.unlink() for p in (folder / "S9" / "MyPoseFeatures" / "D2_Positions").glob("Walking 1.*")],
     r"S9.*D2_Positions holds 1 of the 2 sequences of Walking \(Walking\)"),
    (lambda folder: shutil.rmtree(folder / "S9" / "MyPoseFeatures"), "no folder .*S9.*D2_Positions; unpack")])
def test_what_is_missing_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(FileNotFoundError, match=message):
        read(folder)


@pytest.mark.parametrize("kind, name, keep, message", [
    ("D2_Positions", "S9/Walking.55011271", 0.5, "Walking.55011271.cdf cannot be read as a CDF file"),
    ("D2_Positions", "S9/Walking.55011271", 0, "Walking.55011271.cdf cannot be read as a CDF file"),
    ("D3_Positions_mono", "S11/Walking.55011271", 0.5, "D3_Positions_mono/Walking.55011271.cdf cannot be read"),
    ("ground_truth_bb", "S9/Walking.55011271", 0.5, "Walking.55011271.mat cannot be read as a MATLAB 7.3 file"),
    ("Videos", "S9/Walking.55011271", 0, "Walking.55011271.mp4 cannot be read as a video"),
    ("Videos", "S9/Walking.55011271", 0.5, "Walking.55011271.mp4 cannot be read as a video")])
def test_a_damaged_file_is_named(folder, kind, name, keep, message):
    damaged = path(folder, kind, name)
    damaged.write_bytes(damaged.read_bytes()[:int(keep * damaged.stat().st_size)])
    with pytest.raises(OSError, match=message):
        read(folder, boxes="official")


@pytest.mark.parametrize("compression", [0, 6])
def test_a_cut_off_file_of_poses_never_gives_other_poses(tmp_path, compression):
    whole, cut = tmp_path / "whole.cdf", tmp_path / "cut.cdf"
    write_cdf(whole, spread(body(0)), compression)
    poses, content = read_poses(whole, 3), whole.read_bytes()
    for keep in np.linspace(0, len(content) - 1, 60).astype(int):
        cut.write_bytes(content[:keep])
        try:
            np.testing.assert_array_equal(read_poses(cut, 3), poses)
        except (OSError, ValueError) as error:
            assert str(cut) in str(error)


def shorten(kind: str, name: str, dimensions: int):
    def change(folder):
        file = path(folder, kind, name)
        write_cdf(file, spread(read_poses(file, dimensions)[:-1]))
    return change


def break_pose(folder):
    file = path(folder, "D3_Positions_mono", "S9/Walking 1.54138969")
    poses = read_poses(file, 3)
    poses[5, 3, 1] = np.nan
    write_cdf(file, spread(poses))


def swap(folder):
    one, other = (path(folder, "D3_Positions_mono", f"S9/Walking.{camera}") for camera in USED)
    write_cdf(one, spread(read_poses(other, 3) + [0, 900, 0]))


def short_video(folder):
    file = path(folder, "Videos", "S11/Walking.54138969")
    write_video(file, [np.zeros((SIDE, SIDE, 3), np.uint8)] * 6)


def other_video(folder):
    write_video(path(folder, "Videos", "S11/Walking.54138969"), [np.zeros((120, 160, 3), np.uint8)] * FRAMES)


def few_boxes(folder):
    file = path(folder, "ground_truth_bb", "S9/Walking.54138969")
    write_masks(file, np.tile(np.array([[[50, 50], [90, 120]]]), (5, 1, 1)))


def empty_box(folder):
    with h5py.File(path(folder, "ground_truth_bb", "S9/Walking.54138969"), "r+") as file:
        file["#refs#/m3"][...] = 0


@pytest.mark.parametrize("damage, message", [
    (shorten("D2_Positions", "S9/Walking.54138969", 2),
     "S9/Walking.54138969: D2_Positions has 6 frames, D3_Positions_mono 7; .* unpack"),
    (shorten("D3_Positions_mono", "S9/Walking.54138969", 3), "D2_Positions has 7 frames, D3_Positions_mono 6"),
    (break_pose, "D3_Positions_mono/Walking 1.54138969.cdf: the pose of frame 5 and 0 others are not finite"),
    (swap, r"S9/Walking.54138969: the 2D positions lie \d+ pixels \(median\) from the projection of D3_Positions_mono"),
    (short_video, "S11.*Walking.54138969.mp4 has 6 frames, but there are poses of 7; .* leave_out"),
    (other_video, "S11/Walking.54138969, frame 0: the picture is 160 x 120 pixels"),
    (few_boxes, "Walking.54138969.mat holds boxes of 5 frames, but there are poses of 7"),
    (empty_box, "Walking.54138969.mat has no box in frame 3"),
    (lambda folder: shutil.copy(path(folder, "D2_Positions", "S9/Walking.54138969"),
                                path(folder, "D3_Positions_mono", "S9/Walking.54138969")),
     r"Pose must hold 96 numbers a frame, 32 joints in 3D, but has the shape \(1, 7, 64\)"),
    (lambda folder: (folder / "S9" / "MyPoseFeatures" / "D2_Positions" / "Sleeping.54138969.cdf").write_bytes(b""),
     "holds 'Sleeping', which is no action of Human3.6M; move its files"),
    (lambda folder: (folder / "metadata.xml").write_text("<a><w0>[1 2 3]</w0></a>"), "must hold 300 .* holds 3;"),
    (lambda folder: (folder / "metadata.xml").write_text("<a/>"), "must hold 300 numbers .* holds 0;")])
def test_files_that_do_not_belong_together_are_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        read(folder, boxes="official")


@pytest.mark.parametrize("content", ["<document><w0>[1 2", "<a><w0>[one two]</w0></a>"])
def test_damaged_metadata_are_named(folder, content):
    (folder / "metadata.xml").write_text(content)
    with pytest.raises(OSError, match="metadata.xml cannot be read .* code archive"):
        read(folder)


def test_a_video_that_ends_too_early_is_named_even_if_it_does_not_say_so(folder, monkeypatch):
    short_video(folder)
    monkeypatch.setattr(human36m, "_check_video", lambda *_: None)
    with pytest.raises(OSError, match="Walking.54138969.mp4 ends after 6 frames, before frame 6 that has a pose"):
        read(folder)


def test_labels_are_checked_before_any_picture_is_decoded(folder, monkeypatch):
    break_pose(folder)
    monkeypatch.setattr(human36m, "_decode", lambda *_: pytest.fail("a video was decoded"))
    with pytest.raises(ValueError, match="not finite"):
        read(folder)


def test_a_view_that_is_left_out_is_not_asked_for(folder):
    for kind in ("D2_Positions", "Videos", "D3_Positions_mono"):
        path(folder, kind, "S9/Walking 1.55011271").unlink()
    data = read(folder, leave_out={"S9/Walking 1.55011271"})
    assert len(data) == 21 and data.skipped == {"views left out": 1}


def test_the_view_with_the_known_damage_is_left_out_unless_asked_for(folder):
    for subject in (9, 11):
        for sequence in ("Directions", "Directions 1"):
            write_view(folder, subject, sequence, 0)
    path(folder, "Videos", "S11/Directions.54138969").write_bytes(b"damaged")
    data = read(folder, actions="Directions", cameras=CAMERAS[:1])
    assert len(data) == 9 and data.skipped == {"views left out": 1}
    with pytest.raises(OSError, match="Directions.54138969.mp4 cannot be read as a video"):
        read(folder, actions="Directions", cameras=CAMERAS[:1], leave_out=())


@pytest.mark.parametrize("library, options", [("cdflib", {}), ("av", {}), ("h5py", {"boxes": "official"})])
def test_a_missing_library_is_named_with_the_way_to_get_it(official, monkeypatch, library, options):
    def refuse(name, *args):
        if name == library:
            raise ImportError(name)
        return builtins.__import__(name, *args)
    monkeypatch.setattr(human36m, "import_module", refuse)
    with pytest.raises(ImportError, match=rf"needs the package {library}: pip install .*human36m"):
        read(official, **options)
