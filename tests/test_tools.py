"""The tools refuse what they are there to refuse, and accept the rest."""

import base64

import check_book
import clean_notebooks
import nbformat
import page_fixes
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n not much of a picture").decode()
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0"/></svg>\n'


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def figure(data=None):
    return new_output("display_data", data=data or {"image/png": PNG + "\n", "text/plain": "<Figure size 640x480>"})


@pytest.fixture
def notebook():
    """A clean notebook: a heading, a cell that prints, a cell that shows a figure."""
    made = new_notebook(
        cells=[
            new_markdown_cell("# Title", id="title"),
            new_code_cell("print(1)", id="print", execution_count=1, outputs=[stream("1\n")]),
            new_code_cell("", id="empty"),
            new_code_cell("plot()", id="plot", execution_count=2, outputs=[figure()]),
        ]
    )
    clean_notebooks.clean(made)
    return made


def write(notebook, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


# --- clean_notebooks


def test_a_clean_notebook_passes_and_is_left_alone(notebook, tmp_path):
    path = write(notebook, tmp_path / "a.ipynb")
    before = path.read_bytes()
    assert clean_notebooks.main(["--check", str(path)]) == 0
    assert clean_notebooks.main([str(path)]) == 0
    assert path.read_bytes() == before


def test_cleaning_removes_what_differs_between_runs(notebook, tmp_path, capsys):
    expected = write(notebook, tmp_path / "expected.ipynb").read_bytes()
    notebook.metadata["papermill"] = {"start_time": "2026-01-01"}
    notebook.metadata["language_info"] = {"name": "python", "version": "3.11.7"}
    notebook.metadata["kernelspec"]["display_name"] = "my environment"
    notebook.cells[1].metadata["execution"] = {"iopub.execute_input": "2026-01-01"}
    notebook.cells[1].outputs = [stream("1"), stream("\n")]
    path = write(notebook, tmp_path / "a.ipynb")

    assert clean_notebooks.main(["--check", str(path)]) == 1
    assert "is not clean" in capsys.readouterr().err
    assert path.read_bytes() != expected, "--check must not write"

    assert clean_notebooks.main([str(path)]) == 0
    assert path.read_bytes() == expected
    assert list(tmp_path.glob("*.part")) == []


def test_missing_cell_ids_are_the_same_for_everyone(notebook):
    ids = []
    for _ in range(2):
        copy = nbformat.from_dict(notebook)
        for cell in copy.cells:
            cell.pop("id", None)
        clean_notebooks.clean(copy)
        ids.append([cell.id for cell in copy.cells])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == len(ids[0])


def fail(cells):
    cells[3].outputs = [new_output("error", ename="ValueError", evalue="no such joint", traceback=["..."])]


def warn(cells):
    cells[1].outputs.append(stream("UserWarning: beware", name="stderr"))


def lose_outputs(cells):
    for cell in cells[1:]:
        cell.outputs = []


def run_out_of_order(cells):
    cells[1].execution_count, cells[3].execution_count = 2, 1


def run_twice(cells):
    cells[3].execution_count = 3


def not_run(cells):
    cells[3].execution_count = None


def source_path(cells):
    cells[1].source = "open('/home/jo/data.npz')"


def markdown_path(cells):
    cells[0].source = r"See C:\Users\jo\book"


def printed_path(cells):
    cells[1].outputs = [stream("saved to /tmp/x.png\n")]


def html_path(cells):
    cells[3].outputs = [figure({"text/html": '<a href="file:///mnt/a">a</a>'})]


def traceback_path(cells):
    fail(cells)
    cells[3].outputs[0].traceback = ['File "/opt/venv/lib/x.py", line 1']


def address(cells):
    cells[1].outputs = [stream("<posebook.Net object at 0x7f2ab80c1d50>\n")]


def grow(cells):
    cells[3].outputs = [figure({"image/png": "A" * 1_600_000})]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (fail, "ended in an error: ValueError: no such joint"),
        (warn, "wrote to stderr: UserWarning"),
        (lose_outputs, "has no outputs"),
        (run_out_of_order, "execution counts [2, 1]"),
        (run_twice, "execution counts [1, 3]"),
        (not_run, "execution counts [1, None]"),
        (source_path, "names a path of a machine: /home/jo"),
        (markdown_path, "names a path of a machine: C:\\Users\\jo"),
        (printed_path, "shows a path of a machine: /tmp/x.png"),
        (html_path, "shows a path of a machine: file:///mnt"),
        (traceback_path, "shows a path of a machine: /opt/venv"),
        (address, "shows a memory address"),
        (grow, "the limit is 1.5 MB"),
    ],
)
@pytest.mark.parametrize("mode", [["--check"], []], ids=["check", "clean"])
def test_what_must_not_be_committed_is_refused(notebook, tmp_path, capsys, spoil, message, mode):
    spoil(notebook.cells)
    path = write(notebook, tmp_path / "bad.ipynb")
    assert clean_notebooks.main([*mode, str(path)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "bad.ipynb" in error


def test_one_bad_notebook_among_good_ones_is_enough(notebook, tmp_path):
    good = write(notebook, tmp_path / "good.ipynb")
    warn(notebook.cells)
    bad = write(notebook, tmp_path / "bad.ipynb")
    assert clean_notebooks.main(["--check", str(good), str(bad)]) == 1


def test_a_broken_file_is_named_not_rewritten(tmp_path, capsys):
    path = tmp_path / "broken.ipynb"
    path.write_text('{"cells": [')
    assert clean_notebooks.main([str(path)]) == 1
    assert "broken.ipynb: is not a valid notebook" in capsys.readouterr().err
    assert path.read_text() == '{"cells": ['


def test_no_notebook_at_all_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(clean_notebooks, "ROOT", tmp_path)
    assert clean_notebooks.main(["--check"]) == 1
    assert "there is no notebook" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["https://example.org/home/jo", "data/tmp/x", "~/mnt/x", "../opt/x", "1/mnt/2", "/content/x", "a / tmp", "C:/x"],
)
def test_urls_and_relative_paths_are_no_machine_paths(text):
    assert clean_notebooks.machine_path(text) is None


def test_a_chapter_gets_the_colab_cell_and_keeps_its_numbers(notebook):
    plain = [cell.source for cell in notebook.cells]
    clean_notebooks.clean(notebook)
    assert [cell.source for cell in notebook.cells] == plain       # no parameters, no chapter
    notebook.cells[1].metadata["tags"] = ["parameters"]
    clean_notebooks.clean(notebook)
    assert [cell.source for cell in notebook.cells] == [plain[0], clean_notebooks.COLAB_CELL, *plain[1:]]
    assert not clean_notebooks.problems(notebook)
    again = nbformat.from_dict(notebook)
    clean_notebooks.clean(again)
    assert again == notebook


def test_an_old_colab_cell_in_another_place_that_was_run_is_mended(notebook):
    notebook.cells[1].metadata["tags"] = ["parameters"]
    clean_notebooks.clean(notebook)
    expected = nbformat.from_dict(notebook)
    notebook.cells.append(notebook.cells.pop(1))
    notebook.cells[-1].update(source="%pip install posebook", outputs=[stream("Collecting\n")], execution_count=1)
    for cell in notebook.cells[1:-1]:
        if cell.execution_count:
            cell.execution_count += 1
    clean_notebooks.clean(notebook)
    assert notebook == expected


# --- check_book


def page(*body, head=""):
    return f"<!DOCTYPE html><html><head>{head}</head><body>{''.join(body)}</body></html>"


@pytest.fixture
def book(notebook, tmp_path):
    """A root with a table of contents, one notebook with two figures, one Markdown page, and their built pages."""
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\n"
        "parts:\n  - chapters:\n      - file: book/01-a\n        sections:\n          - file: book/extra\n"
    )
    notebook.cells[3].outputs.append(figure({"image/svg+xml": SVG, "image/png": PNG}))
    write(notebook, tmp_path / "book" / "01-a.ipynb")
    html = tmp_path / "_build" / "html"
    (html / "book").mkdir(parents=True)
    (html / "_images").mkdir()
    (html / "_images" / "a.png").write_bytes(base64.b64decode(PNG))
    (html / "_images" / "b.svg").write_bytes(SVG.rstrip("\n").encode())
    (html / "style.css").write_text("")
    (html / "index.html").write_text('<meta http-equiv="Refresh" content="0; url=book/index.html" />')
    (html / "book" / "index.html").write_text(page("<p>Welcome</p>"))
    (html / "book" / "extra.html").write_text(page('<a href="https://example.org/home/jo">a link</a>'))
    (html / "book" / "01-a.html").write_text(
        page(
            '<img src="../_images/a.png" />',
            '<img src="../_images/b.svg?v=1" />',
            head='<link rel="stylesheet" href="../style.css" />',
        )
    )
    return tmp_path


