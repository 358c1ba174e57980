"""Chapters as a batch: what finishes, what fails, and what is done again."""

import ast
import json
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from samples import people_shard

from posebook import batch
from posebook.__main__ import _read_value, main
from posebook.results import results_folder


@pytest.fixture
def book(tmp_path):
    """A folder with three small chapters; the second fails on request."""
    folder = tmp_path / "book"
    folder.mkdir()
    parameters = 'import os\nprofile = os.environ.get("POSEBOOK_PROFILE", "book")\ndata = None\nseed = 0\nbad = False'
    for name, code in (("01-one", "print(profile, seed)"),
                       ("02-two", '# the second\nassert not bad, "bad was asked for"'),
                       ("11-last", "from pathlib import Path\nprint(Path.cwd().name)")):
        cell = new_code_cell(parameters)
        cell.metadata["tags"] = ["parameters"]
        notebook = new_notebook(cells=[new_markdown_cell("# A chapter"), cell, new_code_cell(code)])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, str(folder / f"{name}.ipynb"))
    return folder


def run(book, out, *arguments):
    return main(["run", "--book", str(book), "--out", str(out), *arguments])


def said(out, name):
    record = json.loads((out / f"{name}.json").read_text())
    return record, "\n".join(cell["text"] for cell in record["cells"])


