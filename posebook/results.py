"""Run records: what was measured, and all it takes to repeat it. Prose and tables of the book read these files.

A record is one JSON file a run under `book/results/`: metrics, configuration, seed, commit, versions, hardware and
duration.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from posebook import floors, geometry, metrics, training
from posebook.datasets import PoseDataset
from posebook.files import whole_file
from posebook.networks import PoseNetwork
from posebook.skeleton import ABSENT, H36M17
from posebook.targets import POSES, Codec, JointWindows, PartWindows


def results_folder(kind: str = "results") -> Path:
    """`book/results` (or `book/weights`) of a checkout, or its copy inside the installed package."""
    package = Path(__file__).resolve().parent
    places = (package.parent / "book" / kind, package / "_data" / kind)
    return next((place for place in places if place.is_dir()), places[0])


def shipped_weights(dataset: str) -> Path:
    """The network that comes with the book."""
    return results_folder("weights") / f"regression-{dataset}.safetensors"


def environment() -> dict[str, str | int]:
    """Commit, versions and hardware of this run, for its record."""
    root, commit = Path(__file__).resolve().parents[1], ""
    if (root / ".git").exists():     # else it is installed, maybe inside somebody's repository: not our commit
        try:
            commit = subprocess.run(["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
                                    capture_output=True, text=True, check=False).stdout.strip()
        except OSError:  # no git on this machine
            pass
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {"commit": commit or "unknown", "python": platform.python_version(), "torch": torch.__version__,
            "numpy": np.__version__, "hardware": hardware, "threads": torch.get_num_threads(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds")}


def peak_memory_mb() -> dict[str, float]:
    """The largest memory that this process has held at once so far, in units of 2^20 bytes: "process", what was
    resident of it (not on Windows), and "gpu", where there is one, what its tensors took of its GPU."""
    found = {}
    try:
        import resource
        unit = 2**20 if sys.platform == "darwin" else 2**10          # macOS counts bytes, Linux units of 2^10
        found["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    except ImportError:
        pass
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.machine()
    return f"{model} (CPU, {torch.backends.cpu.get_cpu_capability()})"


def write_record(path: str | Path, record: dict) -> Path:
    """Write a record atomically. NaN becomes null, since JSON has no NaN; other numbers keep six digits."""
    path = Path(path)
    with whole_file(path) as part:
        part.write_text(json.dumps(plain(record), indent=1, allow_nan=False) + "\n")
    return path


def plain(value: Any) -> Any:
    """`value` as it comes back from a record: tuples and arrays as lists, NaN as None, six digits."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def read_record(name: str | Path) -> dict:
    """Read a record by its name in `book/results`, or by path.

    Raises:
        FileNotFoundError: naming the records there are; ValueError: if it is no whole JSON file.
    """
    path = Path(name) if str(name).endswith(".json") else results_folder() / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise FileNotFoundError(f"there is no record {path.name}; in {path.parent} there are: {there}")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole JSON file ({error}); restore it from the repository") from error


