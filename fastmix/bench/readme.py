"""python -m fastmix.bench readme [FILE]: writes the tables of measured numbers, and of configs, into a page.

A table stands between `<!-- table: results/NAME.csv; key=value; ... -->` and `<!-- end -->`. It holds the medians of
that file's rows (written by `python -m fastmix.bench ... --csv FILE`) that are of the newest date and in which the keys
have these values: a line for each work, a column for each provider, and how many times the first provider's.

Between `<!-- runs: results/FOLDER; column=TABLE/BACKBONE/SETTING; columns=NAME,... -->` and `<!-- end -->` stands what
`python -m fastmix.report --runs results/FOLDER --column ... --columns ...` tells of the runs below it, of each of which
config.yaml, log.jsonl and versions.json are there. Both may be left out. Nobody types a number.

Between `<!-- robustness: results/FOLDER -->` and `<!-- end -->` stands what `report --robustness` tells of the runs
below it.

Between `<!-- agreement: results/NAME.csv; key=value -->` and `<!-- end -->` stands how top-1 under each corruption
agrees with another generator's, of the rows in which the keys have these values.

Between `<!-- columns: configs -->` and `<!-- end -->` stands a line for each file of that folder that is a column of
the published tables: what it trains, as the file itself says.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from statistics import fmean

from fastmix import config
from fastmix.cli import run
from fastmix.runs import published, result_tables, robustness_table, run_folder
from fastmix.runs.columns import chosen
from fastmix.runs.gain_over_vanilla import gains
from fastmix.runs.tables import markdown

KINDS = "table|runs|robustness|agreement|columns"
BLOCK = re.compile(rf"(<!-- ({KINDS}): ([^;>]+?)((?:; *[^;>]+=[^;>]+?)*) -->\n).*?(<!-- end -->)", re.DOTALL)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    path = Path(argv[0] if argv else "README.md")
    path.write_text(fill(path.read_text(encoding="utf-8"), path.parent), encoding="utf-8")
    return 0


def fill(text: str, root: Path) -> str:
    """The text with every block's table made anew from its file or folder, a path below `root`."""

    def replace(match: re.Match) -> str:
        conditions = dict(part.strip().split("=", 1) for part in match[4].split(";")[1:])
        path = root / match[3]
        if match[2] in ("robustness", "columns"):
            return match[1] + {"robustness": robust, "columns": columns}[match[2]](path) + match[5]
        made = {"table": table, "runs": reached, "agreement": agreement}[match[2]]
        return match[1] + made(path, conditions) + match[5]

    return BLOCK.sub(replace, text)


