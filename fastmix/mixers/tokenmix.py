"""TokenMix: blocks of tokens of the partner; each image counts by how much of its activation is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows import plan_rows
from fastmix.kernels.plan_rows.rules import Tokens
from fastmix.mixers.base import positive, whole
from fastmix.mixers.guided import GuidedMixer
from fastmix.mixers.shown import LAMBDA
from fastmix.models.clean_pass import look, need_class_token, patches
from fastmix.models.sites import classes, classifier, last_map
from fastmix.models.teacher import Teacher, resized

LAM = 0.5
ASPECT = math.log(1 / 0.3)  # of a block: its logarithm is uniform in -ASPECT..ASPECT
TRIES = 10  # to place a block, before the mask stays as it is


@dataclass
class Drawn:
    """The partner of each image, int32 [B], and the tokens that it shows, bool [B or 1,h,w]."""

    partner: Tensor
    pasted: Tensor


class TokenMixer(GuidedMixer):
    """What both forms of TokenMix have in common: all but where the activation maps come from.

        out = x_j in the tokens of a mask M, x_i in the others;    with maps A >= 0 that sum to one over the tokens,
        weight of y_i = sum A_i (1 - M),    weight of y_j = sum A_j M,    which need not sum to one.

    M is a union of rectangles (block_masks). A token is `patch` pixels a side. With N of them the mask asks for
    min(N, int((1 - lam) N) + N // 14) tokens, 112 of 196 for lam = 1/2; nearly always it gets them, and the labels
    follow from the mask as it is. An image whose map is 0 everywhere has the weight 0.
    J. Liu, B. Liu, Zhou, H. Li, Y. Liu, "TokenMix: Rethinking Image Mixing for Data Augmentation in Vision
    Transformers", ECCV 2022.

    alpha  none: lam = 1/2 in every batch, as published; else lam ~ Beta(alpha, alpha)
    """

    def __init__(self, alpha: float | None = None, patch: int = 16, granularity: str = "batch"):
        super().__init__(granularity)
        self.alpha = None if alpha is None else positive(self.name, "alpha", alpha)
        self.patch = whole(self.name, "patch", patch, most=4096)

    @property
    def drawn(self) -> str:
        return "" if self.alpha is None else LAMBDA

    def draw(self, batch: Batch, grid: tuple[int, int] | None) -> Drawn:
        partner, grid = self.pair(batch), tuple(max(1, length // self.patch) for length in batch.size)
        pasted = block_masks(batch.rng, self.counts(batch, grid[0] * grid[1]), grid)
        return Drawn(torch.from_numpy(partner), torch.from_numpy(pasted))

    def put(self, batch: Batch, activation: Tensor, drawn: Drawn) -> Plan:
        maps = regridded(activation, tuple(drawn.pasted.shape[1:]))
        return plan_rows(Tokens(maps, drawn.pasted), drawn.partner, batch.size)

    def counts(self, batch: Batch, tokens: int) -> np.ndarray:
        """How many tokens each mask asks for. int64 [1 or B]"""
        n = self.draws(batch)
        lam = np.full(n, LAM) if self.alpha is None else batch.rng.beta(self.alpha, self.alpha, n)
        return np.minimum(tokens, ((1 - lam) * tokens).astype(int) + tokens // 14)


class TokenMix(TokenMixer):
    """TokenMixer with the activation maps of a teacher, a local trained network: A_i = ReLU(sum_c w_yc f_c), where f is
    its last map of the clean batch and w_y its classifier's row for the label of x_i (Liu et al., ECCV 2022).

    teacher  a timm model that classifies the mean of its last map; `weights` is a local file with its weights, of the
             run's classes in the same order. It sees the run's own normalisation
    size     pixels a side of what the teacher sees

    Cost: the teacher's forward pass: 4.1e9 multiply-adds an image for a ResNet-50 at 224 (30 % of a training step of
    DeiT-S). Then one image is read and one written.
    Departs from the authors' code: their maps are the five highest classes at each place of an NFNet-F6, stored for
    each whole image and cropped as it is; here the teacher sees the augmented image itself, so nothing has to be
    cropped. Their published numbers are of those maps. Label smoothing s counts in proportion to the weights: a label
    becomes w ((1 - s) onehot + s / K), theirs w onehot - s/2 onehot + s / (2 K), which is below 0 where w < s / 2.
    Partners by a cyclic shift instead of the batch in reverse order. The authors draw mixup 0.8 in half of the batches,
    `Choice({MixUp(0.8): 0.5, TokenMix(...): 0.5})`, and train DeiT with binary cross-entropy (`loss.kind=bce`).
    """

    takes_soft = False

    def __init__(
        self,
        alpha: float | None = None,
        patch: int = 16,
        teacher: str = "resnet50",
        weights: str | None = None,
        size: int = 224,
        granularity: str = "batch",
    ):
        super().__init__(alpha, patch, granularity)
        self.size = whole(self.name, "size", size, 32, 4096)
        self.teacher = Teacher(self.name, teacher, weights)
        try:
            self.activation(torch.zeros(1, 3, size, size), torch.zeros(1, dtype=torch.int64))
        except ValueError as error:
            raise ValueError(f"{self.name}: teacher {error}") from None

    def prepare(self, model: nn.Module) -> None:
        if self.teacher.classes != classes(model):
            counts = f"{self.teacher.classes} classes, the model {classes(model)}"
            raise ValueError(f"{self.name}: teacher {self.teacher.name} has {counts}; both must know the same classes")

    def guide(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Tensor:
        """The class activation map of each image's label, float32 [B,h,w]."""
        return self.activation(resized(batch.mix(), (self.size, self.size)), batch.labels)

    @torch.no_grad()
    def activation(self, x: Tensor, labels: Tensor) -> Tensor:
        network = self.teacher.on(x.device)
        weight, features = classifier(network)[0], last_map(network, x)
        with torch.autocast(x.device.type, enabled=False):
            return torch.einsum("bchw,bc->bhw", features.float(), weight[labels].float()).relu()


