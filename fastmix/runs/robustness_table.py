"""What fastmix.robustness left in run folders: as rows of a table, and as columns of the table of methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean, stdev

from fastmix.runs import columns
from fastmix.runs.robustness_file import FILE, numbers, read
from fastmix.runs.run_folder import Run

KEYS = ("run", "mix", "seed")
"""Of a row, before what was measured."""


def rows(found: Iterable[Run]) -> tuple[list[dict], list[str]]:
    """A row a run that has been measured, and a note on each that has not: run, mix, seed, and the numbers of its file
    (robustness_file.numbers). Raises ValueError for a file that is none of fastmix.robustness."""
    table, notes = [], []
    for run in found:
        told = read(run.folder / FILE)
        if told is None:
            notes.append(f"{run.folder}: no {FILE}; `python -m fastmix.robustness {run.folder}` writes it")
        else:
            table.append({"run": str(run.folder), "mix": run.cfg.mix, "seed": run.cfg.seed, **numbers(told)})
    return table, notes


def lines(table: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and cells for tables.markdown and tables.latex; the best of a column is bold."""
    keys = dict.fromkeys(key for row in table for key in row if key not in KEYS)
    names = [key for key in (*columns.MEASURED, *(key for key in keys if key.startswith("pgd"))) if key in keys]
    shown = {name: columns.named(name) for name in names}
    best = {name: one.best and one.best(row[name] for row in table if name in row) for name, one in shown.items()}

    def cell(row: dict, name: str) -> str:
        known = {name: row.get(name), f"{name}_std": None}
        return shown[name].text(known, len(table) > 1 and known[name] is not None and known[name] == best[name])

    header = [*KEYS, *(one.head for one in shown.values())]
    return header, [[*(str(row[key]) for key in KEYS), *(cell(row, name) for name in names)] for row in table]


def put(methods: list[dict], found: Iterable[Run], names: Sequence[str]) -> list[str]:
    """Adds to rows of gain_over_vanilla.gains what these columns need of the runs' files: means over the seeds, and
    under NAME_std their deviations; None where a seed has it not. Returns a note on each run that was not measured, or
    on other images than the first of its group. Raises ValueError as `rows`."""
    names = [name for name in names if columns.is_measured(name)]
    if not names:
        return []
    by_folder = {str(run.folder): run for run in found}
    notes = []
    for method in methods:
        measured, lacking = rows(by_folder[folder] for folder in method["runs"])
        notes += lacking
        unlike = [row for row in measured if row["images"] != measured[0]["images"]]
        for row in unlike:
            counts = f"{row['images']} images, not on {measured[0]['images']}"
            notes.append(f"{row['run']}: measured on {counts} as {measured[0]['run']}; no mean of them")
        for name in names:
            values = [row.get(name) for row in measured]
            known = not (lacking or unlike or None in values)
            method[name] = mean(values) if known else None
            method[f"{name}_std"] = stdev(values) if known and len(values) > 1 else None
    return notes
