"""Run records, scores, intervals and tables."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import CODECS, people, tiny

from posebook import floors, geometry, results
from posebook.datasets import load_people
from posebook.networks import PoseNetwork
from posebook.skeleton import ABSENT, H36M17, LSP14


def test_a_record_comes_back_with_nan_as_null_and_arrays_as_lists(tmp_path):
    path = tmp_path / "deep" / "run.json"
    record = {"a": float("nan"), "b": np.array([1.0, np.inf]), "c": (np.float32(0.123456789), np.int64(3)),
              "d": {"e": True, 5: None}, "f": 1 / 3}
    assert results.write_record(path, record) == path
    assert results.read_record(path) == {"a": None, "b": [1.0, None], "c": [0.123457, 3], "d": {"e": True, "5": None},
                                         "f": 0.333333}
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]


@pytest.mark.parametrize("failure", ["not serialisable", "disk full"])
def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch, failure):
    path = results.write_record(tmp_path / "run.json", {"old": 1})
    record = {"new": object()} if failure == "not serialisable" else {"new": 2}

    def full(*_):
        raise OSError("disk full")
    if failure == "disk full":
        monkeypatch.setattr(os, "replace", full)
    with pytest.raises((TypeError, OSError)):
        results.write_record(path, record)
    assert results.read_record(path) == {"old": 1} and list(tmp_path.iterdir()) == [path]


def test_an_unknown_record_names_those_there_are(tmp_path, monkeypatch):
    results.write_record(tmp_path / "beta.json", {})
    results.write_record(tmp_path / "alpha.json", {"x": 1})
    monkeypatch.setattr(results, "results_folder", lambda kind="results": tmp_path)
    assert results.read_record("alpha") == {"x": 1}
    with pytest.raises(FileNotFoundError, match="no record gamma.json; in .* there are: alpha, beta"):
        results.read_record("gamma")


def test_half_a_record_is_refused(tmp_path):
    (tmp_path / "run.json").write_text('{"a": [1, 2')
    with pytest.raises(ValueError, match="not a whole JSON file"):
        results.read_record(tmp_path / "run.json")


def test_the_truth_scores_one_and_a_far_guess_zero():
    data = people(6)
    right, wrong = results.score(data.source_joints, data), results.score(data.source_joints + 500, data)
    for key in ("pck@0.2_torso", "pcp_strict", "pcp_loose"):
        assert right[key] == 1 and wrong[key] == 0
    # Source joints went through float32, so at threshold 0 exactly equal is still exactly equal.
    assert right["pck_auc_0.5"] == pytest.approx(1) and wrong["pck_auc_0.5"] == 0
    assert right["images"] == 6 and right["images_without_torso"] == 0
    assert set(right["pck@0.2_per_joint"]) == set(LSP14.joints)
    assert set(right["pcp_strict_per_limb"]) == set(LSP14.limb_names)
    assert len(right["pck_curve"]["values"]) == 51 and right["pck_curve"]["thresholds"][29] == 0.29
    assert right["pck_interval"] == {"mean": 1, "low": 1, "high": 1}


def tables(values, images):
    return [{"pck@0.2_torso": value, "pck_per_image": images} for value in values]


def five(low, high):
    return np.linspace(low, high, 5)


@pytest.mark.parametrize("ours, gain, verdict", [
    (five(0.5, 0.6), 0.2, "better"), (five(0.39, 0.5), 0.2, "no difference shown"),
    (five(0.5, 0.6), 0.0, "no difference shown"), (five(0.5, 0.6), -0.2, "no difference shown"),
    (five(0.1, 0.2), -0.2, "worse"), (five(0.1, 0.2), 0.2, "no difference shown"), (five(0.5, 0.6)[:4], 0.2, None)])
def test_a_verdict_needs_seeds_and_images(ours, gain, verdict):
    rng = np.random.default_rng(0)
    before = rng.uniform(0.2, 0.7, 200)
    after = (before + gain + rng.normal(0, 0.1, 200)).tolist()
    after[3] = None
    base = tables(five(0.3, 0.4), before.tolist())
    found = results.compare(tables(ours, after), base)
    assert found["verdict"] == verdict
    assert found["images"]["mean"] == pytest.approx(np.nanmean(np.array(after, float) - before), abs=0.01)
    assert found["images"]["low"] < gain + 0.02 and found["images"]["high"] > gain - 0.02
    with pytest.raises(ValueError, match="needs the same images"):
        results.compare(tables(ours, after[1:]), base)


def test_images_of_one_person_are_resampled_together():
    people_in = np.repeat(np.arange(20), 10)
    one = np.random.default_rng(0).normal(size=20)[people_in]                 # all images of a person are alike
    apart, together = results.bootstrap_mean(one), results.bootstrap_mean(one, groups=people_in)
    assert apart["mean"] == together["mean"]
    assert 2 < (together["high"] - together["low"]) / (apart["high"] - apart["low"]) < 4.5      # the root of ten
    single = results.bootstrap_mean(one, groups=np.arange(200))
    assert single["high"] - single["low"] == pytest.approx(apart["high"] - apart["low"], rel=0.15)


def test_exchanged_left_and_right_are_found_whatever_absent_joints_hold():
    data = people(6)
    state, joints = data.state.copy(), data.joints.copy()
    state[1, LSP14.index("left_wrist")], joints[1, LSP14.index("left_wrist")] = ABSENT, 1e4
    state[5] = ABSENT
    data = replace(data, state=state, joints=joints)
    predicted = data.source_joints + 0.5
    mixed = np.where(np.arange(6)[:, None, None] % 2 == 1, predicted[:, LSP14.mirror], predicted)
    np.testing.assert_array_equal(results.swapped(mixed, data), [0, 1, 0, 1, 0, np.nan])
    assert results.score(mixed, data)["swapped"] == pytest.approx(2 / 5)


def test_images_without_a_torso_are_counted():
    data = people(4)
    state = data.state.copy()
    state[1, [LSP14.index("left_hip"), LSP14.index("right_hip")]] = ABSENT
    assert results.score(data.source_joints, replace(data, state=state))["images_without_torso"] == 1


def test_network_and_floors_are_scored_on_the_same_images():
    torch.manual_seed(0)
    train, data = people(10), people(6, seed=1, split="validation")
    joints = data.joints.copy()
    joints[0, :, 1] = 39 - joints[0, :, 1]                  # one stands on her head
    data = replace(data, joints=joints)
    found = results.score_with_floors(PoseNetwork(tiny()), CODECS, train, data)
    assert found["all"]["network"]["images"] == 6 and found["upright"]["network"]["images"] == 5
    assert set(found["all"]) == {"network", "mean_pose", "nearest_neighbour"}
    expected = results.score(floors.predict_mean_pose(floors.mean_pose(train), data), data)
    assert found["all"]["mean_pose"]["pck@0.2_torso"] == expected["pck@0.2_torso"]
    json.dumps(results.plain(found), allow_nan=False)


def test_bootstrap_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        interval = results.bootstrap_mean(rng.normal(0.5, 0.2, 60), repeats=300, seed=seed)
        assert interval["low"] <= interval["mean"] <= interval["high"]
        hits += interval["low"] <= 0.5 <= interval["high"]
    assert 0.88 <= hits / 200 <= 0.99


def test_bootstrap_narrows_with_more_images_repeats_with_its_seed_and_skips_nan():
    values = np.random.default_rng(1).random(400)
    few, many = results.bootstrap_mean(values[:25]), results.bootstrap_mean(values)
    assert many["high"] - many["low"] < 0.5 * (few["high"] - few["low"])
    assert many == results.bootstrap_mean(values) and many != results.bootstrap_mean(values, seed=1)
    assert results.bootstrap_mean(np.r_[values, np.nan]) == many
    assert np.isnan(list(results.bootstrap_mean(np.full(3, np.nan)).values())).all()


def test_table_is_markdown_with_rounded_numbers_and_dashes():
    text = results.table(["what", "a", "b"], [["x", 0.12345, 10], ["longer", float("nan"), None]], digits=2)
    assert text.splitlines() == ["| what   |    a |  b |", "|--------|-----:|---:|", "| x      | 0.12 | 10 |",
                                 "| longer |    – |  – |"]


def test_score_table_has_a_row_for_every_joint_and_limb():
    data = people(4)
    score = results.score(data.source_joints, data)
    lines = results.score_table({"network": score, "mean_pose": score}, "people validation").splitlines()
    assert "people validation (4 images)" in lines[0] and "mean pose" in lines[0]
    assert len(lines) == 2 + 1 + 14 + 1 + 10 and all(line.count("1.000") == 2 for line in lines[2:])


def test_environment_tells_versions_and_hardware_also_without_git(monkeypatch):
    found = results.environment()
    assert found["torch"] == torch.__version__ and found["hardware"] and found["threads"] >= 1
    assert shutil.which("git") is None or not (Path(results.__file__).parents[1] / ".git").exists() \
        or found["commit"] != "unknown"
    monkeypatch.setenv("PATH", "/nowhere")
    assert results.environment()["commit"] == "unknown"
    monkeypatch.setattr(results.platform, "machine", lambda: "abacus")
    monkeypatch.setattr(results.Path, "read_text", lambda *_: "processor: 0\n")        # as on some ARM machines
    assert torch.cuda.is_available() or results.environment()["hardware"].startswith("abacus (CPU, ")
    json.dumps(found)


def test_shipped_weights_lie_with_the_book():
    assert results.shipped_weights("people").parts[-2:] == ("weights", "regression-people.safetensors")


def test_a_paired_comparison_takes_out_what_both_find_hard():
    rng = np.random.default_rng(0)
    hard = rng.uniform(0, 1, 500)
    one, other = hard + rng.normal(0.02, 0.05, 500), hard + rng.normal(0, 0.05, 500)
    one[3] = np.nan
    found = results.paired_bootstrap(one, other)
    assert 0 < found["low"] < np.nanmean(one - other) < found["high"] and found["high"] - found["low"] < 0.02
    apart = results.bootstrap_mean(one)
    assert apart["high"] - apart["low"] > 3 * (found["high"] - found["low"])
    with pytest.raises(ValueError, match="needs the same images"):
        results.paired_bootstrap(one, other[:9])


def test_scores_hold_the_share_of_every_image():
    train, data = people(12), people(6, seed=1, split="validation")
    scores = results.score_with_floors(PoseNetwork(tiny()), CODECS, train, data)
    mine = scores["all"]["network"]
    shares = mine["pck_per_image"]
    assert shares.shape == (6,) and np.nanmean(shares) == pytest.approx(mine["pck_interval"]["mean"])
    assert "pck_per_image" not in scores["all"]["mean_pose"] and "pck_per_image" not in scores["upright"]["network"]


# ------------------------------------------------------------------------------------------------ 3D

def test_the_3d_table_by_hand_and_its_parts():
    data = load_people("validation", limit=12)
    root, true = data.skeleton.root, data.joints3d
    known = (data.state != ABSENT) & (data.state[:, [root]] != ABSENT)
    relative = true - true[:, [root]]
    perfect = results.score3d(relative, data)
    assert perfect["mpjpe"] < 1e-3 and perfect["pck3d@150"] == 1 and perfect["pa_mpjpe"] < 1e-3
    step = np.zeros((17, 3), np.float32)
    step[1:] = [30, 40, 120]                      # 50 mm in the plane, 120 in depth, 130 in all; not the root
    found = results.score3d(relative + step, data)
    per_joint = np.array(list(found["mpjpe_per_joint"].values()))
    np.testing.assert_allclose(per_joint, [0] + [130] * 16, atol=1e-2)
    assert found["mpjpe"] == pytest.approx(130 * known[:, 1:].sum(0).astype(bool).sum() / 17, rel=1e-3)
    share = known[:, 1:].sum() / known.sum()
    assert found["in_plane"] == pytest.approx(50 * share, rel=1e-3)
    assert found["in_depth"] == pytest.approx(120 * share, rel=1e-3)
    for action, value in found["mpjpe_per_action"].items():
        rows = (data.groups["action"] == action) & known[:, root]
        assert value == pytest.approx(np.mean([np.linalg.norm(step, axis=1)[known[n]].mean() for n in
                                               np.flatnonzero(rows)]), rel=1e-3)


def test_in_3d_less_is_better():
    base = [{"mpjpe": 200.0 + s, "mpjpe_per_image": [200.0 + s, None, 201.0 + s]} for s in range(5)]
    ours = [{"mpjpe": 190.0 + s, "mpjpe_per_image": [190.0 + s, None, 191.0 + s]} for s in range(5)]
    found = results.compare(ours, base, measure="mpjpe")
    assert found["verdict"] == "better" and found["images"]["mean"] == pytest.approx(-10)
    assert results.compare(base, ours, measure="mpjpe")["verdict"] == "worse"
    assert results.compare(base, base, measure="mpjpe")["verdict"] == "no difference shown"
    assert results.compare(ours[:3], base, measure="mpjpe")["verdict"] is None


def test_the_3d_floors_know_no_picture():
    train, data = load_people("train", limit=40), load_people("validation", limit=10)
    tables = results.floors3d(train, data)
    assert 150 < tables["mean_pose"]["mpjpe"] < 500 and 50 < tables["nearest_neighbour_2d"]["mpjpe"] < 500
    itself = results.floors3d(train, train)["nearest_neighbour_2d"]
    whole = train.complete()
    errors = np.array(itself["mpjpe_per_image"])
    assert np.nanmax(errors[whole]) < 1e-3                                # its own nearest neighbour
    mirrored = floors.predict_nearest3d(train, train.mirrored())
    right = geometry.mirror3d(geometry.root_relative(train.joints3d, train.skeleton), train.skeleton)
    assert np.abs(mirrored - right)[whole].max() < 1e-2


# --- what a record holds


RECORDS = sorted(results.results_folder().glob("*.json"))


def test_every_record_of_the_book_is_one():
    assert len(RECORDS) > 200
    wrong = {path.stem: found for path in RECORDS if (found := results.check_record(results.read_record(path)))}
    assert not wrong
    assert all(results.read_record(path)["name"] == path.stem for path in RECORDS)


def change(record, path, value):
    *steps, last = path.split("/")
    for step in steps:
        record = record[step]
    if value is None:
        del record[last]
    else:
        record[last] = value


@pytest.mark.parametrize(("name", "path", "value", "complaint"), [
    ("tasks-people-both-0", "name", None, "a record needs name"),
    ("tasks-people-both-0", "tasks", "regression", "tasks is str and should be list"),
    ("tasks-people-both-0", "environment/commit", None, "environment lacks commit"),
    ("tasks-people-both-0", "environment", None, "a record needs environment"),
    ("tasks-people-both-0", "config/seed", None, "config names no seed"),
    ("tasks-people-both-0", "history", [], "0 epochs of history"),
    ("tasks-people-both-0", "kept_epoch", 20, "20 epochs of history, kept is 20"),
    ("tasks-people-both-0", "scores/all/network/pck_per_image", [0.5],
     "scores/all/network/pck_per_image has 1 values for 1000 images"),
    ("tasks-people-both-0", "scores/all/network/pcp_strict", 1.5, "scores/all/network/pcp_strict is 1.5"),
    ("tasks-people-both-0", "scores/all/network/pck_interval/low", 0.9, "is not between 0.9"),
    ("three-d-joint-0", "scores3d/people:test/mpjpe", -3.0, "scores3d/people:test/mpjpe is -3.0"),
    ("explain-joint-0", "run", 5, "run is int and should be str"),
    ("explain-joint-0", "split", None, "a record needs split"),
    ("families-people-both-0", "ways/tree/pck_per_image", [], "ways/tree/pck_per_image has 0 values"),
])
def test_a_damaged_record_is_described(name, path, value, complaint):
    record = results.read_record(name)
    assert results.check_record(record) == []
    change(record, path, value)
    found = results.check_record(record)
    assert any(complaint in line for line in found), found


def test_losses_of_older_records_are_divided_by_those_of_a_newer_one():
    old, new = (results.read_record(f"tasks-people-{name}-0") for name in ("both", "plain-both"))
    floor = new["mean_pose_losses"]
    assert "mean_pose_losses" not in old
    assert results.losses_over_mean_pose(old)[1] == pytest.approx(
        old["history"][-1]["validation_losses"]["regression"] / floor["validation"])
    assert results.losses_over_mean_pose(new)[0] == pytest.approx(
        new["on_training_images"]["validation_losses"]["regression"] / floor["training_images"])


def test_epochs_to_a_level():
    record = {"history": [{"epoch": k, "validation_pck": v} for k, v in enumerate((0.1, 0.3, 0.2, 0.4))]}
    assert [results.epochs_to(record, level) for level in (0.05, 0.3, 0.35, 0.5)] == [1, 2, 4, np.inf]


def test_selectivity_is_above_shuffled_labels_and_a_dead_map_has_none():
    layer = {"trained": [[0.5, 0.2], [None, None], [0.3, None]],
             "trained, shuffled": [[0.1, 0.1], [None, None], [0.1, None]]}
    record = {"features": {"conv3": {**layer, "parts": layer}}}
    for of in ("joints", "parts"):
        assert np.allclose(results.above_shuffled(record, "conv3", of=of), [0.4, np.nan, 0.2], equal_nan=True)


def test_what_is_read_off_a_last_layer():
    size = len(H36M17)
    wrist, knee, hip = (H36M17.index(f"left_{name}") for name in ("wrist", "knee", "hip"))
    correlation = np.full((3, size, size), 0.25)
    correlation[1, knee, hip] = -0.5
    ends = [j for j, name in enumerate(H36M17.joints) if name.endswith(("wrist", "ankle"))]
    sparse = np.full((3, size, size), -2.0)
    sparse[:, ends], sparse[:, :, ends] = -1.0, -1.0
    record = {"weights": {"trained": {"correlation": correlation, "co_sparsity": sparse}}}
    assert results.joint_correlation(record, "left_knee", "left_hip", "y") == -0.5
    assert results.joint_correlation(record, "left_knee", "left_hip", "x") == 0.25
    assert 0.25 < results.mean_correlation(record) < 0.2515
    with_end = [bool({i, j} & set(ends)) for i in range(size) for j in range(i + 1, size) if H36M17.root not in (i, j)]
    assert wrist in ends and results.sparsity_contrast(record) == pytest.approx(1 / np.std(with_end))


# --- families of runs


def family(level, count=5, images=40):
    """Tables of `count` seeds around a level, with a value for every image."""
    rng = np.random.default_rng(round(1000 * level))
    each = np.clip(level + rng.normal(0, 0.02, (count, images)), 0, 1)
    return [{"images": images, "pck@0.2_torso": float(row.mean()), "pck_per_image": row.tolist()} for row in each]


def test_families_are_compared_with_seeds_images_and_a_verdict():
    rows = {"plain": family(0.3), "good": family(0.5), "one": family(0.4, count=1)}
    head, _, plain, good, one = results.compare_table(rows, "plain").splitlines()
    assert "less plain (95 % over images)" in head
    assert [cell.strip() for cell in plain.split("|")[5:8]] == ["–", "–", "5"]
    mean = np.mean([t["pck@0.2_torso"] for t in rows["good"]])
    assert f"{mean:.3f}" in good and " better |" in good and "+0.2" in good
    low, high = (f"{f([t['pck@0.2_torso'] for t in rows['good']]):.3f}" for f in (min, max))
    assert f"{low} to {high}" in good
    assert [cell.strip() for cell in one.split("|")[6:8]] == ["–", "1"]                       # too few for a verdict


@pytest.mark.parametrize(("rows", "message"), [
    ({"a": family(0.3)}, "b is not among the rows: a"), ({"a": family(0.3), "b": []}, "b has no table"),
    ({"b": family(0.3), "a": [{"images": 1, "pck@0.2_torso": 1.0}]}, "a has tables without pck_per_image")])
def test_a_comparison_needs_a_base_and_images(rows, message):
    with pytest.raises(ValueError, match=message):
        results.compare_table(rows, "b")


def test_a_family_is_found_among_records_and_among_runs(tmp_path):
    for seed in (10, 2, 0):
        results.write_record(tmp_path / f"a-{seed}.json", {"name": f"a-{seed}"})
        results.write_record(tmp_path / "runs" / f"a-{seed}" / "record.json", {"name": f"a-{seed}"})
    results.write_record(tmp_path / "a-b-0.json", {"name": "another family"})
    for folder in (tmp_path, tmp_path / "runs"):
        assert [r["name"] for r in results.read_family("a", folder)] == ["a-0", "a-2", "a-10"]
    with pytest.raises(FileNotFoundError, match="no record c-SEED in"):
        results.read_family("c", tmp_path)


def test_a_value_is_found_by_its_path():
    record = {"name": "r-0", "history": [{"loss": 3}, {"loss": 2}]}
    assert results.value_at(record, "history/-1/loss") == 2
    with pytest.raises(KeyError, match="record r-0 has no history/7/loss .at '7'."):
        results.value_at(record, "history/7/loss")


def test_the_peak_of_memory_holds_what_was_held():
    """In a process of its own: another's peak may be gigabytes."""
    script = """
import json
import numpy as np
from posebook import results
before = results.peak_memory_mb()
held = np.ones(round((before["process"] + 50) * 2**20 / 8))     # more than ever before, every page touched
print(json.dumps([before, results.peak_memory_mb(), held.nbytes / 2**20]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after, held = json.loads(done.stdout)
    assert before["process"] > 0 and before["process"] + 40 < after["process"] and held < after["process"]
    assert ("gpu" in after) == torch.cuda.is_available()
