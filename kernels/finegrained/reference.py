"""Fine-grained saliency in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURHOODS = (12, 24, 28, 48, 56, 112)  # pixels
LUMA = (306, 601, 117)  # of R, G, B in 1/1024
USUAL, MOST = 64, 128  # cells a side: at most, where no factor is given; what one program can hold
LARGEST = 90  # factor, beyond which the sum of a cell leaves int32
DTYPES = (torch.uint8,)


def usual_factor(size: tuple[int, int]) -> int:
    """The smallest factor that leaves at most 64 cells a side: 1 up to 64 pixels, 4 at 224, 5 at 288."""
    return -(-max(size) // USUAL)


def neighbourhoods(factor: int) -> list[int]:
    """The six neighbourhoods in cells, rounded, at least 1."""
    return [max((2 * n + factor) // (2 * factor), 1) for n in NEIGHBOURHOODS]


def reference(images: Tensor, factor: int | None = None) -> Tensor:
    """`finegrained` in plain torch."""
    height, width = images.shape[1:3]
    factor = usual_factor((height, width)) if factor is None else factor
    score, difference = saliency(luminance(images, factor), factor)
    columns, order = score.shape[2], (2048 * score + difference).flatten(1)
    best, cell = order.amax(1), order.argmax(1)
    y = (cell // columns * factor + factor // 2).clamp(max=height - 1)
    x = (cell % columns * factor + factor // 2).clamp(max=width - 1)
    middle = torch.tensor([height // 2, width // 2], dtype=torch.int32, device=images.device)
    return torch.where(best[:, None] > 0, torch.stack([y, x], 1).int(), middle)


def luminance(images: Tensor, factor: int) -> Tensor:
    """Y of images uint8 [B,H,W,3] before the blurs, int64 [B,h,w]: rounded means; cells at the end may be smaller."""
    n, height, width, _ = images.shape
    rows, columns = -(-height // factor), -(-width // factor)
    weighed = (images.long() * torch.tensor(LUMA, device=images.device)).sum(3)
    padded = torch.nn.functional.pad(weighed, (0, columns * factor - width, 0, rows * factor - height))
    total = padded.view(n, rows, factor, columns, factor).sum((2, 4))
    cells = (torch.arange(k, device=images.device) for k in (rows, columns))
    tall, wide = ((s - c * factor).clamp(max=factor) for c, s in zip(cells, (height, width), strict=True))
    count = tall[:, None] * wide
    return (total + 512 * count) // (1024 * count)


def saliency(luminance: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """S, 0 to 510, and on + off, 0 to 1530, for whole levels [B,h,w]: int64 [B,h,w] each."""
    y = luminance.long()
    for _ in range(2):
        for axis in (1, 2):
            index = torch.arange(y.shape[axis], device=y.device)
            before, after = index.sub(1).abs().clamp(max=index[-1]), index.add(1)
            after = torch.where(after > index[-1], (index[-1] - 1).clamp(min=0), after)
            y = y.index_select(axis, before) + 2 * y + y.index_select(axis, after)
        y = (y + 8) >> 4
    integral = torch.nn.functional.pad(y.cumsum(1).cumsum(2), (1, 0, 1, 0))
    on, off = torch.zeros_like(y), torch.zeros_like(y)
    for n in neighbourhoods(factor):
        (y0, y1), (x0, x1) = (
            ((index - n + 1).clamp(min=0), (index + n + 1).clamp(max=len(index)))
            for index in (torch.arange(length, device=y.device) for length in y.shape[1:])
        )
        band = integral[:, y1] - integral[:, y0]
        area = (y1 - y0)[:, None] * (x1 - x0)
        surplus = y * area - (band[:, :, x1] - band[:, :, x0])
        on += surplus.clamp(min=0) // (area - 1).clamp(min=1)
        off += (-surplus).clamp(min=0) // (area - 1).clamp(min=1)
    score = sum(255 * part // part.amax((1, 2), keepdim=True).clamp(min=1) for part in (on, off))
    return score, on + off