def test_every_chapter_leaves_a_notebook_and_a_record(book, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(book, out, "-p", "seed", "3") == 0
    record, text = said(out, "01-one-profile=smoke-seed=3")
    assert text == "smoke 3" and record["status"] == "finished"
    assert record["parameters"] == {"profile": "smoke", "seed": 3}
    assert record["environment"]["commit"] and record["seconds"] > 0
    assert said(out, "11-last-profile=smoke-seed=3")[1] == "book"                 # chapters run where they lie
    executed = nbformat.read(out / "01-one-profile=smoke-seed=3.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "smoke 3\n"
    assert sorted(p.suffix for p in out.iterdir()) == [".ipynb"] * 3 + [".json"] * 3
    assert "finished after" in capsys.readouterr().out


def test_a_failure_names_the_cell_and_stops_no_other_chapter(book, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(book, out, "-p", "bad", "true") == 2
    errors = capsys.readouterr().err
    assert "1 runs failed" in errors and "02-two, cell" in errors
    assert "(# the second): AssertionError: bad was asked" in errors
    record = json.loads((out / "02-two-bad=True-profile=smoke.json").read_text())
    assert record["status"] == "failed"
    notebook = nbformat.read(out / "02-two-bad=True-profile=smoke.ipynb", as_version=4)
    assert notebook.cells[record["cell"]].source.startswith("# the second")
    assert json.loads((out / "11-last-bad=True-profile=smoke.json").read_text())["status"] == "finished"


def test_what_finished_is_passed_over_and_what_did_not_is_run_again(book, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    real, done = batch._execute, []

    def execute(chapter, *arguments):
        done.append(chapter.notebook.stem)
        if len(done) == 2:
            raise KeyboardInterrupt
        return real(chapter, *arguments)

    monkeypatch.setattr(batch, "_execute", execute)
    assert run(book, out) == 130
    assert run(book, out) == 0
    assert done == ["01-one", "02-two", "02-two", "11-last"]
    assert "3 runs, 1 of them finished" in capsys.readouterr().out
    (out / "02-two-profile=smoke.json").write_text('{"status": "fini')              # half a record from somewhere
    (out / "11-last-profile=smoke.json").write_text(json.dumps({"status": "failed"}))
    assert run(book, out) == 0
    assert done[4:] == ["02-two", "11-last"]
    assert run(book, out, "--profile", "book", "01") == 0                            # other parameters are another run
    assert done[6:] == ["01-one"]


def test_an_interrupted_chapter_leaves_nothing_half_written(book, tmp_path, monkeypatch):
    import papermill
    real = papermill.execute_notebook

    def stopped(source, target, **options):
        real(source, target, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(papermill, "execute_notebook", stopped)
    assert run(book, tmp_path / "out", "01") == 130
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("arguments, message", [
    (["03"], "03 is no chapter; there are 01-one, 02-two, 11-last"), (["0"], "0 is the beginning of several"),
    (["-p", "sead", "1"], "01-one has no parameter sead; it has profile, data, seed, bad"),
    (["-p", "data", "nowhere"], "there is no folder nowhere with data")])
def test_names_that_do_not_exist_are_refused_before_anything_runs(book, tmp_path, capsys, arguments, message):
    assert run(book, tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_values_are_read_as_papermill_reads_its_own(book, tmp_path, monkeypatch):
    from papermill.cli import _resolve_type
    for text in ("3", "-1", "0.5", "1e-3", "True", "False", "None", "people", "upper body"):
        value = _read_value("seed", text)
        assert (value, type(value)) == (_resolve_type(text), type(_resolve_type(text)))
    assert [_read_value("bad", text) for text in ("true", "[1, 2]")] == [True, [1, 2]]
    assert _read_value("data", "None") is None
    (tmp_path / "2024").mkdir()
    monkeypatch.chdir(tmp_path)                               # a folder is meant from here, and is no number
    assert run(book, tmp_path / "out", "01", "-p", "data", "2024") == 0
    (written,) = (tmp_path / "out").glob("01-one-data=2024-??????-profile=smoke.json")
    assert json.loads(written.read_text())["parameters"]["data"] == str((tmp_path / "2024").resolve())


def test_a_folder_without_chapters_says_so(tmp_path, capsys):
    assert run(tmp_path, tmp_path / "out") == 2
    assert "there are no chapters in" in capsys.readouterr().err


def test_without_papermill_one_sentence_helps(monkeypatch):
    monkeypatch.setitem(sys.modules, "papermill", None)
    with pytest.raises(ImportError, match="chapters are run by papermill: pip install papermill ipykernel"):
        batch.plan([], {})


COMMON = """import os

profile = os.environ.get("POSEBOOK_PROFILE", "book")  # "smoke": seconds, a handful of images, no conclusions
dataset = "people"  # whose pictures the cells below read: people, or another that `posebook.datasets.load` knows
data = None  # its folder, where it is not the book's own
device = "auto"  # "cpu", "cuda"; auto takes a GPU where there is one
seed = 0"""
CHAPTERS = sorted(results_folder().parent.glob("[01]*.ipynb"))
assert len(CHAPTERS) == 11


def bound(node):
    """Names that code binds where the reader's parameters live: not inside functions, classes or comprehensions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        if not isinstance(child, ast.FunctionDef | ast.Lambda | ast.ClassDef | ast.GeneratorExp | ast.ListComp
                          | ast.SetComp | ast.DictComp):
            yield from bound(child)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_chapter_takes_the_common_parameters_and_keeps_them(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    first, *others = [cell for cell in cells if "colab" not in cell.metadata.get("tags", [])]
    assert first.metadata["tags"] == ["parameters"] and first.source.startswith(COMMON)
    for cell in others:
        taken = {"profile", "dataset", "data", "device", "seed"} & set(bound(ast.parse(cell.source)))
        assert not taken, f"{taken} would be another thing from here on: {cell.source[:200]}"


def test_a_chapter_reads_the_folder_that_it_is_told(tmp_path):
    for number, split in enumerate(("train", "validation", "test")):
        people_shard(tmp_path / "mine" / f"{split}-00000.parquet", count=7 + number, seed=number)
    assert main(["run", "02", "--out", str(tmp_path), "-p", "data", str(tmp_path / "mine")]) == 0
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    assert "9 test pictures" in record["cells"][0]["text"]


def test_a_chapter_that_cannot_use_a_data_set_says_so(tmp_path, capsys):
    assert main(["run", "02", "--out", str(tmp_path), "-p", "dataset", "lspet"]) == 2
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    assert record["error"].startswith("ValueError: this chapter measures in 3D")
    assert "takes people or human36m, not 'lspet'" in record["error"] and record["error"] in capsys.readouterr().err
