"""The share of each pixel of an image beside its partner's, where two positive maps say how much each counts there.

    m_i(p) = a / (a + b), a = r_i s_i(p), b = r_j s_j(p), j = partner(i);    1/2 where a + b is 0

in 2**-16, rounded to the nearest, as a plan of kind MAP has it. On a GPU kernels.plan_rows does it.
Bytes: two maps read and one written, 12 a pixel.
"""

from __future__ import annotations

from torch import Tensor

from fastmix.kernels.plan import ONE


def ratio(maps: Tensor, scale: Tensor, partner: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The weights, int32 [B,H,W], and their sums, int64 [B], of maps float32 [B,H,W] that are at least 0.

    scale: the factor r of each map, float32 [B]; partner int32 [B]; out: contiguous memory for the weights, on the
    CPU. Without a wait for the device.
    """
    if maps.device.type == "cpu":
        from fastmix.kernels.ratio.cpu import ratio_cpu

        return ratio_cpu(maps.contiguous(), scale, partner, out)
    return reference(maps, scale, partner)


def reference(maps: Tensor, scale: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
    """`ratio` in plain torch."""
    own = maps * scale[:, None, None]
    both = own[partner.long()].add_(own)
    weights = own.div_(both).masked_fill_(~(both > 0), 0.5).mul_(ONE).round_().int()
    return weights, weights.sum((1, 2))
