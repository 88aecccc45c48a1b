"""Tables whose columns sort, and what stands in their cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fastmix.runs.page.html import Html, join, tag

NONE = "–"


class Column(NamedTuple):
    """A column: its head, whether it holds numbers, and what the head stands for."""

    head: str
    number: bool = False
    told: str = ""


def table(name: str, caption: str, columns: Sequence[Column], rows: Iterable[Html]) -> Html:
    """A table that may be wider than the page. The first cell of a row is its head."""
    heads = (
        tag("th", tag("button", column.head, type="button", title=column.told or None), scope="col", class_=_kind(column))
        for column in columns
    )
    made = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows), id=name, aria_label=caption)
    return tag("div", made, class_="wide", tabindex=0, role="region", aria_label=caption)


def _kind(column: Column) -> str | None:
    return "number" if column.number else None


def number(value: float | None, shown: str = "", about: str = "", class_: str = "") -> Html:
    """A number's cell: the value by which it is sorted, how it is shown, and quietly what is said about it."""
    if value is None:
        return tag("td", NONE, class_="number")
    behind = tag("span", about, class_="about") if about else None
    return tag("td", shown, behind, class_=f"number {class_}".strip(), data_value=repr(value))


def text(value: object) -> Html:
    return tag("td", value if isinstance(value, Html) else str(value) or NONE)


def state(value: str) -> Html:
    return tag("span", value, class_=f"state {value}")


def dots(values: Sequence[float], mean: float, std: float | None, low: float, high: float, look: str) -> Html:
    """Values as dots on a line from low to high, their mean as a stroke in a band of its deviation."""
    width, middle = 190, 10

    def x(value: float) -> str:
        share = (value - low) / (high - low) if high > low else 0.5
        return f"{8 + share * (width - 16):.1f}"

    band = None
    if std:
        ends = [min(high, max(low, mean + side * std)) for side in (-1, 1)]
        left, right = (float(x(end)) for end in ends)
        band = tag("rect", x=f"{left:.1f}", y=5, width=f"{right - left:.1f}", height=10, rx=2)
    marks = [tag("circle", cx=x(value), cy=middle, r=3.2) for value in values]
    stroke = tag("line", x1=x(mean), x2=x(mean), y1=2, y2=18, class_="mean")
    line = tag("line", x1=0, x2=width, y1=middle, y2=middle)
    told = f"{', '.join(f'{value:.2f}' for value in values)} on a line from {low:.2f} to {high:.2f}"
    drawn = join(line, band, *marks, stroke)
    return tag("svg", drawn, class_=f"dots {look}", viewBox=f"0 0 {width} 20", role="img", aria_label=told)
