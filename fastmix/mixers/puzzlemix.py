"""PuzzleMix: masks by saliency and local smoothness, and blocks that move to where they are seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastmix.batch import Batch
from fastmix.kernels.borders import borders
from fastmix.kernels.gridcut import gridcut
from fastmix.kernels.mask_energy import mask_energy
from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows import plan_rows
from fastmix.kernels.plan_rows.rules import Blocks
from fastmix.kernels.transport import transport
from fastmix.kernels.transport.reference import MOST
from fastmix.mixers.base import SHARE, WEIGHT, positive, whole, within
from fastmix.mixers.gradient import GradientMixer, saliency

SMALL = 64  # pixels a side of the largest images that the authors pool by 4
BLOCKS = {"paper": [2, 4, 8, 16], "openmixup": [2, 4, 8]}


@dataclass
class Drawn:
    """Blocks along a side, partner int32 [B], and how much of the images is asked for, p, float32 [B] or [1]."""

    blocks: int
    partner: Tensor
    share: Tensor


class PuzzleMix(GradientMixer):
    """out = m x_i' + (1 - m) x_j' on a grid of b x b blocks; label weight of y_i = mean of m, for each sample its own.

    The mask m, of `labels` levels between 0 and 1, minimises an energy (kernels/mask_energy.py): each block from the
    image whose saliency, |gradient of the loss| pooled by blocks, is larger there; neighbours alike, more so where a
    border would show; and about p ~ Beta(alpha, alpha) of the image itself. x' has its blocks moved (kernels/transport)
    so that salient ones come to where the image is shown: moving costs t_eps d^2 / (b - 1)^2, and gains the block's
    saliency.
    Kim, Choo, Song, "Puzzle Mix: Exploiting Saliency and Local Statistics for Optimal Mixup", ICML 2020.

    blocks  b: a number, or a list from which each batch draws one; default 2, 4, 8 or 16
    labels  levels of the mask, 2 to 4
    beta, gamma, eta  smoothness of the mask, share of the data in it (0 to 1), weight of p
    neighbours  pixels by which images are pooled to compare borders (k in kernels/borders); none: the authors' 4 for
            images of up to 64 pixels (CIFAR, Tiny-ImageNet) and 2 for larger ones (ImageNet)
    transport, t_eps  whether blocks move, and what it costs
    t_size  move cells of so many pixels where blocks are larger (the authors' CIFAR setting: 4); the grid, which has at
            most 16 cells a side, takes the mask of its block and the saliency of its own cells

    Cost: GradientMixer's pass, a read of the gradient, a read of the images at the borders of blocks; the mask and the
    two transports are one program a sample each. Mixing reads one image where m is 0 or 1, else two.

    Blocks of images that are not square, or not a multiple of b, are as near as whole pixels allow.
    Departs from the authors' code: the mask by kernels/gridcut instead of a graph cut for each sample on the host,
    with costs in fp32 instead of truncated integers; partners by a cyclic shift; a place to which no block comes keeps
    the image's own (theirs is left black; it is almost never seen); a source wins a place also where moving costs more
    than it gains, if nobody else bids (theirs then leaves it black); losers pay in every round (the penalty is outside
    of the loop in the authors' script, inside in the paper and in OpenMixup). Border differences are those of the
    images before erasing. The optional adversarial noise is left out; clean_lam is not divided by the classes.
    variant openmixup: b of 2, 4 or 8, partners by a random permutation, images pooled by 4, and the gradient of the
    training criterion.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        blocks: int | list[int] | None = None,
        labels: int = 3,
        beta: float = 1.2,
        gamma: float = 0.5,
        eta: float = 0.2,
        neighbours: int | None = None,
        transport: bool = True,
        t_eps: float = 0.8,
        t_size: int | None = None,
        clean_lam: float = 0.0,
        saliency_size: int | None = None,
        granularity: str = "batch",
        variant: str = "paper",
    ):
        super().__init__(clean_lam, saliency_size, granularity, variant)
        self.alpha = positive(self.name, "alpha", alpha)
        self.blocks = blocks if isinstance(blocks, (list, tuple)) else BLOCKS[variant] if blocks is None else [blocks]
        if not self.blocks or not all(type(b) is int and 2 <= b <= MOST for b in self.blocks):
            raise ValueError(f"{self.name}: blocks is {blocks!r}; it must be a whole number of 2 to {MOST}, or a list")
        self.labels = whole(self.name, "labels", labels, least=2, most=4)
        for option, value in {"beta": beta, "gamma": gamma, "eta": eta, "t_eps": t_eps}.items():
            # With a gamma above 1 borders could repel each other: W < 0.
            within(self.name, option, value, SHARE if option == "gamma" else WEIGHT)
        self.beta, self.gamma, self.eta, self.t_eps = beta, gamma, eta, t_eps
        self.neighbours = None if neighbours is None else whole(self.name, "neighbours", neighbours, most=4096)
        self.t_size = None if t_size is None else whole(self.name, "t_size", t_size, most=4096)
        self.transport = transport
        self.unseen = True

    def draw(self, batch: Batch, grid: tuple[int, int] | None) -> Drawn:
        b = int(batch.rng.choice(self.blocks))
        partner = torch.from_numpy(self.pair(batch))
        share = batch.rng.beta(self.alpha, self.alpha, self.draws(batch)).astype(np.float32)
        return Drawn(b, partner, torch.from_numpy(share))

    def put(self, batch: Batch, gradient: Tensor, drawn: Drawn) -> Plan:
        pixels = batch.pixels
        if pixels.is_cuda and self.unseen:  # a grid needs builds of its own: seconds, of the first step alone
            for grid in self.blocks:
                self.on_grid(pixels, gradient, drawn.partner, drawn.share, grid)
            self.unseen = False
        return self.on_grid(pixels, gradient, drawn.partner, drawn.share, drawn.blocks)

    def on_grid(self, images: Tensor, gradient: Tensor, partner: Tensor, share: Tensor, b: int) -> Plan:
        """The plan on b x b blocks, for partner i32 [B] and share f32 [B] or [1], the p of the images."""
        device, size = images.device, tuple(images.shape[1:3])
        own = saliency(gradient, (b, b))
        differences = borders(images, partner, b, self.pooling(size))
        other = own[partner.long()]
        terms = mask_energy(own, other, share, *differences, self.labels, self.beta, self.gamma, self.eta)
        mask = 1 - gridcut(*terms) / (self.labels - 1)

        grid = self.places(size, b)
        if grid != (b, b):
            y, x = (torch.arange(cells, device=device) * b // cells for cells in grid)
            mask, own = mask[:, y[:, None], x], saliency(gradient, grid)
            other = own[partner.long()]
        mask, n = mask.flatten(1), mask[0].numel()
        if self.transport:
            first = transport(own.flatten(1), mask > 0, grid, self.t_eps)
            second = transport(other.flatten(1), mask < 1, grid, self.t_eps)
        else:
            first = second = torch.arange(n, dtype=torch.int32, device=device)
        return plan_rows(Blocks(first, second, mask, grid), partner, size)

    def pooling(self, size: tuple[int, int]) -> int:
        """The pixels by which images are pooled to compare borders."""
        if self.neighbours is not None:
            return self.neighbours
        return 4 if self.variant == "openmixup" or max(size) <= SMALL else 2

    def places(self, size: tuple[int, int], b: int) -> tuple[int, int]:
        """The grid of places between which cells move."""
        if not self.transport or self.t_size is None:
            return b, b
        grid = tuple(max(b, length // self.t_size) for length in size)
        if max(grid) > MOST:
            least = max(size) // (MOST + 1) + 1
            raise ValueError(f"{self.name}: t_size is {self.t_size}; images of {size} pixels need at least {least}")
        return grid
