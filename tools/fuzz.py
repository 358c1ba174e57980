"""Damage every file that posebook reads, in many ways, and see that it says so in one sentence.

    python tools/fuzz.py --minutes 5 --seed 1 --record benchmarks/fuzz.json

Small whole files of every kind are made first. Then, round after round, one of them is cut short, has bits flipped,
bytes blanked, doubled or put in, is emptied, is replaced by a file of another kind, by nested brackets, by noise or by
a folder, and is read. Right is: an answer (payload without a checksum may well be another), or a ValueError or OSError
whose text names the file or its folder. Anything else is counted as a failure: another exception, a sentence that does
not say which file, a crash, more than a gigabyte of memory, more than half a minute.

Each kind of file is read in a process of its own, so that a crash is one more count and not the end.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import random
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import samples  # noqa: E402

MEMORY, SECONDS = 1 << 30, 30


@dataclass(frozen=True)
class Kind:
    """A kind of file: how whole ones are made in a folder, which of them is damaged, and how they are read."""

    name: str
    make: Callable[[Path], None]
    damaged: str
    read: Callable[[Path], object]


# ---------------------------------------------------------------- the files, and what reads them


def _people(folder: Path) -> None:
    samples.people_shard(folder / "train-00000.parquet", 4, 64)


def _summed_people(folder: Path) -> None:
    from posebook.files import sha256, write_sums
    _people(folder)
    write_sums(folder, {"train-00000.parquet": sha256(folder / "train-00000.parquet")})


def _load_people(folder: Path):
    from posebook.datasets import load_people
    return load_people("train", folder, parts=True)


def _packed(folder: Path) -> None:
    from posebook.datasets import load_people, pack
    _people(folder / "files")
    pack([load_people("train", folder / "files")], folder / "set" / "train", {"size": 80, "crop": 64})


def _looks(folder: Path) -> None:
    """People with what the traits are read from."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from posebook.limits import SHAPE
    _people(folder)
    table = pq.read_table(folder / "train-00000.parquet")
    look = {"skin": [0.5] * 3, "shape": dict.fromkeys(SHAPE, 0.5)}
    table = table.append_column("look", pa.array([json.dumps(look)] * len(table)))
    pq.write_table(table, folder / "train-00000.parquet")


def _read_traits(folder: Path):
    from posebook.limits import known_from_files
    return known_from_files("train", folder)


def _stream_people(folder: Path):
    from posebook.datasets import StreamedPeople
    people = StreamedPeople("train", folder)
    return people.subset(range(len(people)))


def _check_leaks(folder: Path):
    from posebook.synthesis.shards import distinct
    return distinct([folder / "train-00000.parquet"])


def _open_packed(folder: Path):
    from posebook.datasets import open_packed
    data = open_packed(folder / "set" / "train")
    return data.images[:2]


def _lspet(folder: Path) -> None:
    samples.lspet_folder(folder, 3)


def _read_joints(folder: Path):
    from posebook.datasets.lspet import read_joints
    return read_joints(folder / "joints.mat")


def _crops(folder: Path) -> None:
    from posebook.datasets import lspet
    lspet._save_cache(folder / "crops.npz", samples.people(2))


def _load_crops(folder: Path):
    """A damaged cache is made again, so reading it may say nothing but None."""
    from posebook.datasets import lspet
    return lspet._load_cache(folder / "crops.npz", "train")


