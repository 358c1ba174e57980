"""The chapters as a batch: each executed by papermill with the reader's parameters, one output notebook and one JSON
file a run.

A run is a chapter with its parameters. What has finished is passed over, what was interrupted or failed is run again,
so the same command can be given at any time.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from posebook import results
from posebook.files import reading, room, whole_file

if TYPE_CHECKING:
    from nbformat import NotebookNode


@dataclass(frozen=True)
class ChapterRun:
    """A chapter's notebook, and the parameters that replace those of its cell tagged `parameters`."""

    notebook: Path
    parameters: dict[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Chapter and parameters, as the run's files are called: 03-regression-profile=smoke-seed=1. Of a path stand
        there its last part and six digits of its checksum."""
        return "-".join([self.notebook.stem, *(f"{k}={_short(str(v))}" for k, v in sorted(self.parameters.items()))])


def _short(value: str) -> str:
    if "/" not in value and "\\" not in value:
        return value
    return f"{Path(value).name}-{hashlib.sha256(value.encode()).hexdigest()[:6]}"


def find_chapters(names: list[str], folder: Path) -> list[Path]:
    """Notebooks of the book by name or the beginning of one ('03' finds 03-regression); none means all of them.

    Raises:
        FileNotFoundError: if the folder holds no notebooks; ValueError: if a name fits none or several.
    """
    there = sorted(path for path in folder.glob("*.ipynb"))
    if not there:
        raise FileNotFoundError(f"there are no chapters in {folder}; run this from a checkout of the book, or name the "
                                "folder with --book")
    found = []
    for name in names:
        fits = [p for p in there if p.stem == name] or [p for p in there if p.stem.startswith(name)]
        if len(fits) != 1:
            raise ValueError(f"{name} is {'no chapter' if not fits else 'the beginning of several'}; there are "
                             f"{', '.join(p.stem for p in fits or there)}")
        found += fits
    return found or there


def plan(notebooks: list[Path], parameters: dict[str, object]) -> list[ChapterRun]:
    """A run for each notebook.

    Raises:
        ValueError: if a chapter does not have one of the parameters, naming those that it has; OSError: if one is
            damaged.
    """
    try:
        import papermill
    except ImportError as error:
        raise ImportError("chapters are run by papermill: pip install papermill ipykernel") from error
    for notebook in notebooks:
        with reading(notebook, "restore it from the repository", "as a notebook"):
            has = papermill.inspect_notebook(str(notebook))
        if unknown := sorted(set(parameters) - set(has)):
            raise ValueError(f"{notebook.stem} has no parameter {unknown[0]}; it has {', '.join(has) or 'none'}")
    return [ChapterRun(notebook, dict(parameters)) for notebook in notebooks]


def unfinished(runs: list[ChapterRun], out: Path) -> list[ChapterRun]:
    """Those without a JSON file that says that they finished."""
    return [run for run in runs if _status(out / f"{run.name}.json") != "finished"]


def _status(path: Path) -> str:
    try:
        return json.loads(path.read_text())["status"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):    # not there or half: as if never run
        return "unfinished"


def run_chapters(runs: list[ChapterRun], out: Path, report: Callable[[str], None] = print,
                 progress: bool = True) -> list[dict]:
    """Execute what is unfinished, one after the other; a chapter that fails does not stop the next.

    Args:
        out: gets NAME.ipynb, the executed notebook, and NAME.json: parameters, status, seconds, printed text and tables
            of each cell, and of a failure the cell's number, its first line and the error.
        report: called with one line when a run ends; progress: show papermill's bar of cells.

    Returns:
        The JSON records of the runs that failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    for run in unfinished(runs, out):
        record = _execute(run, out / f"{run.name}.ipynb", progress)
        results.write_record(out / f"{run.name}.json", record)
        if record["status"] == "failed":
            failed.append(record)
        report(f"{run.name}: {record['status']} after {record['seconds']:.0f} s" + (
            f", in cell {record['cell']} ({record['cell_begins']}): {record['error']}" if record in failed else ""))
    return failed


def _execute(run: ChapterRun, target: Path, progress: bool) -> dict:
    import nbformat
    import papermill
    began = time.perf_counter()
    record: dict = {"name": run.name, "chapter": run.notebook.stem, "parameters": run.parameters, "status": "finished"}
    part = target.with_name(f".{target.name}.part.ipynb")    # papermill saves after every cell; shown when it is whole
    try:
        with room(target):
            papermill.execute_notebook(str(run.notebook), str(part), parameters=run.parameters,
                                       cwd=str(run.notebook.parent), progress_bar=progress, log_output=False)
    except papermill.PapermillExecutionError as error:
        first = (str(error.source).strip().splitlines() or [""])[0]
        record |= {"status": "failed", "cell_begins": first, "error": f"{error.ename}: {error.evalue}"}
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    notebook = nbformat.read(part, as_version=4)
    part.unlink()
    if record["status"] == "failed":                         # papermill has put its remarks above the cell
        record["cell"] = next(number for number, cell in enumerate(notebook.cells) if any(
            output.output_type == "error" for output in cell.get("outputs", [])))
    with whole_file(target) as file:
        nbformat.write(notebook, str(file))
    return record | {"seconds": round(time.perf_counter() - began, 1), "cells": _said(notebook),
                     "environment": results.environment()}


def _said(notebook: NotebookNode) -> list[dict]:
    """What the cells printed, and their tables: [{"cell": number, "text": ...}]."""
    said = []
    for number, cell in enumerate(notebook.cells):
        outputs = cell.get("outputs", []) if cell.cell_type == "code" else []
        text = "\n".join(str(o.get("text") or o.get("data", {}).get("text/markdown") or "").strip() for o in outputs)
        if text.strip():
            said.append({"cell": number, "text": text.strip()})
    return said