def check(book, capsys):
    status = check_book.main(["--root", str(book)])
    return status, capsys.readouterr().err


def replace(book, name, old, new):
    path = book / "_build" / "html" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_whole_book_passes(book, capsys):
    assert check(book, capsys) == (0, "")


@pytest.mark.parametrize("name", ["index.html", "book/index.html", "book/01-a.html", "book/extra.html"])
def test_a_missing_page_is_found(book, capsys, name):
    (book / "_build" / "html" / name).unlink()
    status, error = check(book, capsys)
    assert status == 1
    assert name in error


def test_an_unbuilt_book_is_found(book, capsys):
    status, error = check_book.main(["--root", str(book), "--html", str(book / "nowhere")]), capsys.readouterr().err
    assert status == 1
    assert "nothing was built" in error


@pytest.mark.parametrize("name", ["a.png", "b.svg"])
def test_a_missing_picture_is_found(book, capsys, name):
    (book / "_build" / "html" / "_images" / name).unlink()
    status, error = check(book, capsys)
    assert status == 1
    assert f"loads a file that is not there: ../_images/{name}" in error
    assert "does not show the figure of the notebook's cell 3" in error


@pytest.mark.parametrize("tag", ['<img src="../_images/a.png" />', '<img src="../_images/b.svg?v=1" />'])
def test_a_figure_that_the_page_does_not_show_is_found(book, capsys, tag):
    replace(book, "book/01-a.html", tag, "")
    status, error = check(book, capsys)
    assert status == 1
    assert "does not show the figure of the notebook's cell 3" in error


