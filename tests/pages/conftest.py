"""The built book in Chromium: a server of our own, one browser, and for every test a fresh page that is cut off from
all other hosts. Build the book first (`make book`); without it, or without Chromium, these tests are skipped, unless
POSEBOOK_REQUIRE_PAGES says that they must run.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",  # WebGL
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",        # what no page asks for shall not leave either
]


def _give_up(reason: str) -> None:
    """Skip, or fail where the tests of the pages are required."""
    (pytest.fail if os.environ.get("POSEBOOK_REQUIRE_PAGES") else pytest.skip)(reason)


def _newer_source() -> Path | None:
    """A file that the built book is older than."""
    built = (HTML / "searchindex.js").stat().st_mtime
    sources = [ROOT / "_config.yml", ROOT / "_toc.yml", *(ROOT / "assets").rglob("*"),
               *(ROOT / "book").glob("*.md"), *(ROOT / "book").glob("*.ipynb")]
    return next((path for path in sources if path.is_file() and path.stat().st_mtime > built), None)


class _Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line of log for each."""

    protocol_version = "HTTP/1.1"                           # connections stay open: a page loads some forty files
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A page that is closed while it loads breaks its connections; that is no news."""


# The scope is this folder: the browser's event loop must be gone before the notebooks are run in the same process.
@pytest.fixture(scope="package")
def site() -> Iterator[str]:
    """The address of a server of the built book, without a slash at the end."""
    if not (HTML / "searchindex.js").is_file():
        _give_up(f"{HTML} is not built: run `make book`")
    if newer := _newer_source():
        _give_up(f"the built book is older than {newer.relative_to(ROOT)}: run `make book`")
    server = _Server(("127.0.0.1", 0), partial(_Quiet, directory=str(HTML)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="package")
def browser(site: str) -> Iterator:
    """One Chromium for all tests."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        _give_up("there is no chromium, chromium-browser or google-chrome here")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _give_up("playwright is not installed: see requirements.txt")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
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


def watch(page, site: str) -> None:
    """Cut a page off from all hosts but `site`, and note what goes wrong on it."""
    page.set_default_timeout(120_000)                       # a busy machine may take its time
    page.strangers, page.problems = [], []
    strange = re.compile(rf"^(https?|wss?)://(?!{re.escape(site.partition('//')[2])}/)")

    def refuse(route) -> None:
        page.strangers.append(route.request.url)
        route.abort()

    page.route(strange, refuse)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.problems.append(
        f"{message.text} ({message.location.get('url', '')})"))
