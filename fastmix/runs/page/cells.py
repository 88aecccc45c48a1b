"""Tables whose columns sort, and what stands in their cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fastmix.runs.page.html import Html, join, tag

NONE = "–"


class Column(NamedTuple):
    """head: what stands above it; number: whether it holds numbers; told: what the head stands for; sorts: whether rows
    can be sorted by it; down: whether they are, the highest first."""

    head: str
    number: bool = False
    told: str = ""
    sorts: bool = True
    down: bool = False


def table(name: str, caption: str, columns: Sequence[Column], rows: Iterable[Html]) -> Html:
    """A table that may be wider than the page. The first cell of a row is its head."""
    made = tag("table", tag("thead", tag("tr", *map(_head, columns))), tag("tbody", *rows), id=name, aria_label=caption)
    return tag("div", made, class_="wide", tabindex=0, role="region", aria_label=caption)


def _head(column: Column) -> Html:
    told = column.told or None
    button = tag("button", column.head, type="button", title=told) if column.sorts else tag("span", column.head)
    order = "descending" if column.down else None
    return tag("th", button, scope="col", class_="number" if column.number else None, aria_sort=order)


def number(value: float | None, shown: str = "") -> Html:
    """A number's cell: the value by which it is sorted, and how it is shown."""
    if value is None:
        return tag("td", NONE, class_="number")
    return tag("td", shown, class_="number", data_value=repr(value))


def text(value: object) -> Html:
    return tag("td", value if isinstance(value, Html) else str(value) or NONE)


def state(value: str) -> Html:
    return tag("span", value, class_=f"state {value}")


def dots(
    values: Sequence[float], mean: float, std: float | None, low: float, high: float, base: float | None, look: str
) -> Html:
    """Values as dots on a line from low to high, their mean as a stroke in a band of its deviation; base: vanilla's."""
    width = 190

    def x(value: float) -> str:
        share = (min(high, max(low, value)) - low) / (high - low) if high > low else 0.5
        return f"{8 + share * (width - 16):.1f}"

    def stroke(value: float, **attributes: str) -> Html:
        return tag("line", x1=x(value), x2=x(value), **attributes)

    band = None
    if std:
        left, right = x(mean - std), x(mean + std)
        band = tag("rect", x=left, y=5, width=f"{float(right) - float(left):.1f}", height=10, rx=2)
    marks = (tag("circle", cx=x(value), cy=10, r=3.2) for value in values)
    vanilla = None if base is None else stroke(base, y1="0", y2="20", class_="vanilla")
    line = tag("line", x1=0, x2=width, y1=10, y2=10)
    told = f"{', '.join(f'{value:.2f}' for value in values)} on a line from {low:.2f} to {high:.2f}"
    drawn = join(line, vanilla, band, *marks, stroke(mean, y1="2", y2="18", class_="mean"))
    return tag("svg", drawn, class_=f"dots {look}", viewBox=f"0 0 {width} 20", role="img", aria_label=told)
