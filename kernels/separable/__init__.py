"""A linear filter along the columns of maps and one along their rows: resizing, blurring, averaging over cells.

    out_i = D x_i A^T

D and A are matrices, named by how they are made: a function of numbers that gives one in numpy. Each row of theirs is 0
but for a few neighbours. On a GPU they are multiplied as they are, which costs it nothing beside a launch; on the CPU,
where a product of 224 x 224 with 224 x 224 takes 30 times as long, only the neighbours count.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastmix.kernels.host_to_device import constant


def separable(maps: Tensor, make: Callable, down: tuple, across: tuple, out: Tensor | None = None) -> Tensor:
    """Float32 [B,h,w] to float32 [B,H,W] by D = make(*down) float32 [H,h] and A = make(*across) float32 [W,w].

    Sums are in fp32, whatever torch.autocast says. make and its arguments are hashable, and what they give is kept.
    out: contiguous memory for the result, on the CPU.
    """
    if maps.device.type == "cpu":
        from fastmix.kernels.separable.cpu import separable_cpu

        return separable_cpu(maps.contiguous(), make, down, across, out)
    return reference(maps, make, down, across)


def reference(maps: Tensor, make: Callable, down: tuple, across: tuple) -> Tensor:
    """`separable` in plain torch."""
    with torch.autocast(maps.device.type, enabled=False):
        return constant(make, *down, device=maps.device) @ maps @ constant(make, *across, device=maps.device).T
