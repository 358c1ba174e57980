"""Lifting from 2D joints: what the lifter is told, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from posebook import lifting, results
from posebook.augment import Augmentation
from posebook.datasets import load_people
from posebook.networks import build_network
from posebook.skeleton import ABSENT, LSP14, VISIBLE
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


def test_turns_move_2d_and_3d_together(monkeypatch):
    arrays = [torch.from_numpy(a) for a in (TRAIN.joints, TRAIN.state, TRAIN.joints3d)]
    skeletons = (TRAIN.skeleton, TRAIN.skeleton)
    monkeypatch.setattr(lifting, "TURNED", Augmentation(mirror=1.0))      # a mirror alone is the data set's own mirror
    joints, state, joints3d, _ = lifting._turned(*arrays, arrays[1], *skeletons, torch.Generator().manual_seed(0))
    mirrored = TRAIN.mirrored()
    assert np.array_equal(state, mirrored.state)
    ours, theirs = (lifting.lifter_input(torch.as_tensor(j), torch.as_tensor(s)) for j, s in
                    ((joints, state), (mirrored.joints, mirrored.state)))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    np.testing.assert_allclose(joints3d, mirrored.joints3d, atol=1e-2)
    monkeypatch.setattr(lifting, "TURNED", Augmentation(angle=30.0))      # a turn: seen from afar, x and y turn alike
    joints, state, joints3d, _ = lifting._turned(*arrays, arrays[1], *skeletons, torch.Generator().manual_seed(0))
    assert torch.equal(state, arrays[1]) and torch.equal(joints3d[..., 2], arrays[2][..., 2])
    known = torch.from_numpy(TRAIN.complete())
    seen = joints3d[..., :2] / joints3d[..., 2:]
    away = [(p - p.mean(dim=1, keepdim=True)).flatten(1)[known] for p in (joints, seen)]
    assert torch.cosine_similarity(*away).min() > 0.9999


def test_joints_of_another_skeleton_are_mirrored_by_their_own_partners(monkeypatch):
    flat = TRAIN.as_skeleton(LSP14)
    arrays = [torch.from_numpy(a) for a in (flat.joints, flat.state, TRAIN.joints3d, TRAIN.state)]
    monkeypatch.setattr(lifting, "TURNED", Augmentation(mirror=1.0))
    joints, _, joints3d, state = lifting._turned(*arrays, LSP14, TRAIN.skeleton, torch.Generator().manual_seed(0))
    mirrored, mirrored_flat = TRAIN.mirrored(), flat.mirrored()
    ours, theirs = (lifting.lifter_input(torch.as_tensor(j), torch.as_tensor(flat.mirrored().state))
                    for j in (joints, mirrored_flat.joints))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    np.testing.assert_allclose(joints3d, mirrored.joints3d, atol=1e-2)
    assert np.array_equal(state, mirrored.state)


def test_what_a_network_sees_is_lifted():
    flat = UNSEEN.as_skeleton(LSP14)
    codec = build_codecs(("regression",), LSP14, 64)["regression"]
    network = build_network("small", {"regression": 28}, 0)
    network.start_at("regression", torch.linspace(0.2, 0.8, 28))
    seen = lifting.seen_by(network, codec, "regression", flat)
    assert (seen.state == VISIBLE).all() and seen.joints3d is flat.joints3d
    from posebook import training
    np.testing.assert_allclose(seen.source_joints, training.predict(network, codec, flat), atol=1e-2)
    lifter = lifting.train_lifter(UNSEEN, CODEC, lifting.LiftingConfig(width=16, epochs=1, batch=30), seen)
    assert lifting.lift(lifter, CODEC, seen).shape == (60, 17, 3)
    with pytest.raises(ValueError, match="must be of the same 300 images"):
        lifting.train_lifter(TRAIN, CODEC, lifting.LiftingConfig(), seen)


def test_a_codec_of_another_skeleton_is_refused():
    with pytest.raises(ValueError, match="the codec is for H36M17, people is labelled with LSP14"):
        lifting.train_lifter(TRAIN.as_skeleton(LSP14), CODEC, lifting.LiftingConfig())


def test_without_3d_joints_there_is_nothing_to_lift_to():
    with pytest.raises(ValueError, match="lifting needs joints in 3D"):
        lifting.train_lifter(replace(TRAIN, joints3d=None), CODEC, lifting.LiftingConfig())
