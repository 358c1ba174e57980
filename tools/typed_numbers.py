"""Find numbers of results that were typed into the chapters' prose and that no cell of theirs shows.

    python tools/typed_numbers.py [--all] [NOTEBOOK...]      default: every notebook in book/

A number is looked at if a word for a measure (PCK, PCP, mm, MPJPE, AP, R², loss, %) stands in the same sentence. It is
compared with what the notebook's own cells show: a typed number that no cell shows, at the digits it is given with, is
named (stale, or from elsewhere); `--all` names those that agree, too. (A figure shows no number, and a small
whole number is soon found, so this finds suspects and proves nothing.) Numbers that are meant to be typed, such as a
threshold or a figure of a paper, are allowed by `<!-- typed -->` anywhere in their paragraph. The exit status is 1 if
a number is named.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import nbformat
from clean_notebooks import ROOT

MEASURE = re.compile(r"\b(PCKh?|PDJ|PCP|MPJPE|AP|average precision|AUC|millimetres?|mm|loss(?:es)?|spread|agreement)\b"
                     r"|%|R²")
NUMBER = re.compile(r"(?<![\w@.^])[-+−]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w×^])")
ALLOWED = "<!-- typed"
# Not prose: code, formulas, the targets of links, and names with a threshold in them.
NO_PROSE = re.compile(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$|\]\([^)]*\)|\{\w+\}`[^`]*`|\w+@[\d.]+|<[^>]*>"
                      r"|[Cc]hapter \d+|\d+\s*×\s*\d+(?:\s*×\s*[\d,]+)*|95 %", re.DOTALL)
SENTENCE = re.compile(r"(?<=[.!?:;])\s+(?=[A-Z*(\"“-])|\n\s*[-*|] |\n\n")


def shown_numbers(notebook: nbformat.NotebookNode) -> list[float]:
    """Every number that the cells print or show in tables, and the shares among them as percentages too."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = output.get("text", "") + data.get("text/markdown", "")
            found += [abs(float(n.replace(",", "").replace("−", "-"))) for n in NUMBER.findall(text)]
            found += [float(n) for n in re.findall(r"(\d+(?:\.\d+)?)%", text)]
    return found + [100 * n for n in found if n <= 1]


def is_shown(number: str, shown: list[float]) -> bool:
    """Does some shown number round to this one, at the digits that are given?"""
    digits = len(number.partition(".")[2])
    value = abs(float(number.replace(",", "").replace("−", "-")))
    return any(abs(round(n, digits) - value) < 10 ** -(digits + 3) or abs(n - value) <= 0.5001 * 10 ** -digits
               for n in shown)


def typed(notebook: nbformat.NotebookNode) -> list[tuple[int, str, str]]:
    """(cell, number, sentence) for every number in a sentence about a measure."""
    found = []
    for k, cell in enumerate(notebook.cells):
        if cell.cell_type != "markdown":
            continue
        for paragraph in cell.source.split("\n\n"):
            if ALLOWED in paragraph:
                continue
            for sentence in SENTENCE.split(NO_PROSE.sub(" ", paragraph)):
                if sentence and MEASURE.search(sentence):
                    found += [(k, n, " ".join(sentence.split())) for n in NUMBER.findall(sentence)]
    return found


def main(arguments: list[str] | None = None) -> int:
    """Report; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--all", action="store_true", help="name the numbers that agree with an output, too")
    options = parser.parse_args(arguments)
    named = 0
    for path in options.notebooks or sorted((ROOT / "book").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        shown = shown_numbers(notebook)
        numbers = typed(notebook)
        lost = [entry for entry in numbers if not is_shown(entry[1], shown)]
        for cell, number, sentence in numbers if options.all else lost:
            print(f"{path.name}, cell {cell}: {number} in: {sentence[:150]}")
        named += len(numbers if options.all else lost)
        print(f"{path.name}: {len(numbers)} typed numbers, {len(lost)} of them shown by no cell", file=sys.stderr)
    return int(named > 0)


if __name__ == "__main__":
    sys.exit(main())
