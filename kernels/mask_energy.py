"""The energy of PuzzleMix's masks: what each block's label costs, and what two neighbours that differ do.

    E = sum_blocks [ m U1 + (1 - m) U0 - eta / b^2 log(Binomial(L-1, p)(L-1-l) + 1e-8) ]
      + sum_edges W (l - l')^2 / (L-1)^2

with labels l = 0..L-1, at which the image itself has the weight m = 1 - l / (L-1). U1, the cost of showing the image,
is the partner's saliency that is lost, and for each neighbour the mean of the border differences that may follow,
(d_1Q + d_1Q') / 2 or (d_P1 + d_P'1) / 2; U0, that of showing the partner, is the image's own, and likewise d_0Q or
d_P0.
W = beta' + (d_10 + d_01 - d_11 - d_00) / 2 is what is left for a border between both. d = gamma beta' D, beta' =
beta / (16 b), D the differences of kernels.borders; p is how much of the image is asked for.
Kim, Choo, Song, "Puzzle Mix", ICML 2020.

Bytes: 12 to 32 read and 4 (L + 2) written a block. One program a sample: in place of some 75 launches. In fp32 in one
order of operations; the logarithm differs by units in the last place. On the CPU the reference runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED, Target, jit, tl

DTYPES = (torch.float32,)
ULPS = 4


# ---- reference ----


def reference(
    own: Tensor,
    other: Tensor,
    share: Tensor,
    down: Tensor,
    right: Tensor,
    labels: int = 3,
    beta: float = 1.2,
    gamma: float = 0.5,
    eta: float = 0.2,
) -> tuple[Tensor, Tensor, Tensor]:
    """`mask_energy` in plain torch."""
    b = own.shape[1]
    smooth = beta / (16 * b)
    cost1, cost0, weights = other.clone(), own.clone(), []
    for axis, differences in ((1, down), (2, right)):
        d00, d01, d10, d11 = (gamma * smooth * differences).unbind(1)
        cost1.narrow(axis, 0, b - 1).add_((d11 + d10) / 2)
        cost1.narrow(axis, 1, b - 1).add_((d11 + d01) / 2)
        cost0.narrow(axis, 0, b - 1).add_((d00 + d01) / 2)
        cost0.narrow(axis, 1, b - 1).add_((d00 + d10) / 2)
        weights.append(smooth + (d10 + d01 - d11 - d00) / 2)
    unary = []
    for label in range(labels):
        kept = labels - 1 - label
        prior = -torch.log(math.comb(labels - 1, kept) * share**kept * (1 - share) ** label + 1e-8)
        m = kept / (labels - 1)
        unary.append(m * cost1 + (1 - m) * cost0 + eta / b**2 * prior[:, None, None])
    return torch.stack(unary, 1), *weights


# ---- Triton ----


@jit
def _along(pairs, weights, at, before, ahead, behind, cost1, cost0, count, smooth, factor):
    """The costs with those of the borders ahead of a block and behind it, along one side; writes the weights of those
    ahead. pairs: D of the four choices, `count` borders each; at, before: the border ahead and the one behind.
    """
    d00 = tl.load(pairs + at, mask=ahead, other=0.0) * factor
    d01 = tl.load(pairs + count + at, mask=ahead, other=0.0) * factor
    d10 = tl.load(pairs + 2 * count + at, mask=ahead, other=0.0) * factor
    d11 = tl.load(pairs + 3 * count + at, mask=ahead, other=0.0) * factor
    cost1, cost0 = cost1 + (d11 + d10) * 0.5, cost0 + (d00 + d01) * 0.5
    tl.store(weights + at, smooth + (((d10 + d01) - d11) - d00) * 0.5, mask=ahead)
    d00 = tl.load(pairs + before, mask=behind, other=0.0) * factor
    d01 = tl.load(pairs + count + before, mask=behind, other=0.0) * factor
    d10 = tl.load(pairs + 2 * count + before, mask=behind, other=0.0) * factor
    d11 = tl.load(pairs + 3 * count + before, mask=behind, other=0.0) * factor
    return cost1 + (d11 + d01) * 0.5, cost0 + (d00 + d10) * 0.5


@jit(numbers=("b", "step"))
def mask_energy_kernel(
    own, other, share, down, right, unary, weights_down, weights_right, b, step, smooth, factor, eta,
    L: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """One program: one sample; N >= b b lanes. step: 0 where one share is that of all samples."""
    sample = tl.program_id(0).to(tl.int64)
    n, count, block = b * b, b * (b - 1), tl.arange(0, N)
    valid, y, x = block < n, block // b, block % b
    cost1 = tl.load(other + sample * n + block, mask=valid, other=0.0)
    cost0 = tl.load(own + sample * n + block, mask=valid, other=0.0)
    at, pairs, edges = block, down + sample * (4 * count), weights_down + sample * count
    ahead, behind = valid & (y + 1 < b), valid & (y > 0)
    cost1, cost0 = _along(pairs, edges, at, at - b, ahead, behind, cost1, cost0, count, smooth, factor)
    at, pairs, edges = block - y, right + sample * (4 * count), weights_right + sample * count
    ahead, behind = valid & (x + 1 < b), valid & (x > 0)
    cost1, cost0 = _along(pairs, edges, at, at - 1, ahead, behind, cost1, cost0, count, smooth, factor)

    p = tl.load(share + sample * step)
    for label in tl.static_range(L):
        chance = p * 0.0 + (1.0 if label == 0 or label == L - 1 else L - 1.0)  # of so many orders, for up to 4 labels
        for _ in tl.static_range(L - 1 - label):
            chance *= p
        rest = p * 0.0 + 1.0
        for _ in tl.static_range(label):
            rest *= 1 - p
        m = (L - 1 - label) / (L - 1)
        cost = m * cost1 + (1 - m) * cost0 + eta * -tl.log(chance * rest + 1e-8)
        tl.store(unary + sample * (L * n) + label * n + block, cost, mask=valid)


# ---- launcher ----


def mask_energy(
    own: Tensor,
    other: Tensor,
    share: Tensor,
    down: Tensor,
    right: Tensor,
    labels: int = 3,
    beta: float = 1.2,
    gamma: float = 0.5,
    eta: float = 0.2,
) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of kernels.gridcut: unary float32 [B,L,b,b], and W as down [B,b-1,b] and right [B,b,b-1].

    own, other   float32 [B,b,b]  saliency of the blocks of the image and of its partner
    share        float32 [B] or [1]  p
    down, right  float32 [B,4,b-1,b] and [B,4,b,b-1]  D
    labels       L, 2 to 4
    Without a wait for the device.
    """
    if not (own.is_cuda or INTERPRETED):
        return reference(own, other, share, down, right, labels, beta, gamma, eta)
    samples, b, _ = own.shape
    unary, *weights = (own.new_empty(samples, *of) for of in ((labels, b, b), (b - 1, b), (b, b - 1)))
    given = [tensor.contiguous() for tensor in (own, other, share, down, right)]
    smooth = beta / (16 * b)
    numbers = b, int(len(share) > 1), smooth, gamma * smooth, eta / b**2
    with torch.cuda.device_of(own):
        mask_energy_kernel[(samples,)](
            *given, unary, *weights, *numbers, L=labels, **_program_shape(b), enable_fp_fusion=False
        )
    return unary, *weights


