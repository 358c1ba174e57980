"""The network in the page: what a reader waits for, in headless Chromium on this machine.

Bytes that the page loads, and milliseconds a picture (crop, network, drawing) for pictures of 128 pixels and of 1024,
the largest: by the clock, and the page's own processor time, since on a busy machine the clock says more about the
others than about the page. Needs Chromium and the files of tools/build_live.py, which are built if they are not there.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from common import ROOT, NotHere, Row, in_turns, median, product

from posebook.interactive import live_network

sys.path[:0] = [str(ROOT / "tests" / "pages"), str(ROOT / "tools")]

import build_live  # noqa: E402
from built_book import chromium, served  # noqa: E402

ALLOWED, MEGABYTES = 100.0, 15.0
"""Milliseconds a picture, and bytes of everything that is loaded."""

MEASURE = """async ([runs, side]) => {
  const figure = document.querySelector('.posebook-live').posebook, times = [];
  if (side !== 128) {
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = side;
    canvas.getContext('2d').drawImage(figure.picture, 0, 0, side, side);
    figure.setPicture(canvas, [0, 0, side, side], 'large');
  }
  for (let k = 0; k < runs; k++) {
    figure.box[0] = k % 7;
    const began = performance.now();
    await figure.run();
    times.push(performance.now() - began);
  }
  return times;
}"""
LOADED = "performance.getEntries().reduce((sum, entry) => sum + (entry.encodedBodySize ?? 0), 0)"
DONE = "() => document.querySelector('.posebook-live').posebook.last?.about.dataset === '{}'"


@contextmanager
def opened(folder: Path):
    """The page with the network in it, in a browser, before its button is pressed; and the browser."""
    from playwright.sync_api import sync_playwright
    for name in ("book", "_static"):
        (folder / name).mkdir()
    (folder / "_static" / "live").symlink_to(build_live.OUT.parent)
    (folder / "book" / "page.html").write_text(f"<!doctype html><meta charset=utf-8>{live_network()}")
    with served(folder) as site, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"{site}/book/page.html")
        page.wait_for_selector(".posebook-live .examples button[aria-pressed=true]")
        yield page, browser
        browser.close()


def spent(session) -> float:
    """Processor time in seconds that all pages of the browser have used."""
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    return sum(process["cpuTime"] for process in processes if process["type"] == "renderer")


def measure(quick: bool = False) -> list[Row]:
    if not chromium():
        raise NotHere("no Chromium")
    build_live.build()
    runs, rows = 20 if quick else 60, []
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as (page, browser):
        page.click(".start")
        page.wait_for_function(DONE.format("people"))
        session = browser.new_browser_cdp_session()
        for side in (128, 1024):
            page.evaluate(MEASURE, [20, side])                         # compiled by now
            began, unit = spent(session), median(in_turns({"unit": product()}, 5)["unit"])
            clock = float(np.median(page.evaluate(MEASURE, [runs, side]))) / 1000
            worked = (spent(session) - began) / runs
            rows += [Row(f"network in the page, picture of {side} px: of the {ALLOWED:.0f} ms allowed",
                         clock * 1000 / ALLOWED, 1, seconds=clock),
                     Row(f"network in the page, picture of {side} px, processor time: in matrix products (512)",
                         worked / unit, seconds=worked)]
        page.check("text=photographs")
        page.wait_for_function(DONE.format("lspet"))
        rows.append(Row(f"network in the page, bytes with both networks: of the {MEGABYTES:.0f} MB allowed",
                        page.evaluate(LOADED) / MEGABYTES / 1e6, 1))
    return rows