RECORD_FIELDS = {
    "name": ("always", str, "the record's file name without `.json`"),
    "dataset": ("always", str, "what was trained on, or, where nothing was trained, measured on"),
    "environment": ("always", dict, "commit, versions of Python, torch and numpy, hardware, threads, when it finished"),
    "tasks": ("training", list, "heads of the network: regression, joints, parts, pose3d (older records: `task`)"),
    "skeleton": ("training", str, "joint order of the labels"),
    "training_images": ("training", int, "how many images there were to train on"),
    "skipped": ("optional", dict, "what was left out on reading, and how often"),
    "network": ("training", dict, "the network's sizes"),
    "parameters": ("training", int, "how many numbers the network has"),
    "config": ("training", dict, "everything that ruled the training, the seed among it"),
    "precision": ("optional", str, "what was computed in, such as bfloat16; older records with `amp`: bfloat16"),
    "history": ("training", list, "one entry for each epoch: losses, learning rate, validation, spread, seconds"),
    "kept_epoch": ("training", int, "the epoch, counted from 0, whose weights were kept"),
    "seconds": ("training", float, "how long the training took"),
    "scores": ("training", dict, "2D tables (`results.score`) on the validation split: subset, predictor, table"),
    "measured": ("optional", dict, "in the place of `scores`, tables of the museum of bugs: split, predictor, table"),
    "stream": ("optional", bool, "whether the training images were read anew in every epoch (`StreamedPeople`); then "
               "floors and `on_training_images` are of some of them"),
    "processes": ("optional", int, "how many processes trained together (`posebook.parallel`); older records: one"),
    "peak_memory_mb": ("optional", dict, "the most memory that was held by the process which finished the run "
                       "(`process`), and by its tensors on its GPU (`gpu`), in units of 2^20 bytes"),
    "share": ("optional", float, "share of the training images that was used"),
    "elsewhere": ("optional", dict, "2D tables on other data, such as `people:test`"),
    "scores3d": ("optional", dict, "3D tables (`results.score3d`)"),
    "pretraining": ("optional", dict, "the first stage: its tasks, config and history"),
    "detection": ("optional", dict, "average precision and chance: task, name, values"),
    "false_alarms": ("optional", dict, "answers of detectors in pictures of nobody"),
    "on_training_images": ("optional", dict, "the last epoch's losses, on 1,000 of the training images"),
    "mean_pose_losses": ("optional", dict, "the regression loss of a constant, the mean pose"),
    "run": ("measuring", str, "the training run whose network was measured"),
    "split": ("measuring", str, "the split that it was measured on"),
    "seed": ("measuring", int, "the seed of that run"),
    "ways": ("optional", dict, "2D tables of the ways to read a pose (`posebook families`)"),
    "weights": ("optional", dict, "correlations and sparsity of the last layer; weights of a pictorial structure"),
    "features": ("optional", dict, "selectivity of each map, by layer (`posebook explain`)"),
}
"""What a record may hold: field -> (needed in which records, type, meaning). A record with a `history` is of a training
run, one that names a `run` measures the network of another."""


def check_record(record: dict) -> list[str]:
    """What is wrong with a run record, in sentences; empty if all is well. Fields that are not in `RECORD_FIELDS` are
    allowed: experiments of their own have numbers of their own.

    Every table of scores in it is checked, wherever it stands: shares between 0 and 1, errors not negative, intervals
    the right way round, as many values for each image as there are images.
    """
    kinds = {"always", "training" if "history" in record else "", "measuring" if "run" in record else ""}
    found = []
    for field, (needed, kind, _) in RECORD_FIELDS.items():
        if (field, True) in (("tasks", "task" in record), ("scores", "measured" in record)):
            continue
        if field not in record:
            if needed in kinds:
                found.append(f"a record needs {field}")
        elif not isinstance(record[field], kind | type(None) if needed == "optional" else kind):
            found.append(f"{field} is {type(record[field]).__name__} and should be {kind.__name__}")
    about = ("commit", "python", "torch", "numpy", "hardware", "threads", "finished")
    found += [f"environment lacks {name}" for name in about if name not in (record.get("environment") or {})]
    if "history" in record:
        config, history = record.get("config") or {}, record["history"]
        if "seed" not in config:
            found.append("config names no seed")
        if not 0 <= record.get("kept_epoch", -1) < len(history) <= config.get("epochs", 0):
            found.append(f"{len(history)} epochs of history, kept is {record.get('kept_epoch')}, "
                         f"asked for were {config.get('epochs')}")
    return found + _wrong_tables(record, "")


