"""Every metric against a slow loop written from its definition, against cases done by hand, and against its laws."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posebook import metrics
from posebook.skeleton import ABSENT, COCO17, H36M17, LSP14, OCCLUDED, UPPER8, VISIBLE

THRESHOLDS = np.linspace(0, 0.5, 51)
close = np.testing.assert_allclose


def make(seed, images=12, skeleton=LSP14, dims=2, noise=0.25, absent=0.25):
    """Random poses about 100 wide, predictions some way off, and states with absent joints among them."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(images, len(skeleton), dims)) * 50 + 200
    predicted = true + rng.normal(size=true.shape) * 50 * noise * rng.uniform(0, 3, (images, 1, 1))
    labelled = (1 - absent) / 2
    state = rng.choice([ABSENT, OCCLUDED, VISIBLE], p=[absent, labelled, labelled], size=true.shape[:2])
    return predicted, true, state.astype(np.uint8)


def same(one, other):
    close(one.per_item, other.per_item, rtol=1e-9, atol=1e-9)
    close(one.per_image, other.per_image, rtol=1e-9, atol=1e-9)
    assert (one.counts == other.counts).all() and one.names == other.names


seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=25, deadline=None)


# ----------------------------------------------------------------------------------------------- slow references


def slow_distance(a, b):
    return math.sqrt(sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)))


def slow_collect(value_of, images, items):
    """Gather value_of(image, item), None meaning "does not count", into the four numbers of a Score."""
    table = [[value_of(n, k) for k in range(items)] for n in range(images)]
    columns = [[row[k] for row in table if row[k] is not None] for k in range(items)]
    rows = [[v for v in row if v is not None] for row in table]
    mean = [sum(c) / len(c) if c else math.nan for c in columns]
    counted = [m for m in mean if not math.isnan(m)]
    pooled = [v for row in rows for v in row]
    return {"per_item": mean, "counts": [len(c) for c in columns],
            "per_image": [sum(r) / len(r) if r else math.nan for r in rows],
            "mean": sum(counted) / len(counted) if counted else math.nan,
            "pooled": sum(pooled) / len(pooled) if pooled else math.nan}


def agree(score, reference):
    close(score.per_item, reference["per_item"], rtol=1e-9)
    close(score.per_image, reference["per_image"], rtol=1e-9)
    assert score.counts.tolist() == reference["counts"]
    close([score.mean, score.pooled], [reference["mean"], reference["pooled"]], rtol=1e-9)


def slow_torso(true, state, skeleton):
    out = []
    for pose, have in zip(true, state, strict=True):
        for one, other in (("left_shoulder", "right_hip"), ("right_shoulder", "left_hip")):
            i, j = skeleton.index(one), skeleton.index(other)
            if have[i] and have[j]:
                out.append(slow_distance(pose[i], pose[j]))
                break
        else:
            out.append(math.nan)
    return out


def slow_pck(predicted, true, state, normaliser, threshold):
    def value(n, j):
        if not state[n, j] or math.isnan(normaliser[n]):
            return None
        return float(slow_distance(predicted[n, j], true[n, j]) / normaliser[n] <= threshold)
    return slow_collect(value, *state.shape)


def slow_pcp(predicted, true, state, skeleton, threshold, strict):
    def middle(pose, names):
        picked = [pose[skeleton.index(name)] for name in names]
        return [sum(float(p[d]) for p in picked) / len(picked) for d in range(len(pose[0]))]

    def value(n, number):
        limb = skeleton.limbs[number]
        if any(state[n, skeleton.index(name)] == ABSENT for name in limb.start + limb.end):
            return None
        length = slow_distance(middle(true[n], limb.start), middle(true[n], limb.end))
        offs = [slow_distance(middle(predicted[n], e), middle(true[n], e)) / length for e in (limb.start, limb.end)]
        return float(all(off <= threshold for off in offs) if strict else sum(offs) / 2 <= threshold)
    return slow_collect(value, len(state), len(skeleton.limbs))


def slow_mpjpe(predicted, true, state, root, within=None):
    def value(n, j):
        if not state[n, j] or (root is not None and not state[n, root]):
            return None
        p, t = predicted[n, j], true[n, j]
        if root is not None:
            p, t = p - predicted[n, root], t - true[n, root]
        distance = slow_distance(p, t)
        return distance if within is None else float(distance <= within)
    return slow_collect(value, *state.shape)


