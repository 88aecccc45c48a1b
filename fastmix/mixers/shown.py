"""Shown: what a method makes of a batch, for a picture of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastmix.kernels.plan import Plan
from fastmix.targets import Targets

LAMBDA = "λ"


@dataclass
class Shown:
    """What the model is trained on, of one batch.

    images   float [B,3,H,W], normalised: what the model is given
    targets  the labels that the loss asks for, and how much each counts
    plan     by which the pixels are mixed; None: not at all, or as the next two say
    sources  int64 [B,K], and shares, float32 [B,K,H,W]: how much of image sources[i,k] is in each pixel of sample i,
             where no plan says it. From B on they are images of the step before
    inside   where in the network it is mixed instead of in the pixels, in words
    beside   what else has a part in the loss of the step, in words
    note     what the method stands on, in words
    """

    images: Tensor
    targets: Targets
    plan: Plan | None = None
    sources: Tensor | None = None
    shares: Tensor | None = None
    inside: str = ""
    beside: str = ""
    note: str = ""
