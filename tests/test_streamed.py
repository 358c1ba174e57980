"""People read from files while a network learns: each once an epoch, in an order that repeats, in little memory."""

import os
import re
import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import people_shard, stopped_before

from posebook import __main__ as command
from posebook import results, training
from posebook.augment import NONE
from posebook.datasets import StreamedPeople, load_people
from posebook.networks import build_network
from posebook.skeleton import LSP14
from posebook.targets import build_codecs

UNEVEN = (7, 1, 12, 5, 9)
CONFIG = training.TrainConfig(epochs=2, batch=8, augmentation=NONE, device="cpu", amp=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """34 people in five files of different lengths, and 6 to validate."""
    folder = tmp_path_factory.mktemp("people")
    for number, count in enumerate(UNEVEN):
        people_shard(folder / f"train-{number:05d}.parquet", count, seed=number)
    people_shard(folder / "validation-00000.parquet", 6, seed=99)
    return folder


def order(stream, epoch, seed=0):
    return stream.order(torch.Generator().manual_seed(seed * 100_003 + epoch)).numpy()


@pytest.mark.parametrize("window", [1, 10, 1000])
def test_an_order_has_everyone_once_and_repeats(folder, window):
    stream = StreamedPeople("train", folder, window=window)
    assert len(stream) == sum(UNEVEN)
    orders = [order(stream, epoch) for epoch in range(20)]
    for one in orders:
        assert sorted(one) == list(range(len(stream)))
    assert len({tuple(one) for one in orders}) == 20
    assert (order(stream, 3) == orders[3]).all() and (order(stream, 3, seed=1) != orders[3]).any()


def test_a_window_mixes_neighbours_and_a_large_one_all():
    stream = object.__new__(StreamedPeople)                          # only what an order needs: a thousand files of 10
    stream.files, stream.counts = range(1000), np.full(1000, 10)
    stream._ends = stream.counts.cumsum()
    for stream.window, low, high in ((500, 300, 650), (100_000, 7000, 10_000)):
        files = order(stream, 0) // 10
        seen = [np.flatnonzero(files == k) for k in range(1000)]
        span = np.array([places[-1] - places[0] for places in seen])
        assert low < np.median(span) and span.max() < high           # how long a file has to be held
    assert abs(np.corrcoef(order(stream, 0), np.arange(10_000))[0, 1]) < 0.05


def test_a_stream_gives_what_is_in_memory(folder):
    stream, whole = StreamedPeople("train", folder, window=5, skeleton=LSP14), load_people("train", folder)
    whole = whole.as_skeleton(LSP14)
    for index in (np.array([33, 0, 8, 7]), np.arange(34), [5]):
        found, expected = stream.subset(index), whole.subset(index)
        for name in ("images", "joints", "state", "to_source", "ids", "joints3d", "camera"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert {k: v.tolist() for k, v in found.groups.items()} == {k: v.tolist() for k, v in expected.groups.items()}
        assert found.skeleton == LSP14 and (found.name, found.split) == ("people", "train")
    assert len(stream.subset([])) == 0 and len(stream.some) > 20


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_each_is_seen_once_an_epoch_by_all_processes_together(folder, processes, monkeypatch):
    stream, read = StreamedPeople("train", folder, window=10), []
    assert len(stream.some) == 29                                    # of four files; read before all else, once
    subset = stream.subset
    monkeypatch.setattr(stream, "subset", lambda index: read.append(index) or subset(index))
    steps, batches = 5, []
    for number in range(processes):
        monkeypatch.setattr(training.parallel, "share", lambda number=number: slice(number, None, processes))
        batches.append(list(training._batches(stream, CONFIG, 1, steps, 64, None, torch.device("cpu"))))
    assert sorted(np.concatenate(read)) == list(range(34))           # nobody was decoded twice
    for step in range(steps):
        index = batches[0][step][0]
        assert all((other[step][0] == index).all() for other in batches)
        assert sum(len(other[step][1]) for other in batches) == len(index)


def peak(folder, window):
    """Largest memory of Python's in an epoch; its crops, small ones, are looked at and forgotten."""
    stream = StreamedPeople("train", folder, size=20, crop=16, window=window)
    numbers = order(stream, 0)
    tracemalloc.start()
    for begin in range(0, len(stream), 16):
        stream.subset(np.sort(numbers[begin:begin + 16]))
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_memory_is_that_of_a_window_not_of_the_set(tmp_path):
    people_shard(tmp_path / "train-00000.parquet", 10, side=64)
    for number in range(1, 40):
        shutil.copy(tmp_path / "train-00000.parquet", tmp_path / f"train-{number:05d}.parquet")
    large, whole = peak(tmp_path, 20), peak(tmp_path, 1000)
    for number in range(10, 40):
        os.remove(tmp_path / f"train-{number:05d}.parquet")
    small = peak(tmp_path, 20)
    assert large < 1.5 * small                                       # a set of four times the size takes no more
    assert large < 0.6 * whole                                       # than a window does


def test_files_are_read_once_an_epoch(folder, monkeypatch):
    stream, read = StreamedPeople("train", folder, window=5), []
    real = training.StreamedPeople._shard.__globals__["read_shard"]
    monkeypatch.setitem(training.StreamedPeople._shard.__globals__, "read_shard",
                        lambda path, columns: read.append(path.name) or real(path, columns))
    numbers = order(stream, 0)
    for begin in range(0, 34, 4):
        stream.subset(numbers[begin:begin + 4])
    assert len(read) < 8 and set(read) == {path.name for path in stream.files}


def fit(folder, out=None, config=CONFIG):
    stream = StreamedPeople("train", folder, window=10)
    codecs = build_codecs(("pose3d",), stream.skeleton, 64)
    network = build_network("small-b", {"pose3d": 51}, 0, (2, 3, 4))
    run = training.train(network, codecs, stream, load_people("validation", folder), config, out, progress=False)
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.history]


def test_a_stream_trains_and_goes_on_where_it_was(folder, tmp_path, monkeypatch):
    whole = fit(folder)
    with stopped_before(1, monkeypatch):
        fit(folder, tmp_path)
    assert fit(folder, tmp_path) == whole
    assert fit(folder, config=replace(CONFIG, epoch_size=70))[1]["train_loss"] > 0


def test_a_damaged_file_is_named_in_one_sentence(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "people")
    path = tmp_path / "people" / "train-00002.parquet"
    data = bytearray(path.read_bytes())
    data[200:3000] = bytes(2800)                                     # the end, with the number of rows, is whole
    path.write_bytes(data)
    stream = StreamedPeople("train", tmp_path / "people")
    with pytest.raises(OSError, match="train-00002.parquet cannot be read as Parquet") as error:
        stream.subset(np.arange(34))
    assert len(str(error.value).splitlines()) == 1
    path.write_bytes(data[:-100])
    with pytest.raises(OSError, match="train-00002.parquet cannot be read as Parquet"):
        StreamedPeople("train", tmp_path / "people")


def test_wrong_use_is_told(folder, tmp_path, capsys):
    with pytest.raises(ValueError, match="window must hold at least 1"):
        StreamedPeople("train", folder, window=0)
    for more, message in ((["--limit", "5"], "--stream reads all people .*not go with --limit"),
                          (["--dataset", "lspet"], "does not go with --dataset lspet")):
        assert command.main(["train", "--stream", "--out", str(tmp_path / "run"), *more]) == 2
        assert re.search(message, capsys.readouterr().err)


def test_the_command_trains_from_a_stream(folder, tmp_path, capsys):
    arguments = ["train", "--stream", "--data", str(folder), "--epochs", "1", "--channels", "2", "3", "4", "--device",
                 "cpu", "--out", str(tmp_path / "run")]
    assert command.main(arguments) == 0
    record = results.read_record(tmp_path / "run" / "record.json")
    assert results.check_record(record) == []
    assert record["stream"] and record["training_images"] == 34 and record["processes"] == 1
    assert record["peak_memory_mb"]["process"] > 50


def test_a_damaged_picture_is_named(folder):
    stream = StreamedPeople("train", folder)
    stream._shard(2)["image"][3] = b"no picture"
    with pytest.raises(OSError, match="picture of train-00002-0003 cannot be read"):
        stream.subset(np.arange(34))
