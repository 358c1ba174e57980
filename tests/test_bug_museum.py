"""Every bug of the museum does what its plate says, and is gone afterwards."""

from dataclasses import replace

import bug_museum
import numpy as np
import pytest
import torch
from bug_museum import EVALUATION_BUGS, EXHIBITS
from samples import pose

from posebook import augment, networks, results, training
from posebook.datasets import load_people
from posebook.datasets.people import find_shards
from posebook.networks import PoseNetwork, build_network
from posebook.skeleton import ABSENT, LSP14, VISIBLE
from posebook.targets import build_codecs

JOINTS = torch.from_numpy(np.stack([pose(LSP14, (30 + i, 34), 20) for i in range(4)]))
STATE = torch.full(JOINTS.shape[:2], VISIBLE)
RIGHT = build_codecs(("regression",), LSP14, 64)["regression"]


@pytest.fixture(scope="module")
def splits():
    return tuple(load_people(name, skeleton=LSP14, limit=40) for name in ("train", "validation", "test"))


def augmented(function):
    """Joints of four mirrored, otherwise untouched pictures, as the training loop would get them."""
    images = torch.zeros(len(JOINTS), 3, 80, 80, dtype=torch.uint8)
    config = augment.Augmentation(mirror=1.0)
    return function(images, JOINTS + 8, STATE, LSP14, config, 64, torch.Generator().manual_seed(0), None)[1]


def decoded(bug):
    """What a network that learned its targets by heart would be taken to say."""
    codec = bug.codec(RIGHT)
    return codec.decode(codec.encode(JOINTS, STATE)[0])


def test_the_careless_mirror_keeps_names_and_moves_the_rest_alike():
    healthy = augmented(training.augment)
    swap = torch.from_numpy(LSP14.mirror)
    with EXHIBITS["mirror"].bug.around():
        wrong = augmented(training.augment)
    assert torch.allclose(wrong[:, swap], healthy)
    assert (wrong - healthy).abs().max() > 1
    assert training.augment is augment.augment
    assert torch.equal(augmented(training.augment), healthy)
    assert (LSP14.mirror != np.arange(len(LSP14))).any()


def test_x_and_y_exchanged_on_the_way_out():
    assert torch.allclose(decoded(EVALUATION_BUGS["row-column"]), JOINTS.flip(-1), atol=1e-4)
    target, mask = EVALUATION_BUGS["row-column"].codec(RIGHT).encode(JOINTS, STATE)
    assert all(torch.equal(one, other) for one, other in zip((target, mask), RIGHT.encode(JOINTS, STATE), strict=True))


def test_half_a_pixel_is_half_a_pixel():
    away = decoded(EXHIBITS["half-pixel"].bug) - JOINTS
    assert torch.allclose(away, torch.full_like(away, 0.5), atol=1e-4)


def test_without_eval_dropout_goes_on_and_afterwards_it_is_off_again(splits):
    network = build_network("small", {"regression": 28}, 0, keep=0.5)

    def answers():
        return training.run_network(network, splits[2], "cpu", amp=False)["regression"]
    healthy = answers()
    assert torch.equal(answers(), healthy)
    with EVALUATION_BUGS["never-eval"].around():
        assert not torch.equal(answers(), answers())
    assert torch.equal(answers(), healthy) and not network.training
    assert "eval" not in vars(PoseNetwork)                              # inherited again, as it was


def test_every_tenth_image_leaks_persons_and_nothing_is_in_both(splits):
    kept, held = EXHIBITS["leak"].bug.sets(splits[:2])
    assert len(kept) + len(held) == len(splits[0]) and not set(kept.ids) & set(held.ids)
    some = load_people("train", skeleton=LSP14, files=find_shards("train")[:1])               # whole persons and clips
    kept, held = EXHIBITS["leak"].bug.sets((some, splits[1]))
    known = np.isin(held.groups["subject"], kept.groups["subject"]) & np.isin(held.groups["clip"], kept.groups["clip"])
    assert known.mean() > 0.99


def test_millimetres_and_width(splits):
    data = splits[2]
    true = data.source_joints
    assert bug_museum.millimetres(true, data) == 0 and bug_museum.width(true, data) == 1
    focal = data.camera[:, None, 0, 0]
    depth = np.where(data.state == ABSENT, np.inf, data.joints3d[..., 2])
    moved = true + np.stack([100 * focal / depth, np.zeros_like(depth)], axis=-1)         # 100 mm to the right
    assert np.isclose(bug_museum.millimetres(moved, data), 100, rtol=1e-3)
    middle = (true + true[:, LSP14.mirror]) / 2
    assert bug_museum.width(middle, data) < 1e-3
    half = middle + (true - middle) / 2
    assert np.isclose(bug_museum.width(half, data), 0.5, atol=1e-3)


def test_a_training_goes_on_from_the_book_s_network_also_with_dropout(splits):
    expected = training.predict(networks.load_network(results.shipped_weights("people"))[0], RIGHT, splits[2])
    for name in ("healthy", "dropout"):
        network = bug_museum.beginning(EXHIBITS[name], RIGHT.outputs, 5)
        assert np.allclose(training.predict(network, RIGHT, splits[2]), expected, atol=1e-3)
    anew = bug_museum.beginning(EXHIBITS["leak"], RIGHT.outputs, 5)
    assert not np.allclose(training.predict(anew, RIGHT, splits[2]), expected, atol=1)


def test_a_museum_is_made_once_and_measured_beside(tmp_path, capsys):
    arguments = ["--limit", "24", "--seeds", "0", "--out", str(tmp_path)]
    assert bug_museum.main([*arguments, "--only", "healthy", "leak"]) == 0
    healthy, leak = (results.read_record(tmp_path / f"bug-{name}-0.json") for name in ("healthy", "leak"))
    beside = healthy["history"][0]["beside"]["row-column"]
    assert beside["validation_loss"] == healthy["history"][0]["validation_loss"]      # the loss sees nothing
    assert healthy["measured"]["test"]["row-column"] != healthy["measured"]["test"]["network"]
    assert set(leak["measured"]) == {"validation", "honest validation", "test"} and leak["validation_images"] == 3
    assert np.shape(healthy["shown"]["poses"]["network"]) == (len(healthy["shown"]["ids"]), 14, 2)
    before = (tmp_path / "bug-healthy-0.json").read_bytes()
    assert "bug-healthy-0" in capsys.readouterr().out
    assert bug_museum.main([*arguments, "--only", "healthy"]) == 0
    assert (tmp_path / "bug-healthy-0.json").read_bytes() == before and capsys.readouterr().out == ""


def test_a_bug_of_the_evaluation_does_not_change_the_training(splits):
    losses = []
    for scored_with in ((), ("never-eval",)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(EXHIBITS, "dropout", replace(EXHIBITS["dropout"], scored_with=scored_with))
            record = bug_museum.run("dropout", 0, splits[:2], splits[2], quick=True)
        losses.append([row["train_loss"] for row in record["history"]])
    assert losses[0] == losses[1]
