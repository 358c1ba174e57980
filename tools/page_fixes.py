"""A Sphinx extension: what the builder and its theme leave to be mended in the pages.

- Formulas are drawn by the parts of MathJax that the book needs, two thirds of the whole (no context menu).
- A picture says how large it is, so that the text below does not jump when it arrives.
- The bibliography is a list of list items: the role that docutils gives the items has been withdrawn from ARIA, and
  screen readers would announce an empty list.

`templates/static/webpack-macros.html` mends one thing more: it is the theme's own file without a script of 1.5 MB that
draws as SVG the icons which a font, also loaded, draws already. Compare it when the theme's version changes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from PIL import Image

PICTURE = re.compile(r'<img (?![^>]*\bwidth=)(?=[^>]*\bsrc="[^":]*?([^"/:]+\.(?:png|gif|jpe?g))")')


def with_sizes(body: str, pictures: dict[str, Path]) -> str:
    """`body` with width and height, in pixels, in the tag of every picture; `pictures`: file name -> where it is."""
    def sized(tag: re.Match) -> str:
        path = pictures.get(unquote(tag[1]))
        if path is None:
            return tag[0]
        with Image.open(path) as picture:
            return f'<img width="{picture.width}" height="{picture.height}" '
    return PICTURE.sub(sized, body)


def with_list_items(body: str) -> str:
    """`body` with list items in the bibliography."""
    return body.replace('role="doc-biblioentry"', 'role="listitem"')


def mend(app: Any, pagename: str, templatename: str, context: dict, doctree: Any) -> None:
    """Mend the body of a page before it goes into the template."""
    if body := context.get("body"):
        pictures = {name: Path(app.srcdir) / source for source, name in app.builder.images.items()}
        context["body"] = with_list_items(with_sizes(body, pictures))


def choose_mathjax(app: Any, config: Any) -> None:
    """Take the small MathJax; which parts it loads says `mathjax3_config`. (sphinx-mathjax-offline sets another.)"""
    config.mathjax_path = "mathjax/startup.js"


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("config-inited", choose_mathjax)
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
