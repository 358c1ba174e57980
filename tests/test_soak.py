"""A short series of `tools/soak.py`: a training that is killed again and again ends as one in one go, and the tool
notices when it does not."""

import sys

import pytest
import soak
import torch

from posebook import training

pytestmark = pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(),
                                reason="the processes are forked, which needs Linux and does not go with a GPU in use")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a run that nothing disturbed; forked too, which saves the seconds of a start as a reader's."""
    folder = tmp_path_factory.mktemp("soak")
    arguments = [*soak.TRAIN, "--data", str(soak.small_people(folder / "people"))]
    child = soak.start([*arguments, "--out", str(folder / "whole" / "run")], folder / "log", soak.Notes())
    assert soak.wait(child, 300) == 0, (folder / "log").read_text()
    return folder


def test_a_training_that_is_killed_again_and_again_ends_as_one_in_one_go(folder):
    found = soak.soak(15, 1, folder, report=lambda *_, **__: None)
    assert found["starts"] == 15 and found["kills"] >= 5 and found["runs_finished"] >= 1, found


def _ignores_the_checkpoint(monkeypatch):
    monkeypatch.setattr(training, "_read_checkpoint", lambda *_: None)


def _forgets_the_optimizer(monkeypatch):
    restore = training._restore
    monkeypatch.setattr(training, "_restore", lambda path, state, network, optimizer, scaler: restore(
        path, {**state, "optimizer": optimizer.state_dict()}, network, optimizer, scaler))


@pytest.mark.parametrize(("broken", "sentence"), [
    (_ignores_the_checkpoint, "start .* trained epoch 0 again"), (_forgets_the_optimizer, "after start .* differs")])
def test_a_training_that_loses_something_is_found(broken, sentence, folder, monkeypatch):
    broken(monkeypatch)
    with pytest.raises(AssertionError, match=sentence):
        soak.soak(100, 2, folder, report=lambda *_, **__: None)
    soak.shutil.rmtree(folder / "run")