def slow_align(p, t):
    """Similarity by Kabsch's recipe for one pose: written apart from geometry.procrustes on purpose."""
    a, b = p - p.mean(0), t - t.mean(0)
    left, sizes, right = np.linalg.svd(a.T @ b)
    flip = np.eye(len(sizes))
    flip[-1, -1] = np.linalg.det(left @ right)
    scale = np.trace(np.diag(sizes) @ flip) / np.sum(a * a)
    return scale * a @ left @ flip @ right + t.mean(0)


def slow_pa(predicted, true, state):
    aligned = np.zeros_like(true)
    for n in range(len(true)):
        have = state[n] > 0
        if have.sum() >= 3:
            aligned[n, have] = slow_align(predicted[n, have], true[n, have])
    return slow_collect(lambda n, j: slow_distance(aligned[n, j], true[n, j])
                        if state[n, j] and (state[n] > 0).sum() >= 3 else None, *state.shape)


@few
@given(seeds, st.sampled_from([0.0, 0.25, 0.8]))
def test_2d_metrics_agree_with_the_loops(seed, absent):
    predicted, true, state = make(seed, absent=absent)
    torso = metrics.torso_diameter(true, state, LSP14)
    close(torso, slow_torso(true, state, LSP14))
    head = metrics.head_length(true, state, LSP14)
    both = (state[:, 12] > 0) & (state[:, 13] > 0)
    close(head, [slow_distance(t[12], t[13]) if b else math.nan for t, b in zip(true, both, strict=True)])
    for threshold in (0.1, 0.2, 0.5):
        agree(metrics.pdj(predicted, true, state, LSP14, threshold), slow_pck(predicted, true, state, torso, threshold))
        agree(metrics.pckh(predicted, true, state, LSP14, threshold), slow_pck(predicted, true, state, head, threshold))
        agree(metrics.pck(predicted, true, state, 90.0, threshold),
              slow_pck(predicted, true, state, np.full(len(true), 90.0), threshold))
        for strict in (True, False):
            agree(metrics.pcp(predicted, true, state, LSP14, threshold, strict),
                  slow_pcp(predicted, true, state, LSP14, threshold, strict))
    curve = metrics.pck_curve(predicted, true, state, torso, THRESHOLDS)
    close(curve, [slow_pck(predicted, true, state, torso, t)["mean"] for t in THRESHOLDS])


@few
@given(seeds, st.sampled_from([0.0, 0.25, 0.8]))
def test_3d_metrics_agree_with_the_loops(seed, absent):
    predicted, true, state = make(seed, skeleton=H36M17, dims=3, absent=absent)
    for root in (0, None):
        agree(metrics.mpjpe(predicted, true, state, root), slow_mpjpe(predicted, true, state, root))
        agree(metrics.pck3d(predicted, true, state, root, 40.0), slow_mpjpe(predicted, true, state, root, within=40.0))
    agree(metrics.pa_mpjpe(predicted, true, state), slow_pa(predicted, true, state))
    steps = range(0, 151, 5)
    values = [slow_mpjpe(predicted, true, state, 0, within=float(t))["mean"] for t in steps]
    area = sum((a + b) / 2 * 5 for a, b in itertools.pairwise(values)) / 150
    close(metrics.auc3d(predicted, true, state, 0), area)
    assert metrics.AUC3D_THRESHOLDS.tolist() == list(steps)


# ---------------------------------------------------------------------------------------------- by hand, on paper


def upright():
    """One LSP14 pose on whole pixels: torso diagonal 3-4-5 x 10 = 50 px, head 12 px, every limb 20 px or as noted."""
    places = {"head_top": (0, -12), "neck": (0, 0), "left_shoulder": (15, 0), "right_shoulder": (-15, 0),
              "left_elbow": (15, 20), "right_elbow": (-15, 20), "left_wrist": (15, 40), "right_wrist": (-15, 40),
              "left_hip": (15, 40), "right_hip": (-15, 40), "left_knee": (15, 60), "right_knee": (-15, 60),
              "left_ankle": (15, 80), "right_ankle": (-15, 80)}
    return np.array([[places[joint] for joint in LSP14.joints]], np.float64), np.full((1, 14), VISIBLE, np.uint8)


def moved(true, **shifts):
    out = true.copy()
    for joint, shift in shifts.items():
        out[0, LSP14.index(joint)] += shift
    return out