class TokenMixAttention(TokenMixer):
    """TokenMixer without a teacher: A_i is how much the class token attends to each patch of the clean x_i, in the last
    block of the model that is trained (mean over the heads, before any dropout; eval mode).

    Not the method as published (Liu et al., ECCV 2022), whose maps come from a teacher: results of the two must not be
    confused. OpenMixup has it in this form.

    Cost: a forward pass of the model, a third of a training step. Then one image is read and one written. For models
    with a class token: ViT, DeiT, PVT.
    Departs from OpenMixup: there the regions are swapped, so that an image counts by what is hidden of it; lam ~
    Beta(1, 1) (`alpha: 1`); the attention to the class token itself counts for neither image; label weights are
    averaged over the batch before they meet the losses; the attention comes from a pass in train mode; partners by a
    random permutation.
    """

    def prepare(self, model: nn.Module) -> None:
        need_class_token(self.name, model)

    def guide(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Tensor:
        """The class token's attention, float32 [B,h,w]."""
        attention, _ = look(model, batch.mix())
        return attention.value.unflatten(1, patches(model, batch.size))


def block_masks(rng: np.random.Generator, count: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Unions of rectangles of at most count[i] cells of the grid (h, w), nearly always as many. bool [n,h,w]

    Rectangle by rectangle, up to TRIES times each: an area uniform between 1 and the cells that are missing, a ratio of
    the sides between 0.3 and 1 / 0.3 (its logarithm uniform), sides rounded, below those of the grid, a uniform place;
    taken if it adds a cell, and no more than are missing. The first try that fits counts. Where none does, the mask is
    as it is. Bao, Dong, Piao, Wei, "BEiT: BERT Pre-Training of Image Transformers", ICLR 2022, Algorithm 1. All masks
    and tries at once.
    """
    (rows, columns), missing = grid, count.copy()
    masks = np.zeros((len(count), rows, columns), bool)
    while len(open_ := np.flatnonzero(missing)):
        each, most = np.arange(len(open_)), missing[open_, None]
        area, ratio, down, across = rng.random((4, len(open_), TRIES))
        area, ratio = 1 + area * (most - 1), np.exp(ASPECT * (2 * ratio - 1))
        h, w = np.rint(np.sqrt(area * ratio)).astype(int), np.rint(np.sqrt(area / ratio)).astype(int)
        fits = (h < rows) & (w < columns)
        h, w = np.minimum(h, rows), np.minimum(w, columns)
        top, left = (down * (rows - h + 1)).astype(int), (across * (columns - w + 1)).astype(int)
        sums = np.pad(masks[open_].cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
        k = each[:, None]
        taken = sums[k, top + h, left + w] - sums[k, top, left + w] - sums[k, top + h, left] + sums[k, top, left]
        added = h * w - taken
        good = fits & (added > 0) & (added <= most)
        first, found = good.argmax(1), good.any(1)
        top, left, h, w, added = (v[each, first] for v in (top, left, h, w, added))
        along_y, along_x = np.arange(rows) - top[:, None], np.arange(columns) - left[:, None]
        inside_y, inside_x = (along_y >= 0) & (along_y < h[:, None]), (along_x >= 0) & (along_x < w[:, None])
        masks[open_] |= (inside_y & found[:, None])[:, :, None] & inside_x[:, None, :]
        missing[open_] = np.where(found, missing[open_] - added, 0)
    return masks


def regridded(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps [B,h,w] on another grid: bilinear, a mean where it is coarser."""
    if maps.shape[1:] == torch.Size(grid):
        return maps
    return F.interpolate(maps[:, None], grid, mode="bilinear", antialias=True)[:, 0]