def newest(path: Path, conditions: dict[str, str]) -> list[dict[str, str]]:
    """The rows of a table that are of its newest date and in which the keys have these values."""
    with open(path, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    date = max(row["date"] for row in rows)
    return [row for row in rows if row["date"] == date and all(row[k] == v for k, v in conditions.items())]


def table(path: Path, conditions: dict[str, str]) -> str:
    """Medians as a Markdown table, hardware, versions and date below it."""
    rows = newest(path, conditions)
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    works: dict[tuple, dict[str, float]] = {}
    for row in rows:
        work = row["name"], f"{row['shape']} {row['dtype']}", row["unit"]
        works.setdefault(work, {})[row["provider"]] = float(row["p50"])
    lines = [["", "", "median in", *providers], ["---"] * (3 + len(providers))]
    for work, medians in works.items():
        lines.append([*work, *(_cell(medians, p, providers[0]) for p in providers)])
    notes = dict.fromkeys(f"{row['hardware']}; {row['versions']}; {row['date']}" for row in rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n" + "\n".join(notes) + "\n"


def reached(folder: Path, conditions: dict[str, str]) -> str:
    """Top-1 and gains over vanilla of the runs below a folder as a Markdown table, what they ran on below it."""
    found = [run_folder.read(path) for path in run_folder.find(folder)]
    rows, notes = gains(found, conditions.get("column", ""))
    names = chosen(conditions.get("columns", ""), rows)
    if notes := notes + robustness_table.put(rows, found, names):
        raise ValueError(notes[0])
    made = result_tables.by_method(rows, names)
    texts = [(run.folder / "versions.json").read_text(encoding="utf-8") for run in found]
    commits: dict[str, dict[str, None]] = {}
    for told in map(json.loads, texts):
        commit = told.pop("commit", None)
        commits.setdefault(" ".join(f"{k} {v}" for k, v in told.items() if v), {})[commit or "unknown"] = None
    lines = (f"{versions} commit {', '.join(sorted(each))}\n" for versions, each in commits.items())
    return markdown(*made) + "\n" + "".join(lines)


def robust(folder: Path) -> str:
    """What was measured of the runs below a folder beyond top-1 as a Markdown table, the highest top-1 first."""
    rows, _ = robustness_table.rows(run_folder.read(path) for path in run_folder.find(folder))
    header, lines = robustness_table.lines(sorted(rows, key=lambda row: -row["clean"]))
    return markdown(header[1:], [line[1:] for line in lines])  # without the folders


def agreement(path: Path, conditions: dict[str, str]) -> str:
    """Top-1 at each severity, ours and a generator's, as a Markdown table: a line a corruption; the mean of several."""
    with open(path, newline="", encoding="utf-8") as f:
        rows = [row for row in csv.DictReader(f) if all(row[k] == v for k, v in conditions.items())]
    lines, means = [], []
    for name in dict.fromkeys(row["corruption"] for row in rows):
        mine = sorted((row for row in rows if row["corruption"] == name), key=lambda row: row["severity"])
        here, there = ([float(row[key]) for row in mine] for key in ("top1", "top1_generator"))
        means.append((fmean(here), fmean(there)))
        differ = f"{sum(int(row['images_that_differ']) for row in mine)} of {sum(int(row['images']) for row in mine)}"
        severities = ", ".join(row["severity"] for row in mine)
        each = (" ".join(f"{value:.1f}" for value in values) for values in (here, there))
        lines.append([name.replace("_", " "), severities, *each, f"{means[-1][0] - means[-1][1]:+.2f}", differ])
    ours, theirs = (fmean(column) for column in zip(*means, strict=True))
    if len(lines) > 1:
        lines.append(["mean", "", f"{ours:.2f}", f"{theirs:.2f}", f"{ours - theirs:+.2f}", ""])
    header = [
        "",
        "severity",
        "top-1, here",
        "with the generator",
        "difference of the means",
        "images judged differently",
    ]
    return markdown(header, lines)


def columns(folder: Path) -> str:
    """A Markdown table of the configs of a folder that are columns of the published tables, in their order."""
    found = {}
    for path in folder.glob("*.yaml"):
        cfg = config.load(path)
        found[cfg.column.table, cfg.column.backbone, cfg.column.setting] = path, cfg
    order = dict.fromkeys((cell.table, cell.backbone, cell.setting) for cell in published.cells())
    lines = []
    for key in order:
        path, cfg = found[key]
        recipe = str(cfg.epochs), f"{cfg.optim.name} {cfg.optim.lr:g}", str(cfg.batch_total)
        lines.append([f"`{path.stem}`", *key, *recipe, f"`{cfg.data.train}`, {cfg.data.size} px"])
    return markdown(["config", "table", "backbone", "setting", "epochs", "optimiser", "images a step", "data"], lines)


def short(value: float) -> str:
    """Three digits, or all of a whole number with more."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _cell(medians: dict[str, float], provider: str, first: str) -> str:
    if provider not in medians:
        return ""
    value = medians[provider]
    text = short(value)
    return text if provider == first or first not in medians else f"{text} ({value / medians[first]:.2g}x)"


if __name__ == "__main__":
    sys.exit(run(main, "bench readme"))
