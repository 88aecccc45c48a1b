"""ManifoldMix: mixup of hidden features at a random depth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.mixers.mixup import MixUp
from fastmix.mixers.settled import placed
from fastmix.mixers.shown import Shown
from fastmix.models.sites import install, rewrite, sites
from fastmix.targets import Targets

DEFAULT = ("input", "stage1", "stage2")


@dataclass
class Drawn:
    """A plan of mixup, and the site whose features it mixes."""

    plan: Plan
    site: str


class ManifoldMix(MixUp):
    """f = lam * f_i + (1 - lam) * f_j at one site a step, lam ~ Beta(alpha, alpha); label lam * y_i + (1 - lam) * y_j.

    Verma, Lamb, Beckham, Najafi, Mitliagkas, Lopez-Paz, Bengio, "Manifold Mixup: Better Representations by
    Interpolating Hidden States", ICML 2019. The gradient reaches both images. Batch-norm before the site sees clean
    batches, behind it mixed ones; its running statistics are of both.

    sites  names of fastmix/models/sites.py, paths of modules, or "input", each as likely as the others; none: the input
           and what the first two stages give, as in every published number; of a ViT the input and what the first
           quarter and the first half of its blocks give, which is our choice (there are no numbers)

    Cost: an ordinary step. At the input that of mixup, elsewhere a pass over the features of one stage, in fp32.
    Departs from the authors' code: cross-entropy, as in OpenMixup, where it has binary cross-entropy behind a softmax;
    partners by a cyclic shift. At the input it is mixup, draw for draw.
    variant openmixup: partners by a random permutation. (Its layers "0 to 3" leave 3 out: they are these three.)
    """

    def __init__(
        self,
        alpha: float = 0.2,
        sites: list[str] | None = None,
        granularity: str = "batch",
        variant: str = "paper",
    ):
        super().__init__(alpha, granularity, variant)
        if sites is not None and not (isinstance(sites, (list, tuple)) and sites and {*map(type, sites)} == {str}):
            raise ValueError(f"{self.name}: sites is {sites!r}; it must be a list of names such as [input, stage1]")
        self.sites = None if sites is None else tuple(sites)

    def prepare(self, model: nn.Module) -> None:
        try:
            install(model, *[site for site in self.places(model) if site != "input"])
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}, or the input") from None

    def places(self, model: nn.Module) -> tuple[str, ...]:
        """The sites among which a step chooses."""
        if self.sites is not None:
            return self.sites
        blocks = sum(site.startswith("block") for site in sites(model))
        return ("input", f"block{blocks // 4 - 1}", f"block{blocks // 2 - 1}") if blocks else DEFAULT

    def settle(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Drawn:
        plan, places = self.plan(batch), self.places(model)
        return Drawn(plan, places[batch.rng.integers(len(places))])

    def shown(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Shown:
        drawn = placed(self.settle(model, batch, criterion), batch.images.device)
        targets = Targets.of(batch.labels, drawn.plan)
        if drawn.site == "input":
            return Shown(batch.mix(drawn.plan), targets, drawn.plan, note="drawn: the input")
        return Shown(batch.mix(), targets, inside=f"the features that {drawn.site} gives")

    def loss(self, model: nn.Module, batch: Batch, drawn: Drawn, criterion: nn.Module) -> Tensor:
        plan, site = drawn.plan, drawn.site
        if site == "input":
            logits = model(batch.mix(plan))
        else:
            with rewrite(model, site, blend, plan.partner.long(), plan.own):
                logits = model(batch.mix())
        return criterion(logits, Targets.of(batch.labels, plan))


def blend(given: Tensor, output: Tensor, partner: Tensor, own: Tensor) -> Tensor:
    """own * output + (1 - own) * output[partner] for features of any shape, computed in fp32; own float32 [B]."""
    values = output.float()
    return torch.lerp(values[partner], values, own.view(-1, *[1] * (output.ndim - 1))).to(output.dtype)
