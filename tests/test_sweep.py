"""Many runs with one command: read, passed over when finished, kept going when one fails, stopped together.

Most tests let a few lines of Python pretend to train, under a scheduler and a worker in this process. Those at the end
train for real: under a scheduler and workers started as a reader would, and on this machine's cores.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from samples import people_shard

from posebook import __main__ as command
from posebook import sweep

distributed = pytest.importorskip("distributed")
ROOT = Path(sweep.__file__).parents[1]

TEXT = """
[[runs]]
name = "small"
arguments = "--dataset lspet --data {lspet} --epochs 2"
seeds = [0, 1]

[[runs]]
name = "large"
arguments = "--tasks regression joints"
seeds = [0]
"""


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "a.toml").write_text(TEXT)
    return sweep.read_sweep(tmp_path / "a.toml", {"lspet": "/some folder"})


def test_every_row_has_its_first_seed_before_any_has_its_second(plan):
    assert [run.name for run in plan] == ["small-0", "large-0", "small-1"]
    assert plan[2].arguments == ("--dataset", "lspet", "--data", "/some folder", "--epochs", "2")
    words = plan[2].command(sweep.Path("runs"))
    assert words[1:10] == ["-P", "-m", "posebook.sweep", "--threads", "1", "train", "--out", "runs/small-1", "--seed"]
    assert words[10:12] == ["1", "--dataset"] and plan[2].command(sweep.Path("runs"), 3)[5] == "3"


def finding(root=ROOT):
    """The environment for a process that takes the package from a folder."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])}


AXES = """
[[runs]]
name = "{data}-{task}"
arguments = "{data} --tasks {task} --rate 0.1"
seeds = [0, 1]
task = ["joints", 2]
data = {people = "--dataset people", lspet = "--dataset lspet --data '{where}' --keep {task}"}
"""


def test_a_table_with_axes_stands_for_all_combinations(tmp_path):
    (tmp_path / "a.toml").write_text(AXES)
    runs = sweep.read_sweep(tmp_path / "a.toml", {"where": "some where"})
    assert [run.name for run in runs] == [f"{name}-{seed}" for seed in (0, 1) for name in
                                          ("people-joints", "lspet-joints", "people-2", "lspet-2")]
    assert runs[1].arguments == ("--dataset", "lspet", "--data", "some where", "--keep", "joints", "--tasks", "joints",
                                 "--rate", "0.1")
    assert runs[2].arguments == ("--dataset", "people", "--tasks", "2", "--rate", "0.1")


def test_the_images_of_a_run_are_counted(plan):
    assert sweep.images_seen(plan[0], 150) == 2 * sweep.IMAGES["lspet"]
    assert sweep.images_seen(plan[1], 150) == 150 * sweep.IMAGES["people"]
    for arguments, count in (("--limit 100 --epochs 3", 300), ("--share 0.1 --epochs 2", sweep.IMAGES["people"] // 5),
                             ("--share 0.1 --epochs 2 --epoch-size 500", 1000)):
        assert sweep.images_seen(sweep.PlannedRun("a", tuple(arguments.split()), 0), 150) == count


@pytest.mark.parametrize("path", sorted((ROOT / "book" / "sweeps").glob("*.toml")), ids=lambda path: path.stem)
def test_the_sweeps_of_the_book_are_lists_of_trainings(path):
    runs = sweep.read_sweep(path, {"lspet": "DIR", "sets": "SETS"})
    assert runs and all(command._parser().parse_args(run.command(Path("runs"))[4:]).seed == run.seed for run in runs)


@pytest.mark.parametrize("text, message", [
    ("[[runs]\n", "is no sweep"), ("runs = 3", "is no sweep"), ("[[runs]]\nname = 'a'", "is no sweep .KeyError"),
    (TEXT + TEXT.replace("{lspet}", "x"), "names the run large-0 twice"), (TEXT, "give it with --set lspet="),
    (AXES.replace("-{task}", ""), "names the run lspet-0 twice"),
    (AXES.replace("-{task}", "-{tusk}"), "is no sweep .*tusk"),
    (AXES + "rate = 3", "is no sweep .TypeError")])
def test_what_is_no_sweep_is_refused(tmp_path, text, message):
    (tmp_path / "a.toml").write_text(text)
    values = {} if "--set" in message else {"lspet": "x", "where": "y"}
    with pytest.raises(ValueError, match=message):
        sweep.read_sweep(tmp_path / "a.toml", values)
    with pytest.raises(FileNotFoundError, match="there is no sweep"):
        sweep.read_sweep(tmp_path / "none.toml")


def pretend(monkeypatch, body):
    """Instead of a training, run Python code that knows its folder and name, and stops as a training does."""
    def code(run, out, threads=1):
        known = f"folder, name = Path({str(out / run.name)!r}), {run.name!r}"
        return [sys.executable, "-c", ("import os, time\nfrom pathlib import Path\nfrom posebook import sweep\n"
                                       f"sweep.stop_with_worker()\n{known}\n{body}")]
    monkeypatch.setattr(sweep.PlannedRun, "command", code)


WORKS = "print('hello'); (folder / 'record.json').write_text('{}')"
WAITS = "(folder / 'started').write_text(str(os.getpid()))\ntime.sleep(600)"


@pytest.fixture(scope="module")
def threads():
    """The address of a scheduler in this process with one worker that takes two runs at a time."""
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, protocol="tcp://",
                                  host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs="ERROR") as cluster:
        yield cluster.scheduler_address