def _wrong_tables(value: object, where: str) -> list[str]:
    """What is wrong with the tables of scores anywhere inside `value`."""
    if not isinstance(value, dict):
        return []
    found = [line for key, inside in value.items() for line in _wrong_tables(inside, f"{where}/{key}".lstrip("/"))]
    if "images" not in value or not {"pck@0.2_torso", "mpjpe"} & set(value):
        return found
    for key, number in value.items():
        highest = float("inf") if "mpjpe" in key or key.startswith(("in_", "millimetres")) else 1.0
        if key.endswith("_per_image"):
            if len(number) != value["images"]:
                found.append(f"{where}/{key} has {len(number)} values for {value['images']} images")
        elif key.endswith("_interval"):
            if None not in number.values() and not number["low"] <= number["mean"] <= number["high"]:
                found.append(f"{where}/{key}: {number['mean']} is not between {number['low']} and {number['high']}")
        elif isinstance(number, float) and not 0 <= number <= highest:
            found.append(f"{where}/{key} is {number}, not between 0 and {highest}")
    return found


def score(predicted: np.ndarray, data: PoseDataset) -> dict:
    """The book's 2D table for predictions (N, J, 2) in source pixels.

    PCK@0.2 with the torso diameter (= PDJ) per joint, its curve over thresholds 0 to 0.5 and area, strict and loose
    PCP per limb, and the share of people whose left and right are mixed up. Images without a measurable torso do not
    count in PCK.
    """
    true, state, skeleton = data.source_joints, data.state, data.skeleton
    torso = metrics.torso_diameter(true, state, skeleton)
    pck = metrics.pck(predicted, true, state, torso, 0.2, skeleton.joints)
    strict = metrics.pcp(predicted, true, state, skeleton)
    thresholds = np.round(np.arange(0, 51) / 100, 2)
    curve = metrics.pck_curve(predicted, true, state, torso, thresholds)
    return {"images": len(data), "images_without_torso": int(np.isnan(torso).sum()),
            "pck@0.2_torso": pck.mean, "pck@0.2_per_joint": dict(zip(skeleton.joints, pck.per_item, strict=True)),
            "pck_curve": {"thresholds": thresholds, "values": curve},
            "pck_auc_0.5": metrics.area_under(curve, thresholds),
            "pcp_strict": strict.mean,
            "pcp_strict_per_limb": dict(zip(skeleton.limb_names, strict.per_item, strict=True)),
            "pcp_loose": metrics.pcp(predicted, true, state, skeleton, strict=False).mean,
            "swapped": float(np.nanmean(swapped(predicted, data))),
            "pck_interval": bootstrap_mean(pck.per_image)}


def swapped(predicted: np.ndarray, data: PoseDataset) -> np.ndarray:
    """(N,) 1 where a prediction (N, J, 2) in source pixels would be nearer the truth with left and right exchanged,
    else 0; NaN where no joint is labelled. The mean over joints of the distance decides."""
    labelled = np.where((data.state != ABSENT)[..., None], data.source_joints, np.nan)
    counted = np.all(np.isfinite(labelled), axis=-1)
    as_is, exchanged = (np.where(counted, np.linalg.norm(p - labelled, axis=-1), 0).sum(1)
                        for p in (predicted, predicted[:, data.skeleton.mirror]))
    return np.where(counted.any(axis=1), exchanged < as_is, np.nan)


def score_with_floors(network: PoseNetwork, codecs: dict[str, Codec], train_set: PoseDataset,
                      data: PoseDataset) -> dict[str, dict[str, dict]]:
    """Scores of network, mean pose and nearest neighbour, on all images and on upright people.

    "network" is the regressor, or else the first of `targets.POSES`; a network with joint windows gives "joint_windows"
    (the soft point) and "best_window" (the centre of the most probable one) too. Empty for a network that gives no
    joints in 2D.
    """
    predictions = {}
    if pose := next((task for task in POSES if task in codecs), None):
        predictions["network"] = training.predict(network, codecs[pose], data, head=pose)
    if "joints" in codecs:
        for name, hard in (("joint_windows", False), ("best_window", True)):
            predictions[name] = training.predict(network, codecs["joints"], data, head="joints", hard=hard)
    size = network.config.crop
    if not predictions:
        return {}
    predictions["mean_pose"] = floors.predict_mean_pose(floors.mean_pose(train_set), data)
    predictions["nearest_neighbour"] = floors.predict_nearest(train_set, data, size)
    upright = np.flatnonzero(data.upright())
    subsets = {"all": np.arange(len(data)), "upright": upright}
    scores = {name: {who: score(pose[index], data.subset(index)) for who, pose in predictions.items()}
              for name, index in subsets.items() if len(index)}
    for who in set(predictions) & {"network", "joint_windows"}:
        scores["all"][who]["pck_per_image"] = pck_per_image(predictions[who], data)
    return scores


