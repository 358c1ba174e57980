"""A training that is watched: frames from before the first step on, and the same training as unwatched."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import CODECS, people, tiny

from posebook import film, networks, training
from posebook.augment import NONE
from posebook.networks import PoseNetwork
from posebook.skeleton import ABSENT
from posebook.training import TrainConfig

TRAIN, VALIDATION = people(24), people(9, seed=1, split="validation")
CONFIG = TrainConfig(epochs=3, epoch_size=16, batch=8, rate=3e-3, augmentation=NONE, device="cpu", amp=False)


@pytest.fixture
def small(monkeypatch):
    """`build_network` makes a tiny network."""
    def build(size, outputs, seed):
        torch.manual_seed(seed)
        return PoseNetwork(tiny())
    monkeypatch.setattr(film, "build_network", build)


def test_a_film_begins_before_the_first_step_and_ends_with_the_trained_network(small):
    who = np.array([0, 4, 8])
    found = film.record("small", CODECS["regression"], TRAIN, VALIDATION, CONFIG, who, progress=False)
    assert found["images"] == [0, 16, 32, 48] and found["ids"] == ["validation-0", "validation-4", "validation-8"]
    poses = film.read_poses(found["poses"])
    assert poses.shape == (4, 3, 14, 2) and all(len(found[key]) == 4 for key in ("loss", "pck", "spread"))
    torch.manual_seed(CONFIG.seed)
    alone = training.train(PoseNetwork(tiny()), CODECS, TRAIN, VALIDATION, CONFIG, progress=False)   # nobody watches
    assert [row["validation_loss"] for row in alone.history] == found["loss"][1:]
    last = CODECS["regression"].decode(training.run_network(alone.network, VALIDATION, "cpu", False)["regression"])
    np.testing.assert_allclose(poses[-1], last.numpy()[who], atol=0.051)
    assert np.abs(poses[0] - poses[-1]).max() > 0.2


def test_who_watches_a_continued_training_is_not_told_of_its_beginning_again(tmp_path):
    seen = []

    def fit(epochs):
        torch.manual_seed(0)
        training.train(PoseNetwork(tiny()), CODECS, TRAIN, VALIDATION, replace(CONFIG, epochs=epochs), tmp_path,
                       progress=False, watch=lambda epoch, network: seen.append(epoch) or (
                           epoch == 1 and (_ for _ in ()).throw(KeyboardInterrupt)))

    with pytest.raises(KeyboardInterrupt):
        fit(3)
    with pytest.raises(KeyboardInterrupt):
        fit(3)
    assert seen == [-1, 0, 1, 1]


def test_people_are_chosen_by_place_among_the_whole_ones():
    state = VALIDATION.state.copy()
    state[0, 3] = ABSENT
    data = replace(VALIDATION, state=state)
    assert film.cast(data).tolist() == [1, 2, 3, 4, 5, 6, 7, 8] and film.cast(data, 2).tolist() == [1, 8]
    with pytest.raises(ValueError, match="needs 9 people who are wholly in the picture, painted validation has 8"):
        film.cast(data, 9)


def test_both_recipes_take_as_many_steps_as_the_chapter_says():
    for config in film.RECIPES.values():
        assert config.epochs * config.epoch_size == 20 * 8000 and config.epoch_size % config.batch == 0
    first = film.RECIPES["first-day"]
    assert first.optimizer == "sgd" and not first.mean_start and not first.normalise
    assert networks.SIZES["small"] == 64
