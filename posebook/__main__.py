"""`python -m posebook`: train, sweep, compare, evaluate, film, predict, export, download, synthesize."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)     # Ctrl-C during the imports, which take seconds: no traceback

import numpy as np
import torch

from posebook import (
    augment,
    batch,
    explain,
    export,
    families,
    film,
    floors,
    lifting,
    limits,
    networks,
    parallel,
    results,
    sweep,
    training,
)
from posebook.datasets import PoseDataset, StreamedPeople, download_lspet, join, load, load_person_free, pack_people
from posebook.datasets.base import CROP, STORED, read_image
from posebook.files import reading, whole_file
from posebook.skeleton import SKELETONS, Skeleton
from posebook.targets import POSES, TASKS, Codec, Coordinates, ParentRelative, build_codecs


def main(arguments: list[str] | None = None) -> int:
    """Run a command; expected failures become one sentence and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        torch.set_num_threads(options.threads)
        options.command(options)
    except BrokenPipeError:          # whoever read the output has gone, as in `... | head`: nothing left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, FloatingPointError, RuntimeError, ImportError, KeyboardInterrupt) as error:
        if _by_ctrl_c(error):
            print("posebook: stopped; the same command continues where it was", file=sys.stderr)
            return 130
        print(f"posebook: {error}", file=sys.stderr)
        return 2
    return 0


