"""Many trainings with one command: a list of runs, several at a time, on this machine or on a cluster.

A sweep is a TOML file with tables `[[runs]]`: a `name`, the `arguments` of `python -m posebook train`, `seeds`, and
axes where one table is to stand for many runs (`read_sweep`). Run `name`-`seed` trains in its own folder and leaves its
record there. Finished runs are passed over and stopped ones go on where they were, so the same command can be given
again at any time.

Dask hands the runs out: to worker processes on this machine, or to those of a scheduler that the reader has started. A
worker does not train by itself. It starts a process that does, for three reasons: dropout draws from PyTorch's global
generator, which two runs in one process would share; log.txt gets all that a training says, down to a crash in C; and
what a training takes of memory, or breaks, ends with it. The price is that the process must not outlive its worker: see
`train_here` and `stop_with_worker`.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import os
import runpy
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING

from posebook import interrupts

try:
    import fcntl
except ImportError:                                      # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from distributed import Client, Future


@dataclass(frozen=True)
class PlannedRun:
    """One training: its folder's name, and the arguments of `train` without folder and seed."""

    name: str
    arguments: tuple[str, ...]
    seed: int

    def command(self, out: Path, threads: int = 1) -> list[str]:
        """What starts it, in a process that ends with its worker. -P: the current folder may hold another posebook."""
        return [sys.executable, "-P", "-m", "posebook.sweep", "--threads", str(threads), "train",
                "--out", str(out / self.name), "--seed", str(self.seed), *self.arguments]


