"""The crop pass in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmix.kernels.crop.table import offsets

DTYPES = (torch.uint8,)


def reference(pixels: Tensor | Sequence[Tensor], table: Tensor, size: int, interpolation: str = "bilinear") -> Tensor:
    """`crop` in plain torch: gathers every tap of every pixel."""
    places = table[:, :2].contiguous().view(torch.int64)[:, 0]
    if not isinstance(pixels, Tensor):
        lengths = torch.tensor([0, *(image.numel() for image in pixels[:-1])])
        places = places + (lengths.cumsum(0) - torch.from_numpy(offsets(pixels))).to(places.device)
        pixels = torch.cat([image.reshape(-1) for image in pixels])
    line, pixel, channel = table[:, 2:5, None].long().unbind(1)
    support, (flip, reflect) = table.view(torch.float32)[:, 13, None], table[:, 14:16, None].unbind(1)
    i = torch.arange(size, device=table.device).expand(len(table), size)
    down = _Taps(table[:, 5:9], i, support, reflect)
    across = _Taps(table[:, 9:13], torch.where(flip > 0, size - 1 - i, i), support, reflect)
    channels = channel[:, :, None, None] * torch.arange(3, device=table.device)
    total = torch.zeros(len(table), size, size, 3, device=table.device)
    for k in range(down.most):
        row = places[:, None] + down.seen(k) * line
        sums = torch.zeros_like(total)
        for n in range(across.most):
            index = row[:, :, None, None] + (across.seen(n) * pixel)[:, None, :, None] + channels
            sums = sums + across.weight(n, interpolation)[:, None, :, None] * pixels[index].float()
        total = total + down.weight(k, interpolation)[:, :, None, None] * sums
    norm = down.norm(interpolation)[:, :, None, None] * across.norm(interpolation)[:, None, :, None]
    return (total * norm + 0.5).floor().clamp(0, 255).to(torch.uint8)


class _Taps:
    """The filter of one axis: which pixels of the sources i [B,S] see, and with which weights."""

    def __init__(self, axis: Tensor, i: Tensor, support: Tensor, reflect: Tensor):
        self.low, self.high = axis[:, :2, None].unbind(1)
        last = self.high - 1 - self.low
        i = torch.where(reflect > 0, self.low + last - (last - (i - self.low).abs()).abs(), i)
        start, scale = axis.contiguous().view(torch.float32)[:, 2:, None].unbind(1)
        wide = scale.clamp(min=1)
        reach, self.shrink = support * wide, 1 / wide
        centre = start + (i + 0.5) * scale
        self.first = torch.maximum((centre - reach + 0.5).floor().int(), self.low)
        self.count = torch.minimum((centre + reach + 0.5).floor().int(), self.high) - self.first
        self.away = self.first + 0.5 - centre
        self.taps = (2 * reach).ceil().int()
        self.most = int(self.taps.max()) if len(i) else 0

    def seen(self, k: int) -> Tensor:
        """The k-th pixel, int64 [B,S], counted from the first that counts; another such where there are fewer."""
        return (torch.minimum(self.first + k, self.high - 1) - self.low).long()

    def weight(self, k: int, interpolation: str) -> Tensor:
        t = ((self.away + k) * self.shrink).abs()
        if interpolation == "bilinear":
            f = (1 - t).clamp(min=0)
        else:
            far = torch.where(t < 2, ((2.5 - 0.5 * t) * t - 4) * t + 2, 0)
            f = torch.where(t < 1, (1.5 * t - 2.5) * t * t + 1, far)
        return torch.where(k < torch.minimum(self.count, self.taps), f, 0)

    def norm(self, interpolation: str) -> Tensor:
        total = sum((self.weight(k, interpolation) for k in range(self.most)), torch.zeros_like(self.away))
        return 1 / torch.where(total > 0, total, 1)
