"""Measure what the book says about speed, write one table, and say what has become slower.

    OMP_NUM_THREADS=1 python benchmarks/run.py                     # all; compares with the committed table
    OMP_NUM_THREADS=1 python benchmarks/run.py --only geometry     # some; may be given several times
    OMP_NUM_THREADS=1 python benchmarks/run.py --write             # also keeps the table: table.json, README.md
    OMP_NUM_THREADS=1 python benchmarks/run.py --check             # exit status 1 if something has become slower
    OMP_NUM_THREADS=1 python benchmarks/run.py --quick             # does it all run? A single short run, no comparison

Every figure is a ratio: to another way that took turns with it in the same process, to a limit, or to the time of a
product of matrices. A benchmark is run in five processes of its own (a process is laid out in memory by chance, and
keeps that layout; turns within one do not show it). A row holds the median of the five and, as its spread, the values
between which the median of all such processes lies with a probability of 94 % or more: of five the lowest and the
highest.

A row has become slower if it is more than 20 % worse than the committed one *and* the two spreads do not touch. If they
touch, the benchmark is run in five more processes, which makes the spread narrower where chance was the reason; what
still cannot be told is listed as such, and is no failure.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

BENCHMARKS = ("throughput", "loader", "detection", "pictorial", "geometry", "patches", "step", "gaps", "live", "pages")
TABLE, README = ROOT / "benchmarks" / "table.json", ROOT / "benchmarks" / "README.md"
PROCESSES, WORSE = 5, 1.2
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


def run_here(name: str, quick: bool) -> dict:
    """One benchmark in this process, on one thread: {"rows": [...]}, or {"not_run": why}."""
    import torch

    from posebook import training
    torch.set_num_threads(1)
    training.keep_memory()
    try:
        return {"rows": [asdict(row) for row in importlib.import_module(name).measure(quick)]}
    except Exception as error:                      # one benchmark that fails does not stop the others
        kind = "" if type(error).__name__ == "NotHere" else f"{type(error).__name__}: "
        return {"not_run": (kind + str(error)).strip().split("\n")[0][:200]}


def run_apart(name: str, quick: bool) -> dict:
    """The same in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--here", name, *(["--quick"] if quick else [])],
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"not_run": f"the process ended with status {done.returncode}: {done.stderr.strip()[-200:]}"}
    return json.loads(done.stdout.splitlines()[-1])


