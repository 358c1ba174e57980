"""Numbers in prose come from runs: they are put in by executing, and what was typed, changed or outdated is found."""

import json
import re

import check_evidence
import execute_notebooks
import nbformat
import probe_behaviour
import pytest
from clean_notebooks import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from posebook import results
from posebook.files import sha256

# --- execute_notebooks


@pytest.fixture
def chapter(tmp_path):
    """A notebook whose prose holds two numbers and a word, before they are put in."""
    notebook = new_notebook(cells=[
        new_markdown_cell("Before: ?<!-- = 1 + 1 -->"),
        new_code_cell("import math\nvalues = {'a': -0.12345}\nprint(values)"),
        new_markdown_cell("It is **?<!-- = values['a'] :.3f -->**, the larger: ?<!-- = max('a', 'b') -->; typed: 0.5."),
        new_code_cell("values['a'] = 7")])
    path = tmp_path / "chapter.ipynb"
    for cell, name in zip(notebook.cells, "abcd", strict=True):
        cell.id = name
    nbformat.write(notebook, path)
    return path


def test_expressions_know_their_format():
    assert execute_notebooks.expression("a['x:y'] :.2f") == "format(a['x:y'], '.2f').replace('-', '−')"
    assert execute_notebooks.expression("a[1:2]") == "format(a[1:2], '').replace('-', '−')"


def test_executing_puts_the_numbers_in(chapter, capsys):
    chapter.write_text(chapter.read_text().replace("**?<!--", "**12.3<!--"))         # any word is replaced
    assert execute_notebooks.main([str(chapter)]) == 0
    notebook = nbformat.read(chapter, as_version=4)
    assert notebook.cells[0].source == "Before: 2<!-- = 1 + 1 -->"
    text = "It is **−0.123<!-- = values['a'] :.3f -->**, the larger: b<!-- = max('a', 'b') -->; typed: 0.5."
    assert notebook.cells[2].source == text                                          # with the value of that moment
    assert [cell.get("execution_count") for cell in notebook.cells] == [None, 1, None, 2]
    before = chapter.read_bytes()
    assert execute_notebooks.main([str(chapter)]) == 0 and chapter.read_bytes() == before
    assert check_evidence.in_notebook(notebook)[0].startswith("cell 2: 0.5 is typed in: ")


@pytest.mark.parametrize(("old", "new", "message"), [
    ("1 + 1", "1 + nothing", "cell 0: .*NameError"), ("import math", "import maths", "ModuleNotFoundError")])
def test_a_failing_notebook_is_left_as_it_was(chapter, capsys, old, new, message):
    chapter.write_text(chapter.read_text().replace(old, new))
    before = chapter.read_bytes()
    assert execute_notebooks.main([str(chapter)]) == 1
    error = capsys.readouterr().err
    assert "is left as it was" in error and re.search(message, error)
    assert chapter.read_bytes() == before


def test_the_files_that_a_notebook_read_are_noted(tmp_path):
    record = ROOT / "book" / "results" / "regression-people-0.json"
    opened = {"results/regression-people-0.json", str(ROOT / "posebook" / "files.py"), "/etc/hostname", "nothing"}
    assert execute_notebooks.files_read(opened, ROOT / "book") == {
        "book/results/regression-people-0.json": sha256(record)[:16]}


# --- check_evidence: prose


@pytest.mark.parametrize(("prose", "named"), [
    ("It reaches a PCK of 0.290.", ["0.290"]),
    ("It reaches **0.290**, the other 0.257.", ["0.290", "0.257"]),         # decimals, whatever is said
    ("The error falls by 6 mm.", ["6"]),
    ("We used 31 images. The day was long.", []),
    ("A PCK of 0.312 <!-- typed: the paper's --> is reported.", []),
    ("A PCK of 0.312<!-- = pck :.3f --> is reported.", []),
    ("A PCK of 0.312<!-- = pck :.3f --> and 0.290 is reported.", ["0.290"]),
    ("PCK@0.2 of $0.7$ and `mm = 3`, see [chapter 12](12-mm), on 64×64 pixels, 95 % interval, seed 0.", []),
])
def test_typed_numbers_are_named(prose, named):
    assert [number for number, _ in check_evidence.typed(prose)] == named


@pytest.fixture
def executed(tmp_path):
    """A notebook as executing leaves it, in a repository of its own with one record."""
    record = tmp_path / "book" / "results" / "a-0.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    prose = new_markdown_cell("PCK 0.29<!-- = pck :.2f -->")
    prose.metadata["inserted"] = [["pck :.2f", "0.29"]]
    notebook = new_notebook(cells=[prose, new_code_cell("pck")])
    notebook.metadata["files_read"] = {"book/results/a-0.json": sha256(record)[:16]}
    return notebook, tmp_path, record


