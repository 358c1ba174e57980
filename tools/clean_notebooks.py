"""Clean the committed notebooks, and refuse what must not be committed.

    python tools/clean_notebooks.py                 clean every notebook in book/, in place
    python tools/clean_notebooks.py --check         change nothing, only say what is wrong
    python tools/clean_notebooks.py FILE...         the same for these notebooks

Cleaning takes out what changes from run to run without meaning anything (times, the interpreter's version, how the
output was cut into pieces), so that running a notebook again gives the same file. A chapter gets the cell that fetches
the package on Colab (tools/colab_cell.py) as its first code cell. What a cleaner cannot mend (an
error, a warning, cells run out of order, a path of somebody's machine) is reported, one line each, and the exit
status is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from pathlib import Path

import nbformat

MAX_BYTES = 1_500_000
ROOT = Path(__file__).resolve().parent.parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
COLAB_CELL = (ROOT / "tools" / "colab_cell.py").read_text(encoding="utf-8").strip()
KEPT = ("files_read",)
"""What a notebook says of itself and keeps (`execute_notebooks`)."""
RUN_METADATA = ("execution", "ExecuteTime", "papermill", "collapsed", "scrolled", "outputId", "executionInfo")

# Folders in which a machine keeps its own files, at the start of a path (not inside a URL or a relative path).
MACHINE_PATH = re.compile(
    r"file://|(?<![\w.:/~-])/(?:home|root|work|tmp|opt|mnt|Users|private|usr/lib|usr/local|var/folders)/\w|[A-Za-z]:\\+Users\\"
)
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")


def machine_path(text: str) -> str | None:
    """The first path of a machine in `text`, with what follows it, or None."""
    found = MACHINE_PATH.search(text)
    return text[found.start() : found.start() + 60].split("\n")[0] if found else None


def clean(notebook: nbformat.NotebookNode) -> None:
    """Take out, in place, what differs between two runs of the same notebook."""
    kept = {key: notebook.metadata[key] for key in KEPT if key in notebook.metadata}
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}, **kept})
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
    _colab_cell(notebook)
    for number, cell in enumerate(notebook.cells):
        # An id made from the place and the source is the same for everyone; a random one would not be.
        cell.setdefault("id", hashlib.sha256(f"{number} {cell.source}".encode()).hexdigest()[:8])
        for key in RUN_METADATA:
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)


def _colab_cell(notebook: nbformat.NotebookNode) -> None:
    """Put the Colab cell before all other code of a chapter (a notebook with parameters), with today's text.

    It does not count: the cells after it keep their numbers, whether or not it was run with them.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if not any("parameters" in cell.metadata.get("tags", []) for cell in code):
        return
    cell = next((cell for cell in code if is_colab_cell(cell)), None)
    if cell is None:
        cell = nbformat.v4.new_code_cell(id="colab", metadata={"tags": ["colab", "remove-cell"]})
    else:
        notebook.cells.remove(cell)
    notebook.cells.insert(notebook.cells.index(next(c for c in code if c is not cell)), cell)
    if cell.execution_count is not None:
        for counted in (part for other in code for part in (other, *other.outputs)):
            if counted.get("execution_count"):
                counted.execution_count -= 1
    cell.source, cell.execution_count, cell.outputs = COLAB_CELL, None, []


def is_colab_cell(cell: nbformat.NotebookNode) -> bool:
    """Is it the cell that fetches the package on Colab?"""
    return cell.cell_type == "code" and "colab" in cell.metadata.get("tags", [])


def _joined(outputs: list) -> list:
    """Outputs with neighbouring pieces of one stream made one: where they were cut depends on the machine's mood."""
    kept: list = []
    for output in outputs:
        if output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def output_texts(cell: nbformat.NotebookNode) -> list[str]:
    """Everything readable that a code cell printed or showed: streams, tracebacks, text, HTML, SVG."""
    texts = []
    for output in cell.get("outputs", []):
        texts.append(output.get("text", ""))
        texts.extend(output.get("traceback", []))
        texts.extend(str(value) for kind, value in output.get("data", {}).items() if kind not in _BINARY)
    return texts


_BINARY = {"image/png", "image/jpeg", "image/gif", "application/pdf"}


def problems(notebook: nbformat.NotebookNode) -> list[str]:
    """What must not be committed, in words; an empty list if all is well."""
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    code = [cell for cell in code if not is_colab_cell(cell)]
    if not any(cell.outputs for cell in code):
        found.append("has no outputs: run it from top to bottom and save it")
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append(f"its cells were not run once each from top to bottom: execution counts {counts}")
    for number, cell in enumerate(notebook.cells):
        where = f"cell {number} ({cell.source.strip().splitlines()[0][:50] if cell.source.strip() else 'empty'})"
        if path := machine_path(cell.source):
            found.append(f"{where} names a path of a machine: {path}")
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                found.append(f"{where} ended in an error: {output.ename}: {output.evalue}")
            elif output.get("name") == "stderr":
                found.append(f"{where} wrote to stderr: {output.text.strip()[:80]}")
        for text in output_texts(cell):
            if path := machine_path(text):
                found.append(f"{where} shows a path of a machine: {path}")
            if address := ADDRESS.search(text):
                found.append(f"{where} shows a memory address, which differs in every run: {address.group()}")
    return found


def process(path: Path, check: bool) -> list[str]:
    """Clean the notebook at `path` (or, with `check`, only compare) and return what is wrong with it."""
    before = path.read_text(encoding="utf-8")
    try:
        notebook = nbformat.reads(before, as_version=4)
        clean(notebook)
        nbformat.validate(notebook)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        return [f"is not a valid notebook: {str(error).splitlines()[0]}"]
    after = nbformat.writes(notebook).rstrip("\n") + "\n"
    found = problems(notebook)
    if len(after.encode()) > MAX_BYTES:
        found.append(f"is {len(after.encode()) / 1e6:.1f} MB; the limit is {MAX_BYTES / 1e6} MB: show smaller figures")
    if after != before:
        if check:
            found.append("is not clean: run `python tools/clean_notebooks.py`")
        else:
            temporary = path.with_suffix(".ipynb.part")
            temporary.write_text(after, encoding="utf-8")
            os.replace(temporary, path)
            print(f"cleaned {path}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Clean or check; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every notebook in book/")
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args(arguments)
    paths = options.notebooks or sorted(
        path for path in (ROOT / "book").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
    )
    if not paths:
        print("there is no notebook in book/", file=sys.stderr)
        return 1
    found = {path: process(path, options.check) for path in paths}
    for path, lines in found.items():
        for line in lines:
            print(f"{path}: {line}", file=sys.stderr)
    wrong = sum(bool(lines) for lines in found.values())
    print(f"{len(paths)} notebooks, {wrong} with something wrong" if wrong else f"{len(paths)} notebooks, all in order")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
