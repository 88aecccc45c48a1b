"""SUMix: label weights corrected by how far the mixture looks from each of its images, and a loss of that distance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.mixers.base import WEIGHT, Mixer, check, positive, within
from fastmix.mixers.choice import Choice
from fastmix.mixers.settled import placed
from fastmix.mixers.shown import Shown
from fastmix.models.saliency import evaluated
from fastmix.models.sites import classifier, install, rewrite
from fastmix.targets import CrossEntropy, Targets


class SUMix(Choice):
    """The method in `of`, with label weights lam_a ~ lam exp(-A_a[a]) and lam_b ~ (1 - lam) exp(-A_b[b]) that sum to 1,

        A_a = s n(softmax(p_m - p_i)),    A_b = s n(softmax(p_m - p_j)),    n(v) = v / |v|,

    p_m, p_i, p_j the predictions for the mixture and for the clean images, of class a and b; in p_i that of b is set to
    0, in p_j that of a. They have no gradient. Beside the criterion's loss with these weights,

        gamma * (lam CE(exp(-(U_i + U_m + A_a)), a) + (1 - lam) CE(exp(-(U_j + U_m + A_b)), b)),

    where U = n(softmax(W f)) is what a second linear head W says of the features f: the uncertainty.
    Qin, Jin, Zhu, Liao, El-Yacoubi, Gao, "SUMix: Mixup with Semantic and Uncertain Information", ECCV 2024.

    of      what mixes: a row as in a choice, `{cutmix: {alpha: 1}}`, or several; methods that change the input only
    gamma   1 as published for Tiny-ImageNet; 0.5 for ImageNet
    normed  True: U as above, as published for Tiny-ImageNet; False: the logits take its place and there is no second
            head, as for ImageNet
    scale   s; none: the images of the pass, as in the authors' code, whose results thereby depend on it: there are 64
            in their ImageNet runs, 100 in those of Tiny-ImageNet

    Cost: two ordinary steps: the clean batch and the mixed one, both with gradients. Clean images have no loss of their
    own. The second head is no part of the model.
    Departs from the authors' code: all of it by sample, where it averages the cross-entropies over the batch before it
    weights them, and lam is that of the sample. Without a loop over samples. (OpenMixup has the head, and nothing that
    calls it.)
    """

    takes_soft = False
    terms = "mixed", "uncertainty"

    def __init__(
        self,
        of: dict[Mixer, float | None],
        gamma: float = 1.0,
        normed: bool = True,
        scale: float | None = None,
        granularity: str = "batch",
    ):
        super().__init__(of, granularity)
        for mixer in of:
            if not mixer.changes_input_only:
                raise ValueError(
                    f"SUMix: of holds {type(mixer).__name__}, which does more than change the input; choose another"
                )
        check("SUMix", "normed", normed, (True, False))
        self.gamma, self.normed = within("SUMix", "gamma", gamma, WEIGHT), normed
        self.scale = None if scale is None else positive("SUMix", "scale", scale)

    def prepare(self, model: nn.Module) -> None:
        super().prepare(model)
        try:
            weight, _ = classifier(model)
        except ValueError as error:
            raise ValueError(f"SUMix: {error}, beside which a second one could be trained") from None
        if self.normed:
            self.head = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
            nn.init.normal_(self.head.weight, std=0.01)
            nn.init.zeros_(self.head.bias)
        install(model)

    def param_groups(self) -> list[dict]:
        own = [{"params": list(self.head.named_parameters())}] if self.normed else []
        return super().param_groups() + own

    def shown(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Shown:
        with evaluated(model), torch.no_grad():
            plan = placed(self.settle(model, batch, criterion), batch.images.device)
            _, targets, _, _ = self.corrected(model, batch, plan)
        name = " or ".join(type(mixer).__name__.lower() for mixer in self.mixers)
        return Shown(batch.mix(targets.plan), targets, targets.plan, note=f"on {name}")

    def settle(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Plan:
        plan = self.decide(model, batch, criterion)
        return Plan.plain(len(batch)) if plan is None else plan

    def corrected(self, model: nn.Module, batch: Batch, plan: Plan) -> tuple[Tensor, Targets, Tensor, Tensor]:
        """Logits of the mixed batch and its targets; the weights before they were corrected, [B,2], and U + U_m + A of
        both images, [B,2, classes].
        """
        targets = Targets.of(batch.labels, plan)
        if targets.labels.shape[1] != 2:
            raise ValueError("SUMix: of mixes more than two images; choose a method that mixes two")
        clean, unsure = self.judged(model, batch.mix())
        mixed, unsure_mixed = self.judged(model, batch.mix(plan))
        pair = torch.stack([torch.arange(len(batch), device=mixed.device), plan.partner.long()], 1)
        scale = len(batch) if self.scale is None else self.scale
        apart = distance(mixed.detach(), clean.detach()[pair], targets.labels.flip(1), scale)
        at_label = apart.gather(2, targets.labels[:, :, None])[:, :, 0]
        weights = (targets.weights.log() - at_label).softmax(1)
        return mixed, replace(targets, weights=weights), targets.weights, unsure[pair] + unsure_mixed[:, None] + apart

    def loss(self, model: nn.Module, batch: Batch, plan: Plan, criterion: nn.Module) -> Tensor:
        mixed, targets, before, far = self.corrected(model, batch, plan)
        logits = (-far).exp()
        regularisation = sum(
            CrossEntropy()(logits[:, k], Targets(targets.labels[:, k : k + 1], before[:, k : k + 1])) for k in range(2)
        )
        mixed = self.term("mixed", criterion(mixed, targets))
        return mixed + self.term("uncertainty", self.gamma * regularisation)

    def judged(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """float32 logits of images x [B,3,H,W] and their uncertainties U, both [B, classes] with graphs."""
        if not self.normed:
            return (model(x).float(),) * 2
        seen = Seen()
        with rewrite(model, "classifier", keep, seen):
            logits = model(x).float()
        return logits, unit(self.head(seen.features).float().softmax(1))


@dataclass
class Seen:
    """What the classifier was given: [B,C], with its graph."""

    features: Tensor | None = None


def keep(features: Tensor, logits: Tensor, seen: Seen) -> None:
    seen.features = features


def unit(v: Tensor) -> Tensor:
    """v / |v| along the last dimension."""
    return F.normalize(v, dim=-1)


def distance(mixed: Tensor, clean: Tensor, other: Tensor, scale: float) -> Tensor:
    """scale * n(softmax(p_m - p)) of logits mixed [B, classes] and clean [B,2, classes], where in p the prediction of
    class other[i,k] is set to 0. [B,2, classes]
    """
    p = clean.softmax(2).scatter(2, other[:, :, None], 0.0)
    return scale * unit((mixed.softmax(1)[:, None] - p).softmax(2))