def score3d(predicted: np.ndarray, data: PoseDataset) -> dict:
    """The book's 3D table for root-relative predictions (N, J, 3) in camera millimetres.

    MPJPE over all joints, the root's zero included (paper B), per joint and per action; PA-MPJPE; 3DPCK at 150 mm and
    its area; the error's two parts, in the picture's plane and in depth; and all of these errors for each image, which
    paired comparisons need. "mpjpe" and its per-joint values are means over joints, as in paper B; per action, an image
    and in the interval they are means over images; the error's two parts are means over all joints of all images.
    Images whose root is outside the picture do not count, except in PA-MPJPE, which needs no root.
    """
    true, state, skeleton = data.need("joints3d"), data.state, data.skeleton
    root = skeleton.root
    error = metrics.mpjpe(predicted, true, state, root, skeleton.joints)
    aligned = metrics.pa_mpjpe(predicted, true, state)
    away = geometry.root_relative(predicted, skeleton) - geometry.root_relative(true, skeleton)
    counted = np.where((state != ABSENT) & (state[:, [root]] != ABSENT), 1.0, np.nan)
    plane, depth = np.hypot(away[..., 0], away[..., 1]) * counted, np.abs(away[..., 2]) * counted
    found = {"images": len(data), "mpjpe": error.mean,
             "mpjpe_per_joint": dict(zip(skeleton.joints, error.per_item, strict=True)),
             "pa_mpjpe": aligned.mean, "pck3d@150": metrics.pck3d(predicted, true, state, root).mean,
             "auc3d": metrics.auc3d(predicted, true, state, root),
             "in_plane": float(np.nanmean(plane)), "in_depth": float(np.nanmean(depth)),
             "mpjpe_per_image": error.per_image, "pa_mpjpe_per_image": aligned.per_image,
             "in_plane_per_image": _mean_known(plane), "in_depth_per_image": _mean_known(depth),
             "mpjpe_interval": bootstrap_mean(error.per_image)}
    if "action" in data.groups:
        found["mpjpe_per_action"] = {str(action): float(np.nanmean(error.per_image[data.groups["action"] == action]))
                                     for action in np.unique(data.groups["action"])}
    return found


