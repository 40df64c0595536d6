"""`GET /`: the console, one page that draws charts of its own worker's `/metrics` and `/readyz`.

How it works: `page/` has the parts. They are put into one document at the start, so that the page
is one answer and requests only the endpoints. The browser keeps the history: a worker that nobody
watches does nothing for the console.

C1: the page runs only the script and style that this process sent: its policy names their digests,
    and forbids every other script, style, frame, form and foreign address.
C2: text from outside (label values, reasons) becomes text nodes, never markup.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources

SCRIPTS = ("metrics.js", "chart.js", "watch.js", "page.js")  # in the order of their use
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def _part(name: str) -> str:
    return resources.files(__package__).joinpath("page", name).read_text("utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def page() -> tuple[bytes, dict[str, str]]:
    """The document and its headers; made once."""
    style = "\n" + _part("page.css")
    script = '\n"use strict";\n' + "\n".join(_part(name) for name in SCRIPTS)
    text = _part("page.html").replace("/*style*/", style).replace("/*script*/", script)
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return text.encode(), {**HEADERS, "Content-Security-Policy": policy}
