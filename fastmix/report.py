"""python -m fastmix.report RUN ... | --runs FOLDER | --table NAME: what runs reached, and beside what was published."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fastmix import cli, files
from fastmix.runs import paired, published, result_tables, robustness_table, run_folder, tables
from fastmix.runs.gain_over_vanilla import gains
from fastmix.runs.published import table
from fastmix.runs.results import compare, summary

ENDINGS = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".json": "json"}
"""Of files, and the formats in which they are written."""


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.report", description="Report runs, or compare them with a published table.")
    parser.add_argument("run", nargs="*", type=Path, help="run folders of fastmix.train")
    parser.add_argument("--table", help="compare with this published table, such as in1k_rsb")
    parser.add_argument("--gains", action="store_true", help="a row a method: final top-1 and gain over vanilla")
    parser.add_argument("--column", default="", help="with --gains: beside this one, such as cifar10/ResNet-18/200ep")
    parser.add_argument("--runs", type=Path, help="take all runs below this folder (with --table, default: runs)")
    parser.add_argument("--robustness", action="store_true", help="a row a run: what fastmix.robustness measured")
    parser.add_argument("--compare", action="store_true", help="two runs, or two methods' runs, image by image")
    parser.add_argument("--list", action="store_true", help="list the published tables")
    parser.add_argument("--metric-compat", choices=("openmixup",), help="put the windows of its scripts first")
    parser.add_argument(
        "--format", choices=tuple(ENDINGS.values()), help="default: what the ending of --out says, or markdown"
    )
    parser.add_argument("--out", type=Path, help=f"write to this file, not to the terminal: {', '.join(ENDINGS)}")
    args = parser.parse_intermixed_args(argv)
    args.format = _format(args.format, args.out)
    if args.list:
        print("\n".join(f"{name}: {result_tables.shape(name)}" for name in published.tables()))
        return 0
    if args.run and args.runs:
        raise ValueError("give run folders or --runs FOLDER, not both")
    if args.gains and (args.table or args.metric_compat) or args.column and not args.gains:
        raise ValueError("--gains goes with run folders, --runs and --column, and --column with nothing else")
    if args.robustness + args.compare + bool(args.table or args.gains or args.metric_compat) > 1:
        raise ValueError("--robustness and --compare go with run folders and --runs, and with no other table")
    cells = table(args.table) if args.table else None  # an unknown name is told before any run is read
    folders = args.run or (run_folder.find(args.runs or "runs") if args.runs or args.table else [])
    if not folders and not args.table:
        raise ValueError(f"{args.runs}: no runs below it" if args.runs else "give run folders, or --table NAME")
    found = [run_folder.read(folder) for folder in dict.fromkeys(folders)]
    for line in (line for run in found for line in run.passed):
        print(f"fastmix report: {line} is no log line; passed over", file=sys.stderr)
    if args.compare:
        text = "".join(f"{line}\n" for line in paired.compare(found))
        files.write_text(args.out, text) if args.out else print(text, end="")
        return 0
    script = args.metric_compat == "openmixup"
    if cells:
        rows, notes = compare(cells, found, "script_median" if script else "median")
    elif args.robustness:
        rows, notes = robustness_table.rows(found)
        if not rows:
            raise ValueError(notes[0])
    else:
        rows, notes = gains(found, args.column) if args.gains else summary(found), []
    if args.format == "json":
        text = json.dumps(rows, indent=1) + "\n"
    elif args.format == "csv":
        text = result_tables.as_csv(rows)
    else:
        render = tables.markdown if args.format == "markdown" else tables.latex
        if cells:
            lines = result_tables.by_cell(rows)
        elif args.robustness:
            lines = robustness_table.lines(rows)
        else:
            lines = result_tables.by_method(rows) if args.gains else result_tables.by_run(rows, script)
        text = render(*lines)
        if args.format == "markdown" and args.gains:
            text += result_tables.gains_legend(rows)
        if args.format == "markdown" and cells:
            text += result_tables.cells_legend(script) + "".join(f"\n- {note}" for note in notes) + "\n" * bool(notes)
            used = {folder for row in rows for folder in row["runs"]}
            if used:
                theirs = summary(run for run in found if str(run.folder) in used)
                text += "\n" + render(*result_tables.by_run(theirs, script))
    if args.format != "markdown" or args.robustness:
        print("".join(f"{note}\n" for note in notes), end="", file=sys.stderr)
    if args.out:
        files.write_text(args.out, text)
    else:
        print(text, end="")
    return 0


def _format(asked: str | None, out: Path | None) -> str:
    """The format that is asked for, or told by the ending of a file. Raises ValueError where the two differ."""
    if out is None:
        return asked or "markdown"
    told = ENDINGS.get(out.suffix.lower())
    if told is None or asked not in (None, told):
        wanted = ", ".join(f"{ending} ({name})" for ending, name in ENDINGS.items())
        raise ValueError(f"{out}: a report is written to {wanted}" + f"; --format is {asked}" * bool(asked))
    return told


if __name__ == "__main__":
    sys.exit(cli.run(main, "report"))
