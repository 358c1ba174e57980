"""Groups of images: what is known of an image, who belongs where, and comparisons that are not surer than they may."""

from dataclasses import replace

import numpy as np
import pytest
from samples import people, tiny

from posebook import floors, limits, metrics, networks, training
from posebook.datasets import load_people
from posebook.skeleton import ABSENT, H36M17, LSP14, OCCLUDED
from posebook.targets import Coordinates

DATA = people(12)
TEST = load_people("test", limit=160, parts=True)
KNOWN = limits.traits(TEST, floors.mean_pose(TEST))
CUTS = limits.cut_points(KNOWN)


# ------------------------------------------------------------------------------------------------------- the answers


def test_perfect_answers_find_every_joint_and_far_ones_none():
    true = DATA.source_joints
    perfect, far = limits.answers(true, DATA), limits.answers(true + 1000, DATA)
    assert set(perfect["found"]) == {"1" * 14} and set(far["found"]) == {"0" * 14}
    assert perfect["error"] == pytest.approx(0) and (far["error"] > 10).all()


def test_answers_are_pck_and_the_error_in_both_units():
    moved = DATA.source_joints + np.random.default_rng(0).normal(0, 4, DATA.joints.shape)
    found = limits.answers(moved, DATA)
    torso = metrics.torso_diameter(DATA.source_joints, DATA.state, LSP14)
    expected = metrics.pck(moved, DATA.source_joints, DATA.state, torso, 0.2)
    assert 0.1 < expected.mean < 0.99
    assert limits.pck(limits.read_found(found["found"])) == pytest.approx(expected.per_image)
    distance = np.linalg.norm(moved - DATA.source_joints, axis=-1).mean(axis=1)
    assert found["error"] == pytest.approx(distance / torso, abs=1e-4)
    side = np.ptp(DATA.source_joints, axis=1).max(axis=1)
    assert found["error_box"] == pytest.approx(distance / side, abs=1e-4)


def test_what_cannot_be_measured_does_not_count():
    state = DATA.state.copy()
    state[0, LSP14.index("left_wrist")] = ABSENT
    state[1, [LSP14.index(f"{side}_hip") for side in ("left", "right")]] = ABSENT      # no torso
    data = replace(DATA, state=state)
    answers = limits.answers(data.source_joints, data)
    assert answers["found"][0] == "".join("-" if name == "left_wrist" else "1" for name in LSP14.joints)
    assert answers["found"][1] == "-" * 14 and np.isnan(answers["error"][1]) and answers["error_box"][1] == 0
    assert np.isnan(limits.pck(limits.read_found(answers["found"]))[1])


@pytest.mark.parametrize("wrong", [["10", "1"], ["12"], ["1 "]])
def test_other_strings_are_refused(wrong):
    with pytest.raises(ValueError, match="0, 1 and -"):
        limits.read_found(wrong)


def test_many_boxes_at_once_are_as_one_by_one():
    network = networks.PoseNetwork(tiny()).eval()
    codec = Coordinates(14, 32)
    pictures = [np.random.default_rng(k).integers(0, 255, (50 + k, 60, 3), np.uint8) for k in range(3)]
    boxes = np.float32([[5, 5, 30, 45], [-5, 0, 50, 50], [0, 0, 60, 52]])
    together = limits.predict_in_boxes(network, codec, pictures, boxes)
    for k in range(3):
        alone = training.predict_pose(network, codec, pictures[k], boxes[k])
        assert together[k] == pytest.approx(alone, abs=1e-3)
    with pytest.raises(ValueError, match="need boxes"):
        limits.predict_in_boxes(network, codec, pictures, boxes[:2])
    with pytest.raises(ValueError, match="no area"):
        limits.predict_in_boxes(network, codec, pictures, boxes[:, ::-1])


# -------------------------------------------------------------------------------------------------------- the traits


def test_every_trait_has_a_value_for_every_image():
    assert set(KNOWN) == set(limits.THIRDS) | set(limits.NAMED)
    for name, values in KNOWN.items():
        assert values.shape == (len(TEST),), name
        if name in limits.THIRDS:
            assert np.isfinite(values).all() and np.ptp(values) > 0, name
    assert set(KNOWN["sex"]) == {"female", "male"} and set(KNOWN["facing"]) == {"front", "side", "back"}
    assert set(KNOWN["head"]) == {"up", "aside", "down"}


def test_traits_of_a_subject_are_the_same_in_all_of_her_pictures():
    for subject in np.unique(TEST.groups["subject"]):
        hers = TEST.groups["subject"] == subject
        for name in ("skin", "sex", "age", "weight", "muscle", "height", "proportions"):
            assert len(set(KNOWN[name][hers])) == 1, name


def test_traits_follow_the_images_in_any_order():
    order = np.random.default_rng(0).permutation(len(TEST))[:40]
    again = limits.traits(TEST.subset(order), floors.mean_pose(TEST))
    for name, values in again.items():
        expected = KNOWN[name][order]
        assert (values == expected).all() if values.dtype.kind == "U" else values == pytest.approx(expected), name


