"""The regression codec: what it encodes, it decodes; what does not count, counts nowhere."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posebook.skeleton import ABSENT, OCCLUDED, VISIBLE
from posebook.targets import Coordinates

CODEC = Coordinates(joints=3, size=64)


@given(seed=st.integers(0, 10_000), size=st.sampled_from([32, 64, 112]))
def test_decode_undoes_encode(seed, size):
    rng = np.random.default_rng(seed)
    joints = torch.from_numpy(rng.uniform(-20, size + 20, (4, 5, 2)).astype(np.float32))
    codec = Coordinates(5, size)
    target, _ = codec.encode(joints, torch.full((4, 5), VISIBLE))
    torch.testing.assert_close(codec.decode(target), joints, rtol=2e-7, atol=0)


def test_target_is_x_and_y_of_each_joint_in_turn_over_the_side():
    target, mask = CODEC.encode(torch.tensor([[[0.0, 16], [32, 48], [8, 4]]]), torch.full((1, 3), VISIBLE))
    assert target.tolist() == [[0, 0.25, 0.5, 0.75, 0.125, 0.0625]] and mask.tolist() == [[1] * 6]
    assert CODEC.outputs == 6


@pytest.mark.parametrize("x, state, counts", [
    (10, VISIBLE, 1), (10, OCCLUDED, 1), (10, ABSENT, 0), (-0.4, VISIBLE, 1), (-0.5, VISIBLE, 0), (-0.6, VISIBLE, 0),
    (63.4, VISIBLE, 1), (63.5, VISIBLE, 0), (63.6, VISIBLE, 0), (200, VISIBLE, 0)])
@pytest.mark.parametrize("axis", [0, 1])
def test_only_labelled_joints_inside_the_picture_count(x, state, counts, axis):
    joints = torch.full((1, 3, 2), 20.0)
    joints[0, 1, axis] = x
    _, mask = CODEC.encode(joints, torch.tensor([[VISIBLE, state, OCCLUDED]]))
    assert mask.tolist() == [[1, 1, counts, counts, 1, 1]]


def test_loss_against_a_slow_loop():
    rng = np.random.default_rng(0)
    output, target = torch.from_numpy(rng.normal(size=(2, 5, 6)).astype(np.float32))
    mask = torch.from_numpy((rng.random((5, 6)) < 0.6).astype(np.float32))
    total = count = 0
    for n in range(5):
        for k in range(6):
            if mask[n, k]:
                total, count = total + float(output[n, k] - target[n, k]) ** 2, count + 1
    assert CODEC.loss(output, target, mask).item() == pytest.approx(total / count, rel=1e-6)


def test_masked_numbers_get_no_gradient():
    output = torch.randn(2, 6, requires_grad=True)
    mask = torch.tensor([[1.0, 1, 0, 0, 1, 1], [0] * 6])
    CODEC.loss(output, torch.zeros(2, 6), mask).backward()
    assert torch.equal(output.grad != 0, mask > 0)


def test_without_any_label_the_loss_is_zero_and_the_gradient_too():
    output = torch.randn(2, 6, requires_grad=True)
    target, mask = CODEC.encode(torch.zeros(2, 3, 2), torch.full((2, 3), ABSENT))
    loss = CODEC.loss(output, target, mask)
    loss.backward()
    assert loss.item() == 0 and (output.grad == 0).all()


def test_half_precision_answers_are_compared_and_decoded_in_float32():
    output = torch.full((1, 6), 0.123, dtype=torch.bfloat16)
    assert CODEC.loss(output, torch.zeros(1, 6), torch.ones(1, 6)).dtype == torch.float32
    assert CODEC.decode(output).dtype == torch.float32