def _image(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from PIL import Image
        picture = samples.painted(samples.pose(samples.LSP14, (30, 30), 20), 60, 64, 2)
        Image.fromarray(picture).save(folder / f"me{suffix}")
    return make


def _read_image(suffix: str) -> Callable[[Path], object]:
    def read(folder: Path):
        from posebook.datasets.base import read_image
        return read_image(folder / f"me{suffix}")
    return read


def _checkpoint(folder: Path) -> None:
    import torch

    from posebook import training
    config = training.TrainConfig(epochs=1, batch=2)
    training.train(_network(), samples.CODECS, samples.people(4), samples.people(2, 1), config, folder, progress=False)
    state = torch.load(folder / training.CHECKPOINT, weights_only=True)
    torch.save({**state, "run": RUN}, folder / training.CHECKPOINT)


def _network():
    import torch

    from posebook.networks import PoseNetwork
    torch.manual_seed(0)
    return PoseNetwork(samples.tiny())


def _resume(folder: Path):
    import torch

    from posebook import training
    network = _network()
    optimizer, scaler = training._optimizer(network, training.TrainConfig()), torch.amp.GradScaler(enabled=False)
    path = folder / training.CHECKPOINT
    return training._restore(path, training._read_checkpoint(path, RUN), network, optimizer, scaler)


RUN = "any run"


def _weights(folder: Path) -> None:
    from posebook.networks import save_network
    save_network(folder / "w.safetensors", _network(), {"skeleton": "LSP14", "dataset": "people", "seed": 0})


def _load_weights(folder: Path):
    from posebook.networks import load_network
    return load_network(folder / "w.safetensors")


def _described(folder: Path) -> None:
    from posebook import floors
    from posebook.networks import save_network
    data = samples.people(4)
    save_network(folder / "w.safetensors", _network(), {
        "skeleton": "LSP14", "dataset": "people", "seed": 0, "share": 1.0, "tasks": ["regression"], "stored": 40,
        "mean_pose": floors.mean_pose(data).tolist()})


def _use_weights(folder: Path):
    """What `predict` and `evaluate` take from a file of weights beside the network."""
    from posebook import __main__ as command
    from posebook import floors
    from posebook.skeleton import SKELETONS
    path = folder / "w.safetensors"
    network, about = command._load(path)
    data = samples.people(1).as_skeleton(SKELETONS[about["skeleton"]])
    return command._pose_head(network, path), floors.predict_mean_pose(np.array(about["mean_pose"], np.float32), data)


def _note(folder: Path) -> None:
    (folder / "data-folder.txt").write_text("/somewhere/people")


def _read_note(folder: Path):
    from posebook import __main__ as command
    return command._noted_folder(folder / "weights.safetensors")


def _finished_run(folder: Path) -> None:
    shutil.copy(RECORD, folder / "record.json")


def _ask_again(folder: Path):
    from posebook import __main__ as command
    record = json.loads(RECORD.read_text())
    return command._finished(folder, {name: record[name] for name in ("dataset", "tasks", "config")}, set())


def _family(folder: Path) -> None:
    record = json.loads(RECORD.read_text())
    tables = {"pck@0.2_torso": 0.5, "pck_per_image": [0.5, None, 1.0, 0.25]}
    for name in ("a-0", "a-1", "b-0", "b-1"):
        content = {"name": name, "dataset": record["dataset"], "scores": {"all": {"network": tables}}}
        (folder / f"{name}.json").write_text(json.dumps(content))


def _compare(folder: Path):
    return _command("compare", "b", "a", "--folder", str(folder))


def _command(*arguments: str):
    from posebook import __main__ as command
    options = command._parser().parse_args(list(arguments))
    return options.command(options)


def _notebook(folder: Path) -> None:
    import nbformat
    cells = [nbformat.v4.new_code_cell("profile = 'smoke'", id="a", metadata={"tags": ["parameters"]})]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {
        "name": "python3", "display_name": "Python 3", "language": "python"}}), str(folder / "01-a.ipynb"))


def _plan(folder: Path):
    from posebook import batch
    return batch.plan(batch.find_chapters([], folder), {"profile": "smoke"})


def _live(folder: Path) -> None:
    (folder / "a.onnx").write_bytes(b"123")
    (folder / "live.json").write_text(json.dumps({"key": "a key", "bytes": {"a.onnx": 3}, "networks": []}))


def _is_made(folder: Path):
    import build_live
    return build_live._is_made(folder, "a key")


def _check_records(folder: Path):
    import check_evidence
    return check_evidence.in_records(folder)


def _read_figures(folder: Path):
    import gpu_needs
    return gpu_needs.read(folder / FIGURES.name)


FIGURES = ROOT / "benchmarks" / "step.json"


def _copied(*paths: Path) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for path in paths:
            shutil.copy(path, folder / path.name)
    return make


RECORD = ROOT / "book" / "results" / "tasks-people-plain-regression-0.json"


def _read_record(folder: Path):
    from posebook.results import check_record, read_record
    return check_record(read_record(folder / RECORD.name))


SWEEP = min((ROOT / "book" / "sweeps").glob("*.toml"))


def _read_sweep(folder: Path):
    from posebook import sweep
    runs = sweep.read_sweep(folder / SWEEP.name, {"lspet": "DIR", "sets": "SETS"})
    return [sweep.images_seen(run, 20) for run in runs]


def _read_ledger(folder: Path):
    from posebook import claims
    path = folder / "claims.toml"
    claims.read_ledger.cache_clear()
    return claims.read_rules(path), claims.read_runs(path), claims.problems(path)


