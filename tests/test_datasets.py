"""Data sets: what is read, what is refused and why, what is skipped and counted, and the cache of crops."""

import hashlib
import io
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from samples import centroid, jpeg, lspet_folder, painted, people, people_shard, write_mat

from posebook import geometry
from posebook.datasets import PoseDataset, join, load, load_lspet, load_people, load_person_free, lspet
from posebook.datasets.base import NOWHERE, read_image
from posebook.datasets.people import FREE_SIDES, people_folder, read_shard
from posebook.files import read_sums, sha256, write_sums
from posebook.skeleton import ABSENT, COCO17, H36M17, LSP14, OCCLUDED, UPPER8, VISIBLE

EMBEDDED = [path for split in ("train", "validation", "test") for path in people_folder().glob(f"{split}-*.parquet")]


# ------------------------------------------------------------------------------------------------- PoseDataset


@pytest.mark.parametrize("change, message", [
    ({"joints": np.zeros((3, 14, 2), np.float32)}, "joints must have shape"),
    ({"state": np.zeros((4, 13), np.uint8)}, "state must have shape"),
    ({"ids": np.array(["a"])}, "ids must have shape"),
    ({"images": np.zeros((4, 3, 8, 8), np.float32)}, "images must be uint8"),
    ({"images": np.zeros((4, 8, 8, 3), np.uint8)}, "images must be uint8"),
    ({"joints": np.full((4, 14, 2), np.nan, np.float32)}, "NaN or infinity")])
def test_a_data_set_that_does_not_fit_together_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(people(4), **change)


def test_source_joints_undo_the_crop():
    data = people(3)
    np.testing.assert_allclose(data.source_joints, data.joints * 2 + 0.5, atol=1e-4)


def test_subset_takes_all_columns_along():
    data = replace(people(5), groups={"clip": np.array(list("abcde"))}, joints3d=np.zeros((5, 14, 3), np.float32))
    data.joints3d[:, 0, 0] = range(5)
    by_number, by_mask = data.subset([4, 1]), data.subset(np.array([False, True, False, False, True]))
    assert by_number.ids.tolist() == ["train-4", "train-1"] and by_mask.ids.tolist() == ["train-1", "train-4"]
    assert by_number.groups["clip"].tolist() == ["e", "b"] and by_number.joints3d[:, 0, 0].tolist() == [4, 1]
    np.testing.assert_array_equal(by_number.images, data.images[[4, 1]])
    np.testing.assert_array_equal(by_number.state, data.state[[4, 1]])


def test_a_column_that_is_needed_is_there_or_missed_by_name():
    data = replace(people(2), joints3d=np.ones((2, 14, 3), np.float32))
    assert data.need("joints3d") is data.joints3d
    for column in ("camera", "parts"):
        with pytest.raises(ValueError, match=f"painted train has no {column}, and this cannot be done without"):
            data.need(column)


def test_as_skeleton_relabels_by_name():
    data = people(3, skeleton=H36M17)
    data = replace(data, joints3d=np.arange(3 * 17 * 3, dtype=np.float32).reshape(3, 17, 3))
    data.state[0, H36M17.index("neck")] = OCCLUDED
    lsp = data.as_skeleton(LSP14)
    for k, name in enumerate(LSP14.joints):
        np.testing.assert_array_equal(lsp.joints[:, k], data.joints[:, H36M17.index(name)])
        np.testing.assert_array_equal(lsp.joints3d[:, k], data.joints3d[:, H36M17.index(name)])
    assert lsp.state[0, LSP14.index("neck")] == OCCLUDED and lsp.skeleton is LSP14
    assert data.as_skeleton(H36M17) is data and lsp.as_skeleton(UPPER8).joints.shape == (3, 8, 2)
    with pytest.raises(ValueError, match="cannot be made from LSP14"):
        lsp.as_skeleton(COCO17)


def test_upright_means_neck_above_both_labelled_hips():
    data = people(4)
    joints, state = data.joints.copy(), data.state.copy()
    joints[1, :, 1] = 39 - joints[1, :, 1]                  # head down
    joints[2, LSP14.index("left_hip"), 1] = 0               # bent: one hip above the neck
    state[3, LSP14.index("right_hip")] = ABSENT
    assert replace(data, joints=joints, state=state).upright().tolist() == [True, False, False, False]


