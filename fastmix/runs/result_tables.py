"""Rows of results as the lines of tables, and what is said below them."""

from __future__ import annotations

import csv
import io

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
        epochs = f"{row['epochs']}/{row['of_epochs']}" + " unfinished" * (not row["finished"])
        cells = [_percent(row.get(key), row.get("std", {}).get(key), row.get(key) == best[key]) for key in shown]
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
        ours, theirs = (_percent(row[k], None, row[k] == best.get((column, k))) for k in ("ours", "published"))
        if not row["n"]:
            return f"– / {theirs}"
        spread = "" if row["std"] is None else f" ± {row['std']:.2f}"
        difference = "" if row["difference"] is None else f" {row['difference']:+.2f}"
        return f"{ours}{'†' * bool(row['departs'])}{spread} / {theirs}{difference} ({row['n']})"

    several = len({setting for _, setting in columns}) > 1
    header = ["method", *(f"{backbone} {setting}" if several else backbone for backbone, setting in columns)]
    return header, [[method, *(cell(column, method) for column in columns)] for method in methods]


def by_method(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a table of gains."""
    beside = any(row["published_gain"] is not None for row in rows)
    lines = []
    for row in rows:
        gain = _percent(row["gain"], row["gain_error"], False, "+")
        some = f" ({row['gain_n']})" * (row["gain"] is not None and row["gain_n"] < row["n"])
        line = [row["mix"] + "†" * bool(row["departs"]), _percent(row["top1"], row["std"], False), str(row["n"])]
        lines.append([*line, gain + some, *[_percent(row["published_gain"], None, False, "+")] * beside])
    return ["mix", "top-1", "runs", "over vanilla", *["published"] * beside], lines


def gains_legend(rows: list[dict]) -> str:
    """What a table of gains says, as a paragraph, and which methods were trained in another way."""
    text = (
        "\nTop-1 in percent after the last epoch, mean ± standard deviation over the runs. Over vanilla: mean and\n"
        "standard error of the differences between runs of one seed; in brackets how many, where not all have one.\n"
    )
    if any(row["published_gain"] is not None for row in rows):
        text += "Published: the benchmark's."
        if found := rank_correlation(rows):
            text += f" Rank correlation of the gains of {found[1]} methods with the published ones: {found[0]:+.2f}."
        text += "\n"
    if all(row["fidelity"] == "openmixup" for row in rows):
        text += "Masks and labels: the benchmark's (fidelity openmixup).\n"
    odd = [row for row in rows if row["departs"]]
    notes = [f"\n- † {row['mix']}: not trained as vanilla in {', '.join(row['departs'])}" for row in odd]
    return text + "".join(notes) + "\n" * bool(notes)


def _percent(value: float | None, std: float | None, bold: bool, sign: str = "") -> str:
    if value is None:
        return "–"
    marks = "**" * bold
    return f"{marks}{value:{sign}.2f}{marks}" + ("" if std is None else f" ± {std:.2f}")


def cells_legend(script: bool) -> str:
    how = "by the windows of OpenMixup's scripts" if script else "of the last 5 epochs of up to 100, else 10"
    return f"\nA cell: ours ± deviation / published, difference (runs). Ours: median top-1 in percent {how}.\n"


def as_csv(rows: list[dict]) -> str:
    """Flat rows: deviations as columns of their own, lists separated by spaces."""
    flat = []
    for row in rows:
        std = row.get("std")
        if isinstance(std, dict):
            row = {key: value for key, value in row.items() if key != "std"}
            row |= {f"{key}_std": value for key, value in std.items()}
        flat.append({key: " ".join(value) if isinstance(value, list) else value for key, value in row.items()})
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