def until(what, seconds=60):
    """Wait until something is true, and return it."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def alive(process: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_finished_runs_are_passed_over_and_a_failure_stops_no_other(plan, tmp_path, monkeypatch, threads):
    pretend(monkeypatch, f"if name == 'large-0': raise SystemExit('no memory')\n"
                         f"if name == 'small-1': os.kill(os.getpid(), 9)\n{WORKS}")
    said = []
    failed = sweep.run_sweep(plan, tmp_path, cluster=threads, report=said.append)
    assert failed == {name: f"see {tmp_path / name / 'log.txt'}" for name in ("large-0", "small-1")}
    assert said[0] == f"workers at {threads}: 1, runs at a time: 2"
    assert sorted(said[1:]) == ["large-0: failed, " + failed["large-0"], "small-0: finished",
                                "small-1: failed, " + failed["small-1"]]
    assert "no memory" in (tmp_path / "large-0" / "log.txt").read_text()
    assert "ended by signal 9" in (tmp_path / "small-1" / "log.txt").read_text()
    assert [run.name for run in sweep.unfinished(plan, tmp_path)] == ["large-0", "small-1"]
    pretend(monkeypatch, WORKS)
    assert sweep.run_sweep(plan, tmp_path, cluster=threads, report=said.append) == {} and len(said) == 7
    assert (tmp_path / "large-0" / "log.txt").read_text() == "no memory\nhello\n"
    assert sweep.run_sweep(plan, tmp_path, cluster="tcp://not-asked:1") == {}


def test_two_never_train_in_one_folder(plan, tmp_path, monkeypatch, threads):
    """A run of which another process still holds the log waits for it."""
    fcntl = pytest.importorskip("fcntl")
    pretend(monkeypatch, f"(folder / 'began').write_text('')\n{WORKS}")
    (tmp_path / "small-0").mkdir()
    with (tmp_path / "small-0" / "log.txt").open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=log)
    try:                                                 # closed here, but the other process has it
        assert sweep.run_sweep(plan[:2], tmp_path, cluster=threads,
                               report=lambda line: other.kill() if "large-0" in line else None) == {}
    finally:
        other.kill()
        other.wait()
    small, large = ((tmp_path / name / "record.json").stat().st_mtime for name in ("small-0", "large-0"))
    assert large < small and "hello" in (tmp_path / "small-0" / "log.txt").read_text()


SWEEPS = """
import sys
from pathlib import Path
from posebook import sweep
sys.exit(len(sweep.run_sweep([sweep.PlannedRun(name, (), 0) for name in "ab"], Path(sys.argv[1]), cluster=sys.argv[2])))
"""


@pytest.mark.parametrize("death", [signal.SIGINT, signal.SIGKILL])
def test_when_the_command_is_stopped_so_is_what_it_started_on_a_cluster(tmp_path, monkeypatch, threads, death):
    pretend(monkeypatch, f"if name == 'a':\n    {WORKS}\nelse:\n    " + WAITS.replace("\n", "\n    "))
    asks = subprocess.Popen([sys.executable, "-c", SWEEPS, str(tmp_path), threads], stderr=subprocess.DEVNULL,
                            env=finding())
    until((tmp_path / "b" / "started").is_file)
    training = int(until((tmp_path / "b" / "started").read_text))
    until((tmp_path / "a" / "record.json").is_file)
    asks.send_signal(death)
    assert asks.wait(60)
    until(lambda: not alive(training), 30)
    pretend(monkeypatch, WORKS)
    runs = [sweep.PlannedRun(name, (), 0) for name in "ab"]
    assert sweep.run_sweep(runs, tmp_path, cluster=threads, report=str) == {}
    assert (tmp_path / "a" / "log.txt").read_text() == "hello\n"


def test_a_training_that_will_not_stop_is_ended():
    body = ("import signal, time\nfrom posebook import sweep\nsweep.GRACE = 0.2\nsweep.stop_with_worker()\n"
            "signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('deaf')\ntime.sleep(600)")
    process = subprocess.Popen([sys.executable, "-uc", body], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env=finding())
    assert process.stdout.readline() == "deaf\n"
    out, _ = process.communicate(timeout=60)             # closes its stdin
    assert process.returncode == 130 and out == ""


def test_without_a_scheduler_or_dask_one_sentence_says_so(plan, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.toml").write_text(TEXT)
    arguments = ["sweep", str(tmp_path / "a.toml"), "--set", "lspet=x", "--out", str(tmp_path / "runs"), "--cluster"]
    monkeypatch.setattr(sweep, "CONNECT", 1)
    began = time.monotonic()
    for address in ("tcp://127.0.0.1:9", "nonsense://127.0.0.1:9"):
        assert command.main([*arguments, address]) == 2
        said = capsys.readouterr().err
        assert f"no Dask scheduler answers at {address}" in said and len(said.splitlines()) == 1
    assert time.monotonic() - began < 20
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert command.main([*arguments, "tcp://127.0.0.1:9"]) == 2 and "pip install distributed" in capsys.readouterr().err


def start(*words, root=ROOT):
    """A part of a cluster, as a reader would start it, with the package in `root`."""
    return subprocess.Popen([sys.executable, "-P", "-m", "dask", *map(str, words)], stderr=subprocess.DEVNULL,
                            env=finding(root))


@pytest.mark.parametrize("other, message", [
    (None, "does not see /only/here"), ("raise ImportError('no posebook')", "cannot use posebook .ImportError"),
    ("__version__ = '9'", "another version of posebook")])
def test_workers_that_do_not_fit_are_refused_in_one_sentence(plan, tmp_path, monkeypatch, other, message):
    stranger = tmp_path / "elsewhere"
    shutil.copytree(ROOT / "posebook", stranger / "posebook", ignore=shutil.ignore_patterns("__pycache__"))
    if other:
        (stranger / "posebook" / "__init__.py").write_text(other)
    with distributed.LocalCluster(n_workers=0, processes=False, protocol="tcp://", host="127.0.0.1",
                                  dashboard_address="127.0.0.1:0", silence_logs="ERROR") as cluster:
        worker = start("worker", cluster.scheduler_address, "--host", "127.0.0.1", "--no-nanny", "--no-dashboard",
                       "--local-directory", tmp_path / "scratch", root=stranger)
        try:
            until(lambda: cluster.scheduler.workers)
            with pytest.raises(RuntimeError, match=message):
                sweep.run_sweep(plan, tmp_path / "runs", cluster=cluster.scheduler_address,
                                folders=("/only/here",), report=str)
        finally:
            worker.kill()
            worker.wait()
    assert not list((tmp_path / "runs").iterdir())


@pytest.fixture
def cluster(tmp_path):
    """The address of a scheduler with two workers, each with its nanny, all started as a reader would."""
    file, parts = tmp_path / "scheduler.json", []
    try:
        parts.append(start("scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", file))
        for number in (0, 1):
            parts.append(start("worker", "--scheduler-file", file, "--host", "127.0.0.1", "--nthreads", 1,
                               "--no-dashboard", "--name", number, "--local-directory", tmp_path / "scratch",
                               "--death-timeout", 60))   # should nobody come to stop them
        until(file.is_file)
        address = json.loads(until(file.read_text))["address"]
        with distributed.Client(address) as client:
            client.wait_for_workers(2, timeout=60)
        yield address
    finally:
        for part in reversed(parts):
            part.terminate()
        for part in parts:
            part.wait(60)


REAL = """
[[runs]]
name = "real"
arguments = "--data {people} --epochs 16 --batch 4 --device cpu"
seeds = [3, 4]
"""


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """The arguments of a sweep's command, and the records of its runs trained one after the other in this process."""
    folder = tmp_path_factory.mktemp("sweep")
    for split, count in (("train", 10), ("validation", 5)):
        people_shard(folder / "people" / f"{split}-00000.parquet", count, seed=count)
    (folder / "real.toml").write_text(REAL)
    arguments = ["sweep", str(folder / "real.toml"), "--set", f"people={folder / 'people'}"]
    for run in sweep.read_sweep(folder / "real.toml", {"people": str(folder / "people")}):
        assert command.main(run.command(folder)[4:]) == 0
    return arguments, records(folder)


