"""Damaged and hostile files are refused in one sentence that names them, or read; `tools/fuzz.py` tries many more."""

import faulthandler
import io
import os
import pickle
import resource
import signal
import struct
import tarfile
import warnings
import zipfile
import zlib

import fuzz
import numpy as np
import pytest
import torch

from posebook.datasets.base import read_image
from posebook.datasets.human36m import read_poses
from posebook.datasets.packed import open_packed
from posebook.networks import load_network, save_network
from posebook.results import read_record
from posebook.synthesis.assets import extract

ROUNDS = 6


@pytest.mark.parametrize("kind", fuzz.KINDS, ids=lambda kind: kind.name)
def test_damage_is_told_in_one_sentence(kind, tmp_path):
    warnings.simplefilter("ignore")
    if kind.name.startswith("human36m"):
        pytest.importorskip("av"), pytest.importorskip("cdflib"), pytest.importorskip("h5py")
    fuzz.prepare(kind, tmp_path / "files")
    counts, wrong = fuzz.fuzz(kind, tmp_path / "files", 0, ROUNDS, [b"\x89PNG\r\n\x1a\n" + bytes(40), b"PK\3\4" * 9])
    assert not wrong and sum(counts.values()) == ROUNDS


def test_a_reader_that_fails_otherwise_is_found(tmp_path):
    def breaks(folder):
        (folder / "a").read_bytes()
        raise KeyError("x")

    def names_nothing(folder):
        raise ValueError("something is wrong")

    assert fuzz.judge(breaks, tmp_path) == "refused"                     # there is no file, and the system says which
    (tmp_path / "a").touch()
    assert fuzz.judge(breaks, tmp_path).startswith("KeyError")
    assert fuzz.judge(names_nothing, tmp_path) == "ValueError names no file: something is wrong"


def test_a_reader_that_crashes_is_one_failure_and_not_the_end(tmp_path):
    def crashes(folder):
        faulthandler.disable()                                           # pytest's, which would print where
        os.kill(os.getpid(), signal.SIGSEGV)

    kind = fuzz.Kind("crashes", lambda folder: (folder / "a").write_bytes(b"whole"), "a", crashes)
    for seed in range(2):
        counts, wrong = fuzz.fuzz_apart(kind, tmp_path / "files", seed, 3, [b"other"])
        assert counts == {"failed": 1}
        assert wrong[0].startswith(f"crashes: the process died (-11) at seed, round, damage {seed} 0 ")