def test_a_picture_of_an_older_run_is_found(book, capsys):
    (book / "_build" / "html" / "_images" / "a.png").write_bytes(b"older")
    status, error = check(book, capsys)
    assert status == 1
    assert "does not show the figure" in error


@pytest.mark.parametrize("link", [
    "#here", "extra.html?v=1#here", "01-a.html", "../_images/a.png", "..", "#%68ere", "#", "https://example.org/x#y",
    "mailto:jo@example.org", "../index.html"])
def test_links_that_arrive_pass(book, capsys, link):
    replace(book, "book/extra.html", "</body>", f'<h2 id="here">Here</h2><a href="{link}">a link</a></body>')
    assert check(book, capsys) == (0, "")


def test_a_removed_output_need_not_be_shown(book, capsys):
    replace(book, "book/01-a.html", '<img src="../_images/a.png" />', "")
    path = book / "book" / "01-a.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[3].metadata["tags"] = ["remove-output"]
    nbformat.write(notebook, path)
    assert check(book, capsys) == (0, "")


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("<pre>Traceback (most recent call last):</pre>", "shows a traceback"),
        ("<p>saved in /home/jo/book</p>", "names a path of a machine: /home/jo"),
        ('<a href="file:///opt/x">x</a>', "names a path of a machine: file:///opt/x"),
        ('<script src="https://cdn.example.org/x.js"></script>', "cannot be read offline"),
        ('<link rel="stylesheet" href="//cdn.example.org/x.css">', "cannot be read offline"),
        ('<img src="https://example.org/badge.svg">', "cannot be read offline"),
        ('<script src="../missing.js"></script>', "loads a file that is not there: ../missing.js"),
        ('<a href="02-b.html">next</a>', "links to a file that is not there: 02-b.html"),
        ('<a href="index.html#nowhere">up</a>', "links to a place that is not there: index.html#nowhere"),
        ('<a href="#nowhere">down</a>', "links to a place that is not there: #nowhere"),
    ],
)
def test_what_no_page_may_hold_is_found(book, capsys, added, message):
    replace(book, "book/extra.html", "</body>", added + "</body>")
    status, error = check(book, capsys)
    assert status == 1
    assert "extra.html" in error
    assert message in error


