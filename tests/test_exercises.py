"""The exercises of every chapter are complete, and what their checkers share works."""

import ast
import copy
import re
import subprocess
import sys
import types
from pathlib import Path

import clean_notebooks
import nbformat
import numpy as np
import pytest
import torch
import yaml

from posebook.exercises import ask, refuses

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "book").glob("[0-9][0-9]-*.ipynb"))
HINT = re.compile(r"<details><summary>Hint</summary>\n\n(.+?)\n\n</details>", re.DOTALL)


# --- The exercises in the notebooks


def split_exercises(notebook):
    """The exercises of a notebook: label -> its cells, (statement, checker, solution-start, solution, solution-end)."""
    cells, found = notebook.cells, {}
    for i, cell in enumerate(cells):
        if cell.cell_type == "markdown" and "{exercise-start}" in cell.source:
            label = re.search(r"^:label: (ex-[\w-]+)$", cell.source, re.MULTILINE)
            found[label.group(1) if label else f"cell {i}"] = cells[i:i + 5]
    return found


def wrong_answers(tree, checker):
    """The wrong answers in `assert refuses(checker, ...)` as text, a loop over a tuple of them included."""
    loops = {loop.target.id: loop.iter.elts for loop in ast.walk(tree)
             if isinstance(loop, ast.For) and isinstance(loop.target, ast.Name) and isinstance(loop.iter, ast.Tuple)}
    found = []
    for node in ast.walk(tree):
        call = node.test if isinstance(node, ast.Assert) else None
        if not (isinstance(call, ast.Call) and ast.unparse(call.func) == "refuses"):
            continue
        if call.args and ast.unparse(call.args[0]) == checker:
            for answer in call.args[1:]:
                found += loops.get(answer.id, [answer]) if isinstance(answer, ast.Name) else [answer]
    return {ast.unparse(answer) for answer in found}


def exercise_problems(cells):
    """What is missing in one exercise, in words."""
    kinds = [cell.cell_type for cell in cells]
    if kinds != ["markdown", "code", "markdown", "code", "markdown"]:
        return [f"statement, checker, solution-start, solution and its reasons should follow each other, not {kinds}"]
    statement, check_cell, start, solution, end = cells
    found = []
    label = re.search(r"^:label: (ex-[\w-]+)$", statement.source, re.MULTILINE)
    if not label:
        found.append("has no label ex-...")
    if "{exercise-end}" not in statement.source:
        found.append("has no exercise-end")
    hint = HINT.search(statement.source)
    if not hint or len(hint.group(1)) < 60:
        found.append("has no hint")
    if not re.search(rf"{{solution-start}} {label.group(1) if label else ''}\n:class: dropdown", start.source):
        found.append("has no folded solution of its own")
    why, _, rest = end.source.partition("```{solution-end}")
    if not rest:
        found.append("has no solution-end")
    if len(why.strip()) < 150:
        found.append("gives no reasons with its solution")
    if not solution.metadata.get("jupyter", {}).get("source_hidden"):
        found.append("shows its solution in JupyterLab at once: set jupyter.source_hidden")

    checkers = [node for node in ast.walk(ast.parse(check_cell.source))
                if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")]
    if len(checkers) != 1 or len(checkers[0].args.args) != 1:
        return [*found, "has no checker: one function check_... of one argument"]
    checker = checkers[0]
    asserts = [node for node in ast.walk(checker) if isinstance(node, ast.Assert)]
    if not asserts:
        found.append("its checker asserts nothing")
    found += [f"says nothing when this fails: {ast.unparse(node.test)}" for node in asserts if node.msg is None]
    if not any(isinstance(node, ast.Call) and ast.unparse(node.func) == "ask" for node in ast.walk(checker)):
        found.append("its checker does not use `ask`")

    stub = re.search(rf"^# Yours:\n# def (\w+)\(.*\): \.\.\.\n# {checker.name}\((\w+)\)$", check_cell.source,
                     re.MULTILINE)
    if not stub or stub.group(1) != stub.group(2):
        return [*found, "has no stub after `# Yours:`"]
    name, tree = stub.group(1), ast.parse(solution.source)
    if not any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body):
        found.append(f"its solution does not define {name}")
    if not any(ast.unparse(node) == f"{checker.name}({name})" for node in tree.body):
        found.append(f"its solution is not checked: {checker.name}({name})")
    wrong = wrong_answers(tree, checker.name) | wrong_answers(ast.parse(check_cell.source), checker.name)
    if len(wrong) < 3:
        found.append(f"its checker is shown to refuse {len(wrong)} wrong answers, at least 3 are asked for")
    return found


