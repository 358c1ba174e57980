"""The codecs: what they encode, they decode; what does not count, counts nowhere; windows against a plain loop."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posebook import geometry
from posebook.datasets import load_people
from posebook.networks import ResidualDensity
from posebook.skeleton import ABSENT, H36M17, LSP14, OCCLUDED, UPPER8, VISIBLE
from posebook.targets import (
    TASKS,
    Coordinates,
    HeatMaps,
    JointWindows,
    ParentRelative,
    PartWindows,
    ResidualLikelihood,
    SoftArgmax,
    WindowGrid,
    build_codecs,
    paper_a_grid,
    paper_b_grid,
    points_inside,
    share_inside,
)

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


# ------------------------------------------------------------------------------------------------- detection windows

GRIDS = [WindowGrid(112), WindowGrid(112, 30, 10), paper_a_grid(), WindowGrid(20, 20, 3), WindowGrid(31, 7, 9)]


def by_hand(start, end, grid):
    """The plain loop: (joint rule of `end`, share of the piece) for every window, in float32 like the codec."""
    held = np.zeros((grid.side, grid.side), bool)
    share = np.zeros((grid.side, grid.side), np.float32)
    for i in range(grid.side):
        for j in range(grid.side):
            first, last, within = np.float32(0), np.float32(1), True
            for axis, k in ((0, j), (1, i)):
                low = np.float32(grid.stride * k) - np.float32(0.5)
                high = low + np.float32(grid.window)
                within = within and low <= end[axis] < high
                step = end[axis] - start[axis]
                if step == 0:
                    if not low <= start[axis] < high:
                        last = np.float32(0)
                    continue
                a, b = sorted(((low - start[axis]) / step, (high - start[axis]) / step))
                first, last = max(first, min(max(a, np.float32(0)), np.float32(1))), min(last, max(min(b, 1), 0))
            held[i, j], share[i, j] = within, max(np.float32(0), np.float32(last) - first)
    return held, share


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_windows_equal_the_plain_loop_to_the_bit(grid):
    rng = np.random.default_rng(grid.stride)
    ends = rng.uniform(-0.3 * grid.size, 1.3 * grid.size, (2, 6, 5, 2)).astype(np.float32)
    ends[1, 0] = ends[0, 0]                                            # no length
    ends[1, 1, :, 0] = ends[0, 1, :, 0]                                # upright
    ends[1, 2, :, 1] = ends[0, 2, :, 1]                                # level
    ends[:, 3] = np.round(ends[:, 3]) - 0.5                            # on the edges of windows
    ends[0, 4] = -1e6                                                  # very long
    start, end = torch.from_numpy(ends)
    held, share = points_inside(end, grid), share_inside(start, end, grid)
    for n in range(6):
        for k in range(5):
            expected = by_hand(ends[0, n, k], ends[1, n, k], grid)
            np.testing.assert_array_equal(held[n, k].numpy(), expected[0])
            np.testing.assert_array_equal(share[n, k].numpy(), expected[1])


def test_the_papers_grids_have_their_sizes():
    assert WindowGrid(112).side == 8 and WindowGrid(112, 30, 10).side == 10 and paper_a_grid().side == 8
    low, high = WindowGrid(112).edges()
    assert (low + 0.5).tolist() == [12 * k for k in range(8)]
    assert (high + 0.5).tolist() == [12 * k + 30 for k in range(8)]
    assert high[-1] > 112 - 0.5                                        # past the border, on purpose
    assert WindowGrid(112).centres()[2, 0].tolist() == [14.5, 38.5]    # row 2 is y
    assert JointWindows(UPPER8, WindowGrid(112)).outputs == 512 and PartWindows(UPPER8, WindowGrid(112)).outputs == 448
    assert JointWindows(H36M17, WindowGrid(112, 30, 10)).outputs == 1700


def test_a_joint_on_a_shared_edge_lies_in_the_second_window():
    grid = WindowGrid(30, 10, 10)
    held = points_inside(torch.tensor([[[9.5, 0.0], [9.4999, 0.0], [-0.5, 29.5], [-0.51, 5.0]]]), grid)[0]
    assert held[0].nonzero().tolist() == [[0, 1]] and held[1].nonzero().tolist() == [[0, 0]]
    assert not held[2].any() and not held[3].any()


def test_the_share_of_a_part_is_exact():
    grid = WindowGrid(30, 10, 10)
    level = share_inside(torch.tensor([[[4.5, 5.0]]]), torch.tensor([[[24.5, 5.0]]]), grid)[0, 0]
    assert level[0].tolist() == pytest.approx([0.25, 0.5, 0.25]) and level[1:].abs().max() == 0
    slanted = share_inside(torch.tensor([[[-0.5, -0.5]]]), torch.tensor([[[29.5, 29.5]]]), grid)[0, 0]
    torch.testing.assert_close(slanted, torch.eye(3) / 3)


def test_shares_of_windows_that_tile_the_picture_sum_to_what_is_inside():
    grid = WindowGrid(60, 10, 10)
    rng = np.random.default_rng(0)
    start, end = torch.from_numpy(rng.uniform(-0.4, 59.4, (2, 50, 3, 2)).astype(np.float32))
    torch.testing.assert_close(share_inside(start, end, grid).sum((-1, -2)), torch.ones(50, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("skeleton", [UPPER8, LSP14, H36M17], ids=lambda s: s.name)
@pytest.mark.parametrize("kind", [JointWindows, PartWindows])
def test_absent_joints_count_in_no_window(kind, skeleton):
    codec = kind(skeleton, paper_a_grid())
    joints = torch.rand(4, len(skeleton), 2) * 64
    state = torch.full((4, len(skeleton)), OCCLUDED)
    wrist = skeleton.index("left_wrist")
    state[1, wrist], joints[1, wrist] = ABSENT, torch.nan
    target, mask = codec.encode(joints, state)
    assert target.shape == mask.shape == (4, codec.outputs) and set(target.unique().tolist()) <= {0, 1}
    lost = [k for k, name in enumerate(codec.names) if name in ("left_wrist", "left_lower_arm")]
    counts = mask.reshape(4, len(codec.names), -1)
    assert (counts[1, lost] == 0).all() and counts.sum() == (4 * len(codec.names) - 1) * 64
    output = torch.randn(4, codec.outputs, requires_grad=True)
    codec.loss(output, target, mask).backward()
    assert torch.isfinite(output.grad).all() and torch.equal(output.grad != 0, mask > 0)


def test_parts_can_be_left_out():
    codec = PartWindows(UPPER8, paper_a_grid(), without=("left_upper_arm", "head"))
    _, mask = codec.encode(torch.rand(2, 8, 2) * 64, torch.full((2, 8), VISIBLE))
    asked = mask.reshape(2, 7, -1).amax(-1)[0].bool().tolist()
    assert dict(zip(codec.names, asked, strict=True)) == {name: name not in codec.without for name in codec.names}


def test_detection_loss_against_a_slow_loop():
    codec = JointWindows(UPPER8, WindowGrid(20, 10, 10))
    output, target = torch.randn(3, 32), (torch.rand(3, 32) < 0.3).float()
    mask = (torch.rand(3, 32) < 0.7).float()
    total = count = 0.0
    for o, t, m in zip(output.flatten(), target.flatten(), mask.flatten(), strict=True):
        if m:
            p = 1 / (1 + np.exp(-float(o)))
            total, count = total - np.log(p if t else 1 - p), count + 1
    assert codec.loss(output, target, mask).item() == pytest.approx(total / count, rel=1e-5)
    assert codec.loss(output, target, torch.zeros(3, 32)).item() == 0


@given(seed=st.integers(0, 10_000))
def test_a_perfect_answer_decodes_to_a_point_near_the_joint(seed):
    codec = JointWindows(LSP14, paper_a_grid())
    rng = np.random.default_rng(seed)
    joints = torch.from_numpy(rng.uniform(0, 63, (3, 14, 2)).astype(np.float32))
    target, _ = codec.encode(joints, torch.full((3, 14), VISIBLE))
    logits = (target - 0.5) * 60
    window, stride = codec.grid.window, codec.grid.stride
    soft, hard = codec.decode(logits), codec.decode(logits, hard=True)
    # the windows that hold a joint lie on either side of it; their mean is off by less than half a step, or by half a
    # window where the border leaves none on one side
    assert (soft - joints).abs().max() <= window / 2 + 1e-3
    inner = ((joints > window) & (joints < 63 - window)).all(-1)
    assert not inner.any() or (soft - joints)[inner].abs().max() <= stride / 2 + 1e-3
    assert (hard - joints).abs().max() <= window / 2 + 1e-3


def test_the_picture_of_a_detection_peaks_where_the_window_is():
    codec = PartWindows(UPPER8, WindowGrid(112))
    probability = torch.zeros(1, 7, 8, 8)
    probability[0, 2, 3, 5] = 0.8
    picture = codec.paint(probability)
    assert picture.shape == (1, 7, 112, 112) and picture[0, [0, 1, 3]].abs().max() == 0
    row, column = divmod(int(picture[0, 2].argmax()), 112)
    assert (column, row) in [(74, 50), (75, 50), (74, 51), (75, 51)]   # 12 * 5 + 14.5, 12 * 3 + 14.5
    assert picture.max() == pytest.approx(0.8 * np.exp(-0.5 / (2 * 15 ** 2)), rel=1e-4)


@pytest.mark.parametrize("wrong, message", [
    (lambda: WindowGrid(0), "at least 1 pixel"), (lambda: WindowGrid(64, 17, 0), "at least 1 pixel"),
    (lambda: WindowGrid(20, 30, 5), "does not fit"), (lambda: PartWindows(LSP14, paper_a_grid(), 1.0), "below 1"),
    (lambda: PartWindows(LSP14, paper_a_grid(), without=("left_wing",)), "has no part left_wing; it has torso"),
    (lambda: PartWindows(UPPER8, paper_a_grid(), without=UPPER8.limb_names), "no part would be left")])
def test_impossible_windows_are_refused_at_once(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_codecs_come_in_the_order_of_the_tasks():
    codecs = build_codecs(("parts", "regression"), UPPER8, 112, without=("head",))
    assert list(codecs) == ["regression", "parts"] and codecs["parts"].without == ("head",)
    assert [codec.outputs for codec in build_codecs(TASKS, UPPER8, 112).values()] == [
        16, 24, 512, 448, 8 * 28 ** 2, 8 * 28 ** 2, 32]
    for wrong in ((), ("heads",)):
        with pytest.raises(ValueError, match="tasks must be some of regression, pose3d, joints, parts"):
            build_codecs(wrong, UPPER8, 112)


# ------------------------------------------------------------------------------------------------ paper B

def test_paper_b_has_ten_by_ten_windows():
    grid = paper_b_grid()
    assert (grid.window, grid.stride, grid.side) == (30, 10, 10)
    assert JointWindows(H36M17, grid).outputs == 1700
    assert (paper_b_grid(64).window, paper_b_grid(64).stride, paper_b_grid(64).side) == (17, 6, 9)
    assert build_codecs(("joints",), H36M17, 112)["joints"].grid == grid
    assert build_codecs(("joints",), H36M17, 112, grid=WindowGrid(112, 10, 10))["joints"].grid.side == 12   # the text's


def test_the_3d_target_goes_there_and_back():
    codec = ParentRelative(H36M17, 64)
    poses = torch.randn(5, 17, 3) * 300 + torch.tensor([0, 0, 4000.0])
    target, mask = codec.encode(poses, torch.full((5, 17), VISIBLE))
    assert target.shape == mask.shape == (5, 51) and codec.outputs == 51
    torch.testing.assert_close(codec.decode(target), poses - poses[:, :1], atol=1e-3, rtol=0)
    wrist, elbow = H36M17.index("left_wrist"), H36M17.index("left_elbow")
    torch.testing.assert_close(target.reshape(5, 17, 3)[:, wrist], (poses[:, wrist] - poses[:, elbow]) / 1200)
    assert mask.reshape(5, 17, 3)[:, H36M17.root].sum() == 0 and mask.sum() == 5 * 16 * 3
    assert codec.loss(target, target, mask) == 0
    assert codec.loss(target + 0.5, target, mask).item() == pytest.approx(0.25)


def test_an_absent_joint_takes_its_children_s_offsets_along():
    codec = ParentRelative(H36M17, 64)
    state = torch.full((1, 17), VISIBLE)
    state[0, H36M17.index("left_elbow")] = ABSENT
    poses = torch.randn(1, 17, 3)
    poses[0, H36M17.index("left_elbow")] = 1e6                                    # must not matter
    target, mask = codec.encode(poses, state)
    uncounted = {H36M17.joints[j] for j in range(17) if mask.reshape(17, 3)[j, 0] == 0}
    assert uncounted == {"pelvis", "left_elbow", "left_wrist"}
    assert target.abs().max() < 1


def test_joints_are_detected_where_they_are_projected():
    """Paper B's label is made from the projection: the people's 2D joints are the projection of their 3D joints."""
    data = load_people("validation", limit=20)
    seen = geometry.project(data.joints3d, geometry.crop_camera(data.camera, geometry.invert(data.to_source)))
    known = data.state != ABSENT
    assert np.abs(seen - data.joints)[known].max() < 0.05
    codec = build_codecs(("joints",), H36M17, 80)["joints"]
    state = torch.from_numpy(data.state)
    ours, theirs = (codec.encode(torch.from_numpy(np.where(known[..., None], joints, 0).astype(np.float32)), state)[0]
                    for joints in (seen, data.joints))
    assert (ours != theirs).float().mean() < 1e-3


# ------------------------------------------------------------------------------------------------ since then

LATER = {"heatmaps": HeatMaps(3, 64, 16), "softargmax": SoftArgmax(3, 64, 16), "rle": ResidualLikelihood(3, 64)}


@given(st.integers(0, 10 ** 6), st.sampled_from([(64, 16), (112, 28), (50, 10)]))
def test_a_perfect_heat_map_decodes_to_within_a_quarter_of_a_cell(seed, sizes):
    codec = HeatMaps(4, *sizes)
    cells = torch.rand((2, 4, 2), generator=torch.Generator().manual_seed(seed)) * (codec.side - 2) + 0.5
    joints = codec.to_pixels(cells)                                        # not in the outermost half cells
    target, mask = codec.encode(joints, torch.full((2, 4), VISIBLE))
    assert mask.all() and target.max() <= 1
    assert ((codec.decode(target) - joints).abs() <= codec.cell / 4 + 1e-3).all()


def test_at_the_border_a_heat_map_leans_nowhere():
    codec = HeatMaps(1, 64, 16)
    corners = torch.tensor([[[-0.4, -0.4]], [[63.4, 63.4]], [[-0.4, 30.0]]])
    found = codec.to_cells(codec.decode(codec.encode(corners, torch.full((3, 1), VISIBLE))[0]))
    assert found[0].tolist() == [[0, 0]] and found[1].tolist() == [[15, 15]] and found[2, 0, 0] == 0


def test_rows_of_a_map_are_y_and_columns_x():
    maps = torch.zeros(1, 1, 16, 16)
    maps[0, 0, 2, 11] = 50.0                                                # row 2, column 11
    for codec in (HeatMaps(1, 64, 16), SoftArgmax(1, 64, 16)):
        assert codec.decode(maps.flatten(1))[0, 0].tolist() == pytest.approx([11 * 4 + 1.5, 2 * 4 + 1.5])


def test_the_heat_map_is_the_gaussian_of_the_formula():
    codec = HeatMaps(1, 64, 16, sigma=1.3)
    target, _ = codec.encode(torch.tensor([[[20.0, 33.0]]]), torch.tensor([[VISIBLE]]))
    for row, column in ((8, 5), (0, 0), (9, 4)):
        away = (column * 4 + 1.5 - 20) ** 2 + (row * 4 + 1.5 - 33) ** 2       # pixels
        assert target[0, row * 16 + column].item() == pytest.approx(np.exp(-away / 16 / (2 * 1.3 ** 2)), abs=1e-6)


def test_soft_argmax_is_the_mean_of_the_softmax_by_a_slow_loop():
    codec = SoftArgmax(2, 20, 5)
    output = torch.randn(3, codec.outputs, generator=torch.Generator().manual_seed(1))
    found = codec.decode(output)
    for n in range(3):
        for j in range(2):
            weights = output[n].reshape(2, 5, 5)[j].exp()
            total = [sum(weights[r, c] * (4 * (c, r)[axis] + 1.5) for r in range(5) for c in range(5)) / weights.sum()
                     for axis in (0, 1)]
            assert found[n, j].tolist() == pytest.approx([v.item() for v in total], abs=1e-4)


def test_a_soft_argmax_is_finer_than_a_cell():
    codec = SoftArgmax(1, 64, 16)
    output = torch.full((1, codec.outputs), -50.0)
    output[0, [7 * 16 + 4, 7 * 16 + 5]] = 0.0
    assert codec.decode(output)[0, 0].tolist() == pytest.approx([4.5 * 4 + 1.5, 7 * 4 + 1.5], abs=1e-4)


@pytest.mark.parametrize("codec", LATER.values(), ids=list(LATER))
def test_later_targets_leave_out_what_the_coordinates_leave_out(codec):
    joints = torch.tensor([[[10.0, 10], [200, 10], [30, 30]]])
    state = torch.tensor([[VISIBLE, VISIBLE, ABSENT]])
    target, mask = codec.encode(joints, state)
    assert mask.reshape(3, -1).any(dim=1).tolist() == [True, False, False]
    output = torch.randn(1, codec.outputs, requires_grad=True)
    density = (ResidualDensity(),) if codec is LATER["rle"] else ()
    codec.loss(output, target, mask, *density).backward()
    per_joint = output.grad.reshape(2, 3, 2).abs().sum(dim=(0, 2)) if density else \
        output.grad.reshape(3, -1).abs().sum(dim=1)
    assert per_joint[0] > 0 and per_joint[1:].tolist() == [0, 0]
    nothing = torch.zeros(1, 3, dtype=torch.long)
    assert codec.loss(output, *codec.encode(joints, nothing), *density).item() == 0


def test_a_residual_likelihood_is_the_log_likelihood_by_hand():
    """Untrained, the flow is the normal density: Laplace and normal, each of the error over its size, and 1 / size."""
    codec = ResidualLikelihood(1, 64)
    output, target = torch.tensor([[0.5, 0.25, 0.3, -1.2]]), torch.tensor([[0.6, 0.2]])
    size = torch.sigmoid(output[0, 2:])
    error = (target[0] - output[0, :2]) / size
    laplace = (torch.log(2 * size) + error.abs()).sum()
    normal = (torch.log(size) + error ** 2 / 2 + np.log(2 * np.pi) / 2).sum()
    found = codec.loss(output, target, torch.ones(1, 2), ResidualDensity())
    assert found.item() == pytest.approx((laplace + normal).item(), rel=1e-5)
    assert codec.decode(output)[0, 0].tolist() == [32, 16]
    assert codec.sizes(output)[0, 0].tolist() == pytest.approx((64 * size).tolist())
