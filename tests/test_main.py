"""The command line: training, scoring and drawing end to end, and one sentence for every mistake."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from samples import lspet_folder, painted, people_shard, pose, write_mat

from posebook import __main__ as command
from posebook import networks, results
from posebook.datasets import lspet
from posebook.datasets.people import find_shards
from posebook.networks import Head, PoseNetwork, save_network, small
from posebook.skeleton import LSP14


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """An empty current folder with a folder of people."""
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 10), ("validation", 5)):
        people_shard(tmp_path / "people" / f"{split}-00000.parquet", count, seed=count)
    return tmp_path


@pytest.fixture
def few(desk):
    """The same, with a few of the book's people in place of painted ones."""
    for split, count in (("train", 200), ("validation", 100)):
        table = pq.read_table(find_shards(split)[0], use_threads=False)
        pq.write_table(table.slice(0, count), desk / "people" / f"{split}-00000.parquet")
    return desk


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """A current folder with a picture, and weights to guess with."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(painted(pose(LSP14, (60, 80), 50), 120, 160, 3)).save("me.jpg")
    torch.manual_seed(0)
    save_network("w.safetensors", PoseNetwork(small({"regression": Head(28, (8,))})),
                 {"skeleton": "LSP14", "dataset": "people", "seed": 0, "stored": 80,
                  "mean_pose": np.zeros((14, 2)).tolist()})
    return tmp_path


def run(capsys, *arguments):
    code = command.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def failed(capsys, *arguments):
    """Run a command that must fail as a mistake should: exit code 2 and one sentence. Returns the sentence."""
    code, _, err = run(capsys, *arguments)
    assert code == 2 and err.startswith("posebook: ") and "Traceback" not in err and len(err.splitlines()) == 1, err
    return err


def failed_lines(capsys, *arguments):
    """The same for a mistake that is explained with the two things that differ."""
    code, _, err = run(capsys, *arguments)
    assert code == 2 and err.startswith("posebook: ") and "Traceback" not in err
    return err


def test_train_evaluate_predict_end_to_end(desk, capsys):
    train = ("train", "--data", "people", "--epochs", 2, "--batch", 4, "--seed", 3, "--device", "cpu")
    code, out, err = run(capsys, *train)
    assert code == 0, err
    folder = desk / "runs" / "regression-people-3"
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint.pt", "data-folder.txt", "record.json",
                                                        "weights.safetensors"]
    assert "10 training and 5 validation images" in out and "PCK@0.2 (torso), mean" in out
    record = results.read_record(folder / "record.json")
    assert record["config"]["epochs"] == 2 and record["config"]["batch"] == 4 and len(record["history"]) == 2
    assert set(record["scores"]["all"]) == {"network", "mean_pose", "nearest_neighbour"}
    assert record["training_images"] == 10 and record["environment"]["threads"] == 1
    assert str(desk) not in (folder / "record.json").read_text()
    network, about = networks.load_network(folder / "weights.safetensors")
    assert about["seed"] == 3 and about["skeleton"] == "LSP14" and network.config.crop == 64

    before = (folder / "record.json").stat().st_mtime_ns
    code, out, _ = run(capsys, *train)
    assert code == 0 and "is finished" in out and (folder / "record.json").stat().st_mtime_ns == before
    code, _, err = run(capsys, *train, "--rate", 0.5)       # never taken for a run that was not made
    assert code == 2 and "finished, but with another config" in err
    assert (folder / "record.json").stat().st_mtime_ns == before

    code, out, _ = run(capsys, "evaluate")                  # finds the last run and its data by itself
    assert code == 0 and "people validation (5 images)" in out and "trained on people, seed 3" in out
    shown = next(line for line in out.splitlines() if line.startswith("| PCK@0.2 (torso), mean"))
    assert float(shown.split("|")[2]) == pytest.approx(record["scores"]["all"]["network"]["pck@0.2_torso"], abs=6e-4)
    code, out, _ = run(capsys, "evaluate", "--subset", "upright", "--split", "train", "--weights",
                       folder / "weights.safetensors")
    assert code == 0 and "people train upright (10 images)" in out

    Image.fromarray(painted(pose(LSP14, (60, 80), 50), 120, 160, 3)).save("me.jpg")
    code, out, err = run(capsys, "predict", "me.jpg", "--weights", folder / "weights.safetensors", "--out", "drawn",
                         "--box", "30,20,100,140")
    assert code == 0, err
    answer = json.loads(out)
    assert set(answer["joints"]) == set(LSP14.joints) and answer["box"] == [30, 20, 100, 140]
    with Image.open("drawn/me-pose.png") as drawn:
        assert drawn.size == (600, 800)
    assert [p.name for p in (desk / "drawn").iterdir()] == ["me-pose.png"]


def test_a_stopped_training_continues_with_the_same_command(desk, capsys, monkeypatch):
    train = ("train", "--data", "people", "--epochs", 2, "--batch", 5, "--limit", 5, "--device", "cpu", "--out", "r")
    epoch = command.training._epoch

    def stopped(*arguments):
        if arguments[4] == 1:
            raise KeyboardInterrupt
        return epoch(*arguments)

    monkeypatch.setattr(command.training, "_epoch", stopped)
    code, _, err = run(capsys, *train)
    assert code == 130 and "the same command continues" in err and not (desk / "r" / "record.json").exists()
    monkeypatch.setattr(command.training, "_epoch", epoch)
    assert run(capsys, *train)[0] == 0
    assert [row["epoch"] for row in results.read_record(desk / "r" / "record.json")["history"]] == [0, 1]
    (desk / "r" / "record.json").unlink()
    code, _, err = run(capsys, *train, "--seed", 1)
    assert code == 2 and "r/checkpoint.pt belongs to a run with other settings or data; choose another folder" in err
    assert [line[:6] for line in err.splitlines()[1:]] == ["there:", "here: "]     # both, so that they can be compared


def test_training_on_lspet_says_what_was_skipped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSEBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lspet, "SPLITS", {"train": (1, 8), "validation": (9, 12), "test": (13, 14)})
    joints = lspet_folder(tmp_path / "lspet")
    flags = np.ones((12, 14))
    flags[0, :6] = 0
    write_mat(tmp_path / "lspet", joints, flags)
    code, out, err = run(capsys, "train", "--dataset", "lspet", "--data", "lspet", "--epochs", 1, "--device", "cpu",
                         "--no-augmentation", "--optimizer", "sgd")
    assert code == 0, err
    assert "skipped in lspet train: 1 images with fewer than 10 labelled joints" in out
    record = results.read_record(tmp_path / "runs/regression-lspet-0/record.json")
    assert record["skipped"] == {"images with fewer than 10 labelled joints": 1}
    assert record["config"]["optimizer"] == "sgd" and record["config"]["augmentation"]["mirror"] == 0
    assert "the test split is images 13-14" in failed(capsys, "evaluate", "--split", "test")


@pytest.mark.parametrize("arguments, sentence", [
    (("train", "--dataset", "lspet"), "name its folder (--data DIR)"),
    (("train", "--data", "nowhere"), "there is no train-*.parquet in nowhere"),
    (("train", "--data", "people", "--epochs", "0"), "must be positive"),
    (("train", "--data", "people", "--limit", "0"), "limit must be at least 1"),
    (("train", "--data", "people", "--device", "no-such-device"), "no-such-device"),
    (("--threads", "0", "train", "--data", "people"), "positive"),
    (("evaluate", "--weights", "none.safetensors"), "there are no weights none.safetensors; train first"),
    (("evaluate", "--weights", "people/train-00000.parquet"), "does not hold a network of this book, or is damaged")])
def test_mistakes_get_one_sentence(desk, capsys, arguments, sentence):
    code, _, err = run(capsys, *arguments)
    assert code == 2 and sentence in err and "Traceback" not in err
    assert err.startswith("posebook: ") and not (desk / "runs").exists()


@pytest.mark.parametrize("arguments, sentence", [
    (("me.jpg", "--box", "500,500,600,600"), "lies outside the image of 120 x 160"),
    (("me.jpg", "--box", "10,10,10,50"), "has no area"), (("me.jpg", "--box", "50,10,10,50"), "has no area"),
    (("me.jpg", "--box", "nan,0,10,10"), "four finite numbers"),
    (("me.jpg", "--box=-9999,-9999,9999,9999"), "far larger than the image"),
    (("none.jpg",), "there is no image none.jpg"), (("note.txt",), "note.txt cannot be read as an image"),
    (("half.jpg",), "half.jpg cannot be read as an image"), ((".",), "there is no image .")])
def test_bad_photographs_and_boxes_get_one_sentence_and_no_file(photo, capsys, arguments, sentence):
    (photo / "note.txt").write_text("not a photograph")
    (photo / "half.jpg").write_bytes((photo / "me.jpg").read_bytes()[:600])
    before = sorted(photo.rglob("*"))
    assert sentence in failed(capsys, "predict", *arguments, "--weights", "w.safetensors", "--out", "drawn")
    assert sorted(photo.rglob("*")) == before


@pytest.mark.parametrize("arguments", [("predict", "me.jpg", "--weights", "other.safetensors"),
                                       ("evaluate", "--weights", "other.safetensors")])
def test_weights_that_do_not_say_what_they_are_get_one_sentence(photo, capsys, arguments):
    save_network("other.safetensors", PoseNetwork(small({"regression": Head(28, (8,))})), {"skeleton": "LSP14"})
    assert "does not say its dataset" in failed(capsys, *arguments)


@pytest.mark.parametrize("box", ["1,2,3", "a,b,c,d", ""])
def test_a_box_that_is_no_box_is_refused_before_anything_is_read(photo, capsys, box):
    with pytest.raises(SystemExit) as stop:
        command.main(["predict", "none.jpg", f"--box={box}"])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "is not x0,y0,x1,y1" in err and "Traceback" not in err


def test_a_picture_that_cannot_be_written_leaves_none(photo, capsys, monkeypatch):
    from matplotlib.figure import Figure

    def full(self, path, **_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", full)
    assert "disk full" in failed(capsys, "predict", "me.jpg", "--weights", "w.safetensors", "--out", "drawn")
    assert not list((photo / "drawn").iterdir())


def test_a_folder_that_is_a_file_gets_one_sentence(photo, capsys):
    assert "File exists" in failed(capsys, "predict", "me.jpg", "--weights", "w.safetensors", "--out", "me.jpg")


def test_predict_without_a_box_takes_the_whole_picture(photo, capsys):
    code, out, err = run(capsys, "predict", "me.jpg", "--weights", "w.safetensors")
    assert code == 0, err
    assert json.loads(out)["box"] == [0, 0, 120, 160] and (photo / "me-pose.png").is_file()


def test_the_other_commands_pass_on_what_they_are_told(tmp_path, monkeypatch, capsys):
    from posebook import synthesis
    calls = []
    monkeypatch.setattr(command, "download_lspet", calls.append)
    monkeypatch.setattr(synthesis, "synthesize", lambda *a, progress: calls.append(a))
    assert command.main(["download", "lspet", "--data", str(tmp_path)]) == 0
    assert command.main(["synthesize", "--assets", "a", "--out", "o", "--count", "7", "--held-out", "2",
                         "--without", "things", "lens"]) == 0
    assert calls[0] == tmp_path and calls[1][2] == {"train": 7, "validation": 2, "test": 2}
    recipe = calls[1][4]
    assert recipe == synthesis.Recipe(things=0, lens=False) and calls[1][3] == 0 and calls[1][5] == 1


def test_several_tasks_are_trained_scored_and_evaluated(desk, capsys):
    train = ("train", "--data", "people", "--epochs", 1, "--batch", 5, "--limit", 5, "--device", "cpu", "--weight",
             "joints=0.5", "--also", "people=people", "--tasks", "parts", "regression", "joints",
             "--without-parts", "head")
    code, out, err = run(capsys, *train)
    assert code == 0, err
    record = results.read_record(desk / "runs" / "regression+joints+parts-people-0" / "record.json")
    assert record["tasks"] == ["regression", "joints", "parts"] and record["config"]["weights"] == {"joints": 0.5}
    assert set(record["scores"]["all"]) == {"network", "joint_windows", "best_window", "mean_pose", "nearest_neighbour"}
    assert set(record["false_alarms"]) == {"joints", "parts"} and set(record["mean_pose_losses"]) == {
        "training_images", "validation"}
    assert record["on_training_images"]["validation_loss"] > 0
    assert set(record["elsewhere"]) == {"people"} and set(record["detection"]) == {"joints", "parts"}
    assert record["detection"]["parts"]["head"]["ap"] is None                      # it was never asked about
    assert 0 < record["detection"]["joints"]["neck"]["chance"] < record["detection"]["joints"]["neck"]["ap"] < 1
    code, out, _ = run(capsys, "evaluate")
    assert code == 0 and "regression" in out and "joints" in out
    code, _, err = run(capsys, *train[:-2])
    assert code == 2 and "with another without_parts" in err
    assert "was not scored on lspet" in failed(capsys, *train, "--also", "lspet=nowhere")
    assert "names a data set twice" in failed(capsys, *train, "--also", "people", "--out", "other")
    assert "has no part wings" in failed(capsys, *train[:-2], "--without-parts", "wings", "--out", "other")
    assert "a weight is given for heads" in failed(capsys, *train, "--weight", "heads=1", "--out", "other")


def test_a_share_of_the_images_in_long_epochs_other_maps_and_the_train_split_scored(desk, capsys):
    train = ("train", "--data", "people", "--epochs", 2, "--batch", 4, "--device", "cpu", "--share", 0.3,
             "--epoch-size", 8, "--channels", 2, 3, 4, "--tasks", "regression", "joints", "--person-free", 3,
             "--also", "people:train=people")
    code, out, err = run(capsys, *train)
    assert code == 0, err
    assert "3 training and 5 validation images" in out
    record = results.read_record(desk / "runs" / "regression+joints-people-0" / "record.json")
    assert (record["share"], record["training_images"], record["person_free"]) == (0.3, 3, 3)
    assert record["network"]["channels"] == [2, 3, 4] and record["config"]["epoch_size"] == 8
    assert record["elsewhere"]["people:train"]["all"]["network"]["images"] == 10
    assert "with another share" in failed_lines(capsys, *train, "--share", 0.4)
    assert "share must be above 0" in failed(capsys, *train, "--share", 0)
    assert "only a small network can have other maps" in failed(capsys, *train, "--size", "paper-a")


@pytest.mark.parametrize("arguments", [[], ["dance"], ["train", "--epochs", "many"], ["download", "coco"]])
def test_wrong_commands_show_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2 and "usage: python -m posebook" in capsys.readouterr().err


def test_pretraining_hands_its_trunk_on_and_a_second_call_finds_it_finished(desk, capsys):
    train = ("train", "--tasks", "pose3d", "--pretrain", "joints", "--pretrain-epochs", 1, "--epochs", 1, "--size",
             "small-b", "--channels", 2, 3, 4, "--keep", 0.5, "--limit", 8, "--batch", 4, "--device", "cpu",
             "--weight", "joints=2", "--out", "runs/pre", "--freeze-trunk")
    code, out, err = run(capsys, *train)
    assert code == 0, err
    assert "MPJPE" in out
    record = results.read_record(desk / "runs" / "pre" / "record.json")
    assert record["pretraining"]["tasks"] == ["joints"] and record["pretrain"] == ["joints"]
    assert record["pretraining"]["config"]["weights"] == {"joints": 2} and record["config"]["weights"] == {}
    assert not record["pretraining"]["config"]["freeze_trunk"] and record["config"]["freeze_trunk"]
    assert record["skeleton"] == "H36M17" and record["scores3d"]["validation"]["mpjpe"] > 0 and record["scores"] == {}
    first = torch.load(desk / "runs" / "pre" / "pretraining" / "checkpoint.pt", weights_only=True)["network"]
    last = networks.load_network(desk / "runs" / "pre" / "weights.safetensors")[0].state_dict()
    for name in ("trunk.conv1.weight", "trunk.conv3.weight"):                              # frozen: as it was
        torch.testing.assert_close(last[name], first[name].half().float())
    assert "is finished" in run(capsys, *train)[1]
    out = run(capsys, "evaluate", "--weights", "runs/pre/weights.safetensors")[1]
    assert "MPJPE, mm" in out and "mean pose" in out
    assert "does not regress joints in the picture, only pose3d" in failed(
        capsys, "predict", "photo.jpg", "--weights", "runs/pre/weights.safetensors")
    assert "with another pretrain" in failed_lines(capsys, *train, "--pretrain", "joints", "parts")


def test_lifting_writes_a_record_with_its_floors(few, capsys):
    code, out, err = run(capsys, "lift", "--data", "people", "--epochs", 1, "--out", "lift.json")
    assert code == 0, err
    record = results.read_record(few / "lift.json")
    assert set(record["scores3d"]) == {"lifting_from_true_2d", "mean_pose", "nearest_neighbour_2d"}
    assert "lifting from true 2d" in out and "walking" in out


def test_what_a_network_sees_is_lifted_beside_the_truth(few, capsys):
    weights = "runs/maps/weights.safetensors"
    assert run(capsys, "train", "--tasks", "heatmaps", "--data", "people", "--epochs", 1, "--out", "runs/maps")[0] == 0
    record = results.read_record(few / "runs" / "maps" / "record.json")
    assert record["scores"]["all"]["network"]["pck@0.2_torso"] >= 0
    assert "validation_pck_heatmaps" in record["history"][0]
    out = run(capsys, "evaluate", "--weights", weights, "--data", "people")[1]
    assert "heatmaps" in out and "mean pose" in out
    code, out, err = run(capsys, "lift", "--data", "people", "--epochs", 1, "--weights", weights, "--out", "lift.json")
    assert code == 0, err
    record = results.read_record(few / "lift.json")
    assert set(record["scores3d"]) == {"lifting_true_true", "lifting_true_seen", "lifting_seen_seen", "mean_pose",
                                       "nearest_neighbour_2d"}
    assert record["run"] == "maps" and record["tasks"] == ["heatmaps"]


def test_a_film_is_a_record_of_poses(desk, capsys):
    film = ("film", "--data", "people", "--epochs", 1, "--out", "film.json")
    assert "a film needs 8 people" in failed(capsys, *film)
    people_shard(desk / "people" / "validation-00000.parquet", 9)
    code, out, err = run(capsys, *film, "--recipe", "first-day")
    assert code == 0, err
    record = results.read_record(desk / "film.json")
    assert record["images"] == [0, 1600] and len(record["ids"]) == 8 and record["config"]["optimizer"] == "sgd"
    assert len(record["poses"][1][7].split()) == 28 and record["mean_pose_loss"] > 0 and "pictures seen" in out


def test_actions_are_for_human36m_which_the_reader_brings(desk, capsys):
    assert "--actions is for human36m, not for people" in failed(capsys, "train", "--actions", "Walking")
    assert "human36m is not part of this book" in failed(capsys, "train", "--dataset", "human36m", "--tasks", "pose3d")
    assert "there is no" in failed(capsys, "train", "--dataset", "human36m", "--data", "nowhere", "--tasks", "pose3d",
                                   "--actions", "Walking")


def test_explaining_a_network_writes_matrices_and_selectivity(few, capsys):
    train = ("train", "--tasks", "pose3d", "--epochs", 1, "--size", "small-b", "--channels", 2, 3, 4, "--data",
             "people", "--device", "cpu", "--out", "runs/few")
    assert run(capsys, *train)[0] == 0
    code, out, err = run(capsys, "explain", "--weights", "runs/few/weights.safetensors", "--data", "people", "--out",
                         "few.json")
    assert code == 0, err
    record = results.read_record(few / "few.json")
    assert np.shape(record["weights"]["trained"]["correlation"]) == (3, 17, 17) and "agreement with the poses" in out
    assert set(record["weights"]["untrained"]["mantel"]) == {"x", "y", "z", "strongest"}
    assert np.shape(record["features"]["conv3"]["trained, shuffled"]) == (4, 17)
    assert np.shape(record["features"]["conv2"]["under"]) == (3, 18)
    network = networks.build_network("small", {"joints": 14 * 64}, 0)
    save_network("detector.safetensors", network, {"dataset": "people", "skeleton": "LSP14", "seed": 0, "stored": 80,
                                                   "mean_pose": np.zeros((14, 2)).tolist()})
    assert "regresses no pose; it has joints" in failed(capsys, "explain", "--weights", "detector.safetensors", "--out",
                                                        "x.json")


def test_limits_keeps_every_image_s_answer(desk, capsys):
    torch.manual_seed(0)
    save_network("w.safetensors", PoseNetwork(small({"regression": Head(28, (8,))})),
                 {"skeleton": "LSP14", "dataset": "people", "seed": 3, "stored": 80, "tasks": ["regression"],
                  "mean_pose": np.full((14, 2), 40.0).tolist()})
    code, out, err = run(capsys, "limits", "--weights", "w.safetensors", "--data", "people", "--out", "few.json")
    assert code == 0, err
    record = results.read_record(desk / "few.json")
    assert (record["images"], record["seed"], record["split"]) == (5, 3, "validation") and "mean_pose" in out
    assert all(len(record[who][name]) == 5 for who in ("network", "mean_pose") for name in ("found", "error"))
    assert set("".join(record["network"]["found"])) <= set("01-") and len(record["upright"]) == 5
    network = networks.build_network("small", {"joints": 14 * 64}, 0)
    save_network("detector.safetensors", network, {"dataset": "people", "skeleton": "LSP14", "seed": 0, "stored": 80,
                                                   "mean_pose": np.zeros((14, 2)).tolist()})
    assert "does not regress" in failed(capsys, "limits", "--weights", "detector.safetensors", "--out", "x.json")


def pretrained(desk, *more):
    """The arguments of a short pre-trained run."""
    return ("train", "--tasks", "pose3d", "--pretrain", "joints", "--pretrain-epochs", 2, "--epochs", 2, "--size",
            "small-b", "--channels", 2, 3, 4, "--limit", 8, "--batch", 4, "--device", "cpu", *more)


def test_a_pretrained_run_that_is_killed_in_either_stage_ends_as_if_it_had_not_been(desk, capsys, monkeypatch):
    from posebook import training
    assert run(capsys, *pretrained(desk, "--out", "runs/whole"))[0] == 0
    save, calls = training._save, []
    for stop in (1, 3):                                         # after the first epoch of stage one, and of stage two
        def killed(path, state, stop=stop):
            save(path, state)
            calls.append(path)
            if len(calls) == stop:
                raise KeyboardInterrupt

        calls.clear()
        monkeypatch.setattr(training, "_save", killed)
        assert run(capsys, *pretrained(desk, "--out", f"runs/stop-{stop}"))[0] == 130
        monkeypatch.setattr(training, "_save", save)
        assert run(capsys, *pretrained(desk, "--out", f"runs/stop-{stop}"))[0] == 0
        ours, whole = (networks.load_network(desk / "runs" / name / "weights.safetensors")[0].state_dict()
                       for name in (f"stop-{stop}", "whole"))
        assert all(torch.equal(value, whole[name]) for name, value in ours.items())


def test_a_stopped_run_is_not_continued_as_another(desk, capsys, monkeypatch):
    """Not with pre-training where there was none, and not with other labels in 3D."""
    from posebook import training
    plain = ("train", "--tasks", "pose3d", "--epochs", 2, "--size", "small-b", "--channels", 2, 3, 4, "--limit", 8,
             "--batch", 4, "--device", "cpu", "--out", "runs/one")
    save = training._save

    def killed(path, state):
        save(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_save", killed)
    assert run(capsys, *plain)[0] == 130
    monkeypatch.setattr(training, "_save", save)
    for more in (("--pretrain", "joints", "--pretrain-epochs", 1), ("--shuffle-joints",)):
        code, _, err = run(capsys, *plain, *more)
        assert code == 2 and "belongs to a run with other settings or data" in err
    assert run(capsys, *plain)[0] == 0


def test_options_that_do_not_go_together_are_refused_before_anything_is_trained(desk, capsys):
    assert "--person-free does not go with pose3d" in failed(capsys, *pretrained(desk, "--person-free", 3))
    for number in (0, -1):
        assert "at least 1, and only with --pretrain" in failed(
            capsys, "train", "--pretrain", "joints", "--pretrain-epochs", number, "--tasks", "pose3d")
    assert "only with --pretrain" in failed(capsys, "train", "--pretrain-epochs", 3)
    assert "answers" not in failed(capsys, "train", "--tasks", "pose3d", "--dataset", "lspet", "--data", "nowhere")
    assert not (desk / "runs").exists()


def test_families_of_records_are_compared(capsys):
    at = ("--at", "elsewhere/people:test/all/network")
    code, out, _ = run(capsys, "compare", "since-softargmax", "since-heatmaps", *at)
    assert code == 0 and out.count("\n") == 4 and " better |" in out
    code, _, error = run(capsys, "compare", "since-rle", "--at", "nowhere")
    assert code == 2 and error.strip().endswith("name another place with --at") and error.count("\n") == 1
    code, out, _ = run(capsys, "compare", "three-d-regression", "three-d-joint", "--at", "scores3d/people:test",
                       "--measure", "mpjpe")
    assert code == 0 and out.splitlines()[3].split("|")[2].strip().count(".") == 1


@pytest.mark.parametrize(("made", "code", "says"), [
    (ImportError("half an import"), 130, "posebook: stopped; the same command continues where it was\n"),
    (None, 2, "posebook: as it is\n")], ids=["ctrl-c that became another error", "another error"])
def test_ctrl_c_is_told_whatever_a_library_makes_of_it(desk, capsys, monkeypatch, made, code, says):
    def stopped(*_):
        if made is None:
            raise ValueError("as it is")
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise made  # noqa: B904  (as libraries do)

    monkeypatch.setattr(command.results, "read_tables", stopped)
    assert command.main(["compare", "a"]) == code and capsys.readouterr().err == says
