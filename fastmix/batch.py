"""Batch: what a mixer is given, and the way from its uint8 images to the model's input."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fastmix.kernels.erase import Erase
from fastmix.kernels.mix import mix
from fastmix.kernels.plan import Plan

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Buffers:
    """Reused outputs of the mix pass on the CPU, where fresh memory costs more than the pass (page faults).

    The k-th pass of a step writes the k-th buffer, so every input of one step stays intact until the next step.
    """

    def __init__(self):
        self.tensors: list[Tensor] = []
        self.used = 0

    def restart(self) -> None:
        self.used = 0

    def next(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised channels-last tensor of that shape [B,3,H,W]."""
        k, self.used = self.used, self.used + 1
        if k == len(self.tensors):
            self.tensors.append(torch.empty(0))
        if self.tensors[k].shape != shape or self.tensors[k].dtype != dtype:
            n, c, h, w = shape
            self.tensors[k] = _large_pages(n * h * w * c, dtype).view(n, h, w, c).permute(0, 3, 1, 2)
        return self.tensors[k]


def _large_pages(count: int, dtype: torch.dtype) -> Tensor:
    """Uninitialised memory [count] in large pages where the system has them: numpy asks for them, torch does not."""
    line = 64  # bytes of a cache line, where vectors of the pass should begin
    memory = np.empty(count * dtype.itemsize + line, np.uint8)
    first = -memory.ctypes.data % line
    return torch.from_numpy(memory[first : first + count * dtype.itemsize]).view(dtype)


@dataclass
class Batch:
    """One step's samples and randomness.

    images uint8 [B,H,W,3] and labels int64 [B], on the device; rng is the step's own generator, a function of
    (seed, step, rank). mean and std are per channel, of pixels in [0,1]; dtype is the model's input type.
    """

    images: Tensor
    labels: Tensor
    rng: np.random.Generator
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    dtype: torch.dtype = torch.float32
    erase: Erase | None = None
    buffers: Buffers | None = field(default=None, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        return self.images.shape[1], self.images.shape[2]

    def __len__(self) -> int:
        return len(self.labels)

    def groups(self, size: int | None) -> list[Batch]:
        """The batch in parts of `size` images (all that there are, where they are fewer, or it is None), each with a
        copy of the generator: all draw the same, as GPUs of one seed do.
        """
        if size is None or len(self) <= size:
            return [self]
        rows = [slice(first, first + size) for first in range(0, len(self), size)]
        return [replace(self, images=self.images[r], labels=self.labels[r], rng=copy.deepcopy(self.rng),
                        erase=self.erase and self.erase.of(r)) for r in rows]  # fmt: skip

    def mix(self, plan: Plan | None = None) -> Tensor:
        """The model's input [B,3,H,W], channels-last, mixed by the plan (None: not mixed) and normalised."""
        out = None
        if self.buffers is not None and self.images.device.type == "cpu":
            n, h, w, c = self.images.shape
            out = self.buffers.next((n, c, h, w), self.dtype)
        return mix(self.images, plan, self.mean, self.std, self.dtype, erase=self.erase, out=out)
