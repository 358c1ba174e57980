"""The built book in Chromium: a server of our own, one browser, and for every test a fresh page that is cut off from
all other hosts. Build the book first (`make book`); without it, or without Chromium, these tests are skipped, unless
POSEBOOK_REQUIRE_PAGES says that they must run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from built_book import ARGUMENTS, HTML, ROOT, chromium, served, watch


def _give_up(reason: str) -> None:
    """Skip, or fail where the tests of the pages are required."""
    (pytest.fail if os.environ.get("POSEBOOK_REQUIRE_PAGES") else pytest.skip)(reason)


def _newer_source() -> Path | None:
    """A file that the built book is older than."""
    built = (HTML / "searchindex.js").stat().st_mtime
    sources = [ROOT / "_config.yml", ROOT / "_toc.yml", *(ROOT / "assets").rglob("*"),
               *(ROOT / "book").glob("*.md"), *(ROOT / "book").glob("*.ipynb")]
    return next((path for path in sources if path.is_file() and path.stat().st_mtime > built), None)


# The scope is this folder: the browser's event loop must be gone before the notebooks are run in the same process.
@pytest.fixture(scope="package")
def site() -> Iterator[str]:
    """The address of a server of the built book, without a slash at the end."""
    if not (HTML / "searchindex.js").is_file():
        _give_up(f"{HTML} is not built: run `make book`")
    if newer := _newer_source():
        _give_up(f"the built book is older than {newer.relative_to(ROOT)}: run `make book`")
    with served() as address:
        yield address


@pytest.fixture(scope="package")
def browser(site: str) -> Iterator:
    """One Chromium for all tests."""
    if (path := chromium()) is None:
        _give_up("there is no chromium, chromium-browser or google-chrome here")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _give_up("playwright is not installed: see requirements.txt")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, site: str) -> Iterator:
    """A fresh page, 1280 x 900. `page.strangers`: addresses on other hosts that it asked for, in vain; `page.problems`:
    its errors, those of scripts and those that it wrote to the console."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    watch(page, site)
    yield page
    context.close()
