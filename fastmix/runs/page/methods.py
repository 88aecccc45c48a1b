"""The table of methods: that of report, with each run as a dot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastmix.runs import columns, result_tables, robustness_table
from fastmix.runs.gain_over_vanilla import gains
from fastmix.runs.page.cells import NONE, Column, dots, table
from fastmix.runs.page.html import Html, tag
from fastmix.runs.page.sections import section
from fastmix.runs.page.shown import Method
from fastmix.runs.run_folder import Run


class Table(NamedTuple):
    """The rows of gain_over_vanilla.gains, and what is made of them; nothing where no run has its last epoch."""

    rows: list[dict]
    names: list[str]
    """Of the columns."""
    header: list[str]
    lines: list[list[str]]
    told: str
    notes: list[str]


def made(found: Sequence[Run], asked: str = "", column: str = "") -> Table:
    """The table of methods. Raises ValueError as gains and columns.chosen do, but where no run has its last epoch."""
    if not any(run.whole for run in found):
        return Table([], [], [], [], "", [])
    rows, notes = gains(found, column)
    names = columns.chosen(asked, rows)
    notes += robustness_table.put(rows, found, names)
    header, lines, (told, *marks) = result_tables.by_method(rows, names)
    return Table(rows, names, header, lines, told, marks + notes)


def shown(made: Table, methods: Sequence[Method]) -> Html:
    """The table as an element. The method that reached most comes first."""
    if not made.rows:
        return section("methods", "Methods", tag("p", "No run has its last epoch yet.", class_="quiet"))
    of = {str(line.seen.run.folder): line for method in methods for line in method.lines}
    values = [[of[run].seen.top1.values[-1] for run in row["runs"]] for row in made.rows]
    ends = min(map(min, values)), max(map(max, values))
    base = [row["top1"] for row in made.rows if row["mix"] == "vanilla"]
    keys = [columns.named(name).keys[0] for name in made.names]
    numbers = [all(isinstance(row[key], int | float | None) for row in made.rows) for key in keys]
    heads = [
        Column(head, number, down=key == "top1") for head, number, key in zip(made.header, numbers, keys, strict=True)
    ]
    rows = []
    for row, line, each in zip(made.rows, made.lines, values, strict=True):
        method = of[row["runs"][0]].method
        drawn = dots(each, row["top1"], row["std"], *ends, base[0] if len(base) == 1 else None, method.look)
        cells = [
            _cell(text, row[key] if number else None, first=not k)
            for k, (key, text, number) in enumerate(zip(keys, line, numbers, strict=True))
        ]
        rows.append((row["top1"], tag("tr", *cells, tag("td", drawn), data_runs=method.ids)))
    rows.sort(key=lambda row: -row[0])
    body = table("methods", "Methods", [*heads, Column("each run", sorts=False)], [row for _, row in rows])
    return section("methods", "Methods", body, tag("p", made.told, class_="hint"))


def _cell(text: str, value: float | None, first: bool) -> Html:
    """A cell of report's table: ** is its mark of the best; a gain has the colour of its sign."""
    plain = text.replace("**", "")
    main, sign, about = plain.partition(" ± ")
    marks = {
        "number": value is not None or plain == NONE,
        "best": plain != text,
        "up": main.startswith("+"),
        "down": main.startswith("-"),
    }
    classes = " ".join(name for name, holds in marks.items() if holds)
    inside = (main, tag("span", sign + about, class_="about") if about else None)
    if first:
        return tag("th", *inside, scope="row")
    return tag("td", *inside, class_=classes or None, data_value=None if value is None else repr(value))
