"""Start and kill a short training again and again: does it end as if nobody had ever touched it?

    python tools/soak.py --starts 1000 --seed 0 --record benchmarks/soak.json

Each start is a process of its own that runs `posebook train` and gets SIGKILL, at a random moment of its time, or
shortly after it began to write a checkpoint, the weights or the record. The next start goes on. When a run is
finished, all its files are compared with those of a run in one go, started as a reader would start it, and the next
run begins. To save the seconds that importing PyTorch takes, starts are forked from one process that has imported it
and computed nothing.

A start that does anything but finish or die of its signal, a checkpoint that is trained again, a number or weight that
differs, or a file too many stops the soak with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import torch
import torch._dynamo  # (an optimizer imports it, for seconds: once here, not in every start)
from safetensors import safe_open

from posebook import __main__ as command
from posebook import networks, results, training
from posebook.datasets.people import find_shards

PHASES = ("starting", "an epoch", "validation", "writing a checkpoint", "writing the weights", "scoring",
          "writing the record", "ending")
STEPS = ((training, "_epoch", 1), (training, "validate", 2), (training, "_save", 3),
         (networks, "save_network", 4), (command, "_measures", 5), (results, "write_record", 6))
"""What is watched: where it lives, its name, its phase."""
IMAGES, EPOCHS = 16, 3
TRAIN = ("train", "--epochs", str(EPOCHS), "--batch", "8", "--warmup", "1", "--channels", "4", "4", "4")


def small_people(folder: Path) -> Path:
    """A few of the book's people, in files like its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", IMAGES), ("validation", 8)):
        table = pq.read_table(find_shards(split)[0], use_threads=False)
        pq.write_table(table.slice(0, count), folder / f"{split}-00000.parquet")
    return folder


class Notes:
    """What a start tells from beyond its death, in memory that both processes share."""

    FORM = "iiii"                                       # phase, how often a checkpoint was begun, written; first epoch

    def __init__(self) -> None:
        self.shared = mmap.mmap(-1, struct.calcsize(self.FORM))
        self.set(0, 0, 0, -1)

    def set(self, *values: int) -> None:
        self.shared[:] = struct.pack(self.FORM, *values)

    def get(self) -> list[int]:
        return list(struct.unpack(self.FORM, self.shared[:]))

    def watch(self, module, name: str, phase: int) -> None:
        """Note when a function is entered, and that its phase is over when it returns."""
        function = getattr(module, name)

        def noted(*arguments, **options):
            values = self.get()
            before, values[0] = values[0], phase
            values[1] += phase == 3
            if phase == 1 and values[3] < 0:
                values[3] = arguments[4]
            self.set(*values)
            answer = function(*arguments, **options)
            values[0], values[2] = before, values[2] + (phase == 3)
            self.set(*values)
            return answer

        setattr(module, name, noted)


