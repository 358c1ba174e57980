"""Both families on one network: every way gives poses, and what is measured of them is right."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import people, pose
from test_training import THREE, three_tasks

from posebook import families, training
from posebook.augment import NONE
from posebook.skeleton import ABSENT, LSP14, OCCLUDED
from posebook.training import TrainConfig, train

TRAIN, VALIDATION = people(24), people(8, seed=1, split="validation")


@pytest.fixture(scope="module")
def trained():
    config = TrainConfig(epochs=40, batch=8, rate=1e-2, decay=0.0, augmentation=NONE, device="cpu", amp=False)
    return train(three_tasks(), THREE, TRAIN, VALIDATION, config, progress=False).network


def test_every_way_gives_a_pose_and_the_trees_limbs_have_lengths_of_bodies(trained):
    fitted = families.fit(trained, THREE, TRAIN, count=20)
    poses = families.predict(fitted, trained, THREE, VALIDATION)
    assert tuple(poses) == families.WAYS and all(p.shape == (8, 14, 2) for p in poses.values())
    tables = families.score(fitted, poses, VALIDATION, 32)
    for way, table in tables.items():
        assert 0 <= table["pck@0.2_torso"] <= 1 and len(table["pck_per_image"]) == 8, way
        assert table["visible"] == pytest.approx(table["pck@0.2_torso"])          # nothing is hidden here
        assert np.isnan(table["occluded"])
    assert tables["tree"]["too_long"] <= tables["best cell"]["too_long"]
    regression = training.predict(trained, THREE["regression"], VALIDATION, "cpu")
    np.testing.assert_allclose(training.to_source(VALIDATION, 32, poses["regression"]), regression, atol=1e-3)


def test_the_truth_has_no_limb_too_long_and_hidden_joints_are_scored_apart(trained):
    fitted = families.fit(trained, THREE, TRAIN, count=10)
    joints = training.central_labels(TRAIN, 32)[0].numpy()
    state = TRAIN.state.copy()
    state[:, 3] = OCCLUDED
    hidden = replace(TRAIN, state=state)
    moved = joints.copy()
    moved[:, 3] += 20
    tables = families.score(fitted, {"truth": joints, "moved": moved, "twice": 2 * joints}, hidden, 32)
    assert tables["truth"]["pck@0.2_torso"] == 1 and tables["truth"]["too_long"] < 0.05
    assert tables["twice"]["too_long"] > 0.9
    assert tables["moved"]["occluded"] == 0 and tables["moved"]["visible"] == 1


def test_two_legs_on_one_spot_are_noticed():
    joints = np.stack([pose(LSP14, (30, 30), 20)] * 3)
    assert not families.on_one_spot(joints, LSP14).any()
    joints[1, LSP14.index("left_ankle")] = joints[1, LSP14.index("right_ankle")] + [0.5, -1]
    joints[2, LSP14.index("left_knee")] = joints[2, LSP14.index("right_knee")]
    assert families.on_one_spot(joints, LSP14).tolist() == [False, True, False]


def test_what_cannot_be_compared_is_refused(trained):
    with pytest.raises(ValueError, match="need the tasks regression and joints; the network has regression, parts"):
        families.fit(trained, {task: THREE[task] for task in ("regression", "parts")}, TRAIN)
    state = TRAIN.state.copy()
    state[:, 0] = ABSENT
    with pytest.raises(ValueError, match="no image of painted has all joints labelled"):
        families.fit(trained, THREE, replace(TRAIN, state=state))


def test_the_middle_of_the_best_cells():
    scores = torch.zeros(1, 2, 6, 8)
    scores[0, 0, 2:4, 3:6] = 1
    scores[0, 1, 5, 7] = 1
    assert families._best_cell(scores)[0].tolist() == [[4, 2.5], [7, 5]]
