"""What changes from one epoch to another in the course of a run: frozen layers thaw, and mixing ends."""

from __future__ import annotations

from fastmix.config import Config
from fastmix.engine.task import Task


class Phases:
    """enter(epoch) puts the task into the state of that epoch, a function of the config and the epoch alone.

    Where it changes, parameters begin or cease to have gradients, so what wraps the task must be made anew.
    """

    def __init__(self, cfg: Config, task: Task):
        self.task = task
        self.unmixed = round((1 - cfg.mix_off) * cfg.epochs)
        self.thaw = cfg.epochs if cfg.model.unfreeze is None else cfg.model.unfreeze
        self.learned = [p for p in task.mixer.parameters() if p.requires_grad]
        self.state: tuple[bool, bool] | None = None

    def enter(self, epoch: int) -> list[str]:
        """Lines that say what is other than in the epoch before; none where nothing is."""
        state, before = (epoch < self.unmixed, epoch >= self.thaw), self.state
        if state == before:
            return []
        self.state, (self.task.mixing, thawed) = state, state
        self.task.frozen.set(thawed)
        for p in self.learned:
            p.requires_grad_(self.task.mixing)
        lines = []
        if not self.task.mixing:
            lines.append(f"epoch {epoch}: mixing is off")
        if thawed and self.task.frozen.parameters and not (before and before[1]):
            lines.append(f"epoch {epoch}: frozen layers thaw")
        return lines