def _by_ctrl_c(error: BaseException | None) -> bool:
    """Whether an error is Ctrl-C, or what a library made of it: an import that it stops ends in an ImportError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m posebook", description="Human pose estimation, by building it.")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; one is often fastest (default 1)")
    commands = parser.add_subparsers(required=True, metavar="command")

    train = _command(commands, "train", _train, "train a network, or continue a stopped training")
    train.epilog = ("On several GPUs: torchrun --nproc-per-node GPUS -m posebook train ..., with the same arguments; "
                    "the batch is that of all together. The book's appendix on running tells more.")
    _data_options(train)
    train.add_argument("--tasks", nargs="+", choices=TASKS, default=["regression"],
                       help="what the network is asked for (default: regression)")
    train.add_argument("--weight", action="append", default=[], type=_weight, metavar="TASK=NUMBER",
                       help="factor of a task's loss, default 1; may be repeated")
    train.add_argument("--without-parts", nargs="+", default=[], metavar="PART",
                       help="parts that are never asked about")
    train.add_argument("--out", type=Path, help="folder of the run (default runs/TASKS-DATASET-SEED)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--skeleton", choices=list(SKELETONS), default=None,
                       help="joints to learn (default LSP14, with pose3d H36M17)")
    train.add_argument("--size", choices=list(networks.SIZES), default="small",
                       help="small, small-b, resnet18: 64 px, for a CPU; paper-a, paper-b: the papers' 112 px, "
                       "for a GPU")
    train.add_argument("--keep", type=float, help="probability to keep a unit of the heads' first hidden layer")
    train.add_argument("--pretrain", nargs="+", choices=TASKS, default=[], metavar="TASK",
                       help="first train a network for these tasks, then go on with its trunk and new heads")
    train.add_argument("--pretrain-epochs", type=int, help="epochs of that first stage (default as --epochs)")
    for name, kind in NUMBERS.items():
        train.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"default {getattr(RECIPE, name)}")
    train.add_argument("--optimizer", choices=["adamw", "sgd"], help=f"default {RECIPE.optimizer}")
    train.add_argument("--no-augmentation", action="store_true", help="always the central crop")
    train.add_argument("--no-normalise", action="store_true", help="leave the pixels in 0..1, no mean image")
    train.add_argument("--no-mean-start", action="store_true", help="do not start at the mean pose")
    train.add_argument("--stream", action="store_true", help="read the training people from their files anew in every "
                       "epoch, for sets larger than memory; `pack` is another way, which keeps the numbers")
    train.add_argument("--limit", type=int, help="use only so many training images")
    train.add_argument("--actions", nargs="+", help="of human36m: read only these, as paper B's one network an action")
    train.add_argument("--step", type=int, help="of human36m: read every n-th frame (default 64)")
    train.add_argument("--share", type=float, default=1.0,
                       help="use only this share of the training images, drawn with the seed (default 1)")
    train.add_argument("--freeze-trunk", action="store_true", help="leave the trunk as it is, train the heads alone")
    train.add_argument("--shuffle-joints", action="store_true",
                       help="a control: learn 3D poses of which each bone comes from another image")
    train.add_argument("--person-free", type=int, default=0, metavar="N",
                       help="add so many crops of the book's people that show nobody, for the detectors (default 0)")
    train.add_argument("--channels", nargs=3, type=int, metavar="MAPS", help="maps of the three convolutions of "
                       "--size small (default 16 32 32)")
    train.add_argument("--also", action="append", default=[], type=_place, metavar="DATASET[:SPLIT][=DIR]",
                       help="score the finished network on this split too (default: validation); may be repeated")
    train.add_argument("--device", default="auto")

    sweep = _command(commands, "sweep", _sweep, "train a list of runs, several at a time; start it again to go on")
    sweep.add_argument("file", type=Path, help="TOML file with the runs, such as those in book/sweeps")
    sweep.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs' folders (default runs)")
    sweep.add_argument("--jobs", type=int, default=2, help="runs at a time on this machine, each with --threads "
                       "threads (default 2)")
    sweep.add_argument("--cluster", metavar="ADDRESS", help="run on the workers of this Dask scheduler instead, such "
                       "as tcp://HOST:8786")
    sweep.add_argument("--set", action="append", default=[], type=_value, metavar="NAME=VALUE",
                       help="what stands for {NAME} in the file, such as lspet=DIR")
    sweep.add_argument("--dry-run", action="store_true", help="say what would be trained and how long it may take")

    chapters = _command(commands, "run", _run, "execute chapters of the book as a batch; start it again to go on")
    chapters.add_argument("chapters", nargs="*", metavar="CHAPTER", help="by name or number, such as 03 (default: all)")
    chapters.add_argument("--profile", choices=["smoke", "book", "paper"], default="smoke",
                          help="smoke: seconds a chapter, no conclusions; book: the committed outputs; paper: the "
                          "papers' sizes, for a GPU (default smoke)")
    chapters.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                          help="a parameter of the chapters, such as `dataset lspet`, `data DIR`, `device cpu` or "
                          "`seed 1`; may be repeated")
    chapters.add_argument("--out", type=Path, default=Path("runs/book"), help="folder of notebooks and records "
                          "(default runs/book)")
    chapters.add_argument("--book", type=Path, default=results.results_folder().parent, help="folder of the chapters")

    evaluate = _command(commands, "evaluate", _evaluate, "score a network beside the floors")
    _data_options(evaluate, "as in the run's record")
    evaluate.add_argument("--weights", type=Path, help="default: the run that finished last under runs/")
    evaluate.add_argument("--split", default="validation", choices=["train", "validation", "test"])
    evaluate.add_argument("--subset", choices=["all", "upright"], default="all",
                          help="upright: only people whose neck is above both hips in the picture")

    compare = _command(commands, "compare", _compare, "families of runs beside each other, with spread and intervals")
    compare.add_argument("runs", nargs="+", metavar="RUN", help="names without the seed, such as since-heatmaps; the "
                         "others are compared with the first")
    compare.add_argument("--at", default="scores/all/network", metavar="PATH", help="where in the records the table of "
                         "scores is, such as elsewhere/people:test/all/network (default scores/all/network)")
    compare.add_argument("--measure", choices=list(results.MEASURES), default="pck")
    compare.add_argument("--folder", type=Path, help="of records, or of runs (default: the book's records)")

    families = _command(commands, "families", _families, "compare regression with pictorial structures on one network")
    _data_options(families, "as in the run's record")
    families.add_argument("--weights", type=Path, required=True, help="a network with the tasks regression and joints")
    families.add_argument("--split", default="validation", choices=["validation", "test"])
    families.add_argument("--out", type=Path, required=True, help="JSON file for the record")

    explained = _command(commands, "explain", _explain, "what a network's maps and last weights have learned")
    _data_options(explained, "as in the run's record")
    explained.add_argument("--weights", type=Path, required=True, help="a network with the task pose3d or regression")
    explained.add_argument("--split", default="validation", choices=["validation", "test"])
    explained.add_argument("--out", type=Path, required=True, help="JSON file for the record")

    limited = _command(commands, "limits", _limits, "a network's answers image by image, for comparing groups")
    _data_options(limited, "as in the run's record")
    limited.add_argument("--weights", type=Path, required=True, help="a network with the task regression")
    limited.add_argument("--split", default="validation", choices=["validation", "test"])
    limited.add_argument("--out", type=Path, required=True, help="JSON file for the record")

    lift = _command(commands, "lift", _lift, "from true 2D joints to 3D, beside the floors")
    _data_options(lift)
    lift.add_argument("--split", default="validation", choices=["validation", "test"])
    lift.add_argument("--seed", type=int, default=0)
    lift.add_argument("--epochs", type=int, help=f"default {lifting.LiftingConfig().epochs}")
    lift.add_argument("--weights", type=Path, help="of a network that gives joints in 2D: lift these")
    lift.add_argument("--out", type=Path, required=True, help="JSON file for the record")

    filmed = _command(commands, "film", _film, "train a regressor and keep the poses it gives to a few as it learns")
    _data_options(filmed)
    filmed.add_argument("--recipe", choices=list(film.RECIPES), default="book", help="settings (default book)")
    filmed.add_argument("--seed", type=int, default=0)
    filmed.add_argument("--epochs", type=int, help=f"frames (default {film.FRAMES})")
    filmed.add_argument("--limit", type=int, help="use only so many training images")
    filmed.add_argument("--out", type=Path, required=True, help="JSON file for the record")

    predict = _command(commands, "predict", _predict, "draw the pose on pictures of your own")
    predict.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    predict.add_argument("--box", type=_box, help="x0,y0,x1,y1 around the person, pixels (default: the whole picture)")
    predict.add_argument("--weights", type=Path, help="default: the shipped network trained on photographs")
    predict.add_argument("--out", type=Path, default=Path("."), help="folder for NAME-pose.png (default: here)")

    exported = _command(commands, "export", _export, "write a network as an ONNX file (needs the extra `export`)")
    exported.add_argument("--weights", type=Path, required=True,
                          help="a network of this book, such as one in book/weights")
    exported.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")

    download = _command(commands, "download", _download, "fetch a public data set, verified")
    download.add_argument("dataset", choices=["lspet"])
    download.add_argument("--data", required=True, type=Path, help="folder to put it in")

    pack = _command(commands, "pack", _pack, "put people's crops into files for sets larger than memory")
    pack.add_argument("--data", type=Path, help="folder of the Parquet files (default: the people of the book)")
    pack.add_argument("--split", nargs="+", default=["train", "validation", "test"])
    pack.add_argument("--size", choices=list(networks.SIZES), default="small", help="of the network it is for")
    pack.add_argument("--out", type=Path, required=True, help="folder; then train with --data FOLDER")

    synthesize = _command(commands, "synthesize", _synthesize, "render people (needs the extra `synthesis`)")
    synthesize.add_argument("--assets", required=True, type=Path, help="folder with makehuman, motion, environments")
    synthesize.add_argument("--out", required=True, type=Path)
    synthesize.add_argument("--count", type=int, default=8000, help="training pictures (default 8000)")
    synthesize.add_argument("--held-out", type=int, default=1000, help="pictures in validation and in test, each "
                            "(default 1000)")
    synthesize.add_argument("--seed", type=int, default=0)
    synthesize.add_argument("--workers", type=int, default=1)
    synthesize.add_argument("--without", nargs="+", default=[], metavar="DIFFICULTY", choices=DIFFICULTIES,
                            help=f"leave out some of: {', '.join(DIFFICULTIES)}")
    return parser


def _command(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str,
             function: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(command=function)
    return command


def _data_options(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument("--dataset", choices=["people", "lspet", "people+lspet", "human36m"],
                        default=None if default else "people",
                        help=f"default {default or 'people, which comes with the book'}")
    parser.add_argument("--data", type=Path, help="folder of the data set (of lspet for people+lspet)")


def _weight(text: str) -> tuple[str, float]:
    task, _, number = text.partition("=")
    try:
        return task, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not TASK=NUMBER") from None


def _value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _place(text: str) -> tuple[str, Path | None]:
    """'people:test=DIR' -> ('people:test', DIR)."""
    name, _, folder = text.partition("=")
    return name, Path(folder) if folder else None


def _reading(options: argparse.Namespace, dataset: str) -> dict:
    """What is given about reading human36m; other data sets are read whole."""
    given = {name: getattr(options, name) for name in ("actions", "step") if getattr(options, name) is not None}
    if given and options.dataset != "human36m":
        raise ValueError(f"--{next(iter(given))} is for human36m, not for {options.dataset}")
    return given if dataset == "human36m" else {}


def _elsewhere(name: str, folder: Path | None, options: argparse.Namespace, sizes: dict[str, int],
               skeleton: Skeleton) -> PoseDataset:
    dataset, _, split = name.partition(":")
    reading = _reading(options, dataset)
    return load(dataset, split or "validation", folder, **sizes, **reading).as_skeleton(skeleton)


def _box(text: str) -> np.ndarray:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not x0,y0,x1,y1")
    return np.array(numbers, np.float32)


DIFFICULTIES = ("tumbling", "things", "others", "cut", "blur", "lens")
RECIPE = training.TrainConfig()
"""How the book trains unless a chapter says otherwise; chosen on validation splits."""


NUMBERS = {"epochs": int, "batch": int, "epoch_size": int, "rate": float, "warmup": float, "patience": int,
           "decay": float}


def _config(options: argparse.Namespace, tasks: Sequence[str]) -> training.TrainConfig:
    """The settings of a training for `tasks`; weights of tasks of its other stage are left out."""
    given = {name: getattr(options, name) for name in (*NUMBERS, "optimizer") if getattr(options, name) is not None}
    other = (set(options.tasks) | set(options.pretrain)) - set(tasks)
    weights = {task: weight for task, weight in options.weight if task not in other}
    config = replace(RECIPE, seed=options.seed, weights=weights, device=options.device,
                     freeze_trunk=options.freeze_trunk, normalise=not options.no_normalise,
                     mean_start=not options.no_mean_start, **given)
    return replace(config, augmentation=augment.NONE) if options.no_augmentation else config


def _train(options: argparse.Namespace) -> None:
    tasks, pretrain = ([task for task in TASKS if task in given] for given in (options.tasks, options.pretrain))
    out = options.out or Path("runs") / f"{'+'.join(tasks)}-{options.dataset}-{options.seed}"
    config = _config(options, tasks)
    skeleton = SKELETONS[options.skeleton or ("H36M17" if "pose3d" in tasks else "LSP14")]
    codecs, network = _build(options, tuple(tasks), skeleton)
    if not 0 < options.share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, not {options.share}")
    if options.person_free and "pose3d" in tasks:
        raise ValueError("crops without a person have no joints in 3D: --person-free does not go with pose3d")
    if options.pretrain_epochs is not None and (not pretrain or options.pretrain_epochs < 1):
        raise ValueError("--pretrain-epochs is the length of the first stage: at least 1, and only with --pretrain")
    first = None if not pretrain else _first_stage(options, pretrain)
    asked = {"dataset": options.dataset, "skeleton": skeleton.name, "tasks": tasks, "pretrain": pretrain,
             "without_parts": options.without_parts, "share": options.share, "limit": options.limit,
             "stream": options.stream, "person_free": options.person_free, "shuffle_joints": options.shuffle_joints,
             "reading": _reading(options, options.dataset),
             "network": asdict(network.config), "config": asdict(config), "first_stage": first and asdict(first)}
    with parallel.processes(options.device) as leading:
        if parallel.on_first(_finished, out, asked, {name for name, _ in options.also}):
            print(f"{out} is finished; score it with `python -m posebook evaluate --weights {out}/weights.safetensors`")
            return
        train_set, learned, validation, elsewhere = _sets(options, network.config.crop, skeleton)
        count, together = len(learned if options.stream else train_set), parallel.world()
        device = training.pick_device(options.device)
        print(f"{count} training and {len(validation)} validation images, {networks.count_parameters(network):,} "
              f"parameters, {device}{f', {together} processes' if together > 1 else ''}, run in {out}")
        pretraining = _pretrain(options, first, network, skeleton, learned, validation, out) if first else None
        run = training.train(network, codecs, learned, validation, config, out)
    if not leading:
        return
    about = {"tasks": tasks, "dataset": options.dataset, "share": options.share, "skeleton": skeleton.name,
             "seed": options.seed, "mean_pose": floors.mean_pose(train_set).tolist(),
             "stored": train_set.images.shape[-1]}
    networks.save_network(out / "weights.safetensors", network, about)
    network, _ = networks.load_network(out / "weights.safetensors")    # scored as saved, so that the file repeats it
    record = {"name": out.name, **asked, "pretraining": pretraining, "training_images": count,
              "skipped": train_set.skipped, "parameters": networks.count_parameters(network),
              "kept_epoch": run.kept_epoch, "seconds": sum(row["seconds"] for row in run.history),
              "precision": str(training.precision(device, config.amp)).split(".")[1], "processes": together,
              "history": run.history, **_measures(network, codecs, config, train_set, validation, elsewhere),
              "environment": results.environment(), "peak_memory_mb": results.peak_memory_mb()}
    # The folder of the data belongs to this machine, not to the record.
    with whole_file(out / "data-folder.txt") as part:
        part.write_text("" if options.data is None else str(options.data))
    results.write_record(out / "record.json", record)
    if record["scores"]:
        print(results.score_table(record["scores"]["all"], f"{options.dataset} validation"))
    if record["scores3d"]:
        print(results.score3d_table({"network": record["scores3d"]["validation"]}, f"{options.dataset} validation"))


def _sets(options: argparse.Namespace, crop: int,
          skeleton: Skeleton) -> tuple[PoseDataset, PoseDataset | StreamedPeople, PoseDataset, dict[str, PoseDataset]]:
    """The training set, or some of a stream; all that is learned from: the stream, or the set with crops without a
    person; the validation set; and the further sets to be scored, by name."""
    sizes = {"crop": crop, "size": crop * STORED // CROP}
    reading = _reading(options, options.dataset)
    stream = _stream(options, sizes, skeleton) if options.stream else None
    if stream:
        train_set = stream.some
    else:
        train_set = load(options.dataset, "train", options.data, limit=options.limit, **sizes, **reading)
        train_set = _share(train_set.as_skeleton(skeleton), options.share, options.seed)
    if options.shuffle_joints:
        train_set = explain.shuffle_joints(train_set, options.seed)
    validation = load(options.dataset, "validation", options.data, **sizes, **reading).as_skeleton(skeleton)
    for reason, count in train_set.skipped.items():
        print(f"skipped in {options.dataset} train: {count} {reason}")
    if len({name for name, _ in options.also}) < len(options.also):
        raise ValueError("--also names a data set twice; name each once")
    elsewhere = {name: _elsewhere(name, folder, options, sizes, skeleton) for name, folder in options.also}
    flat = [name for name, data in {"training": train_set, "validation": validation, **elsewhere}.items()
            if data.joints3d is None]
    if flat and "pose3d" in options.tasks:
        raise ValueError(f"pose3d needs joints in 3D, which {flat[0]} does not have; people has them")
    if not options.person_free:
        return train_set, stream or train_set, validation, elsewhere
    free = load_person_free("train", size=sizes["size"], limit=options.person_free, skeleton=skeleton)
    if len(free) < options.person_free:
        raise ValueError(f"the book's people leave room for {len(free)} crops without a person, not for "
                         f"{options.person_free}")
    return train_set, join([train_set, free]), validation, elsewhere


def _stream(options: argparse.Namespace, sizes: dict[str, int], skeleton: Skeleton) -> StreamedPeople:
    given = {"--limit": options.limit is not None, "--share": options.share != 1, "--person-free": options.person_free,
             "--shuffle-joints": options.shuffle_joints, f"--dataset {options.dataset}": options.dataset != "people"}
    if other := [name for name, there in given.items() if there]:
        raise ValueError(f"--stream reads all people of a folder as they are: it does not go with {other[0]}")
    if options.data is not None and (options.data / "train" / "about.json").is_file():
        raise ValueError(f"{options.data} is packed, and read from disk without --stream too: leave it out")
    return StreamedPeople("train", options.data, skeleton=skeleton, **sizes)


def _measures(network: networks.PoseNetwork, codecs: dict[str, Codec], config: training.TrainConfig,
              train_set: PoseDataset, validation: PoseDataset, elsewhere: dict[str, PoseDataset]) -> dict:
    """All that a record says about a trained network."""
    some = _spread_out(train_set, 1000)
    poses = [codec for codec in codecs.values() if isinstance(codec, Coordinates | ParentRelative)]
    free = load_person_free("validation", size=train_set.images.shape[-1], skeleton=train_set.skeleton) \
        if {"joints", "parts"} & set(codecs) else None
    return {
        "on_training_images": training.validate(network, codecs, some, config),
        "mean_pose_losses": {name: training.mean_pose_loss(train_set, poses[0], data) for name, data in
                             (("training_images", some), ("validation", validation))} if poses else {},
        "scores": results.score_with_floors(network, codecs, train_set, validation),
        "elsewhere": {name: results.score_with_floors(network, codecs, train_set, data)
                      for name, data in elsewhere.items()},
        "scores3d": {name: results.score3d(training.predict3d(network, codecs["pose3d"], data), data)
                     for name, data in {"validation": validation, **elsewhere}.items()} if "pose3d" in codecs else {},
        "detection": results.score_detection(network, codecs, validation),
        "false_alarms": results.false_alarms(network, codecs, free) if free is not None else {}}


def _build(options: argparse.Namespace, tasks: tuple[str, ...],
           skeleton: Skeleton) -> tuple[dict[str, Codec], networks.PoseNetwork]:
    """Codecs and an untrained network for some tasks."""
    codecs = build_codecs(tasks, skeleton, networks.SIZES[options.size],
                          tuple(options.without_parts) if "parts" in tasks else ())
    outputs = {task: codec.outputs for task, codec in codecs.items()}
    return codecs, networks.build_network(options.size, outputs, options.seed, options.channels, options.keep)


def _first_stage(options: argparse.Namespace, tasks: Sequence[str]) -> training.TrainConfig:
    """The settings of pre-training."""
    config = _config(options, tasks)
    return replace(config, freeze_trunk=False, epochs=options.pretrain_epochs or config.epochs)


def _pretrain(options: argparse.Namespace, config: training.TrainConfig, network: networks.PoseNetwork,
              skeleton: Skeleton, train_set: PoseDataset | StreamedPeople, validation: PoseDataset, out: Path) -> dict:
    """Train another network for the first tasks, hand its trunk to `network`, and say what was done."""
    tasks = tuple(task for task in TASKS if task in options.pretrain)
    codecs, other = _build(options, tasks, skeleton)
    run = training.train(other, codecs, train_set, validation, config, out / "pretraining")
    networks.take_trunk(network, other.cpu())
    return {"tasks": tasks, "config": asdict(config), "seconds": sum(row["seconds"] for row in run.history),
            "history": run.history, "detection": parallel.on_first(results.score_detection, other, codecs, validation)}


def _share(data: PoseDataset, share: float, seed: int) -> PoseDataset:
    """A random share of a data set, the same for the same seed."""
    if share == 1:
        return data
    return data.subset(np.sort(np.random.default_rng(seed).permutation(len(data))[:round(share * len(data))]))


def _spread_out(data: PoseDataset, count: int) -> PoseDataset:
    """At most so many samples, spread evenly."""
    return data.subset(np.linspace(0, len(data) - 1, min(count, len(data))).astype(int))


def _finished(out: Path, asked: dict[str, Any], elsewhere: set[str]) -> bool:
    """Whether the run has a record. Refuses to take a finished run for another one that is asked for."""
    if not (out / "record.json").exists():
        return False
    record = results.read_record(out / "record.json")
    if missing := elsewhere - set(record.get("elsewhere", {})):
        raise ValueError(f"{out} is finished, but was not scored on {', '.join(sorted(missing))}; choose another "
                         "folder with --out, or score it with `evaluate`")
    for name, value in results.plain(asked).items():
        if record.get(name, value) != value:                          # records of older versions say less
            raise ValueError(f"{out} is finished, but with another {name}; choose another folder with --out\n"
                             f"there: {record.get(name)}\nhere:  {value}")
    return True


def _sweep(options: argparse.Namespace) -> None:
    if options.jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {options.jobs}")
    # Folders by their whole path, since a worker may have been started elsewhere.
    values = {name: os.path.abspath(value) if Path(value).exists() else value for name, value in options.set}
    runs = sweep.read_sweep(options.file, values)
    left = sweep.unfinished(runs, options.out)
    print(f"{len(runs)} runs, {len(runs) - len(left)} of them finished")
    if left and not options.cluster:                     # nobody knows how fast the machines of a cluster are
        rate = training.images_a_second()
        seen = sum(sweep.images_seen(run, RECIPE.epochs) for run in left)
        hours = seen / rate / options.jobs / 3600
        print(f"{rate:.0f} images a second here now with one thread: about {hours:.1f} hours for {len(left)} runs, "
              f"{options.jobs} at a time, if as many processors are free")
    if options.dry_run:
        for run in left:
            print(run.name)
        return
    folders = tuple(value for value in values.values() if Path(value).exists())
    failed = sweep.run_sweep(left, options.out, options.jobs, options.cluster, options.threads, folders)
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed:\n" + "\n".join(f"  {name}: {why}" for name, why in
                                                                       failed.items()))


def _run(options: argparse.Namespace) -> None:
    parameters = {"profile": options.profile, **{name: _read_value(name, text) for name, text in options.parameter}}
    runs = batch.plan(batch.find_chapters(options.chapters, options.book), parameters)
    left = batch.unfinished(runs, options.out)
    print(f"{len(runs)} runs, {len(runs) - len(left)} of them finished")
    if failed := batch.run_chapters(left, options.out):
        raise RuntimeError(f"{len(failed)} runs failed:\n" + "\n".join(
            f"  {r['chapter']}, cell {r['cell']} ({r['cell_begins']}): {r['error']}" for r in failed))


def _read_value(name: str, text: str) -> object:
    """As papermill reads its -p: a number, True, False or None where the text is one (or true, false, null or a list in
    JSON), else the text. `data` is a folder: chapters run in their own, so they get the whole path.

    Raises:
        FileNotFoundError: if there is no such folder of data.
    """
    constants = {"True": True, "False": False, "None": None}
    if text in constants:
        return constants[text]
    if name == "data":
        folder = Path(text).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {text} with data; name one that is there with -p data DIR")
        return str(folder.resolve())
    try:
        return json.loads(text)
    except ValueError:
        return text


def _noted_folder(weights: Path) -> Path | None:
    """The folder of the data that a run was trained on, if it was named."""
    note = weights.parent / "data-folder.txt"
    with reading(note, "remove it, and name the folder with --data"):
        text = note.read_text() if note.is_file() else ""
    return Path(text) if text else None


def _evaluate(options: argparse.Namespace) -> None:
    weights = options.weights or _last_run()
    network, about = _load(weights)
    dataset = options.dataset or about["dataset"]
    folder = options.data
    if folder is None and dataset == about["dataset"]:
        folder = _noted_folder(weights)
    data = load(dataset, options.split, folder, size=about["stored"], crop=network.config.crop)
    data = data.as_skeleton(SKELETONS[about["skeleton"]])
    if options.subset == "upright":
        data = data.subset(data.upright())
        if not len(data):
            raise ValueError(f"nobody in {dataset} {options.split} is upright")
    codecs = build_codecs(tuple(network.heads), SKELETONS[about["skeleton"]], network.config.crop)
    predictions = {head: training.predict(network, codecs[head], data, head=head)
                   for head in network.heads if head in (*POSES, "joints")}
    predictions = {**predictions,
                   "mean_pose": floors.predict_mean_pose(np.array(about["mean_pose"], np.float32), data)}
    for reason, count in data.skipped.items():
        print(f"skipped in {dataset} {options.split}: {count} {reason}")
    print(f"{weights}, trained on {about['dataset']}, seed {about['seed']}\n")
    title = f"{dataset} {options.split}{' upright' if options.subset == 'upright' else ''}"
    print(results.score_table({name: results.score(pose, data) for name, pose in predictions.items()}, title))
    if "pose3d" in network.heads:
        if data.joints3d is None:
            raise ValueError(f"{dataset} has no joints in 3D to score {weights} with; people has them")
        table = results.score3d(training.predict3d(network, codecs["pose3d"], data), data)
        print("\n" + results.score3d_table({"network": table}, title))


def _compare(options: argparse.Namespace) -> None:
    tables = {name: results.read_tables(name, options.folder, options.at, options.measure) for name in options.runs}
    print(results.compare_table(tables, options.runs[0], options.measure, digits=3 if options.measure == "pck" else 1))


def _families(options: argparse.Namespace) -> None:
    network, about = _load(options.weights)
    dataset, skeleton = options.dataset or about["dataset"], SKELETONS[about["skeleton"]]
    codecs = build_codecs(tuple(network.heads), skeleton, network.config.crop)
    sizes = {"size": about["stored"], "crop": network.config.crop}
    train_set, unseen, data = (load(dataset, split, options.data, **sizes).as_skeleton(skeleton)
                               for split in ("train", "validation", options.split))
    train_set = _share(train_set, about.get("share", 1), about["seed"])
    chosen = families.for_weights(unseen)
    if options.split == "validation":                    # what the weights are learned from is not scored
        data = data.subset(np.setdiff1d(np.arange(len(data)), chosen))
    fitted = families.fit(network, codecs, train_set, unseen.subset(chosen))
    poses = families.predict(fitted, network, codecs, data)
    tables = families.score(fitted, poses, data, network.config.crop)
    true = training.central_labels(data, network.config.crop)[0].numpy()
    results.write_record(options.out, {
        "name": options.out.stem, "run": options.weights.parent.name, "dataset": dataset, "split": options.split,
        "seed": about["seed"], "ways": tables, "truth": families.impossible(fitted, true, data),
        "weights": {way: {name: getattr(springs, name).numpy() for name in ("evidence", "stiffness")}
                    for way, springs in fitted.springs.items()},
        "environment": results.environment()})
    print(results.score_table(tables, f"{dataset} {options.split}"))


def _explain(options: argparse.Namespace) -> None:
    network, about = _load(options.weights)
    dataset, skeleton = options.dataset or about["dataset"], SKELETONS[about["skeleton"]]
    head = next((task for task in ("pose3d", "regression") if task in network.heads), None)
    if head is None:
        raise ValueError(f"{options.weights} regresses no pose; it has {', '.join(network.heads)}")
    sizes = {"size": about["stored"], "crop": network.config.crop}
    train_set, data = (load(dataset, split, options.data, **sizes).as_skeleton(skeleton)
                       for split in ("train", options.split))
    codec = build_codecs((head,), skeleton, network.config.crop)[head]
    whole = train_set.subset(train_set.complete())
    targets = training.encode_central(codec, whole)[0].numpy()
    record = {"name": options.out.stem, "run": options.weights.parent.name, "tasks": about["tasks"], "head": head,
              "dataset": dataset, "split": options.split, "images": len(data), "seed": about["seed"],
              "weights": explain.weights_report(network, head, codec.outputs // len(skeleton), targets, about["seed"]),
              "features": explain.features_report(network, data, about["seed"]),
              "environment": results.environment()}
    results.write_record(options.out, record)
    rows = [[name, *(found["mantel"][key]["r"] for key in found["mantel"])]
            for name, found in record["weights"].items() if name != "poses"]
    print(results.table(["agreement with the poses (Mantel)", *record["weights"]["trained"]["mantel"]], rows))
    kinds = [name for name in record["features"]["conv2"] if "trained" in name]
    rows = [[layer, *(float(np.nanmedian(np.nanmax(found[name], axis=1))) for name in kinds)]
            for layer, found in record["features"].items()]
    print(results.table(["best joint of a map, AP (median)", *kinds], rows))


def _limits(options: argparse.Namespace) -> None:
    network, about = _load(options.weights)
    dataset, skeleton = options.dataset or about["dataset"], SKELETONS[about["skeleton"]]
    if "regression" not in network.heads:
        raise ValueError(f"{options.weights} does not regress joints in the picture, only {', '.join(network.heads)}")
    data = load(dataset, options.split, options.data, size=about["stored"], crop=network.config.crop)
    data = data.as_skeleton(skeleton)
    poses = {"network": training.predict(network, Coordinates(len(skeleton), network.config.crop), data),
             "mean_pose": floors.predict_mean_pose(np.array(about["mean_pose"], np.float32), data)}
    found = {name: limits.answers(pose, data) for name, pose in poses.items()}
    results.write_record(options.out, {
        "name": options.out.stem, "run": options.weights.parent.name, "tasks": about["tasks"], "dataset": dataset,
        "split": options.split, "images": len(data), "seed": about["seed"],
        "upright": "".join("01"[up] for up in data.upright().astype(int)), **found,
        "environment": results.environment()})
    rows = [[name, float(np.nanmean(limits.pck(limits.read_found(table["found"])))),
             float(np.nanmean(table["error"]))] for name, table in found.items()]
    print(results.table([f"{dataset} {options.split} ({len(data)} images)", "PCK@0.2 (torso)", "error / torso"], rows))


def _lift(options: argparse.Namespace) -> None:
    skeleton = SKELETONS["H36M17"]
    config = lifting.LiftingConfig(seed=options.seed)
    if options.epochs is not None:
        config = replace(config, epochs=options.epochs)
    splits = [load(options.dataset, split, options.data) for split in ("train", options.split)]
    train_set, data = (read.as_skeleton(skeleton) for read in splits)
    codec = ParentRelative(skeleton, CROP)
    tables = results.floors3d(train_set, data)
    about: dict = {}
    if options.weights is None:
        lifter = lifting.train_lifter(train_set, codec, config)
        tables = {"lifting_from_true_2d": results.score3d(lifting.lift(lifter, codec, data), data), **tables}
    else:
        network, about = _load(options.weights)
        flat, unseen = (read.as_skeleton(SKELETONS[about["skeleton"]]) for read in splits)
        head = _pose_head(network, options.weights)
        codec2d = build_codecs((head,), flat.skeleton, network.config.crop)[head]
        seen, seen_unseen = (lifting.seen_by(network, codec2d, head, part) for part in (flat, unseen))
        # true to true, true to seen, seen to seen: what the two-step way loses, and how much of it the lifter can mend
        for name, learned, given in (("true_true", flat, unseen), ("true_seen", flat, seen_unseen),
                                     ("seen_seen", seen, seen_unseen)):
            lifter = lifting.train_lifter(train_set, codec, config, learned)
            tables = {f"lifting_{name}": results.score3d(lifting.lift(lifter, codec, given), data), **tables}
    results.write_record(options.out, {
        "name": options.out.stem, "dataset": options.dataset, "split": options.split, "config": asdict(config),
        "run": options.weights and options.weights.parent.name, "tasks": about.get("tasks"),
        "parameters": networks.count_parameters(lifter), "seed": options.seed, "scores3d": tables,
        "environment": results.environment()})
    print(results.score3d_table(tables, f"{options.dataset} {options.split}"))


def _pose_head(network: networks.PoseNetwork, weights: Path) -> str:
    """The network's head that gives joints in the picture."""
    if head := next((task for task in POSES if task in network.heads), None):
        return head
    raise ValueError(f"{weights} does not regress joints in the picture, only {', '.join(network.heads)}; "
                     "name a network that does")


