"""What a reader does with a page, offline: searches it, turns it dark, copies code, unfolds, prints."""

import re

import pytest
from built_book import load, notebook, short, sources

CHAPTERS = sources()
FOLDS = {"a cell's code": "details.hide", "a solution": "details.sd-dropdown"}


def quiet(page) -> bool:
    return page.strangers == [] and page.problems == []


def test_search_finds_words_of_the_chapters(page, site):
    page.goto(f"{site}/book/index.html")
    page.keyboard.press("Control+k")
    page.locator("#pst-search-dialog input[type=search]").fill("elbow")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"search\.html\?q=elbow"))
    page.wait_for_selector("ul.search > li > a[href*='01-data']", state="attached")    # they come one by one
    assert quiet(page)
    page.locator("ul.search > li > a").first.click()
    page.wait_for_url(re.compile(r"/book/"))
    assert quiet(page)


def test_the_scheme_follows_the_system_and_the_switch_and_is_remembered(browser, page, site):
    def background():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    page.goto(f"{site}/book/index.html")
    dark = background()
    page.emulate_media(color_scheme="light")
    page.wait_for_function("before => getComputedStyle(document.body).backgroundColor !== before", arg=dark)
    light = background()
    for _ in range(3):                                      # automatic, light, dark
        page.locator(".theme-switch-button").click()
        if page.evaluate("document.documentElement.dataset.mode") == "dark":
            break
    page.wait_for_function("dark => getComputedStyle(document.body).backgroundColor === dark", arg=dark)
    page.goto(f"{site}/{CHAPTERS[0]}.html")
    assert background() == dark != light and quiet(page)


def test_icons_are_drawn(page, site):
    page.goto(f"{site}/{CHAPTERS[0]}.html")
    page.evaluate("document.fonts.ready")
    icons = page.evaluate("""() => [...document.querySelectorAll("i[class*='fa-']")].filter(i => i.checkVisibility())
      .map(i => [i.className, i.getBoundingClientRect().width, getComputedStyle(i, "::before").content])""")
    assert len(icons) >= 5
    assert [icon for icon in icons if icon[1] < 8 or icon[2] in ("none", "normal", '""')] == []
    loaded = page.evaluate("[...document.fonts].filter(f => f.status === 'loaded').map(f => f.family)")
    assert any("Awesome" in family for family in loaded)


def test_code_is_copied_as_it_is(page, site):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site)
    page.goto(f"{site}/{CHAPTERS[0]}.html")
    code = [cell for cell in notebook(CHAPTERS[0]).cells if cell.cell_type == "code" and cell.source.strip()
            and "remove-cell" not in cell.metadata.tags]
    buttons = page.locator("div.cell_input button.copybtn")
    assert buttons.count() == len(code)
    buttons.first.hover()
    buttons.first.click()
    page.wait_for_function("() => document.querySelector('.copybtn.success')")
    assert page.evaluate("navigator.clipboard.readText()").strip() == code[0].source.strip()


@pytest.mark.parametrize("name", CHAPTERS, ids=short)
def test_what_is_folded_unfolds_by_click_and_by_key(page, site, name):
    page.goto(f"{site}/{name}.html")
    seen = 0
    for selector in FOLDS.values():
        for fold in page.locator(selector).all()[:2]:
            seen += 1
            inside = fold.locator("pre, p:not(.admonition-title)").last
            assert not inside.is_visible()
            fold.locator("summary").click()
            assert inside.is_visible()
            fold.locator("summary").focus()
            page.keyboard.press("Enter")
            assert not inside.is_visible()
            page.keyboard.press("Space")
            assert inside.is_visible()
    assert seen > 0 and quiet(page)


def test_the_menu_of_a_narrow_screen_leads_to_the_chapters(page, site):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{site}/book/index.html")
    link = page.locator(f"nav a[href='{short(CHAPTERS[1])}.html'], dialog a[href='{short(CHAPTERS[1])}.html']").first
    assert not link.is_visible()
    page.locator("button.primary-toggle").click()
    link.click()
    page.wait_for_url(re.compile(CHAPTERS[1]))
    assert quiet(page)


@pytest.mark.parametrize("name", CHAPTERS, ids=short)
def test_a_chapter_prints(page, site, name):
    """As PDF: its figures are in it, its code is not cut off, its solutions are open, and no button is on the paper."""
    page.emulate_media(color_scheme="dark")                 # the paper is white all the same, under the code too
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 with the margins below, at 96 pixels an inch
    load(page, site, name)
    pictures = page.locator("div.cell_output img[src*='_images/']").count()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_timeout(400)
    paper = page.evaluate("""() => {
      const wide = [...document.querySelectorAll("article pre")].filter(p => p.checkVisibility());
      const seen = selector => [...document.querySelectorAll(selector)].filter(n => n.checkVisibility()).length;
      return {
        cut: wide.filter(p => p.scrollWidth > p.clientWidth + 1).map(p => p.textContent.slice(0, 60)),
        bars: seen(".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .copybtn, .prev-next-area, footer"),
        folded: [...document.querySelectorAll("details.sd-dropdown .sd-card-text")].filter(p => !p.checkVisibility(
          {contentVisibilityAuto: true})).length,
        white: getComputedStyle(document.body).backgroundColor,
        ink: getComputedStyle(document.querySelector("article p")).color,
        code: getComputedStyle(document.querySelector("div.cell_input")).backgroundColor,
      };
    }""")
    assert paper["cut"] == [] and paper["bars"] == 0 and paper["folded"] == 0
    dark = [sum(map(int, re.findall(r"\d+", paper[key])[:3])) / 765 for key in ("white", "ink", "code")]
    assert dark[0] > 0.95 and dark[1] < 0.4 and dark[2] > 0.9
    pdf = page.pdf(format="A4", margin=dict.fromkeys(("top", "bottom", "left", "right"), "10mm"), print_background=True)
    assert pdf.startswith(b"%PDF") and b"/Type /Pages" in pdf
    assert len(re.findall(rb"/Subtype\s*/Image", pdf)) >= pictures