def read_sweep(path: str | Path, values: dict[str, str] | None = None) -> list[PlannedRun]:
    """The runs of a sweep, seed by seed: every row has its first seed before any has its second.

    A table stands for several rows if it has further keys. Each of them is an axis: a list of values, or a table from
    the values' names to what they put into the arguments, where lists may appear again. `{key}` in name and arguments
    stands for the axis, and the rows are all combinations, the last axis changing fastest.

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
        rows = [row for table in tables for row in _rows(table)]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no sweep ({type(error).__name__}: {error}): it needs tables [[runs]] with name, "
                         "arguments and seeds") from error
    runs = [(number, k, PlannedRun(f"{name}-{seed}", _filled(arguments, values or {}, path), seed))
            for k, (name, arguments, seeds) in enumerate(rows) for number, seed in enumerate(seeds)]
    planned = [run for _, _, run in sorted(runs, key=lambda row: row[:2])]
    names = [run.name for run in planned]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} names the run {twice[0]} twice")
    for run in planned:
        try:
            images_seen(run, 1)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path} has arguments of the run {run.name} that are no numbers ({error})") from error
    return planned


def _rows(table: dict) -> Iterator[tuple[str, str, list[int]]]:
    """Name, arguments and seeds of every row that a table [[runs]] stands for."""
    axes = {key: value for key, value in table.items() if key not in ("name", "arguments", "seeds")}
    choices = [[(key, str(label), str(text)) for label, text in
                (axis.items() if isinstance(axis, dict) else zip(axis, axis, strict=True))]
               for key, axis in axes.items()]
    for chosen in itertools.product(*choices):
        name, arguments = str(table["name"]), str(table["arguments"])
        for key, label, text in sorted(chosen, key=lambda one: isinstance(axes[one[0]], list)):
            name, arguments = name.replace(f"{{{key}}}", label), arguments.replace(f"{{{key}}}", text)
        if "{" in name:
            raise ValueError(f"nothing stands for a brace in the name {name}")
        yield name, arguments, [int(seed) for seed in table["seeds"]]


def _filled(arguments: str, values: dict[str, str], path: Path) -> tuple[str, ...]:
    try:
        return tuple(word.format_map(values) for word in shlex.split(arguments))
    except KeyError as error:
        raise ValueError(f"{path} needs a value for {error.args[0]}: give it with --set {error.args[0]}=...") from error
    except (ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} has arguments that cannot be read ({error}): {arguments}") from error


def unfinished(runs: list[PlannedRun], out: Path) -> list[PlannedRun]:
    """Those without a record yet."""
    return [run for run in runs if not (out / run.name / "record.json").is_file()]


IMAGES = {"people": 8000, "lspet": 6762, "people+lspet": 14762}
"""Training images of the data sets, for estimates of time."""


def images_seen(run: PlannedRun, default_epochs: int) -> int:
    """About how many images a run reads: the size of its training set times its epochs."""
    given = dict(zip(run.arguments, run.arguments[1:], strict=False))
    count = IMAGES.get(given.get("--dataset", "people"), IMAGES["people"])
    count = int(min(count, int(given.get("--limit", count))) * float(given.get("--share", 1)))
    epochs = int(given.get("--epochs", default_epochs))
    if "--pretrain" in run.arguments:
        epochs += int(given.get("--pretrain-epochs", epochs))
    return int(given.get("--epoch-size", count)) * epochs


def run_sweep(runs: list[PlannedRun], out: Path, jobs: int = 2, cluster: str | None = None, threads: int = 1,
              folders: tuple[str, ...] = (), report: Callable[[str], None] = print) -> dict[str, str]:
    """Train what is unfinished, and write what each training says to log.txt in its folder.

    A run that fails does not stop the others. One whose worker dies goes on at its checkpoint on another worker.
    Interrupted (Ctrl-C), all of them stop; nothing finished is lost.

    Args:
        jobs: runs at a time on this machine; cluster: instead, the address of a Dask scheduler, whose workers take one
            run for each of their threads; threads: of PyTorch, for each run.
        folders: further folders that the workers of a cluster must see, such as those of data sets.
        report: called with one line when a run ends.

    Returns:
        Names of the runs that failed, and where to look.

    Raises:
        ImportError: without Dask. OSError: if no scheduler answers, or it is lost on the way. RuntimeError: if workers
            have another posebook or do not see the folders.
    """
    out = out.resolve()
    failed: dict[str, str] = {}
    if not (left := unfinished(runs, out)):
        return failed
    out.mkdir(parents=True, exist_ok=True)
    with _connect(jobs, cluster) as client:
        if cluster:
            _check_workers(client, out, folders, report)
        sweep, source = uuid.uuid4().hex, source_sum()
        # A key of our own, for a training is no pure function of its arguments: its folder remembers. Keys (sweep,
        # number) make one group, whose tasks wait at the scheduler; those that waited at a worker would count its
        # death as theirs. A run that lost more workers than `distributed.scheduler.allowed-failures`, 3 by default, is
        # given up, for it may be the reason.
        futures = {client.submit(train_here, run, out, threads, source, key=(sweep, number), pure=False,
                                 priority=-number): run for number, run in enumerate(left)}
        try:
            for future in _distributed().as_completed(futures):
                name = futures[future].name
                if future.status in ("cancelled", "lost"):
                    raise ConnectionError(f"the scheduler at {cluster or 'this machine'} was lost; finished runs are "
                                          "kept, and the same command continues the others")
                wrong = _what_failed(future, out / name / "log.txt")
                if wrong:
                    failed[name] = wrong
                report(f"{name}: " + (f"failed, {wrong}" if wrong else "finished"))
        except BaseException:
            with suppress(Exception):                    # the scheduler may be what was lost
                client.cancel(list(futures))
            raise
    return failed


def _what_failed(future: Future, log: Path) -> str | None:
    """What to tell about a run that has ended: nothing if it went well."""
    error = future.exception()
    if error is None:
        return f"see {log}" if future.result() else None
    if isinstance(error, _distributed().KilledWorker):
        return f"its worker died again and again: see {log}, and the workers' own logs"
    return f"{type(error).__name__}: {error}"


def _distributed() -> ModuleType:
    try:
        import distributed
    except ImportError as error:
        raise ImportError("sweeps are run by Dask: pip install distributed cryptography") from error
    return distributed


@contextmanager
def _connect(jobs: int, cluster: str | None) -> Iterator[Client]:
    """A Dask client: of the cluster at an address, or of `jobs` workers made for it on this machine.

    Those here have one thread each and a nanny that replaces a dead one. They listen on the loopback interface alone,
    show no dashboard, and speak TLS with a key made for the occasion: whoever can talk to a scheduler can run programs
    as its owner, and a machine may have several users. Ctrl-C at a terminal reaches all processes at once; the workers
    leave it to this one to stop them in order. Their memory is not limited, since not they but their children need it.
    """
    distributed = _distributed()
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)      # what it has to say, our errors say shorter
    if cluster:
        try:
            client = distributed.Client(cluster, timeout=CONNECT)
        except (OSError, ValueError) as error:
            raise ConnectionError(f"no Dask scheduler answers at {cluster} ({error}); start one with `dask scheduler` "
                                  "and give the address that it says") from error
        with client:
            yield client
        return
    preload = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    with tempfile.TemporaryDirectory(prefix="posebook-sweep-", ignore_cleanup_errors=True) as scratch, \
            ExitStack() as opened:
        with interrupts.starting():
            here = opened.enter_context(distributed.LocalCluster(
                n_workers=jobs, threads_per_worker=1, processes=True, host="127.0.0.1", security=True,
                dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False}, memory_limit=0,
                local_directory=scratch, silence_logs=logging.CRITICAL, preload=[preload]))
            client = opened.enter_context(distributed.Client(here))
        yield client


CONNECT = 10
"""Seconds to wait for a scheduler's answer."""


