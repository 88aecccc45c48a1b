"""Where a run is, and its checkpoints: written atomically, read without running code from the file, resumed exactly."""

from __future__ import annotations

from pathlib import Path

import torch

from fastmix import files
from fastmix.config import FREE_TO_CHANGE, Config, differences, from_tree, to_tree

RESTORED = ("step", "best", "validated", "result", "meter")


class State:
    """Step count, best result and what the loop has summed up since its last line; saves and restores a whole run.

    Every random choice is a function of (seed, step), so no generator's state is stored.
    """

    LAST = "last.pt"

    def __init__(self, folder: Path, cfg: Config, parts: dict):
        """parts: name -> object with state_dict() and load_state_dict(): task, optimiser, scaler, EMA."""
        self.folder, self.cfg, self.parts = folder, cfg, parts
        self.step = 0
        self.best = -1.0
        self.validated = 0  # epochs
        self.result: dict[str, float] = {}
        self.stop = False
        self.meter = torch.zeros(3)  # loss sum, count, first step that was not finite; stays on the device

    @property
    def last(self) -> Path:
        return self.folder / self.LAST

    def record(self, loss: torch.Tensor) -> None:
        """Adds a step's (or part's) loss to the meter, without a host sync."""
        bad = ~torch.isfinite(loss) & (self.meter[2] == 0)
        self.meter += torch.stack([loss.float(), torch.ones_like(loss, dtype=torch.float32), bad * (self.step + 1.0)])

    def save(self, name: str = LAST) -> None:
        """Writes the run to the folder; a reader never sees half a file."""
        content = {name: part.state_dict() for name, part in self.parts.items()}
        content["run"] = {name: getattr(self, name) for name in RESTORED} | {"config": to_tree(self.cfg)}
        files.write_torch(self.folder / name, content)

    def keep(self, epoch: int) -> None:
        """Keeps the run as it is after this epoch, and no more of these than `keep` of the config says."""
        if self.cfg.keep:
            self.save(f"epoch_{epoch:04}.pt")
            for old in sorted(self.folder.glob("epoch_*.pt"))[: -self.cfg.keep]:
                old.unlink()

    def restore(self) -> None:
        """Continues from last.pt. Raises ValueError for a damaged file or one of another config."""
        content = files.read_torch(self.last)
        theirs = from_tree(content["run"]["config"], str(self.last))
        if keys := differences(theirs, self.cfg, FREE_TO_CHANGE):
            raise ValueError(f"{self.last} belongs to another config; these keys differ: {', '.join(keys)}")
        for name, part in self.parts.items():
            part.load_state_dict(content[name])
        for name in RESTORED:
            setattr(self, name, content["run"][name])
