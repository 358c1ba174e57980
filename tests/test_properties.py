"""Laws that must hold whatever the numbers are: geometry, codecs, metrics and conversions, on drawn examples.

Laws that a module's own tests already check (an inverse matrix, windows and heat maps of a perfect answer, the order of
the images, what an alignment forgives) stand there and are not repeated.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from posebook import geometry, metrics
from posebook.networks import ResidualDensity
from posebook.skeleton import ABSENT, H36M17, LSP14, OCCLUDED, SKELETONS, UPPER8, VISIBLE, convert
from posebook.targets import POSES, TASKS, build_codecs

SIZE = 64
CODECS = {(task, skeleton.name): build_codecs((task,), skeleton, SIZE)[task]
          for task in TASKS for skeleton in (UPPER8, H36M17)}
HUGE = [1e6, -1e6, 3e38, -3e38, np.inf, np.nan]
"""What an absent joint's coordinates may hold: the largest are near the end of float32."""
close = np.testing.assert_allclose
seeds = st.integers(0, 2**32 - 1)
every_skeleton = pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=list(SKELETONS))


def numbers(low, high, *shape):
    """Arrays (*shape) float64 of numbers in low..high."""
    return arrays(np.float64, shape, elements=st.floats(low, high, allow_subnormal=False))


@st.composite
def boxes(draw):
    """A half-open box (4,) that may lie anywhere within a few hundred pixels."""
    x, y = draw(st.floats(-300, 300)), draw(st.floats(-300, 300))
    return np.array([x, y, x + draw(st.floats(1, 500)), y + draw(st.floats(1, 500))], np.float32)


@st.composite
def similarities(draw):
    """One matrix (1, 2, 3) float64 of `geometry.similarity`, from 64 to 48 pixels."""
    scale, angle = draw(st.floats(0.2, 5)), draw(st.floats(-4, 4))
    shift, mirror = draw(numbers(-50, 50, 1, 2)), draw(st.booleans())
    return geometry.similarity(torch.tensor([scale]).double(), torch.tensor([angle]).double(), torch.from_numpy(shift),
                               torch.tensor([mirror]), 64, 48).numpy()


@st.composite
def rotations(draw):
    """(3, 3) proper rotation, from a quaternion."""
    quaternion = draw(numbers(-1, 1, 4))
    w, x, y, z = quaternion / np.linalg.norm(quaternion) if np.linalg.norm(quaternion) > 0.1 else (1, 0, 0, 0)
    return np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                     [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                     [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])