def summary(values: list[float]) -> dict[str, float]:
    """Median and spread: the r-th value from below and from above, with the largest r for which both hold the true
    median between them with a probability of at least 0.93 (a sign test). One or two values: the lowest and highest."""
    from scipy.stats import binom
    ordered, count = sorted(values), len(values)
    rank = max([r for r in range(1, count // 2 + 1) if 1 - 2 * binom.cdf(r - 1, count, 0.5) >= 0.93], default=1)
    return {"value": median(ordered), "low": ordered[rank - 1], "high": ordered[-rank]}


def measured(name: str, quick: bool, before: dict | None = None) -> dict:
    """One benchmark in several processes (after those of `before`): its part of the table."""
    from posebook import results
    runs = []
    for _ in range(1 if quick else PROCESSES):
        load = os.getloadavg()[0]
        runs.append({**run_apart(name, quick), "load": load})
        if "not_run" in runs[-1]:
            return {"not_run": runs[-1]["not_run"], "rows": {}}
    rows = {}
    for same in zip(*(run["rows"] for run in runs), strict=True):
        values = [row["value"] for row in same]
        values += before["rows"][same[0]["name"]]["values"] if before else []
        rows[same[0]["name"]] = {**summary(values), "wanted": same[0]["wanted"], "more": same[0]["more"],
                                 "seconds": median(row["seconds"] for row in same), "values": values}
    return {"rows": rows, "load": max([run["load"] for run in runs] + ([before["load"]] if before else [])),
            "machine": machine(), "environment": results.environment()}


def machine() -> str:
    """What a ratio still depends on."""
    from posebook import results, training
    kind = training.precision(training.pick_device("cpu"))
    return f"{results.environment()['hardware']}, {str(kind).removeprefix('torch.')}"


def met(row: dict) -> bool | None:
    """Is the wanted value reached? None if there is none."""
    if row["wanted"] is None:
        return None
    return row["value"] >= row["wanted"] if row["more"] else row["value"] <= row["wanted"]


def change(old: dict, new: dict) -> tuple[float, bool]:
    """How many times worse a row has become (below 1: better), and whether the spreads do not touch."""
    worse = old["value"] / new["value"] if new["more"] else new["value"] / old["value"]
    return worse, new["high"] < old["low"] if new["more"] else new["low"] > old["high"]


def compare(old: dict, new: dict) -> dict[str, list[str]]:
    """Sentences about what has changed between two tables: "slower", "gone", "unclear", "faster", "elsewhere"."""
    found: dict[str, list[str]] = {kind: [] for kind in ("slower", "gone", "unclear", "faster", "elsewhere")}
    for name, then in old.items():
        now = new.get(name)
        if now is None or "not_run" in then:
            continue
        if "not_run" in now:
            found["elsewhere"].append(f"{name} was not run: {now['not_run']}")
            continue
        if then["machine"] != now["machine"]:
            found["elsewhere"].append(f"{name}: the committed figures are of another machine ({then['machine']})")
            continue
        for title, row in then["rows"].items():
            if title not in now["rows"]:
                found["gone"].append(f"{name}: the row is gone: {title}")
                continue
            times, sure = change(row, now["rows"][title])
            line = f"{name}: {title}: {times:.2f} times worse ({_figure(row)} -> {_figure(now['rows'][title])})"
            if times > WORSE:
                found["slower" if sure else "unclear"].append(line)
            elif 1 / times > WORSE and change(now["rows"][title], row)[1]:
                found["faster"].append(line.replace(f"{times:.2f} times worse", f"{1 / times:.2f} times better"))
    return found


def _figure(row: dict) -> str:
    return f"{row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"


def table(parts: dict) -> str:
    """All rows, as Markdown."""
    from posebook import results
    lines = []
    for name, part in parts.items():
        if "not_run" in part:
            lines.append([f"`{name}`", f"not run: {part['not_run']}", "", "", "", "", "", ""])
        for title, row in part["rows"].items():
            wanted = "" if row["wanted"] is None else f"{'≥' if row['more'] else '≤'} {row['wanted']:g}"
            reached = {None: "", True: "yes", False: "**no**"}[met(row)]
            lines.append([f"`{name}`", title, f"**{row['value']:.3g}**", f"{row['low']:.3g} to {row['high']:.3g}",
                          wanted, reached, _time(row["seconds"]), f"{part['load']:.1f}"])
    header = ["benchmark", "what", "figure", "spread", "wanted", "met", "on this machine", "load"]
    return results.table(header, lines)


def _time(seconds: float) -> str:
    return "" if not seconds else f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def write(parts: dict) -> None:
    """Keep the table, for the next comparison and for readers."""
    from posebook import results
    results.write_record(TABLE, parts)
    page = README.read_text(encoding="utf-8")
    before, after = page[:page.index(BEGIN)], page[page.index(END):]
    about = next(part for part in parts.values() if part["rows"])
    about = f"{about['machine']}; torch {about['environment']['torch']}."
    README.write_text(f"{before}{BEGIN}\n\n{about}\n\n{table(parts)}\n\n{after}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="one short run of each; its figures mean nothing")
    parser.add_argument("--write", action="store_true", help="keep the table")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a row has become slower, or is gone")
    parser.add_argument("--here", choices=BENCHMARKS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick and (options.write or options.check):
        parser.error("--quick shows that everything runs; its figures are not to be kept or compared")
    if options.here:
        print(json.dumps(run_here(options.here, options.quick)))
        return 0
    old, new = json.loads(TABLE.read_text()) if TABLE.is_file() else {}, {}
    for name in options.only or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        new[name] = measured(name, options.quick)
        if not options.quick and compare({name: old[name]} if name in old else {}, new)["unclear"]:
            new[name] = measured(name, False, before=new[name])
    print(table(new))
    found = {} if options.quick else compare(old, new)
    for kind, lines in found.items():
        for line in lines:
            print(f"{kind}: {line}")
    if options.write:
        write({name: {**old, **new}[name] for name in BENCHMARKS if name in old or name in new})
    return int(options.check and bool(found["slower"] or found["gone"]))


if __name__ == "__main__":
    sys.exit(main())