def _program_shape(b: int) -> dict[str, int]:
    lanes = max(32, 1 << (b * b - 1).bit_length())
    return dict(N=lanes, num_warps=max(1, lanes // 64))


# ---- cases ----


@dataclass(frozen=True)
class Case:
    """Random arguments; shared: one p for all."""

    samples: int
    b: int
    labels: int = 3
    shared: bool = False

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        made, n, b = torch.Generator().manual_seed(seed), self.samples, self.b
        own, other = torch.rand(2, n, b, b, generator=made) / b**2
        share = torch.rand(1 if self.shared else n, generator=made)
        down, right = (torch.rand(n, 4, *of, generator=made) for of in ((b - 1, b), (b, b - 1)))
        return dict(own=own, other=other, share=share, down=down, right=right, labels=self.labels)


CASES = [Case(3, 4), Case(2, 2, 2, shared=True), Case(2, 5, 4)]

# ---- ahead-of-time targets ----

_POINTERS = ("own", "other", "share", "down", "right", "unary", "weights_down", "weights_right")
_TYPES = dict.fromkeys(_POINTERS, "*fp32") | {"b": "i32", "step": "i32"}
_TYPES |= dict.fromkeys(("smooth", "factor", "eta"), "fp32")


def _target(b: int) -> Target:
    shape = _program_shape(b)
    warps = shape.pop("num_warps")
    name = f"mask_energy {b}x{b}"
    return Target(name, mask_energy_kernel, _TYPES, dict(L=3) | shape, 64, 4, 4, fused=False, num_warps=warps)


AOT = [_target(4), _target(16)]
