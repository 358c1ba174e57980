"""The table of benchmarks: what counts as slower. No test asserts a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import run  # noqa: E402

VALUES = [1.0, 0.98, 1.02, 0.99, 1.01]


def part(values, more=False, wanted=None, title="this: of that", machine="a"):
    row = {**run.summary(values), "wanted": wanted, "more": more, "seconds": 0.1, "values": values}
    return {"one": {"rows": {title: row}, "load": 1.0, "machine": machine,
                    "environment": {"torch": "2"}}}


def compared(times, more=False, values=VALUES):
    """Which kinds of news there are when every value becomes so many times worse."""
    worse = [value / times if more else value * times for value in values]
    return {kind for kind, lines in run.compare(part(values, more), part(worse, more)).items() if lines}


@pytest.mark.parametrize("more", [False, True])
def test_what_has_become_slower_is_found(more):
    assert compared(1.25, more) == {"slower"}
    assert compared(1.10, more) == set()
    assert compared(1 / 1.25, more) == {"faster"}


def test_what_the_spread_hides_is_unclear_and_no_failure():
    assert compared(1.25, values=[1.0, 0.8, 1.3, 0.9, 1.1]) == {"unclear"}
    assert compared(1.10, values=[1.0, 0.8, 1.3, 0.9, 1.1]) == set()


def test_the_spread_is_of_the_median():
    assert run.summary([3.0, 1.0, 2.0, 5.0, 4.0]) == {"value": 3.0, "low": 1.0, "high": 5.0}
    assert run.summary([float(n) for n in range(10)]) == {"value": 4.5, "low": 1.0, "high": 8.0}    # one at each end
    assert run.summary([2.0]) == {"value": 2.0, "low": 2.0, "high": 2.0}


def test_what_is_not_there_is_named():
    before = part(VALUES)
    assert run.compare(before, part(VALUES, title="other"))["gone"] == ["one: the row is gone: this: of that"]
    assert "no browser" in run.compare(before, {"one": {"not_run": "no browser", "rows": {}}})["elsewhere"][0]
    slow_elsewhere = run.compare(before, part([2 * value for value in VALUES], machine="b"))
    assert not slow_elsewhere["slower"] and "another machine" in slow_elsewhere["elsewhere"][0]
    assert not any(run.compare(before, {}).values())                                        # --only another one


@pytest.mark.parametrize(("wanted", "more", "reached"), [
    (0.9, True, "yes"), (1.1, True, "**no**"), (0.9, False, "**no**"), (1.1, False, "yes"), (None, True, "")])
def test_the_table_says_whether_a_figure_is_the_wanted_one(wanted, more, reached):
    cells = [cell.strip() for cell in run.table(part(VALUES, more, wanted)).splitlines()[-1].split("|")]
    assert cells[3:5] == ["**1**", "0.98 to 1.02"] and cells[6] == reached


def test_a_failing_benchmark_is_a_row(monkeypatch):
    monkeypatch.setitem(sys.modules, "geometry", None)                                   # importing it raises
    part = run.run_here("geometry", True)
    assert part["not_run"].startswith("ModuleNotFoundError")
    assert "not run: ModuleNotFoundError" in run.table({"geometry": {**part, "rows": {}}})


def test_slower_rows_set_the_exit_status(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "BENCHMARKS", ("one",))
    monkeypatch.setattr(run, "TABLE", tmp_path / "table.json")
    monkeypatch.setattr(run, "README", tmp_path / "README.md")
    run.README.write_text(f"before\n{run.BEGIN}\nold\n{run.END}\nafter\n")
    now = part(VALUES)["one"]
    monkeypatch.setattr(run, "measured", lambda name, quick, before=None: now)
    assert run.main(["--write", "--check"]) == 0
    assert "old" not in run.README.read_text() and run.README.read_text().startswith("before\n")
    assert run.README.read_text().endswith("after\n") and "this: of that" in run.README.read_text()
    now = part([1.25 * value for value in VALUES])["one"]
    assert run.main([]) == 0 and "slower: one: this: of that: 1.25 times" in capsys.readouterr().out
    assert run.main(["--check"]) == 1


def test_a_quick_run_runs():
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "run.py", "--quick", "--only", "geometry"],
                          capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    rows = [line for line in done.stdout.splitlines() if line.startswith("| `geometry`")]
    assert len(rows) == len(set(rows)) == 4 and "not run" not in done.stdout


def test_figures_of_a_quick_run_are_not_kept():
    with pytest.raises(SystemExit):
        run.main(["--quick", "--write"])


def test_the_readme_shows_the_table_that_is_kept():
    parts = json.loads(run.TABLE.read_text())
    assert run.table(parts) in run.README.read_text(encoding="utf-8")
