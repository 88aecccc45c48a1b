"""The page written, once or again and again while runs go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fastmix import files
from fastmix.runs import queue, run_folder
from fastmix.runs.page import methods
from fastmix.runs.page.pictures import Album
from fastmix.runs.page.reader import ENDED, Reader, Seen
from fastmix.runs.page.render import render

SETTLE = 5.0
"""Seconds from a look at runs that have all ended to the last one: a sweep goes from one run to the next in less."""


class Page:
    """A page in a file, about given run folders, or about all that are below a folder whenever one looks.

    columns, column: of the table of methods, as report has them (columns.chosen, gain_over_vanilla.gains).
    """

    def __init__(
        self, out: Path, runs: Sequence[Path] = (), below: Path | None = None, columns: str = "", column: str = ""
    ):
        self.out, self.runs, self.below = out, list(dict.fromkeys(runs)), below
        self.columns, self.column = columns, column
        self.reader, self.album = Reader(), Album()
        self.found: list[Seen] = []
        self.told: list[str] = []

    def look(self) -> bool:
        """Reads what has changed. Whether all runs have ended: are finished, or failed, and no process has a lock.

        Raises ValueError for a folder that cannot be read; in later looks that is a note on the page.
        """
        found, told, ended = [], [], True
        for folder in self.runs or run_folder.find(self.below):
            try:
                seen = self.reader.read(folder)
            except (ValueError, OSError) as error:
                if not self.found:
                    raise
                told.append(str(error))
            else:
                found.append(seen)
                ended &= seen.state in ENDED and not run_folder.is_locked(folder)
        for folder in _without_config(self.below):
            if run_folder.is_locked(folder):
                ended = False
            elif (folder / queue.FAILED).is_file():
                told.append(f"{folder}: failed before it began: {queue.why(folder, 'failed')}")
        self.found, self.told = found, told
        return ended and bool(found)

    def write(self, every: float | None = None) -> None:
        """The page, whole or not at all. `every`: seconds after which it loads itself again."""
        table = methods.made([seen.run for seen in self.found], self.columns, self.column)
        files.write_text(self.out, render(self.found, table, self.album, self.out.parent, self.told, every))

    def watch(self, every: float, say: Callable[[str], None]) -> None:
        """Writes it every so many seconds until all runs have ended; then, and when interrupted, as one that stays.

        `say` is called with a line where there is no run yet.
        """
        ended, waits = False, False
        try:
            while True:
                before, ended = ended, self.look()
                if before and ended:
                    return
                if self.found:
                    self.write(every)
                elif not waits:
                    say(f"{self.below}: no run has begun yet")
                    waits = True
                time.sleep(SETTLE if ended else every)
        finally:
            if self.found:
                self.write()


def _without_config(below: Path | None) -> list[Path]:
    """Folders below that are made for a run, which has not come as far as its config."""
    marks = (path for name in (run_folder.LOCK, queue.FAILED) for path in (below.rglob(name) if below else ()))
    return sorted({path.parent for path in marks if not (path.parent / "config.yaml").exists()})
