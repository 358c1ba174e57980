"""Is the code still the one that made the records? Small fixed computations, whose numbers are kept.

    python tools/probe_behaviour.py             compute them anew and compare with book/behaviour.json
    python tools/probe_behaviour.py --write     keep the numbers of today's code; records of before become outdated

The age of a file says little: code is renamed and typed without a change of what it computes. So the book asks what
matters, whether the same training would come out the same. A *probe* is a computation of about a second on some of the
book's people, in float32: a few steps of training for every kind of network, the scores of a fixed set of answers, and
so on. `book/behaviour.json` keeps its numbers, and since when the code gives them. A record that is older than that
is outdated: the code that made it gave other numbers. If a probe changes by intention, `--write` says so, and
`tools/check_evidence.py` then names every record that has to be made again.

The dates before this tool existed were found by running it on earlier versions: `PYTHONPATH=OLD python
tools/probe_behaviour.py --print`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from posebook import networks, results, training
from posebook.datasets import PoseDataset, load_people
from posebook.files import whole_file
from posebook.skeleton import H36M17, LSP14, Skeleton
from posebook.targets import build_codecs

KEPT = Path(__file__).resolve().parent.parent / "book" / "behaviour.json"
TOLERANCE = 2e-3
"""Relative. Processors add in different orders, which a few steps of training enlarge: with other vector instructions
(ATEN_CPU_CAPABILITY=default, ONEDNN_MAX_CPU_ISA=SSE41) or two threads, the probes moved by 0.0004 at most. A change of
the method, such as another augmentation, shows in the first digits."""
COUNT = 96


@lru_cache
def read(split: str) -> PoseDataset:
    """Some of the book's people."""
    return load_people(split, limit=COUNT)


def people(split: str, skeleton: Skeleton) -> PoseDataset:
    """The same, labelled with another skeleton."""
    return read(split).as_skeleton(skeleton)


def trained(size: str, tasks: tuple[str, ...], skeleton: Skeleton = LSP14, **settings) -> dict[str, float]:
    """Losses of the second of two epochs of training, and the scores of what was learned."""
    codecs = build_codecs(tasks, skeleton, networks.SIZES[size])
    network = networks.build_network(size, {task: codec.outputs for task, codec in codecs.items()}, seed=0)
    config = training.TrainConfig(**{"epochs": 2, "batch": 32, "amp": False, "device": "cpu", **settings})
    run = training.train(network, codecs, people("train", skeleton), people("validation", skeleton), config,
                         progress=False)
    # Heat maps are read at their highest cell: whether that is this one or the next hangs on the last digit.
    keys = ("train_loss", "validation_loss", *(() if "heatmaps" in tasks else ("spread",)))
    return {key: run.history[-1][key] for key in keys}


def scored() -> dict[str, float]:
    """The tables' numbers for true joints with noise."""
    data, rng = people("validation", H36M17), np.random.default_rng(0)
    flat = results.score(data.source_joints + rng.normal(0, 4, data.joints.shape), data)
    deep = results.score3d(data.joints3d + rng.normal(0, 60, data.joints3d.shape), data)
    flat_keys = ("pck@0.2_torso", "pck_auc_0.5", "pcp_strict", "pcp_loose", "swapped")
    return {key: table[key] for table, keys in ((flat, flat_keys), (deep, ("mpjpe", "pa_mpjpe", "pck3d@150")))
            for key in keys}


def fitted_springs() -> dict[str, float]:
    """A tree of springs, and its best poses on noise."""
    from posebook import pictorial
    data = people("train", LSP14)
    springs = pictorial.learn_springs(data.joints / 4, data.state, LSP14, 2, 0)
    scores = torch.randn(2, len(LSP14), 20, 20, generator=torch.Generator().manual_seed(0))
    found = pictorial.best_pose(springs, scores)
    return {"score": float(found.score.mean()), "x": float(found.joints[..., 0].float().mean()),
            "y": float(found.joints[..., 1].float().mean())}


def explained() -> dict[str, float]:
    """Selectivity of an untrained network's maps, and the correlation of its last weights."""
    from posebook import explain
    codecs = build_codecs(("pose3d",), H36M17, 64)
    network = networks.build_network("small-b", {"pose3d": codecs["pose3d"].outputs}, seed=0).eval()
    selective = explain.selectivity(network, "conv2", people("validation", H36M17))
    weights = explain.weight_correlation(network, "pose3d", 3)
    return {"selectivity": float(np.nanmean(selective)), "correlation": float(np.abs(weights).mean())}


def lifted() -> dict[str, float]:
    """The loss of a lifter after two epochs."""
    from posebook import lifting
    data = people("train", H36M17)
    codec = build_codecs(("pose3d",), H36M17, 64)["pose3d"]
    lifter = lifting.train_lifter(data, codec, lifting.LiftingConfig(epochs=2, batch=32))
    with torch.no_grad():
        answer = lifter(lifting.lifter_input(torch.from_numpy(data.joints), torch.from_numpy(data.state)))
    target, mask = codec.encode(torch.from_numpy(data.joints3d), torch.from_numpy(data.state))
    return {"loss": float(codec.loss(answer, target, mask))}