def scene(seed, skeleton, dims, images=6, absent=0.2):
    """Predicted and true poses (images, J, dims), about 100 wide, and states with absent joints among them."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(images, len(skeleton), dims)) * 50 + 200
    predicted = true + rng.normal(size=true.shape) * rng.choice([1.0, 10.0, 60.0], size=(images, 1, 1))
    labelled = (1 - absent) / 2
    state = rng.choice([ABSENT, OCCLUDED, VISIBLE], p=[absent, labelled, labelled], size=true.shape[:2])
    return predicted, true, state.astype(np.uint8)


# ------------------------------------------------------------------------------------------------------ geometry


@given(similarities(), similarities(), numbers(-200, 200, 1, 5, 2))
def test_two_affine_steps_are_one_and_go_back_in_the_other_order(first, second, points):
    square = [np.concatenate([m[0], [[0, 0, 1]]]) for m in (first, second)]
    both = (square[1] @ square[0])[None, :2]
    moved = geometry.transform(second, geometry.transform(first, points))
    close(geometry.transform(both, points), moved, atol=1e-8)
    close(geometry.transform(geometry.invert(first), geometry.transform(geometry.invert(second), moved)), points,
          atol=1e-8)
    close(geometry.invert(geometry.invert(both)), both, atol=1e-8)


@given(boxes(), st.integers(8, 256), st.integers(8, 256))
def test_a_crop_and_back_leaves_points_where_they_were(box, width, height):
    matrix = geometry.crop_matrix(box, width, height)
    edges = box.reshape(2, 2) - 0.5
    inside = edges[0] + (edges[1] - edges[0]) * np.linspace(0, 1, 7)[:, None]
    crop = geometry.transform(matrix, inside)
    assert (crop >= -0.5 - 0.02).all() and (crop <= np.array([width, height]) - 0.5 + 0.02).all()
    close(geometry.transform(geometry.invert(matrix.astype(np.float64)), crop), inside, atol=1e-6)


@given(boxes(), st.floats(1, 3))
def test_a_square_box_is_square_and_holds_the_box(box, enlarge):
    square = geometry.square_box(box, enlarge)
    side, rounding = square[2:] - square[:2], 1e-3
    close(side[0], side[1], atol=rounding)
    close(side[0], enlarge * (box[2:] - box[:2]).max(), rtol=1e-5, atol=rounding)
    assert (square[:2] <= box[:2] + rounding).all() and (square[2:] >= box[2:] - rounding).all()


@every_skeleton
@given(data=st.data())
def test_a_mirror_twice_is_no_mirror_and_once_keeps_every_bone(skeleton, data):
    pose = data.draw(numbers(-2000, 2000, 1, len(skeleton), 3))
    once = geometry.mirror3d(pose, skeleton)
    assert (geometry.mirror3d(once, skeleton) == pose).all()
    lengths = [np.linalg.norm(geometry.to_parent_relative(p, skeleton), axis=-1) for p in (once, pose)]
    close(lengths[0], lengths[1][:, skeleton.mirror], atol=1e-9)


@given(seeds, rotations(), st.floats(0.05, 20), numbers(-3000, 3000, 3))
def test_procrustes_does_not_see_how_the_prediction_is_turned_scaled_or_moved(seed, turn, scale, shift):
    predicted, true, _ = scene(seed, H36M17, 3)
    aligned = geometry.procrustes(predicted, true)
    close(geometry.procrustes(scale * predicted @ turn.T + shift, true), aligned, atol=1e-6)
    # Where the truth goes, the aligned prediction follows.
    close(geometry.procrustes(predicted, scale * true @ turn.T + shift), scale * aligned @ turn.T + shift, atol=1e-5)
    close(geometry.procrustes(aligned, true), aligned, atol=1e-6)
    assert (((aligned - true) ** 2).sum(axis=(1, 2)) <= ((predicted - true) ** 2).sum(axis=(1, 2)) + 1e-6).all()


@given(numbers(-1000, 1000, 1, 6, 2), numbers(500, 8000, 1, 6, 1), st.floats(0.1, 10), similarities(),
       st.floats(50, 2000), st.floats(50, 2000))
def test_a_projection_sees_rays_and_a_crop_moves_its_pixels(across, depth, further, matrix, fx, fy):
    points = np.concatenate([across, depth], axis=-1)
    camera = np.array([[fx, 0, 31.5], [0, fy, 23.5], [0, 0, 1]])
    pixels = geometry.project(points, camera)
    close(geometry.project(points * further, camera), pixels, rtol=1e-9, atol=1e-9)
    lifted = np.concatenate([(pixels - camera[:2, 2]) / [fx, fy] * depth, depth], axis=-1)
    close(lifted, points, atol=1e-6)
    close(geometry.project(points, geometry.crop_camera(camera, matrix[0])), geometry.transform(matrix, pixels),
          rtol=1e-9, atol=1e-6)


# -------------------------------------------------------------------------------------------------------- codecs


def labels(rng, task, skeleton, absent=0.0):
    """Joints (3, J, 2 or 3) float32 inside the picture, or within a metre of the camera's axis; and their states."""
    joints = rng.uniform(-1000, 1000, (3, len(skeleton), 3)) if task == "pose3d" else \
        rng.uniform(0, SIZE - 1, (3, len(skeleton), 2))
    state = np.where(rng.uniform(size=(3, len(skeleton))) < absent, ABSENT, rng.choice([OCCLUDED, VISIBLE]))
    return torch.from_numpy(joints.astype(np.float32)), torch.from_numpy(state)


def answer(codec, task, target, rng):
    """The network's answer (N, outputs) that says exactly `target`."""
    if task == "rle":
        return torch.cat([target, torch.from_numpy(rng.normal(size=target.shape)).float()], dim=1)
    if task in ("joints", "parts"):
        return (target - 0.5) * 60
    if task == "softargmax":                                                # a Gaussian's logarithm about every joint
        cells = torch.arange(codec.side).float()
        away = codec.to_cells(target.unflatten(1, (-1, 2)) * codec.size)[..., None] - cells       # (N, J, 2, side)
        return -(away[:, :, 1, :, None] ** 2 + away[:, :, 0, None, :] ** 2).flatten(1)
    return target


