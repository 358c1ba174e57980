"""Packed data sets: the same samples as in memory, little memory for many, and nothing half-written."""

import subprocess
import sys

import numpy as np
import pytest

from posebook import __main__ as command
from posebook import results
from posebook.datasets import load, load_people, open_packed, pack
from posebook.networks import build_network
from posebook.targets import build_codecs
from posebook.training import TrainConfig, train

DATA = load_people("validation", limit=30)
CONFIG = TrainConfig(epochs=2, batch=8, device="cpu", amp=False)


def test_what_is_packed_comes_back(tmp_path):
    assert pack((DATA.subset(range(a, a + 10)) for a in (0, 10, 20)), tmp_path / "set") == 30
    found = open_packed(tmp_path / "set")
    assert len(found) == 30 and found.skeleton == DATA.skeleton and (found.name, found.split) == (DATA.name, DATA.split)
    for name in ("joints", "state", "to_source", "ids", "joints3d", "camera"):
        np.testing.assert_array_equal(getattr(found, name), getattr(DATA, name))
    assert found.groups.keys() == DATA.groups.keys()
    for index in (slice(3, 9), slice(0, 30, 7), np.array([5, 2, 29]), 4):
        np.testing.assert_array_equal(found.images[index], DATA.images[index])
    np.testing.assert_array_equal(found.subset([7, 1]).images, DATA.images[[7, 1]])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


def test_training_from_a_packed_set_is_training_from_memory(tmp_path):
    pack([DATA], tmp_path / "set")
    codecs = build_codecs(("pose3d",), DATA.skeleton, 64)
    histories = []
    for data in (DATA, open_packed(tmp_path / "set")):
        network = build_network("small-b", {"pose3d": 51}, 0, (2, 3, 4))
        run = train(network, codecs, data, data, CONFIG, progress=False)
        histories.append([{k: v for k, v in row.items() if k != "seconds"} for row in run.history])
    assert histories[0] == histories[1]


def test_the_command_packs_and_load_finds_it(tmp_path, capsys):
    assert command.main(["pack", "--split", "validation", "--out", str(tmp_path / "out")]) == 0
    data, whole = load("people", "validation", tmp_path / "out", size=80, crop=64), load_people("validation")
    np.testing.assert_array_equal(data.joints3d, whole.joints3d)
    np.testing.assert_array_equal(data.images[500:520], whole.images[500:520])
    assert len(load("people", "validation", tmp_path / "out", size=80, limit=7)) == 7
    for options, what in (({"size": 140}, "size 80 instead of 140"), ({"crop": 40}, "crop 64 instead of 40"),
                          ({"region": "upper"}, "region full instead of upper"), ({"parts": True}, "parts None")):
        with pytest.raises(ValueError, match=f"was packed with .*{what}.*; pack it again"):
            load("people", "validation", tmp_path / "out", **options)
    (tmp_path / "out" / "validation").rename(tmp_path / "out" / "test")
    with pytest.raises(ValueError, match="split validation instead of test"):
        load("people", "test", tmp_path / "out")
    (tmp_path / "out" / "test").rename(tmp_path / "out" / "validation")
    assert command.main(["pack", "--split", "validation", "--out", str(tmp_path / "out")]) == 2
    assert "exists; remove it" in capsys.readouterr().err


def test_nothing_half_written_stays(tmp_path):
    def parts():
        yield DATA.subset([0, 1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(parts(), tmp_path / "set")
    for bad, message in (([], "nothing to pack"), ([DATA, load_people("test", limit=2)], "of one kind")):
        with pytest.raises(ValueError, match=message):
            pack(bad, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="holds no packed data set"):
        open_packed(tmp_path)
    pack([DATA], tmp_path / "set")
    for name in ("images.npy", "joints.npy"):
        path = tmp_path / "set" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:len(whole) // 2])
        with pytest.raises(OSError, match="no whole packed data set|cannot be read"):
            open_packed(tmp_path / "set")
        path.write_bytes(whole)


def test_ten_gigabytes_are_read_in_a_few_megabytes(tmp_path):
    """A set of 10 GB, made on the fly as a file with holes, a sixtieth of it read in shuffled batches: the process's
    largest resident memory stays far below that."""
    script = f"""
import resource
import numpy as np
from posebook.datasets.packed import ImageFile
path = {str(tmp_path / "images.npy")!r}
made = np.lib.format.open_memmap(path, "w+", np.uint8, (520_833, 3, 80, 80))
made[3000] = 7
del made
images = ImageFile(path)
size = images.shape[0] * 3 * 80 * 80
assert size > 9.99e9
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
order, total = np.random.default_rng(0).permutation(np.arange(0, len(images), 60)), 0
for part in np.array_split(order, 5):
    total += int(images[np.sort(part)].sum(dtype=np.int64))
assert total == 7 * 3 * 80 * 80
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 300                          # megabytes; a map that stays: some 700


def test_floors_and_lifting_read_no_more_pictures_than_they_need(tmp_path):
    """The 3D floors are about joints: the packed pictures are not read at all."""
    pack([DATA], tmp_path / "set")
    packed = open_packed(tmp_path / "set")
    (tmp_path / "set" / "images.npy").unlink()
    tables = results.floors3d(packed, packed)
    assert tables["nearest_neighbour_2d"]["mpjpe"] < 50
