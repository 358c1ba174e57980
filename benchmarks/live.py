"""The network in the page: what a reader waits for, in headless Chromium on this machine.

    python benchmarks/live.py [--runs 300] [--write]

Bytes that the page loads, seconds from the click to the first joints, and milliseconds a picture: crop, network,
and all of it with the drawing, for pictures of 128 pixels and of 1024, the largest. On a busy machine the clock says
more about the others than about the page, so the page's processor time is given too. Needs Chromium and the files of
tools/build_live.py.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from posebook import results
from posebook.interactive import live_network

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

MEASURE = """async ([runs, side]) => {
  const figure = document.querySelector('.posebook-live').posebook, found = {crop: [], network: [], all: []};
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
    found.all.push(performance.now() - began);
    found.crop.push(figure.last.cropped);
    found.network.push(figure.last.milliseconds);
  }
  return found;
}"""


class Quiet(SimpleHTTPRequestHandler):
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--write", action="store_true", help="store the numbers in benchmarks/live.json")
    options = parser.parse_args()
    import build_live
    build_live.build()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("book", "_static"):
            (Path(folder) / name).mkdir()
        (Path(folder) / "_static" / "live").symlink_to(build_live.OUT.parent)
        (Path(folder) / "book" / "page.html").write_text(f"<!doctype html><meta charset=utf-8>{live_network()}")
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        record = measure(f"http://127.0.0.1:{server.server_port}/book/page.html", options.runs)
        server.shutdown()
    print(results.table(["milliseconds a picture", "median", "95 of 100 below"],
                        [[f"{part}, {side} px", value["median"], value["95"]]
                         for side, parts in record["milliseconds"].items() for part, value in parts.items()]))
    print("\nprocessor time a picture: " + ", ".join(
        f"{side} px {value:.1f} ms" for side, value in record["processor_milliseconds"].items())
        + f" (load of the machine: {record['load']:.0f})")
    print(f"\nfirst joints {record['first_seconds']:.1f} s after the click; loaded "
          f"{record['bytes']['one network'] / 1e6:.1f} MB, with both networks {record['bytes']['both'] / 1e6:.1f} MB")
    if options.write:
        results.write_record(Path(__file__).with_suffix(".json"), record)


def spent(session) -> float:
    """Processor time in seconds that all pages of the browser have used."""
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    return sum(process["cpuTime"] for process in processes if process["type"] == "renderer")


def measure(address: str, runs: int) -> dict:
    """Open the page, press its button, and time it."""
    from playwright.sync_api import sync_playwright
    loaded = "performance.getEntries().reduce((sum, entry) => sum + (entry.encodedBodySize ?? 0), 0)"
    done = "() => document.querySelector('.posebook-live').posebook.last?.about.dataset === '{}'"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"),
                                             args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(address)
        page.wait_for_selector(".posebook-live .examples button[aria-pressed=true]")
        began = time.perf_counter()
        page.click(".start")
        page.wait_for_function(done.format("people"))
        first, one = time.perf_counter() - began, page.evaluate(loaded)
        times, processor, session = {}, {}, browser.new_browser_cdp_session()
        for side in (128, 1024):
            page.evaluate(MEASURE, [20, side])                         # compiled by now
            before = spent(session)
            found = page.evaluate(MEASURE, [runs, side])
            processor[side] = 1000 * (spent(session) - before) / runs
            times[side] = {part: {"median": float(np.median(values)), "95": float(np.percentile(values, 95))}
                           for part, values in found.items()}
        page.check("text=photographs")
        page.wait_for_function(done.format("lspet"))
        both, version = page.evaluate(loaded), browser.version
        browser.close()
    return {"runs": runs, "chromium": version, "milliseconds": times, "processor_milliseconds": processor,
            "load": os.getloadavg()[0], "first_seconds": first,
            "bytes": {"one network": one, "both": both}, "environment": results.environment()}


if __name__ == "__main__":
    main()
