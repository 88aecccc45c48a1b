"""What every method has in common: a mixer turns a batch into a loss."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.targets import Targets

GRANULARITIES = ("batch", "sample")
VARIANTS = ("paper", "openmixup")


class Mixer(nn.Module):
    """A training method. Input mixers write plan(); feature, learned and label mixers override forward().

    Evaluation never touches a mixer: the saved model is the plain one.
    """

    def plan(self, batch: Batch) -> Plan | None:
        """How this batch is mixed; None: not at all. All randomness comes from batch.rng."""
        raise NotImplementedError

    def forward(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Tensor:
        """The training loss of one batch (a float32 scalar)."""
        plan = self.plan(batch)
        if plan is not None:
            plan = plan.to(batch.images.device)
        return criterion(model(batch.mix(plan)), Targets.of(batch.labels, plan))

    def param_groups(self) -> list[dict]:
        """Parameters of the method's own, as optimiser groups (`lr_scale`, `weight_decay`)."""
        return []

    def after_step(self, model: nn.Module) -> None:
        """Called after each optimiser step: momentum teachers."""

    def set_progress(self, t: float) -> None:
        """Called before each step with the share of the run that is done, 0 to 1: schedules."""


def check(mixer: str, option: str, value, allowed: tuple) -> None:
    """Raises ValueError, naming mixer and option, unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{mixer}: {option} is {value!r}; choose one of {', '.join(map(str, allowed))}")


def positive(mixer: str, option: str, value: float) -> float:
    """The value; raises ValueError, naming mixer and option, unless it is above zero."""
    if not value > 0:
        raise ValueError(f"{mixer}: {option} is {value!r}; it must be above 0")
    return value


def cyclic(rng: np.random.Generator, n: int) -> np.ndarray:
    """Partners pi(i) = (i + s) mod n, s uniform in 1..n-1: no image meets itself, and no rejection loop. int32 [n]

    Uniform over partners, because the loader's order is already random. One image alone is its own partner.
    """
    shift = rng.integers(1, n) if n > 1 else 0
    return ((np.arange(n) + shift) % n).astype(np.int32)
