"""Every page of the book as its readers get it: whole, offline, light and dark, wide and narrow, with and without eyes.

Each page is opened once, read to its end (figures load what they need when they come into sight), and then asked.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from built_book import COMPRESSED, DOCUMENTS, HTML, LOADED, load, notebook, short, sources, watch
from check_book import HIDING_TAGS, shown_images

WIDTHS, THEMES = (1280, 390), ("light", "dark")
MAX_BYTES = 2_000_000
OF_THE_LIVE_NETWORK = (".onnx", ".wasm")


@pytest.fixture(scope="module", params=DOCUMENTS, ids=short)
def opened(request, browser, site):
    """(name, page) of each document, opened once for all tests of this file; tests must not count on its state."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    watch(page, site)
    load(page, site, request.param)
    yield request.param, page
    context.close()


def show(page, width: int, theme: str) -> None:
    """Set the width of the window and the colour scheme."""
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("theme => Object.assign(document.documentElement.dataset, {theme, mode: theme})", theme)
    page.wait_for_timeout(350)                              # colours fade from one scheme to the other


def squeezed(text: str) -> str:
    return "".join(text.split())


# --- whole


def test_no_error_and_no_other_host(opened):
    _, page = opened
    assert page.strangers == [] and page.problems == []


def test_what_its_cells_put_out_is_shown(opened):
    name, page = opened
    if name not in sources():
        pytest.skip("no notebook")
    cells = [cell for cell in notebook(name).cells if cell.cell_type == "code" and cell.outputs
             and not HIDING_TAGS & set(cell.metadata.get("tags", []))]
    assert page.locator("div.cell_output").count() == len(cells) > 0
    shown = squeezed(page.locator("article.bd-article").evaluate("node => node.textContent"))
    lost = [line for cell in cells for output in cell.outputs for line in output.get("text", "").splitlines()
            if squeezed(line) not in shown]
    assert lost == []
    pictures = page.locator("div.cell_output img[src*='_images/']").count()
    assert pictures == len(shown_images(notebook(name)))
    assert pictures + page.locator("div.cell_output [class^='posebook-']").count() > 0


def test_pictures_are_there_and_no_traceback_is(opened):
    _, page = opened
    assert page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)") == []
    text = page.locator("body").evaluate("node => node.textContent")
    assert "Traceback (most recent call last)" not in text


def test_formulas_are_drawn(opened):
    name, page = opened
    marked = page.locator("article .math").count()
    assert page.locator("article .math mjx-container").count() >= marked
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    if name in sources():
        written = "".join(cell.source for cell in notebook(name).cells if cell.cell_type == "markdown")
        assert bool(marked) or not re.search(r"\$[^$\n]*[\\^_=][^$\n]*\$", re.sub(r"`[^`]*`", "", written))
    words = page.evaluate("""() => {
      const copy = document.querySelector("article").cloneNode(true);
      for (const node of copy.querySelectorAll("pre, code, script, style, mjx-container")) node.remove();
      return copy.textContent;
    }""")
    assert re.findall(r"\\[(\[][^\n]{0,60}|\$\$|\$[^$\n]{1,60}\$", words) == []


def test_links_within_the_page_arrive(opened):
    _, page = opened
    assert page.evaluate("""() => [...document.querySelectorAll("a[href^='#']")].map(a => a.getAttribute("href"))
      .filter(href => href.length > 1 && !document.getElementById(decodeURIComponent(href.slice(1))))""") == []


def test_it_is_not_heavy(opened):
    """Everything that is loaded by a reader who reads to the end, as a web host sends it: text compressed."""
    _, page = opened
    sizes = {}
    for address in set(page.evaluate(LOADED)):
        path = HTML / unquote(urlsplit(address).path).lstrip("/")
        if path.suffix not in OF_THE_LIVE_NETWORK and path.is_file():
            content = path.read_bytes()
            sizes[path.name] = len(gzip.compress(content, 6) if path.suffix in COMPRESSED else content)
    heaviest = sorted(sizes.items(), key=lambda item: -item[1])[:6]
    assert 0 < sum(sizes.values()) <= MAX_BYTES, f"{sum(sizes.values()) / 1e6:.2f} MB; the heaviest are {heaviest}"


# --- for every eye and none


def test_every_picture_says_what_it_shows(opened):
    _, page = opened
    silent = []
    for alt, address in page.evaluate("""() => [...document.querySelectorAll("article img")]
      .filter(image => !image.closest("button[aria-label], a[aria-label], [aria-hidden=true]"))     // said already
      .map(image => [image.alt.trim(), image.src.slice(0, 120)])"""):
        if len(alt.split()) < 3 or Path(urlsplit(address).path).stem in alt or re.search(r"\.(png|gif|jpe?g|svg)", alt):
            silent.append((address, alt))
    assert silent == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", THEMES)
def test_it_never_scrolls_sideways_and_nothing_is_cut_off(opened, width, theme):
    _, page = opened
    show(page, width, theme)
    wide, window = page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
    assert wide <= window == width
    # What reaches beyond the window must lie in something that scrolls by itself.
    assert page.evaluate("""() => [...document.querySelectorAll("article *")].filter(node => {
      const box = node.getBoundingClientRect();
      if (box.right <= innerWidth + 1 || !box.height) return false;
      if (node.closest("mjx-assistive-mml, .visually-hidden")) return false;
      for (let outer = node; outer; outer = outer.parentElement)
        if (["auto", "scroll"].includes(getComputedStyle(outer).overflowX)) return false;
      return true;
    }).slice(0, 5).map(node => node.outerHTML.slice(0, 150))""") == []


CODE_CONTRAST = """() => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = node => {
    for (let outer = node; outer; outer = outer.parentElement) {
      const colour = channels(getComputedStyle(outer).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = {};
  for (const word of document.querySelectorAll("article pre span, article pre"))
    if (word.textContent.trim() && !(word.className in found)) {
      const [a, b] = [light(channels(getComputedStyle(word).color)), light(behind(word))];
      found[word.className] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    }
  return found;
}"""


@pytest.mark.parametrize("theme", THEMES)
def test_code_can_be_read(opened, theme):
    _, page = opened
    show(page, 1280, theme)
    assert {kind: ratio for kind, ratio in page.evaluate(CODE_CONTRAST).items() if ratio < 4.5} == {}


# The last of this page's tests, since it takes the colours out of the code: a thousand coloured words keep axe busy.
@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_nothing_serious(opened, theme):
    """All rules in the light scheme; in the dark one those that colours can break."""
    _, page = opened
    show(page, 1280, theme)
    page.evaluate("for (const code of document.querySelectorAll('article pre')) code.textContent = code.textContent")
    page.evaluate("scrollTo(0, 600); dispatchEvent(new Event('scroll'))")     # the button that leads back to the top
    page.evaluate(Axe().axe_script)
    options = {"resultTypes": ["violations"]}
    if theme == "dark":
        options["runOnly"] = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
    result = page.evaluate("options => axe.run(options)", options)
    assert [(v["id"], v["impact"], node["target"], node["failureSummary"]) for v in result["violations"]
            if v["impact"] in ("serious", "critical") for node in v["nodes"][:3]] == []
