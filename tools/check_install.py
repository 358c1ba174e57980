"""Does the Colab cell leave an environment's torch and numpy as they are, and does every chapter run there, alone?

    python tools/check_install.py PYTHON [--chapters] [--out FILE.json]

PYTHON is the interpreter of an environment with torch, numpy, papermill and ipykernel and without posebook, for example
of one made with `pip install torch==2.13.0 numpy==2.0.2 ipywidgets==7.7.1 papermill ipykernel`. There the cell that
begins each notebook is executed as on Colab, except that git reads the repository from this checkout (what is
committed, nothing else). Before, pip is asked what it would install; before and after, every file of torch and numpy is
hashed. With --chapters each notebook is then run in the smoke profile, each in an empty folder of its own. One line for
each finding; the exit status is 1 if anything is not as it should be. An environment takes minutes and gigabytes to
make, so this is run by hand; the last results are in benchmarks/install.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clean_notebooks import COLAB_CELL, ROOT

KEPT = ("torch", "numpy", "ipywidgets")
STATE = """
import hashlib, json, sys
from importlib.metadata import PackageNotFoundError, distribution
state = {"python": sys.version.split()[0]}
for name in NAMES:
    try:
        found = distribution(name)
    except PackageNotFoundError:
        continue
    digest = hashlib.sha256()
    for file in sorted(str(file.locate()) for file in found.files if "__pycache__" not in str(file)):
        with open(file, "rb") as content:
            digest.update(file.encode() + hashlib.file_digest(content, "sha256").digest())
    state[name] = {"version": found.version, "files": len(found.files), "sha256": digest.hexdigest()}
print(json.dumps(state))
"""
AS_ON_COLAB = """
import sys, types
sys.modules["google"], sys.modules["google.colab"] = types.ModuleType("google"), types.ModuleType("google.colab")
"""
LOCATION = "import posebook, sys; print(posebook.__file__); assert posebook.__file__.startswith(sys.prefix)"


def run(python: Path, *arguments: str, folder: Path) -> str:
    """Run the environment's Python in `folder`, without this checkout on its path; return what it printed."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    settings = {f"GIT_CONFIG_{key}": value for key, value in
                {"COUNT": "1", "KEY_0": f"url.file://{ROOT}.insteadOf", "VALUE_0": address()}.items()}
    environment = {**{k: v for k, v in os.environ.items() if k not in hidden}, **settings, "POSEBOOK_PROFILE": "smoke"}
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    answer = subprocess.run([python, *arguments], cwd=folder, env=environment, text=True, capture_output=True,
                            check=False)
    if answer.returncode:
        raise RuntimeError(f"{' '.join(arguments)[:200]} failed:\n{answer.stderr[-3000:]}")
    return answer.stdout


def address() -> str:
    """Where the Colab cell fetches the package from."""
    return COLAB_CELL.partition("git+")[2].partition('"')[0]


def check(python: Path, chapters: bool) -> tuple[dict, list[str]]:
    """The record of one environment, and what is wrong, in words."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        empty = Path(name)
        state = STATE.replace("NAMES", repr(KEPT))
        before = json.loads(run(python, "-c", state, folder=empty))
        report = run(python, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-",
                     f"posebook @ git+{address()}", folder=empty)
        added = sorted(f"{item['metadata']['name']} {item['metadata']['version']}"
                       for item in json.loads(report)["install"])
        wrong += [f"pip would install {item}" for item in added if item.split()[0].lower() in KEPT]
        run(python, "-c", AS_ON_COLAB + COLAB_CELL, folder=empty)
        run(python, "-c", LOCATION, folder=empty)
        after = json.loads(run(python, "-c", state, folder=empty))
        wrong += [f"{kept} is not what it was" for kept in KEPT if before.get(kept) != after.get(kept)]
        record = {"environment": before, "unchanged": before == after, "added": added, "chapters": {}}
        for notebook in sorted((ROOT / "book").glob("[0-9]*.ipynb")) if chapters else ():
            folder = empty / notebook.stem
            folder.mkdir()
            start = time.perf_counter()
            try:
                run(python, "-m", "papermill", str(notebook), "out.ipynb", "-p", "profile", "smoke", "-k", "python3",
                    "--no-progress-bar", folder=folder)
                record["chapters"][notebook.stem] = round(time.perf_counter() - start, 1)
                print(f"{notebook.stem} runs, {record['chapters'][notebook.stem]} s", flush=True)
            except RuntimeError as error:
                wrong.append(f"{notebook.stem}: {error}")
                print(wrong[-1], flush=True)
    return record, wrong


def main(arguments: list[str] | None = None) -> int:
    """Check one environment and report; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", type=Path, help="the interpreter of the environment")
    parser.add_argument("--chapters", action="store_true", help="run every chapter, too")
    parser.add_argument("--out", type=Path, help="add the record to this file")
    options = parser.parse_args(arguments)
    record, wrong = check(options.python.absolute(), options.chapters)
    if options.out:
        records = json.loads(options.out.read_text()) if options.out.is_file() else []
        options.out.write_text(json.dumps([*records, record], indent=1) + "\n", encoding="utf-8")
    versions = {kept: record["environment"][kept]["version"] for kept in KEPT if kept in record["environment"]}
    print(f"{versions}: {'unchanged' if record['unchanged'] else 'CHANGED'}; added {', '.join(record['added'])}")
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
