"""MixPro: random cells of two images; labels that trust attention more, the better the model knows the mixture."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows.reference import attended
from fastmix.mixers.base import check, positive, whole
from fastmix.mixers.judged import JudgedMixer
from fastmix.models.clean_pass import need_class_token, patches
from fastmix.models.sites import class_attention, name_of, stride
from fastmix.targets import Targets


@dataclass
class Kept:
    """A plan, and which of the model's patches it keeps, bool [B,h*w], where labels follow from attention."""

    plan: Plan
    patches: Tensor | None = None


class MixPro(JudgedMixer):
    """MaskMix: out = x_i in ceil(r n) of the n cells of a grid, chosen at random for each sample, x_j in the others;
    r ~ Beta(alpha, alpha). Progressive attention labelling: label weight of y_i = c * attention + (1 - c) * area.

    area is the share of its pixels; attention the share of the class token's attention, in the last block and the
    mixed image, that goes to its patches, without a gradient; c the cosine between the model's prediction for the mixed
    image and the target by area, smoothed as the criterion does. Early in training c is small. As in the authors' code
    c has a gradient, so that the loss also moves it, and the labels of the loss are not smoothed.
    Zhao, Huang, Hu, Zhang, Liu, "MixPro: Data Augmentation with MaskMix and Progressive Attention Labeling for Vision
    Transformer", ICLR 2023.

    cell  pixels a side of a cell, a multiple of the model's patches, so that each patch shows one image; where cells do
          not divide the image, those at the right and bottom are cut. 64 is four patches of a DeiT, as in the paper
    pal   False: labels by area alone, for any model. So are all of the authors' configurations as released; the paper's
          results, and this default, are with it

    Cost: an ordinary step; one image is read and one written, and a row of attention as in TransMix.
    Departs from the authors' code: area is counted in pixels, where it is cells / n even if some are cut; partners by a
    cyclic shift. OpenMixup asks for the attention of the clean x_i, in a pass of its own, and averages the weights over
    the batch. The authors draw MaskMix in half of the batches, else mixup 0.8 or cutmix 1, as DeiT does.
    """

    def __init__(self, alpha: float = 1.0, cell: int = 64, pal: bool = True, granularity: str = "batch"):
        super().__init__(granularity)
        self.alpha = positive(self.name, "alpha", alpha)
        self.cell = whole(self.name, "cell", cell, most=4096)
        check(self.name, "pal", pal, (True, False))
        self.pal = pal

    def prepare(self, model: nn.Module) -> None:
        if self.pal:
            need_class_token(self.name, model)
            patch = stride(model)
            if self.cell % patch:
                raise ValueError(
                    f"{self.name}: cell is {self.cell}; {name_of(model)} needs a multiple of {patch}, its patches"
                )

    @property
    def takes_soft(self) -> bool:
        return not self.pal

    @property
    def changes_input_only(self) -> bool:
        return not self.pal

    def kept(self, batch: Batch) -> np.ndarray:
        """Which cells stay the image's own. bool [B,gh,gw]; raises ValueError where there is only one cell."""
        grid = [-(-length // self.cell) for length in batch.size]
        cells = math.prod(grid)
        if cells == 1:
            h, w = batch.size
            raise ValueError(
                f"{self.name}: cell is {self.cell}, a whole image of {h} x {w} pixels; choose a smaller one"
            )
        count = np.ceil(batch.rng.beta(self.alpha, self.alpha, self.draws(batch)) * cells)
        order = batch.rng.random((len(batch), cells)).argsort(1)
        return (order < count[:, None]).reshape(-1, *grid)

    def plan(self, batch: Batch) -> Plan:
        return self.paste(batch, self.kept(batch))

    def paste(self, batch: Batch, kept: np.ndarray) -> Plan:
        """The plan that keeps those cells: on a grid fine enough that cells which are cut have whole ones too."""
        grid = tuple(length // math.gcd(length, self.cell) for length in batch.size)
        return Plan.cells(self.pair(batch), self.sampled(kept, grid, batch.size), batch.size)

    def sampled(self, kept: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """Cells [B,gh,gw] at the places of another grid (h, w) over the image, whose cells lie inside them. [B,h,w]"""
        y, x = (np.arange(n) * (length // n) // self.cell for n, length in zip(grid, size, strict=True))
        return kept[:, y[:, None], x]

    def settle(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Kept:
        if not self.pal:
            return Kept(self.plan(batch))
        cells = self.kept(batch)
        kept = torch.from_numpy(self.sampled(cells, patches(model, batch.size), batch.size)).flatten(1)
        return Kept(self.paste(batch, cells), kept)

    def judged(self, model: nn.Module, batch: Batch, settled: Kept, criterion: nn.Module) -> tuple[Tensor, Targets]:
        plan = settled.plan
        if not self.pal:
            return model(batch.mix(plan)), Targets.of(batch.labels, plan)
        with class_attention(model) as attention:
            logits = model(batch.mix(plan))
        shown = attended(attention.value, settled.patches, plan.own)
        by_area = Targets.of(batch.labels, plan)
        c = agreement(logits, by_area, criterion.smoothing)
        own = c * shown + (1 - c) * plan.own
        return logits, replace(by_area, weights=torch.stack([own, 1 - own], 1), exact=True)


def agreement(logits: Tensor, targets: Targets, smoothing: float) -> Tensor:
    """Cosine between softmax(logits [B, classes]) and the smoothed targets. float32 [B]"""
    return F.cosine_similarity(logits.float().softmax(1), targets.dense(logits.shape[1], smoothing))
