"""What runs reached: a row a run with means over seeds, or a row a cell of a published table beside its number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from statistics import mean, stdev

from fastmix import config
from fastmix.runs import data_seen, run_folder
from fastmix.runs.groups import SAME_RUN, groups, one_a_seed
from fastmix.runs.published import METHODS, Cell, published
from fastmix.runs.run_folder import Run

METRICS = ("median", "best", "final", "script_median", "script_best")
SCORES = METRICS + tuple(f"ema_{metric}" for metric in METRICS)


def summary(found: Iterable[Run]) -> list[dict]:
    """One row a run, and after the finished seeds of one config a row of their mean.

    Scores are in percent; `std` of a mean row holds the standard deviations (n - 1) of its scores.
    """
    rows = []
    for group in groups(found):
        rows += [_row(run) for run in group]
        seeds = one_a_seed(run for run in group if run.finished)
        if len(seeds) > 1:
            head = {key: rows[-1][key] for key in ("column", "mix", "fidelity")}
            rows.append({"run": "mean", **head, "seed": None, "n": len(seeds), **_mean(seeds)})
    return rows


def compare(cells: list[Cell], found: Iterable[Run], metric: str) -> tuple[list[dict], list[str]]:
    """A row for every cell of a published table, and notes on the runs that have no part in it, and why.

    A run belongs to the cell that its config's `column` and `mix` name. Only finished runs count; of a run with a
    moving average, the average does. Runs that depart from the file of their column, or had other data than it, count
    only where no others do.
    """
    by_cell: dict[tuple, list[Run]] = defaultdict(list)
    notes = []
    name = cells[0].table
    for run in found:
        column = run.cfg.column
        if column.table != name:
            continue
        method = METHODS.get(run.cfg.mix)
        try:
            published(name, column.backbone, column.setting, method or run.cfg.mix)
        except ValueError as error:
            notes.append(f"{run.folder}: {error}")
            continue
        if run.finished:
            by_cell[column.backbone, column.setting, method].append(run)
        else:
            notes.append(f"{run.folder}: not finished, {run.so_far}; not counted")
    rows = []
    for cell in cells:
        group, departs = _one_setting(by_cell[cell.backbone, cell.setting, cell.method], notes)
        result = _mean(group, metric) if group else {}
        ours = result.get("ours")
        difference = None if ours is None or cell.top1 is None else ours - cell.top1
        row = {
            "table": cell.table, "backbone": cell.backbone, "setting": cell.setting, "method": cell.method,
            "ours": ours, "std": result.get("std", {}).get("ours"), "n": len(group), "published": cell.top1,
            "difference": difference, "source": cell.source, "metric": metric, "departs": departs,
            **{key: result.get(key) for key in SCORES}, "runs": [str(run.folder) for run in group],
        }  # fmt: skip
        rows.append(row)
    return rows, notes


def _one_setting(group: list[Run], notes: list[str]) -> tuple[list[Run], list[str]]:
    """The runs that stand for a cell, and the keys in which they depart from their column's file."""
    if not group:
        return [], []
    parts = [(departures(some[0], some[0].cfg.column.name), one_a_seed(some)) for some in groups(group)]
    keys, kept = min(parts, key=lambda part: (len(part[0]), -len(part[1])))
    left = [run for run in group if run not in kept]
    notes += [f"{run.folder}: not counted, other settings or a seed twice; {kept[0].folder} counts" for run in left]
    return kept, keys


def departures(run: Run, column: str) -> list[str]:
    """Keys in which a run is not as the file of a published column says, and how its data are others than its."""
    path = _columns().get(column)
    keys = run_folder.departures(_column(path, run.cfg.mix), run.cfg, SAME_RUN) if path else []
    return keys + data_seen.differences(run.data, column.partition("/")[0])


@lru_cache
def _columns() -> dict[str, Path]:
    """The installed config file of each published column, TABLE/BACKBONE/SETTING."""
    found = {config.load(path).column.name: path for path in config.find("quickstart").parent.glob("*.yaml")}
    found.pop("", None)
    return found


@lru_cache
def _column(path: Path, mix: str) -> config.Config:
    """A column's config for one of its rows, with the settings that this row changes."""
    return config.load(path, [f"mix={mix}"])


def scores(run: Run) -> dict[str, float]:
    """SCORES of its weights and, where there is one, of their moving average."""
    found = {}
    for prefix in ("", "ema_"):
        top1 = {epoch: row[f"{prefix}top1"] for epoch, row in run.val.items() if f"{prefix}top1" in row}
        found |= {prefix + key: value for key, value in run_folder.scores(top1, run.cfg.epochs, run.cfg.mix).items()}
    return found


def _row(run: Run) -> dict:
    column = run.cfg.column
    where = " ".join(filter(None, (column.backbone, column.setting))) or run.cfg.model.name
    return {
        "run": str(run.folder), "column": where, "mix": run.cfg.mix, "fidelity": run.cfg.fidelity,
        "seed": run.cfg.seed, "n": 1,
        "epochs": run.epochs, "of_epochs": run.cfg.epochs, "finished": run.finished, "stopped_early": run.early,
        **scores(run),
        "hours": run.seconds / 3600, "images_per_s": run.images_per_s,
    }  # fmt: skip


def _mean(group: list[Run], metric: str | None = None) -> dict:
    """Means over runs, and their deviations under `std`; with a metric, `ours` is that of the saved weights."""
    rows = [_row(run) for run in group]
    if metric:
        for run, row in zip(group, rows, strict=True):
            row["ours"] = row[f"ema_{metric}" if run.cfg.ema.decay else metric]
    keys = [key for key in (*SCORES, "ours", "hours", "images_per_s") if all(row.get(key) is not None for row in rows)]
    out = {key: rows[0][key] for key in ("epochs", "of_epochs", "finished")}
    out |= {key: mean(row[key] for row in rows) for key in keys}
    if len(rows) > 1:
        out["std"] = {key: stdev(row[key] for row in rows) for key in keys}
    return out
