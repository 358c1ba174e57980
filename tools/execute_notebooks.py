"""Execute chapters as they are committed, and put the numbers of their prose in.

    python tools/execute_notebooks.py [NOTEBOOK...]      default: every notebook in book/

A number in the prose is followed by an HTML comment, which no reader sees, that says what it is: an expression of the
notebook's own variables, with a format after the last colon if it needs one.

    Heat maps find **0.338<!-- = mean(pck["heatmaps"]) :.3f -->** of the joints.

The notebook is run from top to bottom in the book profile. Where a text cell holds such comments, their expressions are
evaluated with what has run so far, and the word before each comment is replaced (write ? the first time). What
was put in is noted in the cell, and the files of results, weights and data that were read are noted in the notebook,
each with its checksum: `tools/check_evidence.py` finds numbers that were changed by hand, and notebooks that are older
than their records. At the end the notebook is cleaned (`tools/clean_notebooks.py`).
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
from pathlib import Path

import clean_notebooks
import nbformat
from clean_notebooks import ROOT
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbclient.util import run_sync

from posebook.files import sha256, whole_file

INSERTED = re.compile(r"(?P<word>[\w.,+−?-]+)<!-- = (?P<what>.+?) -->")
SPEC = re.compile(r" :(?P<spec>[^\s:]+)$")
WATCHED = ("book/results", "book/weights", "data/people", "benchmarks")
"""Folders whose files make a notebook old when they change."""

WATCH = """
def _watch_files(opened=set()):
    import sys
    sys.addaudithook(lambda event, details: opened.add(str(details[0])) if event == "open" else None)
    return opened
_opened = _watch_files()
"""


def expression(what: str) -> str:
    """What a comment says, as a Python expression for the text to put in: minus signs are the real ones."""
    found = SPEC.search(what)
    value, spec = (what[:found.start()], found["spec"]) if found else (what, "")
    return f"format({value}, {spec!r}).replace('-', '−')"


def evaluate(client: NotebookClient, asked: str) -> str:
    """A string expression's value in the notebook's kernel.

    Raises:
        ValueError: with what Python says, if it cannot be evaluated.
    """
    answer = ask_kernel(client, "", {"it": asked})["user_expressions"]["it"]
    if answer["status"] != "ok":
        raise ValueError(f"{asked}: {answer['ename']}: {answer['evalue']}")
    return ast.literal_eval(answer["data"]["text/plain"])


def ask_kernel(client: NotebookClient, code: str, expressions: dict[str, str] | None = None) -> dict:
    """Run code that is no cell and leaves no trace in the count of cells; the kernel's answer."""
    async def ask() -> dict:
        return await client.kc.execute(code, silent=True, store_history=False, user_expressions=expressions or {},
                                       reply=True, timeout=60)

    return run_sync(ask)()["content"]


def put_in(cell: nbformat.NotebookNode, value_of) -> None:
    """Replace the words before a text cell's comments by `value_of(expression)`, and note them in its metadata."""
    cell.source = INSERTED.sub(lambda m: f"{value_of(expression(m['what']))}<!-- = {m['what']} -->", cell.source)
    inserted = [[m["what"], m["word"]] for m in INSERTED.finditer(cell.source)]
    cell.metadata.pop("inserted", None)
    if inserted:
        cell.metadata["inserted"] = inserted


def files_read(opened: set[str], folder: Path) -> dict[str, str]:
    """Of the files that a notebook in `folder` opened, those in `WATCHED`: path in the repository -> SHA-256, cut."""
    paths = {(folder / name).resolve() for name in opened}
    inside = {p.relative_to(ROOT).as_posix(): p for p in paths if p.is_relative_to(ROOT) and p.is_file()}
    return {name: sha256(path)[:16] for name, path in sorted(inside.items()) if name.startswith(WATCHED)}


def execute(path: Path, timeout: int = 3600) -> None:
    """Run one notebook in place; it stays as it was if a cell fails.

    Raises:
        CellExecutionError: from the cell that failed; ValueError: naming a comment that cannot be evaluated.
    """
    notebook = nbformat.read(path, as_version=4)
    folder = path.resolve().parent
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": folder}})
    with client.setup_kernel():
        ask_kernel(client, WATCH)
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type == "markdown":
                try:
                    put_in(cell, lambda asked: evaluate(client, asked))
                except ValueError as error:
                    raise ValueError(f"{path.name}, cell {number}: {error}") from error
            elif not clean_notebooks.is_colab_cell(cell):
                client.execute_cell(cell, number)
        opened = ast.literal_eval(evaluate(client, "repr(sorted(_opened))"))
    clean_notebooks.clean(notebook)
    notebook.metadata["files_read"] = files_read(set(opened), folder)
    with whole_file(path) as part:
        part.write_text(nbformat.writes(notebook).rstrip("\n") + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Execute; return the exit status, 1 if a notebook failed or must not be committed as it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    options = parser.parse_args(arguments)
    os.environ["POSEBOOK_PROFILE"] = "book"
    failed = 0
    for path in options.notebooks or sorted((ROOT / "book").glob("*.ipynb")):
        try:
            execute(path)
            wrong = clean_notebooks.process(path, check=False)
        except (CellExecutionError, ValueError) as error:
            wrong = [f"failed, and is left as it was: {error}"]
        for line in wrong:
            print(f"{path}: {line}", file=sys.stderr)
        failed += bool(wrong)
        print(f"{path}: {'something is wrong' if wrong else 'executed'}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
