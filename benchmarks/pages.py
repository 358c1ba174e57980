"""What a page of the built book costs its reader: time to the first words and to the whole page, bytes, requests, and
how much it jumps while it loads. The book is served from this machine, so times hold no network; the browser starts
every page with an empty cache.

    make book
    python benchmarks/pages.py [--tries 3] [--write]
"""

from __future__ import annotations

import argparse
import gzip
import sys
from pathlib import Path
from statistics import median
from urllib.parse import unquote, urlsplit

from posebook import results

ROOT = Path(__file__).parents[1]
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


def measure(browser, address: str) -> dict:
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


def main() -> None:
    from playwright.sync_api import sync_playwright
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=3, help="visits of a page; times are their medians")
    parser.add_argument("--write", action="store_true", help="store the numbers in benchmarks/pages.json")
    options = parser.parse_args()
    pages = {}
    with served() as site, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        for name in DOCUMENTS:
            tries = [measure(browser, f"{site}/{name}.html")
                     for _ in range(options.tries)]
            middle = {key: round(median(t[key] for t in tries), 4)
                      for key in ("first_paint_ms", "complete_ms", "layout_shift")}
            pages[name] = {**tries[-1], **middle}
        version = browser.version
        browser.close()
    print(results.table(
        ["page", "first words (ms)", "whole (ms)", "jumps", "requests", "MB", "MB compressed", "read to the end"],
        [[name, p["first_paint_ms"], p["complete_ms"], p["layout_shift"], p["requests"], p["bytes"] / 1e6,
          p["bytes_compressed"] / 1e6, p["read_to_the_end"]["bytes_compressed"] / 1e6] for name, p in pages.items()]))
    if options.write:
        results.write_record(Path(__file__).with_suffix(".json"), {
            "chromium": version, "tries": options.tries, "pages": pages, "environment": results.environment()})


if __name__ == "__main__":
    main()