def _recipe(folder: Path) -> None:
    (folder / "recipe.json").write_text(json.dumps({"seed": 0, "shard": 4}))


def _claim(folder: Path):
    from posebook.synthesis.shards import _claim as claim
    return claim(folder, {"seed": 0, "shard": 4})


def _sums(folder: Path) -> None:
    from posebook.files import write_sums
    write_sums(folder, {"a.parquet": "0" * 64, "b.parquet": "1" * 64})


def _read_sums(folder: Path):
    from posebook.files import read_sums
    return read_sums(folder)


def _chapter(folder: Path) -> None:
    (folder / "01.json").write_text(json.dumps({"status": "finished", "seconds": 2}))


def _status(folder: Path):
    from posebook.batch import _status as status
    return status(folder / "01.json")


def _obj(folder: Path) -> None:
    (folder / "a.obj").write_text("g body\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nvt 0 0\nvt 1 1\nf 1/1 2/2 3/1 4/2\n")


def _read_obj(folder: Path):
    from posebook.synthesis.body import read_obj
    return read_obj(folder / "a.obj")


def _garment(folder: Path) -> None:
    _obj(folder)
    _image(".png")(folder)
    (folder / "a.mhmat").write_text("name a\ndiffuseTexture me.png\n")
    (folder / "a.mhclo").write_text("name a\nobj_file a.obj\nmaterial a.mhmat\nx_scale 0 1 1.0\ny_scale 0 2 1.0\n"
                                    "z_scale 0 3 1.0\nverts 0\n0 1 2 0.3 0.3 0.4 0 0 0\n1\n2\n3\ndelete_verts\n"
                                    "3 5 - 7\n")


def _wear(folder: Path):
    from posebook.synthesis.wardrobe import Wardrobe, read_garment
    garment = read_garment(folder / "a.mhclo")
    wardrobe = Wardrobe(folder / "nothing")
    return wardrobe.texture(garment)


def _body(folder: Path) -> None:
    for name in ("base_mesh", "rigs", "targets/macrodetails"):
        (folder / name).mkdir(parents=True)
    _obj(folder / "base_mesh")
    (folder / "base_mesh" / "a.obj").rename(folder / "base_mesh" / "base.obj")
    end = {"strategy": "MEAN", "vertex_indices": [0, 1]}
    rig = {"Hips": {"parent": "", "head": end, "tail": end}, "Spine": {"parent": "Hips", "head": end, "tail": end}}
    (folder / "rigs" / "rig.cmu_mb.json").write_text(json.dumps(rig))
    (folder / "rigs" / "weights.cmu_mb.json").write_text(json.dumps({"weights": {"Hips": [[0, 1.0]],
                                                                                 "Spine": [[1, 0.5]]}}))
    name = "universal-female-young-averagemuscle-averageweight.target.gz"
    (folder / "targets" / "macrodetails" / name).write_bytes(gzip.compress(b"# a target\n0 0.1 0.2 0.3\n2 0 0 .5\n"))


def _grow(folder: Path):
    from posebook.synthesis.body import BodyModel, Shape
    model = BodyModel(folder)
    return model.morph(Shape(male=0))


def _panorama(folder: Path):
    from posebook.synthesis.scene import read_panorama
    return read_panorama(folder / "me.jpg")


def _humanoid(folder: Path) -> None:
    frame = [0.02, 0, 0.85, 0] + [1.0, 0, 0, 0] * 3 + ([1.0, 0, 0, 0] + [0.0] + [1.0, 0, 0, 0] * 2 + [0.0]) * 2
    (folder / "a.txt").write_text(json.dumps({"Loop": "none", "Frames": [frame, frame]}))


def _expmap(folder: Path) -> None:
    (folder / "a.txt").write_text("\n".join(",".join(["0.1"] * 117) for _ in range(3)))


def _bvh(folder: Path) -> None:
    (folder / "a.bvh").write_text(
        "HIERARCHY\nROOT Hips\n{\nOFFSET 0 0 0\nCHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation"
        "\nJOINT LeftKnee\n{\nOFFSET 0 -1 0\nCHANNELS 3 Zrotation Yrotation Xrotation\nEnd Site\n{\nOFFSET 0 -1 0\n}\n"
        "}\n}\nMOTION\nFrames: 2\nFrame Time: 0.0083\n" + "0 1 0 0 0 0 0 0 0\n" * 2)


