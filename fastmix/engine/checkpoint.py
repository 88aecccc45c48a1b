"""Where a run is, and its checkpoints: written atomically, read without running code from the file, resumed exactly."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fastmix import files
from fastmix.config import FREE_TO_CHANGE, Config, differences, from_tree, load, to_tree
from fastmix.distributed import gather, rank, world
from fastmix.errors import foreign

RESTORED = ("step", "best", "validated", "result", "meter")


class State:
    """Step count, best result and what the loop has summed up since its last line; saves and restores a whole run.

    Every random choice is a function of (seed, step), so no generator's state is stored. What differs between
    processes, buffers (batch-norm statistics) and the meter, is stored of each.
    """

    LAST = "last.pt"

    def __init__(self, folder: Path, cfg: Config, parts: dict, steps: int):
        """parts: name -> object with state_dict() and load_state_dict(): task, opt, scaler, ema; steps: of the run."""
        self.folder, self.cfg, self.parts, self.steps = folder, cfg, parts, steps
        self.step = 0
        self.best = -1.0
        self.validated = 0  # epochs
        self.result: dict[str, float] = {}
        self.stop = False  # this process was asked to
        self.stopped = False  # all have agreed to
        self.meter = torch.zeros(3)  # loss sum, count, first step that was not finite; stays on the device

    @property
    def last(self) -> Path:
        return self.folder / self.LAST

    @property
    def score(self) -> float:
        """Top-1 of the last validation, in percent: of the average of the weights, if there is one."""
        return self.result["ema_top1" if "ema" in self.parts else "top1"]

    def kept(self) -> str:
        """What an error says of the last good checkpoint."""
        return f"the last good checkpoint is {self.last}" if self.last.exists() else "there is no checkpoint yet"

    def record(self, loss: Tensor) -> None:
        """Adds a step's (or part's) loss to the meter, without a host sync."""
        bad = ~torch.isfinite(loss) & (self.meter[2] == 0)
        self.meter += torch.stack([loss.float(), torch.ones_like(loss, dtype=torch.float32), bad * (self.step + 1.0)])

    def save(self, name: str = LAST) -> None:
        """Writes the run to the folder, called by all processes; a reader never sees half a file.

        Raises FloatingPointError, and keeps the old file, where a weight is not finite.
        """
        content = {name: part.state_dict() for name, part in self.parts.items()}
        for part, module in self.modules().items():
            for key, value in content[part].items():
                if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
                    what = f"{type(module).__name__}: {key}"
                    raise FloatingPointError(f"the weights are not finite after step {self.step} ({what})")
        content["processes"] = gather(self._own(content)) if world() > 1 else []
        content["run"] = {name: getattr(self, name) for name in RESTORED}
        content["run"] |= {"config": to_tree(self.cfg), "steps": self.steps}
        if rank() == 0:
            files.write_torch(self.folder / name, content)

    def keep(self, epoch: int) -> None:
        """Keeps the run as it is after this epoch, and no more of these than `keep` of the config says."""
        if self.cfg.keep:
            self.save(f"epoch_{epoch:04}.pt")
        for old in sorted(self.folder.glob("epoch_*.pt"))[: -self.cfg.keep] if self.cfg.keep and rank() == 0 else ():
            old.unlink()

    def _own(self, content: dict) -> dict:
        """What differs between processes: persistent buffers by part and name, and the meter."""
        buffers = {
            name: {key: buffer for key, buffer in module.named_buffers() if key in content[name]}
            for name, module in self.modules().items()
        }
        return {"buffers": buffers, "meter": self.meter}

    def modules(self) -> dict[str, nn.Module]:
        return {name: part for name, part in self.parts.items() if isinstance(part, nn.Module)}

    def restore(self) -> str:
        """Continues from last.pt; returns what is to be said of it, if anything.

        Raises ValueError for a damaged file or one of another config.
        """
        content = files.read_torch(self.last)
        run = content.get("run") if isinstance(content, dict) else None
        if not (isinstance(run, dict) and {*RESTORED, "config"} <= run.keys() and self.parts.keys() <= content.keys()):
            raise ValueError(f"{self.last}: no checkpoint of a run with {', '.join(self.parts)}")
        self._compare(from_tree(run["config"], str(self.last)), self.last)
        self._check(run)
        for name, part in self.parts.items():
            with foreign(f"{self.last}: its {name} does not fit this run"):
                part.load_state_dict(content[name])
        self._check_optimiser()
        for name in RESTORED:
            setattr(self, name, run[name])
        if each := content.get("processes"):
            with foreign(f"{self.last}: its buffers do not fit this run"):
                self._restore_own(each)
        return files.note(self.last)

    def require_same(self) -> None:
        """Raises ValueError where the folder's config.yaml, of a run that ended before its first save, is another."""
        path = self.folder / "config.yaml"
        if path.exists():
            self._compare(load(path), path)

    def _compare(self, theirs: Config, where: Path) -> None:
        if keys := differences(theirs, self.cfg, FREE_TO_CHANGE):
            raise ValueError(f"{where} belongs to another config; these keys differ: {', '.join(keys)}")

    def _check(self, run: dict) -> None:
        """Raises ValueError where the numbers of a run are of another kind, or out of their range."""
        steps, result, meter = run.get("steps", self.steps), run["result"], run["meter"]
        good = {
            "step": type(run["step"]) is int and 0 <= run["step"] <= self.steps,
            "validated": type(run["validated"]) is int and 0 <= run["validated"] <= self.cfg.epochs,
            "best": type(run["best"]) is float and -1 <= run["best"] <= 100,
            "result": isinstance(result, dict) and all(isinstance(v, int | float) for v in result.values()),
            "meter": isinstance(meter, Tensor) and meter.shape == (3,) and meter.dtype == torch.float32,
        }
        if steps != self.steps:
            raise ValueError(
                f"{self.last}: a run of {steps} steps, but with this data it has {self.steps}: resume it with a "
                "data.train as large as it was"
            )
        for key, fine in good.items():
            if not fine:
                raise ValueError(
                    f"{self.last}: {key} is {str(run[key])[:40]}, which no run of {self.steps} steps has: the file is "
                    "damaged"
                )

    def _check_optimiser(self) -> None:
        """Raises ValueError where the optimiser keeps a tensor of another shape than its parameter's."""
        opt = self.parts["opt"]
        for p, kept in opt.state.items():
            for key, value in kept.items():
                if isinstance(value, Tensor) and value.numel() != 1 and value.shape != p.shape:
                    raise ValueError(
                        f"{self.last}: its opt does not fit this run: {key} is {list(value.shape)} for a parameter of "
                        f"{list(p.shape)}"
                    )

    def _restore_own(self, each: list[dict]) -> None:
        """Gives this process its own buffers and meter; where there were more or fewer, the mean of all, as a
        validation does, and the first one the meters' sum."""
        same = len(each) == world()
        mine = [each[rank()]] if same else each
        for name, module in self.modules().items():
            own = {key: joined([one["buffers"][name][key] for one in mine]) for key in mine[0]["buffers"][name]}
            if unknown := module.load_state_dict(own, strict=False).unexpected_keys:
                raise ValueError(f"{name} has no {unknown[0]}")
        meter = torch.stack([one["meter"] for one in mine]).sum(0)
        self.meter = meter if same or rank() == 0 else torch.zeros(3)


def joined(values: list[Tensor]) -> Tensor:
    """One buffer in place of several processes': the mean of numbers, if their shapes agree, else the first."""
    alike = values[0].is_floating_point() and len({value.shape for value in values}) == 1
    return torch.stack(values).mean(0) if alike else values[0]
