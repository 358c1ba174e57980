"""Pictorial structures: inference is exact, whatever the scores, and what cannot be used is refused."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import pose

from posebook import pictorial
from posebook.pictorial import Springs, best_pose, learn_springs, learn_weights, log_score, max_marginals, posterior
from posebook.skeleton import ABSENT, LSP14, VISIBLE, Limb, Skeleton
from posebook.targets import JointWindows, paper_a_grid

FORK = Skeleton("fork", ("root", "arm", "hand", "tail"), {"arm": "root", "hand": "arm", "tail": "root"},
                (Limb("arm", ("root",), ("arm",)),))
HEIGHT, WIDTH = 3, 4


def springs_of(skeleton, components=2, seed=0, reach=2.0):
    """Random springs; the second component of joint 1 does not exist."""
    rng = np.random.default_rng(seed)
    joints = len(skeleton)
    bias = torch.from_numpy(rng.normal(size=(joints, components)))
    if components > 1:
        bias[1, 1] = -math.inf
    return Springs(skeleton, torch.from_numpy(rng.uniform(-reach, reach, (joints, components, 2))),
                   torch.from_numpy(rng.uniform(0.3, 6, (joints, components, 2))), bias,
                   torch.from_numpy(rng.uniform(0.5, 2, joints)), torch.from_numpy(rng.uniform(0.5, 2, joints)))


def scores_of(skeleton, n=3, height=HEIGHT, width=WIDTH, seed=0, forbidden=0.1):
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.normal(size=(n, len(skeleton), height, width)) * 2)
    scores[torch.from_numpy(rng.uniform(size=scores.shape) < forbidden)] = -math.inf
    scores[:, :, 1, 1] = 0                                              # never a map without a finite value
    return scores


def all_poses(springs, scores, sum_components):
    """By brute force: every pose (P, J, 2) of the map and its score in every image (P, N), from the definition."""
    height, width = scores.shape[2:]
    cells = [(x, y) for y in range(height) for x in range(width)]
    poses = np.array(list(itertools.product(cells, repeat=len(springs.skeleton))))
    total = torch.zeros(len(poses), len(scores), dtype=torch.float64)
    for j in range(len(springs.skeleton)):
        x, y = poses[:, j].T
        total += springs.evidence[j] * scores[:, j][:, y, x].T
        if j == springs.skeleton.root:
            continue
        away = torch.from_numpy(poses[:, j] - poses[:, springs.skeleton.parents[j]]).double()
        each = torch.stack([springs.bias[j, m] - springs.stiffness[j] * ((away - springs.offset[j, m]) ** 2
                                                                          / (2 * springs.variance[j, m])).sum(-1)
                            for m in range(springs.bias.shape[1])])
        total += (torch.logsumexp(each, dim=0) if sum_components else each.amax(dim=0))[:, None]
    return poses, total


@pytest.mark.parametrize("seed", range(4))
def test_the_best_pose_is_the_best_of_all(seed):
    springs, scores = springs_of(FORK, seed=seed), scores_of(FORK, seed=seed)
    poses, total = all_poses(springs, scores, sum_components=False)
    found = best_pose(springs, scores)
    highest, where = total.max(dim=0)
    torch.testing.assert_close(found.score, highest)
    assert np.array_equal(found.joints.numpy(), poses[where.numpy()])
    assert (found.component[:, 1] == 0).all()                           # the other does not exist


@pytest.mark.parametrize("seed", range(2))
def test_max_marginals_are_the_best_score_with_a_joint_in_a_cell(seed):
    springs, scores = springs_of(FORK, seed=seed), scores_of(FORK, seed=seed)
    poses, total = all_poses(springs, scores, sum_components=False)
    found = max_marginals(springs, scores)
    for j, x, y in itertools.product(range(4), range(WIDTH), range(HEIGHT)):
        mine = (poses[:, j] == [x, y]).all(axis=1)
        torch.testing.assert_close(found[:, j, y, x], total[torch.from_numpy(mine)].amax(dim=0))
    tops = found.flatten(2).amax(dim=2)
    torch.testing.assert_close(tops, tops[:, :1].expand_as(tops))


@pytest.mark.parametrize("seed", range(2))
def test_the_posterior_is_the_sum_over_all_poses(seed):
    springs, scores = springs_of(FORK, seed=seed), scores_of(FORK, seed=seed)
    poses, total = all_poses(springs, scores, sum_components=True)
    found = posterior(springs, scores)
    torch.testing.assert_close(found.log_partition, torch.logsumexp(total, dim=0))
    probability = torch.softmax(total, dim=0)
    for j, x, y in itertools.product(range(4), range(WIDTH), range(HEIGHT)):
        mine = torch.from_numpy((poses[:, j] == [x, y]).all(axis=1))
        torch.testing.assert_close(found.marginals[:, j, y, x], probability[mine].sum(dim=0))
    some = torch.arange(0, len(poses), 997)
    for n, pick in itertools.product(range(3), some[:20]):
        mine = log_score(springs, scores[n:n + 1], torch.from_numpy(poses[pick])[None])
        torch.testing.assert_close(mine[0], total[pick, n])


def test_samples_agree_with_the_posterior_one_by_one_and_in_pairs():
    springs, scores = springs_of(FORK, seed=5), scores_of(FORK, n=2, seed=5)
    poses, total = all_poses(springs, scores, sum_components=True)
    probability = torch.softmax(total, dim=0).numpy()
    drawn = posterior(springs, scores).sample(20_000, torch.Generator().manual_seed(0)).numpy()

    def counts(places, weights, joints):
        cell = np.ravel_multi_index([c for j in joints for c in (places[:, j, 1], places[:, j, 0])],
                                    (HEIGHT, WIDTH) * len(joints))
        return np.bincount(cell, weights, (HEIGHT * WIDTH) ** len(joints))

    for n in range(2):
        for joints in ((0,), (1,), (2,), (3,), (1, 2), (2, 3)):
            seen = counts(drawn[n], None, joints) / 20_000
            expected = counts(poses, probability[:, n], joints)
            error = np.abs(seen - expected) / np.sqrt(expected * (1 - expected) / 20_000 + 1e-9)
            assert error.max() < 5 and np.abs(seen - expected).sum() < 0.15, (n, joints)


# ----------------------------------------------------------------------------------------------- the distance transform


def quadratic(scores, offset, variance):
    """Every place of the parent against every cell of the child."""
    n, height, width = scores.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells = torch.stack([x, y], dim=-1).reshape(-1, 2).to(scores)
    away = cells[None, :, :] - cells[:, None, :] - offset
    values = scores.reshape(n, 1, -1) - (away ** 2 / (2 * variance)).sum(dim=-1)
    best, index = values.max(dim=2)
    where = torch.stack([index % width, index // width], dim=-1)
    return best.reshape(n, height, width), where.reshape(n, height, width, 2)


@given(seed=st.integers(0, 10_000), height=st.integers(1, 9), width=st.integers(1, 9))
def test_the_transform_equals_the_quadratic_one(seed, height, width):
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.normal(size=(3, height, width)) * rng.choice([0.01, 1, 100]))
    scores[torch.from_numpy(rng.uniform(size=scores.shape) < rng.choice([0, 0.5, 0.9]))] = -math.inf
    offset = torch.from_numpy(rng.uniform(-4, 4, 2).round(int(rng.integers(0, 2))))
    variance = torch.from_numpy(rng.choice([0.01, 0.5, 3.0, 1e4], 2))
    best, where = pictorial.distance_transform(scores, offset, variance)
    expected, _ = quadratic(scores, offset, variance)
    torch.testing.assert_close(best, expected)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    away = where - torch.stack([x, y], dim=-1) - offset                  # the place must earn the score
    earned = scores[torch.arange(3)[:, None, None], where[..., 1], where[..., 0]] - (away ** 2 / (2 * variance)).sum(-1)
    reachable = expected > -math.inf
    torch.testing.assert_close(earned[reachable], expected[reachable])


def test_a_body_on_a_real_map_equals_the_quadratic_version():
    poses = np.stack([pose(LSP14, (16, 16), 12) + np.random.default_rng(i).normal(0, 1.5, (14, 2)) for i in range(40)])
    springs = learn_springs(poses.astype(np.float32), np.full((40, 14), VISIBLE), LSP14, components=3)
    scores = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 14, 30, 34))).double()
    linear, slow = best_pose(springs, scores), best_pose(springs, scores, quadratic)
    torch.testing.assert_close(linear.score, slow.score)
    assert torch.equal(linear.joints, slow.joints) and torch.equal(linear.component, slow.component)
    torch.testing.assert_close(max_marginals(springs, scores), max_marginals(springs, scores, quadratic))
    single = best_pose(springs, scores.float())
    torch.testing.assert_close(single.score.double(), slow.score, atol=1e-4, rtol=1e-5)


# ------------------------------------------------------------------------------------------------- springs and weights


def test_springs_are_means_and_variances_of_what_is_labelled():
    rng = np.random.default_rng(0)
    poses = pose(LSP14, (30, 30), 20) + rng.normal(0, [1.5, 3], (500, 14, 2))
    state = np.full((500, 14), VISIBLE)
    hand = LSP14.index("left_wrist")
    state[::2, hand], poses[::2, hand] = ABSENT, 1e5
    springs = learn_springs(poses, state, LSP14)
    mean = pose(LSP14, (30, 30), 20)
    for j in LSP14.order_down[1:]:
        np.testing.assert_allclose(springs.offset[j, 0], mean[j] - mean[LSP14.parents[j]], atol=0.7)
        np.testing.assert_allclose(springs.variance[j, 0], [4.5, 18], rtol=0.25)
    assert learn_springs(poses, state, LSP14, least=50).variance.min() >= 1
    assert (learn_springs(poses, state, LSP14, least=50).variance[LSP14.order_down[1]] == 50).all()


def test_components_find_an_arm_that_is_either_up_or_down():
    rng = np.random.default_rng(0)
    up = rng.uniform(size=300) < 0.25
    poses = np.zeros((300, 4, 2))
    poses[:, 1] = np.where(up[:, None], [0, -10], [0, 10]) + rng.normal(0, 1, (300, 2))
    springs = learn_springs(poses, np.full((300, 4), VISIBLE), FORK, components=2)
    order = springs.offset[1, :, 1].argsort()
    np.testing.assert_allclose(springs.offset[1, order], [[0, -10], [0, 10]], atol=0.3)
    shares = (springs.bias[1, order] + 0.5 * springs.variance[1, order].log().sum(-1) + math.log(2 * math.pi)).exp()
    np.testing.assert_allclose(shares, [up.mean(), 1 - up.mean()], atol=1e-5)
    assert learn_springs(poses, np.full((300, 4), VISIBLE), FORK, components=2).offset.equal(springs.offset)
    scores = torch.zeros(1, 4, 30, 30)
    scores[0, 0, 15, 15] = scores[0, 1, 5, 15] = 50
    found = best_pose(springs, scores)
    assert found.joints[0, 1].tolist() == [15, 5] and found.component[0, 1] == order[0]


def test_a_joint_without_evidence_gets_its_place_from_its_neighbours():
    springs = springs_of(FORK, components=1)
    springs = replace(springs, offset=torch.tensor([[[0.0, 0]], [[3, 1]], [[2, 2]], [[-2, 0]]]).double(),
                      stiffness=torch.ones(4).double())
    scores = torch.zeros(1, 4, 12, 12).double()
    scores[0, 0, 4, 4] = 30
    assert best_pose(springs, scores).joints[0].tolist() == [[4, 4], [7, 5], [9, 7], [2, 4]]
    marginal = posterior(springs, scores).marginals[0, 1]
    assert divmod(int(marginal.argmax()), 12) == (5, 7) and marginal.sum().item() == pytest.approx(1)


def test_learned_weights_make_the_truth_likelier_and_mistrust_noise():
    rng = np.random.default_rng(0)
    mean = np.array([[8, 8], [11, 9], [13, 11], [5, 8]])
    poses = np.clip(mean + rng.normal(0, 1, (30, 1, 2)).round() + rng.normal(0, 0.7, (30, 4, 2)).round(), 0, 15)
    springs = learn_springs(poses.astype(np.float32), np.full((30, 4), VISIBLE), FORK, least=0.3)
    scores = torch.from_numpy(rng.normal(size=(30, 4, 16, 16)))
    everyone = np.arange(30)
    for j in (0, 1, 3):                                                  # joint 2's scores are noise alone
        scores[everyone, j, poses[:, j, 1].astype(int), poses[:, j, 0].astype(int)] += 3
    true = torch.from_numpy(poses)
    learned = learn_weights(springs, scores, true)

    def likelihood(model):
        return (log_score(model, scores, true.long()) - posterior(model, scores).log_partition).mean()

    assert likelihood(learned) > likelihood(springs) + 0.1
    assert learned.evidence[2] < 0.5 * learned.evidence[[0, 1, 3]].min() and (learned.stiffness > 0).all()


@pytest.mark.parametrize("step", [1, 2, 4])
def test_window_scores_add_up_the_windows_that_hold_a_cell(step):
    codec = JointWindows(LSP14, paper_a_grid())
    output = torch.randn(2, codec.outputs)
    found = pictorial.window_scores(codec, output, step)
    assert found.shape == (2, 14, 64 // step, 64 // step)
    maps = output.reshape(2, 14, 8, 8)
    for x, y in ((0, 0), (17 // step, 30 // step), (64 // step - 1, 5)):
        centre = torch.tensor([[[(x + 0.5) * step - 0.5, (y + 0.5) * step - 0.5]]])
        held = pictorial.points_inside(centre, codec.grid)[0, 0]
        torch.testing.assert_close(found[:, :, y, x], maps[:, :, held].sum(-1))


def test_a_sure_detector_scores_highest_at_the_truth():
    codec = JointWindows(LSP14, paper_a_grid())
    joints = torch.from_numpy(pose(LSP14, (32, 32), 24))[None]
    sure = (codec.encode(joints, torch.full((1, 14), VISIBLE))[0] - 0.5) * 10
    scores = pictorial.window_scores(codec, sure)
    cells = joints[0].round().long()
    at_truth = scores[0, torch.arange(14), cells[:, 1], cells[:, 0]]
    assert torch.equal(at_truth, scores[0].flatten(1).amax(dim=1))       # no pixel scores higher than the true one


def test_a_spring_to_a_fixed_place_against_a_loop():
    points = torch.tensor([[[2.5, 1.0], [0.0, 3.0]]])
    variance = torch.tensor([[1.0, 4.0], [0.5, 2.0]])
    found = pictorial.point_scores(points, variance, 4, 6)
    assert found.shape == (1, 2, 4, 6)
    for j, x, y in itertools.product(range(2), range(6), range(4)):
        away = torch.tensor([x, y]) - points[0, j]
        torch.testing.assert_close(found[0, j, y, x], -(away ** 2 / (2 * variance[j])).sum())


def test_forbidden_cells_stay_forbidden_and_do_not_spoil_the_weights():
    springs, scores = springs_of(FORK), scores_of(FORK, n=6, forbidden=0.2)
    true = torch.ones(6, 4, 2, dtype=torch.int64)                              # cell 1, 1 is never forbidden
    learned = learn_weights(springs, scores, true.float(), steps=3)
    assert torch.isfinite(learned.evidence).all() and torch.isfinite(learned.stiffness).all()
    nothing = replace(springs, evidence=torch.zeros(4).double())
    marginals = posterior(nothing, scores).marginals
    assert (marginals[scores == -math.inf] == 0).all() and torch.isfinite(marginals).all()
    forbidden = scores.clone()
    forbidden[2, 1, 1, 1] = -math.inf
    assert log_score(nothing, forbidden, true)[2] == -math.inf
    with pytest.raises(ValueError, match="a true joint lies in a cell that its scores forbid"):
        learn_weights(springs, forbidden, true.float())


def test_cells_must_fill_the_row():
    assert pictorial.cell_centres(8, 2).tolist() == [0.5, 2.5, 4.5, 6.5]
    for step in (0, 3):
        with pytest.raises(ValueError, match=f"cells of {step} px do not fill 8 px"):
            pictorial.cell_centres(8, step)


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("change, message", [
    ({"variance": torch.zeros(4, 2, 2)}, "variance and stiffness must be above 0"),
    ({"variance": torch.full((4, 2, 2), -1.0)}, "must be above 0"), ({"stiffness": torch.zeros(4)}, "must be above 0"),
    ({"evidence": torch.tensor([1.0, -1, 1, 1])}, "evidence must not have a negative weight"),
    ({"offset": torch.full((4, 2, 2), math.nan)}, "offset of the springs must be finite"),
    ({"offset": torch.zeros(4, 1, 2)}, r"offset of the springs of fork must have shape \(4, 2, 2\)"),
    ({"bias": torch.full((4, 2), -math.inf)}, "component with a finite bias")])
def test_impossible_springs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(springs_of(FORK), **change)


@pytest.mark.parametrize("damage, message", [
    (lambda s: s[:, :3], r"must be \(N, 4, H, W\), not"),
    (lambda s: s.index_fill(3, torch.tensor([2]), math.nan), "image 0, root, holds NaN or infinity"),
    (lambda s: torch.where(torch.arange(4)[:, None, None] == 2, math.inf, s), "image 0, hand, holds NaN or infinity"),
    (lambda s: torch.where(torch.arange(4)[:, None, None] == 3, -math.inf, s), "image 0, tail, has no finite value"),
    (lambda s: s[..., :2], "2 cells wide are smaller than a spring"),
    (lambda s: s[:, :, 1:2], "1 cells high are smaller than a spring")])
@pytest.mark.parametrize("infer", [best_pose, max_marginals, posterior])
def test_scores_that_cannot_be_used_are_refused(damage, message, infer):
    with pytest.raises(ValueError, match=message):
        infer(springs_of(FORK, reach=3.0), damage(scores_of(FORK, forbidden=0)))


def test_joints_that_are_never_labelled_together_are_named():
    poses, state = np.zeros((5, 4, 2)), np.full((5, 4), VISIBLE)
    state[1:, 2] = ABSENT
    with pytest.raises(ValueError, match="hand and arm are labelled together in 1 poses"):
        learn_springs(poses, state, FORK)
    with pytest.raises(ValueError, match="at least one component"):
        learn_springs(poses, state, FORK, components=0)