def _amc(folder: Path) -> None:
    (folder / "a.asf").write_text(
        ":version 1.10\n:bonedata\nbegin\nid 1\nname lfemur\ndirection 0 -1 0\nlength 7\naxis 0 0 20 XYZ\n"
        "dof rx ry rz\nend\n:hierarchy\nbegin\nroot lfemur\nend\n")
    (folder / "a.amc").write_text("#!OML\n:FULLY-SPECIFIED\n1\nroot 0 1 0 0 0 0\nlfemur 1 2 3\n")


def _clip(name: str) -> Callable[[Path], object]:
    def read(folder: Path):
        from posebook.synthesis.motion import read_clip
        return read_clip(folder / name, "a", "walking")
    return read


def _archive(folder: Path) -> None:
    (folder / "words.txt").write_text("one two three " * 40)
    with tarfile.open(folder / "a.tar.gz", "w:gz") as tar:
        tar.add(folder / "words.txt", "a/words.txt")


def _extract(folder: Path):
    from posebook.synthesis.assets import extract
    shutil.rmtree(folder / "out", ignore_errors=True)
    return extract(folder / "a.tar.gz", folder / "out")


def _human(folder: Path) -> None:
    import test_human36m as release
    release.write_view(folder, 9, "Directions", 0, 4)
    release.write_metadata(folder / "metadata.xml")


def _read_poses(folder: Path):
    from posebook.datasets.human36m import read_poses
    return read_poses(folder / POSES, 2)


def _read_boxes(folder: Path):
    from posebook.datasets.human36m import read_boxes
    return read_boxes(folder / BOXES, np.arange(4), 4)


def _read_video(folder: Path):
    from posebook.datasets.human36m import _decode
    return list(_decode(folder / VIDEO, [0, 2]))


def _read_cameras(folder: Path):
    from posebook.datasets.human36m import read_cameras
    return read_cameras(folder / "metadata.xml")


NAME = "Directions.54138969"
POSES, BOXES, VIDEO = (f"S9/{place}/{NAME}.{end}" for place, end in (
    ("MyPoseFeatures/D2_Positions", "cdf"), ("MySegmentsMat/ground_truth_bb", "mat"), ("Videos", "mp4")))

KINDS = (
    Kind("people, Parquet", _people, "train-00000.parquet", _load_people),
    Kind("people, Parquet with a checksum", _summed_people, "train-00000.parquet", _load_people),
    Kind("people, traits", _looks, "train-00000.parquet", _read_traits),
    Kind("people, streamed", _people, "train-00000.parquet", _stream_people),
    Kind("people, looked through for leaks", _people, "train-00000.parquet", _check_leaks),
    Kind("SHA256SUMS", _sums, "SHA256SUMS", _read_sums),
    *(Kind(f"packed set, {name}", _packed, f"set/train/{name}", _open_packed) for name in (
        "about.json", "images.npy", "joints.npy", "ids.npy", "group-clip.npy")),
    Kind("lspet, joints.mat", _lspet, "joints.mat", _read_joints),
    Kind("lspet, cached crops", _crops, "crops.npz", _load_crops),
    Kind("human36m, poses (CDF)", _human, POSES, _read_poses),
    Kind("human36m, boxes (HDF5)", _human, BOXES, _read_boxes),
    Kind("human36m, video", _human, VIDEO, _read_video),
    Kind("human36m, metadata.xml", _human, "metadata.xml", _read_cameras),
    *(Kind(f"picture, {end[1:].upper()}", _image(end), f"me{end}", _read_image(end)) for end in (
        ".jpg", ".png", ".gif", ".webp", ".tif", ".bmp")),
    Kind("checkpoint", _checkpoint, "checkpoint.pt", _resume),
    Kind("weights, safetensors", _weights, "w.safetensors", _load_weights),
    Kind("weights, with what is said about them", _described, "w.safetensors", _use_weights),
    Kind("note of a data folder", _note, "data-folder.txt", _read_note),
    Kind("record of a finished run", _finished_run, "record.json", _ask_again),
    Kind("records, compared", _family, "a-0.json", _compare),
    Kind("records, checked", _copied(RECORD), RECORD.name, _check_records),
    Kind("figures of a page", _copied(FIGURES), FIGURES.name, _read_figures),
    Kind("files of the live page", _live, "live.json", _is_made),
    Kind("chapter, notebook", _notebook, "01-a.ipynb", _plan),
    Kind("record", _copied(RECORD), RECORD.name, _read_record),
    Kind("sweep, TOML", _copied(SWEEP), SWEEP.name, _read_sweep),
    Kind("ledger, TOML", _copied(ROOT / "book" / "claims.toml"), "claims.toml", _read_ledger),
    Kind("recipe of a synthesis", _recipe, "recipe.json", _claim),
    Kind("state of a chapter's run", _chapter, "01.json", _status),
    Kind("archive of ingredients", _archive, "a.tar.gz", _extract),
    Kind("body, OBJ", _obj, "a.obj", _read_obj),
    Kind("body, rig", _body, "rigs/rig.cmu_mb.json", _grow),
    Kind("body, skin weights", _body, "rigs/weights.cmu_mb.json", _grow),
    Kind("body, target", _body,
         "targets/macrodetails/universal-female-young-averagemuscle-averageweight.target.gz", _grow),
    Kind("garment, mhclo", _garment, "a.mhclo", _wear),
    Kind("garment, material", _garment, "a.mhmat", _wear),
    Kind("garment, texture", _garment, "me.png", _wear),
    Kind("panorama", _image(".jpg"), "me.jpg", _panorama),
    Kind("motion, humanoid3d", _humanoid, "a.txt", _clip("a.txt")),
    Kind("motion, exponential maps", _expmap, "a.txt", _clip("a.txt")),
    Kind("motion, BVH", _bvh, "a.bvh", _clip("a.bvh")),
    Kind("motion, AMC", _amc, "a.amc", _clip("a.amc")),
    Kind("motion, ASF", _amc, "a.asf", _clip("a.amc")),
)