TOLERANCE = {"regression": 1e-4, "rle": 1e-4, "heatmaps": 0.5, "softargmax": 1}
"""In cells or, where there are none, in pixels. A soft mean loses at the border the part of its peak beyond it."""


@pytest.mark.parametrize("task", POSES)
@given(seed=seeds)
def test_a_right_answer_decodes_to_the_pose_it_was_made_of(task, seed):
    rng, codec = np.random.default_rng(seed), CODECS[task, "UPPER8"]
    joints, state = labels(rng, task, UPPER8)
    target, mask = codec.encode(joints, state)
    assert mask.all()
    found = codec.decode(answer(codec, task, target, rng))
    assert (found - joints).abs().max() <= TOLERANCE[task] * getattr(codec, "cell", 1) + 1e-3
    if task == "softargmax":                                           # away from the border: far finer than a cell
        inner = ((joints > 3 * codec.cell) & (joints < SIZE - 1 - 3 * codec.cell)).all(dim=-1)
        assert not inner.any() or (found - joints)[inner].abs().max() <= 0.02 * codec.cell
    if task == "rle":
        sizes = codec.sizes(answer(codec, task, target, rng))
        assert (sizes > 0).all() and (sizes < SIZE).all()


@given(seeds)
def test_one_high_cell_is_a_soft_argmax_s_answer(seed):
    rng, codec = np.random.default_rng(seed), CODECS["softargmax", "UPPER8"]
    cells = torch.from_numpy(rng.integers(0, codec.side, (3, 8, 2)))
    output = torch.zeros(3, 8, codec.side, codec.side)
    batch, joint = torch.meshgrid(torch.arange(3), torch.arange(8), indexing="ij")
    output[batch, joint, cells[..., 1], cells[..., 0]] = 60
    close(codec.decode(output.flatten(1)), codec.to_pixels(cells.float()), atol=1e-3)


@given(seeds, numbers(-3000, 3000, 3))
def test_the_3d_target_forgets_where_the_person_stands_and_nothing_else(seed, shift):
    codec = CODECS["pose3d", "H36M17"]
    joints, state = labels(np.random.default_rng(seed), "pose3d", H36M17)
    target, mask = codec.encode(joints, state)
    close(codec.decode(target), geometry.root_relative(joints, H36M17), atol=0.01)
    close(codec.encode(joints + torch.from_numpy(shift).float(), state)[0], target, atol=1e-5)
    assert mask.unflatten(1, (-1, 3)).all(dim=-1).sum(dim=1).tolist() == [len(H36M17) - 1] * 3


@given(seeds)
def test_the_middle_of_a_limb_lies_near_the_windows_that_hold_it(seed):
    codec = CODECS["parts", "UPPER8"]
    joints, state = labels(np.random.default_rng(seed), "parts", UPPER8)
    target, _ = codec.encode(joints, state)
    held = target.unflatten(1, (len(codec.names), -1)).any(dim=-1)
    ends = torch.einsum("elj,njd->enld", torch.from_numpy(UPPER8.limb_weights), joints)
    found, low, high = codec.decode((target - 0.5) * 60), ends.amin(dim=0), ends.amax(dim=0)
    window = codec.grid.window
    assert ((found >= low - window / 2 - 1e-3) & (found <= high + window / 2 + 1e-3)).all(dim=-1)[held].all()


DENSITY = ResidualDensity(width=8)


@pytest.mark.parametrize("task", TASKS)
@given(skeleton=st.sampled_from([UPPER8, H36M17]), seed=seeds, junk=st.sampled_from(HUGE))
def test_an_absent_joint_changes_neither_loss_nor_gradient(task, skeleton, seed, junk):
    rng, codec = np.random.default_rng(seed), CODECS[task, skeleton.name]
    joints, state = labels(rng, task, skeleton, absent=0.4)
    start = torch.from_numpy(rng.normal(size=(3, codec.outputs))).float()
    density = (DENSITY,) if task == "rle" else ()
    results = []
    for coordinates in (joints, torch.where((state == ABSENT)[..., None], torch.tensor(junk).float(), joints)):
        output = start.clone().requires_grad_()
        loss = codec.loss(output, *codec.encode(coordinates, state), *density)
        learned = [output, *(density[0].parameters() if density else ())]
        results.append([loss, *torch.autograd.grad(loss, learned)])
    assert all(torch.isfinite(one).all() and torch.equal(one, other) for one, other in zip(*results, strict=True))


