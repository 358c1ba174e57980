"""Lifting from 2D joints: what the lifter is told, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from posebook import lifting, results
from posebook.datasets import load_people
from posebook.skeleton import ABSENT, VISIBLE
from posebook.targets import build_codecs

TRAIN, UNSEEN = load_people("train", limit=300), load_people("validation", limit=60)
CODEC = build_codecs(("pose3d",), TRAIN.skeleton, 64)["pose3d"]


def test_the_input_forgets_place_and_size_and_names_what_is_absent():
    joints, state = torch.rand(4, 17, 2) * 60, torch.full((4, 17), VISIBLE)
    state[1, 3] = ABSENT
    seen = lifting.lifter_input(joints, state)
    assert seen.shape == (4, 51)
    torch.testing.assert_close(lifting.lifter_input(joints * 3 + 7, state), seen, atol=1e-5, rtol=0)
    assert seen[1, 34 + 3] == 0 and seen[1, 6:8].abs().max() == 0 and seen[:, 34:].sum() == 4 * 17 - 1
    assert seen[:, :34].abs().max().item() == pytest.approx(1, abs=1e-5)
    moved = joints.clone()
    moved[1, 3] = 1e6
    torch.testing.assert_close(lifting.lifter_input(moved, state), seen)


def test_a_lifter_beats_the_mean_pose_and_a_seed_repeats_it():
    config = lifting.LiftingConfig(width=64, epochs=60, batch=50, keep=1.0, rate=3e-3)
    poses = [lifting.lift(lifting.train_lifter(TRAIN, CODEC, config), CODEC, UNSEEN) for _ in range(2)]
    np.testing.assert_array_equal(*poses)
    floor = results.floors3d(TRAIN, UNSEEN)["mean_pose"]["mpjpe"]
    assert results.score3d(poses[0], UNSEEN)["mpjpe"] < 0.8 * floor
    assert np.abs(poses[0][:, TRAIN.skeleton.root]).max() == 0


def test_turns_move_2d_and_3d_together():
    generator = torch.Generator().manual_seed(0)
    arrays = [torch.from_numpy(a[:20]) for a in (TRAIN.joints, TRAIN.state, TRAIN.joints3d)]
    joints, state, joints3d = lifting._turned(*arrays, TRAIN.skeleton, generator)
    flat = joints3d[..., :2] - joints3d[:, :1, :2]                       # far away, 3D x and y look like 2D
    both = (joints - joints[:, :1]).flatten(1), flat.flatten(1)
    known = ((state != ABSENT).all(dim=1)).numpy()
    agree = torch.cosine_similarity(*both)[known]
    assert agree.min() > 0.9


def test_without_3d_joints_there_is_nothing_to_lift_to():
    with pytest.raises(ValueError, match="lifting needs joints in 3D"):
        lifting.train_lifter(replace(TRAIN, joints3d=None), CODEC, lifting.LiftingConfig())