def test_a_chapter_without_its_colab_button_is_reported(book, capsys):
    (book / "_config.yml").write_text(
        "repository: {url: https://github.com/a/b, branch: main}\nlaunch_buttons: {colab_url: https://colab.example}\n"
    )
    status, error = check(book, capsys)
    address = "https://colab.example/github/a/b/blob/main/book/01-a.ipynb"
    assert status == 1 and address in error and "extra" not in error and "index" not in error
    chapter = book / "_build" / "html" / "book" / "01-a.html"
    chapter.write_text(chapter.read_text().replace("<body>", f'<body><a href="{address}">Colab</a>'))
    assert check(book, capsys)[0] == 0
    chapter.write_text(chapter.read_text().replace("01-a.ipynb", "02-b.ipynb"))
    assert check(book, capsys)[0] == 1


# --- page_fixes


def test_pictures_say_how_large_they_are(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a b.png")
    pictures = {"a b.png": tmp_path / "a b.png"}
    tag = '<img alt="a" src="../_images/a%20b.png" />'
    assert page_fixes.with_sizes(f"<p>{tag}</p>{tag}", pictures).count('<img width="30" height="20" alt="a" src=') == 2
    for left in ('<img width="9" src="_images/a%20b.png">', '<img src="_images/b.png">', '<img src="data:image/png,a">',
                 '<img src="https://example.org/a%20b.png">', "<p>src=\"a%20b.png\"</p>"):
        assert page_fixes.with_sizes(left, pictures) == left


def test_the_bibliography_becomes_a_list():
    item = '<div role="list"><div class="citation" role="doc-biblioentry">Li</div></div>'
    assert page_fixes.with_list_items(item) == '<div role="list"><div class="citation" role="listitem">Li</div></div>'


def test_what_a_gpu_needs_is_counted_as_by_hand():
    """Paper A's network: every convolution and product thrice, forward and for both gradients; but nobody asks for the
    picture's. Kept are the pictures, what comes out of every ReLU and pooling, and the places of the maxima (int64)."""
    import gpu_needs
    first = 104**2 * 16 * 3 * 81
    rest = (48**2 + 20**2) * 16 * 16 * 25 + 1600 * 1024 + 1024 * 2048 + 2048 * 28
    found = gpu_needs.count("paper-a")
    assert found["operations"] == 2 * (2 * first + 3 * rest)
    floats = 3 * 112**2 + 16 * (104**2 + 52**2 + 48**2 + 24**2 + 20**2 + 10**2) + 1024 + 2048
    assert found["kept"] == 4 * floats + 8 * 16 * (52**2 + 24**2 + 10**2)
    assert found["fixed"] == 16 * found["parameters"] == 16 * (first // 104**2 + 2 * 16 * 16 * 25 + 3 * 16 + 1600 * 1024
                                                                + 1024 * 2048 + 2048 * 28 + 1024 + 2048 + 28)