# ---------------------------------------------------------------- damage


def _cut(draw: random.Random, whole: bytes, others: list[bytes]) -> bytes:
    return whole[:draw.randrange(len(whole))]


def _flip(draw: random.Random, whole: bytes, others: list[bytes]) -> bytes:
    """1 to 16 bits: half the time anywhere, else among the first or last 200 bytes, where headers are."""
    found, reach = bytearray(whole), min(200, len(whole))
    where = draw.choice([range(len(whole)), range(len(whole)), range(reach), range(len(whole) - reach, len(whole))])
    for _ in range(draw.choice([1, 1, 2, 16])):
        found[draw.choice(where)] ^= 1 << draw.randrange(8)
    return bytes(found)


def _blank(draw: random.Random, whole: bytes, others: list[bytes]) -> bytes:
    at, length = draw.randrange(len(whole)), draw.choice([1, 8, 64, 4096])
    return whole[:at] + bytes([draw.choice([0, 255])]) * len(whole[at:at + length]) + whole[at + length:]


def _double(draw: random.Random, whole: bytes, others: list[bytes]) -> bytes:
    at, length = draw.randrange(len(whole)), draw.choice([1, 8, 64, 4096])
    return whole[:at + length] + whole[at:]


def _put_in(draw: random.Random, whole: bytes, others: list[bytes]) -> bytes:
    at = draw.randrange(len(whole))
    return whole[:at] + draw.choice([b"\0", b"9999999999", b"-1", b"nan", b"1e400", b"\xff\xfe", b"[{", b'"', b"\n",
                                     draw.randbytes(20)]) + whole[at:]


def _empty(draw: random.Random, whole: bytes, others: list[bytes]) -> bytes:
    return b""


def _another(draw: random.Random, whole: bytes, others: list[bytes]) -> bytes:
    return draw.choice(others)


def _nested(draw: random.Random, whole: bytes, others: list[bytes]) -> bytes:
    return draw.choice([b"[", b'{"a":', b"a = [", b"<a>"]) * draw.choice([500, 100_000])


def _noise(draw: random.Random, whole: bytes, others: list[bytes]) -> bytes:
    return draw.randbytes(draw.choice([1, 10, 1000]))


DAMAGE = {"cut short": (_cut, 5), "bits flipped": (_flip, 8), "bytes blanked": (_blank, 3),
          "bytes doubled": (_double, 2), "bytes put in": (_put_in, 3), "emptied": (_empty, 1),
          "another kind of file": (_another, 1), "nested brackets": (_nested, 1), "noise": (_noise, 1),
          "a folder": (None, 1)}


def damage(draw: random.Random, path: Path, whole: bytes, others: list[bytes]) -> str:
    """Damage the file at `path`, whose content is `whole`; returns how."""
    how = draw.choices(list(DAMAGE), [weight for _, weight in DAMAGE.values()])[0]
    shutil.rmtree(path, ignore_errors=True)
    if how == "a folder":
        path.unlink(missing_ok=True)
        path.mkdir()
    else:
        path.write_bytes(DAMAGE[how][0](draw, whole, others))
    return how


