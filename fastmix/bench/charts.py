"""python -m fastmix.bench charts [--results FOLDER] [--out FOLDER]: the README's charts, from the tables in results/.

Bars are medians, and their whiskers the 20th and 80th percentile, of the newest rows, as in the pages' tables. Texts of
an SVG file stay texts, so that a test can read its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fastmix import files, optional
from fastmix.bench.readme import newest, short
from fastmix.cli import Parser

OURS, PEERS = "#0072B2", "#E69F00"  # Okabe and Ito's blue and orange
STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "fastmix"}
WIDTH, BAR = 8.0, 0.2  # inches: of a chart, of a bar


@dataclass(frozen=True)
class Chart:
    """A panel for each work: its heading and what its rows are called."""

    title: str
    table: str
    conditions: dict[str, str]
    panels: dict[str, str]
    across: int
    without: set[str] = field(default_factory=set)


TUNED = "{}, allocator keeps memory"
MIXES = {"plain": "normalised only", "mixup": "MixUp", "cutmix": "CutMix", "mixup+cutmix": "one or the other"}
CHARTS = {
    "loader": Chart(
        "Loading: processor time of an image of 224 px",
        "loader_cpu.csv",
        {"unit": "CPU ms/image"},
        {
            "random crops of 500 px JPEGs": "rrc 500 px q90",
            "of the original photographs": "rrc originals",
            "of 500 px JPEGs, seekable": "rrc 500 px q90 seekable",
            "of packed pixels": "rrc 500 px raw",
        },
        2,
    ),
    "mix": Chart(
        "Mixing and normalising 64 images of 224 px, uint8 to fp32",
        "mix_cpu.csv",
        {"dtype": "fp32"},
        {
            heading: work
            for name, words in MIXES.items()
            for heading, work in ((words, name), (TUNED.format(words), f"{name}, tuned malloc"))
        },
        2,
        {"torch eager", "plain numba loop"},  # nobody's ways; beside the first the others would be dots
    ),
    "plan": Chart(
        "Deciding how a batch of 256 images is mixed",
        "plan_cpu.csv",
        {"unit": "CPU ms"},
        {"SaliencyMix": "saliencymix"} | {f"PuzzleMix, {n} x {n} blocks": f"puzzlemix {n}x{n}" for n in (4, 8, 16)},
        2,
        {"fastmix, whole plan"},
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Writes NAME.svg of each chart. Raises ValueError without matplotlib, folder or tables."""
    parser = Parser("fastmix bench charts", description="Draw the README's charts from measured tables.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where the tables are")
    parser.add_argument("--out", type=Path, default=Path("docs/charts"), help="where the charts go")
    args = parser.parse_args(argv)
    optional.need("fastmix bench charts", "matplotlib")
    files.require_folder(args.out / "any.svg")
    from matplotlib import rc_context

    for name, chart in CHARTS.items():
        with rc_context(STYLE):
            figure = draw(chart, args.results)
            with files.whole(args.out / f"{name}.svg") as part:
                figure.savefig(part, format="svg", metadata={"Date": None})
        print(args.out / f"{name}.svg")
    return 0


def draw(chart: Chart, results: Path):
    """The figure: in each panel a bar for each provider."""
    from matplotlib.figure import Figure

    rows = [row for row in newest(results / chart.table, chart.conditions) if row["provider"] not in chart.without]
    panels = {heading: [row for row in rows if row["name"] == work] for heading, work in chart.panels.items()}
    sizes = [len(part) for part in panels.values()]
    heights = [max(sizes[k : k + chart.across]) + 1.2 for k in range(0, len(sizes), chart.across)]
    figure = Figure((WIDTH, BAR * (sum(heights) + 3)), layout="constrained")
    axes = figure.subplots(len(heights), chart.across, squeeze=False, height_ratios=heights).flat
    for axis, (heading, part) in zip(axes, panels.items(), strict=True):
        axis.set_title(heading, loc="left", fontsize=9)
        _bars(axis, part)
    figure.suptitle(chart.title, x=0.01, ha="left", weight="bold")
    figure.supxlabel(f"{rows[0]['unit']}, less is better; {rows[0]['hardware']}, {rows[0]['date']}", fontsize=8)
    return figure


def _bars(axis, rows: list[dict[str, str]]) -> None:
    """A line a row, from above, its median at its end."""
    for y, row in enumerate(rows):
        low, median, high = (float(row[key]) for key in ("p20", "p50", "p80"))
        axis.barh(y, median, 0.8, color=OURS if row["provider"].startswith("fastmix") else PEERS)
        axis.plot([low, high], [y, y], color="black", linewidth=0.8)
        axis.annotate(short(median), (max(median, high), y), (4, 0), textcoords="offset points", va="center")
    axis.set_yticks(range(len(rows)), [row["provider"] for row in rows])
    axis.set_xticks([])
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