def test_normalisers_by_hand():
    true, state = upright()
    assert metrics.torso_diameter(true, state, LSP14).tolist() == [50.0]
    assert metrics.head_length(true, state, LSP14).tolist() == [12.0]
    assert metrics.box_size(np.array([[0, 0, 30, 40], [5.0, 5.0, 105.0, 6.0]])).tolist() == [40.0, 100.0]


def test_torso_diameter_falls_back_to_its_mirror_and_then_to_nan():
    true, state = upright()
    true[0, LSP14.index("left_hip")] += (0, 32)  # the mirrored diagonal becomes sqrt(30^2 + 72^2) = 78
    assert metrics.torso_diameter(true, state, LSP14)[0] == 50
    state[0, LSP14.index("right_hip")] = ABSENT
    assert metrics.torso_diameter(true, state, LSP14)[0] == 78
    state[0, LSP14.index("right_shoulder")] = ABSENT
    assert np.isnan(metrics.torso_diameter(true, state, LSP14)[0])
    assert np.isnan(metrics.pdj(true, true, state, LSP14, 0.2).mean)


@pytest.mark.parametrize("shift, right", [((10, 0), True), ((6, 8), True), ((10.01, 0), False)])
def test_pdj_by_hand(shift, right):
    true, state = upright()
    score = metrics.pdj(moved(true, left_knee=shift), true, state, LSP14, 0.2)  # 0.2 x 50 px = 10 px, border included
    assert score.per_item[LSP14.index("left_knee")] == right
    assert score.mean == score.pooled == score.per_image[0] == (13 + right) / 14
    assert score.names == LSP14.joints


def test_pckh_by_hand():
    true, state = upright()
    predicted = moved(true, left_knee=(6, 0), right_knee=(0, 6.5))  # half the head is 6 px
    score = metrics.pckh(predicted, true, state, LSP14)
    assert [score.per_item[LSP14.index(j)] for j in ("left_knee", "right_knee")] == [1, 0]


def test_strict_and_loose_pcp_by_hand():
    true, state = upright()
    limb = LSP14.limb_names.index("left_lower_leg")  # 20 px long, so 10 px are allowed
    wild = moved(true, left_knee=(4, 0), left_ankle=(16, 0))  # one end out; the mean of both is just within
    assert metrics.pcp(wild, true, state, LSP14, strict=True).per_item[limb] == 0
    assert metrics.pcp(wild, true, state, LSP14, strict=False).per_item[limb] == 1
    worse = moved(true, left_knee=(4, 0), left_ankle=(16.1, 0))
    assert metrics.pcp(worse, true, state, LSP14, strict=False).per_item[limb] == 0
    assert metrics.pcp(wild, true, state, LSP14).names == LSP14.limb_names


def test_pcp_takes_the_midpoint_of_a_shared_end_and_needs_both_its_joints():
    true, state = upright()
    torso = LSP14.limb_names.index("torso")
    # Both hips are far off, in opposite directions: their midpoint, the end of the torso, has not moved.
    predicted = moved(true, left_hip=(100, 0), right_hip=(-100, 0))
    assert metrics.pcp(predicted, true, state, LSP14).per_item[torso] == 1
    state[0, LSP14.index("left_hip")] = ABSENT
    score = metrics.pcp(predicted, true, state, LSP14)
    assert score.counts[torso] == 0 and np.isnan(score.per_item[torso])


def test_a_limb_without_length_is_not_counted():
    true, state = upright()
    true[0, LSP14.index("left_wrist")] = true[0, LSP14.index("left_elbow")]
    score = metrics.pcp(true, true, state, LSP14)
    assert score.counts[LSP14.limb_names.index("left_lower_arm")] == 0
    assert score.counts.sum() == 9 and score.mean == 1


def test_mpjpe_by_hand():
    true = np.array([[[0, 0, 3000], [0, 100, 3000], [0, 200, 3000]]], float)
    predicted = true + np.array([10, 0, 500])      # the whole pose too far away: the root takes that out
    predicted[0, 2] += (30, 40, 0)                 # and one joint 50 mm off
    state = np.full((1, 3), VISIBLE)
    assert metrics.mpjpe(predicted, true, state, 0).per_item.tolist() == [0, 0, 50]
    assert metrics.mpjpe(predicted, true, state, 0).mean == 50 / 3  # the root's own zero is part of it
    assert metrics.mpjpe(predicted, true, state, 1).per_item.tolist() == [0, 0, 50]
    assert metrics.mpjpe(predicted, true, state, None).per_item[0] == math.hypot(10, 500)
    assert metrics.pck3d(predicted, true, state, 0, 50.0).mean == 1
    assert metrics.pck3d(predicted, true, state, 0, 49.0).mean == 2 / 3
    # 3DPCK is 2/3 below 50 mm and 1 from 50 mm on: 9 whole steps of 5 at 2/3, one ramp, 20 whole steps at 1.
    close(metrics.auc3d(predicted, true, state, 0), (9 * 2 / 3 + (2 / 3 + 1) / 2 + 20) / 30)


