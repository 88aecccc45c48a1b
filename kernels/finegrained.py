"""Fine-grained saliency (Montabone & Soto 2010, on- and off-centre differences): the most salient point of each image.

Y is the luminance in whole levels, averaged over cells of factor x factor pixels and blurred twice by the 3x3 binomial
(borders mirrored, each blur rounded). For neighbourhoods n = 12, 24, 28, 48, 56, 112 pixels, in cells,

    mean_n(p) = mean of Y over [p - n + 1, p + n + 1) both ways, cut to the image, without p itself
    on(p) = sum_n floor(max(Y(p) - mean_n(p), 0)),    off(p) = sum_n floor(max(mean_n(p) - Y(p), 0))
    S(p) = floor(255 on(p) / max on) + floor(255 off(p) / max off)

and the point is where S is largest. Nearly always that is 255, where on is largest and where off is: of equals the
larger on + off counts, then the first, row by row. A part that is 0 everywhere adds nothing; an image without any
difference is most salient in its middle. At factor 1 S is OpenCV's StaticSaliencyFineGrained on 8-bit images, except
that its last step runs over above 255 and ours has no such limit.

All numbers are whole, and every quotient is below 256 with a divisor below 2**17, where fp32 division, rounded to
nearest, and floor give the exact whole part. So the reference, the Triton kernel and the numba twin agree bit for bit.

Bytes to move: 3 HW read an image, 8 written. The cells (56 x 56 at 224 pixels) stay in one program: two running sums
make the integral image, and a neighbourhood is four look-ups in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED, Target, constant, jit, tl

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


# ---- reference ----


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


# ---- Triton ----

RED, GREEN, BLUE = map(constant, LUMA)


@jit
def _blur(value, up, down, left, right):
    """16 times the 3x3 binomial filter."""
    value = tl.gather(value, up, 0) + 2 * value + tl.gather(value, down, 0)
    return tl.gather(value, left, 1) + 2 * value + tl.gather(value, right, 1)


@jit
def _before(total, end, axis: tl.constexpr):
    """The running sum of what lies before `end`."""
    return tl.where(end > 0, tl.gather(total, tl.maximum(end - 1, 0), axis), 0)


@jit
def _scaled(part):
    """floor(255 part / max part); 0 where all is."""
    most = tl.maximum(tl.max(tl.max(part, 1), 0), 1)
    return tl.floor(tl.div_rn((255 * part).to(tl.float32), tl.zeros_like(part).to(tl.float32) + most)).to(tl.int32)


@jit
def finegrained_kernel(
    images, out, H: tl.constexpr, W: tl.constexpr, F: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """One program: one image. ROWS x COLUMNS are powers of two that hold its cells."""
    GH: tl.constexpr = (H + F - 1) // F
    GW: tl.constexpr = (W + F - 1) // F
    source = images + tl.program_id(0).to(tl.int64) * (H * W * 3)
    cy = tl.arange(0, ROWS)[:, None] + tl.zeros([ROWS, COLUMNS], tl.int32)
    cx = tl.arange(0, COLUMNS)[None, :] + tl.zeros([ROWS, COLUMNS], tl.int32)
    total = tl.zeros([ROWS, COLUMNS], tl.int32)
    for k in range(F * F):
        y, x = cy * F + k // F, cx * F + k % F
        place, seen = source + (y * W + x) * 3, (y < H) & (x < W)
        total += RED * tl.load(place, mask=seen, other=0).to(tl.int32)
        total += GREEN * tl.load(place + 1, mask=seen, other=0).to(tl.int32)
        total += BLUE * tl.load(place + 2, mask=seen, other=0).to(tl.int32)
    inside = (cy < GH) & (cx < GW)
    count = tl.where(inside, tl.minimum(H - cy * F, F) * tl.minimum(W - cx * F, F), 1)
    level = (total + 512 * count) // (1024 * count)

    up, down = tl.where(cy > 0, cy - 1, min(1, GH - 1)), tl.where(cy < GH - 1, cy + 1, max(GH - 2, 0))
    left, right = tl.where(cx > 0, cx - 1, min(1, GW - 1)), tl.where(cx < GW - 1, cx + 1, max(GW - 2, 0))
    level = (_blur(level, up, down, left, right) + 8) >> 4
    level = tl.where(inside, (_blur(level, up, down, left, right) + 8) >> 4, 0)
    sums = tl.cumsum(tl.cumsum(level, 0), 1)

    on, off = tl.zeros_like(level), tl.zeros_like(level)
    for k in range(6):
        n = tl.maximum((2 * ((12 + 16 * (k // 3)) << (k % 3)) + F) // (2 * F), 1)
        y0, y1 = tl.maximum(cy - n + 1, 0), tl.minimum(cy + n + 1, GH)
        x0, x1 = tl.maximum(cx - n + 1, 0), tl.minimum(cx + n + 1, GW)
        band = _before(sums, y1, 0) - _before(sums, y0, 0)
        area = (y1 - y0) * (x1 - x0)
        surplus = tl.where(inside, level * area - (_before(band, x1, 1) - _before(band, x0, 1)), 0)
        size = tl.abs(surplus).to(tl.float32)
        difference = tl.floor(tl.div_rn(size, tl.maximum(area - 1, 1).to(tl.float32))).to(tl.int32)
        on += tl.where(surplus > 0, difference, 0)
        off += tl.where(surplus < 0, difference, 0)

    CELLS: tl.constexpr = ROWS * COLUMNS
    order = tl.where(inside, (_scaled(on) + _scaled(off)) * 2048 + on + off, -1)
    best = tl.max(tl.max(order, 1), 0)
    cell = tl.min(tl.min(tl.where(order == best, cy * COLUMNS + cx, CELLS), 1), 0)
    y = tl.minimum(cell // COLUMNS * F + F // 2, H - 1)
    x = tl.minimum(cell % COLUMNS * F + F // 2, W - 1)
    salient = best > 0
    tl.store(out + 2 * tl.program_id(0), tl.where(salient, y, H // 2))
    tl.store(out + 2 * tl.program_id(0) + 1, tl.where(salient, x, W // 2))


# ---- launcher ----


def finegrained(images: Tensor, factor: int | None = None) -> Tensor:
    """(y, x) of the most salient pixel of each image uint8 [B,H,W,3], int32 [B,2], on the images' device.

    It is the centre of the most salient cell of factor x factor pixels; None: `usual_factor`. An image without any
    difference gives its middle. Without a wait for the device. Raises ValueError for images of another type or shape
    and for a factor that leaves more than 128 cells a side.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.numel():
        raise ValueError(f"finegrained: images must be uint8 [B,H,W,3], not {images.dtype} {list(images.shape)}")
    n, height, width, _ = images.shape
    factor = usual_factor((height, width)) if factor is None else factor
    least = -(-max(height, width) // MOST)
    if not least <= factor <= LARGEST:
        raise ValueError(f"finegrained: factor is {factor}; images of {height} x {width} need {least} to {LARGEST}")
    images, out = images.contiguous(), torch.empty((n, 2), dtype=torch.int32, device=images.device)
    if images.is_cuda or INTERPRETED:
        with torch.cuda.device_of(images):
            finegrained_kernel[(n,)](images, out, **_shape(height, width, factor), num_warps=8)
    else:
        from fastmix.kernels.finegrained_cpu import finegrained_cpu

        finegrained_cpu(images, factor, LUMA, neighbourhoods(factor), out)
    return out


def _shape(height: int, width: int, factor: int) -> dict[str, int]:
    rows, columns = (1 << (-(-length // factor) - 1).bit_length() for length in (height, width))
    return dict(H=height, W=width, F=factor, ROWS=rows, COLUMNS=columns)


# ---- cases and ahead-of-time targets ----


@dataclass(frozen=True)
class Case:
    """Images with a spot on noise; the first is flat, the second has two equal spots."""

    n: int
    size: tuple[int, int]
    factor: int | None = None

    def __str__(self) -> str:
        return f"{self.n}x{self.size[0]}x{self.size[1]} factor {self.factor}"

    def arguments(self, dtype: torch.dtype = torch.uint8, seed: int = 0) -> dict:
        """The keyword arguments of one call of `finegrained` or of its reference."""
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (self.n, *self.size, 3), dtype=np.uint8) // 2
        for image in images:
            y, x = (rng.integers(length) for length in self.size)
            image[y : y + self.size[0] // 4, x : x + self.size[1] // 4] += 100
        images[0] = 77
        images[1:2] = 0
        images[1:2, [1, self.size[0] - 2], self.size[1] // 2] = 200
        return dict(images=torch.from_numpy(images), factor=self.factor)


CASES = [
    Case(1, (3, 4)),
    Case(3, (2, 1)),
    Case(3, (9, 14), factor=2),
    Case(4, (33, 20)),
    Case(2, (40, 67), factor=3),
]


def _target(name: str, size: tuple[int, int], registers: int) -> Target:
    types = dict(images="*u8", out="*i32")
    shape = _shape(*size, usual_factor(size))
    return Target(name, finegrained_kernel, types, shape, registers, 1, 4, num_warps=8)


AOT = [_target("finegrained 224x224", (224, 224), 176)]
