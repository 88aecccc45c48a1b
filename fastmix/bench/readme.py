"""python -m fastmix.bench.readme [FILE]: writes the tables of measured numbers into the README.

A table stands between `<!-- table: results/NAME.csv -->` and `<!-- end -->` and holds the rows of the newest date in
that file (written by `python -m fastmix.bench ... --csv results/NAME.csv`). Nobody types a number.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

from fastmix.cli import run

BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
COLUMNS = ("name", "provider", "shape", "dtype", "p20", "p50", "p80", "unit", "share_of_copy")


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    path = Path(argv[0] if argv else "README.md")
    path.write_text(fill(path.read_text(encoding="utf-8"), path.parent), encoding="utf-8")
    return 0


def fill(text: str, root: Path) -> str:
    """The text with every block's table made anew from its csv file, a path below `root`."""
    return BLOCK.sub(lambda m: m[1] + table(root / m[2]) + m[3], text)


def table(path: Path) -> str:
    """The newest rows of a csv file as a Markdown table, hardware, versions and date below."""
    with open(path, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    newest = max(row["date"] for row in rows)
    rows = [row for row in rows if row["date"] == newest]
    used = [c for c in COLUMNS if any(row[c] for row in rows)]
    lines = [used, ["---"] * len(used)] + [[_cell(c, row[c]) for c in used] for row in rows]
    notes = dict.fromkeys(f"{row['hardware']}; {row['versions']}; {row['date']}" for row in rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n" + "\n".join(notes) + "\n"


def _cell(column: str, text: str) -> str:
    if column == "share_of_copy" and text:
        return f"{float(text):.0%}"
    if column in ("p20", "p50", "p80"):
        value = float(text)
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return text


if __name__ == "__main__":
    sys.exit(run(main, "bench readme"))
