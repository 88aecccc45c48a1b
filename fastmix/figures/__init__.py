"""Figures of runs for print, by matplotlib (the extra `figures`), which nothing else of the package imports."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fastmix.figures import confusion, cost, gains, learning, robustness
from fastmix.figures.groups import grouped
from fastmix.figures.style import save, styled
from fastmix.runs.run_folder import Run


def write(found: Sequence[Run], rows: Sequence[dict], folder: Path, kind: str) -> tuple[list[Path], list[str]]:
    """Writes the figures of runs, of which gain_over_vanilla.gains made the rows, into a folder; kind: pdf, png or svg.

    Returns the files, and a line for each figure that there is nothing to draw for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with styled():
        groups = grouped(found, rows)
        figures = {
            "top1": (learning.draw(groups, "val/top1", "validation top-1 (%)"), "no validation in the logs"),
            "ema_top1": (learning.draw(groups, "val/ema_top1", "top-1 of the average (%)"), ""),
            "loss": (learning.draw(groups, "train/loss", "training loss"), "no training loss in the logs"),
            "cost_hours": (cost.draw(groups, cost.hours, "hours"), "all took the same time"),
            "cost_images": (
                cost.draw(groups, cost.images, "million training images"),
                "all saw the same number of images",
            ),
            "gains": (gains.draw(groups), "no runs of vanilla with the others' seeds and model"),
        }
        none = "no confusion.csv in the run folders (fastmix.validate RUN --confusion RUN/confusion.csv)"
        tables = {f"confusion_{_safe(group.name)}": (confusion.draw(group), "") for group in groups}
        figures |= tables if any(figure for figure, _ in tables.values()) else {"confusion": (None, none)}
        figures |= robustness.draw(groups)
        written = {folder / f"{name}.{kind}": figure for name, (figure, _) in figures.items() if figure}
        for path, figure in written.items():
            save(figure, path, kind)
    return list(written), [f"{name}: not drawn, {why}" for name, (figure, why) in figures.items() if not figure and why]


def _safe(name: str) -> str:
    """As part of a file's name."""
    return re.sub(r"[^\w.=+-]+", "-", name)