@functools.cache                                         # as this process found it: who edits it does not stop a sweep
def source_sum() -> str:
    """A checksum of the package's source: what must be the same for two machines to make the same record."""
    package, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()


def look_around(paths: list[str]) -> tuple[str, list[str]]:
    """What a machine has: the checksum of its posebook, and which of the paths it does not see."""
    return source_sum(), [path for path in paths if not Path(path).exists()]


def _check_workers(client: Client, out: Path, folders: tuple[str, ...], report: Callable[[str], None]) -> None:
    """Refuse to begin where scheduler or workers have another posebook or cannot see the folders.

    Raises:
        RuntimeError: naming one that does not fit, and why.
    """
    assert client.scheduler is not None, "it is connected"
    here, cannot = client.scheduler.address, "cannot use posebook ({}): install there the version that is here"
    with tempfile.NamedTemporaryFile(dir=out, prefix=".seen-by-workers-") as mark:   # the name alone proves no sharing
        try:
            client.run_on_scheduler(source_sum)          # it unpacks what it hands out, so it needs the package too
        except Exception as error:                       # from elsewhere, of any kind
            raise RuntimeError(f"the scheduler {here} {cannot.format(error)}") from error
        found = client.run(look_around, [mark.name, *folders], on_error="return")
    for address, answer in found.items():
        if isinstance(answer, Exception):
            raise RuntimeError(f"the worker {address} {cannot.format(answer)}")
        source, unseen = answer
        if source != source_sum():
            raise RuntimeError(f"the worker {address} has another version of posebook: install there the one that is "
                               "here, and start the worker again")
        if unseen:
            raise RuntimeError(f"the worker {address} does not see {out if mark.name in unseen else unseen[0]}: runs "
                               "and data must be in folders with the same name on all machines")
    slots = sum(client.nthreads().values())
    report(f"workers at {here}: {len(found)}, runs at a time: {slots}" if found else
           f"no workers at {here} yet; waiting for some: start them with `dask worker {here}`")


POLL = 0.2
"""Seconds between two looks at a training."""


def train_here(run: PlannedRun, out: Path, threads: int, source: str) -> int:
    """On a worker: train in a process of its own until that ends, or nobody wants the run any more.

    The process holds the reading end of a pipe whose other end only this worker has. When the worker dies, by whatever
    death, the system closes the pipe, and the process stops (`stop_with_worker`). Until it has, a lock on log.txt, of
    which it inherits a share, keeps any other training out of the folder: the next worker's, or a second sweep's.

    Args:
        source: `source_sum` of who asks.

    Returns:
        The exit status of the training; 0 is success.
    """
    if source_sum() != source:
        raise RuntimeError("the worker has another version of posebook than the command that asks")
    worker = _distributed().get_worker()
    key = worker.get_current_task()

    def wanted() -> bool:
        """False once the sweep was interrupted or its client lost, or when the worker is about to close."""
        task = worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled" and worker.status.name == "running"

    here = str(Path(__file__).parents[1])                # the package whose checksum was compared, not another one
    environment = {**os.environ,
                   "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}
    folder = out / run.name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        if not _lock(log, wanted):
            return 1
        process = subprocess.Popen(run.command(out, threads), stdin=subprocess.PIPE, stdout=log,
                                   stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        while process.poll() is None and wanted():
            time.sleep(POLL)
        if process.poll() is not None and process.returncode < 0:    # else it cannot say itself why it ended
            log.write(f"posebook: ended by signal {-process.returncode}; 9 often means too little memory\n".encode())
        assert process.stdin is not None, "it was asked for"
        process.stdin.close()
        return process.wait()


def _lock(log: IO[bytes], wanted: Callable[[], bool]) -> bool:
    """Wait until no other process trains into the folder of a log; False if nobody wants the run any more."""
    while fcntl and wanted():
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(POLL)
        except OSError:                                  # a file system without locks
            return True
    return wanted()


def stop_with_worker() -> threading.Event:
    """In the process that trains: stop as by Ctrl-C when the pipe from the worker closes, and for sure soon after.

    As by Ctrl-C, so that no half-written file stays. Dask's nannies watch their workers in the same way.

    Returns:
        Set when the pipe has closed.
    """
    interrupts.hear()                                                # the worker does not
    closed = threading.Event()

    def watch() -> None:
        os.read(0, 1)
        closed.set()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(GRACE)
        os._exit(130)

    threading.Thread(target=watch, daemon=True).start()
    return closed


GRACE = 5
"""Seconds that a training has to stop."""


if __name__ == "__main__":
    closed = stop_with_worker()
    try:
        runpy.run_module("posebook", run_name="__main__", alter_sys=True)
    finally:
        if closed.is_set():                              # Python would take a second or more to clear PyTorch away
            sys.stdout.flush()
            os._exit(130)
