"""Elements of HTML. All text becomes markup here and nowhere else, so what a name or a path holds stays text."""

from __future__ import annotations

import json
from html import escape

EMPTY = {"circle", "img", "input", "line", "meta", "rect"}
"""Elements without an end tag, or closed at once (SVG)."""


class Html(str):
    """Markup, as opposed to text."""


def tag(name: str, /, *inside: object, **attributes: object) -> Html:
    """An element. What is in it is text unless it is Html; None is nothing.

    Of an attribute's name the underscore at the end is left out, others become hyphens; None and False leave it out,
    True is an attribute without a value.
    """
    told = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{_text(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in EMPTY:
        return Html(f"<{name}{told}/>")
    return Html(f"<{name}{told}>{join(*inside)}</{name}>")


def join(*parts: object) -> Html:
    """Elements and text, one behind the other."""
    return Html("".join(part if isinstance(part, Html) else _text(part) for part in parts if part is not None))


def _text(value: object) -> str:
    """Escaped; so are bytes of a path that are no UTF-8."""
    return escape(str(value).encode(errors="backslashreplace").decode())


def data(value: object) -> Html:
    """JSON for a script element that is not run, from which no text can break out. Raises ValueError for a NaN."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Html(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))