def _film(options: argparse.Namespace) -> None:
    config = replace(film.RECIPES[options.recipe], seed=options.seed)
    if options.epochs is not None:
        config = replace(config, epochs=options.epochs)
    train_set, validation = (load(options.dataset, split, options.data, limit=limit).as_skeleton(SKELETONS["LSP14"])
                             for split, limit in (("train", options.limit), ("validation", None)))
    codec = Coordinates(len(validation.skeleton), CROP)
    found = film.record("small", codec, train_set, validation, config, film.cast(validation))
    results.write_record(options.out, {
        "name": options.out.stem, "recipe": options.recipe, "dataset": options.dataset, "split": "validation",
        "skeleton": validation.skeleton.name, "training_images": len(train_set), "seed": options.seed, **found,
        "mean_pose_loss": training.mean_pose_loss(train_set, codec, validation), "environment": results.environment()})
    print(results.table(["pictures seen", "loss", "PCK@0.2 (torso)", "spread"], [
        [found["images"][k], found["loss"][k], found["pck"][k], found["spread"][k]]
        for k in sorted({0, len(found["images"]) // 2, len(found["images"]) - 1})]))


def _load(weights: Path) -> tuple[networks.PoseNetwork, dict]:
    """A network and what `train` wrote about it."""
    network, about = networks.load_network(weights)
    if missing := {"dataset", "skeleton", "seed", "stored", "mean_pose"} - set(about):
        raise ValueError(f"{weights} does not say its {', '.join(sorted(missing))}; `python -m posebook train` "
                         "writes files that do")
    with reading(weights, "restore it, or train it again", "as the weights of a run"):
        np.array(about["mean_pose"], np.float32).reshape(len(SKELETONS[about["skeleton"]]), 2)
        int(about["stored"]), int(about["seed"])
    return network, about


def _last_run() -> Path:
    """Weights of the run that finished last, or the shipped ones where nothing was trained yet."""
    runs = sorted(Path("runs").glob("*/record.json"), key=lambda path: path.stat().st_mtime)
    return runs[-1].parent / "weights.safetensors" if runs else results.shipped_weights("people")


def _predict(options: argparse.Namespace) -> None:
    network, about = _load(options.weights or results.shipped_weights("lspet"))
    skeleton = SKELETONS[about["skeleton"]]
    head = _pose_head(network, options.weights or results.shipped_weights("lspet"))
    codec = build_codecs((head,), skeleton, network.config.crop)[head]
    for photo in options.photos:
        image = read_image(photo)
        height, width = image.shape[:2]
        tight = np.array([0, 0, width, height], np.float32) if options.box is None else options.box
        pose = training.predict_pose(network, codec, image, tight, head)
        path = options.out / f"{photo.stem}-pose.png"
        _draw(image, pose, skeleton, tight, path)
        joints = {name: [round(float(v), 1) for v in xy] for name, xy in zip(skeleton.joints, pose, strict=True)}
        print(json.dumps({"photo": str(photo), "drawn": str(path), "box": tight.tolist(), "joints": joints}))


def _draw(image: np.ndarray, pose: np.ndarray, skeleton: Skeleton, box: np.ndarray, path: Path) -> None:
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from posebook import draw
    height, width = image.shape[:2]
    scale = 8 / max(height, width)
    figure = plt.figure(figsize=(width * scale, height * scale))
    ax = figure.add_axes((0, 0, 1, 1))
    draw.show_image(ax, image)
    x0, y0, x1, y1 = box - 0.5
    ax.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="white", lw=1)
    draw.draw_pose(ax, pose, skeleton, width=3)
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)
    try:
        with whole_file(path) as part:
            figure.savefig(part, dpi=100, format="png")
    finally:
        plt.close(figure)


def _export(options: argparse.Namespace) -> None:
    network, origin = networks.load_network(options.weights)
    export.export_network(network, origin, options.out)
    heads = ", ".join(network.heads)
    print(f"{options.out}: {heads}; opset {export.OPSET}, {options.out.stat().st_size / 1e6:.1f} MB; "
          "posebook/export.py says what goes in and comes out")


def _download(options: argparse.Namespace) -> None:
    download_lspet(options.data)


def _pack(options: argparse.Namespace) -> None:
    crop = networks.SIZES[options.size]
    for split in options.split:
        count = pack_people(split, options.data, options.out, size=crop * STORED // CROP, crop=crop)
        print(f"{options.out / split}: {count} crops")


def _synthesize(options: argparse.Namespace) -> None:
    from posebook.synthesis import Recipe, synthesize
    counts = {"train": options.count, "validation": options.held_out, "test": options.held_out}
    none: dict = {name: False if name == "lens" else 0.0 for name in options.without}
    synthesize(options.assets, options.out, counts, options.seed, Recipe(**none), options.workers, progress=True)


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)     # nothing is left that could be stopped
    sys.exit(code)