def start(arguments: list[str], log: Path, notes: Notes) -> int:
    """Fork a process that runs posebook; returns its number."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = file
            for step in STEPS:
                notes.watch(*step)
            code = command.main(arguments)
    finally:
        notes.set(7, *notes.get()[1:])
        os._exit(code)


def wait(child: int, seconds: float) -> int | None:
    """Wait for the end of a process; its status, or None if it still runs after so long."""
    until = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() >= until:
            return None
        time.sleep(0.0005)


def kill_in_phase(child: int, notes: Notes, phase: int, times: int, after: float) -> int | None:
    """Wait until `phase` has begun (a checkpoint: for the so-manieth time), and `after` seconds more."""
    while True:
        now, begun, *_ = notes.get()
        if now == phase and (phase != 3 or begun >= times):
            time.sleep(after)
            return None
        if (status := wait(child, 0)) is not None:
            return status


def without_times(record: dict) -> dict:
    """A record without what differs between two runs of the same thing."""
    record = {key: value for key, value in record.items() if key not in ("seconds", "environment", "peak_memory_mb")}
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in record["history"]]
    return {**record, "history": rows}


def differences(run: Path, whole: Path) -> list[str]:
    """What a run's folder has otherwise than that of a run in one go, in words."""
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (run, whole)]
    found = [f"the files differ by {', '.join(sorted(names[0] ^ names[1]))}"] if names[0] != names[1] else []
    if found:
        return found
    found += [f"the weights' {name} differs" for name in _weights_that_differ(run, whole)]
    one, other = (without_times(results.read_record(folder / "record.json")) for folder in (run, whole))
    found += [f"the record's {key} differs" for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
    one, other = (torch.load(folder / training.CHECKPOINT, weights_only=True) for folder in (run, whole))
    if without_times(one)["history"] != without_times(other)["history"]:
        found.append("the checkpoint's history differs")
    for state in (one, other):
        state["optimizer"] = {f"{number} {name}": value for number, values in state["optimizer"]["state"].items()
                              for name, value in values.items()}
    found += [f"the checkpoint's {part} differs at {name}" for part in ("network", "optimizer")
              for name, value in one[part].items() if not torch.equal(value, other[part][name])]
    return found


def _weights_that_differ(run: Path, whole: Path) -> list[str]:
    """By their bits; the file's bytes also have the header's two texts in an order that is drawn anew every time."""
    with (safe_open(run / "weights.safetensors", "pt") as one, safe_open(whole / "weights.safetensors", "pt") as other):
        if one.metadata() != other.metadata() or set(one.keys()) != set(other.keys()):
            return ["header"]
        return [name for name in one.keys() if not torch.equal(one.get_tensor(name), other.get_tensor(name))]


def soak(starts: int, seed: int, folder: Path, minutes: float = float("inf"), report=print) -> dict:
    """Start and kill, so often or for so many minutes; returns what was counted.

    Args:
        folder: for all files; a run in one go that is there already, in `whole/run`, is compared with.

    Raises:
        AssertionError: if anything is not as it should be.
    """
    torch.set_num_threads(1)
    people, whole, run, log = small_people(folder / "people"), folder / "whole" / "run", folder / "run", folder / "log"
    arguments = [*TRAIN, "--data", str(people)]
    began = time.monotonic()
    if not whole.exists():
        subprocess.run([sys.executable, "-m", "posebook", *arguments, "--out", str(whole)], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    draw, notes = random.Random(seed), Notes()
    lengths: list[float] = []
    fell, aimed_at, left, untouched, finished, saved, killed = Counter(), Counter(), 0, 0, 0, 0, 0
    for number in range(starts):
        if time.monotonic() - began > 60 * minutes:
            starts = number
            break
        notes.set(0, 0, 0, -1)
        born = time.monotonic()
        child = start([*arguments, "--out", str(run)], log, notes)
        way = draw.random()
        if not lengths:
            status = wait(child, 600)                   # nobody knows yet how long one takes
        elif way < 0.65:
            status = wait(child, draw.uniform(0, 0.7 * statistics.median(lengths[-5:])))
        else:
            phase = draw.choices((3, 4, 6), (6, 2, 2))[0]
            status = kill_in_phase(child, notes, phase, draw.randint(1, 2), draw.uniform(0, 0.004))
        if status is None:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
        phase, _, written, first = notes.get()
        assert first < 0 or first >= saved, f"start {number} trained epoch {first} again, {saved} were saved; see {log}"
        saved += written
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL, f"start {number} died of {os.WTERMSIG(status)}; see {log}"
            killed += 1
            before = " before the first checkpoint" if phase < 3 and not saved else ""
            fell[PHASES[phase] + before] += 1
            aimed_at["at random" if way < 0.65 else "while a file was written"] += 1
            left += bool(list(run.rglob("*.part")))
        else:
            assert os.WEXITSTATUS(status) == 0, f"start {number} ended with {os.WEXITSTATUS(status)}; see {log}"
            if not killed:
                untouched += 1
            if (saved == EPOCHS and not lengths) or written == EPOCHS:
                lengths.append(time.monotonic() - born)
        # finished, or killed after its record was in place: a further start would only say so
        if (run / "record.json").exists():
            wrong = differences(run, whole)
            assert not wrong, f"after start {number}: {'; '.join(wrong)}; see {run}"
            shutil.rmtree(run)
            finished, saved, killed = finished + 1, 0, 0
        if number % 25 == 24:
            report(f"{number + 1} starts, {sum(fell.values())} kills, {finished} runs finished, "
                   f"{time.monotonic() - began:.0f} s", flush=True)
    return {"starts": starts, "seed": seed, "kills": sum(fell.values()), "fell": dict(sorted(fell.items())),
            "aimed": dict(aimed_at), "kills_that_left_a_part": left, "runs_finished": finished,
            "of_these_never_killed": untouched, "differences": 0, "minutes": round((time.monotonic() - began) / 60, 1),
            "environment": results.environment()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop earlier, after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="JSON file for the counts")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="posebook-soak-"))
    try:
        found = soak(options.starts, options.seed, folder, options.minutes)
    except AssertionError as error:                     # the folder stays, to be looked at
        print(f"soak: {error}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    print(json.dumps(found, indent=1))
    if options.record:
        results.write_record(options.record, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
