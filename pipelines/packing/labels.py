"""Labels are whole numbers from 0 to the number of classes - 1: checked here, when a file is opened or written."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np

from fastmix.reading import shown

MOST = 1_000_000  # classes
NAMED = 8  # classes that a line names, before "and more"
_WHOLE = re.compile("[0-9]+")
_LIST = re.compile(r"[\[({]?[-+]?[0-9.]+([\s,;|]+[-+]?[0-9.]+)+[\])}]?")  # several numbers where one belongs
_MISSING = ("nan", "inf", "none", "null", "na", "n/a", "?", "-")  # what stands in tables where a number is not known
_DIGITS = 18  # that surely fit into int64


def class_name(text: str) -> str:
    """A class's name: Unicode's composed form (NFC), what cannot be printed escaped.

    A folder's name may hold any bytes, and file systems differ in the form in which they give it back.
    """
    return unicodedata.normalize("NFC", shown(text))


def check(labels: Sequence[int] | np.ndarray, names: list[str] | None, where: Callable[[int], str]) -> None:
    """Raises ValueError, with where(row) and the value, for the first label that is none. names: label by label."""
    top = (len(names) if names is not None else MOST) - 1
    labels = np.asarray(labels, np.int64)
    bad = (labels < 0) | (labels > top)
    if bad.any():
        row = int(bad.argmax())
        given = f", as {len(names)} classes are named" if names is not None else ""
        raise ValueError(f"{where(row)}: label {labels[row]}; labels are whole numbers from 0 to {top}{given}")


def numbers(cells: list[str], where: Callable[[int], str]) -> list[int]:
    """The labels in the cells of a list. Raises ValueError, with where(row) and the cell, for one that is no label."""
    for row, cell in enumerate(cells):
        if not _WHOLE.fullmatch(cell) or len(cell.lstrip("0")) > _DIGITS:
            several = "several numbers; " if _LIST.fullmatch(cell) else ""
            raise ValueError(
                f"{where(row)}: label '{shown(cell[:40])}': {several}a label is one whole number from 0 to {MOST - 1}"
            )
    return [int(cell) for cell in cells]


def are_numbers(cells: list[str]) -> bool:
    """Whether the labels of a list are meant to be numbers: some are, of any kind, and none is a word."""
    kinds = {_kind(cell) for cell in cells}
    return "number" in kinds and "word" not in kinds


def _kind(cell: str) -> str:
    if cell.lower().lstrip("+-") in _MISSING or not cell.strip("+-"):
        return "missing"
    if _LIST.fullmatch(cell):
        return "number"
    for parse in (float, partial(int, base=0)):
        with suppress(ValueError):
            parse(cell)
            return "number"
    return "word"


def names(labels: np.ndarray, classes: list[str] | None) -> list[str]:
    """The class names, label by label; the numbers where there are none."""
    return classes if classes is not None else [str(k) for k in range(int(max(labels, default=-1)) + 1)]


def gaps(labels: np.ndarray, classes: list[str] | None) -> str:
    """A line that names the classes without an image; empty where there are none."""
    every = names(labels, classes)
    empty = np.flatnonzero(np.bincount(np.asarray(labels, np.int64), minlength=len(every)) == 0)
    if not len(empty):
        return ""
    more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
    return f"no image of {len(empty)} of {len(every)} classes: {', '.join(every[k] for k in empty[:NAMED])}{more}"
