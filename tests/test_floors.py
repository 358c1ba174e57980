"""What guessing costs: the mean pose and the nearest neighbour."""

from dataclasses import replace

import numpy as np
import pytest
from samples import people

from posebook.floors import mean_pose, mean_pose3d, predict_mean_pose, predict_nearest, predict_nearest3d
from posebook.skeleton import ABSENT, LSP14, VISIBLE


def with_absent(data, image, joint):
    state, joints = data.state.copy(), data.joints.copy()
    state[image, joint], joints[image, joint] = ABSENT, 0
    return replace(data, state=state, joints=joints)


def test_mean_pose_ignores_absent_joints():
    data = with_absent(people(5), 2, 3)
    pose = mean_pose(data)
    assert pose.dtype == np.float32 and pose.shape == (14, 2)
    np.testing.assert_allclose(pose[3], data.joints[[0, 1, 3, 4], 3].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(pose[4], data.joints[:, 4].mean(axis=0), rtol=1e-6)


def test_mean_pose_names_a_joint_that_is_never_labelled():
    data = people(3)
    for image in range(3):
        data = with_absent(data, image, 13)
    with pytest.raises(ValueError, match="never labels head_top"):
        mean_pose(data)


def test_predicted_mean_pose_is_in_source_pixels():
    data = people(4)
    found = predict_mean_pose(mean_pose(data), data)
    assert found.shape == (4, 14, 2)
    np.testing.assert_allclose(found[0], mean_pose(data) * 2 + 0.5, atol=1e-4)   # sources are twice as large
    np.testing.assert_array_equal(found, np.broadcast_to(found[0], found.shape))


def test_a_training_image_is_its_own_nearest_neighbour():
    data = people(12)
    np.testing.assert_allclose(predict_nearest(data, data, crop=32), data.source_joints, atol=1e-4)


def test_a_mirror_image_is_found_with_left_and_right_exchanged():
    data = people(12)
    side = data.images.shape[-1]
    flipped = data.joints[:, LSP14.mirror].copy()
    flipped[..., 0] = side - 1 - flipped[..., 0]
    mirror = replace(data, images=data.images[..., ::-1].copy(), joints=flipped)
    np.testing.assert_allclose(predict_nearest(data, mirror, crop=32), mirror.source_joints, atol=1e-4)
    assert np.abs(mirror.source_joints - data.source_joints).max() > 5


def test_where_the_neighbour_lacks_a_joint_the_mean_pose_fills_in():
    data = with_absent(people(8), 5, 6)
    found = predict_nearest(data, data, crop=32)
    np.testing.assert_allclose(found[5, 6], mean_pose(data)[6] * 2 + 0.5, atol=1e-4)
    np.testing.assert_allclose(found[5, 7], data.source_joints[5, 7], atol=1e-4)
    assert (data.state[5] == VISIBLE).sum() == 13


def test_nearest_against_a_slow_search():
    train, queries = people(15, seed=1), people(6, seed=2, split="validation")

    def thumb(image):
        return image[:, 4:36, 4:36].astype(float).reshape(3, 16, 2, 16, 2).mean(axis=(2, 4))

    found = predict_nearest(train, queries, crop=32)
    for n, image in enumerate(queries.images):
        costs = [((thumb(image) - t) ** 2).sum() for i in train.images for t in (thumb(i), thumb(i)[..., ::-1])]
        best = int(np.argmin(costs))
        pose = train.joints[best // 2].copy()
        if best % 2:
            pose = pose[LSP14.mirror]
            pose[:, 0] = 39 - pose[:, 0]
        np.testing.assert_allclose(found[n], pose * 2 + 0.5, atol=1e-3)


def test_the_3d_floors_refuse_what_they_cannot_be_made_of():
    flat = people(3)
    data = replace(flat, joints3d=np.random.default_rng(0).normal(0, 300, (3, 14, 3)).astype(np.float32))
    for floor in (mean_pose3d, lambda train: predict_nearest3d(train, train)):
        floor(data)
        with pytest.raises(ValueError, match="painted train has no joints3d"):
            floor(flat)
    alone = data
    for image in range(3):
        alone = with_absent(alone, image, 13)
    with pytest.raises(ValueError, match="painted never labels head_top together with the root"):
        mean_pose3d(alone)
    with pytest.raises(ValueError, match="nobody in painted train has all joints labelled"):
        predict_nearest3d(alone, data)
