"""Names of the shards of a data set, `train-00003-of-00128.beton`: what a pattern means, their order, and what lacks.

A pattern has wildcards (`*`, `?`, `[ab]`), which take what is there, or ranges of numbers (`{000..127}`), which say
what must be there. Files are ordered by their names, numbers in them by their values.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from fastmix.reading import shown

MOST = 100_000  # files that a range may name
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NUMBERED = re.compile(r"(.*?)(\d+)(?:-of-(\d+))?(\.[^./]*)", re.DOTALL)
_NUMBER = re.compile(r"(\d+)")


def shard(out: str | Path, k: int, n: int) -> Path:
    """The name of shard k, from 0, of the n that `out` is cut into."""
    out = Path(out)
    return out.with_name(f"{out.stem}-{k:05}-of-{n:05}{out.suffix}")


def named(out: str | Path, n: int) -> Path:
    """The pattern of all of them."""
    out = Path(out)
    return out.with_name(f"{out.stem}-*-of-{n:05}{out.suffix}")


def spread(pattern: str) -> list[str]:
    """The names that the ranges of a pattern stand for; the pattern itself where it has none. Raises ValueError."""
    found = _RANGE.search(pattern)
    if not found:
        return [pattern]
    first, last = found.groups()
    if len(last) > 18 or int(last) - int(first) >= MOST:
        raise ValueError(f"{shown(pattern)}: {found[0]} names more than {MOST} files")
    tails = spread(pattern[found.end() :])
    numbers = range(int(first), int(last) + 1)
    return [f"{pattern[: found.start()]}{k:0{len(first)}}{tail}" for k in numbers for tail in tails]


def paths(pattern: str) -> list[str]:
    """The paths that a pattern means, in order: of wildcards those that are there, of ranges all. Raises ValueError."""
    found = []
    for path in spread(pattern):
        found += glob.glob(path) if glob.has_magic(path) and not os.path.lexists(path) else [path]
    return ordered(found)


def ordered(names: Iterable[str]) -> list[str]:
    """Sorted, the numbers in names by their values: 2 before 10."""
    return sorted(names, key=lambda name: ([*map(_value, _NUMBER.split(name))], name))


def check(pattern: str, found: list[str]) -> None:
    """Raises ValueError where what wildcards found is not a whole series of numbered files, or is two of them."""
    series: dict[tuple[str, str], dict[str, set[int]]] = {}
    names: dict[tuple[str, str, int], str] = {}
    for path in found:
        if parts := _NUMBERED.fullmatch(path):
            head, number, total, ending = parts.groups()
            series.setdefault((head, ending), {}).setdefault(total or "", set()).add(int(number))
            names[head, ending, int(number)] = path
    for (head, ending), totals in series.items():
        if len(totals) > 1:
            kinds = " and ".join(shown(f"{head}*{f'-of-{total}' * bool(total)}{ending}") for total in sorted(totals))
            raise ValueError(f"{shown(pattern)}: these are several series, {kinds}; say which, or remove one")
        ((total, numbers),) = totals.items()
        first, last = min(numbers), max(numbers)
        if total and last < int(total):  # numbered from 0, else from 1
            first, last = 0, int(total) - 1
        lacks = next(k for k in count(first) if k not in numbers)
        if lacks <= last:
            width = len(_NUMBERED.fullmatch(names[head, ending, max(numbers)])[2])
            name = f"{head}{lacks:0{width}}{f'-of-{total}' * bool(total)}{ending}"
            raise ValueError(f"{shown(pattern)}: {shown(name)} is missing; a list names files that are no whole series")


def _value(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isascii() and part.isdigit() else (-1, part)