def test_what_is_known_without_a_picture_is_the_same():
    known, subjects = limits.known_from_files("test")
    some = np.linspace(0, len(subjects) - 1, len(TEST)).astype(int)
    assert (subjects[some] == TEST.groups["subject"]).all() and set(limits.PERSON) - set(known) == {"skin and sex"}
    for name, values in known.items():
        assert (values[some] == KNOWN[name]).all(), name


def test_head_and_facing_agree_with_what_the_picture_shows():
    neck, pelvis, left, right = (TEST.joints[:, H36M17.index(name)] for name in
                                 ("neck", "pelvis", "left_shoulder", "right_shoulder"))
    seen = (TEST.state[:, [H36M17.index(n) for n in ("neck", "pelvis", "left_shoulder", "right_shoulder")]] != ABSENT)
    seen = seen.all(axis=1)
    up = seen & (KNOWN["head"] == "up")
    assert up.sum() > 50 and (neck[up, 1] < pelvis[up, 1]).mean() > 0.97
    down = seen & (KNOWN["head"] == "down")
    assert down.sum() > 3 and (neck[down, 1] > pelvis[down, 1]).mean() > 0.9
    for facing, sign in (("front", 1), ("back", -1)):                    # the left shoulder is on the picture's right
        some = up & (KNOWN["facing"] == facing)
        assert some.sum() > 10 and (np.sign(left[some, 0] - right[some, 0]) == sign).mean() > 0.9


def test_hidden_joints_are_counted_among_the_labelled():
    labelled = (TEST.state != ABSENT).sum(axis=1)
    assert KNOWN["hidden joints"] * labelled == pytest.approx((TEST.state == OCCLUDED).sum(axis=1))


def test_the_mean_pose_is_like_itself():
    one = TEST.subset(np.flatnonzero(TEST.complete())[:1])
    assert limits.traits(one, one.joints[0])["unlike the mean pose"] == pytest.approx(0, abs=1e-6)


def test_lightness_is_cie_lightness():
    grey = limits.lightness(np.array([[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]]))
    assert grey == pytest.approx([0, 100, 53.39], abs=0.02)
    assert limits.lightness(np.array([0, 1.0, 0])) > limits.lightness(np.array([1.0, 0, 0])) > 50


def test_a_brighter_picture_of_the_same_person_is_brighter():
    images = np.minimum(TEST.images.astype(int) + 20, 255).astype(np.uint8)
    brighter = limits.traits(replace(TEST, images=images), floors.mean_pose(TEST))
    change = brighter["brightness"] - KNOWN["brightness"]
    assert (change > 5).all() and (change <= 20.001).all() and np.median(change) > 19
    assert (brighter["skin"] == KNOWN["skin"]).all()


@pytest.mark.parametrize("wrong", [DATA, load_people("test", limit=4), load_people("test", limit=4, parts=True,
                                                                                 skeleton=LSP14)])
def test_traits_of_other_data_are_refused(wrong):
    with pytest.raises(ValueError, match="parts=True and labelled with H36M17"):
        limits.traits(wrong, np.zeros((len(wrong.skeleton), 2)))


# -------------------------------------------------------------------------------------------------------- the groups


def test_thirds_are_thirds_and_share_nobody():
    groups = limits.group(KNOWN, CUTS)
    for name, words in limits.THIRDS.items():
        masks = np.array([groups[name, word] for word in words])
        assert (masks.sum(axis=0) == 1).all() and masks.mean(axis=1) == pytest.approx(1 / 3, abs=0.12), name
        ordered = [KNOWN[name][mask] for mask in masks]
        assert ordered[0].max() <= ordered[1].min() and ordered[1].max() <= ordered[2].min(), name
    assert ("motion blur", "yes") in groups and ("motion blur", "no") not in groups
    both = groups["skin and sex", "dark, female"]
    assert (both == (groups["skin", "dark"] & (KNOWN["sex"] == "female"))).all() and 0 < both.sum() < len(TEST) / 2


def test_a_value_on_a_cut_and_a_missing_one():
    groups = limits.group({"skin": np.array([10, 20, 30, np.nan, 5])}, {"skin": np.array([10, 30])})
    assert [groups["skin", word].tolist() for word in ("dark", "medium", "light")] == [
        [False] * 4 + [True], [True, True, False, False, False], [False, False, True, False, False]]


# ---------------------------------------------------------------------------------------------------- the comparison


