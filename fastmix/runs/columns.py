"""The columns of the table of methods: what stands above each, what it is made of, and how it is written."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """head: what stands above it. keys: of a row of gain_over_vanilla.gains. text: a row's cell, and the best one's."""

    head: str
    keys: tuple[str, ...]
    text: Callable[[dict, bool], str]


def percent(value: float | None, spread: float | None = None, bold: bool = False, sign: str = "") -> str:
    """Two digits, ± as many; the marks of bold are Markdown's."""
    if value is None:
        return "–"
    marks = "**" * bold
    return f"{marks}{value:{sign}.2f}{marks}" + ("" if spread is None else f" ± {spread:.2f}")


def _score(key: str, head: str) -> Column:
    spread = "std" if key == "top1" else f"{key}_std"
    return Column(head, (key, spread), lambda row, best: percent(row[key], row[spread], best))


def _plain(key: str, head: str, form: str = "") -> Column:
    return Column(head, (key,), lambda row, best: "–" if row[key] is None else format(row[key], form))


def _gain(row: dict, best: bool) -> str:
    some = f" ({row['gain_n']})" * (row["gain"] is not None and row["gain_n"] < row["n"])
    return percent(row["gain"], row["gain_error"], sign="+") + some


def _hours(row: dict, best: bool) -> str:
    hours = row["hours"]
    return "–" if hours is None else f"{hours:.2f}" if hours >= 0.1 else f"{hours:.2g}"


def _published(row: dict, best: bool) -> str:
    return percent(row["published_gain"], sign="+") + "†" * bool(row["beside"])


COLUMNS = {
    "method": Column("method", ("name", "departs"), lambda row, best: row["name"] + "†" * bool(row["departs"])),
    "top1": _score("top1", "top-1"),
    "top5": _score("top5", "top-5"),
    "median": _score("median", "median"),
    "best": _score("best", "best"),
    "script_median": _score("script_median", "script median"),
    "script_best": _score("script_best", "script best"),
    "runs": _plain("n", "runs"),
    "seeds": Column("seeds", ("seeds",), lambda row, best: ", ".join(map(str, row["seeds"]))),
    "gain": Column("over vanilla", ("gain", "gain_error", "gain_n"), _gain),
    "published": Column("published", ("published_gain", "beside"), _published),
    "hours": Column("hours", ("hours",), _hours),
    "images_per_s": _plain("images_per_s", "images/s", ".0f"),
    "epochs": _plain("epochs", "epochs"),
    "model": _plain("model", "model"),
    "fidelity": _plain("fidelity", "fidelity"),
}
USUAL = ("method", "top1", "runs", "gain", "published", "hours", "images_per_s")
BOLD = ("top1", "top5", "median", "best", "script_median", "script_best")
"""Columns in which the best of several methods is bold."""


def chosen(asked: str, rows: list[dict]) -> list[str]:
    """The names asked for, separated by commas; without any, of the usual ones those that some row has something in.

    Raises ValueError for an unknown name, with the nearest one, and for one that comes twice.
    """
    if not asked:
        return [name for name in USUAL if any(row[COLUMNS[name].keys[0]] is not None for row in rows)]
    names = [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, 1, 0)[0]
            raise ValueError(f"--columns: no column {name!r}; did you mean {near!r}? There are {', '.join(COLUMNS)}")
        if names.count(name) > 1:
            raise ValueError(f"--columns: {name} is there twice")
    return names


def keys(names: Sequence[str]) -> list[str]:
    """The keys of a row that columns are made of, each once."""
    return list(dict.fromkeys(key for name in names for key in COLUMNS[name].keys))
