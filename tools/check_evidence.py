"""Check that every number of the book comes from a run that is there, and that the run is the one meant.

    python tools/check_evidence.py          names what is wrong, one line each; the exit status is then 1

Four questions are asked:

- **Is a result typed?** A number in the prose of a notebook stands before a comment that says what it is, and
  `execute_notebooks.py` put it in; a number about a measure without such a comment is refused, and so is one that was
  changed by hand. What is meant to be typed (a threshold, a figure of a paper, an example) is allowed by
  `<!-- typed -->` anywhere in its paragraph.
- **Is a notebook older than what it reads?** It notes the checksums of the records, weights and data that it read.
- **Do the records say of themselves what the text says of them?** The ledger's settings against their configurations
  (`posebook.claims.problems`), and every record against the schema (`posebook.results.check_record`).
- **Is a record older than the code that makes it?** See `tools/probe_behaviour.py`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
import probe_behaviour
from clean_notebooks import ROOT
from execute_notebooks import INSERTED

from posebook import claims, results
from posebook.files import reading, sha256

MEASURE = re.compile(r"\b(PCKh?|PDJ|PCP|MPJPE|AP|average precision|AUC|millimetres?|mm|loss(?:es)?|spread|agreement"
                     r"|correlations?|accuracy|errors?|seeds?)\b|%|R²")
NUMBER = re.compile(r"(?<![\w@.^])[-+−]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w×^])")
DECIMAL = re.compile(r"(?<![\w@.^])[-+−]?\d+\.\d+(?![\w×^])")
ALLOWED = "<!-- typed"
# Not prose: what was put in, code, formulas, the targets of links, and names with a threshold in them.
NO_PROSE = re.compile(INSERTED.pattern + r"|```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$|\]\([^)]*\)|\{\w+\}`[^`]*`"
                      r"|\w+@[\d.]+|<[^>]*>|[Cc]hapters? \d+(?:(?: to |, | and )\d+)*|\d+\s*×\s*\d+(?:\s*×\s*[\d,]+)*"
                      r"|95 %|[Ss]eeds? \d+|[Ee]quations? \d+", re.DOTALL)
SENTENCE = re.compile(r"(?<=[.!?:;])\s+(?=[A-Z*(\"“-])|\n\s*[-*|] |\n\n")


def typed(source: str) -> list[tuple[str, str]]:
    """(number, sentence) for what was typed into a text cell: any number in a sentence about a measure, and numbers
    with a decimal point anywhere."""
    found = []
    for paragraph in source.split("\n\n"):
        if ALLOWED in paragraph:
            continue
        for sentence in SENTENCE.split(NO_PROSE.sub(" ", paragraph)):
            kind = NUMBER if sentence and MEASURE.search(sentence) else DECIMAL
            found += [(number, " ".join(sentence.split())) for number in kind.findall(sentence or "")]
    return found


def changed(cell: nbformat.NotebookNode) -> list[str]:
    """What stands in a text cell where another word was put in, or nothing was."""
    noted = [tuple(pair) for pair in cell.metadata.get("inserted", [])]
    there = [(m["what"], m["word"]) for m in INSERTED.finditer(cell.source)]
    if noted == there:
        return []
    return [f"{word} ({what})" for what, word in there if (what, word) not in noted] or ["a number was taken out"]


def in_notebook(notebook: nbformat.NotebookNode, root: Path = ROOT) -> list[str]:
    """What is wrong with the numbers of one notebook, in sentences."""
    found = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "markdown":
            continue
        found += [f"cell {number}: {value} is typed in: {sentence[:120]}" for value, sentence in typed(cell.source)]
        found += [f"cell {number}: {what} is not what the notebook put in: execute it again" for what in changed(cell)]
    if not notebook.metadata.get("files_read") and any(cell.cell_type == "code" for cell in notebook.cells):
        found.append("does not say which files it read: execute it with tools/execute_notebooks.py")
    for name, digest in notebook.metadata.get("files_read", {}).items():
        path = root / name
        if not path.is_file():
            found.append(f"was executed with {name}, which is not there")
        elif sha256(path)[:16] != digest:
            found.append(f"was executed before {name} changed: execute it again")
    return found


def in_records(folder: Path | None = None) -> list[str]:
    """What is wrong with the records: by the schema, and by the age of the code."""
    found = []
    for path in sorted((folder or results.results_folder()).glob("*.json")):
        record = results.read_record(path)
        with reading(path, "restore it from the repository", "as a record"):
            found += [f"{path.name}: {wrong}" for wrong in results.check_record(record)]
            found += [f"{path.name}: {wrong}" for wrong in probe_behaviour.outdated(record)]
    return found


def main() -> int:
    """Check everything; return the exit status."""
    found = [f"{path.name}: {wrong}" for path in sorted((ROOT / "book").glob("*.ipynb"))
             for wrong in in_notebook(nbformat.read(path, as_version=4))]
    found += [f"ledger: {wrong}" for wrong in claims.problems()] + in_records()
    for line in found:
        print(line, file=sys.stderr)
    print(f"{len(found)} things are wrong" if found else "every number has its run")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
