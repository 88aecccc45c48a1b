"""SMMix: the partner's most attended square over the image's least attended one, and what the parts are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows import plan_rows
from fastmix.kernels.plan_rows.reference import outside
from fastmix.kernels.plan_rows.rules import Squares
from fastmix.mixers.base import interval
from fastmix.mixers.guided import GuidedMixer
from fastmix.models.clean_pass import look, need_class_token, patches
from fastmix.models.sites import classifier, rewrite
from fastmix.targets import Targets


@dataclass
class Drawn:
    """The partner of each image, int32 [B], and the patches along a side of the square."""

    partner: Tensor
    side: int


class SMMix(GuidedMixer):
    """out = x_i, but in a square of s x s patches, in which x_j shows its own square of s x s patches; label weight of
    y_i = lam = 1 - s^2 / n, s uniform in int(low g)..int(high g) for a shorter side of g patches and scope [low, high].

    The square of x_i is that of the least sum of attention, the one of x_j that of the largest: how much each patch of
    the clean image is attended to by the patches, in the last block (mean over them and the heads, eval mode). With z
    the logits of out, u those of the clean images, and h(R) a linear classifier of the mean token of the patches in R:

        L(z, mixed labels) + (L(h(kept), y_i) + L(h(pasted), y_j)) / 2 + KL(softmax(lam u_i + (1 - lam) u_j), softmax z)

    with the training criterion L. h is trained beside the model and thrown away after it.
    Chen, Lin, Lin, Zhang, Chao, Ji, "SMMix: Self-Motivated Image Mixing for Vision Transformers", ICCV 2023. The
    authors draw mixup 0.8 in half of the batches: `Choice({MixUp(0.8): 0.5, SMMix(): 0.5})`.

    Cost: a forward pass of the model, a third of a training step; the whole attention of one block in fp32,
    heads x N x N an image. Then one image is read and one written. For models with a class token: ViT, DeiT, PVT.
    Departs from the authors' code: partners by a cyclic shift instead of the batch in reverse order; u in the precision
    of the run; images and grids that are not square. (OpenMixup has the first term alone, the class token's
    attention, a clean pass in train mode and a random permutation.)
    """

    terms = "mixed", "tokens", "consistency"
    drawn = "side"

    def __init__(self, scope: tuple[float, float] = (0.25, 0.75)):
        super().__init__()
        self.scope = interval(self.name, "scope", scope, most=1)

    def prepare(self, model: nn.Module) -> None:
        need_class_token(self.name, model)
        like = next(model.parameters())
        classes, features = classifier(model)[0].shape
        self.token_head = nn.Linear(features, classes, device=like.device)
        nn.init.trunc_normal_(self.token_head.weight, std=0.02)
        nn.init.zeros_(self.token_head.bias)

    def param_groups(self) -> list[dict]:
        return [{"params": list(self.token_head.named_parameters())}]

    def ask(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of the clean images: the attention that each patch receives, float32 [B,h,w], and the logits [B,classes]."""
        attention, logits = look(model, batch.mix())
        return attention.received.unflatten(1, patches(model, batch.size)), logits

    def guide(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Tensor:
        return self.ask(model, batch)[0]

    def grid(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> tuple[int, int]:
        return patches(model, batch.size)

    def draw(self, batch: Batch, grid: tuple[int, int]) -> Drawn:
        h, w = grid
        if min(h, w) < 2:
            raise ValueError(f"{self.name}: images of {h} x {w} patches have no square to paste; use larger ones")
        low, high = (min(max(int(share * min(h, w)), 1), min(h, w) - 1) for share in self.scope)
        side = int(batch.rng.integers(low, high + 1))
        return Drawn(torch.from_numpy(self.pair(batch)), side)

    def put(self, batch: Batch, attention: Tensor, drawn: Drawn) -> Plan:
        return plan_rows(Squares(attention, drawn.side), drawn.partner, batch.size)

    def loss(self, model: nn.Module, batch: Batch, drawn: Drawn, criterion: nn.Module) -> Tensor:
        attention, clean = self.ask(model, batch)
        plan, tokens = self.put(batch, attention, drawn), Tokens()
        with rewrite(model, "features", keep, tokens):
            logits = model(batch.mix(plan))
        kept = outside(plan, attention.shape[1:], batch.size)
        parts = self.token_head(means(tokens.value, kept))
        partner = plan.partner.long()
        loss = self.term("mixed", criterion(logits, Targets.of(batch.labels, plan)))
        both = zip(parts.unbind(1), (batch.labels, batch.labels[partner]), strict=True)
        halves = [criterion(part, Targets.of(labels)) / 2 for part, labels in both]
        self.term("tokens", sum(halves))
        for half in halves:
            loss = loss + half
        clean = clean.float()
        expected = plan.own[:, None] * clean + plan.other[:, None] * clean[partner]
        apart = F.kl_div(logits.float().log_softmax(1), expected.softmax(1), reduction="batchmean")
        return loss + self.term("consistency", apart)


class Tokens:
    """The features [B,N,C] of the last forward pass, with their graph."""

    value: Tensor | None = None


def keep(given: Tensor, output: Tensor, tokens: Tokens) -> None:
    tokens.value = output


def means(tokens: Tensor, kept: Tensor) -> Tensor:
    """The mean token of the patches that are kept, and of the others. float32 [B,2,C]

    tokens [B,N,C], the patches last; kept bool [B,h*w].
    """
    regions = torch.stack([kept, ~kept], 1).float()
    with torch.autocast(tokens.device.type, enabled=False):
        return (regions / regions.sum(2, keepdim=True)) @ tokens[:, -kept.shape[1] :].float()