# ------------------------------------------------------------------------------------------------------- metrics


def fractions(predicted, true, state, skeleton, threshold, box):
    """Every metric that is a share of right answers, by name; `box`: (N,) lengths."""
    found = {"pck": metrics.pck(predicted, true, state, box, threshold),
             "strict": metrics.pcp(predicted, true, state, skeleton, threshold),
             "loose": metrics.pcp(predicted, true, state, skeleton, threshold, strict=False),
             "pckh": metrics.pckh(predicted, true, state, skeleton, threshold),
             "pdj": metrics.pdj(predicted, true, state, skeleton, threshold)}
    if true.shape[2] == 3:
        found["pck3d"] = metrics.pck3d(predicted, true, state, skeleton.root, 150 * threshold)
    return found


def distances(predicted, true, state, skeleton):
    return {"mpjpe": metrics.mpjpe(predicted, true, state, skeleton.root),
            "where they are": metrics.mpjpe(predicted, true, state, None),
            "pa": metrics.pa_mpjpe(predicted, true, state)}


BOTH = pytest.mark.parametrize("skeleton, dims", [(LSP14, 2), (H36M17, 3)], ids=["2D", "3D"])


@BOTH
@given(seed=seeds, one=st.floats(0, 2), other=st.floats(0, 2))
def test_shares_are_shares_and_rise_with_the_threshold(skeleton, dims, seed, one, other):
    predicted, true, state = scene(seed, skeleton, dims)
    low, high = (fractions(predicted, true, state, skeleton, t, np.full(6, 90.0)) for t in sorted((one, other)))
    for name in low:
        for before, after in ((low[name].per_item, high[name].per_item), (low[name].per_image, high[name].per_image)):
            counted = ~np.isnan(before)
            assert (counted == ~np.isnan(after)).all()
            assert (before[counted] >= 0).all() and (after[counted] <= 1).all()
            assert (before[counted] <= after[counted]).all(), name
    for score in distances(predicted, true, state, skeleton).values():
        assert (score.per_item[score.counts > 0] >= 0).all()
    assert dims == 2 or 0 <= metrics.auc3d(predicted, true, np.maximum(state, 1), skeleton.root) <= 1


@BOTH
@given(data=st.data(), seed=seeds, power=st.integers(-4, 6))
def test_moving_and_scaling_prediction_truth_and_reference_together(skeleton, dims, data, seed, power):
    # A power of two and whole shifts of whole coordinates round nothing, so that no joint crosses the threshold.
    scale, shift = 2.0 ** power, data.draw(arrays(np.int64, dims, elements=st.integers(-500, 500)))
    predicted, true, state = scene(seed, skeleton, dims)
    predicted, true, box = predicted.round(), true.round(), np.random.default_rng(seed).integers(50, 200, 6)
    moved = scale * (predicted + shift), scale * (true + shift), state, skeleton
    after = fractions(*moved, 0.3, scale * box)
    for name, score in fractions(predicted, true, state, skeleton, 0.3, box).items():
        if name != "pck3d":                                       # its threshold is in millimetres and does not scale
            np.testing.assert_array_equal(score.per_item, after[name].per_item)
            np.testing.assert_array_equal(score.per_image, after[name].per_image)
    for name, score in distances(predicted, true, state, skeleton).items():
        close(distances(*moved)[name].per_item, scale * score.per_item, rtol=1e-7, atol=1e-7 * scale)


@BOTH
@given(seed=seeds)
def test_mirrored_poses_score_the_same_with_left_and_right_exchanged(skeleton, dims, seed):
    """PDJ is not among them: its torso runs from the left shoulder to the right hip, in the mirror as well."""
    predicted, true, state = scene(seed, skeleton, dims)
    flip, box = np.r_[-1, np.ones(dims - 1)], np.random.default_rng(seed).uniform(50, 200, 6)
    mirrored = predicted[:, skeleton.mirror] * flip, true[:, skeleton.mirror] * flip, state[:, skeleton.mirror]
    limbs = [skeleton.limb_names.index(swap_sides(name)) for name in skeleton.limb_names]
    before, after = (fractions(*poses, skeleton, 0.3, box) | distances(*poses, skeleton)
                     for poses in ((predicted, true, state), mirrored))
    del before["pdj"]
    for name, score in before.items():
        order = limbs if name in ("strict", "loose") else skeleton.mirror
        close(after[name].per_item[order], score.per_item, atol=1e-7)
        close(after[name].per_image, score.per_image, atol=1e-7)