def test_mpjpe_skips_images_without_their_root():
    predicted, true, state = make(1, skeleton=H36M17, dims=3, absent=0)
    state[3, 0] = ABSENT
    score = metrics.mpjpe(predicted, true, state, 0)
    assert np.isnan(score.per_image[3]) and (score.counts == len(true) - 1).all()
    assert (metrics.mpjpe(predicted, true, state, None).counts[1:] == len(true)).all()


def test_pa_mpjpe_needs_three_joints():
    predicted, true, state = make(2, skeleton=H36M17, dims=3, absent=0)
    state[0, 2:] = ABSENT
    assert np.isnan(metrics.pa_mpjpe(predicted, true, state).per_image[0])
    assert (metrics.pa_mpjpe(predicted, true, state).counts == len(true) - 1).all()


def test_mean_over_joints_is_not_the_pooled_mean():
    true, state = np.zeros((4, 2, 2)), np.full((4, 2), VISIBLE)
    state[1:, 1] = ABSENT                       # joint 0 is labelled four times, joint 1 once
    predicted = true.copy()
    predicted[:, 0, 0] = (0, 0, 0, 9)           # joint 0: 3 of 4 right
    predicted[0, 1, 0] = 9                      # joint 1: 0 of 1
    score = metrics.pck(predicted, true, state, 1.0, 0.5, ("a", "b"))
    assert score.per_item.tolist() == [0.75, 0] and score.counts.tolist() == [4, 1] and score.names == ("a", "b")
    assert score.mean == 0.375 and score.pooled == 0.6
    assert score.per_image.tolist() == [0.5, 1, 1, 0]


def test_nothing_counted_is_nan_without_a_warning():
    predicted, true, _ = make(0)
    none = np.zeros(true.shape[:2], np.uint8)
    for score in (metrics.pdj(predicted, true, none, LSP14, 0.2), metrics.pcp(predicted, true, none, LSP14),
                  metrics.mpjpe(predicted, true, none, None), metrics.pa_mpjpe(predicted, true, none)):
        assert np.isnan(score.mean) and np.isnan(score.pooled) and np.isnan(score.per_item).all()
        assert (score.counts == 0).all()


# ------------------------------------------------------------------------------------------------------ the laws


def all_2d(predicted, true, state):
    """Scores of every 2D metric, by name; all normalisers from the truth."""
    return {"pdj": metrics.pdj(predicted, true, state, LSP14, 0.2), "pckh": metrics.pckh(predicted, true, state, LSP14),
            "strict": metrics.pcp(predicted, true, state, LSP14), "mpjpe": metrics.mpjpe(predicted, true, state, 12),
            "loose": metrics.pcp(predicted, true, state, LSP14, strict=False),
            "pa": metrics.pa_mpjpe(predicted, true, state), "plain": metrics.mpjpe(predicted, true, state, None)}


def all_3d(predicted, true, state):
    return {"mpjpe": metrics.mpjpe(predicted, true, state, 0), "pa": metrics.pa_mpjpe(predicted, true, state),
            "pck3d": metrics.pck3d(predicted, true, state, 0), "plain": metrics.mpjpe(predicted, true, state, None)}


@few
@given(seeds, st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e6]))
def test_absent_joints_never_count(seed, junk):
    for maker, dims, skeleton in ((all_2d, 2, LSP14), (all_3d, 3, H36M17)):
        predicted, true, state = make(seed, skeleton=skeleton, dims=dims)
        changed, guessed = true.copy(), predicted.copy()
        changed[state == ABSENT] = junk
        guessed[state == ABSENT] += np.random.default_rng(seed).normal(size=(int((state == ABSENT).sum()), dims)) * 500
        if dims == 3:  # without a root there is nothing to measure from: the image is left out
            assert np.isnan(maker(guessed, changed, state)["mpjpe"].per_image[state[:, 0] == ABSENT]).all()
        before, after = maker(predicted, true, state), maker(guessed, changed, state)
        for name in before:
            same(before[name], after[name])