@pytest.mark.parametrize("arguments, message", [
    (("coco", "train"), "no data set 'coco'"), (("lspet", "train"), "name its folder"),
    (("people", "dev"), "splits train, validation, test"), (("people", "train", None), "limit must be at least 1")])
def test_load_refuses_what_it_does_not_know(arguments, message):
    with pytest.raises(ValueError, match=message):
        load(*arguments, **({"limit": 0} if len(arguments) == 3 else {}))


# ------------------------------------------------------------------------------------------------- pictures


def test_read_image_follows_the_orientation_tag(tmp_path):
    image = Image.fromarray(painted(np.array([[9.0, 7]]), 30, 20, 1.5))
    exif = Image.Exif()
    exif[0x0112] = 6                                        # the camera was held on its side
    image.save(tmp_path / "turned.png", exif=exif)
    image.convert("L").save(tmp_path / "grey.png")
    turned = read_image(tmp_path / "turned.png")
    assert turned.shape == (30, 20, 3)
    np.testing.assert_allclose(centroid(turned[..., 0]), [19 - 7, 9], atol=0.1)
    assert read_image(tmp_path / "grey.png").shape == (20, 30, 3)


@pytest.mark.parametrize("kind", ["truncated", "text", "empty"])
def test_a_broken_picture_is_named(tmp_path, kind):
    path, whole = tmp_path / "im.jpg", jpeg(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    path.write_bytes({"truncated": whole[:len(whole) // 2], "text": b"hello " * 99, "empty": b""}[kind])
    with pytest.raises(OSError, match="im.jpg cannot be read as an image"):
        read_image(path)


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no image"):
        read_image(tmp_path / "none.jpg")


# ------------------------------------------------------------------------------------------------- lspet


@pytest.fixture
def small_splits(monkeypatch, tmp_path):
    monkeypatch.setattr(lspet, "SPLITS", {"train": (1, 7), "validation": (8, 12), "test": (13, 15)})
    monkeypatch.setenv("POSEBOOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "lspet"


def read(folder, split="train", **options):
    return load_lspet(folder, split, progress=False, **options)


def relabel(folder, change):
    """Write joints.mat anew after `change(joints, flags)`."""
    joints, state, _ = lspet.read_joints(folder / "joints.mat")
    flags, joints = (state != ABSENT).astype(float), joints.astype(float)
    change(joints, flags)
    write_mat(folder, joints, flags)


def same(a: PoseDataset, b: PoseDataset) -> bool:
    columns = ("images", "joints", "state", "to_source", "ids")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in columns) \
        and a.skipped == b.skipped and a.split == b.split


def test_labels_are_shifted_to_zero_and_lie_on_what_they_label(small_splits):
    true = lspet_folder(small_splits)
    data = read(small_splits)
    assert data.ids.tolist() == [f"im{n:05d}" for n in range(1, 8)] and data.images.shape == (7, 3, 80, 80)
    np.testing.assert_allclose(data.source_joints, true[:7], atol=1e-3)
    assert (data.state == VISIBLE).all() and data.skipped == {} and data.skeleton is LSP14
    for n in range(7):                                      # the painted ankle, far from every other dot
        ankle = data.joints[n, 0]
        x, y = np.rint(ankle).astype(int)
        patch = data.images[n, 0, y - 5:y + 6, x - 5:x + 6]
        np.testing.assert_allclose(centroid(patch) + [x - 5, y - 5], ankle, atol=0.3)
    assert read(small_splits, "validation").ids.tolist() == [f"im{n:05d}" for n in range(8, 13)]
    assert read(small_splits, limit=2).ids.tolist() == ["im00001", "im00002"]


def test_the_flag_means_labelled(small_splits):
    lspet_folder(small_splits)

    def change(joints, flags):
        flags[0, :3] = 0
        joints[0, :3] = 777                                 # coordinates without a label mean nothing

    relabel(small_splits, change)
    data = read(small_splits)
    assert (data.state[0, :3] == ABSENT).all() and (data.joints[0, :3] == 0).all() and (data.state[0, 3:] > 0).all()
    assert data.skipped == {}


def test_the_published_splits_are_those_of_the_book():
    assert lspet.SPLITS == {"train": (1, 7500), "validation": (7501, 8500), "test": (8501, 10000)}


def test_an_incomplete_copy_has_no_test_split(small_splits):
    lspet_folder(small_splits)
    with pytest.raises(ValueError, match="ends at image 12; the test split is images 13-15"):
        read(small_splits, "test")
    with pytest.raises(ValueError, match="splits train, validation, test"):
        read(small_splits, "dev")


def test_labels_and_images_must_match_one_to_one(small_splits):
    lspet_folder(small_splits)
    (small_splits / "images" / "im00005.jpg").unlink()
    with pytest.raises(ValueError, match="labels 12 images, images/ holds 11; first missing: im00005.jpg"):
        read(small_splits)
    shutil.copy(small_splits / "images" / "im00001.jpg", small_splits / "images" / "im00005.jpg")
    shutil.copy(small_splits / "images" / "im00001.jpg", small_splits / "images" / "im00013.jpg")
    with pytest.raises(ValueError, match="first without a label: im00013.jpg"):
        read(small_splits)


def test_missing_folders_say_how_to_get_them(small_splits):
    with pytest.raises(FileNotFoundError, match="python -m posebook download lspet"):
        read(small_splits)
    lspet_folder(small_splits)
    shutil.rmtree(small_splits / "images")
    with pytest.raises(ValueError, match="images/ holds 0; first missing: im00001.jpg"):
        read(small_splits)


@pytest.mark.parametrize("content", [b"no image at all", None], ids=["not an image", "truncated"])
def test_a_damaged_photograph_is_named(small_splits, content):
    lspet_folder(small_splits)
    path = small_splits / "images" / "im00003.jpg"
    path.write_bytes(content or path.read_bytes()[:700])
    with pytest.raises(OSError, match="im00003.jpg cannot be read as an image"):
        read(small_splits)
    assert not list((small_splits.parent / "cache").glob("*"))


@pytest.mark.parametrize("content, kind, message", [
    ({"joints": np.zeros((3, 14, 12))}, ValueError, r"3x14xN: that is LSP, where the third row marks \*occluded\*"),
    ({"joints": np.zeros((14, 2, 12))}, ValueError, r"must be 14x3xN, got \(14, 2, 12\)"),
    ({"poses": np.zeros(3)}, ValueError, r"no variable 'joints'; it holds \['poses'\]"),
    (b"", OSError, "cannot be read as a MATLAB file"), (b"MATLAB 5.0 MAT-file" * 20, OSError, "cannot be read")])
def test_wrong_label_files_are_refused(small_splits, content, kind, message):
    from scipy.io import savemat
    lspet_folder(small_splits)
    path = small_splits / "joints.mat"
    path.write_bytes(content) if isinstance(content, bytes) else savemat(path, content)
    with pytest.raises(kind, match=message):
        read(small_splits)


def test_labels_that_cannot_be_are_dropped_and_counted(small_splits):
    lspet_folder(small_splits)

    def change(joints, flags):
        joints[1, 4] = [300, 20]                            # right of the picture
        joints[2, 5] = [20, -3]                             # above it
        joints[3, 6] = np.nan
        joints[9, 6] = np.nan                               # belongs to the other split
        flags[4, :5] = 0                                    # nine left: too few

    relabel(small_splits, change)
    data = read(small_splits)
    assert data.skipped == {"joints that are not finite": 1, "joints outside their image": 2,
                            "images with fewer than 10 labelled joints": 1}
    assert data.ids.tolist() == ["im00001", "im00002", "im00003", "im00004", "im00006", "im00007"]
    assert [int((data.state[n] == ABSENT).sum()) for n in range(6)] == [0, 1, 1, 1, 0, 0]
    assert data.state[1, 4] == data.state[2, 5] == data.state[3, 6] == ABSENT and (data.joints[3, 6] == 0).all()
    assert read(small_splits, "validation").skipped == {"joints that are not finite": 1}


def test_a_split_without_a_usable_image_is_refused(small_splits):
    lspet_folder(small_splits)
    relabel(small_splits, lambda joints, flags: flags.fill(0))
    with pytest.raises(ValueError, match="none of 7 images has 10 labelled joints"):
        read(small_splits)


def test_the_cache_gives_what_reading_gives(small_splits, monkeypatch):
    lspet_folder(small_splits)
    relabel(small_splits, lambda joints, flags: flags[0].fill(0))
    fresh = read(small_splits)
    cached = list((small_splits.parent / "cache").iterdir())
    assert len(cached) == 1 and cached[0].suffix == ".npz" and fresh.skipped
    monkeypatch.setattr(lspet, "read_image", lambda path: pytest.fail("the photographs were read again"))
    assert same(read(small_splits), fresh)
    monkeypatch.undo()


def test_changed_labels_or_sizes_never_meet_old_crops(small_splits):
    lspet_folder(small_splits)
    first = read(small_splits)
    assert read(small_splits, size=40, crop=32).images.shape[-1] == 40
    assert read(small_splits, size=80, crop=72).to_source[0, 0, 0] != first.to_source[0, 0, 0]

    def change(joints, flags):
        joints[0] += 1

    relabel(small_splits, change)
    assert not np.array_equal(read(small_splits).source_joints[0], first.source_joints[0])


def test_half_written_and_damaged_caches_are_not_used(small_splits, tmp_path, capsys):
    lspet_folder(small_splits)
    fresh = read(small_splits)
    path, = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    path.unlink()
    path.with_name(path.name + ".123.part").write_bytes(whole[:1000])
    assert same(read(small_splits), fresh) and path.read_bytes() == whole
    path.write_bytes(whole[:-2000])
    assert same(read(small_splits), fresh) and "made again" in capsys.readouterr().out
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(small_splits, tmp_path, capsys):
    lspet_folder(small_splits)
    (tmp_path / "file").write_text("in the way")
    assert len(read(small_splits, cache=tmp_path / "file")) == 7
    assert "not cached" in capsys.readouterr().out


def test_a_full_disk_leaves_no_half_cache(small_splits, tmp_path, monkeypatch):
    lspet_folder(small_splits)

    def full(*_):
        raise OSError("disk full")
    monkeypatch.setattr(os, "replace", full)
    assert len(read(small_splits)) == 7 and not list((tmp_path / "cache").iterdir())


# ------------------------------------------------------------------------------------------------- people


def test_people_are_cropped_with_everything_known_about_them(tmp_path):
    true = people_shard(tmp_path / "train-00000.parquet")
    data = load_people("train", tmp_path)
    assert data.images.shape == (6, 3, 80, 80) and data.skeleton is H36M17
    np.testing.assert_allclose(data.source_joints, true, atol=1e-3)
    assert data.joints3d.shape == (6, 17, 3) and data.camera.shape == (6, 3, 3)
    np.testing.assert_allclose(geometry.project(data.joints3d, data.camera), data.source_joints, atol=1e-2)
    assert data.state[0].tolist() == [2, 1] * 8 + [2] and data.groups["subject"].tolist() == ["s0"] * 2 + ["s1"] * 2 \
        + ["s2"] * 2
    assert data.ids.tolist() == [f"train-00000-{n:04d}" for n in range(6)]
    lsp = load_people("train", tmp_path, skeleton=LSP14)
    np.testing.assert_array_equal(lsp.joints[:, LSP14.index("left_wrist")],
                                  data.joints[:, H36M17.index("left_wrist")])


def test_a_limit_spreads_over_the_split(tmp_path):
    people_shard(tmp_path / "train-00000.parquet")
    assert load_people("train", tmp_path, limit=3).ids.tolist() == [f"train-00000-{n:04d}" for n in (0, 2, 5)]
    assert len(load_people("train", tmp_path, limit=99)) == 6
    with pytest.raises(ValueError, match="limit must be at least 1"):
        load_people("train", tmp_path, limit=0)


def test_a_shard_that_does_not_match_its_checksum_is_refused(tmp_path):
    path = tmp_path / "train-00000.parquet"
    people_shard(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  train-00000.parquet\n{'0' * 64}  test-00000.parquet\n")
    assert len(load_people("train", tmp_path)) == 6
    people_shard(path, seed=1)
    with pytest.raises(OSError, match="does not have the SHA-256 that SHA256SUMS gives; restore it"):
        load_people("train", tmp_path)


def test_damaged_foreign_and_missing_shards_are_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    path = tmp_path / "train-00000.parquet"
    with pytest.raises(FileNotFoundError, match="come with the book's repository"):
        load_people("train", tmp_path)
    people_shard(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(OSError, match="cannot be read as Parquet"):
        load_people("train", tmp_path)
    pq.write_table(pa.table({"image": pa.array([b"x"]), "frame": [1]}), path)
    with pytest.raises(ValueError, match="lacks the columns action, background, box, camera, clip, effects, joints2d"):
        load_people("train", tmp_path)


def test_a_damaged_shard_is_named_and_the_others_can_still_be_read(tmp_path):
    for i in range(3):
        people_shard(tmp_path / f"train-{i:05d}.parquet", seed=i)
    write_sums(tmp_path, {path.name: sha256(path) for path in tmp_path.glob("*.parquet")})
    people_shard(tmp_path / "train-00001.parquet", seed=9)
    (tmp_path / "train-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(OSError, match=r"train-00001.parquet does not have the SHA-256.* damaged='skip'"):
        load_people("train", tmp_path)
    data = load_people("train", tmp_path, damaged="skip")
    assert len(data) == 6 and data.skipped == {"damaged file": 2} and data.ids[0] == "train-00000-0000"
    (tmp_path / "train-00000.parquet").unlink()
    with pytest.raises(OSError, match="all files of train are damaged"):
        load_people("train", tmp_path, damaged="skip")
    with pytest.raises(ValueError, match="damaged 'refuse' or 'skip'"):
        load_people("train", tmp_path, damaged="ignore")


def test_a_damaged_list_of_checksums_is_named(tmp_path):
    people_shard(tmp_path / "train-00000.parquet")
    (tmp_path / "SHA256SUMS").write_text("nonsense\n")
    with pytest.raises(OSError, match="SHA256SUMS is damaged"):
        load_people("train", tmp_path)


def test_crops_without_a_person_hold_no_pixel_of_one(tmp_path):
    nobody = load_person_free("validation", limit=30, size=40, skeleton=LSP14)
    assert nobody.images.shape == (30, 3, 40, 40) and nobody.joints.shape == (30, 14, 2)
    assert (nobody.joints == NOWHERE).all() and (nobody.state == OCCLUDED).all() and len(set(nobody.ids)) == 30
    shard = read_shard(people_folder() / "validation-00000.parquet", ("image", "parts", "effects"))
    for name, to_source, image in zip(nobody.ids, nobody.to_source, nobody.images, strict=True):
        row = int(name.split("-")[2])
        corners = geometry.transform(to_source, np.float32([[-0.5, -0.5], [39.5, 39.5]])) + 0.5
        x0, y0, x1, y1 = corners.round().astype(int).ravel()
        assert x1 - x0 == y1 - y0 and x1 - x0 in FREE_SIDES and min(x0, y0) >= 0 and max(x1, y1) <= 128
        with Image.open(io.BytesIO(shard["parts"][row])) as parts, Image.open(io.BytesIO(shard["image"][row])) as whole:
            assert not np.asarray(parts)[y0:y1, x0:x1].any() and "others" not in shard["effects"][row]
            piece = np.asarray(whole.convert("RGB"))[y0:y1, x0:x1]
        np.testing.assert_allclose(image.mean((1, 2)), piece.mean((0, 1)), atol=3)
    people_shard(tmp_path / "train-00000.parquet")                      # its person is everywhere
    for arguments in (("train", tmp_path), ("validation", None, 40, 0)):
        with pytest.raises(ValueError, match="leaves no square without a person, or the limit"):
            load_person_free(*arguments)


def test_the_upper_body_fills_the_crop_and_has_no_legs(tmp_path):
    people_shard(tmp_path / "train-00000.parquet")
    full, upper = (load_people("train", tmp_path, region=region, parts=True) for region in ("full", "upper"))
    legs = [H36M17.index(f"{side}_{joint}") for side in ("left", "right") for joint in ("knee", "ankle")]
    assert (upper.state[:, legs] == ABSENT).all() and (upper.joints[:, legs] == 0).all()
    rest = np.setdiff1d(np.arange(17), legs)
    np.testing.assert_allclose(upper.source_joints[:, rest], full.source_joints[:, rest], atol=1e-3)
    extent = np.ptp(upper.joints[:, rest], axis=1).max(1)
    assert (extent > 1.5 * np.ptp(full.joints[:, rest], axis=1).max(1)).all()
    assert upper.parts.shape == (6, 80, 80) and full.parts.shape == (6, 80, 80)
    for data in (full, upper):  # labels move with the picture: head above the pelvis, left foot below
        row = np.round(data.joints[:, 0, 1]).astype(int)
        for labels, middle in zip(data.parts, row, strict=True):
            assert set(labels[:middle - 1].ravel()) <= {0, 1} and set(labels[middle + 2:].ravel()) <= {0, 11}
    with pytest.raises(ValueError, match="region must be one of full, upper"):
        load_people("train", tmp_path, region="lower")


def test_joints_outside_the_picture_are_absent(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    path = tmp_path / "train-00000.parquet"
    true = people_shard(path)
    true[0, 3], true[1, :13] = (-20, 50), -0.6
    table = pq.read_table(path)
    column = pa.FixedSizeListArray.from_arrays(pa.array(true.ravel(), pa.float32()), 34)
    pq.write_table(table.set_column(table.column_names.index("joints2d"), "joints2d", column), path)
    data = load_people("train", tmp_path)
    assert (data.state[0] == ABSENT).tolist() == [j == 3 for j in range(17)] and (data.joints[0, 3] == 0).all()
    assert (data.joints3d[0, 3] != 0).any() and data.complete().tolist() == [False, False] + [True] * 4
    assert (data.joints[0][data.state[0] != ABSENT] > 10).all()  # the crop is made around the others
    upper = load_people("train", tmp_path, region="upper")
    assert len(upper) == 5 and upper.skipped == {"fewer than 6 joints": 1}


def test_a_mirror_swaps_sides_and_twice_is_the_same(tmp_path):
    people_shard(tmp_path / "train-00000.parquet")
    data = load_people("train", tmp_path, parts=True)
    mirrored = data.mirrored()
    np.testing.assert_array_equal(mirrored.images, data.images[..., ::-1])
    left, right = H36M17.index("left_wrist"), H36M17.index("right_wrist")
    np.testing.assert_allclose(mirrored.joints[:, left, 0], 79 - data.joints[:, right, 0], atol=1e-4)
    assert set(np.unique(data.parts)) == {0, 1, 11} and set(np.unique(mirrored.parts)) == {0, 1, 14}
    np.testing.assert_allclose(geometry.project(mirrored.joints3d, mirrored.camera), mirrored.source_joints, atol=1e-2)
    again = mirrored.mirrored()
    for name in ("images", "state", "parts", "joints3d", "camera", "ids"):
        np.testing.assert_array_equal(getattr(again, name), getattr(data, name))
    for name in ("joints", "to_source"):
        np.testing.assert_allclose(getattr(again, name), getattr(data, name), atol=1e-4)


def test_joined_sets_hold_the_samples_of_both():
    a, b = people(3), replace(people(2, seed=1), name="other", skipped={"dark": 2})
    both = join([a, b])
    assert both.name == "painted+other" and len(both) == 5 and both.skipped == {"dark": 2}
    np.testing.assert_array_equal(both.images[3:], b.images)
    np.testing.assert_allclose(both.source_joints[3:], b.source_joints)
    with pytest.raises(ValueError, match="cannot be joined"):
        join([a, people(2, skeleton=H36M17)])


def test_people_and_lspet_are_loaded_together(small_splits, monkeypatch):
    people_shard(small_splits / "people" / "train-00000.parquet")
    monkeypatch.setattr("posebook.datasets.people.people_folder", lambda: small_splits / "people")
    monkeypatch.setenv("POSEBOOK_CACHE", str(small_splits / "crops"))
    lspet_folder(small_splits)
    data = load("people+lspet", "train", small_splits, limit=4)
    assert data.skeleton is LSP14 and len(data) == 8 and data.name == "people+lspet"


def test_the_embedded_people_are_whole_consistent_and_kept_apart():
    assert set(read_sums(people_folder())) == {path.name for path in EMBEDDED}
    shards = {path.stem: read_shard(path) for path in EMBEDDED}
    assert len(shards) >= 10
    for name, shard in shards.items():
        joints = shard["joints2d"].reshape(-1, 17, 2)
        seen = geometry.project(shard["joints3d"].reshape(-1, 17, 3), shard["camera"].reshape(-1, 3, 3))
        np.testing.assert_allclose(seen, joints, atol=0.05, err_msg=name)
        assert np.isin(shard["state"], (OCCLUDED, VISIBLE)).all(), name
        assert set(shard["image"][0][:2]) == {0xFF, 0xD8}, name
    for column in ("subject", "clip", "background"):
        train, validation, test = (set().union(*(shard[column] for name, shard in shards.items() if name.startswith(k)))
                                   for k in ("train", "validation", "test"))
        assert not (train & validation or train & test or validation & test), f"two splits share a {column}"
    data = load_people("validation", limit=20).as_skeleton(LSP14)
    assert len(data) == 20 and data.upright().mean() > 0.5
