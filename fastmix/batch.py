"""Batch: what a mixer is given, and the way from its images to the model's input."""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastmix.kernels.erase import Erase
from fastmix.kernels.host_to_device import send
from fastmix.kernels.mix import lies_planar, mix
from fastmix.kernels.plan import Plan

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


MOST_KEPT = 16  # outputs whose memory is kept though nothing refers to them


class Buffers:
    """Memory for outputs of the mix pass on the CPU, where fresh memory costs more than the pass (page faults).

    It is used again when no tensor refers to it any more, not even one that autograd keeps.
    """

    def __init__(self):
        self.memory: dict[int, list[tuple[np.ndarray, weakref.ref]]] = {}  # by bytes

    def next(self, shape: tuple[int, ...], dtype: torch.dtype, planar: bool = False) -> Tensor:
        """An uninitialised tensor of that shape [B,3,H,W], channels-last unless planar."""
        n, c, h, w = shape
        size = n * c * h * w * dtype.itemsize
        place = next((k for k, (_, used) in enumerate(self.memory.get(size, ())) if used() is None), None)
        if place is None:
            if sum(map(len, self.memory.values())) >= MOST_KEPT:  # of other sizes, or the user keeps all of them
                for length, parts in self.memory.items():
                    self.memory[length] = [part for part in parts if part[1]() is not None]
            self.memory.setdefault(size, []).append((_large_pages(size), _nothing))
            place = -1
        kept = self.memory[size][place][0]
        lent = kept[:]  # an array of its own, which the tensors made of it keep alive
        self.memory[size][place] = kept, weakref.ref(lent)
        flat = torch.from_numpy(lent).view(dtype)
        return flat.view(shape) if planar else flat.view(n, h, w, c).permute(0, 3, 1, 2)

    def __reduce__(self):
        return Buffers, ()  # a copy begins with none


def _nothing() -> None:
    """A reference to what there is no more."""


def _large_pages(size: int) -> np.ndarray:
    """So many uninitialised bytes in large pages where the system has them: numpy asks for them, torch does not."""
    line = 64  # bytes of a cache line, where vectors of the pass should begin
    memory = np.empty(size + line, np.uint8)
    first = -memory.ctypes.data % line
    return memory[first : first + size]


@dataclass
class Batch:
    """One step's samples and randomness.

    images uint8 [B,H,W,3] and labels int64 [B] (of most mixers also float [B, classes]), on the device; rng is the
    step's own generator, a function of (seed, step, rank). mean and std are per channel, of pixels in [0,1]; dtype is
    the model's input type.
    Images may also be of a float type, normalised by mean and std already; then they may be a view of [B,3,H,W].
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

    @property
    def pixels(self) -> Tensor:
        """The images as uint8 [B,H,W,3], for methods that look at their colours: of floats the nearest ones."""
        if self.images.dtype == torch.uint8:
            return self.images
        mean, std = (send(255 * np.array(v, np.float32), self.images.device) for v in (self.mean, self.std))
        return (self.images.float() * std + mean).round().clamp(0, 255).to(torch.uint8).contiguous()

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
            out = self.buffers.next((n, c, h, w), self.dtype, lies_planar(self.images))
        return mix(self.images, plan, self.mean, self.std, self.dtype, erase=self.erase, out=out)

    def mix_also(self, extra: Tensor, plan: Plan | None) -> Tensor:
        """What belongs to the pixels, [B,K,H,W] of a float type, mixed by the same plan: masks of classes, depth, heat.

        Raises ValueError for other types and sizes.
        """
        if extra.ndim != 4 or not extra.is_floating_point() or extra.shape[2:] != self.size or len(extra) != len(self):
            wanted = f"floats [{len(self)},K,{self.size[0]},{self.size[1]}], such as one_hot(classes) of a mask"
            raise ValueError(f"also: must be {wanted}, not {extra.dtype} {list(extra.shape)}")
        count, parts = extra.shape[1], []
        for part in F.pad(extra.detach(), (0, 0, 0, 0, 0, -count % 3)).split(3, 1):  # the pass knows three channels
            part = part.contiguous().permute(0, 2, 3, 1)
            parts.append(mix(part, plan, self.mean, self.std, extra.dtype))
        return torch.cat(parts, 1)[:, :count]
