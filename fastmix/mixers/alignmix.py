"""AlignMix: two last feature maps are aligned by optimal transport, then mixed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.kernels.sinkhorn import sinkhorn
from fastmix.mixers.base import check, positive, whole
from fastmix.mixers.mixup import MixUp
from fastmix.mixers.settled import placed
from fastmix.mixers.shown import Shown
from fastmix.models.sites import install, place, prefix, rewrite
from fastmix.targets import Targets


@dataclass
class Drawn:
    """A plan of mixup, and whether it is the partner's features that are carried."""

    plan: Plan
    onto_own: bool


class AlignMix(MixUp):
    """With X and Y [L,C] the features of images i and j at the L places of the last map, and R = L P the plan of least
    entropic cost M_kl = |X_k - Y_l|^2 with marginals 1/L:

        lam * X + (1 - lam) * R Y    or, by a coin,    lam * R' X + (1 - lam) * Y

    then the head; lam ~ Beta(alpha, alpha), label lam * y_i + (1 - lam) * y_j. The gradient reaches X and Y, not R.
    Venkataramanan, Kijak, Amsaleg, Avrithis, "AlignMixup: Improving Representations by Interpolating Aligned Features",
    CVPR 2022. The authors train on it in half of the steps, in the others on mixup of the same alpha:
    `Choice({MixUp(2.0): 0.5, AlignMix(2.0): 0.5})`.

    eps              weight of the entropy, in units of the squared distances of raw features
    iterations       of Sinkhorn, always all of them
    exact_marginals  True: the last half step is for the sums that are used, so that R Y and R' X are means of features.
                     False, as the authors: it is always for the columns. Distances of 10^2 to 10^3 are far from
                     convergence after 100 iterations, and then the rows sum to anything (0.3 to 5 before training)

    Cost: an ordinary step, a product of [L,C] matrices and a kernel: 2 L^2 exponentials an image and iteration.
    Tokens that are no patches are mixed unaligned. Where a class token alone is classified, as in DeiT and PVT, nothing
    reads the patches behind the last block, so only the class tokens are mixed there. Where the mean of the map is, as
    in all other backbones, R counts by its other marginal alone: the mean of R Y weights the places of Y by the sums of
    R's columns. Once those are 1, as they always are in R Y with exact_marginals=False, the step mixes two means.
    Departs from the authors' code: the marginals; no early end, which needs the host; partners by a cyclic shift. As
    there, the coin is thrown once a batch, and the paper's autoencoder and clean branch are left out.
    variant openmixup: partners by a random permutation. (Its configs combine it with ManifoldMix instead of mixup.)
    """

    def __init__(
        self,
        alpha: float = 2.0,
        eps: float = 0.1,
        iterations: int = 100,
        exact_marginals: bool = True,
        granularity: str = "batch",
        variant: str = "paper",
    ):
        super().__init__(alpha, granularity, variant)
        self.eps = positive(self.name, "eps", eps, least=1e-12)
        self.iterations = whole(self.name, "iterations", iterations, most=10_000)
        check(self.name, "exact_marginals", exact_marginals, (True, False))
        self.exact_marginals = exact_marginals

    def prepare(self, model: nn.Module) -> None:
        try:
            place(model, "features")
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        install(model)

    def settle(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Drawn:
        return Drawn(self.plan(batch), bool(batch.rng.integers(2)))

    def shown(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Shown:
        drawn = placed(self.settle(model, batch, criterion), batch.images.device)
        one, other = ("partner", "image") if drawn.onto_own else ("image", "partner")
        where, how = f"the last features, the {one}'s moved to the {other}'s places", "aligned by optimal transport"
        if getattr(model, "global_pool", None) == "token":
            where, how = "the last class tokens, which have no places", "not aligned"
        return Shown(batch.mix(), Targets.of(batch.labels, drawn.plan), inside=where, note=how)

    def loss(self, model: nn.Module, batch: Batch, drawn: Drawn, criterion: nn.Module) -> Tensor:
        plan, onto_own = drawn.plan, drawn.onto_own
        finish = "rows" if onto_own and self.exact_marginals else "columns"
        solver = (self.eps, self.iterations, finish)
        layout = (getattr(model, "output_fmt", "NCHW"), prefix(model))
        with rewrite(model, "features", align, plan.partner.long(), plan.own, onto_own, solver, layout):
            logits = model(batch.mix())
        return criterion(logits, Targets.of(batch.labels, plan))


def align(
    given: Tensor,
    output: Tensor,
    partner: Tensor,
    own: Tensor,
    onto_own: bool,
    solver: tuple[float, int, str],
    layout: tuple[str, int],
) -> Tensor:
    """Features of a batch mixed with those of `partner`, on the image's own places or on the partner's, in fp32.

    output [B,C,h,w], [B,h,w,C] (layout NHWC) or [B,N,C], whose first tokens are no patches, as many as layout says; the
    same comes back. own float32 [B]: weight of the image itself.
    """
    form, prefix = layout
    x = output.float()
    if output.ndim == 4:
        x, prefix = x.flatten(1, 2) if form == "NHWC" else x.flatten(2).mT, 0
    y = x[partner]
    with torch.autocast(output.device.type, enabled=False):
        with torch.no_grad():
            plan = plan_of(cost(x[:, prefix:], y[:, prefix:]), *solver)
        if onto_own:
            y = torch.cat([y[:, :prefix], plan @ y[:, prefix:]], 1)
        else:
            x = torch.cat([x[:, :prefix], plan.mT @ x[:, prefix:]], 1)
        mixed = torch.lerp(y, x, own[:, None, None])
    if output.ndim == 4:
        mixed = mixed.view(output.shape) if form == "NHWC" else mixed.mT.view(output.shape)
    return mixed.to(output.dtype)


def cost(x: Tensor, y: Tensor) -> Tensor:
    """|x_k - y_l|^2 of features [B,L,C]. [B,L,L]"""
    squares = x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None, :]
    return torch.baddbmm(squares, x, y.mT, alpha=-2)


@torch.library.custom_op(
    "fastmix::sinkhorn", mutates_args=(), schema="(Tensor cost, float eps, int iterations, str finish) -> Tensor"
)
def plan_of(cost, eps, iterations, finish):
    """`sinkhorn` as an operator, into which the compiler does not look. float32 [B,L,L]"""
    return sinkhorn(cost, eps, iterations, finish).contiguous()


@plan_of.register_fake
def _(cost, eps, iterations, finish):
    return torch.empty_like(cost)
