"""The mixing pass: uint8 NHWC -> (erase) -> mix -> normalise -> fp32/fp16/bf16, channels-last, in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastmix.kernels import plan as P
from fastmix.kernels.plan import Plan


@dataclass
class Erase:
    """Rectangles of the *source* images that show noise instead (random erasing, before the mix as in timm).

    boxes int32 [B,5]: y0 y1 x0 x1 (half open; empty = nothing) and a seed; fill float32 [3,4096]: noise values in
    pixel units (0..255), of which each pixel and channel takes the one that its hash picks.
    """

    boxes: Tensor
    fill: Tensor
