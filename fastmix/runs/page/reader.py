"""Run folders looked at again and again: of each is read only what has changed since."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fastmix.runs import data_seen, queue, run_folder
from fastmix.runs.curves import Curve, curve
from fastmix.runs.run_folder import Run

READ = ("config.yaml", "log.jsonl", "model.safetensors", data_seen.FILE, run_folder.EARLY)
"""Files of which a run is made."""


BARE = "without weights"
"""State of a run whose last epoch is in the log, and whose weights are elsewhere."""
ENDED = ("finished", "failed", queue.EARLY, BARE)
LOSS = "train/loss"


def score(run: Run) -> str:
    """The name in the log (curves.names) of top-1 of the weights that are saved: their average, where there is one."""
    last = run.val[max(run.val)] if run.val else {}
    return "val/ema_top1" if "ema_top1" in last else "val/top1"


@dataclass
class Seen:
    """A run as the page shows it."""

    run: Run
    state: str
    """of queue.state, or BARE."""
    why: str
    """Of a failed one the last line of its error, of one that was stopped early by what (queue.why)."""
    top1: Curve
    """Percent."""
    loss: Curve
    """The training loss."""


class Reader:
    """Reads run folders; keeps what it has read."""

    def __init__(self):
        self.runs: dict[Path, tuple[tuple, Run, Curve, Curve]] = {}

    def read(self, folder: Path) -> Seen:
        """The run in a folder. Raises ValueError as run_folder.read does."""
        now = _signs(folder, READ)
        if folder not in self.runs or self.runs[folder][0] != now:
            run = run_folder.read(folder)
            self.runs[folder] = now, run, curve(run, score(run)), curve(run, LOSS)
        _, run, top1, loss = self.runs[folder]
        state = queue.state(folder, run.finished)
        if state == "stopped" and run.whole:
            state = BARE
        return Seen(run, state, queue.why(folder, state), top1, loss)


def _signs(folder: Path, names: Iterable[str]) -> tuple:
    """What changes with a file's content: its time and size; None where it is not there."""
    signs = []
    for name in names:
        try:
            found = os.stat(folder / name)
            signs.append((found.st_mtime_ns, found.st_size, found.st_ino))
        except OSError:
            signs.append(None)
    return tuple(signs)
