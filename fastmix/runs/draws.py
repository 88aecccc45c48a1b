"""Values drawn at random, for a search: loguniform(a,b), uniform(a,b), randint(a,b), choice(a,b,...).

The names and bounds are those of Ray Tune: randint goes up to b - 1. A draw is a function of (seed, its number, key),
so more samples keep the first ones, and a second drawn key keeps the values of the first.
"""

from __future__ import annotations

import re
import zlib
from math import exp, log

import numpy as np

KINDS = ("loguniform", "uniform", "randint", "choice")
DRAW = re.compile(rf"({'|'.join(KINDS)})\((.*)\)", re.DOTALL)


def is_draw(text: str) -> bool:
    return DRAW.fullmatch(text.strip()) is not None


def draw(key: str, text: str, number: int, seed: int) -> str:
    """The value of sample `number` of a key that is drawn as `text` says; numbers with four digits.

    Raises ValueError where the bounds are none.
    """
    kind, inside = DRAW.fullmatch(text.strip()).groups()
    generator = np.random.default_rng([seed, number, zlib.crc32(key.encode())])
    if kind == "choice":
        values = split(inside)
        return values[generator.integers(len(values))]
    low, high = _bounds(key, text, inside, int if kind == "randint" else float)
    if kind == "randint":
        return str(generator.integers(low, high))
    if kind == "loguniform":
        if low <= 0:
            raise ValueError(f"{key}={text}: its bounds must be above 0")
        return f"{exp(generator.uniform(log(low), log(high))):.4g}"
    return f"{generator.uniform(low, high):.4g}"


def split(text: str) -> list[str]:
    """A text at the commas that are not inside brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for mark in text:
        if quote:
            quote = "" if mark == quote else quote
        elif mark in "\"'":
            quote = mark
        else:
            depth += (mark in "[{(") - (mark in "]})")
        if mark == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += mark
    return parts


def _bounds(key: str, text: str, inside: str, kind: type) -> tuple[float, float]:
    try:
        low, high = map(kind, inside.split(","))
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{key}={text}: write two {what} in the brackets, from low to high") from None
    if not low < high < float("inf"):
        raise ValueError(f"{key}={text}: the first bound must be below the second")
    return low, high
