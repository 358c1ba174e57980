"""Many runs with one command: read, passed over when finished, kept going when one fails, stopped together."""

import sys
import threading

import pytest

from posebook import __main__ as command
from posebook import sweep

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
    assert words[1:8] == ["-m", "posebook", "train", "--out", "runs/small-1", "--seed", "1"] and words[8] == "--dataset"


def test_the_images_of_a_run_are_counted(plan):
    assert sweep.images_seen(plan[0], 150) == 2 * sweep.IMAGES["lspet"]
    assert sweep.images_seen(plan[1], 150) == 150 * sweep.IMAGES["people"]
    for arguments, count in (("--limit 100 --epochs 3", 300), ("--share 0.1 --epochs 2", sweep.IMAGES["people"] // 5),
                             ("--share 0.1 --epochs 2 --epoch-size 500", 1000)):
        assert sweep.images_seen(sweep.PlannedRun("a", tuple(arguments.split()), 0), 150) == count


@pytest.mark.parametrize("text, message", [
    ("[[runs]\n", "is no sweep"), ("runs = 3", "is no sweep"), ("[[runs]]\nname = 'a'", "is no sweep .KeyError"),
    (TEXT + TEXT.replace("{lspet}", "x"), "names the run large-0 twice"), (TEXT, "give it with --set lspet=")])
def test_what_is_no_sweep_is_refused(tmp_path, text, message):
    (tmp_path / "a.toml").write_text(text)
    values = {} if "--set" in message else {"lspet": "x"}
    with pytest.raises(ValueError, match=message):
        sweep.read_sweep(tmp_path / "a.toml", values)
    with pytest.raises(FileNotFoundError, match="there is no sweep"):
        sweep.read_sweep(tmp_path / "none.toml")


def pretend(monkeypatch, body):
    """Instead of a training, run Python code that knows its folder and name."""
    def code(run, out):
        known = f"folder, name = Path({str(out / run.name)!r}), {run.name!r}"
        return [sys.executable, "-c", f"from pathlib import Path\n{known}\n{body}"]
    monkeypatch.setattr(sweep.PlannedRun, "command", code)


WORKS = "print('hello'); (folder / 'record.json').write_text('{}')"


def test_finished_runs_are_passed_over_and_a_failure_stops_no_other(plan, tmp_path, monkeypatch):
    pretend(monkeypatch, f"if name == 'large-0': raise SystemExit('no memory')\n{WORKS}")
    said = []
    assert sweep.run_sweep(plan, tmp_path, 2, said.append) == ["large-0"]
    assert sorted(said)[0].startswith("large-0: failed, see ") and sorted(said)[1:] == ["small-0: finished",
                                                                                      "small-1: finished"]
    assert "no memory" in (tmp_path / "large-0" / "log.txt").read_text()
    assert [run.name for run in sweep.unfinished(plan, tmp_path)] == ["large-0"]
    pretend(monkeypatch, WORKS)
    assert sweep.run_sweep(plan, tmp_path, 1, said.append) == [] and len(said) == 4
    assert (tmp_path / "large-0" / "log.txt").read_text() == "no memory\nhello\n"


def test_an_interrupt_stops_all_runs(plan, tmp_path, monkeypatch):
    pretend(monkeypatch, "import time\n(folder / 'started').write_text('')\ntime.sleep(600)")

    def interrupt(*_, **__):
        while not (tmp_path / "small-0" / "started").is_file():
            threading.Event().wait(0.05)
        raise KeyboardInterrupt

    class Pool(sweep.ThreadPoolExecutor):
        def map(self, work, runs):
            for run in runs:
                self.submit(work, run)
            interrupt()

    monkeypatch.setattr(sweep, "ThreadPoolExecutor", Pool)
    with pytest.raises(KeyboardInterrupt):
        sweep.run_sweep(plan, tmp_path, 1)
    assert not list(tmp_path.rglob("record.json")) and not (tmp_path / "large-0" / "started").exists()


def test_the_command_says_what_it_would_do(plan, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command.training, "images_a_second", lambda: 1000.0)
    (tmp_path / "runs" / "small-0").mkdir(parents=True)
    (tmp_path / "runs" / "small-0" / "record.json").write_text("{}")
    arguments = ["sweep", str(tmp_path / "a.toml"), "--set", "lspet=x", "--out", str(tmp_path / "runs")]
    assert command.main([*arguments, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "3 runs, 1 of them finished" in out and "about 0.2 hours for 2 runs" in out
    assert out.endswith("large-0\nsmall-1\n")
    pretend(monkeypatch, "raise SystemExit(1)")
    assert command.main(arguments) == 2 and "2 runs failed: " in capsys.readouterr().err
    assert command.main([*arguments, "--jobs", "0"]) == 2 and "jobs must be at least 1" in capsys.readouterr().err
