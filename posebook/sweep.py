"""Many trainings with one command: a list of runs, several at a time, each a process of its own.

A sweep is a TOML file with tables `[[runs]]`: a `name`, the `arguments` of `python -m posebook train`, and `seeds`. Run
`name`-`seed` trains in its own folder and leaves its record there. Finished runs are passed over and stopped ones go on
where they were, so the same command can be given again at any time.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PlannedRun:
    """One training: its folder's name, and the arguments of `train` without folder and seed."""

    name: str
    arguments: tuple[str, ...]
    seed: int

    def command(self, out: Path) -> list[str]:
        """What starts it."""
        return [sys.executable, "-m", "posebook", "train", "--out", str(out / self.name), "--seed", str(self.seed),
                *self.arguments]


def read_sweep(path: str | Path, values: dict[str, str] | None = None) -> list[PlannedRun]:
    """The runs of a sweep, seed by seed: every row has its first seed before any has its second.

    Args:
        values: what stands for `{name}` in the arguments, such as the folder of a data set.

    Raises:
        FileNotFoundError: if there is no such file. ValueError: if it is no sweep, names a run twice, or an argument
            needs a value that is not given.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no sweep {path}")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))["runs"]
        rows = [(str(t["name"]), str(t["arguments"]), [int(s) for s in t["seeds"]]) for t in tables]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no sweep ({type(error).__name__}: {error}): it needs tables [[runs]] with name, "
                         "arguments and seeds") from error
    runs = [(number, k, PlannedRun(f"{name}-{seed}", _filled(arguments, values or {}, path), seed))
            for k, (name, arguments, seeds) in enumerate(rows) for number, seed in enumerate(seeds)]
    planned = [run for _, _, run in sorted(runs, key=lambda row: row[:2])]
    names = [run.name for run in planned]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} names the run {twice[0]} twice")
    return planned


def _filled(arguments: str, values: dict[str, str], path: Path) -> tuple[str, ...]:
    try:
        return tuple(word.format_map(values) for word in shlex.split(arguments))
    except KeyError as error:
        raise ValueError(f"{path} needs a value for {error.args[0]}: give it with --set {error.args[0]}=...") from error


def unfinished(runs: list[PlannedRun], out: Path) -> list[PlannedRun]:
    """Those without a record yet."""
    return [run for run in runs if not (out / run.name / "record.json").is_file()]


KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32),
               "MALLOC_TOP_PAD_": str(2**28)}
"""Settings of the GNU C library: memory that a step frees stays with the process for the next step. Otherwise every
step asks the system for fresh pages, which it must blank: without this a step took 1.1 to 1.2 times as long."""

IMAGES = {"people": 8000, "lspet": 6762, "people+lspet": 14762}
"""Training images of the data sets, for estimates of time."""


def images_seen(run: PlannedRun, default_epochs: int) -> int:
    """About how many images a run reads: the size of its training set times its epochs."""
    given = dict(zip(run.arguments, run.arguments[1:], strict=False))
    count = IMAGES.get(given.get("--dataset", "people"), IMAGES["people"])
    count = min(count, int(given.get("--limit", count))) * float(given.get("--share", 1))
    epochs = int(given.get("--epochs", default_epochs))
    if "--pretrain" in run.arguments:
        epochs += int(given.get("--pretrain-epochs", epochs))
    return int(given.get("--epoch-size", count)) * epochs


def run_sweep(runs: list[PlannedRun], out: Path, jobs: int = 2, report=print) -> list[str]:
    """Train what is unfinished, `jobs` at a time, and write what each says to log.txt in its folder.

    A run that fails does not stop the others. Interrupted (Ctrl-C), it stops all of them; nothing finished is lost.

    Args:
        report: called with one line when a run ends.

    Returns:
        Names of the runs that failed.
    """
    failed: list[str] = []
    started: set[subprocess.Popen] = set()
    stop, lock = threading.Event(), threading.Lock()

    def work(run: PlannedRun) -> None:
        folder = out / run.name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("ab") as log:
            with lock:
                if stop.is_set():
                    return
                process = subprocess.Popen(run.command(out), stdout=log, stderr=subprocess.STDOUT,
                                           env={**KEEP_MEMORY, **os.environ})
                started.add(process)
            code = process.wait()
        if stop.is_set():
            return
        if code:
            failed.append(run.name)
        report(f"{run.name}: " + (f"failed, see {folder / 'log.txt'}" if code else "finished"))

    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(work, unfinished(runs, out)))
        except KeyboardInterrupt:
            with lock:
                stop.set()
                for process in started:
                    process.terminate()
            raise
    return failed
