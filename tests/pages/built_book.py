"""What the tests of the pages and `benchmarks/pages.py` share: the built book, a server for it, a way to read it."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import yaml
from check_book import documents

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",  # WebGL
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",        # what no page asks for shall not leave either
]
DOCUMENTS = documents(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
COMPRESSED = (".html", ".js", ".mjs", ".css", ".json", ".svg")        # what a web host sends compressed
READ = """async () => {
  const pause = time => new Promise(done => setTimeout(done, time));
  for (let y = 0; y < document.scrollingElement.scrollHeight; y += innerHeight * 0.8) {
    scrollTo(0, y);
    await pause(30);
  }
  if (window.MathJax?.startup) await MathJax.startup.promise;
  const loaded = () => performance.getEntriesByType("resource").length;
  const whole = () => [...document.images].every(image => image.complete);
  for (let before = -1, tries = 0; (before !== loaded() || !whole()) && tries < 100; tries++) {
    before = loaded();
    await pause(500);
  }
}"""
LOADED = """() => ["navigation", "resource"].flatMap(kind => performance.getEntriesByType(kind)).map(e => e.name)"""


def chromium() -> str | None:
    """The browser of this machine."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def sources() -> list[str]:
    """The pages that are notebooks."""
    return [name for name in DOCUMENTS if (ROOT / f"{name}.ipynb").is_file()]


def short(name: str) -> str:
    return name.rpartition("/")[2]


def notebook(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / f"{name}.ipynb", as_version=4)


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


@contextmanager
def served(folder: Path = HTML) -> Iterator[str]:
    """The address of a server of a folder, the built book, without a slash at the end."""
    server = _Server(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


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


def load(page, site: str, name: str) -> None:
    """Open a page and read it to the end."""
    page.goto(f"{site}/{name}.html")
    page.evaluate(READ)
