"""What a page of the built book costs its reader: time to the first words and to the whole page, bytes, requests, and
how much it jumps while it loads. The book is served from this machine, so times hold no network; the browser starts
every page with an empty cache.

Needs the book (`make book`) and Chromium. Of the bytes that are not compressed about 1.1 MB belong to the theme and
0.85 MB to the formulas; they are the same files on all pages, fetched once.
"""

from __future__ import annotations

import gzip
import sys
from urllib.parse import unquote, urlsplit

from common import ROOT, NotHere, Row, in_turns, median, product

sys.path[:0] = [str(ROOT / "tests" / "pages"), str(ROOT / "tools")]

from built_book import ARGUMENTS, COMPRESSED, DOCUMENTS, HTML, LOADED, READ, chromium, served  # noqa: E402

WATCH = """window.jumps = 0;
new PerformanceObserver(list => list.getEntries().forEach(e => { if (!e.hadRecentInput) jumps += e.value; }))
  .observe({type: "layout-shift", buffered: true});"""
TIMES = """() => ({
  first_paint_ms: performance.getEntriesByName("first-contentful-paint")[0].startTime,
  complete_ms: performance.getEntriesByType("navigation")[0].domComplete,
  layout_shift: jumps})"""


def weight(page) -> dict[str, int]:
    """Requests so far, and the bytes of their files: as they are, and with text compressed as a web host sends it."""
    paths = [HTML / unquote(urlsplit(address).path).lstrip("/") for address in page.evaluate(LOADED)]
    contents = [(path.suffix, path.read_bytes()) for path in dict.fromkeys(paths) if path.is_file()]
    return {"requests": len(paths), "bytes": sum(len(content) for _, content in contents),
            "bytes_compressed": sum(len(gzip.compress(content, 6)) if suffix in COMPRESSED else len(content)
                                    for suffix, content in contents)}


def visit(browser, address: str) -> dict:
    """One visit: times and weight of opening the page, and the weight once it has been read to its end."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.add_init_script(WATCH)
    page.goto(address)
    page.wait_for_timeout(500)
    opened = {**page.evaluate(TIMES), **weight(page)}
    page.evaluate(READ)
    found = {**opened, "read_to_the_end": weight(page)}
    context.close()
    return found


def measure(quick: bool = False) -> list[Row]:
    from playwright.sync_api import sync_playwright
    if not chromium():
        raise NotHere("no Chromium")
    if not (HTML / "index.html").is_file():
        raise NotHere("the book is not built: make book")
    with served() as site, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        unit = median(in_turns({"unit": product()}, 5)["unit"])
        pages = {name: visit(browser, f"{site}/{name}.html") for name in (DOCUMENTS[:1] if quick else DOCUMENTS)}
        browser.close()

    def worst(of) -> tuple[float, str]:
        return max((of(page), name.rpartition("/")[2]) for name, page in pages.items())
    heavy, _ = worst(lambda page: page["read_to_the_end"]["bytes_compressed"])
    slow, _ = worst(lambda page: page["complete_ms"] / 1000)
    first, _ = worst(lambda page: page["first_paint_ms"] / 1000)
    jump, _ = worst(lambda page: page["layout_shift"])
    return [Row("heaviest page read to its end, compressed: of the 2 MB allowed", heavy / 2e6, 1),
            Row("page that is slowest to show its first words: in matrix products (512)", first / unit, seconds=first),
            Row("page that is slowest to be whole: in matrix products (512)", slow / unit, seconds=slow),
            Row("page that jumps most while it loads: of the layout shift of 0.1 that counts as good", jump / 0.1, 1)]
