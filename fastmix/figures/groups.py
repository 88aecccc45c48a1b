"""What figures are drawn of: groups of runs that differ in their seed alone, each with its name, look and row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastmix.figures.style import Look, looks
from fastmix.runs.run_folder import Run


@dataclass(frozen=True)
class Group:
    """runs: one a seed. row: what gain_over_vanilla.gains tells of them."""

    runs: list[Run]
    row: dict
    look: Look

    @property
    def name(self) -> str:
        return self.row["name"]


def grouped(found: Sequence[Run], rows: Sequence[dict]) -> list[Group]:
    """The groups in the order of the rows, which are made of these runs."""
    by_folder = {str(run.folder): run for run in found}
    each = looks([row["mix"] for row in rows])
    return [
        Group([by_folder[folder] for folder in row["runs"]], row, look) for row, look in zip(rows, each, strict=True)
    ]
