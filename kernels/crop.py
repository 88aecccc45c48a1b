"""The crop pass: images of any sizes, uint8 -> windows, resized and mirrored, uint8 [B,S,S,3], in one launch.

    out(i,j) = sum_k v_k sum_l u_l in(a_i + k, b_j + l) / (sum_k v_k sum_l u_l),   v_k = f((a_i + k + 0.5 - c_i) / s),
    c_i = start + (i + 0.5) * extent / S,   s = max(extent / S, 1)

and u likewise along the rows. f is the triangle (`bilinear`) or Keys' cubic with a = -0.5 (`bicubic`; Keys 1981, eq.
4), widened by the scale where an image shrinks: the filter of the loaders' resize, here in fp32 with places counted
from the window's corner, and so at most 1 level from it. A filter that reaches half a pixel copies; where no tap lies
inside the image the result is 0. Every operation is rounded by itself (no fusing, IEEE division), so the reference and
the Triton kernel agree bit for bit.

Bytes to move: the windows' pixels, read once from memory, and 3 S^2 written an image. What takes longer is the work on
the taps: ceil(2 r s) each way, r = 1 (bilinear) or 2, each a byte from the cache and about 9 instructions. Where the
images lie, and whether a pixel's channels lie together, may differ from image to image: the table tells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED, Target, constant, jit, tl
from fastmix.kernels.crop_cases import CASES  # noqa: F401
from fastmix.kernels.crop_table import SUPPORTS, WORDS, offsets

DTYPES = (torch.uint8,)
TILE = 32  # rows and elements of a program; 3 S is a multiple of it where S is

# ---- reference ----


def reference(pixels: Tensor | Sequence[Tensor], table: Tensor, size: int, interpolation: str = "bilinear") -> Tensor:
    """`crop` in plain torch: gathers every tap of every pixel."""
    places = table[:, :2].contiguous().view(torch.int64)[:, 0]
    if not isinstance(pixels, Tensor):
        lengths = torch.tensor([0, *(image.numel() for image in pixels[:-1])])
        places = places + (lengths.cumsum(0) - torch.from_numpy(offsets(pixels))).to(places.device)
        pixels = torch.cat([image.reshape(-1) for image in pixels])
    line, pixel, channel = table[:, 2:5, None].long().unbind(1)
    support, flip = table.view(torch.float32)[:, 13, None], table[:, 14, None]
    i = torch.arange(size, device=table.device).expand(len(table), size)
    down = _Taps(table[:, 5:9], i, support)
    across = _Taps(table[:, 9:13], torch.where(flip > 0, size - 1 - i, i), support)
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

    def __init__(self, axis: Tensor, i: Tensor, support: Tensor):
        self.low, self.high = axis[:, :2, None].unbind(1)
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


# ---- Triton ----

COLUMNS = constant(WORDS)


@jit
def _axis(row, i, support):
    """The filter of one axis at the sources i: the first pixel, counted from the first that it may see, how many,
    the first one's distance from the centre, 1 / width; the last pixel that it may see, and the most that count."""
    low, high = tl.load(row), tl.load(row + 1)
    start = tl.load(row + 2).to(tl.float32, bitcast=True)
    scale = tl.load(row + 3).to(tl.float32, bitcast=True)
    wide = tl.maximum(scale, 1.0)
    reach = support * wide
    centre = start + (i.to(tl.float32) + 0.5) * scale
    first = tl.maximum(tl.floor(centre - reach + 0.5).to(tl.int32), low)
    count = tl.minimum(tl.floor(centre + reach + 0.5).to(tl.int32), high) - first
    taps = tl.ceil(2 * reach).to(tl.int32)
    return first - low, count, first.to(tl.float32) + 0.5 - centre, tl.div_rn(1.0, wide), high - 1 - low, taps


@jit
def _weight(k, count, away, shrink, CUBIC: tl.constexpr):
    t = tl.abs((away + k) * shrink)
    if CUBIC:
        far = tl.where(t < 2, ((2.5 - 0.5 * t) * t - 4) * t + 2, 0.0)
        f = tl.where(t < 1, (1.5 * t - 2.5) * t * t + 1, far)
    else:
        f = tl.maximum(1 - t, 0.0)
    return tl.where(k < count, f, 0.0)


@jit
def _norm(taps, count, away, shrink, CUBIC: tl.constexpr):
    total = tl.zeros_like(away)
    for k in range(taps):
        total += _weight(k, count, away, shrink, CUBIC)
    return tl.div_rn(1.0, tl.where(total > 0, total, 1.0))