def made_up(effect=0.0, subjects=100, each=8, between=0.1, seed=0):
    """Values, one group of half of the subjects who are better by `effect`, and subjects."""
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(subjects), each)
    inside = (rng.permutation(subjects) < subjects // 2)[subject]
    values = 0.4 + effect * inside + rng.normal(0, between, subjects)[subject] + rng.normal(0, 0.1, len(subject))
    return values, inside[:, None], subject


def test_a_difference_is_found_with_its_sign_and_counts():
    values, members, subject = made_up(effect=-0.2)
    found = limits.against_rest(values, members, subject)
    expected = values[members[:, 0]].mean() - values[~members[:, 0]].mean()
    assert found["difference"] == pytest.approx(expected) and found["mean"] == pytest.approx(
        values[members[:, 0]].mean())
    assert found["high"] < 0 and found["low"] < found["difference"] < found["high"] and found["p"] < 1e-6
    assert found["images"] == 400 and found["subjects"] == 50
    assert limits.judge(found) == ["worse"] and limits.judge(found, sign=-1) == ["better"]


def test_intervals_know_that_pictures_of_one_subject_are_not_independent():
    values, members, subject = made_up()
    by_subject = limits.against_rest(values, members, subject)["se"][0]
    by_image = limits.against_rest(values, members, np.arange(len(values)))["se"][0]
    means = np.array([values[subject == s].mean() for s in range(100)])
    theory = np.sqrt(2 * means.var() / 50)
    assert by_subject == pytest.approx(theory, rel=0.25) and by_image < 0.7 * by_subject
    copied = np.repeat(np.arange(len(values)), 5)                          # the same pictures again: nothing is learned
    again = limits.against_rest(values[copied], members[copied], subject[copied])["se"][0]
    assert again == pytest.approx(by_subject, rel=0.02)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    holds = []
    for seed in range(60):
        found = limits.against_rest(*made_up(effect=0.05, subjects=60, seed=seed), repeats=400)
        holds.append(found["low"][0] <= 0.05 <= found["high"][0])
    assert 0.85 <= np.mean(holds) <= 1


def test_missing_values_do_not_count_and_empty_groups_are_not_judged():
    values, members, subject = made_up(effect=-0.2)
    members = np.c_[members, np.zeros(len(values), bool), np.ones(len(values), bool), np.arange(len(values)) < 8]
    values[:8] = np.nan
    found = limits.against_rest(values, members, subject)
    assert found["images"][[1, 2, 3]].tolist() == [0, len(values) - 8, 0]
    assert np.isnan(found["p"][1:]).all() and limits.judge(found) == ["worse", "too few", "too few", "too few"]


def test_shapes_that_do_not_fit_are_refused():
    values, members, subject = made_up()
    for wrong in ((values[1:], members, subject), (values, members[:, 0], subject), (values, members, subject[1:])):
        with pytest.raises(ValueError, match="must be"):
            limits.against_rest(*wrong)
    with pytest.raises(ValueError, match="differences of seeds"):
        limits.judge(limits.against_rest(values, members, subject), np.zeros((5, 2)))


def test_holm_as_written_down_slowly():
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.random(9) ** 3
        adjusted = limits.holm(p)
        for level in (0.01, 0.05, 0.2, 0.6):
            rejected, left = set(), sorted(range(9), key=p.__getitem__)
            for k in left:
                if p[k] > level / (9 - len(rejected)):
                    break
                rejected.add(k)
            assert rejected == set(np.flatnonzero(adjusted <= level))
    assert limits.holm(np.array([0.01, np.nan, 0.04])) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)


def test_a_verdict_needs_certainty_size_and_every_seed():
    values, members, subject = made_up(effect=-0.2)
    found = limits.against_rest(values, members, subject)
    assert limits.judge(found, np.full((5, 1), -0.1)) == ["worse"]
    assert limits.judge(found, np.array([[-0.1]] * 4 + [[0.01]])) == ["no difference shown"]
    many = {name: np.repeat(value, 3) for name, value in found.items()}
    assert limits.judge({**many, "p": np.array([0.03, 0.03, 0.03])}) == ["no difference shown"] * 3
    tiny_one = limits.against_rest(values / 20, members, subject)
    assert tiny_one["p"] < 1e-6 and limits.judge(tiny_one) == ["no difference shown"]
    small = {**found, "subjects": np.array([limits.FEWEST_SUBJECTS - 1])}
    assert limits.judge(small) == ["too few"]


def test_groups_that_are_too_small_do_not_cost_the_others():
    found = {"difference": np.array([-0.1, -0.1]), "p": np.array([0.03, 0.5]), "subjects": np.array([50, 2]),
             "images": np.array([400, 16])}
    assert limits.judge(found) == ["worse", "too few"]


def test_the_smallest_difference_is_found_four_times_in_five():
    se = 0.02
    truth = limits.smallest_difference(se, asked=10)
    seen = np.random.default_rng(0).normal(truth, se, 20000)
    assert (np.abs(seen) / se > 2.807).mean() == pytest.approx(0.8, abs=0.01)      # two-sided 0.005
    assert limits.smallest_difference(se) == pytest.approx(2.80 * se, rel=0.001)
    with pytest.raises(ValueError, match="at least one"):
        limits.smallest_difference(se, asked=0)


def test_shuffled_groups_keep_their_sizes_and_lose_their_effect():
    values, members, subject = made_up(effect=-0.3)
    rng = np.random.default_rng(0)
    for whole in (True, False):
        differences = []
        for _ in range(30):
            dealt = limits.shuffle_members(members, subject, whole, rng)
            assert dealt.sum() == members.sum()
            if whole:
                assert all(len(set(dealt[subject == s, 0])) == 1 for s in range(100))
            differences.append(values[dealt[:, 0]].mean() - values[~dealt[:, 0]].mean())
        assert abs(np.mean(differences)) < 0.03