def test_an_executed_notebook_is_in_order(executed):
    assert check_evidence.in_notebook(*executed[:2]) == []


@pytest.mark.parametrize(("old", "new", "message"), [
    ("0.29<", "0.30<", "0.30 (pck :.2f) is not what"), ("pck :.2f", "other :.2f", "0.29 (other :.2f) is not what"),
    ("0.29<!-- = pck :.2f -->", "good", "a number was taken out")])
def test_a_number_that_was_changed_by_hand_is_found(executed, old, new, message):
    notebook, root, _ = executed
    notebook.cells[0].source = notebook.cells[0].source.replace(old, new)
    assert any(message in wrong for wrong in check_evidence.in_notebook(notebook, root))


def test_a_notebook_that_is_older_than_a_record_is_found(executed):
    notebook, root, record = executed
    record.write_text("{} ")
    assert "was executed before book/results/a-0.json changed" in check_evidence.in_notebook(notebook, root)[0]
    record.unlink()
    assert "which is not there" in check_evidence.in_notebook(notebook, root)[0]
    del notebook.metadata["files_read"]
    assert "does not say which files it read" in check_evidence.in_notebook(notebook, root)[0]


# --- check_evidence: records


def test_a_record_that_is_older_than_the_code_is_named(tmp_path, monkeypatch):
    record = results.read_record("since-heatmaps-0")
    (tmp_path / "since-heatmaps-0.json").write_text(json.dumps(record))
    assert check_evidence.in_records(tmp_path) == []
    known = probe_behaviour.kept()
    known["heatmaps"]["since"] = "2099-01-01T00:00:00+00:00"
    monkeypatch.setattr(probe_behaviour, "kept", lambda: known)
    [wrong] = check_evidence.in_records(tmp_path)
    assert "since 2099-01-01" in wrong and wrong.endswith("other numbers for heatmaps")
    record["environment"].pop("commit")
    (tmp_path / "since-heatmaps-0.json").write_text(json.dumps(record))
    assert "environment lacks commit" in check_evidence.in_records(tmp_path)[0]


def test_every_kind_of_record_has_its_probes():
    def of(name):
        return probe_behaviour.probes_of(results.read_record(name))
    assert of("tasks-people-both-0") == {"people", "scores", "regression", "detection"}
    assert of("regression-lspet-0") == {"scores", "regression"}
    assert of("collapse-naive-0") == {"people", "scores", "regression, first day"}
    assert of("three-d-joint-0") == {"people", "scores", "3D", "detection"}
    assert of("since-resnet-heatmaps-0") == {"people", "scores", "heatmaps", "resnet18"}
    assert of("explain-joint-0") >= {"explain", "3D"} and of("families-people-both-0") >= {"springs", "detection"}
    assert "lifting" in of("three-d-lifting-0") and "lifting" in of("since-lifting-rle-0")


# --- probe_behaviour


@pytest.mark.parametrize("name", probe_behaviour.PROBES)
def test_the_code_still_gives_the_numbers_of_the_records(name):
    """If this fails, a training, a score or another result now comes out differently than in the records of the book.
    If that is meant, `python tools/probe_behaviour.py --write` says since when, and outdated records must be made
    anew."""
    values = results.plain(probe_behaviour.PROBES[name]())
    assert probe_behaviour.differences(values, probe_behaviour.kept()[name]["values"]) == []


def test_another_behaviour_is_noticed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(probe_behaviour, "KEPT", tmp_path / "behaviour.json")
    values = {"loss": 1.0}
    monkeypatch.setattr(probe_behaviour, "PROBES", {"one": lambda: values})
    assert probe_behaviour.main(["--write"]) == 0 and probe_behaviour.main([]) == 0
    since = probe_behaviour.kept()["one"]["since"]
    values["loss"] = 1.001                                                           # another processor
    assert probe_behaviour.main([]) == 0
    values["loss"] = 1.01
    assert probe_behaviour.main([]) == 1 and "loss is 1.01, was 1.0" in capsys.readouterr().out
    assert probe_behaviour.main(["--write"]) == 0 and probe_behaviour.kept()["one"]["since"] >= since


def test_a_changed_augmentation_is_another_behaviour():
    changed = probe_behaviour.trained("small", ("regression",), augmentation=probe_behaviour.training.Augmentation())
    wanted = probe_behaviour.kept()["regression"]["values"]
    assert len(probe_behaviour.differences(results.plain(changed), wanted)) >= 2
