"""The columns of tables: what stands above each, what it is made of, and how it is written."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """head: what stands above it. keys: of a row of gain_over_vanilla.gains. text: a row's cell, and the best one's.
    best: max or min, of which the best of several methods is bold."""

    head: str
    keys: tuple[str, ...]
    text: Callable[[dict, bool], str]
    best: Callable | None = None


def percent(
    value: float | None, spread: float | None = None, bold: bool = False, sign: str = "", digits: int = 2
) -> str:
    """Two digits, ± as many; the marks of bold are Markdown's."""
    if value is None:
        return "–"
    marks = "**" * bold
    return f"{marks}{value:{sign}.{digits}f}{marks}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def _score(key: str, head: str, best: Callable = max, digits: int = 2) -> Column:
    spread = "std" if key == "top1" else f"{key}_std"
    return Column(head, (key, spread), lambda row, bold: percent(row[key], row[spread], bold, "", digits), best)


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
MEASURED = {
    "images": _plain("images", "images", ".0f"),
    "clean": _score("clean", "clean"),
    "ece": _score("ece", "ECE", min),
    "ece_scaled": _score("ece_scaled", "ECE, scaled", min),
    "nll": _score("nll", "NLL", min, 3),
    "brier": _score("brier", "Brier", min, 3),
    "corrupted": _score("corrupted", "corrupted"),
    "mce": _score("mce", "mCE", min),
    "mce_14": _score("mce_14", "mCE of 14", min),
    "fgsm_1": _score("fgsm_1", "FGSM 1/255"),
    "fgsm_4": _score("fgsm_4", "FGSM 4/255"),
    "random_half": _score("random_half", "half the patches, random"),
    "salient_half": _score("salient_half", "half, salient"),
    "shuffle_4": _score("shuffle_4", "shuffled 4x4"),
}
"""What fastmix.robustness left in the run folders (robustness_file.numbers)."""
PATTERNS = {
    "fgsm_EPS": (r"fgsm_([1-8])", "FGSM {}/255"),
    "pgdSTEPS_linf_EPS": (r"pgd(\d+(?:x\d+)?)_linf_([\d.]+)", "PGD-{} linf {}/255"),
    "pgdSTEPS_l2_EPS": (r"pgd(\d+(?:x\d+)?)_l2_([\d.]+)", "PGD-{} l2 {}"),
    "shuffle_PARTS": (r"shuffle_(2|4|8|14)", "shuffled {0}x{0}"),
}
"""More of it: how a name looks, and what stands above the column. STEPS is 10x5 for 5 restarts."""
USUAL = ("method", "top1", "runs", "gain", "published", "hours", "images_per_s")
NAMES = (*COLUMNS, *MEASURED, *PATTERNS)


def named(name: str) -> Column | None:
    """The column of a name; None where there is no such one."""
    if known := COLUMNS.get(name) or MEASURED.get(name):
        return known
    for pattern, head in PATTERNS.values():
        if match := re.fullmatch(pattern, name):
            return _score(name, head.format(*match.groups()))
    return None


def is_measured(name: str) -> bool:
    """Whether a column is of what fastmix.robustness measures."""
    return name not in COLUMNS


def chosen(asked: str, rows: list[dict]) -> list[str]:
    """The names asked for, separated by commas; without any, of the usual ones those that some row has something in.

    Raises ValueError for an unknown name, with the nearest one, and for one that comes twice.
    """
    if not asked:
        return [name for name in USUAL if any(row[COLUMNS[name].keys[0]] is not None for row in rows)]
    names = [name.strip() for name in asked.split(",")]
    for name in names:
        if named(name) is None:
            near = difflib.get_close_matches(name, NAMES, 1, 0)[0]
            raise ValueError(f"--columns: no column {name!r}; did you mean {near!r}? There are {', '.join(NAMES)}")
        if names.count(name) > 1:
            raise ValueError(f"--columns: {name} is there twice")
    return names


def keys(names: Sequence[str]) -> list[str]:
    """The keys of a row that columns are made of, each once."""
    return list(dict.fromkeys(key for name in names for key in named(name).keys))
