"""Co-Mixup: groups of images, mixed jointly so that what is salient is seen, and no image too often."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastmix.batch import Batch
from fastmix.kernels.comixup import comixup
from fastmix.kernels.comixup.problem import MOST
from fastmix.kernels.gradient_pool import gradient_pool
from fastmix.kernels.host_to_device import constant
from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows import plan_rows
from fastmix.kernels.plan_rows.rules import Groups
from fastmix.mixers.base import SHARE, WEIGHT, positive, whole, within
from fastmix.mixers.gradient import GradientMixer, saliency

RANDOM = (2, 4, 8)  # what blocks = -1 draws from
PEAK = 8  # pixels a side of the cells in which the most salient place is looked for


def peaks_apart(gradient: Tensor) -> Tensor:
    """How far apart the most salient places of the images are: L1 distance, in cells of 8 pixels, float32 [B,B]."""
    grid = tuple(max(1, length // PEAK) for length in gradient.shape[2:])
    cell = gradient_pool(gradient, grid).flatten(1).argmax(1)
    place = torch.stack([cell // grid[1], cell % grid[1]], 1).float()
    return (place[:, None] - place).abs().sum(2)


@dataclass
class Drawn:
    """What a step draws of G groups of at most m images, and which those are.

    blocks  b
    prior, start   float32 [G,m] and int64 [G,m,n]: of each image in its group, and where the solver begins
    member, inside, sizes   int64 [G,m] images, bool [G,m] whether there is one, int32 [G]
    own, group, first   int64 [B]: an image's place in its group, the group, and the group's first image
    """

    blocks: int
    prior: Tensor
    start: Tensor
    member: Tensor
    inside: Tensor
    sizes: Tensor
    own: Tensor
    group: Tensor
    first: Tensor


class CoMixup(GradientMixer):
    """out = sum_k z_k x_k, k the images of a group, z_k in {0, 1/2, 1} on a grid of b x b blocks; label weight of y_k =
    mean of z_k.

    A group of m images becomes m outputs, which together minimise (kernels/comixup)

        - (saliency of what is shown) + beta/n (label changes) + gamma/n (overlap of outputs) - eta/n log a,  n = b^2

    saliency: |gradient of the loss| pooled by blocks, 1 in all an image; overlap: how often two outputs show one image,
    counted only above tau n blocks an image, and, by omega, a little for images that are salient at distant places;
    a ~ Dirichlet(alpha), one a group: how much of each image is asked for.
    Kim, Choo, Jeong, Song, "Co-Mixup: Saliency Guided Joint Mixup with Supermodular Diversity", ICLR 2021.

    group       m, at most 29: the authors' 16 for ImageNet, 20 for CIFAR and Tiny-ImageNet. A batch that m does not
                divide is cut into groups that differ by one image at most, none larger than m
    blocks      b, 2 to 8; -1: 2, 4 or 8, drawn for each batch
    alpha       of the prior; 1 is what the authors' ImageNet code draws, whatever its alpha says
    iterations  4: CIFAR, Tiny-ImageNet; the authors use 3 for ImageNet, and suggest it for speed
    clean_lam, saliency_size: of GradientMixer. The authors' CIFAR code multiplies clean_lam by 2 / classes, because its
    main loss is a mean over the classes; their ImageNet code does not

    No output belongs to an image: plan.own is how much of image i output i shows, which may be nothing, plan.partner
    the other image that it shows most of (itself where there is none), plan.other how much of that. The labels are
    plan.sources and plan.weights, image i first, then the rest of its group.

    Cost: a forward and a backward pass on the clean images (GradientMixer), two reads of the gradient, a solver
    of one program a group; mixing reads one image, or two where a block is shared.
    Departs from the authors' code: an output's labels are found line by line from three starts (kernels/comixup), not
    by graph cuts on the host, which end in other labels of as low an energy, as large weights and as many sources;
    costs are rounded to whole numbers; groups do not stop early when they have settled; -1 does not draw 16 blocks; the
    most salient places are looked for in separate cells of 8 x 8 pixels (as in their ImageNet code; in the CIFAR code
    cells overlap); the clean loss is the cross-entropy, without a binary one.
    """

    drawn = ""

    def __init__(
        self,
        alpha: float = 2.0,
        group: int = 16,
        blocks: int = 4,
        beta: float = 0.32,
        gamma: float = 1.0,
        eta: float = 0.05,
        tau: float = 0.83,
        omega: float = 0.001,
        iterations: int = 4,
        clean_lam: float = 1.0,
        saliency_size: int | None = None,
    ):
        super().__init__(clean_lam, saliency_size)
        self.alpha = positive(self.name, "alpha", alpha)
        self.group = whole(self.name, "group", group, most=MOST)
        if blocks != -1 and not (type(blocks) is int and RANDOM[0] <= blocks <= RANDOM[-1]):
            raise ValueError(f"{self.name}: blocks is {blocks!r}; it must be a whole number from 2 to 8, or -1")
        for option, value in {"beta": beta, "gamma": gamma, "eta": eta, "tau": tau, "omega": omega}.items():
            within(self.name, option, value, SHARE if option == "omega" else WEIGHT)
        self.blocks, self.eta, self.omega = blocks, eta, omega
        self.solver = dict(
            beta=beta, gamma=gamma, tau=tau, iterations=whole(self.name, "iterations", iterations, most=1000)
        )

    def draw(self, batch: Batch, grid: tuple[int, int] | None) -> Drawn:
        count, rng = len(batch), batch.rng
        b = int(rng.choice(RANDOM)) if self.blocks == -1 else self.blocks
        n = b * b
        groups = -(-count // self.group)
        edges = np.arange(groups + 1) * count // groups
        sizes = np.diff(edges).astype(np.int32)
        m = int(sizes.max())
        inside = np.arange(m) < sizes[:, None]  # [G,m]
        chance = np.where(inside, rng.gamma(self.alpha, size=(groups, m)), 0)
        prior = -self.eta / n * np.log(chance / np.maximum(chance.sum(1, keepdims=True), 1e-30) + 1e-8)
        start = rng.integers(0, sizes[:, None, None], (groups, m, n))
        group = np.repeat(np.arange(groups), sizes)
        member = np.minimum(edges[:-1, None] + np.arange(m), count - 1)
        parts = prior.astype(np.float32), start, member, inside, sizes
        return Drawn(b, *map(torch.from_numpy, (*parts, np.arange(count) - edges[group], group, edges[group])))

    def put(self, batch: Batch, gradient: Tensor, drawn: Drawn) -> Plan:
        b, member, inside, sizes = drawn.blocks, drawn.member, drawn.inside, drawn.sizes
        cost = drawn.prior[..., None] - saliency(gradient, (b, b)).flatten(1)[member]
        apart = peaks_apart(gradient)[member[:, :, None], member[:, None]] * inside[:, :, None] * inside[:, None]
        apart = apart * sizes[:, None, None] / apart.sum((1, 2), keepdim=True).clamp(min=1)
        eye = constant(torch.eye, member.shape[1], device=apart.device)
        compatibility = (1 - self.omega) * eye + self.omega * apart
        largest = 1 - self.eta / b**2 * np.log(1e-8)
        shown = comixup(cost, compatibility, drawn.start, sizes, (b, b), **self.solver, largest=largest)
        groups = Groups(shown, sizes, drawn.own, drawn.group, drawn.first, (b, b))
        return plan_rows(groups, drawn.own, batch.size)
