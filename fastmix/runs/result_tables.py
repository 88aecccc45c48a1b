"""Rows of results as the lines of tables, and what is said below them."""

from __future__ import annotations

import csv
import io

from fastmix.runs.columns import named, percent
from fastmix.runs.gain_over_vanilla import rank_correlation
from fastmix.runs.published import table
from fastmix.runs.results import SCORES


def by_run(rows: list[dict], script: bool) -> tuple[list[str], list[list[str]]]:
    order = sorted(SCORES, key=lambda key: ("ema_" in key, ("script" in key) != script))
    shown = [key for key in order if any(key in row for row in rows)]
    best = {key: max(row[key] for row in rows if key in row) for key in shown}
    header = [
        "run",
        "column",
        "mix",
        "fidelity",
        "seed",
        "epochs",
        *(key.replace("_", " ") for key in shown),
        "hours",
        "images/s",
    ]
    lines = []
    for row in rows:
        seed = f"mean of {row['n']}" if row["run"] == "mean" else str(row["seed"])
        how = "" if row["finished"] else " stopped early" if row.get("stopped_early") else " unfinished"
        epochs = f"{row['epochs']}/{row['of_epochs']}{how}"
        cells = [percent(row.get(key), row.get("std", {}).get(key), row.get(key) == best[key]) for key in shown]
        pace = "–" if row.get("images_per_s") is None else f"{row['images_per_s']:.0f}"
        lines.append(
            [row["run"], row["column"], row["mix"], row["fidelity"], seed, epochs, *cells, f"{row['hours']:.2f}", pace]
        )
    return header, lines


def by_cell(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """A published table's shape: methods down, backbones across."""
    columns = list(dict.fromkeys((row["backbone"], row["setting"]) for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    by = {(row["backbone"], row["setting"], row["method"]): row for row in rows}
    best: dict[tuple, float] = {}
    for row in rows:
        for key in ("ours", "published"):
            place = (row["backbone"], row["setting"]), key
            if row[key] is not None:
                best[place] = max(row[key], best.get(place, row[key]))

    def cell(column: tuple[str, str], method: str) -> str:
        row = by.get((*column, method))
        if row is None:
            return "–"
        ours, theirs = (percent(row[k], None, row[k] == best.get((column, k))) for k in ("ours", "published"))
        if not row["n"]:
            return f"– / {theirs}"
        spread = "" if row["std"] is None else f" ± {row['std']:.2f}"
        difference = "" if row["difference"] is None else f" {row['difference']:+.2f}"
        return f"{ours}{'†' * bool(row['departs'])}{spread} / {theirs}{difference} ({row['n']})"

    several = len({setting for _, setting in columns}) > 1
    header = ["method", *(f"{backbone} {setting}" if several else backbone for backbone, setting in columns)]
    return header, [[method, *(cell(column, method) for column in columns)] for method in methods]


def by_method(rows: list[dict], names: list[str]) -> tuple[list[str], list[list[str]], list[str]]:
    """Header and lines of the table of methods (gain_over_vanilla.gains) with these columns, and what is said below it:
    a paragraph, then a line for each †."""
    bold = [name for name in names if named(name).best]
    best = {(group, name): _best(rows, group, name) for group in map(_alike, rows) for name in bold}
    common = _common(rows) if "published" in names else []
    rows = [row | {"beside": [key for key in row["beside"] if key not in common]} for row in rows]

    def cell(row: dict, name: str) -> str:
        return named(name).text(row, name in bold and row[name] == best[_alike(row), name])

    header = [named(name).head + "†" * (name == "published" and bool(common)) for name in names]
    lines = [[cell(row, name) for name in names] for row in rows]
    notes = []
    if common:
        column = next(row["published_column"] for row in rows if row["published_gain"] is not None)
        notes.append(f"† published: of {column}, from which these runs differ in {', '.join(common)}")
    for row in rows:
        if row["departs"] and "method" in names:
            notes.append(f"† {row['name']}: not trained as vanilla in {', '.join(row['departs'])}")
        if row["beside"] and "published" in names:
            notes.append(f"† {row['name']}: published with other {', '.join(row['beside'])}")
    return header, lines, [_told(rows, names), *notes]


def _alike(row: dict) -> tuple:
    """Rows of which one is called the best have this in common."""
    return row["model"], row["epochs"]


def _best(rows: list[dict], alike: tuple, name: str) -> float | None:
    """The best of several methods."""
    values = [row[name] for row in rows if _alike(row) == alike and row[name] is not None]
    return named(name).best(values) if len(values) > 1 else None


def _common(rows: list[dict]) -> list[str]:
    """In what all runs beside which a published gain stands are not as in its column."""
    sets = [row["beside"] for row in rows if row["published_gain"] is not None]
    return [key for key in sets[0] if all(key in one for one in sets)] if sets else []


def _told(rows: list[dict], names: list[str]) -> str:
    """What the columns hold."""
    told = []
    any_has, all_have = (some(row["average"] for row in rows) for some in (any, all))
    if "top1" in names:
        of = f", of the moving average of the weights{' where there is one' * (not all_have)}" if any_has else ""
        told.append(f"Top-1 in percent after the last epoch{of}, mean ± standard deviation over the runs.")
    if "gain" in names and any(row["gain"] is not None for row in rows):
        told.append("Over vanilla: mean ± standard error of the differences between runs of one seed;")
        told.append("in brackets how many, where not all have one.")
    if "published" in names and any(row["published_gain"] is not None for row in rows):
        told.append("Published: the benchmark's.")
        if found := rank_correlation(rows):
            told.append(
                f"Rank correlation of the gains of {found[1]} methods with the published ones: {found[0]:+.2f}."
            )
    if all(row["fidelity"] == "openmixup" for row in rows):
        told.append("Masks and labels: the benchmark's (fidelity openmixup).")
    return " ".join(told)


def cells_legend(rows: list[dict], script: bool) -> list[str]:
    """What is said below a published table's shape: likewise."""
    how = "by the windows of OpenMixup's scripts" if script else "of the last 5 epochs of up to 100, else 10"
    told = f"A cell: ours ± deviation / published, difference (runs). Ours: median top-1 in percent {how}."
    notes = []
    for row in rows:
        if row["departs"]:
            where = f"{row['method']}, {row['backbone']} {row['setting']}"
            notes.append(f"† {where}: not as the column in {', '.join(row['departs'])}")
    return [told, *notes]


def as_csv(rows: list[dict]) -> str:
    """Flat rows: deviations as columns of their own, lists separated by spaces."""
    flat = []
    for row in rows:
        std = row.get("std")
        if isinstance(std, dict):
            row = {key: value for key, value in row.items() if key != "std"}
            row |= {f"{key}_std": value for key, value in std.items()}
        flat.append(
            {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()}
        )
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for row in flat for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def shape(name: str) -> str:
    cells = table(name)
    columns = dict.fromkeys((cell.backbone, cell.setting) for cell in cells)
    methods = len({cell.method for cell in cells})
    numbers = sum(cell.top1 is not None for cell in cells)
    return f"{methods} methods, {len(columns)} columns ({', '.join(' '.join(c) for c in columns)}), {numbers} numbers"
