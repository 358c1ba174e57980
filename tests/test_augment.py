"""One matrix moves pixels and joints: shown with painted dots that are looked for afterwards."""

import numpy as np
import pytest
import torch
from samples import centroid, painted, people, pose

from posebook import geometry
from posebook.augment import BOOK, NONE, Augmentation, augment, centre, colour_basis, draw_matrices
from posebook.datasets import crop_image, crop_poses
from posebook.skeleton import ABSENT, LSP14, OCCLUDED, VISIBLE

STORED, SIZE, TOLERANCE = 80, 64, 0.5
EVERYTHING = Augmentation(shift=0.06, angle=40, scale=1.3, mirror=0.5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def dots(repeats=6):
    """One picture for each joint, with a dot at that joint only: images, joints, state, and whose dot it is."""
    joint = pose(LSP14, (39.3, 40.6), 22)
    images = np.stack([painted(joint[[k]], STORED, STORED, 1.8).transpose(2, 0, 1) for k in range(14)] * repeats)
    state = np.tile(np.arange(14) % 2 + OCCLUDED, (len(images), 1)).astype(np.uint8)
    return (torch.from_numpy(images), torch.from_numpy(joint).expand(len(images), -1, -1), torch.from_numpy(state),
            np.tile(np.arange(14), repeats))


def test_the_dots_lie_where_the_painter_says():
    images, joints, _, owner = dots(1)
    for image, k in zip(images.numpy(), owner, strict=True):
        np.testing.assert_allclose(centroid(image[0]), joints[0, k], atol=0.02)


@pytest.mark.parametrize("config", [
    Augmentation(shift=0.1), Augmentation(angle=60), Augmentation(scale=1.4), Augmentation(mirror=1.0), EVERYTHING],
    ids=["shift", "rotation", "scale", "mirror", "all"])
@pytest.mark.parametrize("size", [SIZE, 48, STORED])
def test_dots_and_joints_move_together(config, size):
    images, joints, state, owner = dots()
    pixels, moved, new_state = augment(images, joints, state, LSP14, config, size, generator())
    _, mirrored = draw_matrices(len(images), config, STORED, size, generator())
    changed = checked = 0
    for n, k in enumerate(owner):
        name = LSP14.mirror[k] if mirrored[n] else k       # a mirrored left elbow is a right elbow
        where = moved[n, name].numpy()
        assert new_state[n, name] == state[n, k]
        if (where < 7).any() or (where > size - 8).any():   # the dot itself is cut off by the border
            continue
        found = centroid(pixels[n, 0].numpy())
        assert np.abs(found - where).max() < TOLERANCE / 5, f"joint {LSP14.joints[k]} of picture {n}"
        changed += np.abs(where - joints[n, k].numpy() + (STORED - size) / 2).max() > 1
        checked += 1
    assert checked > len(owner) / 3 and changed > checked / 3, "the test must see dots, and see them move"
    if config is EVERYTHING:
        assert 0.2 < mirrored.float().mean() < 0.8


def test_a_mirror_without_the_swap_of_names_would_be_noticed():
    images, joints, state, owner = dots(1)
    pixels, moved, _ = augment(images, joints, state, LSP14, Augmentation(mirror=1.0), SIZE, generator())
    left = LSP14.index("left_wrist")
    found = centroid(pixels[list(owner).index(left), 0].numpy())
    assert np.abs(found - moved[left, left].numpy()).max() > 10
    assert np.abs(found - moved[left, LSP14.index("right_wrist")].numpy()).max() < 0.1


def test_colour_noise_changes_colours_and_moves_nothing():
    images, joints, state, owner = dots(1)
    plain, before, _ = augment(images, joints, state, LSP14, NONE, SIZE, generator())
    noisy, after, _ = augment(images, joints, state, LSP14, Augmentation(colour=0.5), SIZE, generator(),
                              torch.eye(3) * 0.3)
    assert torch.equal(before, after)
    shift = noisy - plain
    torch.testing.assert_close(shift, shift[:, :, :1, :1].expand_as(shift), rtol=0, atol=1e-6)   # one colour a picture
    assert shift[:, :, 0, 0].std() > 0.05
    for n, k in enumerate(owner):
        where = before[n, k].numpy()
        if (where > 7).all() and (where < SIZE - 8).all():
            level = noisy[n, 0] - noisy[n, 0, 0, 0]
            assert np.abs(centroid(level.numpy()) - where).max() < 0.1


def test_colour_noise_needs_the_basis():
    images, joints, state, _ = dots(1)
    with pytest.raises(ValueError, match="colour_basis"):
        augment(images, joints, state, LSP14, BOOK, SIZE, generator())


def test_colour_basis_is_the_eigenvectors_times_eigenvalues():
    rng = np.random.default_rng(0)
    images = rng.normal([[128], [128], [128]], [[30], [10], [1]], (40, 3, 400)).clip(0, 255).reshape(40, 3, 20, 20)
    basis = colour_basis(images.astype(np.uint8)).numpy()
    lengths = np.sort(np.linalg.norm(basis, axis=0))
    np.testing.assert_allclose(lengths, np.array([1 + 1 / 12, 100, 900]) / 255 ** 2, rtol=0.1)
    gram = basis.T @ basis
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9)
    assert np.abs(basis[:, -1]).argmax() == 0               # red varies most


