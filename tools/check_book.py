"""Check the built book: is every chapter there, and does it show its figures?

    python tools/check_book.py [--root FOLDER] [--html FOLDER]

A builder that finds nothing to build, or drops a figure, can still end without an error. So this reads _toc.yml and
the notebooks, then the pages, and asks: does each chapter have a page, is each picture that the notebook holds shown
on it (compared by content), is each file there that the page loads, does every link within the book arrive (at its
anchor too), does the page work without the internet, does a chapter have the button that opens this very notebook on
Colab, and is it free of tracebacks and of paths of the machine that built it? One
line for each thing that is wrong; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import yaml
from clean_notebooks import ROOT, machine_path

# Of the formats of one output the builder shows the first that it finds in this order.
SHOWN_BEFORE_IMAGES = ("application/vnd.jupyter.widget-view+json", "application/javascript", "text/html")
IMAGES = ("image/svg+xml", "image/png", "image/jpeg", "image/gif")
HIDING_TAGS = {"remove-output", "remove_output", "remove-cell", "remove_cell"}


class Page(HTMLParser):
    """What the check needs of a page: pictures, other files it loads, links and what they can aim at, its visible text,
    where it forwards to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.forward: str | None = None
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note every address that the tag makes a browser load."""
        values = {name: value or "" for name, value in attrs}
        if name := values.get("id") or (tag == "a" and values.get("name")):
            self.anchors.add(name)
        if tag == "img":
            self.images.append(values.get("src", ""))
        elif tag == "script" and "src" in values:
            self.loaded.append(values["src"])
        elif tag == "link" and {"stylesheet", "preload", "icon"} & set(values.get("rel", "").split()):
            self.loaded.append(values.get("href", ""))
        elif tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "meta" and values.get("http-equiv", "").lower() == "refresh":
            self.forward = values.get("content", "").partition("url=")[2]

    def handle_data(self, data: str) -> None:
        """Collect text, the content of scripts included."""
        self.text += data


def documents(toc: dict) -> list[str]:
    """The files that a table of contents names, from the root down, without extension."""
    found = [toc[key] for key in ("root", "file") if key in toc]
    for key in ("parts", "chapters", "sections"):
        for entry in toc.get(key, []):
            found += documents(entry)
    return found


def shown_images(notebook: nbformat.NotebookNode) -> list[tuple[int, bytes]]:
    """(cell number, content) of every picture among the outputs that the builder has to show."""
    found = []
    for number, cell in enumerate(notebook.cells):
        if HIDING_TAGS & set(cell.metadata.get("tags", [])):
            continue
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            kind = next((kind for kind in (*SHOWN_BEFORE_IMAGES, *IMAGES) if kind in data), None)
            if kind == "image/svg+xml":
                found.append((number, "\n".join(data[kind].splitlines()).encode()))
            elif kind in IMAGES:
                found.append((number, b64decode(data[kind])))
    return found


def _local(page: Path, address: str) -> Path | None:
    """The file that an address on `page` stands for; None if it is elsewhere or written into the page (data:)."""
    parts = urlsplit(address)
    return None if parts.scheme or parts.netloc else page.parent / unquote(parts.path)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(path: Path, pages: dict[Path, Page]) -> Page:
    """The page at `path`, read once: `pages` remembers it."""
    path = path.resolve()
    if path not in pages:
        pages[path] = Page(path.read_text(encoding="utf-8"))
    return pages[path]


def broken_links(path: Path, pages: dict[Path, Page]) -> list[str]:
    """Links on the page at `path` to a file, or to a place in a page, that the built book does not have."""
    found = []
    for address in _read(path, pages).links:
        parts = urlsplit(address)
        if (file := _local(path, address)) is None:
            continue
        file = file if parts.path else path
        file = file / "index.html" if file.is_dir() else file
        if not file.is_file():
            found.append(f"links to a file that is not there: {address}")
        elif parts.fragment and file.suffix == ".html" and unquote(parts.fragment) not in _read(file, pages).anchors:
            found.append(f"links to a place that is not there: {address}")
    return found


def check_page(path: Path, notebook: nbformat.NotebookNode | None, pages: dict[Path, Page]) -> list[str]:
    """What is wrong with one page, in words."""
    page = _read(path, pages)
    found, digests = broken_links(path, pages), set()
    for address in page.images + page.loaded:
        file = _local(path, address)
        if urlsplit(address).netloc:
            found.append(f"cannot be read offline, it loads {address}")
        elif file is not None and not file.is_file():
            found.append(f"loads a file that is not there: {address}")
        elif file is not None and address in page.images:
            digests.add(_digest(file.read_bytes()))
    for number, content in shown_images(notebook) if notebook else []:
        if _digest(content) not in digests:
            found.append(f"does not show the figure of the notebook's cell {number}")
    if "Traceback (most recent call last)" in page.text:
        found.append("shows a traceback")
    for text in (page.text, *page.images, *page.loaded, *page.links):
        if where := machine_path(text):
            found.append(f"names a path of a machine: {where}")
    return list(dict.fromkeys(found))


def colab_address(root: Path, name: str) -> str | None:
    """Where the Colab button of a notebook should lead, by _config.yml; None if the book has no such button."""
    path = root / "_config.yml"
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    colab = config.get("launch_buttons", {}).get("colab_url")
    if not colab:
        return None
    repository = config["repository"]
    where = urlsplit(repository["url"]).path.strip("/")
    return f"{colab}/github/{where}/blob/{repository.get('branch', 'master')}/{name}.ipynb"


def check_book(root: Path, html: Path) -> list[str]:
    """Check every page that `root`/_toc.yml promises in the folder `html`; return what is wrong, in words."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    found, pages = [], {}
    landing = html / "index.html"
    if not landing.is_file():
        found.append(f"{landing} is not there: nothing was built")
    elif (target := Page(landing.read_text(encoding="utf-8")).forward) and not (html / target).is_file():
        found.append(f"{landing} forwards to {target}, which is not there")
    for name in documents(toc):
        source, page = root / f"{name}.ipynb", html / f"{name}.html"
        if not page.is_file():
            found.append(f"{page} is not there, although _toc.yml names {name}")
            continue
        notebook = nbformat.read(source, as_version=4) if source.is_file() else None
        found += [f"{page} {line}" for line in check_page(page, notebook, pages)]
        address = colab_address(root, name) if notebook else None
        if address and address not in _read(page, pages).links:
            found.append(f"{page} has no button that leads to {address}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Check and report; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder with _toc.yml")
    parser.add_argument("--html", type=Path, help="the built pages; default: _build/html in the root")
    options = parser.parse_args(arguments)
    html = options.html or options.root / "_build" / "html"
    found = check_book(options.root, html)
    for line in found:
        print(line, file=sys.stderr)
    print(f"{html}: {len(found)} things wrong" if found else f"{html / 'index.html'}: every page and figure is there")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
