"""What every method has in common: a mixer turns a batch into a loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.mixers.settled import placed
from fastmix.mixers.shown import LAMBDA, Shown
from fastmix.ranges import Range, shown
from fastmix.targets import Targets

GRANULARITIES = ("batch", "sample")
VARIANTS = ("paper", "openmixup")
LEAST, MOST = 1e-6, 1_000_000
"""Of a positive option, and of any that is a number."""
SHARE = Range(0, 1)
WEIGHT = Range(0, MOST)


class Mixer(nn.Module):
    """A training method. Input mixers write plan(), guided ones draw(), guide() and put(); others settle() and loss().

    Evaluation never touches a mixer: the saved model is the plain one. What a method adds (a mix block, a teacher, a
    second head) is made in prepare() and lives in the mixer, so checkpoints and DDP see it and the model stays plain.
    """

    openmixup = {"variant": "openmixup"}  # the options, of those it has, that fidelity openmixup chooses
    takes_soft = True  # labels float [B, classes]; else it asks for the class of an image
    terms: tuple[str, ...] = ()  # names of what its loss is the sum of, where that is several things, for the log
    drawn: str = LAMBDA  # what a batch draws first, where that is no lambda of a Beta law; "": nothing of that kind
    looks_back = False  # whether it mixes with what it was given one step before

    def __init__(self):
        super().__init__()
        self.listener: Callable[[str, Tensor], None] | None = None  # is told the terms, without their graphs

    def term(self, name: str, value: Tensor) -> Tensor:
        """The value, a scalar that is added to the loss; for the log it has a name, which is one of `terms`."""
        if self.listener is not None:
            self.listener(name, value.detach())
        return value

    def prepare(self, model: nn.Module) -> None:
        """Called once, with the model as it begins, before optimiser and DDP exist: makes what depends on it.

        Raises ValueError, naming the method, for a model that it does not work with.
        """

    def begin(self, stored: Callable[[], dict[str, dict[str, Tensor]]]) -> list[str]:
        """Called once after prepare(), where a run begins with a file of weights: takes what else that file holds.

        stored reads it: state dicts by part, empty for most files. Returns lines on what was taken.
        """
        return []

    def plan(self, batch: Batch) -> Plan | None:
        """How this batch is mixed; None: not at all. All randomness comes from batch.rng."""
        raise NotImplementedError

    def decide(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Plan | None:
        """The plan of this batch in training: that of plan(), for which some methods ask the model first.

        Nothing of the model changes: no parameter's gradient, no statistic, no mode.
        """
        return self.plan(batch)

    def settle(self, model: nn.Module, batch: Batch, criterion: nn.Module):
        """All that precedes the loss: what is drawn on the host, and the plan. A Plan, another dataclass of tensors
        (mixers/settled.py), or None.
        """
        return self.decide(model, batch, criterion)

    def forward(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Tensor:
        """The training loss of one batch (a float32 scalar)."""
        settled = placed(self.settle(model, batch, criterion), batch.images.device)
        return self.loss(model, batch, settled, criterion)

    def loss(self, model: nn.Module, batch: Batch, plan: Plan | None, criterion: nn.Module) -> Tensor:
        """The loss by what settle() gave, on the batch's device. Nothing in it comes from the host: it may be replayed,
        with other tensors in `plan` and all else as it was.
        """
        return criterion(model(batch.mix(plan)), Targets.of(batch.labels, plan))

    @property
    def passes_itself(self) -> bool:
        """Whether it has a forward() of its own in place of settle() and loss()."""
        return type(self).forward is not Mixer.forward

    @property
    def uncaptured(self) -> str:
        """Why its steps cannot be replayed as CUDA graphs; empty where they can."""
        return "has a forward() of its own" if self.passes_itself else ""

    @property
    def only_plans(self) -> bool:
        """Whether plan() is all that it does: its loss is that of any plan."""
        return self.changes_input_only and type(self).decide is Mixer.decide

    @property
    def changes_input_only(self) -> bool:
        """Whether its loss is that of the model on the mixed images: of a plan, for which it may ask the model."""
        own = type(self)
        return not self.passes_itself and own.settle is Mixer.settle and own.loss is Mixer.loss

    def shown(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Shown:
        """What the model would be trained on, for a picture, with the networks in eval mode. Changes nothing."""
        plan = self.decide(model, batch, criterion)
        plan = None if plan is None else plan.to(batch.images.device)
        return Shown(batch.mix(plan), Targets.of(batch.labels, plan), plan)

    def param_groups(self) -> list[dict]:
        """Parameters of the method's own, as optimiser groups.

        A group may say `lr_scale`, or `own_lr`: [lr, min_lr], a cosine of its own without warm-up; and what its
        optimiser takes (`weight_decay`, `momentum`). Parameters that come as (name, parameter) follow the rules of
        `optim.no_decay`, where the group says no `weight_decay`.
        """
        return []

    def companions(self) -> list[nn.Module]:
        """Networks of the method's own that are compiled where the model is."""
        return []

    def predictors(self, model: nn.Module) -> dict[str, nn.Module]:
        """Other networks of the method that predict, by name: their validation is logged beside that of the model."""
        return {}

    def after_step(self, model: nn.Module) -> None:
        """Called after each optimiser step: momentum teachers."""

    def set_progress(self, t: float) -> None:
        """Called before each step with the share of the run that is done, 0 to 1: schedules."""