@few
@given(seeds)
def test_occluded_joints_count_like_visible_ones(seed):
    predicted, true, state = make(seed)
    seen = np.where(state == OCCLUDED, VISIBLE, state)
    for name, score in all_2d(predicted, true, state).items():
        same(score, all_2d(predicted, true, seen)[name])


@few
@given(seeds, st.floats(0.1, 10), st.floats(-500, 500))
def test_moving_and_scaling_both_poses(seed, scale, shift):
    predicted, true, state = make(seed)
    before, after = all_2d(predicted, true, state), all_2d(predicted * scale + shift, true * scale + shift, state)
    for name in ("pdj", "pckh", "strict", "loose"):
        close(before[name].per_item, after[name].per_item)
    for name in ("mpjpe", "pa", "plain"):
        close(before[name].per_item * scale, after[name].per_item, atol=1e-6)


@few
@given(seeds, st.floats(0.1, 10), st.floats(-3, 3), st.floats(-2000, 2000))
def test_what_each_alignment_forgives(seed, scale, angle, shift):
    predicted, true, state = make(seed, skeleton=H36M17, dims=3)
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    before = all_3d(predicted, true, state)
    same(before["mpjpe"], all_3d(predicted + shift, true, state)["mpjpe"])
    aligned = all_3d(scale * predicted @ turn.T + shift, true, state)["pa"]
    close(before["pa"].per_item, aligned.per_item, atol=1e-6)


def test_reflection_is_not_forgiven():
    _, true, state = make(5, skeleton=H36M17, dims=3, absent=0)
    assert metrics.pa_mpjpe(true * (-1, 1, 1), true, state).mean > 10
    assert metrics.pa_mpjpe(-true, true, state).mean > 10
    flat = true[..., :2]
    assert metrics.pa_mpjpe(flat * (-1, 1), flat, state).mean > 10


@few
@given(seeds)
def test_a_perfect_prediction(seed):
    _, true, state = make(seed)
    for name, score in all_2d(true, true, state).items():
        counted = score.counts > 0
        close(score.per_item[counted], 0 if name in ("mpjpe", "pa", "plain") else 1, atol=1e-9)
    _, true, state = make(seed, skeleton=H36M17, dims=3)
    assert metrics.auc3d(true, true, state, 0) == 1
    close(metrics.pa_mpjpe(true, true, state).mean, 0, atol=1e-9)


@few
@given(seeds)
def test_curves_rise_and_strict_is_never_above_loose(seed):
    predicted, true, state = make(seed)
    curve = metrics.pck_curve(predicted, true, state, metrics.torso_diameter(true, state, LSP14), THRESHOLDS)
    assert (np.diff(curve) >= -1e-12).all() and curve.min() >= 0 and curve.max() <= 1
    assert 0 <= metrics.area_under(curve, THRESHOLDS) <= 1
    strict, loose = (metrics.pcp(predicted, true, state, LSP14, strict=s) for s in (True, False))
    assert (strict.per_item[strict.counts > 0] <= loose.per_item[loose.counts > 0]).all()
    close(metrics.pck_curve(predicted, true, state, 80.0, [0.2]), metrics.pck(predicted, true, state, 80.0, 0.2).mean)


@few
@given(seeds)
def test_the_order_of_the_images_does_not_matter(seed):
    for maker, dims, skeleton in ((all_2d, 2, LSP14), (all_3d, 3, H36M17)):
        predicted, true, state = make(seed, skeleton=skeleton, dims=dims)
        order = np.random.default_rng(seed).permutation(len(true))
        before, after = maker(predicted, true, state), maker(predicted[order], true[order], state[order])
        for name in before:
            close(before[name].per_item, after[name].per_item)
            close(before[name].per_image[order], after[name].per_image)


@few
@given(seeds)
def test_the_order_of_the_joints_does_not_matter(seed):
    predicted, true, state = make(seed, skeleton=H36M17, dims=3)
    order = np.random.default_rng(seed).permutation(17)
    root = int(np.flatnonzero(order == 0)[0])
    arranged = predicted[:, order], true[:, order], state[:, order]
    for before, after in ((metrics.mpjpe(predicted, true, state, 0), metrics.mpjpe(*arranged, root)),
                          (metrics.pck(predicted, true, state, 90.0, 0.2), metrics.pck(*arranged, 90.0, 0.2)),
                          (metrics.pa_mpjpe(predicted, true, state), metrics.pa_mpjpe(*arranged))):
        close(before.per_item[order], after.per_item)
        close(before.per_image, after.per_image)


