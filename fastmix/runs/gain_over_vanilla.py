"""What methods reach and gain over vanilla: a row a group of seeds, compared by seed, beside the published gain."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import sqrt
from statistics import correlation, mean, stdev

from fastmix.runs import data_seen, published, run_folder
from fastmix.runs.groups import SAME_RUN, groups, one_a_seed
from fastmix.runs.results import departures, scores
from fastmix.runs.run_folder import Run
from fastmix.runs.short_names import names

REACHED = ("top1", "top5", *(key for key in run_folder.scores({1: 0.0}, 1) if key != "final"), "hours", "images_per_s")
"""Of which rows hold means; the score `final` is top1."""


def gains(found: Iterable[Run], column: str = "") -> tuple[list[dict], list[str]]:
    """A row for each group of runs that differ in their seed alone, and notes on runs that do not count, and why.

    Vanilla is first, the others are in the order of the config. Only whole runs count: the last epoch is in the log,
    weights need not be there. Of a run with a moving average of the weights, the average does; `average` tells it.

    `name` is a short one. Percent: `top1` after the last epoch, `top5`, median, best and what scripts make of them
    (run_folder.scores), besides `hours` and `images_per_s`, are means over the `n` seeds, `std`, `top5_std` and so on
    their deviations. `gain`, `gain_std` and `gain_error` (its standard error) are over the differences to vanilla's
    top1 between runs of the same seed, of which there are `gain_n`; deviations have n - 1. Vanilla is the group of the
    same model that is trained most alike; `departs` names the keys, but for methods' own, in which it is not.

    `published_gain` is that of a column of the published tables, TABLE/BACKBONE/SETTING; without a name that of the
    runs' own column, if they have one and had its data. `beside` names in what the runs are not as it.

    Raises ValueError for an unknown column, and where no run is whole.
    """
    found = list(found)
    named = dict(zip(map(id, found), names(found), strict=True))
    parts, notes = [], []
    for group in groups(found):
        kept = one_a_seed(run for run in group if run.whole)
        parts += [kept] * bool(kept)
        for run in (run for run in group if run not in kept):
            why = "another run has its seed and settings" if run.whole else run.so_far
            notes.append(f"{run.folder}: {why}; not counted")
    if not parts:
        raise ValueError(
            f"none of {len(found)} runs has its last epoch in the log; --runs-table tells how far they are"
        )
    rows = []
    for group in sorted(parts, key=_place(parts, named)):
        first, vanilla = group[0], _vanilla(group, parts)
        departs = unlike(vanilla[0], first) if vanilla else []
        where = _column(column, vanilla)
        published_gain = _published(where).get(first.cfg.mix) if where else None
        rows.append(
            {
                "name": named[id(first)], "mix": first.cfg.mix, "model": first.cfg.model.name,
                "fidelity": first.cfg.fidelity, "epochs": first.cfg.epochs, "seeds": [run.cfg.seed for run in group],
                "n": len(group), "average": any(map(_average, group)), **_means(group), **_over(vanilla, group),
                "published_gain": published_gain, "published_column": where, "departs": departs,
                "beside": departures(first, where) if published_gain is not None else [],
                "runs": [str(run.folder) for run in group],
            }
        )  # fmt: skip
    return rows, notes


def unlike(a: Run, b: Run) -> list[str]:
    """In what two runs were trained in different ways: keys, but for the methods' own, and how the data differ."""
    keys = [key for key in run_folder.departures(a.cfg, b.cfg, SAME_RUN) if not key.startswith("mixers.")]
    return keys + data_seen.between(b.data, a.data)


def rank_correlation(rows: list[dict]) -> tuple[float, int] | None:
    """Spearman's, of the methods' gains with the published ones, and of how many; None below three, or of equal ones.

    Ranks of equal gains are their mean.
    """
    pairs = [(row["gain"], row["published_gain"]) for row in rows if None not in (row["gain"], row["published_gain"])]
    ranks = [_ranks(values) for values in zip(*pairs, strict=True)]
    if len(pairs) < 3 or any(len(set(found)) == 1 for found in ranks):
        return None
    return correlation(*ranks), len(pairs)