def check(mixer: str, option: str, value, allowed: tuple) -> None:
    """Raises ValueError, naming mixer and option, unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{mixer}: {option} is {value!r}; choose one of {', '.join(map(str, allowed))}")


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -math.inf < value < math.inf


def within(mixer: str, option: str, value: float, allowed: Range) -> float:
    """The value; raises ValueError, naming mixer and option, unless it is a number of that range."""
    if not (is_number(value) and value in allowed):
        raise ValueError(f"{mixer}: {option} is {shown(value)}; it must be a number {allowed}")
    return value


def positive(mixer: str, option: str, value: float, most: float = MOST, least: float = LEAST) -> float:
    """The value; raises ValueError, naming mixer and option, unless it is a number from `least` to `most`."""
    return within(mixer, option, value, Range(least, most))


def whole(mixer: str, option: str, value: int, least: int = 1, most: int = MOST) -> int:
    """The value; raises ValueError, naming mixer and option, unless it is a whole number from `least` to `most`."""
    if not (isinstance(value, int) and is_number(value) and least <= value <= most):
        raise ValueError(f"{mixer}: {option} is {shown(value)}; it must be a whole number {Range(least, most)}")
    return value


def interval(mixer: str, option: str, value, most: float = MOST) -> tuple:
    """The value as (low, high); raises ValueError unless it is two numbers with LEAST <= low <= high <= most."""
    pair = tuple(value) if isinstance(value, (list, tuple)) else ()
    if not (len(pair) == 2 and all(map(is_number, pair)) and LEAST <= pair[0] <= pair[1] <= most):
        raise ValueError(f"{mixer}: {option} is {shown(value)}; it must be [low, high], from {LEAST} to {most:,}")
    return pair


def cyclic(rng: np.random.Generator, n: int) -> np.ndarray:
    """Partners pi(i) = (i + s) mod n, s uniform in 1..n-1: no image meets itself, and no rejection loop. int32 [n]

    Uniform over partners, because the loader's order is already random. One image alone is its own partner.
    """
    shift = rng.integers(1, n) if n > 1 else 0
    return ((np.arange(n) + shift) % n).astype(np.int32)


def shuffled(rng: np.random.Generator, n: int, redraws: int = 0) -> np.ndarray:
    """OpenMixup's partners: a random permutation, drawn again up to `redraws` times while an image meets itself.

    One fixed point is expected without redraws; after 10 of them a permutation in 150 still has one. int32 [n]
    """
    partner = rng.permutation(n)
    for _ in range(redraws):
        if (partner != np.arange(n)).all():
            break
        partner = rng.permutation(n)
    return partner.astype(np.int32)


class InputMixer(Mixer):
    """What the methods of the input space share: how often they draw, and how they pair the images.

    granularity "batch": one lambda and mask for the whole batch, as in every published number; "sample": each its own.
    variant "paper": partners by a cyclic shift; "openmixup": by a random permutation, as in that code base.
    """

    redraws = 0  # of a permutation with a fixed point, in variant openmixup

    def __init__(self, granularity: str = "batch", variant: str = "paper"):
        super().__init__()
        check(self.name, "granularity", granularity, GRANULARITIES)
        check(self.name, "variant", variant, VARIANTS)
        self.granularity, self.variant = granularity, variant

    @property
    def name(self) -> str:
        return type(self).__name__

    def draws(self, batch: Batch) -> int:
        """How many masks this batch needs: 1 or B."""
        return 1 if self.granularity == "batch" else len(batch)

    def pair(self, batch: Batch) -> np.ndarray:
        """The partner of each image. int32 [B]"""
        if self.variant == "paper":
            return cyclic(batch.rng, len(batch))
        return shuffled(batch.rng, len(batch), self.redraws)