class TooLong(BaseException):
    """Not an OSError, which is what a reader may raise."""


def _ring(*_) -> None:
    raise TooLong


def judge(read: Callable[[Path], object], folder: Path, name: str = "") -> str:
    """Read, and say what came of it: "answered", "refused", or what is wrong with how it failed."""
    before, memory = signal.signal(signal.SIGALRM, _ring), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(SECONDS)
    try:
        read(folder)
        found = "answered"
    except (ValueError, OSError) as error:
        words = str(error)
        named = str(folder) in words or (name and name in words)
        found = "refused" if named else f"{type(error).__name__} names no file: {words[:150]}"
    except TooLong:
        found = f"took more than {SECONDS} s"
    except BaseException as error:
        found = f"{type(error).__name__}: {str(error)[:150]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory)
    return f"took {grown >> 20} MiB of memory" if grown > MEMORY else found


def fuzz(kind: Kind, folder: Path, seed: int, rounds: int, others: list[bytes]) -> tuple[Counter, list[str]]:
    """Damage and read a kind of file so many times: what came of it, and each failure in words, with its bytes kept."""
    draw = random.Random(f"{seed} {kind.name}")
    path = folder / kind.damaged
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        kind.make(folder)
    whole = path.read_bytes()
    counts, wrong = Counter(), []
    for number in range(rounds):
        how = damage(draw, path, whole, others)
        (folder / "now").write_text(f"{seed} {number} {how}")
        found = judge(kind.read, folder, path.stem)
        counts[found if found in ("answered", "refused") else "failed"] += 1
        if found not in ("answered", "refused"):
            wrong.append(f"{kind.name}, {how}, round {number} of seed {seed}: {found}")
    shutil.rmtree(path, ignore_errors=True)
    path.write_bytes(whole)
    return counts, wrong


def prepare(kind: Kind, folder: Path) -> None:
    """Make the whole files, and make sure that they are read as such; those of motions lack most bones for brevity."""
    folder.mkdir(parents=True)
    kind.make(folder)
    first = judge(kind.read, folder)
    assert first == "answered" or kind.name.startswith("motion"), f"{kind.name} is not read: {first}"


def _child(kind: Kind, folder: Path, seed: int, rounds: int, others: list[bytes], answer) -> None:
    warnings.simplefilter("ignore")
    folder.mkdir(parents=True, exist_ok=True)            # not there after a crash
    with (folder / "said").open("w") as sys.stdout:
        answer.send(fuzz(kind, folder, seed, rounds, others))


def fuzz_apart(kind: Kind, folder: Path, seed: int, rounds: int, others: list[bytes]) -> tuple[Counter, list[str]]:
    """`fuzz` in a process of its own."""
    fork = multiprocessing.get_context("fork")
    mine, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_child, args=(kind, folder, seed, rounds, others, theirs))
    process.start()
    theirs.close()
    try:
        return mine.recv()
    except EOFError:
        now = (folder / "now").read_text()
        shutil.rmtree(folder)
        process.join()
        return Counter(failed=1), [f"{kind.name}: the process died ({process.exitcode}) at seed, round, damage {now}"]
    finally:
        process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=40, help="damages a kind before the next (default 40)")
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    parser.add_argument("--record", type=Path, help="JSON file for the counts")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    from posebook import results
    scratch = Path(tempfile.mkdtemp(prefix="posebook-fuzz-"))
    kinds = [kind for kind in KINDS if options.only in kind.name]
    for number, kind in enumerate(kinds):
        prepare(kind, scratch / str(number))
    others = [(scratch / str(number) / kind.damaged).read_bytes() for number, kind in enumerate(kinds)]
    until = time.monotonic() + 60 * options.minutes
    counts, wrong, seed = {kind.name: Counter() for kind in kinds}, [], options.seed * 1_000_000
    while time.monotonic() < until:
        for number, kind in enumerate(kinds):
            found, sentences = fuzz_apart(kind, scratch / str(number), seed, options.rounds, others)
            counts[kind.name] += found
            wrong += sentences
            for sentence in sentences:
                print(sentence, flush=True)
        seed += 1
    shutil.rmtree(scratch)
    total = sum(counts.values(), Counter())
    print(f"{sum(total.values())} damaged files: {total['answered']} read all the same, {total['refused']} refused "
          f"in a sentence, {total['failed']} failures")
    if options.record:
        results.write_record(options.record, {"seed": options.seed, "minutes": options.minutes, "total": total,
                                              "kinds": counts, "failures": wrong,
                                              "environment": results.environment()})
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
