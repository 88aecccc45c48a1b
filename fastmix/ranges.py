"""Ranges of settings, declared beside their types, and the one place that holds values against both.

lr: Annotated[float, Range(0, 1000)] = 0.1
scale: Annotated[tuple[Share, Share], RISING] = (0.08, 1.0)
crop: Literal["rrc", "pad"] = "rrc"
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from dataclasses import dataclass

NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a mapping"}
MOST = 80  # characters of a value in a message


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, without an end that is `above` or `below`; never NaN, infinite only where high is."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"above {self.low:,}" if self.above else f"of at least {self.low:,}"
        below = "below " * self.below
        return (
            f"above {self.low:,}, at most {self.high:,}" if self.above else f"from {self.low:,} to {below}{self.high:,}"
        )


@dataclass(frozen=True)
class Rising:
    """Values of which none is smaller than the one before."""

    def __contains__(self, value: tuple) -> bool:
        return all(a <= b for a, b in zip(value, value[1:], strict=False))

    def __str__(self) -> str:
        return "from low to high"


RISING = Rising()


class Size:
    """Texts that say a number of bytes."""

    def __contains__(self, value: str) -> bool:
        return size(value) is not None

    def __str__(self) -> str:
        return "that is a size, such as 50GiB or 500MB"


SIZE = Size()


def size(text: str) -> int | None:
    """Bytes, of a number with a unit, such as 1.5GiB or 500MB; None where it is none."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?) ?([KMGT])(i?)B?", text)
    if not found or not float(found[1]):
        return None
    return int(float(found[1]) * (1024 if found[3] else 1000) ** ("KMGT".index(found[2]) + 1))


def as_size(count: int) -> str:
    """The text of a number of bytes that `size` reads, rounded up to a thousandth of its unit."""
    power = max(1, min(4, (max(count, 1).bit_length() - 1) // 10))
    return f"{math.ceil(count / 1024**power * 1000) / 1000:.7g}{'KMGT'[power - 1]}iB"


def fill(kind: type, tree: dict, where: str, prefix: str = ""):
    """A dataclass from nested dicts, each key, type and range checked.

    `where` and `prefix` begin the place in errors. Raises ValueError of one line.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    for key in tree:
        if key not in hints:
            known = [prefix + k for k in hints]
            near = difflib.get_close_matches(prefix + str(key), known, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{where}: unknown key {prefix + str(key)!r}; {hint}")
    return kind(**{key: cast(value, hints[key], where, prefix + key) for key, value in tree.items()})


def cast(value, hint, where: str, key: str):
    """The value as its type hint says. Raises ValueError of one line, with key, value and range."""
    marks: tuple = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *marks = typing.get_args(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: {key} is {shown(value)}; it must be a mapping of keys to values")
        return fill(hint, value, where, f"{key}.")
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, args, where, key)
    if origin is typing.Literal:
        if value not in args or isinstance(value, bool):
            raise ValueError(f"{where}: {key} is {shown(value)}; choose one of {', '.join(map(str, args))}")
        return value
    if origin in (list, tuple) and isinstance(value, list | tuple):
        kinds = args if origin is tuple else args * len(value)
        if len(value) != len(kinds):
            raise ValueError(f"{where}: {key} is {shown(value)}; it must hold {len(kinds)} values")
        value = origin(cast(v, kind, where, key) for v, kind in zip(value, kinds, strict=True))
    elif not _is(value, origin or hint):
        some = f"a list of {len(args)} values" if origin is tuple else "a list"
        what = " ".join(map(str, [NAMES.get(origin or hint, some), *marks]))
        raise ValueError(f"{where}: {key} is {shown(value)}; it must be {what}")
    if hint is str and "\0" in value:
        raise ValueError(f"{where}: {key} is {shown(value)}; it must be text without a zero byte")
    for mark in marks:
        if value not in mark:
            what = NAMES.get(hint, "values")
            raise ValueError(f"{where}: {key} is {shown(value)}; it must be {what} {mark}")
    return float(value) if hint is float else value


def shown(value) -> str:
    """The value in a message: its beginning, on one line."""
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= MOST else f"{text[: MOST - 3]}..."


def _is(value, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _one_of(value, kinds: tuple, where: str, key: str):
    """The value as one of these types: a word that one names as it is, a list as the one that is a list."""
    if value is None and type(None) in kinds:
        return None
    words = [word for kind in kinds if typing.get_origin(kind) is typing.Literal for word in typing.get_args(kind)]
    if isinstance(value, str) and value in words:
        return value
    others = [kind for kind in kinds if kind is not type(None) and typing.get_origin(kind) is not typing.Literal]
    some = {_bare(kind) in (list, tuple): kind for kind in reversed(others)}
    try:
        return cast(value, some.get(isinstance(value, list | tuple)) or next(iter(some.values())), where, key)
    except ValueError as error:
        raise ValueError(f"{error}{''.join(f', or {word}' for word in words)}") from None


def _bare(kind):
    """list, tuple and the like of a type with or without marks."""
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    return typing.get_origin(kind) or kind
