"""The runs as the page shows them: what each is called, how it is drawn, and which runs belong together."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fastmix.runs import short_names
from fastmix.runs.curves import over_seeds
from fastmix.runs.groups import groups, one_a_seed
from fastmix.runs.page.reader import LOSS, Seen, score

HUES, DASHES = 10, 4
"""Of page.css."""
MOST = 400
"""Points of a curve: as many as a screen shows."""
DIGITS = {"top1": 2, "loss": 4}
"""Decimals of a curve's values, as many as the page shows."""


@dataclass
class Line:
    """A run, and its place among the others."""

    seen: Seen
    id: str
    """Of the folder: the same when the page is written again."""
    name: str
    method: Method


@dataclass
class Method:
    """Runs that are the same but for their seed."""

    name: str
    look: str
    """Classes of page.css: a hue and a dash."""
    lines: list[Line]

    @property
    def ids(self) -> str:
        return " ".join(line.id for line in self.lines)


def arrange(found: Sequence[Seen]) -> list[Method]:
    """The runs by method and settings, in the order in which each is met."""
    runs = {id(seen.run): seen for seen in found}
    name = dict(zip(runs, short_names.names([seen.run for seen in found]), strict=True))
    grouped = groups(seen.run for seen in found)
    plain = [group for group in grouped if group[0].cfg.mix == "vanilla"]
    methods, drawn = [], 0
    for group in grouped:
        if plain == [group]:
            look = "base"  # what others are compared with
        else:
            look = f"hue{drawn % HUES} dash{drawn // HUES % DASHES}"
            drawn += 1
        method = Method(name[id(group[0])], look, [])
        for run in group:
            own = hashlib.sha256(os.fsencode(run.folder)).hexdigest()[:10]
            method.lines.append(Line(runs[id(run)], f"r{own}", f"{method.name} s{run.cfg.seed}", method))
        methods.append(method)
    lines = [line for method in methods for line in method.lines]
    often = Counter(line.name for line in lines)
    for line in lines:
        if often[line.name] > 1:
            line.name += f" ({line.seen.run.folder.name})"
    return methods


def series(methods: Sequence[Method]) -> dict[str, list[dict]]:
    """What the page's script draws: `runs`, and `means` over the runs of a method that have their last epoch.

    top1 and loss are each a list of epochs and one of values; of a mean of several runs also one of their deviations.
    The curve that ends highest comes first.
    """
    runs, means = [], []
    for method in methods:
        for line in method.lines:
            drawn = {"id": line.id, "name": line.name, "look": method.look, "runs": [line.id]}
            runs.append(drawn | {"top1": _points("top1", *line.seen.top1), "loss": _points("loss", *line.seen.loss)})
        every = [line.seen.run for line in method.lines]
        some = one_a_seed(run for run in every if run.whole) or one_a_seed(every)
        ids = [line.id for line in method.lines]
        drawn = {"id": f"m{ids[0]}", "name": method.name, "look": method.look, "runs": ids}
        for key, name in (("top1", score(some[0])), ("loss", LOSS)):
            band = over_seeds(some, name)
            drawn[key] = _points(key, band.epochs, band.mean, *[band.std] * bool(band.std))
        means.append(drawn)
    return {"runs": sorted(runs, key=_end), "means": sorted(means, key=_end)}


def _end(drawn: dict) -> float:
    _, values, *_ = drawn["top1"]
    return -values[-1] if values else 0.0


def _points(key: str, epochs: list[int], *columns: list[float]) -> list[list]:
    """Every k-th point, counted from the last one, so that there are no more than MOST."""
    k = max(1, -(-len(epochs) // MOST))
    first = (len(epochs) - 1) % k
    return [epochs[first::k], *([round(value, DIGITS[key]) for value in column[first::k]] for column in columns)]
