"""Figures that a reader can touch: whole, safe inside a page, and refused when they would show nonsense."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from samples import pose

from posebook import metrics
from posebook.interactive import film, live_network, measures, neurons, pairs, skeletons, structure, window_grid
from posebook.pictorial import learn_springs
from posebook.skeleton import ABSENT, H36M17, LSP14, UPPER8, VISIBLE, Limb, Skeleton
from posebook.targets import PartWindows, WindowGrid, paper_a_grid

POSE = pose(LSP14, (32, 34), 26)


def test_the_window_figure_carries_the_rules_of_its_codec():
    text = window_grid(POSE, LSP14, PartWindows(LSP14, paper_a_grid(), share=0.25), "left_lower_arm")
    assert "FIGURE_" not in text and text.count("<script>") == text.count("</script>") == 1
    data = json.loads(re.search(r"const data = (.*);\n", text).group(1))
    assert {k: data[k] for k in ("size", "window", "stride", "side", "share")} == {
        "size": 64, "window": 17, "stride": 7, "side": 8, "share": 0.25}
    arm = data["limbs"][data["limb"]]
    assert arm["name"] == "left lower arm" and arm["side"] == "left"
    np.testing.assert_allclose(arm["ends"], POSE[[LSP14.index("left_elbow"), LSP14.index("left_wrist")]], atol=0.01)


def test_two_figures_on_a_page_have_ids_of_their_own_and_one_keeps_its_id():
    ids = [re.search(r'id="(figure-\w+)"', window_grid(POSE, LSP14, PartWindows(LSP14, grid), "head")).group(1)
           for grid in (paper_a_grid(), WindowGrid(64, 16, 8), paper_a_grid())]
    assert ids[0] == ids[2] != ids[1]


@pytest.mark.parametrize("change, message", [
    ({"limb": "left_wing"}, "LSP14 has no part left_wing"), ({"joints": POSE[:8]}, r"a pose of LSP14 is \(14, 2\)"),
    ({"joints": POSE * np.nan}, "finite numbers"), ({"skeleton": UPPER8}, "a pose of UPPER8")])
def test_figures_that_would_show_nonsense_are_refused(change, message):
    parts = {"joints": POSE, "skeleton": LSP14, "codec": PartWindows(LSP14, paper_a_grid()), "limb": "head", **change}
    with pytest.raises(ValueError, match=message):
        window_grid(**parts)


ARM = Skeleton("arm", ("wrist", "elbow", "shoulder"), {"elbow": "shoulder", "wrist": "elbow"},
               (Limb("upper_arm", ("shoulder",), ("elbow",)),))


def test_the_tree_figure_carries_springs_with_parents_first():
    poses = np.random.default_rng(0).normal(0, 2, (50, 3, 2)) + np.array([[2, 14], [1, 8], [0, 0]])
    springs = learn_springs(poses, np.full((50, 3), 2), ARM)
    text = structure(springs, [("wrist", 10, 12, 1.0), ("shoulder", 3, 4.5, 0.5)])
    assert "FIGURE_" not in text and text.count("<script>") == text.count("</script>") == 1
    data = json.loads(re.search(r"const data = (.*);\n", text).group(1))
    assert data["joints"] == ["shoulder", "elbow", "wrist"] and data["parents"] == [0, 0, 1]
    np.testing.assert_allclose(data["offsets"][2], springs.offset[0, 0])
    assert data["peaks"][0] == {"joint": 2, "x": 10, "y": 12, "height": 1.0}
    for peak in (("tail", 3, 3, 1.0), ("wrist", 40, 3, 1.0)):
        with pytest.raises(ValueError, match=f"the peak of {peak[0]} at .* does not fit: joints are shoulder"):
            structure(springs, [peak])
    for large in (learn_springs(poses, np.full((50, 3), 2), ARM, components=2),
                  learn_springs(np.stack([POSE, POSE + 1]), np.full((2, 14), 2), LSP14)):
        with pytest.raises(ValueError, match="colours for four joints, and springs with one component"):
            structure(large, [])


def test_the_3d_figure_carries_pictures_and_poses_and_loads_the_book_s_own_library():
    poses = np.random.default_rng(0).normal(0, 300, (2, 17, 3))
    images = np.zeros((2, 3, 16, 16), np.uint8)
    text = skeletons(images, poses, {"regression": poses + 7}, H36M17, ["one", "two"])
    assert "FIGURE_" not in text and text.count("<script>") == text.count("</script>") == 1
    data = json.loads(re.search(r"const data = (.*);\n", text).group(1))
    assert len(data["bones"]) == 16 and [8, 11, "left"] in data["bones"]
    assert data["people"][1]["image"].startswith("data:image/jpeg;base64,")
    np.testing.assert_allclose(data["people"][0]["poses"]["regression"], poses[0] + 7, atol=0.5)
    library = Path(__file__).parents[1] / "assets" / "vendor" / "plotly-gl3d.min.js"
    assert library.is_file() and f"_static/vendor/{library.name}" in text
    for change in ({"poses": {}}, {"names": ["one"]}, {"truth": poses[:, :14]}, {"poses": {"bad": poses * np.nan}}):
        with pytest.raises(ValueError, match="figure needs people|must be .* finite numbers"):
            skeletons(**{"images": images, "truth": poses, "poses": {"a": poses}, "skeleton": H36M17,
                         "names": ["one", "two"], **change})


def test_the_matrix_figure_knows_what_is_unknown():
    rng = np.random.default_rng(0)
    one, other = rng.uniform(-1, 1, (2, 17, 17))
    one[0] = np.nan
    body = rng.normal(size=(17, 2))
    text = pairs({"weights": {"x": one, "y": other}, "poses": {"x": other, "y": one}}, body, H36M17,
                 ("left_hip", "right_hip"))
    data = json.loads(re.search(r"const data = (.*);\n", text).group(1))
    assert data["matrices"]["weights"]["x"][0][3] is None and data["chosen"] == [4, 1]
    np.testing.assert_allclose(data["matrices"]["poses"]["x"], other, atol=1e-3)
    for bad in ({"weights": {"x": one[:5]}}, {}, {"a": {"x": one}, "b": {"y": one}}):
        with pytest.raises(ValueError, match="the figure needs matrices"):
            pairs(bad, body, H36M17, ("left_hip", "right_hip"))
    with pytest.raises(KeyError, match="has no joint"):
        pairs({"weights": {"x": one}}, body, H36M17, ("left_hip", "tail"))


def test_the_neurons_figure_holds_one_sheet_a_map():
    rng = np.random.default_rng(0)
    parts = {"averages": rng.uniform(0, 1, (4, 3, 9, 9)), "patches": rng.integers(0, 255, (4, 9, 3, 9, 9), np.uint8),
             "scores": rng.uniform(0, 1, (4, 17)), "controls": np.full((4, 17), 0.1),
             "dead": np.array([0, 0, 1, 0], bool),
             "skeleton": H36M17, "label": "trained", "control_label": "shuffled"}
    text = neurons(**parts)
    assert "FIGURE_" not in text and text.count("<script>") == text.count("</script>") == 1
    data = json.loads(re.search(r"const data = (.*);\n", text).group(1))
    assert len(data["maps"]) == 4 and data["maps"][2]["dead"] and data["chosen"] == parts["scores"].max(axis=1).argmax()
    np.testing.assert_allclose(data["maps"][1]["score"], parts["scores"][1], atol=1e-3)
    for change in ({"scores": parts["scores"][:, :5]}, {"patches": parts["patches"][:, :4]}, {"dead": [False]}):
        with pytest.raises(ValueError, match="the figure needs, for each"):
            neurons(**{**parts, **change})


@pytest.mark.parametrize("small", [False, True])
def test_the_live_network_loads_files_that_are_there_and_says_where_it_cannot_run(small):
    text = live_network(small=small)
    assert "FIGURE_" not in text and ("data-small" in text) == small
    assert "JupyterLab" in text and "http.server" in text
    loaded = re.findall(r'(?:src|href)="\.\./_static/([^"]+)"', text)
    assert len(loaded) == 2
    assets = Path(__file__).parents[1] / "assets"
    assert all((assets / name).is_file() for name in loaded)
    scripts = [assets / "live" / "live.js"]
    for script in scripts:                                             # the modules find each other too
        scripts += [path for name in re.findall(r'^import .* from "\./([^"]+)"', script.read_text(), re.MULTILINE)
                    if (path := assets / "live" / name) not in scripts]
    assert len(scripts) == 5 and all(path.is_file() for path in scripts)


STATE = np.full(17, VISIBLE)
SOLID = np.concatenate([pose(H36M17, (0, 0), 800), np.zeros((17, 1))], axis=1) + (0, 0, 4000)
ONE = {"image": np.zeros((3, 100, 100), np.uint8), "joints": pose(H36M17, (50, 50), 40), "state": STATE,
       "joints3d": SOLID, "skeleton": H36M17, "chosen": "left_wrist"}


def data_of(text: str) -> dict:
    assert "FIGURE_" not in text and text.count("<script>") == text.count("</script>") == 1 and "NaN" not in text.split(
        "const data = ")[1].split(";\n")[0]
    return json.loads(re.search(r"const data = (.*);\n", text).group(1))


def test_the_measures_figure_carries_rulers_limbs_and_a_prediction():
    data = data_of(measures(**ONE))
    assert data["scale"] == pytest.approx(20)                              # 800 mm are 40 pixels
    assert data["rulers"]["torso"] == pytest.approx(metrics.torso_diameter(ONE["joints"][None], STATE[None], H36M17)[0],
                                                    abs=0.01)
    assert data["rulers"]["box"] == pytest.approx(81, abs=0.01)            # two units of 40 pixels, half open
    assert [limb["name"] for limb in data["limbs"]][:2] == ["torso", "head"]
    off = np.subtract(data["start"], data["truth"])
    assert 3 < off.std() < 11 and len(set(map(tuple, off))) == 17
    np.testing.assert_allclose(np.subtract(data["start3"], data["truth3"])[:, :2], 20 * off, atol=0.2)
    assert data["joints"][data["chosen"]] == "left wrist"
    hidden = STATE.copy()
    hidden[[H36M17.index(name) for name in ("head_top", "left_shoulder", "right_shoulder")]] = ABSENT
    data = data_of(measures(**{**ONE, "state": hidden, "joints": np.where(hidden[:, None] > 0, ONE["joints"], np.nan)}))
    assert data["rulers"]["head"] is None and data["rulers"]["torso"] is None


@pytest.mark.parametrize("change, message", [
    ({"joints": ONE["joints"][:14]}, r"needs joints \(17, 2\).*for H36M17"), ({"skeleton": LSP14}, r"joints \(14, 2\)"),
    ({"joints3d": SOLID * np.nan}, "finite numbers"), ({"joints": ONE["joints"] * np.inf}, "finite numbers"),
    ({"state": STATE * 0}, "three labelled joints"), ({"jitter": -1}, "a jitter of 0 or more"),
    ({"image": np.zeros((100, 100, 3), np.uint8)}, r"a picture is \(3, S, S\) uint8, not \(100, 100, 3\)")])
def test_measures_of_nonsense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        measures(**{**ONE, **change})
    with pytest.raises(KeyError, match="has no joint"):
        measures(**{**ONE, "chosen": "tail"})


TRUTH = np.stack([pose(LSP14, (32, 34), 20 + n) for n in range(3)])
TAKE = {"images": [0, 64], "loss": [0.123456, 0.02], "pck": [0.0, 0.1], "spread": [1.2, 0.3],
        "poses": np.stack([TRUTH + 3, TRUTH])}
FILM = {"images": np.zeros((3, 3, 64, 64), np.uint8), "truth": TRUTH, "state": np.full((3, 14), VISIBLE),
        "takes": {"one": TAKE}, "floor": {"loss": 0.017, "pck": 0.1}, "skeleton": LSP14}


def test_the_film_carries_poses_in_tenths_of_pixels():
    data = data_of(film(**FILM))
    take = data["takes"]["one"]
    np.testing.assert_allclose(np.reshape(take["poses"], (2, 3, 14, 2)) / 10, TAKE["poses"], atol=0.051)
    assert take["loss"] == [0.1235, 0.02] and take["images"] == [0, 64]
    assert len(data["bones"]) == 13 and [9, 10, "left"] in data["bones"]


@pytest.mark.parametrize("change, message", [
    ({"takes": {}}, "needs a training"), ({"truth": TRUTH[:2]}, r"joints \(3, 14, 2\)"),
    ({"state": np.full((3, 17), VISIBLE)}, "with their state"),
    ({"takes": {"one": {**TAKE, "pck": [0.1]}}}, "one: a film of 2 frames"),
    ({"takes": {"one": {**TAKE, "loss": [0.1, np.nan]}}}, "finite numbers"),
    ({"takes": {"one": {**TAKE, "poses": TAKE["poses"][:, :2]}}}, r"poses \(2, 3, 14, 2\), not \(2, 2, 14, 2\)"),
    ({"images": FILM["images"].transpose(0, 2, 3, 1)}, r"a picture is \(3, S, S\) uint8")])
def test_a_film_with_gaps_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        film(**{**FILM, **change})