@pytest.mark.parametrize("hundredths", range(1, 100))
def test_a_threshold_reads_what_it_says(hundredths):
    # One joint on the border, one a hair beyond it. Multiplying instead of dividing fails at 0.29 among others, and a
    # curve read one entry too far along a grid of hundredths lets the second joint pass.
    true = np.zeros((1, 2, 2))
    predicted = np.array([[[hundredths, 0], [hundredths + 0.5, 0]]], float)
    state = np.full((1, 2), VISIBLE)
    assert metrics.pck(predicted, true, state, 100.0, hundredths / 100).per_item.tolist() == [1, 0]
    grid = np.arange(100) / 100
    curve = metrics.pck_curve(predicted, true, state, 100.0, grid)
    assert curve[hundredths] == 0.5 and curve[hundredths - 1] == 0
    assert metrics.pck_curve(predicted, true, state, 100.0, [hundredths / 100]).tolist() == [0.5]


def test_threshold_tenth_reads_a_tenth():
    rng = np.random.default_rng(0)
    offsets = rng.uniform(0, 1, 20_000)
    predicted = np.stack([offsets, np.zeros_like(offsets)], -1)[:, None]
    score = metrics.pck(predicted, np.zeros_like(predicted), np.full((20_000, 1), VISIBLE), 1.0, 0.1)
    assert score.mean == (offsets <= 0.1).mean() and abs(score.mean - 0.1) < 0.01


def test_the_normaliser_is_never_read_from_the_prediction():
    true, state = upright()
    for factor in (0.01, 1.0, 100.0):
        predicted = true.copy()
        for joint in ("left_shoulder", "right_shoulder", "left_hip", "right_hip", "head_top"):  # torso and head grow
            predicted[0, LSP14.index(joint)] *= factor
        predicted[0, LSP14.index("left_knee")] += (11, 0)
        predicted[0, LSP14.index("right_knee")] += (10, 0)
        score = metrics.pdj(predicted, true, state, LSP14, 0.2)
        assert [score.per_item[LSP14.index(j)] for j in ("left_knee", "right_knee")] == [0, 1]
        head = metrics.pckh(predicted, true, state, LSP14, 10 / 12)
        assert [head.per_item[LSP14.index(j)] for j in ("left_knee", "right_knee")] == [0, 1]


def test_area_under_by_hand():
    assert metrics.area_under([1, 1, 1], [0, 0.1, 0.5]) == 1
    assert metrics.area_under([0, 1], [0, 150]) == 0.5
    close(metrics.area_under([0, 1, 1], [0, 1, 4]), 3.5 / 4)
    close(metrics.area_under([0, 1], [0.1, 0.3]), 0.5)  # the range counts, not its upper end


def test_float32_and_lists_are_welcome():
    predicted, true, state = make(3)
    half = predicted.astype(np.float32), true.astype(np.float32), state
    assert metrics.pdj(*half, LSP14, 0.2).per_item.dtype == np.float64
    close(metrics.mpjpe(*half, None).mean, metrics.mpjpe(predicted, true, state, None).mean, rtol=1e-5)
    assert metrics.mpjpe([[[0, 0]]], [[[3, 4]]], [[VISIBLE]], None).mean == 5


# ----------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_prediction_that_is_not_finite_is_named(value):
    predicted, true, state = make(0)
    predicted[4, 7, 1] = predicted[6, 2, 0] = value
    for call in (all_2d, lambda *a: metrics.pck_curve(*a, 1.0, [0.1])):
        with pytest.raises(ValueError, match="image 4, joint 7 is not finite"):
            call(predicted, true, state)


def test_a_labelled_joint_that_is_not_finite_is_named():
    predicted, true, state = make(0, absent=0)
    true[2, 8] = np.nan
    for call in (all_2d, lambda p, t, s: metrics.torso_diameter(t, s, LSP14)):
        with pytest.raises(ValueError, match="label of image 2, joint 8 is not finite; mark the joint absent"):
            call(predicted, true, state)


@pytest.mark.parametrize("spoil", [
    lambda p, t, s: (p[:, :5], t, s), lambda p, t, s: (p[:4], t, s), lambda p, t, s: (p, t, s[:, :5]),
    lambda p, t, s: (p[..., :1], t[..., :1], s), lambda p, t, s: (p[0], t[0], s[0])])
