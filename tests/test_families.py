"""Both families on one network: every way finds what the network knows, and what is measured of it is right."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import people, pose
from test_training import THREE, three_tasks

from posebook import families, training
from posebook.skeleton import ABSENT, LSP14, OCCLUDED

TRAIN, UNSEEN, DATA = people(24), people(12, seed=1), people(8, seed=2, split="validation")
NETWORK = three_tasks()


@pytest.fixture(scope="module")
def sure():
    """In place of the network's answers: windows that are sure of the truth, and a regression that is one pixel off."""
    def answer(network, data, device="auto", amp=True, batch=256):
        joints, state = training.central_labels(data, 32)
        windows = (THREE["joints"].encode(joints, state)[0] - 0.5) * 20
        return {"regression": (joints + 1).flatten(1) / 32, "joints": windows}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(families.training, "run_network", answer)
        yield


@pytest.fixture(scope="module")
def fitted(sure):
    """What all ways learn from them; it takes seconds."""
    return families.fit(NETWORK, THREE, TRAIN, UNSEEN)


def test_every_way_finds_what_a_sure_network_knows(fitted):
    poses = families.predict(fitted, NETWORK, THREE, DATA)
    true = training.central_labels(DATA, 32)[0].numpy()
    off = {way: np.linalg.norm(joints - true, axis=-1) for way, joints in poses.items()}
    assert tuple(poses) == families.WAYS
    assert off["regression"] == pytest.approx(np.sqrt(2), abs=1e-3)
    for way in ("best cell", "tree", "tree, mixture", "tree and regression"):
        assert np.median(off[way]) < 2 and off[way].max() < 6, way                 # a cell has two pixels
    assert off["tree and regression"].mean() < off["best cell"].mean()
    assert fitted.error.shape == (14, 2) and fitted.error == pytest.approx(0.25, abs=1e-3)      # half a cell, squared


def test_evidence_is_scaled_until_the_best_pose_follows_it(sure):
    joints, _ = training.central_labels(UNSEEN, 32)
    windows = families.pictorial.window_scores(THREE["joints"], (THREE["joints"].encode(
        joints, torch.full((len(UNSEEN), 14), 2))[0] - 0.5) * 20, families.STEP)
    springs = families.pictorial.learn_springs((joints.numpy() + 0.5) / 2 - 0.5, UNSEEN.state, LSP14)
    shy = replace(springs, evidence=torch.full((14,), 1e-4), offset=springs.offset + 3)        # springs that are wrong
    scaled = families._scaled(shy, windows, UNSEEN, 32)
    assert scaled.evidence[0] / shy.evidence[0] == pytest.approx(families.SCALES[-1])
    trusting = replace(springs, evidence=torch.full((14,), 1.0))                                # nothing to be gained
    assert families._scaled(trusting, windows, UNSEEN, 32).evidence[0] == 1


def test_the_truth_is_not_impossible_and_hidden_joints_are_scored_apart(fitted):
    joints = training.central_labels(TRAIN, 32)[0].numpy()
    state = TRAIN.state.copy()
    state[:, 3] = OCCLUDED
    hidden = replace(TRAIN, state=state)
    moved = joints.copy()
    moved[:, 3] += 20
    tables = families.score(fitted, {"truth": joints, "moved": moved, "twice": 2 * joints}, hidden, 32)
    assert tables["truth"]["pck@0.2_torso"] == 1 and tables["truth"]["too_long"] < 0.05
    assert tables["twice"]["too_long"] > 0.9 and len(tables["truth"]["pck_per_image"]) == len(TRAIN)
    assert tables["moved"]["occluded"] == 0 and tables["moved"]["visible"] == 1


def test_two_legs_on_one_spot_are_noticed_where_both_are_labelled(fitted):
    joints = np.stack([pose(LSP14, (16, 16), 12)] * 4)
    ankles = [LSP14.index(f"{side}_ankle") for side in ("left", "right")]
    joints[1, ankles[0]] = joints[1, ankles[1]] + [0.5, -1]
    joints[2, LSP14.index("left_knee")] = joints[2, LSP14.index("right_knee")]
    joints[3, ankles] = 0
    data = TRAIN.subset(np.arange(4))
    data.state[3, ankles] = ABSENT
    assert families.impossible(fitted, joints, data)["on_one_spot"] == pytest.approx(1 / 3)


def test_what_cannot_be_compared_is_refused(fitted):
    with pytest.raises(ValueError, match="need the tasks regression and joints; the network has regression, parts"):
        families.fit(NETWORK, {task: THREE[task] for task in ("regression", "parts")}, TRAIN, UNSEEN)
    with pytest.raises(ValueError, match="need the tasks regression and joints; the network has regression$"):
        families.predict(fitted, NETWORK, {"regression": THREE["regression"]}, TRAIN)
    state = UNSEEN.state.copy()
    state[1:, 0] = ABSENT
    partly = replace(UNSEEN, state=state)
    assert families.for_weights(partly).tolist() == [0] and families.for_weights(UNSEEN, 3).tolist() == [0, 5, 11]
    for held_out in (partly, UNSEEN.subset(np.arange(0))):
        with pytest.raises(ValueError, match="learned from images on which all joints are labelled"):
            families.fit(NETWORK, THREE, TRAIN, held_out)


def test_the_middle_of_the_best_cells():
    scores = torch.zeros(1, 2, 6, 8)
    scores[0, 0, 2:4, 3:6] = 1
    scores[0, 1, 5, 7] = 1
    assert families._best_cell(scores)[0].tolist() == [[4, 2.5], [7, 5]]