def _mean_known(values: np.ndarray) -> np.ndarray:
    """(N,) mean along each row (N, K) of what is not NaN; NaN where nothing is known."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)


def floors3d(train_set: PoseDataset, data: PoseDataset) -> dict[str, dict]:
    """Scores (`score3d`) of the mean pose and of the nearest neighbour by true 2D joints."""
    mean = np.broadcast_to(floors.mean_pose3d(train_set), data.need("joints3d").shape)
    return {"mean_pose": score3d(mean, data),
            "nearest_neighbour_2d": score3d(floors.predict_nearest3d(train_set, data), data)}


def pck_per_image(predicted: np.ndarray, data: PoseDataset) -> np.ndarray:
    """(N,) share of each image's labelled joints within 0.2 torso diameters; NaN where the torso cannot be measured.

    For comparing two networks image by image (`paired_bootstrap`)."""
    torso = metrics.torso_diameter(data.source_joints, data.state, data.skeleton)
    return metrics.pck(predicted, data.source_joints, data.state, torso, 0.2).per_image


def score_detection(network: PoseNetwork, codecs: dict[str, Codec], data: PoseDataset,
                    device: str = "auto") -> dict[str, dict[str, dict]]:
    """Average precision of each detector over all windows of all images: task -> name -> {"ap", "chance"}.

    `chance` is the share of windows that are positive, the average precision of random answers. What is not labelled
    does not count.
    """
    outputs = training.run_network(network, data, device, amp=False)
    joints, state = training.central_labels(data, network.config.crop)
    found: dict[str, dict[str, dict]] = {}
    for task, codec in codecs.items():
        if not isinstance(codec, JointWindows | PartWindows):
            continue
        shape = (len(data), len(codec.names), -1)
        target, mask = (part.reshape(shape).numpy() > 0 for part in codec.encode(joints, state))
        answers = outputs[task].reshape(shape).numpy()
        found[task] = {name: {"ap": metrics.average_precision(answers[:, k][mask[:, k]], target[:, k][mask[:, k]]),
                              "chance": float(target[:, k][mask[:, k]].mean()) if mask[:, k].any() else float("nan")}
                       for k, name in enumerate(codec.names)}
    return found


def false_alarms(network: PoseNetwork, codecs: dict[str, Codec], data: PoseDataset,
                 device: str = "auto") -> dict[str, dict[str, float]]:
    """How often detectors say yes (above one half) in a data set without people: task -> {"windows", "crops"}.

    "windows": yes-windows a crop, over all things that are asked about; "crops": share of crops with at least one.
    """
    outputs = training.run_network(network, data, device, amp=False)
    found = {}
    for task, codec in codecs.items():
        if not isinstance(codec, JointWindows | PartWindows):
            continue
        asked = [k for k, name in enumerate(codec.names) if name not in getattr(codec, "without", ())]
        yes = (outputs[task].reshape(len(data), len(codec.names), -1)[:, asked] > 0).sum(dim=(1, 2)).float()
        found[task] = {"windows": yes.mean().item(), "crops": (yes > 0).float().mean().item()}
    return found


def bootstrap_mean(per_image: np.ndarray, repeats: int = 1000, seed: int = 0,
                   groups: np.ndarray | None = None) -> dict[str, float]:
    """Mean over images with a 95 % percentile interval from resampling the images. NaN images are left out.

    The interval says how much the number would move with other test images of the same kind. It says nothing about
    other training seeds.

    Args:
        groups: (N,) which images belong together, such as those of one person: whole groups are resampled then.
    """
    known = np.isfinite(per_image)
    values = per_image[known]
    if not len(values):
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan")}
    rng = np.random.default_rng(seed)
    if groups is None:
        means = values[rng.integers(0, len(values), (repeats, len(values)))].mean(axis=1)
    else:
        _, group = np.unique(np.asarray(groups)[known], return_inverse=True)
        sums, counts = np.bincount(group, values), np.bincount(group)
        index = rng.integers(0, len(counts), (repeats, len(counts)))
        means = sums[index].sum(axis=1) / counts[index].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def paired_bootstrap(one: np.ndarray, other: np.ndarray, repeats: int = 2000, seed: int = 0,
                     groups: np.ndarray | None = None) -> dict[str, float]:
    """Mean of one - other over the same images (N,), with a 95 % percentile interval from resampling the images.

    Much of what makes an image hard is the same for both, and falls out of the difference. Images where either is NaN
    are left out. Other training seeds are another matter. `groups`: see `bootstrap_mean`.

    Raises:
        ValueError: if the two are not about the same number of images.
    """
    one, other = np.asarray(one, float), np.asarray(other, float)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"a paired comparison needs the same images: {one.shape} and {other.shape} are not")
    return bootstrap_mean(one - other, repeats, seed, groups)


FEWEST_SEEDS = 5
"""With five seeds on each side, all of one above all of the other happens by luck once in 252 times."""


MEASURES = {"pck": ("pck@0.2_torso", "pck_per_image", 1), "mpjpe": ("mpjpe", "mpjpe_per_image", -1),
            "pa_mpjpe": ("pa_mpjpe", "pa_mpjpe_per_image", -1)}
"""Name of a measure -> its entry in a table of scores, its entry for each image, and whether more (1) or less (-1) is
better."""


def compare(ours: list[dict], base: list[dict], groups: np.ndarray | None = None, measure: str = "pck") -> dict:
    """Are some networks better than others? The book's rule: seeds and images must both say so.

    Args:
        ours, base: what `score` or `score3d` says of one predictor, one table for each seed, of the same images.
        groups: see `bootstrap_mean`. measure: one of `MEASURES`.

    Returns:
        "images": the mean over images of the difference ours - base (of each image's value, averaged over seeds)
        with its paired bootstrap interval; "verdict": "better" if every seed of ours is better than every one of
        the base and the interval lies on that side of zero, "worse" for the opposite, else "no difference shown"; None
        with fewer seeds than `FEWEST_SEEDS`.

    Raises:
        ValueError: if the tables are about different numbers of images.
    """
    total, each, sign = MEASURES[measure]
    values, others = ([sign * table[total] for table in tables] for tables in (ours, base))
    # JSON has no NaN: an image without a torso is None in a record
    one, other = (np.mean([np.array(table[each], float) for table in tables], axis=0) for tables in (ours, base))
    images = paired_bootstrap(one, other, groups=groups)
    above, below = (images["low"] > 0, images["high"] < 0)[::sign]
    verdict = "no difference shown"
    if min(values) > max(others) and above:
        verdict = "better"
    if max(values) < min(others) and below:
        verdict = "worse"
    return {"images": images, "verdict": verdict if min(len(ours), len(base)) >= FEWEST_SEEDS else None}


def compare_table(rows: dict[str, list[dict]], base: str, measure: str = "pck",
                  groups: np.ndarray | None = None, digits: int = 3) -> str:
    """Families of runs beside each other, as a Markdown table: for each its mean, the spread over seeds, the 95 %
    interval of the mean from resampling images (`bootstrap_mean`), and what `compare` says of it against `base`.

    Args:
        rows: label -> tables of `score` or `score3d`, one for each seed, all of the same images; base: a label of them.
        measure, groups: as in `compare`; digits: of all numbers.

    Raises:
        ValueError: if there is no such base, a row has no table, or a table no value for each image.
    """
    total, each, _ = MEASURES[measure]
    if base not in rows:
        raise ValueError(f"{base} is not among the rows: {', '.join(rows)}")
    for label, tables in rows.items():
        if not tables or any(each not in one for one in tables):
            raise ValueError(f"{label} has {'no table' if not tables else 'tables without ' + each}: an interval over "
                             "images needs the value of every image")
    lines = []
    for label, tables in rows.items():
        values = [one[total] for one in tables]
        mean = bootstrap_mean(np.mean([np.array(one[each], float) for one in tables], axis=0), groups=groups)
        against = {} if label == base else compare(tables, rows[base], groups, measure)
        lines.append([label, float(np.mean(values)), f"{min(values):.{digits}f} to {max(values):.{digits}f}",
                      f"{mean['low']:.{digits}f} to {mean['high']:.{digits}f}",
                      _difference(against, digits), against.get("verdict"), len(tables)])
    header = [total, "mean", "over seeds", "95 % over images", f"less {base} (95 % over images)", "verdict", "runs"]
    return table(header, lines, digits)


def _difference(against: dict, digits: int) -> str | None:
    if not against:
        return None
    mean, low, high = (f"{against['images'][key]:+.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def read_family(name: str, folder: str | Path | None = None) -> list[dict]:
    """The records of a run's seeds, `name`-0 and so on, in the order of the seeds.

    Args:
        folder: default `book/results`; else a folder of such files, or of the runs' folders (`posebook sweep --out`).

    Raises:
        FileNotFoundError: if there is none.
    """
    return [read_record(path) for path in _family(name, folder)]


def read_tables(name: str, folder: str | Path | None = None, at: str = "scores/all/network",
                measure: str = "pck") -> list[dict]:
    """The tables of scores of a run's seeds, as `compare_table` needs them: for each image a value of the measure.

    Args:
        name, folder: as in `read_family`; at: where in a record its table is, as in `value_at`; measure: of `MEASURES`.

    Raises:
        FileNotFoundError: as `read_family`; ValueError: naming the record that has no such table.
    """
    total, each, _ = MEASURES[measure]
    tables: list[dict] = []
    for path in _family(name, folder):
        try:
            table = value_at(read_record(path), at)
        except KeyError as error:
            raise ValueError(f"{path}: {error.args[0]}; name another place with --at") from error
        values = table.get(each) if isinstance(table, dict) else None
        if not (isinstance(values, list) and all(isinstance(value, float | int | None) for value in values)
                and isinstance(table.get(total), float | int)):
            raise ValueError(f"{path} has no table with {total} and {each} at {at}: an interval over images needs the "
                             "value of every image")
        if tables and len(values) != len(tables[0][each]):
            raise ValueError(f"{path} is about {len(values)} images, {name} with another seed about "
                             f"{len(tables[0][each])}; compare runs that were scored on the same images")
        tables.append(table)
    return tables


def _family(name: str, folder: str | Path | None) -> list[Path]:
    folder = Path(folder or results_folder())
    found = {}
    for path in [*folder.glob(f"{name}-*.json"), *folder.glob(f"{name}-*/record.json")]:
        seed = (path.stem if path.parent == folder else path.parent.name).removeprefix(f"{name}-")
        if seed.isdigit():
            found[int(seed)] = path
    if not found:
        raise FileNotFoundError(f"there is no record {name}-SEED in {folder}")
    return [path for _, path in sorted(found.items())]


def value_at(record: dict, path: str) -> Any:
    """A value inside a record, by the names on the way: "history/-1/spread".

    Raises:
        KeyError: naming the record and the step that it lacks.
    """
    found = record
    for step in path.split("/"):
        try:
            found = found[int(step)] if isinstance(found, list) else found[step]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise KeyError(f"record {record.get('name')} has no {path} (at {step!r})") from error
    return found


def losses_over_mean_pose(record: dict) -> tuple[float, float]:
    """Regression loss of a finished 2D network over the mean pose's, on (1,000 of its training images, its validation
    images): 1 is what a constant earns. Records from before the mean pose's losses were kept take them from another
    record of the same data set."""
    floor = (record.get("mean_pose_losses")
             or read_record(f"tasks-{record['dataset']}-plain-regression-0")["mean_pose_losses"])
    return (record["on_training_images"]["validation_losses"]["regression"] / floor["training_images"],
            record["history"][-1]["validation_losses"]["regression"] / floor["validation"])


def epochs_to(record: dict, level: float) -> float:
    """The first epoch, counted from 1, after which the validation PCK was at least `level`; infinite if never."""
    return next((row["epoch"] + 1 for row in record["history"] if row["validation_pck"] >= level), float("inf"))


def above_shuffled(record: dict, layer: str, kind: str = "trained", of: str = "joints") -> np.ndarray:
    """(C,) selectivity of each map of a layer, from a record of `posebook explain`: its average precision above that
    with the labels of other images, for the joint (or part) for which this is most; NaN for a dead map.

    Args:
        kind: "trained" or "untrained". of: "joints" or "parts".
    """
    found = record["features"][layer] if of == "joints" else record["features"][layer]["parts"]
    above = np.array(found[kind], float) - np.array(found[f"{kind}, shuffled"], float)
    return np.where(np.isfinite(above).any(axis=1), np.where(np.isfinite(above), above, -np.inf).max(axis=1), np.nan)


def joint_correlation(record: dict, one: str, other: str, axis: str, kind: str = "trained") -> float:
    """Correlation of two joints' rows of the last layer along "x", "y" or "z", from a record of `posebook explain`."""
    matrix = record["weights"][kind]["correlation"]["xyz".index(axis)]
    return matrix[H36M17.index(one)][H36M17.index(other)]