def swap_sides(name):
    if name.startswith("left_"):
        return name.replace("left_", "right_", 1)
    return name.replace("right_", "left_", 1)


@BOTH
@given(seed=seeds, junk=st.sampled_from([1e6, -1e30, 1e100]))
def test_a_huge_guess_of_an_absent_joint_counts_nowhere(skeleton, dims, seed, junk):
    predicted, true, state = scene(seed, skeleton, dims, absent=0.4)
    wild = np.where((state == ABSENT)[..., None], junk, predicted), np.where((state == ABSENT)[..., None], -junk, true)
    box = np.full(6, 90.0)
    after = fractions(*wild, state, skeleton, 0.3, box) | distances(*wild, state, skeleton)
    for name, score in (fractions(predicted, true, state, skeleton, 0.3, box)
                        | distances(predicted, true, state, skeleton)).items():
        np.testing.assert_array_equal(score.per_item, after[name].per_item)
        np.testing.assert_array_equal(score.per_image, after[name].per_image)


@given(seeds)
def test_no_alignment_of_the_roots_beats_procrustes_in_squares(seed):
    """In mean squared distance, which Procrustes makes as small as can be. Of the mean distance it need not be true:
    see the next test."""
    predicted, true, _ = scene(seed, H36M17, 3)
    rooted = geometry.root_relative(predicted, H36M17) - geometry.root_relative(true, H36M17)
    aligned = geometry.procrustes(predicted, true) - true
    assert ((aligned ** 2).sum(axis=(1, 2)) <= (rooted ** 2).sum(axis=(1, 2)) + 1e-6).all()


def test_one_joint_far_off_makes_pa_mpjpe_the_larger_one():
    _, true, _ = scene(0, H36M17, 3, images=1)
    state, predicted = np.full((1, 17), VISIBLE), true.copy()
    predicted[0, H36M17.index("left_wrist")] += 400
    assert metrics.pa_mpjpe(predicted, true, state).mean > metrics.mpjpe(predicted, true, state, 0).mean + 10


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30))
def test_average_precision_is_a_share_and_reads_only_the_order(answers):
    score, positive = np.array([a for a, _ in answers]), np.array([p for _, p in answers])
    found = metrics.average_precision(score, positive)
    if not positive.any():
        assert np.isnan(found)
        return
    assert positive.mean() / len(answers) <= found <= 1
    assert metrics.average_precision(np.exp(score), positive) == pytest.approx(found)
    assert metrics.average_precision(score[::-1], positive[::-1]) == pytest.approx(found)


# --------------------------------------------------------------------------------------------------- conversions


@every_skeleton
@given(target=st.sampled_from(list(SKELETONS.values())), seed=seeds, junk=st.sampled_from([1e6, -1e30, np.nan]))
def test_a_conversion_keeps_what_is_there_and_makes_nothing_of_what_is_absent(skeleton, target, seed, junk):
    source = skeleton
    _, joints, state = scene(seed, source, 2, images=3, absent=0.4)
    joints = np.where((state == ABSENT)[..., None], junk, joints).astype(np.float32)
    out, out_state = convert(joints, state, source, target, allow_absent=True)
    assert np.isfinite(out).all() and (out[out_state == ABSENT] == 0).all()
    for k, name in enumerate(target.joints):
        there = out_state[:, k] != ABSENT
        if name in source.joints:
            j = source.index(name)
            assert (out_state[:, k] == state[:, j]).all() and (out[there, k] == joints[there, j]).all()
        elif there.any():                               # made of others: it lies among the joints that are there
            known = np.where((state == ABSENT)[..., None], np.nan, joints)[there]
            assert (out[there, k] >= np.nanmin(known, axis=1) - 1e-3).all()
            assert (out[there, k] <= np.nanmax(known, axis=1) + 1e-3).all()
