"""Features and weights: places found by brute force, patches that are what was seen, matrices with known answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from posebook import explain, geometry, metrics, networks, training
from posebook.augment import centre
from posebook.datasets import load_people
from posebook.geometry import mirror3d, root_relative
from posebook.networks import build_network
from posebook.skeleton import H36M17

DATA = load_people("validation", limit=40)
NETWORK = build_network("small-b", {"pose3d": 51, "joints": 17 * 81}, 3).eval()
INPUTS = centre(torch.from_numpy(DATA.images), 64)
PIXELS = DATA.images[:, :, 8:-8, 8:-8]


@pytest.mark.parametrize("layer, field", [("conv1", 9), ("conv2", 19), ("conv3", 39)])
def test_a_place_sees_its_receptive_field_and_nothing_else(layer, field):
    places = explain.best_places(NETWORK, layer, DATA.subset(range(4)))
    assert places.layer.receptive_field == field
    before = explain.responses(NETWORK, layer, INPUTS[:1])
    for c in (0, 5):
        row, column = places.place[0, c]
        y, x = places.corner[0, c]
        inside = torch.zeros(64, 64, dtype=torch.bool)
        inside[y:y + field, x:x + field] = True
        outside_changed = torch.where(inside, INPUTS[:1], torch.rand(1, 3, 64, 64))
        inside_changed = torch.where(inside, torch.rand(1, 3, 64, 64), INPUTS[:1])
        after = explain.responses(NETWORK, layer, outside_changed)
        torch.testing.assert_close(after[0, c, row, column], before[0, c, row, column], rtol=1e-4, atol=1e-4)
        assert (explain.responses(NETWORK, layer, inside_changed)[0, c, row, column]
                - before[0, c, row, column]).abs() > 1e-3


def test_best_places_and_patches_against_loops():
    patches, places = explain.average_patches(NETWORK, "conv2", DATA, batch=7)
    again = explain.best_places(NETWORK, "conv2", DATA, batch=40)
    np.testing.assert_array_equal(places.place, again.place)
    np.testing.assert_allclose(places.response, again.response, atol=1e-4)
    maps = explain.responses(NETWORK, "conv2", INPUTS).numpy()
    assert maps.min() == 0                                              # after the ReLU
    expected = np.zeros_like(patches, dtype=float)
    for n in range(len(DATA)):
        for c in range(maps.shape[1]):
            row, column = np.unravel_index(maps[n, c].argmax(), maps[n, c].shape)
            assert places.response[n, c] == pytest.approx(maps[n, c].max(), abs=1e-4)
            y, x = places.corner[n, c]
            if places.response[n, c] > 0:
                assert (y, x) == (2 * row, 2 * column)
            y, x = min(y, 64 - 19), min(x, 64 - 19)                     # pooling rounds up: moved inside the picture
            expected[c] += PIXELS[n, :, y:y + 19, x:x + 19] / len(DATA)
    np.testing.assert_allclose(patches, expected, atol=1e-2)
    top, order = explain.top_patches(places, DATA, 64, count=3)
    c = 4
    assert order[c, 0] == places.response[:, c].argmax()
    y, x = places.corner[order[c, 0], c]
    np.testing.assert_array_equal(top[c, 0], PIXELS[order[c, 0], :, y:y + 19, x:x + 19])


def test_conv3_of_paper_b_is_linear_and_layers_are_named_when_one_is_not_there():
    assert explain.responses(NETWORK, "conv3", INPUTS[:8]).min() < 0
    assert explain.layer_names(NETWORK) == ("conv1", "conv2", "conv3")
    for function in (explain.best_places, explain.average_patches, explain.selectivity):
        with pytest.raises(ValueError, match="no layer 'conv9'; it has conv1, conv2, conv3"):
            function(NETWORK, "conv9", DATA)
        with pytest.raises(ValueError, match="nothing to look at"):
            function(NETWORK, "conv2", DATA.subset([]))


def test_dead_maps_are_counted():
    network = build_network("small-b", {"pose3d": 51}, 0).eval()
    with torch.no_grad():
        network.trunk.conv2.weight[[1, 7]] = 0
        network.trunk.conv2.bias[[1, 7]] = -1
    patches, places = explain.average_patches(network, "conv2", DATA)
    assert set(np.flatnonzero(places.dead)) >= {1, 7} and np.isfinite(patches).all()
    assert np.isfinite(explain.selectivity(network, "conv2", DATA)[1]).all()


def test_a_map_that_fires_at_a_joint_is_selective_for_it_and_not_when_labels_are_shuffled():
    wrist = H36M17.index("left_wrist")
    joints, state = training.central_labels(DATA, 64)
    seen = ((joints > 6) & (joints < 58)).all(-1).numpy()[:, wrist] & (state.numpy()[:, wrist] > 0)
    data = DATA.subset(seen)
    joints = training.central_labels(data, 64)[0].numpy()
    images = np.zeros_like(data.images)
    for n, (x, y) in enumerate(np.rint(joints[:, wrist]).astype(int)):
        images[n, :, y + 7:y + 10, x + 7:x + 10] = 255
    data = replace(data, images=images)
    network = build_network("small", {"pose3d": 51}, 0).eval()
    network.mean_image.zero_()
    network.spread.fill_(1)
    with torch.no_grad():
        for layer in (network.trunk.conv1, network.trunk.conv2):
            layer.weight.zero_()
            layer.bias.zero_()
        network.trunk.conv1.weight[0, :, 4, 4] = 1                    # white in the middle
        network.trunk.conv2.weight[0, 0, 2, 2] = 1
    table = explain.selectivity(network, "conv2", data, radius=2.5)
    assert table[0].argmax() == wrist and table[0, wrist] > 0.6
    order = np.roll(np.arange(len(data)), 1)
    assert explain.selectivity(network, "conv2", data, radius=2.5, labels_of=order)[0, wrist] < 0.5 * table[0, wrist]
    places = explain.best_places(network, "conv2", data)
    under = explain.near(places, joints, data.state)
    assert (under[:, 0] == wrist).mean() > 0.7                # elsewhere another joint is nearer
    far = explain.near(places, joints + 1000, data.state)
    assert (far == len(H36M17)).all()


def test_equalised_patches_use_all_levels_evenly():
    patches = np.random.default_rng(0).normal(0, 1, (5, 3, 4, 4)) ** 3
    found = explain.equalised(patches)
    assert found.min() == 0 and found.max() == 1
    np.testing.assert_allclose(np.sort(found[2].ravel()), np.linspace(0, 1, 48))
    assert (np.argsort(found[2].ravel()) == np.argsort(patches[2].ravel())).all()


# -------------------------------------------------------------------------------------------------------- weights


def test_the_last_layer_by_coordinate():
    weight = explain.last_layer(NETWORK, "pose3d")
    assert weight.shape == (51, 512)
    rows = explain.by_coordinate(weight, 3)
    np.testing.assert_array_equal(rows[2, 5], weight[5 * 3 + 2])
    with pytest.raises(ValueError, match="no head 'regression'; it has pose3d, joints"):
        explain.last_layer(NETWORK, "regression")
    bare = build_network("small", {"pose3d": 51}, 0)
    bare.heads["pose3d"] = nn.Sequential(nn.ReLU())
    with pytest.raises(ValueError, match="no linear layer"):
        explain.last_layer(bare, "pose3d")


def test_correlation_is_numpy_s_and_constant_rows_are_unknown():
    rows = np.random.default_rng(0).normal(size=(2, 5, 40))
    rows[1, 3] = 7.5
    found = explain.correlation(rows)
    np.testing.assert_allclose(found[0], np.corrcoef(rows[0]))
    assert np.isnan(found[1, 3]).all() and np.isnan(found[1, :, 3]).all()
    known = [0, 1, 2, 4]
    np.testing.assert_allclose(found[1][np.ix_(known, known)], np.corrcoef(rows[1, known]))


def test_poses_of_a_body_have_the_signs_that_a_body_has():
    offsets = root_relative(DATA.joints3d, H36M17)
    both = np.concatenate([offsets, mirror3d(offsets, H36M17)]).reshape(-1, 51)
    found = explain.pose_correlation(both, 3)
    assert np.isnan(found[:, H36M17.root]).all()
    left, right = H36M17.index("left_hip"), H36M17.index("right_hip")
    assert found[0, left, right] < -0.9                                # opposite each other about the pelvis
    largest = explain.strongest(found)
    assert np.isnan(largest[H36M17.root, left]) and largest[left, left] == pytest.approx(1)
    stack = np.array([[[0.1, -0.9]], [[-0.5, 0.2]]])
    np.testing.assert_allclose(explain.strongest(stack), [[-0.5, -0.9]])


def test_co_sparsity_by_hand():
    rows = np.random.default_rng(0).normal(size=(3, 6))
    found, s = explain.co_sparsity(rows), rows.std(axis=1)
    by_hand = -sum((abs(rows[0, k] / s[0]) ** 0.2 + abs(rows[2, k] / s[2]) ** 0.2) ** 5 for k in range(6))
    assert found[0, 2] == pytest.approx(by_hand) and found[2, 0] == pytest.approx(by_hand)
    np.testing.assert_allclose(explain.co_sparsity(rows * np.array([[1], [100], [3]])), found)   # scale does not count
    peaked = np.zeros((2, 50))
    peaked[:, 0] = 5
    assert explain.co_sparsity(peaked)[0, 1] > explain.co_sparsity(np.random.default_rng(1).normal(size=(2, 50)))[0, 1]
    assert np.isnan(explain.co_sparsity(np.ones((2, 4)))).all()


def test_the_mantel_test_finds_agreement_and_none():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(12, 12))
    one = one + one.T
    close = one + 0.3 * (lambda m: m + m.T)(rng.normal(size=(12, 12)))
    other = (lambda m: m + m.T)(rng.normal(size=(12, 12)))
    found = explain.mantel(one, close, 300)
    upper = np.triu_indices(12, 1)
    assert found["r"] == pytest.approx(np.corrcoef(one[upper], close[upper])[0, 1]) and found["p"] < 0.01
    assert explain.mantel(one, other, 300)["p"] > 0.05
    with_gap = close.copy()
    with_gap[4] = with_gap[:, 4] = np.nan
    keep = [k for k in range(12) if k != 4]
    assert explain.mantel(one, with_gap, 20)["r"] == pytest.approx(
        explain.mantel(one[np.ix_(keep, keep)], close[np.ix_(keep, keep)], 20)["r"])
    with pytest.raises(ValueError, match="of one size"):
        explain.mantel(one, other[:5, :5])
    with pytest.raises(ValueError, match="at least three"):
        explain.mantel(one[:2, :2], other[:2, :2])


def test_layers_are_found_in_every_size():
    for size in networks.SIZES:
        network = build_network(size, {"regression": 4}, 0)
        fields = [explain.find_layer(network, name).receptive_field for name in explain.layer_names(network)]
        assert fields == ([7] if size == "resnet18" else [9, 19, 39])     # of a ResNet the first layer alone


def test_shuffled_joints_keep_each_bone_s_own_distribution_and_no_other():
    found = explain.shuffle_joints(DATA, 0)
    ours, theirs = (geometry.to_parent_relative(d.joints3d, H36M17) for d in (found, DATA))
    for j in range(len(H36M17)):
        np.testing.assert_allclose(np.sort(ours[:, j], axis=0), np.sort(theirs[:, j], axis=0), atol=1e-2)
    assert np.abs(ours - theirs).max() > 100 and np.array_equal(found.joints, DATA.joints)
    left, right = H36M17.index("left_hip"), H36M17.index("right_hip")
    assert abs(explain.pose_correlation(ours.reshape(-1, 51), 3)[0, left, right]) < 0.5
    np.testing.assert_array_equal(explain.shuffle_joints(DATA, 0).joints3d, found.joints3d)
    with pytest.raises(ValueError, match="no joints in 3D to shuffle"):
        explain.shuffle_joints(replace(DATA, joints3d=None), 0)


def test_selectivity_is_average_precision():
    joints, state = (part.numpy() for part in training.central_labels(DATA, 64))
    table = explain.selectivity(NETWORK, "conv3", DATA)
    maps = explain.responses(NETWORK, "conv3", INPUTS).numpy()
    middle = np.arange(maps.shape[2]) * 4 + 19
    for c, j in ((0, 5), (9, 16)):
        known = state[:, j] > 0
        away = np.hypot(middle[None, :, None] - joints[known, j, 1][:, None, None],
                        middle[None, None, :] - joints[known, j, 0][:, None, None])
        expected = metrics.average_precision(maps[known, c].ravel(), (away <= 39 / 4).ravel())
        assert table[c, j] == pytest.approx(expected, abs=1e-6)


# ---------------------------------------------------------------------------------------- one prediction, one neuron


def test_occlusion_and_gradient_find_the_pixels_that_matter():
    """A network that looks at a few pixels only: everything else may be covered."""
    network = build_network("small", {"regression": 34}, 0).eval()
    with torch.no_grad():
        for layer in (network.trunk.conv1, network.trunk.conv2, network.trunk.conv3):
            layer.weight.zero_()
            layer.bias.zero_()
            layer.weight[0, :, layer.kernel_size[0] // 2, layer.kernel_size[0] // 2] = 1
        first = network.heads["regression"][0]
        keep = first.weight[:, 6].abs()                                         # one cell of pool3's first map
        first.weight.zero_()
        first.weight[:, 6] = keep
    side = networks.layers(network.config)[-1].side
    image = 0.6 + 0.4 * torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    cell = 6 // side, 6 % side
    heat = explain.occlusion(network, "regression", image, 5, side=9, step=3)
    slope = explain.gradient(network, "regression", image, 5)
    assert heat.shape == (19, 19) and slope.shape == (64, 64) and heat.max() > 0 and slope.max() > 0
    y, x = np.argwhere(slope > 0).mean(axis=0)
    assert abs(y - (8 * cell[0] + 23)) < 12 and abs(x - (8 * cell[1] + 23)) < 12    # the middle of what pool3 sees
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert abs(3 * row + 4 - y) < 14 and abs(3 * column + 4 - x) < 14
    assert (heat < 1e-5).mean() > 0.3                                 # much of the picture does not matter
    with pytest.raises(ValueError, match="regresses no joints"):
        explain.occlusion(NETWORK, "joints", INPUTS[0], 0)
    with pytest.raises(ValueError, match="no head 'regression'; it has pose3d, joints"):
        explain.gradient(NETWORK, "regression", INPUTS[0], 0)


def test_maximised_pictures_excite_their_map_more_than_any_photograph():
    pictures = explain.maximise(NETWORK, "conv2", [0, 3], steps=80, coarse=2)
    assert pictures.shape == (2, 3, 19, 19) and pictures.min() >= 0 and pictures.max() <= 1
    places = explain.best_places(NETWORK, "conv2", DATA)
    found = explain.find_layer(NETWORK, "conv2")
    for k, c in enumerate((0, 3)):
        start = found.side // 2 * found.step
        canvas = NETWORK.mean_image[None].clone()
        canvas[:, :, start:start + 19, start:start + 19] = torch.from_numpy(pictures[k])
        here = explain.responses(NETWORK, "conv2", canvas)[0, c, found.side // 2, found.side // 2]
        assert here > np.median(places.response[:, c])
    np.testing.assert_array_equal(explain.maximise(NETWORK, "conv2", [0, 3], steps=5),
                                  explain.maximise(NETWORK, "conv2", [0, 3], steps=5))


def test_a_linear_probe_reads_what_is_there():
    train_set, data = load_people("train", limit=400), load_people("validation", limit=100)
    scores = explain.probe(NETWORK, "conv3", train_set, data)
    assert scores.shape == (17,) and scores.max() < 1
    labels = training.central_labels(train_set, 64)[0]
    assert labels.shape[0] == 400
    overfit = explain.probe(NETWORK, "conv3", train_set, train_set, ridge=1e-6)
    assert (overfit > scores).all() and overfit.mean() > 0.5


def test_parts_are_the_middles_of_their_limbs():
    table = explain.selectivity(NETWORK, "conv3", DATA, of="parts")
    assert table.shape == (32, len(H36M17.limbs))
    joints, state = training.central_labels(DATA, 64)
    arm = H36M17.limb_names.index("left_upper_arm")
    ends = [H36M17.index("left_shoulder"), H36M17.index("left_elbow")]
    where, marks = explain._labels(DATA, 64, "parts")
    np.testing.assert_allclose(where[:, arm], joints[:, ends].mean(dim=1), atol=1e-4)
    assert np.array_equal(marks[:, arm] == 0, (state[:, ends] == 0).any(dim=1).numpy())
    with pytest.raises(ValueError, match="joints or parts, not about 'hands'"):
        explain.selectivity(NETWORK, "conv3", DATA, of="hands")
