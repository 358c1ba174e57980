"""The joint declarations: mirrors, trees, limbs, and conversions by name."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posebook.skeleton import (
    ABSENT,
    BODY_PARTS,
    COCO17,
    H36M17,
    LSP14,
    OCCLUDED,
    PART_COLOURS,
    PART_MIRROR,
    SKELETONS,
    UPPER8,
    VISIBLE,
    Limb,
    Skeleton,
    convert,
)

every = pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS.keys())


def poses(skeleton, images=6, dims=2, seed=0):
    rng = np.random.default_rng(seed)
    joints = rng.normal(size=(images, len(skeleton), dims)).astype(np.float32)
    return joints, rng.integers(ABSENT, VISIBLE + 1, joints.shape[:2]).astype(np.uint8)


def test_the_declared_sizes_are_those_of_the_papers_and_data_sets():
    assert {name: len(s) for name, s in SKELETONS.items()} == {"LSP14": 14, "UPPER8": 8, "H36M17": 17, "COCO17": 17}
    limbs = {name: len(s.limbs) for name, s in SKELETONS.items()}
    assert limbs == {"LSP14": 10, "UPPER8": 7, "H36M17": 10, "COCO17": 9}
    assert H36M17.joints[0] == "pelvis" and H36M17.joints[10] == "head_top" and H36M17.joints[16] == "right_wrist"
    assert LSP14.joints[0] == "right_ankle" and LSP14.joints[13] == "head_top"


@every
def test_mirror_is_its_own_inverse_and_swaps_left_and_right_only(skeleton):
    mirror = skeleton.mirror
    assert (mirror[mirror] == np.arange(len(skeleton))).all()
    joints, _ = poses(skeleton)
    assert (joints[:, mirror][:, mirror] == joints).all()
    for i, joint in enumerate(skeleton.joints):
        partner = skeleton.joints[mirror[i]]
        if skeleton.side(joint) == "middle":
            assert partner == joint
        else:
            assert {skeleton.side(joint), skeleton.side(partner)} == {"left", "right"}
            assert joint.split("_", 1)[1] == partner.split("_", 1)[1]


@every
def test_the_tree_and_its_limbs_are_symmetric(skeleton):
    mirror, parents = skeleton.mirror, skeleton.parents
    assert (parents[mirror] == mirror[parents]).all()
    mirrored = {tuple(sorted((tuple(sorted(skeleton.joints[mirror[skeleton.index(j)]] for j in end)))
                             for end in (limb.start, limb.end))) for limb in skeleton.limbs}
    assert mirrored == {tuple(sorted(tuple(sorted(end)) for end in (limb.start, limb.end))) for limb in skeleton.limbs}
    for limb in skeleton.limbs:  # a limb named left touches no right joint
        others = {"left": "right", "right": "left"}.get(skeleton.side(limb.name))
        assert not any(skeleton.side(j) == others for j in limb.start + limb.end)


@every
def test_order_down_visits_parents_first(skeleton):
    order = list(skeleton.order_down)
    assert order[0] == skeleton.root and sorted(order) == list(range(len(skeleton)))
    for joint in order[1:]:
        assert order.index(int(skeleton.parents[joint])) < order.index(joint)
    assert skeleton.parents[skeleton.root] == skeleton.root
    assert (skeleton.parents == np.arange(len(skeleton))).sum() == 1


@every
def test_adding_steps_down_the_tree_rebuilds_the_pose(skeleton):
    joints, _ = poses(skeleton, dims=3)
    steps = joints - joints[:, skeleton.parents]
    rebuilt = np.zeros_like(joints)
    rebuilt[:, skeleton.root] = joints[:, skeleton.root]
    for joint in skeleton.order_down[1:]:
        rebuilt[:, joint] = rebuilt[:, skeleton.parents[joint]] + steps[:, joint]
    np.testing.assert_allclose(rebuilt, joints, atol=1e-5)


@every
def test_limb_weights_give_the_ends_of_every_limb(skeleton):
    joints, _ = poses(skeleton, dims=3)
    weights = skeleton.limb_weights
    assert weights.shape == (2, len(skeleton.limbs), len(skeleton)) and weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(axis=-1), 1)
    ends = np.einsum("elj,njd->neld", weights, joints)
    for row, limb in enumerate(skeleton.limbs):
        assert skeleton.limb_names[row] == limb.name
        for end, names in enumerate((limb.start, limb.end)):
            expected = np.mean([joints[:, skeleton.index(name)] for name in names], axis=0)
            np.testing.assert_allclose(ends[:, end, row], expected, atol=1e-6)


def test_names_and_sides():
    assert LSP14.index("neck") == 12 and UPPER8.index("head") == 0
    with pytest.raises(KeyError, match="UPPER8 has no joint 'pelvis'; it has head, left_shoulder"):
        UPPER8.index("pelvis")
    assert [LSP14.side(name) for name in ("left_knee", "right_upper_arm", "torso")] == ["left", "right", "middle"]


# ---------------------------------------------------------------------------------------------------- conversion


@every
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_converting_to_itself_changes_nothing_that_counts(skeleton, seed):
    joints, state = poses(skeleton, seed=seed)
    out, out_state = convert(joints, state, skeleton, skeleton)
    assert (out_state == state).all() and (out[state != ABSENT] == joints[state != ABSENT]).all()
    assert (out[state == ABSENT] == 0).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3]))
def test_joints_are_carried_by_name_and_made_by_recipe(seed, dims):
    joints, _ = poses(H36M17, seed=seed, dims=dims)
    state = np.full(joints.shape[:2], VISIBLE, np.uint8)
    fourteen, state14 = convert(joints, state, H36M17, LSP14)
    assert fourteen.shape == (6, 14, dims) and fourteen.dtype == np.float32 and state14.dtype == np.uint8
    for k, name in enumerate(LSP14.joints):
        assert (fourteen[:, k] == joints[:, H36M17.index(name)]).all()
    eight, state8 = convert(fourteen, state14, LSP14, UPPER8)
    assert (state8 == VISIBLE).all()
    middle = (joints[:, H36M17.index("neck")] + joints[:, H36M17.index("head_top")]) / 2
    np.testing.assert_allclose(eight[:, UPPER8.index("head")], middle, atol=1e-6)
    # In one step or in two: the head of UPPER8 is the midpoint of neck and head top either way.
    direct, _ = convert(joints, state, H36M17, UPPER8)
    np.testing.assert_allclose(direct, eight, atol=1e-6)


def test_the_head_is_the_nose_and_the_neck_the_middle_of_the_shoulders_where_there_is_no_head_top():
    joints, _ = poses(COCO17)
    out, state = convert(joints, np.full(joints.shape[:2], VISIBLE, np.uint8), COCO17, UPPER8)
    assert (out[:, UPPER8.index("head")] == joints[:, COCO17.index("nose")]).all()
    shoulders = joints[:, [COCO17.index("left_shoulder"), COCO17.index("right_shoulder")]]
    np.testing.assert_allclose(out[:, UPPER8.index("neck")], shoulders.mean(axis=1), atol=1e-6)
    assert (state == VISIBLE).all()


def test_pelvis_and_spine_are_made_from_what_there_is():
    joints, _ = poses(LSP14)
    state = np.full(joints.shape[:2], VISIBLE, np.uint8)
    out, out_state = convert(joints, state, LSP14, H36M17, allow_absent=True)
    hips = joints[:, [LSP14.index("left_hip"), LSP14.index("right_hip")]].mean(axis=1)
    corners = [LSP14.index(f"{side}_{part}") for side in ("left", "right") for part in ("hip", "shoulder")]
    np.testing.assert_allclose(out[:, H36M17.index("pelvis")], hips, atol=1e-6)
    np.testing.assert_allclose(out[:, H36M17.index("spine")], joints[:, corners].mean(axis=1), atol=1e-6)
    missing = [H36M17.joints[k] for k in range(17) if (out_state[:, k] == ABSENT).all()]
    assert missing == ["nose"] and (out[:, H36M17.index("nose")] == 0).all()


@pytest.mark.parametrize("neck, top, head", [
    (VISIBLE, VISIBLE, VISIBLE), (VISIBLE, OCCLUDED, OCCLUDED), (OCCLUDED, VISIBLE, OCCLUDED),
    (VISIBLE, ABSENT, ABSENT), (ABSENT, OCCLUDED, ABSENT)])
def test_a_made_joint_has_the_lowest_state_of_its_sources(neck, top, head):
    joints, state = np.ones((1, 14, 2), np.float32), np.full((1, 14), VISIBLE, np.uint8)
    state[0, LSP14.index("neck")], state[0, LSP14.index("head_top")] = neck, top
    out, out_state = convert(joints, state, LSP14, UPPER8)
    assert out_state[0, UPPER8.index("head")] == head and out_state[0, UPPER8.index("neck")] == neck
    assert (out[0, UPPER8.index("head")] == (0 if head == ABSENT else 1)).all()


def test_the_coordinates_of_an_absent_joint_do_not_leak():
    joints, state = poses(H36M17)
    joints[state == ABSENT] = np.nan
    out, out_state = convert(joints, state, H36M17, UPPER8)
    assert np.isfinite(out).all() and (out[out_state == ABSENT] == 0).all()


def test_converting_and_mirroring_can_be_exchanged():
    joints, state = poses(H36M17)
    one, one_state = convert(joints[:, H36M17.mirror], state[:, H36M17.mirror], H36M17, UPPER8)
    other, other_state = convert(joints, state, H36M17, UPPER8)
    np.testing.assert_allclose(one, other[:, UPPER8.mirror], atol=1e-6)
    assert (one_state == other_state[:, UPPER8.mirror]).all()


def test_a_joint_that_cannot_be_had():
    joints, state = poses(UPPER8)
    with pytest.raises(ValueError, match="LSP14's joint right_ankle cannot be made from UPPER8; pass allow_absent"):
        convert(joints, state, UPPER8, LSP14)
    _, out_state = convert(joints, state, UPPER8, LSP14, allow_absent=True)
    assert (out_state[:, LSP14.index("right_ankle")] == ABSENT).all()


@pytest.mark.parametrize("joints, state", [((6, 8, 2), (6, 8)), ((6, 14, 2), (6, 13)), ((14, 2), (14,)),
                                           ((6, 14, 2), (5, 14))])
def test_shapes_that_do_not_fit(joints, state):
    with pytest.raises(ValueError, match=r"LSP14 needs joints \(N, 14, D\) and state \(N, 14\), got"):
        convert(np.zeros(joints), np.zeros(state), LSP14, UPPER8)


# -------------------------------------------------------------------------------------------------- declarations


@pytest.mark.parametrize("joints, parent, limbs, message", [
    (("a", "a"), {"a": "a"}, (), "named twice"),
    (("a", "b"), {"b": "c"}, (), "unknown joint 'c'"),
    (("a", "b"), {"b": "a"}, (Limb("x", ("a",), ("z",)),), "unknown joint 'z'"),
    (("a", "left_b"), {"left_b": "a"}, (), "left_b has no mirror partner right_b"),
    (("a", "b", "c"), {"b": "a"}, (), "exactly one joint must be without a parent"),
    (("a", "b", "c"), {"b": "c", "c": "b"}, (), "form a circle"),
])
def test_a_wrong_declaration_is_refused(joints, parent, limbs, message):
    with pytest.raises(ValueError, match=message):
        Skeleton("wrong", joints, parent, limbs)


def test_part_labels_have_mirror_partners_and_colours_of_their_own():
    assert len(BODY_PARTS) == 14 and len(PART_COLOURS) == 15 and len(np.unique(PART_COLOURS, axis=0)) == 15
    assert (PART_MIRROR[PART_MIRROR] == np.arange(15)).all() and PART_MIRROR[0] == 0
    swapped = [BODY_PARTS[PART_MIRROR[1 + i] - 1] for i in range(14)]
    assert swapped[2] == "right_upper_arm" and swapped[:2] == ["head", "torso"]
    assert all(("left" in a) == ("right" in b) for a, b in zip(BODY_PARTS, swapped, strict=True))
