"""AttentiveMix+: the cells of an image that a teacher attends to, pasted on the partner."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows import plan_rows
from fastmix.kernels.plan_rows.rules import Top
from fastmix.mixers.base import check, positive, whole
from fastmix.mixers.guided import Drawn, GuidedMixer, pooled
from fastmix.models.teacher import Teacher, resized


class AttentiveMix(GuidedMixer):
    """out = x_i in the k of n cells where the teacher's last map of x_i is largest on average over its channels, x_j in
    the others; label weight of y_i = area of those cells.

    k = floor(n lam), at least 1, lam ~ Beta(alpha, alpha). The map is that of the clean batch, resized bilinearly to
    `size` pixels a side: 7 x 7 cells for a ResNet at 224 (a map of 14 x 14, as a ViT has, is averaged to 7 x 7).
    Walawalkar, Shen, Liu, Savvides, "Attentive CutMix: An Enhanced Data Augmentation Approach for Deep Learning Based
    Image Classification", ICASSP 2020; with random k and a small teacher, as benchmarked: AttentiveMix+.

    teacher  a timm model; `weights` is a local file with its weights. It sees the run's own normalisation.
    k_dist   "beta_alpha", as above; "beta_8": lam ~ Beta(alpha, 8), which OpenMixup's documentation says and its code
             does not (mean k 9.3 of 49 with alpha = 2, instead of 24)
    top_k    the same k always (the paper's: 6 of 49)

    Cost: the teacher's forward pass: 1.8e9 multiply-adds an image for a ResNet-18 at 224 (15 % of a training step of a
    ResNet-50), 4.1e9 for a ResNet-50 (33 %). Then one image is read and one written.
    Departs from the authors' code: channels are averaged, where it takes the last one; partners by a cyclic shift; the
    label is the area as drawn, which differs from k / n where the cells do not divide the image.
    variant openmixup: partners by a random permutation; sample 0's area is the label weight of all. Not repeated: there
    the teacher runs in train mode, so its batch-norm uses and changes batch statistics; here it is in eval mode.
    """

    def __init__(
        self,
        alpha: float = 2.0,
        teacher: str = "resnet18",
        weights: str | None = None,
        size: int = 224,
        k_dist: str = "beta_alpha",
        top_k: int | None = None,
        granularity: str = "batch",
        variant: str = "paper",
    ):
        super().__init__(granularity, variant)
        self.alpha = positive(self.name, "alpha", alpha)
        self.size = whole(self.name, "size", size, 32, 4096)
        check(self.name, "k_dist", k_dist, ("beta_alpha", "beta_8"))
        self.beta = self.alpha if k_dist == "beta_alpha" else 8.0
        self.top_k = None if top_k is None else whole(self.name, "top_k", top_k)
        self.teacher = Teacher(self.name, teacher, weights)

    def guide(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Tensor:
        """The attention, float32 [B,h,w]: the mean over the channels of the teacher's last map."""
        return pooled(self.teacher.features(resized(batch.mix(), (self.size, self.size))).mean(1))

    def draw(self, batch: Batch, grid: tuple[int, int] | None) -> Drawn:
        """With lam for each or all of the images, or with top_k."""
        partner, n = self.pair(batch), self.draws(batch)
        number = batch.rng.beta(self.alpha, self.beta, n) if self.top_k is None else np.full(n, float(self.top_k))
        return Drawn(torch.from_numpy(partner), torch.from_numpy(number))

    def put(self, batch: Batch, attention: Tensor, drawn: Drawn) -> Plan:
        of = self.of(attention.shape[1] * attention.shape[2])
        plan = plan_rows(Top(attention, drawn.number, of, least=1), drawn.partner, batch.size)
        return plan.labelled(plan.own[0], plan.other[0]) if self.variant == "openmixup" else plan

    def of(self, cells: int) -> int:
        """By what the number that was drawn is multiplied: lam by how many cells there are, top_k by 1."""
        if self.top_k is None:
            return cells
        if self.top_k > cells:
            where = f"the map of teacher {self.teacher.name}"
            raise ValueError(f"{self.name}: top_k is {self.top_k}; {where} has {cells} cells")
        return 1