@pytest.mark.parametrize("size", [SIZE, STORED])
def test_the_default_does_nothing_but_the_central_crop(size):
    data = people(6, side=STORED)
    images, joints, state = map(torch.from_numpy, (data.images, data.joints, data.state))
    pixels, moved, same = augment(images, joints, state, LSP14, Augmentation(), size, generator())
    expected, start = centre(images, size), (STORED - size) // 2
    assert torch.equal((pixels * 255).round(), (expected * 255).round())
    torch.testing.assert_close(pixels, expected, rtol=0, atol=2e-5)
    assert torch.equal(moved, joints - start) and torch.equal(same, state)
    assert torch.equal((expected * 255).round().byte(), images[:, :, start:start + size, start:start + size])


def test_a_seed_gives_the_same_batch_and_another_seed_another():
    images, joints, state, _ = dots(1)
    basis = torch.eye(3) * 0.1
    one, same, other = (augment(images, joints, state, LSP14, BOOK, SIZE, generator(s), basis) for s in (3, 3, 4))
    for a, b, c in zip(one[:2], same[:2], other[:2], strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(one[2], same[2])
    assert images.dtype == torch.uint8 and one[0].dtype == one[1].dtype == torch.float32


def test_global_randomness_plays_no_part():
    torch.manual_seed(1)
    first = draw_matrices(8, BOOK, STORED, SIZE, generator())[0]
    torch.manual_seed(2)
    assert torch.equal(first, draw_matrices(8, BOOK, STORED, SIZE, generator())[0])


def test_absent_joints_stay_zero_and_swap_with_their_side():
    images, joints, state, _ = dots(1)
    state = torch.full_like(state, VISIBLE)
    state[:, LSP14.index("left_wrist")] = ABSENT
    _, moved, new = augment(images, joints, state, LSP14, EVERYTHING, SIZE, generator())
    _, mirrored = draw_matrices(len(images), EVERYTHING, STORED, SIZE, generator())
    gone = torch.where(mirrored, LSP14.index("right_wrist"), LSP14.index("left_wrist"))
    rows = torch.arange(len(images))
    assert (new[rows, gone] == ABSENT).all() and (moved[rows, gone] == 0).all()
    assert ((new == ABSENT).sum(dim=1) == 1).all()


def test_draws_stay_in_their_bounds_and_reach_them():
    config = Augmentation(shift=0.1, angle=30, scale=1.5, mirror=0.25)
    matrices, mirrored = draw_matrices(20_000, config, STORED, SIZE, generator())
    scale = torch.linalg.det(matrices[:, :, :2]).abs().sqrt()
    assert 1 / 1.5 <= scale.min() < 0.68 and 1.48 < scale.max() <= 1.5 + 1e-5
    assert torch.log(scale).mean().abs() < 0.01             # as often half as double
    middle = geometry.transform(matrices, torch.full((1, 1, 2), (STORED - 1) / 2))[:, 0] - (SIZE - 1) / 2
    assert 6.3 < middle.abs().max() <= 6.4 + 1e-4
    angle = torch.rad2deg(torch.atan2(-matrices[:, 0, 1], matrices[:, 1, 1]))
    assert 29.5 < angle.abs().max() <= 30 + 1e-3
    assert mirrored.float().mean() == pytest.approx(0.25, abs=0.02)
    assert (torch.linalg.det(matrices[:, :, :2]) < 0).equal(mirrored)


@pytest.mark.parametrize("bad", [{"shift": -0.1}, {"angle": -1}, {"scale": 0.9}, {"mirror": 1.1}, {"mirror": -0.1},
                                 {"colour": -1}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match="unusable augmentation"):
        Augmentation(**bad)


@pytest.mark.parametrize("box", [
    (40.0, 30.0, 340.0, 330.0), (-40.5, -60.25, 420.5, 400.75), (150.2, 100.7, 190.9, 141.4)],
    ids=["shrunk", "beyond the border", "enlarged"])
def test_crop_image_moves_dots_as_crop_matrix_moves_points(box):
    rng, checked = np.random.default_rng(0), 0
    x0, y0, x1, y1 = box
    scale = STORED / (x1 - x0)
    for _ in range(6):
        point = rng.uniform([x0, y0], [x1, y1])
        sigma = max(2.0, 2.0 / scale)
        where = geometry.transform(geometry.crop_matrix(box, STORED), point[None].astype(np.float32))[0]
        margin = 3.5 * sigma * scale + 2
        if (where < margin).any() or (where > STORED - 1 - margin).any() or (point < 3.5 * sigma).any() \
                or (point > [380 - 3.5 * sigma, 340 - 3.5 * sigma]).any():
            continue
        crop = crop_image(painted(point[None], 380, 340, sigma), np.array(box), STORED)
        assert crop.shape == (STORED, STORED, 3) and crop.dtype == np.uint8
        assert np.abs(centroid(crop[..., 0]) - where).max() < TOLERANCE / 5
        checked += 1
    assert checked >= 1


@pytest.mark.parametrize("middle", [(200, 160), (90, 120)], ids=["inside", "crop beyond the border"])
def test_crop_poses_moves_dots_and_joints_together_and_back(middle):
    joints = pose(LSP14, middle, 110)
    state = np.full(14, VISIBLE)
    for k in range(14):
        image = painted(joints[[k]], 400, 300, 5)
        pixels, moved, to_source = crop_poses(image, joints, state, STORED, SIZE)
        np.testing.assert_allclose(geometry.transform(to_source, moved), joints, atol=1e-3)
        if (joints[k] > 16).all() and (joints[k] < [383, 283]).all():
            assert np.abs(centroid(pixels[0]) - moved[k]).max() < TOLERANCE / 5, LSP14.joints[k]


def test_crop_poses_shows_the_person_with_the_margin_it_promises():
    joints, state = pose(LSP14, (200, 150), 100), np.full(14, VISIBLE)
    state[0] = ABSENT
    joints[0] = 9999
    _, moved, _ = crop_poses(np.zeros((300, 400, 3), np.uint8), joints, state, STORED, SIZE)
    height = np.ptp(moved[1:, 1]) + STORED / (STORED / SIZE * 1.2 * (np.ptp(joints[1:, 1]) + 1))   # + one source pixel
    assert height == pytest.approx(SIZE / 1.2, abs=0.01)
    assert moved[0].tolist() == [0, 0]
    assert (moved[1:].max(0) + moved[1:].min(0)).tolist() == pytest.approx([STORED - 1, STORED - 1], abs=0.7)


@pytest.mark.parametrize("box, message", [((0, 0, 0, 5), "no area"), ((500, 0, 600, 100), "outside"),
                                          ((0, 0, np.nan, 5), "finite"), ((-1e6, -1e6, 1e6, 1e6), "far larger")])
def test_crop_image_refuses_unusable_boxes(box, message):
    with pytest.raises(ValueError, match=message):
        crop_image(np.zeros((100, 100, 3), np.uint8), np.array(box), 32)