def test_shapes_that_do_not_fit_raise_one_sentence(spoil):
    for call in (lambda *a: metrics.pck(*a, 50.0, 0.2), lambda *a: metrics.mpjpe(*a, None),
                 lambda *a: metrics.pcp(*a, LSP14), metrics.pa_mpjpe):
        with pytest.raises(ValueError, match="a metric needs predicted and true of one shape"):
            call(*spoil(*make(0)))


def test_normalisers_that_cannot_be_used():
    predicted, true, state = make(0, absent=0)
    sizes = np.full(len(true), 50.0)
    sizes[2], sizes[5] = 0, np.nan
    score = metrics.pck(predicted, true, state, sizes, 0.2)
    assert (score.counts == len(true) - 2).all() and np.isnan(score.per_image[[2, 5]]).all()
    for bad in (-1.0, np.inf):
        with pytest.raises(ValueError, match="negative or infinite"):
            metrics.pck(predicted, true, state, np.where(sizes == 0, bad, sizes), 0.2)
    with pytest.raises(ValueError, match="one number or"):
        metrics.pck(predicted, true, state, sizes[:3], 0.2)


def test_other_bad_input():
    predicted, true, state = make(0, skeleton=UPPER8)
    with pytest.raises(ValueError, match="UPPER8 has no right_hip"):
        metrics.pdj(predicted, true, state, UPPER8, 0.2)
    with pytest.raises(ValueError, match="UPPER8 has no head_top"):
        metrics.pckh(predicted, true, state, UPPER8)
    with pytest.raises(ValueError, match="COCO17 has 17 joints, but the poses have 8"):
        metrics.pcp(predicted, true, state, COCO17)
    with pytest.raises(ValueError, match="LSP14 has 14 joints"):
        metrics.torso_diameter(true, state, LSP14)
    with pytest.raises(ValueError, match="a normaliser needs true"):
        metrics.head_length(true[0], state[0], LSP14)
    with pytest.raises(ValueError, match="8 names are needed, got 2"):
        metrics.pck(predicted, true, state, 1.0, 0.2, ("a", "b"))
    with pytest.raises(ValueError, match="state must hold"):
        metrics.mpjpe(predicted, true, state.astype(int) - 1, None)
    for threshold in (-0.1, np.nan, np.array([0.1, 0.2])):
        with pytest.raises(ValueError, match="a threshold must be one finite number"):
            metrics.pck(predicted, true, state, 1.0, threshold)
    for root in (-1, 8):
        with pytest.raises(ValueError, match="root must be a joint number from 0 to 7"):
            metrics.mpjpe(predicted, true, state, root)
    for thresholds in ([0.1], [0.2, 0.1], [0.1, 0.1], [0.1, 0.2, 0.3]):
        with pytest.raises(ValueError, match="at least two increasing thresholds"):
            metrics.area_under([0.5, 0.6], thresholds)
    for boxes in ([[0, 0, 0, 5]], [[5, 0, 1, 5]], [[0, 0, np.nan, 5]]):
        with pytest.raises(ValueError, match="box 0 is empty or not finite"):
            metrics.box_size(boxes)
    with pytest.raises(ValueError, match="boxes must be"):
        metrics.box_size([0, 0, 1, 1])


# ------------------------------------------------------------------------------------------------- detectors


def test_average_precision_of_known_orders():
    labels = np.array([1, 0, 1, 0, 0], bool)
    assert metrics.average_precision([5, 4, 3, 2, 1], labels) == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.average_precision([9, 1, 8, 2, 3], labels) == 1
    assert metrics.average_precision([1, 2, 0, 3, 4], labels) == pytest.approx((1 / 4 + 2 / 5) / 2)
    assert metrics.average_precision([7] * 5, labels) == pytest.approx(2 / 5)      # ties are not broken in its favour
    assert np.isnan(metrics.average_precision([1.0, 2], [False, False]))


def test_average_precision_of_random_scores_is_the_share_of_positives():
    rng = np.random.default_rng(0)
    assert metrics.average_precision(rng.random(20_000), rng.random(20_000) < 0.2) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("score, labels, message", [([1.0], [True, False], "one length"), ([np.nan], [True], "is NaN")])
def test_average_precision_refuses(score, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.average_precision(score, labels)
