"""python -m fastmix.report RUN ... | --runs FOLDER | --table NAME: what runs reached, and beside what was published;
as a page with --html."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fastmix import cli, files, optional
from fastmix.ranges import Range
from fastmix.runs import columns, paired, published, result_tables, robustness_table, run_folder, tables
from fastmix.runs.gain_over_vanilla import gains
from fastmix.runs.page.watch import Page
from fastmix.runs.results import compare, summary
from fastmix.runs.run_folder import Run

ENDINGS = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".json": "json"}
"""Of files, and the formats in which they are written."""
PICTURES = ("pdf", "png", "svg")
"""Formats of figures."""


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.report", description="Report runs, or compare them with a published table.")
    parser.add_argument("run", nargs="*", type=Path, help="run folders of fastmix.train")
    parser.add_argument("--runs", type=Path, help="take all runs below this folder (with --table, default: runs)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--columns", metavar="NAME,...", default="", help=f"of the methods: {', '.join(columns.NAMES)}")
    kind.add_argument("--runs-table", action="store_true", help="a row a run, not a row a method, with all its scores")
    kind.add_argument("--table", help="compare with this published table, such as in1k_rsb")
    kind.add_argument(
        "--figures", type=Path, metavar="FOLDER", help="draw learning curves, costs, gains and robustness into a folder"
    )
    kind.add_argument("--robustness", action="store_true", help="a row a run: what fastmix.robustness measured")
    kind.add_argument("--compare", action="store_true", help="two runs, or two methods' runs, image by image")
    kind.add_argument("--list", action="store_true", help="list the published tables")
    parser.add_argument("--column", default="", help="gains beside those of this one, such as cifar10/ResNet-18/200ep")
    parser.add_argument(
        "--metric-compat", choices=("openmixup",), help="with --runs-table, --table: the windows of its scripts first"
    )
    parser.add_argument(
        "--format",
        choices=(*ENDINGS.values(), *PICTURES),
        help="default: what the ending of --out says, or markdown; of figures: pdf",
    )
    parser.add_argument("--out", type=Path, help=f"write to this file, not to the terminal: {', '.join(ENDINGS)}")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page: tables, curves, pictures")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=cli.number(float, Range(1, 86_400)),
        const=30.0,
        metavar="SECONDS",
        help="with --html: write it again every so many seconds (30) until all runs have ended",
    )
    args = parser.parse_intermixed_args(argv)
    if args.html or args.watch:
        return _page(args)
    form = _picture(args.format, args.out) if args.figures else _format(args.format, args.out)
    if args.list:
        print("\n".join(f"{name}: {result_tables.shape(name)}" for name in published.tables()))
        return 0
    if args.run and args.runs:
        raise ValueError("give run folders or --runs FOLDER, not both")
    if args.column and (args.table or args.runs_table or args.robustness or args.compare):
        raise ValueError("--column goes with the table of methods and with figures, not with other tables")
    if args.compare and form != "markdown":
        raise ValueError(f"--compare tells lines and no table: give --out FILE.md or none, not {form}")
    if args.metric_compat and not (args.table or args.runs_table):
        raise ValueError("--metric-compat goes with --table or --runs-table; --columns has script_median, script_best")
    columns.chosen(args.columns, [])  # an unknown name is told before any run is read
    cells = published.table(args.table) if args.table else []
    if args.figures:
        optional.need("--figures", "matplotlib")
    found = _read(args)
    script = args.metric_compat == "openmixup"
    if args.figures:
        return _figures(found, args.column, args.figures, form)
    if cells:
        text, notes = _beside(cells, found, script, form)
    elif args.runs_table:
        rows = summary(found)
        text, notes = _text(form, rows, *result_tables.by_run(rows, script)), []
    elif args.robustness:
        rows, notes = robustness_table.rows(found)
        if not rows:
            raise ValueError(notes[0])
        text = _text(form, rows, *robustness_table.lines(rows))
    elif args.compare:
        text, notes = "".join(f"{line}\n" for line in paired.compare(found)), []
    else:
        text, notes = _methods(found, args.columns, args.column, form)
    print("".join(f"{note}\n" for note in notes), end="", file=sys.stderr)
    if args.out:
        files.write_text(args.out, text)
    else:
        print(text, end="")
    return 0


def _read(args: argparse.Namespace) -> list[Run]:
    """The runs that are asked for. Raises ValueError where there are none, but for a published table."""
    folders = args.run or (run_folder.find(args.runs or "runs") if args.runs or args.table else [])
    if not folders and not args.table:
        raise ValueError(f"{args.runs}: no runs below it" if args.runs else "give run folders, or --table NAME")
    found = [run_folder.read(folder) for folder in dict.fromkeys(folders)]
    for line in (line for run in found for line in run.passed):
        print(f"fastmix report: {line} is no log line; passed over", file=sys.stderr)
    return found


def _methods(found: list[Run], asked: str, column: str, form: str) -> tuple[str, list[str]]:
    """The table of methods, and notes on what is not in it."""
    rows, notes = gains(found, column)
    names = columns.chosen(asked, rows)
    notes += robustness_table.put(rows, found, names)
    kept = [{key: row[key] for key in columns.keys(names)} for row in rows] if asked else rows
    return _text(form, kept, *result_tables.by_method(rows, names)), notes


def _figures(found: list[Run], column: str, folder: Path, form: str) -> int:
    """Draws, and tells which files there are and which are not, and why."""
    from fastmix import figures

    rows, notes = gains(found, column)
    written, left = figures.write(found, rows, folder, form)
    print("".join(f"{note}\n" for note in notes + left), end="", file=sys.stderr)
    print("\n".join(map(str, written)))
    return 0


def _beside(cells: list[published.Cell], found: list[Run], script: bool, form: str) -> tuple[str, list[str]]:
    """A published table with ours, and notes on runs that are not in it, which Markdown holds itself."""
    rows, notes = compare(cells, found, "script_median" if script else "median")
    text = _text(form, rows, *result_tables.by_cell(rows), result_tables.cells_legend(rows, script))
    if form != "markdown":
        return text, notes
    text += "\n" * bool(notes) + "".join(f"- {note}\n" for note in notes)
    used = {folder for row in rows for folder in row["runs"]}
    if used:
        theirs = summary(run for run in found if str(run.folder) in used)
        text += "\n" + tables.markdown(*result_tables.by_run(theirs, script))
    return text, []


def _text(form: str, rows: list[dict], header: list[str], lines: list[list[str]], legend: Sequence[str] = ()) -> str:
    """Rows as they are, or the table that is made of them, in a format of ENDINGS."""
    if form == "json":
        return json.dumps(rows, indent=1) + "\n"
    if form == "csv":
        return result_tables.as_csv(rows)
    return (tables.markdown if form == "markdown" else tables.latex)(header, lines, legend)


def _page(args: argparse.Namespace) -> int:
    """Writes the page about the runs, once or until they have ended."""
    if args.html is None:
        raise ValueError("--watch goes with --html FILE")
    if args.table or args.runs_table or args.figures or args.list or args.metric_compat or args.format or args.out:
        raise ValueError("--html goes with run folders, --runs, --columns, --column and --watch, and with nothing else")
    if args.html.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{args.html}: a page is written to .html")
    files.require_folder(args.html)
    if bool(args.run) == bool(args.runs):
        raise ValueError("give run folders or --runs FOLDER" + ", not both" * bool(args.run))
    columns.chosen(args.columns, [])
    if args.column:
        published.column(args.column)  # unknown names are told now, not when a run is whole
    page = Page(args.html, args.run, args.runs, args.columns, args.column)
    if args.watch:
        print(f"{args.html}: written every {args.watch:g} s until all runs have ended, or Ctrl-C", flush=True)
        page.watch(args.watch, lambda line: print(line, flush=True))
        return 0
    page.look()
    if not page.found:
        raise ValueError(f"{args.runs}: no runs below it")
    page.write()
    return 0


def _picture(asked: str | None, out: Path | None) -> str:
    """The format of figures. Raises ValueError for one of tables."""
    if out or asked in ENDINGS.values():
        wrong = f"--out {out}" if out else f"--format {asked}"
        raise ValueError(f"{wrong} is for tables; figures go to --figures FOLDER in --format {', '.join(PICTURES)}")
    return asked or "pdf"


def _format(asked: str | None, out: Path | None) -> str:
    """The format that is asked for, or told by the ending of a file. Raises ValueError where the two differ."""
    if asked in PICTURES:
        raise ValueError(f"--format {asked} is one of figures: give --figures FOLDER")
    if out is None:
        return asked or "markdown"
    told = ENDINGS.get(out.suffix.lower())
    if told is None or asked not in (None, told):
        wanted = ", ".join(f"{ending} ({name})" for ending, name in ENDINGS.items())
        raise ValueError(f"{out}: a report is written to {wanted}" + f"; --format is {asked}" * bool(asked))
    return told


if __name__ == "__main__":
    sys.exit(cli.run(main, "report"))
