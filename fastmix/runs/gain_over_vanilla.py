"""What methods gain over vanilla: a row a method, runs compared seed by seed, beside the published gain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import correlation, mean, stdev

from fastmix.runs import data_seen, published, run_folder
from fastmix.runs.groups import SAME_RUN
from fastmix.runs.run_folder import Run


def gains(found: Iterable[Run], column: str = "") -> list[dict]:
    """A row a method, in the order of the config: its top-1 after the last epoch, and what that gains over vanilla's.

    Percent. `top1` and `std` are over the `n` seeds, `gain`, `gain_std` and `gain_error` (its standard error) over the
    differences between runs of the same seed, of which there are `gain_n`; deviations have n - 1. `published_gain` is
    that of a column of the published tables, TABLE/BACKBONE/SETTING; without a name that of the runs' own column, if
    they have one and had its data. `departs` names the keys, but for methods' own, in which a method is not trained as
    vanilla is. Logs suffice, weights need not be there.

    Raises ValueError for a run before its last epoch, for a seed twice, for two settings of one method, and where no
    run is of vanilla.
    """
    methods = _by_method(found)
    if "vanilla" not in methods:
        raise ValueError("none of the runs is of vanilla, over which gains are told")
    base, asked = next(iter(methods["vanilla"].values())), column
    column = column or "/".join(
        filter(None, (base.cfg.column.table, base.cfg.column.backbone, base.cfg.column.setting))
    )
    other = [] if asked else data_seen.differences(base.data, column.partition("/")[0])
    printed = _published(column) if column and not other else {}
    order = [*base.cfg.mixers, *methods]
    return [
        {
            "mix": mix,
            "fidelity": next(iter(methods[mix].values())).cfg.fidelity,
            **_over_vanilla(methods[mix], {} if mix == "vanilla" else methods["vanilla"]),
            "published_gain": printed.get(mix),
            "departs": _departures(base, next(iter(methods[mix].values()))),
            "runs": [str(run.folder) for run in methods[mix].values()],
        }
        for mix in sorted(methods, key=order.index)
    ]


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


def _by_method(found: Iterable[Run]) -> dict[str, dict[int, Run]]:
    """Whole runs by method and seed."""
    methods: dict[str, dict[int, Run]] = defaultdict(dict)
    for run in found:
        epochs, seeds = run.cfg.epochs, methods[run.cfg.mix]
        first = next(iter(seeds.values()), run)
        if epochs not in run.val:
            raise ValueError(f"{run.folder}: {run.epochs} of {epochs} epochs; gains are of whole runs, leave it out")
        if run.cfg.seed in seeds:
            raise ValueError(f"{run.folder}: seed {run.cfg.seed} as in {seeds[run.cfg.seed].folder}; leave one out")
        if keys := run_folder.departures(first.cfg, run.cfg, SAME_RUN):
            raise ValueError(f"{run.folder}: not as {first.folder} in {', '.join(keys)}; leave one out")
        seeds[run.cfg.seed] = run
    return methods


def _over_vanilla(seeds: dict[int, Run], vanilla: dict[int, Run]) -> dict:
    top1 = [_final(run) for run in seeds.values()]
    gained = [_final(run) - _final(vanilla[seed]) for seed, run in seeds.items() if seed in vanilla]
    return {
        "n": len(top1), "top1": mean(top1), "std": stdev(top1) if len(top1) > 1 else None,
        "gain_n": len(gained), "gain": mean(gained) if gained else None,
        "gain_std": stdev(gained) if len(gained) > 1 else None,
        "gain_error": stdev(gained) / sqrt(len(gained)) if len(gained) > 1 else None,
    }  # fmt: skip


def _final(run: Run) -> float:
    """Of the weights that the run saves: their moving average, if there is one."""
    return run.val[run.cfg.epochs]["ema_top1" if run.cfg.ema.decay else "top1"]


def _published(column: str) -> dict[str, float]:
    """The gains over vanilla that a column prints, by the names of the configs."""
    top1 = published.column(column)
    names = {mix: method for mix, method in published.METHODS.items() if mix != "vanilla"}
    pairs = {mix: (top1.get(method), top1.get(published.METHODS["vanilla"])) for mix, method in names.items()}
    return {mix: pair[0] - pair[1] for mix, pair in pairs.items() if None not in pair}


def _departures(a: Run, b: Run) -> list[str]:
    """Keys of the recipe, without the methods' own, and whether the data are others."""
    keys = [key for key in run_folder.departures(a.cfg, b.cfg, SAME_RUN) if not key.startswith("mixers.")]
    return keys + ["data (other images or classes)"] * (None not in (a.data, b.data) and a.data != b.data)