@jit
def crop_kernel(pixels, places, table, out, S: tl.constexpr, CUBIC: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    """One program: R rows by C elements (pixels times channels) of one output.

    Every tap is read from inside the image, those that do not count with weight 0, so no read is masked.
    """
    ACROSS: tl.constexpr = (3 * S + C - 1) // C
    DOWN: tl.constexpr = (S + R - 1) // R
    sample = tl.program_id(0) // (ACROSS * DOWN)
    tile = tl.program_id(0) % (ACROSS * DOWN)
    i = tile // ACROSS * R + tl.arange(0, R)[:, None]
    j = tile % ACROSS * C + tl.arange(0, C)[None, :]

    row = table + sample * COLUMNS
    source = pixels + tl.load(places + sample * (COLUMNS // 2))
    line, pixel, channel = tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)
    support = tl.load(row + 13).to(tl.float32, bitcast=True)
    x = tl.where(tl.load(row + 14) > 0, S - 1 - j // 3, j // 3)
    top, tall, above, shrink_y, bottom, down = _axis(row + 5, i, support)
    left, broad, before, shrink_x, right, across = _axis(row + 9, x, support)

    total = tl.zeros([R, C], tl.float32)
    for k in range(down):
        lines = tl.minimum(top + k, bottom) * line
        sums = tl.zeros([R, C], tl.float32)
        for n in range(across):
            places_x = tl.minimum(left + n, right) * pixel + (j % 3) * channel
            value = tl.load(source + (lines + places_x).to(tl.uint32)).to(tl.int32).to(tl.float32)
            sums += _weight(n, broad, before, shrink_x, CUBIC) * value
        total += _weight(k, tall, above, shrink_y, CUBIC) * sums
    norm = _norm(down, tall, above, shrink_y, CUBIC) * _norm(across, broad, before, shrink_x, CUBIC)
    result = tl.minimum(tl.maximum(tl.floor(total * norm + 0.5), 0.0), 255.0).to(tl.uint8)
    # A wide store would give each thread neighbours in a row, and a warp's reads many rows.
    to = tl.max_contiguous(i * (3 * S) + j, [1, 1])
    tl.store(out + sample.to(tl.int64) * (3 * S * S) + to, result, mask=(i < S) & (j < 3 * S))


# ---- launcher ----


def crop(
    pixels: Tensor | Sequence[Tensor],
    table: Tensor,
    size: int,
    interpolation: str = "bilinear",
    *,
    out: Tensor | None = None,
) -> Tensor:
    """The windows that a table describes, uint8 [B,size,size,3].

    pixels: a flat uint8 tensor that holds all images; or one tensor an image, in the table's order, with `offsets` of
    them in the table. table: `rows`, int32 [B,WORDS] on the pixels' device, made with the same size and interpolation.
    out: a contiguous tensor to write and return. On a GPU one launch, without a wait; the caller keeps the pixels until
    it is done. Raises ValueError for arguments that do not fit. A table that points outside the pixels is not noticed.
    """
    first = pixels if isinstance(pixels, Tensor) else pixels[0]
    n, device = len(table), first.device
    if first.dtype != torch.uint8 or not first.is_contiguous() or not (isinstance(pixels, Tensor) or len(pixels) == n):
        raise ValueError("crop: pixels must be a contiguous uint8 tensor, or one for each row of the table")
    if table.dtype != torch.int32 or table.shape != (n, WORDS) or not table.is_contiguous() or table.device != device:
        found = f"{table.dtype} {list(table.shape)} on {table.device}"
        raise ValueError(f"crop: the table must be int32 [B,{WORDS}], contiguous, on {device}, not {found}")
    if interpolation not in SUPPORTS:
        raise ValueError(f"crop: interpolation is {interpolation!r}; choose one of {', '.join(SUPPORTS)}")
    if out is None:
        out = torch.empty(n, size, size, 3, dtype=torch.uint8, device=device)
    if (out.dtype, out.shape, out.device) != (torch.uint8, (n, size, size, 3), device) or not out.is_contiguous():
        found = f"{out.dtype} {list(out.shape)} on {out.device}"
        raise ValueError(f"crop: out must be uint8 [{n},{size},{size},3], contiguous, on {device}, not {found}")
    if not first.is_cuda and not INTERPRETED:
        return out.copy_(reference(pixels, table, size, interpolation))
    down, across = (1 << (side - 1).bit_length() if INTERPRETED else TILE for side in (size, 3 * size))
    grid = n * -(-size // down) * -(-3 * size // across)
    if grid:
        with torch.cuda.device_of(first):
            crop_kernel[(grid,)](
                first,
                table.view(torch.int64),
                table,
                out,
                S=size,
                CUBIC=interpolation == "bicubic",
                R=down,
                C=across,
                num_warps=4,
                enable_fp_fusion=False,
            )
    return out


# ---- ahead-of-time targets ----


def _target(name: str, size: int, cubic: bool) -> Target:
    types = dict(pixels="*u8", places="*i64", table="*i32", out="*u8")
    chosen = dict(S=size, CUBIC=cubic, R=TILE, C=TILE)
    return Target(name, crop_kernel, types, chosen, 80, 1, 1, fused=False)


AOT = [
    _target("crop bilinear", 224, False),
    _target("crop bicubic, odd size", 225, True),
]
