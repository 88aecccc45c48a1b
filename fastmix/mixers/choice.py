"""Choice: one of several mixers, drawn for each batch or each sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.mixers.base import GRANULARITIES, Mixer, check, is_number
from fastmix.mixers.shown import Shown


@dataclass
class Chosen:
    """Which mixer a batch goes to, and what that one settled."""

    which: int
    settled: Any


class Choice(Mixer):
    """Mixer k with probability p_k: `Choice({MixUp(0.8): 0.5, CutMix(1.0): 0.5})`.

    DeiT switches between mixup 0.8 and cutmix 1.0 (Touvron et al., ICML 2021), "ResNet strikes back" between mixup 0.1
    and cutmix 1.0 (Wightman et al. 2021), each with probability 1/2 a batch.

    of           mixer -> probability; None: an equal share of what the others leave
    granularity  "batch": one draw a batch, and any mixer may be chosen; "sample": one a sample, among mixers that only
                 plan (a pixel never mixes two methods: each sample follows one of the plans, in one pass)

    Cost: that of the chosen mixer; by sample every plan is made, on the host, and one pass runs.
    The draw is the first of the batch's generator, so it is known before the forward pass, without asking the device.
    """

    def __init__(self, of: dict[Mixer, float | None], granularity: str = "batch"):
        super().__init__()
        check("Choice", "granularity", granularity, GRANULARITIES)
        self.granularity = granularity
        self.mixers = nn.ModuleList(of)
        self.probabilities = shares(list(of.values()))
        if granularity == "sample":
            for mixer in of:
                if not mixer.only_plans:
                    raise ValueError(
                        f"Choice: granularity sample cannot hold {type(mixer).__name__}, which does more than plan; "
                        "choose by batch"
                    )

    @property
    def uncaptured(self) -> str:
        reasons = {type(mixer).__name__: mixer.uncaptured for mixer in self.mixers}
        return next((f"holds {name}, which {reason}" for name, reason in reasons.items() if reason), "")

    @property
    def only_plans(self) -> bool:
        return type(self).loss is Choice.loss and all(mixer.only_plans for mixer in self.mixers)

    @property
    def takes_soft(self) -> bool:
        return all(mixer.takes_soft for mixer in self.mixers)

    @property
    def changes_input_only(self) -> bool:
        return type(self).loss is Choice.loss and all(mixer.changes_input_only for mixer in self.mixers)

    def draw(self, rng: np.random.Generator, n: int | None = None) -> np.ndarray | int:
        """Which mixer: one index, or an array of n."""
        return rng.choice(len(self.mixers), n, p=self.probabilities)

    def plan(self, batch: Batch) -> Plan | None:
        if self.granularity == "batch":
            return self.mixers[self.draw(batch.rng)].plan(batch)
        choice = self.draw(batch.rng, len(batch))
        plans = [mixer.plan(batch) for mixer in self.mixers]
        return Plan.select(choice, [Plan.plain(len(batch)) if p is None else p for p in plans])

    def decide(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Plan | None:
        if self.granularity == "batch":
            return self.mixers[self.draw(batch.rng)].decide(model, batch, criterion)
        return self.plan(batch)

    def shown(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Shown:
        if self.granularity == "sample":
            return super().shown(model, batch, criterion)
        mixer = self.mixers[self.draw(batch.rng)]
        shown = mixer.shown(model, batch, criterion)
        name = type(mixer).__name__.lower()
        note = f"drawn: {name}" if len(self.mixers) > 1 else f"on {name}"
        return replace(shown, note=", ".join(filter(None, (note, shown.note))))

    def settle(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Plan | Chosen:
        if self.granularity == "sample":
            return self.plan(batch)
        which = int(self.draw(batch.rng))
        mixer = self.mixers[which]
        return Chosen(which, None if mixer.passes_itself else mixer.settle(model, batch, criterion))

    def loss(self, model: nn.Module, batch: Batch, settled: Plan | Chosen, criterion: nn.Module) -> Tensor:
        if self.granularity == "sample":
            return super().loss(model, batch, settled, criterion)
        chosen = self.mixers[settled.which]
        if chosen.passes_itself:
            loss = chosen(model, batch, criterion)
        else:
            loss = chosen.loss(model, batch, settled.settled, criterion)
        for k, mixer in enumerate(self.mixers):  # each process draws its own: DDP must see every parameter on all
            for p in mixer.parameters():
                if k != settled.which and p.requires_grad:
                    loss = loss + 0 * p.sum()
        return loss

    def prepare(self, model: nn.Module) -> None:
        for mixer in self.mixers:
            mixer.prepare(model)

    def predictors(self, model: nn.Module) -> dict[str, nn.Module]:
        return {name: net for mixer in self.mixers for name, net in mixer.predictors(model).items()}

    def companions(self) -> list[nn.Module]:
        return [net for mixer in self.mixers for net in mixer.companions()]

    def param_groups(self) -> list[dict]:
        return [group for mixer in self.mixers for group in mixer.param_groups()]

    def after_step(self, model: nn.Module) -> None:
        for mixer in self.mixers:
            mixer.after_step(model)

    def set_progress(self, t: float) -> None:
        for mixer in self.mixers:
            mixer.set_progress(t)


def shares(given: list[float | None]) -> np.ndarray:
    """Probabilities with the missing ones filled in equally. Raises ValueError unless all are above 0 and sum to 1."""
    if not given:
        raise ValueError("Choice: `of` is empty; name at least one mixer")
    for p in given:
        if p is not None and not (is_number(p) and p > 0):
            raise ValueError(f"Choice: prob is {p!r}; it must be a number above 0 (0: leave the mixer out)")
    named = sum(p for p in given if p is not None)
    missing = given.count(None)
    if (missing and named >= 1) or (not missing and abs(named - 1) > 1e-6):
        raise ValueError(f"Choice: the probabilities sum to {named:g}; they must sum to 1")
    filled = np.array([(1 - named) / missing if p is None else p for p in given])
    return filled / filled.sum()