def chapter_problems(notebook):
    """What is wrong with a chapter's exercises, in words."""
    found = split_exercises(notebook)
    wrong = [] if len(found) >= 3 else [f"has {len(found)} exercises, at least 3 are asked for"]
    return wrong + [f"{label} {line}" for label, cells in found.items() for line in exercise_problems(cells)]


@pytest.fixture(scope="module")
def chapters():
    return {path.stem: nbformat.read(path, as_version=4) for path in CHAPTERS}


@pytest.mark.parametrize("name", [path.stem for path in CHAPTERS])
def test_a_chapter_has_three_complete_exercises(chapters, name):
    assert not chapter_problems(chapters[name])


def test_there_are_chapters_and_no_label_twice(chapters):
    labels = [label for notebook in chapters.values() for label in split_exercises(notebook)]
    assert len(chapters) >= 9 and len(labels) == len(set(labels)) >= 27


def replaced(number, old, new):
    """A way to break an exercise: in its cell `number`, put `new` in the place of the pattern `old`."""
    def damage(cells):
        cells[number].source, times = re.subn(old, new, cells[number].source, flags=re.DOTALL)
        assert times, f"the notebook has no {old}"
    return damage


DAMAGE = {
    "label": replaced(0, r":label: .*?\n", ""),
    "hint": replaced(0, r"<details>.*</details>", ""),
    "an empty hint": replaced(0, r"</summary>.*</details>", "</summary>\n\nThink.\n\n</details>"),
    "exercise-end": replaced(0, "{exercise-end}", "{end}"),
    "checker": replaced(1, "def check_mirror", "def look_at_mirror"),
    "ask": replaced(1, r"ask\(mirror, ", "mirror("),
    "sentence": replaced(1, r', "mirrored twice.*?again"', ""),
    "stub": replaced(1, "# Yours:.*", ""),
    "fold": replaced(2, ":class: dropdown", ""),
    "other label": replaced(2, "ex-mirror", "ex-limbs"),
    "solution": replaced(3, r"def mirror\(", "def reflect("),
    "call": replaced(3, r"\ncheck_mirror\(mirror\)\n", "\n"),
    "wrong answers": replaced(3, r"assert refuses\(.*?\n.*", "assert refuses(check_mirror, no_swap, only_a_swap)"),
    "the same wrong answer": replaced(3, r"assert refuses\(.*", "assert refuses(check_mirror, *3 * [no_swap])"),
    "another checker": replaced(3, r"assert refuses\(check_mirror", "assert refuses(check_leaks"),
    "assert": replaced(3, r"assert refuses", "refuses"),
    "reasons": replaced(4, r".*```{sol", "Done.\n\n```{sol"),
    "solution-end": replaced(4, "{solution-end}", "{end}"),
    "hidden source": lambda cells: cells[3].metadata.pop("jupyter"),
    "order": lambda cells: cells.reverse(),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_missing_is_noticed(chapters, what):
    cells = copy.deepcopy(split_exercises(chapters["01-data"])["ex-mirror"])
    assert not exercise_problems(cells)
    DAMAGE[what](cells)
    assert exercise_problems(cells)


def test_a_lost_exercise_is_noticed(chapters):
    notebook = copy.deepcopy(chapters["01-data"])
    first = next(cell for cell in notebook.cells if "{exercise-start}" in cell.source)
    notebook.cells.remove(first)
    assert "has 2 exercises" in chapter_problems(notebook)[0]


def test_wrong_answers_in_a_loop_are_counted():
    tree = ast.parse("for wrong in (a, b, lambda x: 0):\n    assert refuses(check, wrong)\nassert refuses(other, c)")
    assert wrong_answers(tree, "check") == {"a", "b", "lambda x: 0"}


# --- ask, refuses


@pytest.mark.parametrize("answer", [[1, 2.5], (1, 2.5), np.array([1, 2.5], np.float32), torch.tensor([1, 2.5]),
                                    [torch.tensor(1.0, requires_grad=True), np.float32(2.5)]])
def test_equal_answers_of_any_kind_are_equal(answer):
    found = ask(lambda: answer, shape=(2,))
    assert found.dtype == np.float64 and found.tolist() == [1, 2.5]


@pytest.mark.parametrize("answer", [True, np.True_, torch.tensor(True), 1.0, np.float32(1)])
def test_one_number_may_be_of_any_kind(answer):
    assert ask(lambda: answer, shape=()) == 1


@pytest.mark.parametrize(("answer", "words"), [
    (None, "return"), ([1, 2, 3], "shape"), (1.0, "shape"), ([[1], [2, 3]], "should come back"),
    ("two", "should come back"), ({"a": 1}, "should come back"), (np.ones((2, 1)), "shape")])
def test_an_answer_of_another_shape_is_refused_in_words(answer, words):
    with pytest.raises(AssertionError, match=words):
        ask(lambda: answer, shape=(2,))


def test_without_a_shape_the_answer_comes_as_it_is():
    answer = object()
    assert ask(lambda: answer) is answer
    with pytest.raises(AssertionError, match="return"):
        ask(lambda: None)


def spoil_list(value):
    value[0][0] = 7
    return 1


def spoil_dictionary(value):
    value["a"] += 1
    return 1


def grow(value):
    value["b"] = 0
    return 1


@pytest.mark.parametrize(("function", "given"), [
    (spoil_list, np.zeros((2, 2))), (spoil_list, torch.zeros(2, 2)), (spoil_list, [[1, 2], [3]]),
    (spoil_list, (np.ones(2),)), (spoil_dictionary, {"a": torch.zeros(2)}), (grow, {"a": 1})])
def test_a_changed_argument_is_noticed_and_the_original_is_safe(function, given):
    before = repr(given)
    with pytest.raises(AssertionError, match="argument number 2"):
        ask(lambda first, second: function(second), np.array([np.nan, 1]), given)
    assert repr(given) == before


def test_what_is_only_read_is_not_blamed():
    rng = np.random.default_rng(0)
    values = np.array([1.0, np.nan])
    assert ask(lambda v, r, names, none: r.normal() and v[0], values, rng, ["a", "b"], None, shape=()) == 1
    assert rng.normal() != np.random.default_rng(0).normal()    # a generator is no copy: it goes on


def test_gradients_reach_the_original():
    x = torch.ones(3, requires_grad=True)
    ask(lambda v: (v**2).sum(), x).backward()
    assert x.grad.tolist() == [2, 2, 2]


def check_one(function):
    assert ask(function, shape=()) == 1, "it should be 1"


def test_refuses_names_what_is_accepted():
    assert refuses(check_one, lambda: 2, lambda: None, lambda: "no")
    assert not refuses(check_one)
    with pytest.raises(AssertionError, match=r"check_one accepts <lambda> \(line \d+\)"):
        refuses(check_one, lambda: 2, lambda: 1)


def test_a_refusal_without_a_word_is_an_error():
    def check_in_silence(function):
        if function() != 1:
            raise AssertionError
    with pytest.raises(AssertionError, match="does not say why"):
        refuses(check_in_silence, lambda: 2)


def test_an_answer_that_breaks_is_no_refusal():
    with pytest.raises(ZeroDivisionError):
        refuses(check_one, lambda: 1 / 0)


# --- The cell that fetches the package on Colab


def test_every_chapter_begins_with_the_colab_cell(chapters):
    for name, notebook in chapters.items():
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        assert first.source == clean_notebooks.COLAB_CELL, f"{name}: run tools/clean_notebooks.py"
        assert clean_notebooks.is_colab_cell(first) and first.execution_count is None and not first.outputs


def test_the_colab_cell_fetches_this_repository():
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert f'"posebook @ git+{config["repository"]["url"]}"' in clean_notebooks.COLAB_CELL


@pytest.mark.parametrize(("colab", "installed", "runs"),
                         [(False, True, 0), (False, False, 0), (True, True, 0), (True, False, 1)])
def test_the_colab_cell_acts_only_where_it_is_needed(monkeypatch, colab, installed, runs):
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: calls.append((arguments, options)))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    if colab:
        monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    else:
        monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    exec(clean_notebooks.COLAB_CELL, {})
    assert len(calls) == runs
    for (command,), options in calls:
        assert command[:4] == [sys.executable, "-m", "pip", "install"] and options == {"check": True}
        assert not {"--upgrade", "-U", "--force-reinstall"} & set(command)    # they would replace torch and numpy