def embedded() -> dict[str, float]:
    """The pixels and joints of the embedded people, some of each split."""
    found = {}
    for split in ("train", "validation", "test"):
        data = people(split, H36M17)
        found |= {f"{split}_pixels": float(data.images.mean()), f"{split}_joints": float(data.joints.mean()),
                  f"{split}_depth": float(np.abs(data.joints3d).mean())}
    return found


def training_of(size: str, *tasks: str, skeleton: Skeleton = LSP14, **settings) -> Callable[[], dict[str, float]]:
    """The probe of a kind of training."""
    def probe() -> dict[str, float]:
        return trained(size, tasks, skeleton, **settings)
    probe.__doc__ = f"A short training of {size}: {' and '.join(tasks)}."
    return probe


PROBES: dict[str, Callable[[], dict[str, float]]] = {
    "people": embedded,
    "scores": scored,
    "regression": training_of("small", "regression"),
    "regression, first day": training_of("small", "regression", optimizer="sgd", mean_start=False, normalise=False),
    "detection": training_of("small", "regression", "joints", "parts"),
    "heatmaps": training_of("small", "heatmaps"),
    "softargmax": training_of("small", "softargmax"),
    "rle": training_of("small", "rle"),
    # AdamW's first steps have the sign of the gradient, whose smallest parts differ between processors
    "resnet18": training_of("resnet18", "regression", epochs=1, optimizer="sgd"),
    "3D": training_of("small-b", "pose3d", "joints", skeleton=H36M17),
    "lifting": lifted,
    "springs": fitted_springs,
    "explain": explained,
}


def probes_of(record: dict) -> set[str]:
    """The probes that bear on a record."""
    tasks = set(record.get("tasks") or ([record["task"]] if "task" in record else []))
    found = {"scores"} | ({"people"} if "people" in record.get("dataset", "") else set())
    if "history" in record:
        plain = record["config"].get("normalise", True) and record["config"].get("optimizer") != "sgd"
        found |= tasks & {"heatmaps", "softargmax", "rle"}
        found |= {"regression" if plain else "regression, first day"} if "regression" in tasks else set()
        found |= {"detection"} if {"joints", "parts"} & tasks else set()
        found |= {"3D"} if "pose3d" in tasks else set()
        found |= {"resnet18"} if record.get("network", {}).get("trunk") == "resnet18" else set()
    name = record["name"]
    found |= {"lifting"} if "lifting" in name else set()
    found |= {"springs", "detection"} if name.startswith("families") else set()
    found |= {"explain", "3D"} if name.startswith("explain") else set()
    return found


def kept() -> dict[str, dict]:
    """The numbers of book/behaviour.json: probe -> {"values", "since"}."""
    return results.read_record(KEPT)


def outdated(record: dict) -> list[str]:
    """Why a record is older than the code that makes it, in sentences; empty if it is not."""
    known = kept()
    finished = datetime.fromisoformat(record["environment"]["finished"])
    return [f"is of {finished:%Y-%m-%d %H:%M}, but since {known[probe]['since']} the code gives other numbers for "
            f"{probe}" for probe in sorted(probes_of(record))
            if finished < datetime.fromisoformat(known[probe]["since"])]


def differences(values: dict[str, float], wanted: dict[str, float]) -> list[str]:
    """Which numbers of a probe are not those that were kept."""
    return [f"{key} is {values.get(key)}, was {wanted.get(key)}" for key in sorted(values.keys() | wanted.keys())
            if key not in values or key not in wanted
            or abs(values[key] - wanted[key]) > TOLERANCE * max(abs(wanted[key]), 1e-6)]


def main(arguments: list[str] | None = None) -> int:
    """Compare or write; return the exit status, 1 if a number has changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("probes", nargs="*", help=f"default all: {', '.join(PROBES)}")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="keep the numbers of today's code")
    action.add_argument("--print", action="store_true", help="print the numbers as JSON, compare nothing")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    known = kept() if KEPT.is_file() else {}
    found, changed = {}, 0
    for name in options.probes or PROBES:
        try:
            found[name] = results.plain(PROBES[name]())
        except Exception as error:
            if not options.print:
                raise
            found[name] = f"{type(error).__name__}: {error}"          # an earlier version may lack what is asked
            continue
        wrong = differences(found[name], known.get(name, {}).get("values", {}))
        changed += bool(wrong)
        if wrong and options.write:
            known[name] = {"values": found[name], "since": datetime.now(UTC).isoformat(timespec="seconds")}
        elif wrong and not options.print:
            print(f"{name}: " + "; ".join(wrong))
    if options.print:
        print(json.dumps(found))
    if options.write:
        with whole_file(KEPT) as part:
            part.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return int(changed and not options.write and not options.print)


if __name__ == "__main__":
    sys.exit(main())