# ---------------------------------------------------------------- files made to do harm


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_pickle_inside_a_packed_set_runs_no_code(tmp_path):
    kind = next(kind for kind in fuzz.KINDS if kind.damaged.endswith("ids.npy"))
    fuzz.prepare(kind, tmp_path / "files")
    for name in ("ids.npy", "images.npy", "group-clip.npy"):
        path = tmp_path / "files" / "set" / "train" / name
        whole = path.read_bytes()
        for content in (np.array([Trap(tmp_path / "sprung")] * 4, object), None):
            if content is None:                                          # a bare pickle under an array's name
                path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
            else:
                np.save(path, content, allow_pickle=True)
            with pytest.raises(OSError, match=f"train.* cannot be read.*{name.split('.')[0]}|cannot be read"):
                open_packed(path.parent)
        path.write_bytes(whole)
    open_packed(path.parent)
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_instead_of_weights_or_a_checkpoint_runs_no_code(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for write in (lambda: path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung"))),
                  lambda: torch.save({"run": fuzz.RUN, "network": Trap(tmp_path / "sprung")}, path)):
        write()
        with pytest.raises(OSError, match="checkpoint.pt cannot be read"):
            fuzz._resume(tmp_path)
        with pytest.raises(ValueError, match="does not hold a network of this book"):
            load_network(path)
    assert not (tmp_path / "sprung").exists()
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:     # the trap is live: unguarded, it goes off
        torch.serialization.pickle.loads(archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl"))))
    assert (tmp_path / "sprung").is_dir()


def test_arrays_and_weights_that_claim_to_be_huge_take_no_memory(tmp_path):
    kind = next(kind for kind in fuzz.KINDS if kind.damaged.endswith("joints.npy"))
    fuzz.prepare(kind, tmp_path / "files")
    before = memory()
    for name in ("joints.npy", "images.npy"):
        path = tmp_path / "files" / "set" / "train" / name
        whole = path.read_bytes()
        for shape in ((1 << 31, 17, 2), (1 << 60, 17, 2), (1 << 62, 1 << 62)):
            with path.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                file.write(bytes(100))
            with pytest.raises(OSError, match="cannot be read"):
                open_packed(path.parent)
        path.write_bytes(whole)
    weights = tmp_path / "w.safetensors"
    save_network(weights, fuzz._network(), {"skeleton": "LSP14"})
    whole = weights.read_bytes()
    length, = struct.unpack("<Q", whole[:8])
    config = whole[8:8 + length].replace(b'\\"channels\\": [4, 4]', b'\\"channels\\": [4000000, 4]')
    assert len(config) > length
    weights.write_bytes(struct.pack("<Q", len(config)) + config + whole[8 + length:])
    for content in (weights.read_bytes(), *(struct.pack("<Q", 1 << bits) + whole[8:] for bits in (60, 20))):
        weights.write_bytes(content)
        with pytest.raises(ValueError, match="does not hold a network of this book"):
            load_network(weights)
    assert memory() - before < 300 << 20


@pytest.mark.parametrize(("place", "bit"), [(193, 64), (141, 128)])
def test_a_matlab_file_that_would_crash_its_reader_is_refused(place, bit, tmp_path):
    """A type that there is none of; a size beyond the file's end, which would hide one."""
    kind = next(kind for kind in fuzz.KINDS if kind.name == "lspet, joints.mat")
    fuzz.prepare(kind, tmp_path / "files")
    path = tmp_path / "files" / kind.damaged
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)
    with pytest.raises(OSError, match="joints.mat cannot be read as a MATLAB file .it has an element of the type"):
        kind.read(path.parent)


@pytest.mark.parametrize(("whole", "damaged"), [(b"LSP14", b"LSQ14"), (b'\\"stored\\": 40', b'\\"stored\\": []')])
def test_weights_that_say_what_nobody_knows_are_refused(whole, damaged, tmp_path):
    kind = next(kind for kind in fuzz.KINDS if kind.name == "weights, with what is said about them")
    fuzz.prepare(kind, tmp_path / "files")
    path = tmp_path / "files" / kind.damaged
    content = path.read_bytes()
    assert whole in content
    path.write_bytes(content.replace(whole, damaged))
    with pytest.raises(OSError, match="w.safetensors cannot be read as the weights of a run .*; restore it, or train"):
        kind.read(path.parent)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, rows: int, extra: bytes = b"") -> bytes:
    """A grey picture that claims to be so large, with so many rows of zeros in it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(bytes(width + 1)) for _ in range(rows)) + packer.flush()
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


@pytest.mark.parametrize("content", [
    png(60_000, 60_000, 5), png(12_000, 12_000, 12_000), png(2**31 - 1, 1, 0),
    png(8, 8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200 << 20), 9)))],
    ids=["claims 3.6 billion pixels", "holds 144 million pixels", "claims one long row", "200 MB of packed words"])
def test_a_picture_that_unpacks_to_much_more_is_refused(content, tmp_path):
    (tmp_path / "bomb.png").write_bytes(content)
    before = memory()
    with pytest.raises(OSError, match="bomb.png cannot be read as an image .*fetch it again") as found:
        read_image(tmp_path / "bomb.png")
    assert "\n" not in str(found.value) and memory() - before < 200 << 20


@pytest.mark.parametrize(("name", "kind"), [
    ("../evil", tarfile.REGTYPE), ("a/../../evil", tarfile.REGTYPE), ("/tmp/evil-of-posebook", tarfile.REGTYPE),
    ("link", tarfile.SYMTYPE), ("link", tarfile.LNKTYPE), ("null", tarfile.CHRTYPE), ("disk", tarfile.BLKTYPE),
    ("pipe", tarfile.FIFOTYPE)])
def test_an_archive_writes_nothing_outside_its_folder(name, kind, tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, "../../outside", 4 if kind == tarfile.REGTYPE else 0
        tar.addfile(info, io.BytesIO(b"evil"))
    (tmp_path / "deep").mkdir()
    with pytest.raises(ValueError, match="a.tar.gz: the member .* is a link or leaves the folder"):
        extract(tmp_path / "a.tar.gz", tmp_path / "deep" / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar.gz", "deep"]


def test_an_archive_that_unpacks_to_very_much_is_refused(tmp_path):
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("zeros")
        info.size = 300 << 20
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    assert (tmp_path / "bomb.tar.gz").stat().st_size < 1 << 20
    with pytest.raises(ValueError, match="bomb.tar.gz unpacks to more than"):
        extract(tmp_path / "bomb.tar.gz", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.tar.gz"]


def test_a_record_of_nested_brackets_is_refused(tmp_path):
    (tmp_path / "r.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="r.json is not a whole JSON file"):
        read_record(tmp_path / "r.json")


def test_no_bit_of_a_cdf_file_keeps_its_reader_busy(tmp_path):
    """Without the check of what the file claims, one bit in a hundred did so."""
    pytest.importorskip("av"), pytest.importorskip("cdflib"), pytest.importorskip("h5py")
    kind = next(kind for kind in fuzz.KINDS if "CDF" in kind.name)
    fuzz.prepare(kind, tmp_path / "files")
    path = tmp_path / "files" / kind.damaged
    whole, came = path.read_bytes(), set()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << 5]) + whole[place + 1:])
        came.add(fuzz.judge(kind.read, tmp_path / "files"))
    assert came == {"answered", "refused"}


@pytest.mark.parametrize("compression", [0, 6])
def test_a_cdf_file_that_claims_more_than_it_holds_is_refused(compression, tmp_path):
    pytest.importorskip("cdflib")
    release = pytest.importorskip("test_human36m")
    path = tmp_path / "a.cdf"
    release.write_cdf(path, np.ones((9, 32, 2), np.float32), compression)
    assert read_poses(path, 2).shape == (9, 17, 2)
    whole = path.read_bytes()

    def number(place):
        return int.from_bytes(whole[place:place + 8], "big")

    variable = number(number(20) + 20)
    index = number(variable + 28)
    for place, claim, sentence in ((variable + 24, struct.pack(">i", 1 << 28), "values are claimed in .* bytes"),
                                   (variable + 340, struct.pack(">i", 1 << 29), f"byte {variable} is damaged"),
                                   (index + 24, struct.pack(">i", 1 << 29), f"byte {index} is damaged"),
                                   (index + 12, struct.pack(">q", index), "its index leads back to itself")):
        path.write_bytes(whole[:place] + claim + whole[place + len(claim):])
        with pytest.raises(OSError, match=f"a.cdf cannot be read as a CDF file .*{sentence}.*unpack its archive again"):
            read_poses(path, 2)
