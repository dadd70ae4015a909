"""HTML pages from the files in templates/: self-contained, and safe for any text.

Styles and scripts stand in the page itself; the page loads nothing. Texts and
names are put into a page as JSON in data blocks, or through ``html.escape``.
Scripts show them through textContent or on a canvas.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.resources import files
from string import Template
from typing import Any

_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029\x7f"}


def data_block(name: str, value: Any) -> str:
    """A script element that holds a value as JSON. No text in the value can end the element or begin a comment."""
    encoded = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).translate(_UNSAFE)
    return f'<script type="application/json" id="data-{html.escape(name)}">{encoded}</script>'


def fill_page(template: str, *, title: str, data: str = "", body: str = "") -> str:
    """A page from ``templates/NAME.html``, ``.css`` and ``.js``.

    The page's content security policy allows this style and this script only, and
    no requests.

    Args:
        template: the NAME.
        title: any text; it is escaped, and lone surrogates become ``\\udcff``.
        data: blocks made by ``data_block``.
        body: HTML, in which texts are escaped already.
    """
    style, script = _asset(template, "css"), _asset(template, "js")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hash(style)}",
            f"script-src {_hash(script)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    page = Template(_asset(template, "html")).substitute(
        policy=html.escape(policy, quote=True).replace("&#x27;", "'"),
        title=html.escape(title),
        style=style,
        script=script,
        data=data,
        body=body,
    )
    # The name of a file may have bytes that are not UTF-8. Python shows them as lone surrogates, which UTF-8 refuses.
    return page.encode("utf-8", "backslashreplace").decode()


def _asset(name: str, kind: str) -> str:
    return (files("charrnn.reports") / "templates" / f"{name}.{kind}").read_text(encoding="utf-8")


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
