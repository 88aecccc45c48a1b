"""python -m fastmix.report RUN ... | --runs FOLDER | --table NAME: what runs reached, and beside what was published."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from pathlib import Path

from fastmix import cli
from fastmix.runs import published, run_folder, tables
from fastmix.runs.gain_over_vanilla import gains
from fastmix.runs.published import table
from fastmix.runs.results import SCORES, compare, summary


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.report", description="Report runs, or compare them with a published table.")
    parser.add_argument("run", nargs="*", type=Path, help="run folders of fastmix.train")
    parser.add_argument("--table", help="compare with this published table, such as in1k_rsb")
    parser.add_argument("--gains", action="store_true", help="a row a method: final top-1 and gain over vanilla")
    parser.add_argument("--column", default="", help="with --gains: beside this one, such as cifar10/ResNet-18/200ep")
    parser.add_argument("--runs", type=Path, help="take all runs below this folder (with --table, default: runs)")
    parser.add_argument("--list", action="store_true", help="list the published tables")
    parser.add_argument("--metric-compat", choices=("openmixup",), help="put the windows of its scripts first")
    parser.add_argument("--format", default="markdown", choices=("markdown", "csv", "latex", "json"))
    parser.add_argument("--out", type=Path, help="write to this file, not to the terminal")
    args = parser.parse_intermixed_args(argv)
    if args.list:
        print("\n".join(f"{name}: {_shape(name)}" for name in published.tables()))
        return 0
    if args.run and args.runs:
        raise ValueError("give run folders or --runs FOLDER, not both")
    if args.gains and (args.table or args.metric_compat) or args.column and not args.gains:
        raise ValueError("--gains goes with run folders, --runs and --column, and --column with nothing else")
    cells = table(args.table) if args.table else None  # an unknown name is told before any run is read
    folders = args.run or (run_folder.find(args.runs or "runs") if args.runs or args.table else [])
    if not folders and not args.table:
        raise ValueError(f"{args.runs}: no runs below it" if args.runs else "give run folders, or --table NAME")
    found = [run_folder.read(folder) for folder in dict.fromkeys(folders)]
    script = args.metric_compat == "openmixup"
    if cells:
        rows, notes = compare(cells, found, "script_median" if script else "median")
    else:
        rows, notes = gains(found, args.column) if args.gains else summary(found), []
    if args.format == "json":
        text = json.dumps(rows, indent=1) + "\n"
    elif args.format == "csv":
        text = _csv(rows)
    else:
        render = tables.markdown if args.format == "markdown" else tables.latex
        text = render(*(_grid(rows) if cells else gained(rows) if args.gains else _lines(rows, script)))
        if args.format == "markdown" and args.gains:
            text += gains_legend(rows)
        if args.format == "markdown" and cells:
            text += _legend(script) + "".join(f"\n- {note}" for note in notes) + "\n" * bool(notes)
            used = {folder for row in rows for folder in row["runs"]}
            if used:
                text += "\n" + render(*_lines(summary(run for run in found if str(run.folder) in used), script))
    if args.format != "markdown":
        print("".join(f"{note}\n" for note in notes), end="", file=sys.stderr)
    if args.out:
        part = args.out.with_name(args.out.name + ".part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, args.out)
    else:
        print(text, end="")
    return 0


def _lines(rows: list[dict], script: bool) -> tuple[list[str], list[list[str]]]:
    order = sorted(SCORES, key=lambda key: ("ema_" in key, ("script" in key) != script))
    shown = [key for key in order if any(key in row for row in rows)]
    best = {key: max(row[key] for row in rows if key in row) for key in shown}
    header = ["run", "column", "mix", "seed", "epochs", *(key.replace("_", " ") for key in shown), "hours", "images/s"]
    lines = []
    for row in rows:
        seed = f"mean of {row['n']}" if row["run"] == "mean" else str(row["seed"])
        epochs = f"{row['epochs']}/{row['of_epochs']}" + " unfinished" * (not row["finished"])
        cells = [_percent(row.get(key), row.get("std", {}).get(key), row.get(key) == best[key]) for key in shown]
        pace = "–" if row.get("images_per_s") is None else f"{row['images_per_s']:.0f}"
        lines.append([row["run"], row["column"], row["mix"], seed, epochs, *cells, f"{row['hours']:.2f}", pace])
    return header, lines


def _grid(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
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


def gained(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a table of gains."""
    beside = any(row["published_gain"] is not None for row in rows)
    lines = []
    for row in rows:
        gain = _percent(row["gain"], row["gain_std"], False, "+")
        some = f" ({row['gain_n']})" * (row["gain"] is not None and row["gain_n"] < row["n"])
        line = [row["mix"] + "†" * bool(row["departs"]), _percent(row["top1"], row["std"], False), str(row["n"])]
        lines.append([*line, gain + some, *[_percent(row["published_gain"], None, False, "+")] * beside])
    return ["mix", "top-1", "runs", "over vanilla", *["published"] * beside], lines


def gains_legend(rows: list[dict]) -> str:
    """What a table of gains says, as a paragraph, and which methods were trained in another way."""
    text = (
        "\nTop-1 in percent after the last epoch, mean ± standard deviation over the runs. Over vanilla: the same of\n"
    )
    text += "the differences between runs of one seed; in brackets how many, where vanilla has not all the seeds."
    text += "\nPublished: the benchmark's." * any(row["published_gain"] is not None for row in rows) + "\n"
    odd = [row for row in rows if row["departs"]]
    notes = [f"\n- † {row['mix']}: not trained as vanilla in {', '.join(row['departs'])}" for row in odd]
    return text + "".join(notes) + "\n" * bool(notes)


def _percent(value: float | None, std: float | None, bold: bool, sign: str = "") -> str:
    if value is None:
        return "–"
    marks = "**" * bold
    return f"{marks}{value:{sign}.2f}{marks}" + ("" if std is None else f" ± {std:.2f}")


def _legend(script: bool) -> str:
    how = "by the windows of OpenMixup's scripts" if script else "of the last 5 epochs of up to 100, else 10"
    return f"\nA cell: ours ± deviation / published, difference (runs). Ours: median top-1 in percent {how}.\n"


def _csv(rows: list[dict]) -> str:
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


def _shape(name: str) -> str:
    cells = table(name)
    columns = dict.fromkeys((cell.backbone, cell.setting) for cell in cells)
    methods = len({cell.method for cell in cells})
    numbers = sum(cell.top1 is not None for cell in cells)
    return f"{methods} methods, {len(columns)} columns ({', '.join(' '.join(c) for c in columns)}), {numbers} numbers"


if __name__ == "__main__":
    sys.exit(cli.run(main, "report"))
