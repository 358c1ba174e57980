"""Crops, affine matrices, warps, the camera and Procrustes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posebook import geometry
from posebook.skeleton import ABSENT, H36M17, LSP14, VISIBLE


def matrices(seed, count=5):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, 2, 3)) + 3 * np.eye(2, 3)).astype(np.float32)


@pytest.mark.parametrize("box", [(1, 2, 3), (0, 0, np.nan, 5), (0, 0, np.inf, 5), (0, 0, 1, 1, 1)])
def test_a_box_must_be_four_finite_numbers(box):
    with pytest.raises(ValueError, match="four finite numbers"):
        geometry.check_box(np.array(box), 10, 10)


@pytest.mark.parametrize("box", [(3, 3, 3, 9), (3, 3, 9, 3), (9, 3, 3, 9)])
def test_a_box_must_have_an_area(box):
    with pytest.raises(ValueError, match="no area"):
        geometry.check_box(np.array(box), 10, 10)


@pytest.mark.parametrize("box", [(20, 0, 25, 5), (0, 10, 5, 12), (-5, 0, 0, 5), (0, -5, 5, 0)])
def test_a_box_must_touch_the_image(box):
    with pytest.raises(ValueError, match=r"outside the image of 20 x 10"):
        geometry.check_box(np.array(box), 20, 10)


def test_a_box_that_reaches_over_the_border_is_good():
    assert geometry.check_box([-5, -5, 1, 1], 20, 10).dtype == np.float32
    assert geometry.check_box([19, 9, 30, 30], 20, 10).tolist() == [19, 9, 30, 30]


def test_joints_box_is_tight_half_open_and_ignores_absent_joints():
    joints = np.array([[3, 4], [10, 2], [500, 500]], np.float32)
    assert geometry.joints_box(joints, np.array([VISIBLE, VISIBLE, ABSENT])).tolist() == [3, 2, 11, 5]


@pytest.mark.parametrize("state", [[2, 0, 0], [0, 0, 0], [2, 0, 2]])
def test_joints_box_needs_two_joints_at_two_places(state):
    with pytest.raises(ValueError, match="two labelled joints"):
        geometry.joints_box(np.array([[3, 4], [10, 2], [3, 4]]), np.array(state))


def test_square_box_keeps_the_centre_and_enlarges_the_longer_side():
    assert geometry.square_box(np.array([10, 20, 20, 60]), 1.5).tolist() == [-15, 10, 45, 70]


def test_crop_matrix_meets_the_edges_of_the_box():
    box, width, height = (10, 20, 30, 80), 40, 30
    matrix = geometry.crop_matrix(box, width, height)
    edges = np.array([[10 - 0.5, 20 - 0.5], [30 - 0.5, 80 - 0.5]], np.float32)
    np.testing.assert_allclose(geometry.transform(matrix, edges), [[-0.5, -0.5], [39.5, 29.5]], atol=1e-5)


def test_crop_matrix_of_an_unscaled_crop_only_shifts():
    np.testing.assert_array_equal(geometry.crop_matrix((7, 3, 17, 13), 10), [[1, 0, -7], [0, 1, -3]])


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@given(seed=st.integers(0, 1000))
def test_invert_undoes_a_transform(kind, seed):
    first = matrices(seed)
    points = np.random.default_rng(seed).uniform(-50, 50, (5, 4, 2)).astype(np.float32)
    if kind == "torch":
        first, points = map(torch.from_numpy, (first, points))
    moved = geometry.transform(first, points)
    assert type(geometry.invert(first)) is type(moved) is type(first)
    determinant = np.abs(np.linalg.det(np.asarray(first)[:, :, :2]))
    good = determinant > 0.5                                # a nearly flat matrix has no useful inverse
    back = geometry.transform(geometry.invert(first[good]), moved[good])
    np.testing.assert_allclose(back, points[good], rtol=1e-2, atol=5e-2)


def test_transform_against_the_formula_written_out():
    matrix = np.array([[2, 3, 5], [7, 11, 13]], np.float32)
    assert geometry.transform(matrix, np.array([[1, 10]], np.float32)).tolist() == [[2 + 30 + 5, 7 + 110 + 13]]


def test_similarity_turns_x_towards_y_and_mirrors_first():
    one, none = torch.ones(1), torch.zeros(1, 2)
    right = torch.tensor([[[10.0, 4.5]]])                   # right of the centre (4.5, 4.5) of a 10 px image
    quarter = geometry.similarity(one, one * torch.pi / 2, none, torch.tensor([False]), 10, 10)
    torch.testing.assert_close(geometry.transform(quarter, right), torch.tensor([[[4.5, 10.0]]]))
    mirrored = geometry.similarity(one, one * torch.pi / 2, none, torch.tensor([True]), 10, 10)
    torch.testing.assert_close(geometry.transform(mirrored, right), torch.tensor([[[4.5, -1.0]]]))
    moved = geometry.similarity(2 * one, 0 * one, torch.tensor([[1.0, -2.0]]), torch.tensor([False]), 10, 20)
    torch.testing.assert_close(geometry.transform(moved, right), torch.tensor([[[9.5 + 1 + 11, 9.5 - 2]]]))


def test_a_similarity_that_does_nothing_is_the_central_crop():
    one = torch.ones(2)
    matrix = geometry.similarity(one, 0 * one, torch.zeros(2, 2), torch.zeros(2, dtype=torch.bool), 80, 64)
    torch.testing.assert_close(matrix, torch.tensor([[[1.0, 0, -8], [0, 1, -8]]]).expand(2, 2, 3), rtol=0, atol=0)


@pytest.mark.parametrize("size", [16, 33, 64, 80])
def test_warp_with_the_identity_gives_the_same_picture(size):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, size, size)).astype(np.float32))
    same = geometry.warp(images, torch.eye(2, 3).expand(2, 2, 3), size)
    torch.testing.assert_close(same, images, rtol=0, atol=255 * 2e-5)   # the grid's own rounding, no mixing
    assert torch.equal(same.round(), images)


def test_warp_moves_pixels_as_transform_moves_points_and_repeats_the_border():
    images = torch.zeros(1, 1, 6, 8)
    images[0, 0, 2, 3] = 1.0
    images[0, 0, :, 0] = 7.0
    shifted = geometry.warp(images, torch.tensor([[[1.0, 0, 2], [0, 1, 1]]]), 8)
    assert shifted[0, 0, 3, 5] == pytest.approx(1, abs=1e-5)
    assert shifted[0, 0, 4, :3].tolist() == pytest.approx([7, 7, 7], abs=1e-4)


def test_project_is_the_pinhole_camera():
    camera = np.array([[1000, 0, 64], [0, 500, 32], [0, 0, 1]], np.float32)
    points = np.array([[[100, 200, 2000], [0, 0, 10]]], np.float32)
    expected = [[[1000 * 100 / 2000 + 64, 500 * 200 / 2000 + 32], [64, 32]]]
    np.testing.assert_allclose(geometry.project(points, camera[None]), expected)
    np.testing.assert_allclose(geometry.project(torch.from_numpy(points), torch.from_numpy(camera)), expected)


def slow_procrustes_2d(predicted, true):
    """The best similarity of the plane in closed form: one complex factor, which cannot be a mirror."""
    p, t = predicted[:, 0] + 1j * predicted[:, 1], true[:, 0] + 1j * true[:, 1]
    p0, t0 = p - p.mean(), t - t.mean()
    found = (np.conj(p0) * t0).sum() / (np.abs(p0) ** 2).sum() * p0 + t.mean()
    return np.stack([found.real, found.imag], axis=1)


def test_procrustes_in_the_plane_against_the_closed_form():
    rng = np.random.default_rng(0)
    predicted, true = rng.normal(size=(20, 6, 2)), rng.normal(size=(20, 6, 2))
    expected = np.stack([slow_procrustes_2d(p, t) for p, t in zip(predicted, true, strict=True)])
    np.testing.assert_allclose(geometry.procrustes(predicted, true), expected, atol=1e-10)


def test_procrustes_in_space_against_a_search_by_descent():
    from scipy.optimize import minimize
    from scipy.spatial.transform import Rotation
    rng = np.random.default_rng(1)
    for _ in range(3):
        predicted, true = rng.normal(size=(7, 3)), rng.normal(size=(7, 3))

        def cost(x, predicted=predicted, true=true):
            moved = np.exp(x[3]) * Rotation.from_rotvec(x[:3]).apply(predicted) + x[4:]
            return ((moved - true) ** 2).sum()

        best = min(minimize(cost, np.r_[rng.normal(size=3), np.zeros(4)]).fun for _ in range(6))
        ours = ((geometry.procrustes(predicted[None], true[None])[0] - true) ** 2).sum()
        assert ours == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_procrustes_undoes_a_similarity_but_never_a_reflection(dims):
    rng = np.random.default_rng(2)
    true = rng.normal(size=(8, 9, dims))
    turn = np.linalg.qr(rng.normal(size=(8, dims, dims)))[0]
    turn[:, :, 0] *= np.sign(np.linalg.det(turn))[:, None]
    moved = 3.7 * true @ turn.swapaxes(1, 2) + rng.normal(size=(8, 1, dims))
    np.testing.assert_allclose(geometry.procrustes(moved, true), true, atol=1e-9)
    mirrored = true * np.r_[-1, np.ones(dims - 1)]
    aligned = geometry.procrustes(mirrored, true)
    assert np.linalg.norm(aligned - true, axis=-1).mean() > 0.1
    # The map from prediction to result keeps orientation: its determinant is positive.
    for before, after in zip(mirrored, aligned, strict=True):
        linear = np.linalg.lstsq(before - before.mean(0), after - after.mean(0), rcond=None)[0]
        assert np.linalg.det(linear) > 0


def test_procrustes_of_a_pose_that_is_one_point_moves_it_to_the_middle():
    true = np.random.default_rng(3).normal(size=(2, 5, 3))
    np.testing.assert_allclose(geometry.procrustes(np.ones((2, 5, 3)), true),
                               np.broadcast_to(true.mean(1, keepdims=True), true.shape), atol=1e-12)


# ------------------------------------------------------------------------------------------------ poses in 3D

POSES = np.random.default_rng(4).normal(0, 300, (6, 17, 3)) + [0, 0, 4000]
CAMERA = np.array([[230.0, 0, 64], [0, 230, 60], [0, 0, 1]])


def both_kinds(*arrays):
    return arrays, tuple(torch.from_numpy(a) for a in arrays)


def test_the_jacobian_is_the_slope_of_the_projection():
    for arrays in both_kinds(POSES, CAMERA):
        slope = np.asarray(geometry.projection_jacobian(*arrays))
        for axis in range(3):
            step = np.zeros(3)
            step[axis] = 1e-3
            expected = (geometry.project(POSES + step, CAMERA) - geometry.project(POSES - step, CAMERA)) / 2e-3
            np.testing.assert_allclose(slope[..., axis], expected, rtol=1e-6, atol=1e-8)
    along = np.einsum("njik,njk->nji", slope, POSES)              # a step along the ray from the camera moves nothing
    np.testing.assert_allclose(along, 0, atol=1e-9)


@pytest.mark.parametrize("focal", [0.0, np.nan, np.inf])
def test_a_camera_without_a_focal_length_is_refused(focal):
    bad = CAMERA.copy()
    bad[1, 1] = focal
    for arrays in both_kinds(POSES, bad):
        for function in (geometry.project, geometry.projection_jacobian):
            with pytest.raises(ValueError, match="focal length is zero or not finite"):
                function(*arrays)
    with pytest.raises(ValueError, match="behind the camera"):
        geometry.project(-POSES, CAMERA)


def test_the_camera_of_a_crop_sees_what_the_crop_shows():
    box = np.array([20, 30, 60, 70], np.float32)
    matrix = geometry.crop_matrix(box, 80).astype(np.float64)
    crop = geometry.crop_camera(CAMERA, matrix)
    assert crop[0, 0] == pytest.approx(CAMERA[0, 0] * 2)                   # twice as large: twice the focal length
    expected = geometry.transform(matrix, geometry.project(POSES, CAMERA))
    np.testing.assert_allclose(geometry.project(POSES, crop), expected, atol=1e-9)
    torch.testing.assert_close(geometry.crop_camera(torch.from_numpy(CAMERA), torch.from_numpy(matrix)),
                               torch.from_numpy(crop))
    many = geometry.crop_camera(np.broadcast_to(CAMERA, (6, 3, 3)), np.broadcast_to(matrix, (6, 2, 3)))
    assert many.shape == (6, 3, 3) and np.array_equal(many[3], crop)


def test_a_turned_mirrored_crop_is_the_picture_of_the_turned_mirrored_pose():
    """Up to a shift in the picture: both projections differ by one vector a pose, whatever the depths."""
    scale, angle = torch.tensor([0.7, 1.0, 1.3] * 2).double(), torch.linspace(-2, 2, 6).double()
    mirror = torch.tensor([True, False] * 3)
    shift = torch.zeros(6, 2).double()
    matrix = geometry.similarity(scale, angle, shift, mirror, 80, 64)
    poses = torch.from_numpy(POSES)
    turned = geometry.turn_with_crop(matrix, poses)
    np.testing.assert_allclose(turned[..., 2], POSES[..., 2])
    crop = torch.from_numpy(CAMERA).repeat(6, 1, 1)
    crop[:, :2, :2] *= scale[:, None, None]
    seen = geometry.project(turned, crop)
    moved = geometry.transform(matrix, geometry.project(poses, torch.from_numpy(CAMERA)))
    away = seen - moved
    assert (away - away[:, :1]).abs().max() < 1e-9


@pytest.mark.parametrize("skeleton", [H36M17, LSP14], ids=lambda s: s.name)
def test_parent_relative_and_back_is_exact(skeleton):
    poses = POSES[:, :len(skeleton)]
    for (array,) in both_kinds(poses):
        offsets = geometry.to_parent_relative(array, skeleton)
        assert np.abs(np.asarray(offsets)[:, skeleton.root]).max() == 0
        back = geometry.from_parent_relative(offsets, skeleton)
        np.testing.assert_allclose(back, geometry.root_relative(array, skeleton), atol=1e-9)
    by_hand = poses[:, skeleton.index("left_wrist")] - poses[:, skeleton.index("left_elbow")]
    np.testing.assert_array_equal(np.asarray(offsets)[:, skeleton.index("left_wrist")], by_hand)


def test_a_mirror_in_space_is_its_own_inverse_and_swaps_sides():
    for (array,) in both_kinds(POSES):
        once = geometry.mirror3d(array, H36M17)
        np.testing.assert_allclose(geometry.mirror3d(once, H36M17), POSES)
        left, right = H36M17.index("left_wrist"), H36M17.index("right_wrist")
        np.testing.assert_allclose(np.asarray(once)[:, left], POSES[:, right] * [-1, 1, 1])


def test_procrustes_of_tensors_in_blocks_is_that_of_arrays_one_by_one():
    rng = np.random.default_rng(5)
    predicted, true = rng.normal(size=(5000, 4, 3)), rng.normal(size=(5000, 4, 3))        # more than one block
    found = geometry.procrustes(torch.from_numpy(predicted), torch.from_numpy(true))
    assert isinstance(found, torch.Tensor) and found.dtype == torch.float64
    for n in (0, 4095, 4096, 4999):
        np.testing.assert_allclose(geometry.procrustes(predicted[n:n + 1], true[n:n + 1])[0], found[n], atol=1e-10)
    assert geometry.procrustes(predicted[:0], true[:0]).shape == (0, 4, 3)
    broken = predicted.copy()
    broken[7, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        geometry.procrustes(broken, true)
    with pytest.raises(ValueError, match="of one shape"):
        geometry.procrustes(predicted, true[:, :3])


def test_a_transposed_or_broken_camera_and_points_that_are_no_numbers_are_refused():
    for arrays in both_kinds(POSES, CAMERA.T.copy()):
        with pytest.raises(ValueError, match="last row must be 0, 0, 1; was the matrix transposed"):
            geometry.project(*arrays)
    nowhere, broken = POSES.copy(), CAMERA.copy()
    nowhere[0, 0, 2] = np.nan
    broken[0, 2] = np.nan
    with pytest.raises(ValueError, match="or is not a number"):
        geometry.project(nowhere, CAMERA)
    with pytest.raises(ValueError, match="zero or not finite"):
        geometry.project(POSES, broken)


def test_the_root_lies_at_zero_whatever_its_own_offset_says():
    offsets = geometry.to_parent_relative(POSES, H36M17)
    offsets[:, H36M17.root] = np.nan
    for (array,) in both_kinds(offsets):
        back = np.asarray(geometry.from_parent_relative(array, H36M17))
        np.testing.assert_allclose(back, geometry.root_relative(POSES, H36M17), atol=1e-9)
