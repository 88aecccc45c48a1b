"""Methods: what each reached over its seeds, and what that gains over vanilla."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev

from fastmix.runs.page.cells import Column, dots, number, table, text
from fastmix.runs.page.html import Html, join, tag
from fastmix.runs.page.sections import section
from fastmix.runs.page.shown import Method


def methods(found: Sequence[Method]) -> Html:
    columns = [Column("method"), Column("runs", True), Column("top-1", True), Column("over vanilla", True), Column("each run"), Column("hours", True), Column("images/s", True)]
    base = next((m for m in found if m.look == "base"), None)
    tops = {id(l): l.seen.top1.values[-1] for m in found for l in m.whole}
    low, high = min(tops.values(), default=0), max(tops.values(), default=1)
    rows = []
    for m in found:
        v = [tops[id(l)] for l in m.whole]
        g = mean(v) - mean(tops[id(l)] for l in base.whole) if v and base and m is not base else None
        std = stdev(v) if len(v) > 1 else None
        rows.append(tag("tr", tag("th", m.name, scope="row"),
          number(len(v), f"{len(v)}" + (f" of {len(m.lines)}" if len(v) < len(m.lines) else "")),
          number(mean(v), f"{mean(v):.2f}", f" ± {std:.2f}" if std else "") if v else number(None),
          number(g, f"{g:+.2f}", class_="up" if g > 0 else "down") if g is not None else number(None),
          text(dots(v, mean(v), std, low, high, m.look) if v else ""),
          number(mean(l.seen.run.seconds for l in m.whole), f"{mean(l.seen.run.seconds for l in m.whole)/3600:.2f}") if v else number(None),
          number(None),
          data_runs=m.ids))
    return section("methods", "Methods", table("methods", "Methods", columns, rows))