def records(folder):
    """The records of the real sweep without what no two runs share."""
    found = [json.loads((folder / name / "record.json").read_text()) for name in ("real-3", "real-4")]
    for record in found:
        assert len(record["history"]) == 16
        for part in (record, *record["history"]):
            del part["seconds"]
        del record["environment"], record["peak_memory_mb"]
    return found


def test_a_worker_that_is_killed_costs_its_cluster_nothing(serial, cluster, tmp_path):
    """Its run goes on at its checkpoint on another worker, its training does not outlive it, a failing run stops no
    other, and the records are those of a serial run."""
    arguments, expected = serial
    bad = tmp_path / "bad.toml"
    bad.write_text(REAL + '[[runs]]\nname = "bad"\narguments = "--epochs 0"\nseeds = [0]\n')
    out = tmp_path / "runs"
    asks = subprocess.Popen([sys.executable, "-m", "posebook", "sweep", str(bad), *arguments[2:], "--out", str(out),
                             "--cluster", cluster], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=finding())
    victim = out / "real-3"
    until((victim / "checkpoint.pt").is_file, 120)
    training = next(int(p.name) for p in Path("/proc").glob("[0-9]*")
                    if str(victim).encode() in (p / "cmdline").read_bytes())
    worker = int(Path(f"/proc/{training}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(worker, signal.SIGKILL)
    until(lambda: not alive(training), 30)
    assert not (victim / "record.json").exists()
    said, wrong = asks.communicate(timeout=300)
    assert asks.returncode == 2
    assert wrong == f"posebook: 1 runs failed:\n  bad-0: see {out / 'bad-0' / 'log.txt'}\n"
    assert f"workers at {cluster}: 2, runs at a time: 2" in said
    assert "real-3: finished" in said and "real-4: finished" in said
    assert "must be positive" in (out / "bad-0" / "log.txt").read_text()
    assert (victim / "log.txt").read_text().count("10 training and 5 validation images") == 2
    assert records(out) == expected and not list(out.rglob("*.part"))


QUICK = """
import sys
from posebook import __main__ as command
command.training.images_a_second = lambda: 1000.0
sys.exit(command.main(sys.argv[1:]))
"""


def test_on_this_machine_ctrl_c_stops_all_and_the_same_command_ends_as_a_serial_run(serial, tmp_path):
    arguments, expected = serial
    out = tmp_path / "runs"

    def begin():
        return subprocess.Popen([sys.executable, "-c", QUICK, *arguments, "--out", str(out)], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, start_new_session=True,
                                env=finding())

    asks = begin()
    until((out / "real-3" / "checkpoint.pt").is_file, 120)
    os.killpg(asks.pid, signal.SIGINT)                   # as a terminal does: to all processes of the command
    _, wrong = asks.communicate(timeout=60)
    assert asks.returncode == 130
    assert wrong == "posebook: stopped; the same command continues where it was\n"
    until(lambda: not any(str(out).encode() in p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline")), 30)
    assert not (out / "real-3" / "record.json").exists() and not list(out.rglob("*.part"))
    asks = begin()
    said, wrong = asks.communicate(timeout=300)
    assert asks.returncode == 0 and wrong == "" and "real-3: finished" in said
    assert records(out) == expected


def test_the_command_says_what_it_would_do(plan, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command.training, "images_a_second", lambda: 1000.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "runs" / "small-0").mkdir(parents=True)
    (tmp_path / "runs" / "small-0" / "record.json").write_text("{}")
    arguments = ["sweep", str(tmp_path / "a.toml"), "--set", "lspet=x", "--out", str(tmp_path / "runs")]
    assert command.main([*arguments, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "3 runs, 1 of them finished" in out and "about 0.2 hours for 2 runs" in out
    assert out.endswith("large-0\nsmall-1\n")
    asked = []
    monkeypatch.setattr(sweep, "run_sweep", lambda *given: asked.append(given) or {"large-0": "see its log"})
    assert command.main(["--threads", "1", *arguments, "--jobs", "3"]) == 2
    assert capsys.readouterr().err == "posebook: 1 runs failed:\n  large-0: see its log\n"
    left, *others = asked[0]
    assert others == [tmp_path / "runs", 3, None, 1, (str(tmp_path / "x"),)]
    assert left[1].arguments[3] == str(tmp_path / "x")   # a worker may have been started elsewhere
    assert command.main([*arguments, "--jobs", "0"]) == 2 and "jobs must be at least 1" in capsys.readouterr().err