def sparsity_contrast(record: dict, kind: str = "trained") -> float:
    """How much sparser pairs of joints with a wrist or an ankle are than the others, in standard deviations of all
    pairs, the mean over x, y and z; from a record of `posebook explain`. The root, which never moves, is left out."""
    ends = {H36M17.index(f"{side}_{joint}") for side in ("left", "right") for joint in ("wrist", "ankle")}
    pairs = [(i, j) for i in range(len(H36M17)) for j in range(i + 1, len(H36M17)) if H36M17.root not in (i, j)]
    with_end = np.array([bool({i, j} & ends) for i, j in pairs])
    values = np.array(record["weights"][kind]["co_sparsity"], float)[:, *np.transpose(pairs)]
    return float(np.mean((values[:, with_end].mean(axis=1) - values[:, ~with_end].mean(axis=1)) / values.std(axis=1)))


def mean_correlation(record: dict, kind: str = "trained") -> float:
    """Mean size of the last layer's correlations between different joints, from a record of `posebook explain`."""
    matrices = np.array(record["weights"][kind]["correlation"], float)
    return float(np.nanmean(np.abs(matrices[:, ~np.eye(matrices.shape[1], dtype=bool)])))


def table(header: list[str], rows: list[list], digits: int = 3) -> str:
    """A Markdown table; floats are rounded, NaN is a dash. For reading in a terminal and in a notebook alike."""
    def text(value: object) -> str:
        if value is None or (isinstance(value, float | np.floating) and not np.isfinite(value)):
            return "–"
        return f"{value:.{digits}f}" if isinstance(value, float | np.floating) else str(value)

    cells = [header, *[[text(v) for v in row] for row in rows]]
    widths = [max(len(row[c]) for row in cells) for c in range(len(header))]
    # First column left, numbers right, so that decimal points meet.
    lines = ["| " + " | ".join(v.ljust(w) if c == 0 else v.rjust(w)
                               for c, (v, w) in enumerate(zip(row, widths, strict=True))) + " |" for row in cells]
    rule = "|" + "|".join("-" * (w + 2) if c == 0 else "-" * (w + 1) + ":" for c, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def score_table(scores: dict[str, dict], title: str) -> str:
    """PCK@0.2 (torso) per joint and strict PCP per limb, one column for each predictor."""
    names = list(scores)
    first = scores[names[0]]
    rows = [["PCK@0.2 (torso), mean", *(scores[n]["pck@0.2_torso"] for n in names)]]
    rows += [[f"· {k}", *(scores[n]["pck@0.2_per_joint"][k] for n in names)] for k in first["pck@0.2_per_joint"]]
    rows += [["PCP strict, mean", *(scores[n]["pcp_strict"] for n in names)]]
    rows += [[f"· {k}", *(scores[n]["pcp_strict_per_limb"][k] for n in names)] for k in first["pcp_strict_per_limb"]]
    return table([f"{title} ({first['images']} images)", *(n.replace("_", " ") for n in names)], rows)


def score3d_table(scores: dict[str, dict], title: str) -> str:
    """MPJPE, PA-MPJPE, 3DPCK, the error's parts, and MPJPE per joint and per action; a column for each predictor."""
    names = list(scores)
    first = scores[names[0]]
    rows = [[label, *(scores[n][key] for n in names)] for label, key in (
        ("MPJPE, mm", "mpjpe"), ("PA-MPJPE, mm", "pa_mpjpe"), ("in the plane, mm", "in_plane"),
        ("in depth, mm", "in_depth"))]
    rows += [["3DPCK@150 mm, %", *(100 * scores[n]["pck3d@150"] for n in names)]]
    rows += [[f"· {k}", *(scores[n]["mpjpe_per_joint"][k] for n in names)] for k in first["mpjpe_per_joint"]]
    rows += [[f"· {k}", *(scores[n]["mpjpe_per_action"][k] for n in names)] for k in first.get("mpjpe_per_action", {})]
    return table([f"{title} ({first['images']} images)", *(n.replace("_", " ") for n in names)], rows, digits=1)