def _ranks(values: Sequence[float]) -> list[float]:
    return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]


def _place(parts: list[list[Run]], named: dict[int, str]) -> Callable[[list[Run]], tuple]:
    """Where a group stands: model by model, vanilla first, then as the first config has its methods, then by name."""
    models = list(dict.fromkeys(group[0].cfg.model.name for group in parts))
    mixes = list(dict.fromkeys(["vanilla", *parts[0][0].cfg.mixers, *(group[0].cfg.mix for group in parts)]))

    def place(group: list[Run]) -> tuple:
        cfg, words = group[0].cfg, re.split(r"(\d+(?:\.\d+)?)", named[id(group[0])])
        numbers = map(float, [*words[1::2], -1])  # 10 comes after 9
        return models.index(cfg.model.name), mixes.index(cfg.mix), *zip(words[::2], numbers, strict=True)

    return place


def _vanilla(group: list[Run], parts: list[list[Run]]) -> list[Run]:
    """Over which runs a group is said to gain: those of vanilla and its model that are trained most alike, or none."""
    first = group[0]
    if first.cfg.mix == "vanilla":
        return []
    base = [some for some in parts if (some[0].cfg.mix, some[0].cfg.model.name) == ("vanilla", first.cfg.model.name)]
    return min(base, key=lambda some: (len(unlike(some[0], first)), -len(some)), default=[])


def _means(group: list[Run]) -> dict:
    """Means of REACHED over runs, and deviations; None where a run has it not, and for the deviation of one."""
    found = [_reached(run) for run in group]
    out = {}
    for key in REACHED:
        values = [row.get(key) for row in found]
        known = None not in values
        out[key] = mean(values) if known else None
        out["std" if key == "top1" else f"{key}_std"] = stdev(values) if known and len(values) > 1 else None
    return out


def _reached(run: Run) -> dict:
    """Of the weights that the run saves: their moving average, if there is one."""
    prefix, last = "ema_" if _average(run) else "", run.val[run.cfg.epochs]
    found = {key.removeprefix(prefix): value for key, value in scores(run).items() if key.startswith(prefix)}
    ends = {key: last.get(prefix + key) for key in ("top1", "top5")}
    return found | ends | {"hours": run.seconds / 3600, "images_per_s": run.images_per_s}


def _average(run: Run) -> bool:
    """Whether a moving average of the weights was validated."""
    return "ema_top1" in run.val[run.cfg.epochs]


def _over(vanilla: list[Run], group: list[Run]) -> dict:
    """The gain of a group, from the differences between runs of one seed."""
    base = {run.cfg.seed: _reached(run)["top1"] for run in vanilla}
    gained = [_reached(run)["top1"] - base[run.cfg.seed] for run in group if run.cfg.seed in base]
    spread = stdev(gained) if len(gained) > 1 else None
    return {
        "gain_n": len(gained), "gain": mean(gained) if gained else None, "gain_std": spread,
        "gain_error": None if spread is None else spread / sqrt(len(gained)),
    }  # fmt: skip


def _column(asked: str, vanilla: list[Run]) -> str:
    """The column whose gains stand beside those over these runs: the one asked for, or theirs, if its data were."""
    if asked or not vanilla:
        return asked
    own = vanilla[0].cfg.column
    return "" if data_seen.differences(vanilla[0].data, own.table) else own.name


@lru_cache
def _published(column: str) -> dict[str, float]:
    """The gains over vanilla that a column prints, by the names of configs. Raises ValueError for an unknown one."""
    top1 = published.column(column)
    names = {mix: method for mix, method in published.METHODS.items() if mix != "vanilla"}
    pairs = {mix: (top1.get(method), top1.get(published.METHODS["vanilla"])) for mix, method in names.items()}
    return {mix: pair[0] - pair[1] for mix, pair in pairs.items() if None not in pair}
