"""The augmentation pass: uint8 NHWC -> uint8 NHWC, an operation a sample and layer, one launch a layer.

    out_i = f_{operation(i)}(x_i; parameters(i)),      the table of kernels/operations.py

The arithmetic is Pillow's: whole numbers, or fp32 in a fixed order without fused multiply-adds (fp64 for the 256 values
of AUTOCONTRAST), then truncated. Hence the reference, the Triton kernel and the numba twin agree bit for bit.

Geometric operations sample as Image.transform does: NEAREST, BILINEAR, or BICUBIC (Keys' cubic with a = -1), clamped to
the image; a place outside of it shows the fill colour, unblended. Pillow computes places in fp64 (nearest: in 1/65536
pixel), here they are fp32.

Bytes to move for each element: 1 read and 1 written. Operations that need the whole image first (CONTRAST,
AUTOCONTRAST, EQUALIZE) read it again from the cache, once in every program that writes a part of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmix.kernels import operations as O
from fastmix.kernels._triton import INTERPRETED, Target, constant, jit, tl
from fastmix.kernels.randaugment_cases import CASES  # noqa: F401

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
DTYPES = (torch.uint8,)

# ---- reference ----


def reference(
    images: Tensor, table: Tensor, interpolation: str = "bicubic", fill: tuple[int, int, int] = (124, 116, 104)
) -> Tensor:
    """`randaugment` in plain torch: all samples of one operation together."""
    for rows in table:
        out = images.clone()
        for operation in set(rows[:, 0].tolist()) - {O.COPY}:
            chosen = torch.nonzero(rows[:, 0] == operation).flatten()
            x, words = images[chosen], rows[chosen, 1:]
            numbers = words.contiguous().view(torch.float32)[:, :, None, None, None].unbind(1)
            if operation <= O.EQUALIZE:
                levels = _levels(operation, x, words[:, :1], numbers[0].view(-1, 1)).expand(-1, 3, 256)
                row = 3 * torch.arange(len(x), device=x.device)[:, None, None, None] + torch.arange(3, device=x.device)
                out[chosen] = levels.flatten()[256 * row + x]
            elif operation == O.COLOR:
                out[chosen] = _blend(_grey(x)[..., None], x, numbers[0])
            elif operation == O.SHARPNESS:
                out[chosen] = _sharpness(x, numbers[0])
            elif operation == O.AFFINE:
                out[chosen] = _affine(x, numbers, interpolation, fill)
            else:
                out[chosen] = _blur(x, numbers, axis=2 if operation == O.BLUR_X else 1)
        images = out
    return images


def _blend(first, second, factor):
    """first + factor (second - first), clipped and truncated."""
    return (first.float() + factor * (second.float() - first.float())).clamp(0, 255).byte()


def _grey(x):
    r, g, b = x.int().unbind(-1)
    return (r * 19595 + g * 38470 + b * 7471 + 32768) >> 16


def _levels(operation, x, word, factor):
    """What each value becomes in each channel: uint8 [n,1 or 3,256]."""
    v = torch.arange(256, device=x.device)
    if operation == O.POSTERIZE:
        out = v & word
    elif operation == O.SOLARIZE:
        out = torch.where(v < word, v, 255 - v)
    elif operation == O.SOLARIZE_ADD:
        out = torch.where(v < 128, (v + word).clamp(max=255), v)
    elif operation == O.BRIGHTNESS:
        out = _blend(torch.zeros_like(v), v, factor)
    elif operation == O.CONTRAST:
        pixels = x[0, ..., 0].numel()
        mean = (2 * _grey(x).flatten(1).sum(1, dtype=torch.int64) + pixels) // (2 * pixels)
        out = _blend(mean[:, None], v, factor)
    elif operation == O.AUTOCONTRAST:
        low, high = (f(x, (1, 2))[..., None].double() for f in (torch.amin, torch.amax))
        scale = torch.full_like(low, 255) / (high - low).clamp(min=1)  # 255 / tensor would be 255 * (1 / tensor)
        out = torch.where(low < high, (v * scale - low * scale).clamp(0, 255), v.double())
    else:
        out = _equalizing(torch.stack([torch.bincount(c, minlength=256) for c in x.flatten(1, 2).mT.flatten(0, 1)]))
    return out.byte().view(len(out), -1, 256)


def _equalizing(histogram):
    """Levels [3 n,256] from histograms of that shape."""
    v = torch.arange(256, device=histogram.device)
    last = torch.where(histogram > 0, v, 0).amax(1, keepdim=True)
    step = (histogram.sum(1, keepdim=True) - histogram.gather(1, last)) // 255
    below = histogram.cumsum(1) - histogram
    return torch.where(step > 0, ((step // 2 + below) // step.clamp(min=1)).clamp(max=255), v).view(-1, 3, 256)


def _sharpness(x, factor):
    v, out = x.int(), x.clone()
    height, width = x.shape[1:3]
    if height > 2 and width > 2:
        around = sum(v[:, i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3))
        inner = x[:, 1:-1, 1:-1]
        out[:, 1:-1, 1:-1] = _blend((around + 4 * inner.int() + 6) // 13, inner, factor)
    return out


def _blur(x, weights, axis):
    place = torch.arange(x.shape[axis], device=x.device)
    total = weights[0] * x
    for k in range(1, O.TAPS + 1):
        before, after = (x.index_select(axis, p.clamp(0, len(place) - 1)).int() for p in (place - k, place + k))
        total = total + weights[k] * (before + after)
    return (total + 0.5).clamp(0, 255).byte()


def _affine(x, matrix, interpolation, fill):
    n, height, width, _ = x.shape
    a, b, c, d, e, f = matrix[:6]
    centre_y, centre_x = (torch.arange(k, device=x.device) + 0.5 for k in (height, width))
    centre_y = centre_y[:, None, None]
    from_x = (a * centre_x[:, None] + b * centre_y) + c
    from_y = (d * centre_x[:, None] + e * centre_y) + f
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    sample, channel = torch.arange(n, device=x.device)[:, None, None, None], torch.arange(3, device=x.device)

    def pixel(y, x_):
        return x[sample, y.clamp(0, height - 1), x_.clamp(0, width - 1), channel].float()

    if interpolation == "nearest":
        out = pixel(from_y.floor().long(), from_x.floor().long())
    else:
        y, x0 = (from_y - 0.5).floor(), (from_x - 0.5).floor()
        dy, dx = (from_y - 0.5) - y, (from_x - 0.5) - x0
        y, x0 = y.long(), x0.long()
        if interpolation == "bilinear":
            lines = [_linear(pixel(y + k, x0), pixel(y + k, x0 + 1), dx) for k in range(2)]
            out = _linear(*lines, dy)
        else:
            lines = [_cubic(*(pixel(y + k, x0 + j) for j in range(-1, 3)), dx) for k in range(-1, 3)]
            out = _cubic(*lines, dy).clamp(0, 255)
    return torch.where(inside, out.byte(), torch.tensor(fill, dtype=torch.uint8, device=x.device))


def _linear(first, second, t):
    return first + (second - first) * t


def _cubic(v0, v1, v2, v3, t):
    """Keys' cubic with a = -1 between v1 and v2."""
    return v1 + t * ((v2 - v0) + t * ((2 * (v0 - v1) + v2 - v3) + t * (v1 - v0 - v2 + v3)))


# ---- Triton ----

COPY, POSTERIZE, SOLARIZE, SOLARIZE_ADD = map(constant, (O.COPY, O.POSTERIZE, O.SOLARIZE, O.SOLARIZE_ADD))
BRIGHTNESS, CONTRAST, AUTOCONTRAST, EQUALIZE = map(constant, (O.BRIGHTNESS, O.CONTRAST, O.AUTOCONTRAST, O.EQUALIZE))
COLOR, SHARPNESS, BLUR_X, BLUR_Y = map(constant, (O.COLOR, O.SHARPNESS, O.BLUR_X, O.BLUR_Y))
COLUMNS, TAPS = map(constant, (O.COLUMNS, O.TAPS))


@jit
def _number(row, k):
    """The real number in a word of a row."""
    return tl.load(row + k).to(tl.float32, bitcast=True)


@jit
def _mixed(first, second, factor):
    """first + factor (second - first), fp32, clipped."""
    return tl.minimum(tl.maximum(first + factor * (second - first), 0.0), 255.0)


@jit
def _grey_at(source, pixel, mask):
    """The grey of pixels, int32."""
    r = tl.load(source + 3 * pixel, mask=mask, other=0).to(tl.int32)
    g = tl.load(source + 3 * pixel + 1, mask=mask, other=0).to(tl.int32)
    b = tl.load(source + 3 * pixel + 2, mask=mask, other=0).to(tl.int32)
    return tl.where(mask, (r * 19595 + g * 38470 + b * 7471 + 32768) >> 16, 0)


@jit
def _mean_grey(source, N: tl.constexpr, PIXELS: tl.constexpr):
    """The mean grey of an image of N pixels, rounded to nearest."""
    total = tl.zeros([PIXELS], tl.int64)
    for start in range(0, N, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        total += _grey_at(source, pixel, pixel < N)
    return (2 * tl.sum(total, 0) + N) // (2 * N)


@jit
def _stretch(source, levels, v, N: tl.constexpr, PIXELS: tl.constexpr):
    """Writes the levels [3,256] of AUTOCONTRAST; v = 0..255."""
    for c in range(3):
        low, high = tl.full([PIXELS], 255, tl.int32), tl.zeros([PIXELS], tl.int32)
        for start in range(0, N, PIXELS):
            pixel = start + tl.arange(0, PIXELS)
            here = tl.load(source + 3 * pixel + c, mask=pixel < N, other=0).to(tl.int32)
            low = tl.minimum(low, tl.where(pixel < N, here, 255))
            high = tl.maximum(high, here)
        least, most = tl.min(low, 0), tl.max(high, 0)
        scale = tl.full([1], 255.0, tl.float64) / tl.maximum(most - least, 1).to(tl.float64)
        stretched = v.to(tl.float64) * scale - least.to(tl.float64) * scale
        out = tl.where(least < most, tl.minimum(tl.maximum(stretched, 0.0), 255.0).to(tl.int32), v)
        tl.store(levels + c * 256 + v, out.to(tl.uint8))


@jit
def _flat(histogram, v, N: tl.constexpr, PIXELS: tl.constexpr):
    """The levels uint8 [256] that flatten a channel's histogram, in which masked places were counted as zeros."""
    beyond: tl.constexpr = (N + PIXELS - 1) // PIXELS * PIXELS - N
    histogram -= tl.where(v == 0, beyond, 0)
    last = tl.max(tl.where(histogram > 0, v, 0), 0)
    step = (N - tl.sum(tl.where(v == last, histogram, 0), 0)) // 255
    below = tl.cumsum(histogram, 0) - histogram
    return tl.where(step > 0, tl.minimum((step // 2 + below) // tl.maximum(step, 1), 255), v).to(tl.uint8)


@jit
def _equalize(source, levels, v, N: tl.constexpr, PIXELS: tl.constexpr):
    """Writes the levels [3,256] of EQUALIZE; v = 0..255."""
    histogram0, histogram1, histogram2 = tl.zeros([256], tl.int32), tl.zeros([256], tl.int32), tl.zeros([256], tl.int32)
    for start in range(0, N, PIXELS):  # all channels at once: a histogram ends in a barrier, which loads wait for
        pixel = start + tl.arange(0, PIXELS)
        r = tl.load(source + 3 * pixel, mask=pixel < N, other=0)
        g = tl.load(source + 3 * pixel + 1, mask=pixel < N, other=0)
        b = tl.load(source + 3 * pixel + 2, mask=pixel < N, other=0)
        histogram0 += tl.histogram(r.to(tl.int32), 256)
        histogram1 += tl.histogram(g.to(tl.int32), 256)
        histogram2 += tl.histogram(b.to(tl.int32), 256)
    tl.store(levels + v, _flat(histogram0, v, N, PIXELS))
    tl.store(levels + 256 + v, _flat(histogram1, v, N, PIXELS))
    tl.store(levels + 512 + v, _flat(histogram2, v, N, PIXELS))


@jit
def _level(source, v, operation, row, N: tl.constexpr, PIXELS: tl.constexpr):
    """What the values v = 0..255 of any channel become: operations that are the same for all three."""
    word = tl.load(row + 1)
    out = v
    if operation == POSTERIZE:
        out = v & word
    elif operation == SOLARIZE:
        out = tl.where(v < word, v, 255 - v)
    elif operation == SOLARIZE_ADD:
        out = tl.where(v < 128, tl.minimum(v + word, 255), v)
    elif operation == BRIGHTNESS:
        out = _mixed(0.0, v.to(tl.float32), _number(row, 1)).to(tl.int32)
    elif operation == CONTRAST:
        mean = _mean_grey(source, N, PIXELS).to(tl.float32)
        out = _mixed(mean, v.to(tl.float32), _number(row, 1)).to(tl.int32)
    return out.to(tl.uint8)


@jit
def _pixel(source, y, x, c, mask, H: tl.constexpr, W: tl.constexpr):
    """Values at (y, x), clamped to the image, fp32."""
    y, x = tl.minimum(tl.maximum(y, 0), H - 1), tl.minimum(tl.maximum(x, 0), W - 1)
    return tl.load(source + (y * W + x) * 3 + c, mask=mask, other=0).to(tl.float32)


@jit
def _curve(v0, v1, v2, v3, t):
    return v1 + t * ((v2 - v0) + t * ((2 * (v0 - v1) + v2 - v3) + t * (v1 - v0 - v2 + v3)))


@jit
def _cubic_line(source, y, x, c, t, mask, H: tl.constexpr, W: tl.constexpr):
    between = mask & (t != 0)  # on a pixel its neighbours have no weight and need not be read
    v0, v1 = _pixel(source, y, x - 1, c, between, H, W), _pixel(source, y, x, c, mask, H, W)
    v2, v3 = _pixel(source, y, x + 1, c, between, H, W), _pixel(source, y, x + 2, c, between, H, W)
    return _curve(v0, v1, v2, v3, t)


@jit
def _linear_line(source, y, x, c, t, mask, H: tl.constexpr, W: tl.constexpr):
    first, second = _pixel(source, y, x, c, mask, H, W), _pixel(source, y, x + 1, c, mask, H, W)
    return first + (second - first) * t


@jit
def _transformed(source, row, y, x, c, valid, fill, H: tl.constexpr, W: tl.constexpr, INTERPOLATION: tl.constexpr):
    """AFFINE at the places (y, x)."""
    centre_y, centre_x = y.to(tl.float32) + 0.5, x.to(tl.float32) + 0.5
    from_x = (_number(row, 1) * centre_x + _number(row, 2) * centre_y) + _number(row, 3)
    from_y = (_number(row, 4) * centre_x + _number(row, 5) * centre_y) + _number(row, 6)
    inside = (from_x >= 0) & (from_x < W) & (from_y >= 0) & (from_y < H)
    mask = inside & valid
    if INTERPOLATION == 0:
        out = _pixel(source, tl.floor(from_y).to(tl.int32), tl.floor(from_x).to(tl.int32), c, mask, H, W)
    else:
        from_y, from_x = from_y - 0.5, from_x - 0.5
        floor_y, floor_x = tl.floor(from_y), tl.floor(from_x)
        dy, dx = from_y - floor_y, from_x - floor_x
        sy, sx = floor_y.to(tl.int32), floor_x.to(tl.int32)
        if INTERPOLATION == 1:
            upper = _linear_line(source, sy, sx, c, dx, mask, H, W)
            lower = _linear_line(source, sy + 1, sx, c, dx, mask, H, W)
            out = upper + (lower - upper) * dy
        else:
            between = mask & (dy != 0)
            v0 = _cubic_line(source, sy - 1, sx, c, dx, between, H, W)
            v1 = _cubic_line(source, sy, sx, c, dx, mask, H, W)
            v2 = _cubic_line(source, sy + 1, sx, c, dx, between, H, W)
            v3 = _cubic_line(source, sy + 2, sx, c, dx, between, H, W)
            out = tl.minimum(tl.maximum(_curve(v0, v1, v2, v3, dy), 0.0), 255.0)
    return tl.where(inside, out, fill)


@jit
def _smoothed(source, y, x, c, mask, H: tl.constexpr, W: tl.constexpr):
    """The 3x3 mean that weighs the centre five times, rounded to nearest, fp32."""
    total = 4 * _pixel(source, y, x, c, mask, H, W)
    for i in tl.static_range(-1, 2):
        for j in tl.static_range(-1, 2):
            total += _pixel(source, y + i, x + j, c, mask, H, W)
    return ((total.to(tl.int32) + 6) // 13).to(tl.float32)


@jit
def _blurred(source, row, y, x, c, mask, along_y, H: tl.constexpr, W: tl.constexpr):
    """BLUR_Y (along_y = 1) or BLUR_X (0) at the places (y, x)."""
    total = _number(row, 1) * _pixel(source, y, x, c, mask, H, W)
    for k in tl.static_range(1, TAPS + 1):
        dy, dx = k * along_y, k - k * along_y
        both = _pixel(source, y - dy, x - dx, c, mask, H, W) + _pixel(source, y + dy, x + dx, c, mask, H, W)
        total += _number(row, 1 + k) * both
    return tl.minimum(total + 0.5, 255.0)


@jit
def randaugment_kernel(
    images, table, levels, out, fill0, fill1, fill2,
    H: tl.constexpr, W: tl.constexpr, INTERPOLATION: tl.constexpr,
    PART: tl.constexpr, WIDE: tl.constexpr, NARROW: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """One program: PART neighbouring elements of one sample's flat H*W*3.

    WIDE elements at a time are looked up (four times as many copied), NARROW computed. PIXELS at a time are read for
    statistics, which every program of a sample computes, and writes as the same levels [3,256].
    """
    N: tl.constexpr = H * W * 3
    CHUNKS: tl.constexpr = (N + PART - 1) // PART
    sample = (tl.program_id(0) // CHUNKS).to(tl.int64)
    first = (tl.program_id(0) % CHUNKS) * PART
    end = tl.minimum(first + PART, N)
    source, target, row = images + sample * N, out + sample * N, table + sample * COLUMNS
    operation = tl.load(row)
    factor = _number(row, 1)

    if operation == COPY:
        for start in range(first, end, 4 * WIDE):
            e = start + tl.arange(0, 4 * WIDE)
            tl.store(target + e, tl.load(source + e, mask=e < N), mask=e < N)
    elif operation <= EQUALIZE:
        own = levels + sample * 768
        v = tl.arange(0, 256)
        if operation == AUTOCONTRAST:
            _stretch(source, own, v, H * W, PIXELS)
        elif operation == EQUALIZE:
            _equalize(source, own, v, H * W, PIXELS)
        else:
            level = _level(source, v, operation, row, H * W, PIXELS)
            for c in tl.static_range(3):
                tl.store(own + c * 256 + v, level)
        tl.debug_barrier()  # the levels are read by other threads than wrote them
        for start in range(first, end, WIDE):
            e = start + tl.arange(0, WIDE)
            value = tl.load(source + e, mask=e < N, other=0).to(tl.int32)
            tl.store(target + e, tl.load(own + (e % 3) * 256 + value, mask=e < N), mask=e < N)
    else:
        for start in range(first, end, NARROW):
            e = start + tl.arange(0, NARROW)
            valid = e < N
            pixel, c = e // 3, e % 3
            y, x = pixel // W, pixel % W
            if operation <= SHARPNESS:
                value = tl.load(source + e, mask=valid, other=0).to(tl.float32)
                if operation == COLOR:
                    result = _mixed(_grey_at(source, pixel, valid).to(tl.float32), value, factor)
                else:
                    inner = valid & (y > 0) & (y < H - 1) & (x > 0) & (x < W - 1)
                    smooth = _smoothed(source, y, x, c, inner, H, W)
                    result = tl.where(inner, _mixed(smooth, value, factor), value)
            elif operation <= BLUR_Y:
                result = _blurred(source, row, y, x, c, valid, operation - BLUR_X, H, W)
            else:
                fill = tl.where(c == 0, fill0, tl.where(c == 1, fill1, fill2))
                result = _transformed(source, row, y, x, c, valid, fill, H, W, INTERPOLATION)
            tl.store(target + e, result.to(tl.uint8), mask=valid)


# ---- launcher ----


def randaugment(
    images: Tensor,
    table: Tensor,
    interpolation: str = "bicubic",
    fill: tuple[int, int, int] = (124, 116, 104),
    *,
    out: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Images uint8 [B,H,W,3], each changed by its operation of every layer of the table int32 [layers,B,8].

    interpolation (nearest, bilinear, bicubic) and fill (RGB, 0..255) are those of AFFINE. out: two tensors like the
    images that the layers may write in turns, and one of which is returned, instead of new ones. The images are never
    changed; without a layer they are returned themselves. Without a wait for the device; images that are not
    contiguous are copied first. Raises ValueError for arguments that do not fit each other, and on the CPU also for an
    unknown operation.
    """
    _check(images, table, interpolation, fill, out)
    for k, rows in enumerate(table):
        source = images.contiguous()
        target = torch.empty_like(source) if out is None else out[k % 2]
        if images.is_cuda or INTERPRETED:
            _launch(source, rows, interpolation, fill, target)
        else:
            from fastmix.kernels.randaugment_cpu import randaugment_cpu

            randaugment_cpu(source, rows, INTERPOLATIONS.index(interpolation), fill, target)
        images = target
    return images


def _blocks(elements: int) -> dict[str, int]:
    """The kernel's PART, WIDE, NARROW and PIXELS for images of so many elements, with 8 warps."""
    wide = 1 << 12 if elements % 16 == 0 else 1 << 10  # where 16 bytes cannot be read at once, fewer for each thread
    return dict(PART=1 << 15, WIDE=wide, NARROW=1 << 9, PIXELS=1 << 11)


def _launch(images, rows, interpolation, fill, out) -> None:
    n, height, width, _ = images.shape
    blocks = _blocks(height * width * 3)
    if INTERPRETED:
        blocks = dict.fromkeys(blocks, 1 << min(16, (height * width * 3 - 1).bit_length()))
    with torch.cuda.device_of(images):
        randaugment_kernel[(n * -(-height * width * 3 // blocks["PART"]),)](
            images,
            rows,
            torch.empty((n, 3, 256), dtype=torch.uint8, device=images.device),
            out,
            *map(float, fill),
            H=height,
            W=width,
            INTERPOLATION=INTERPOLATIONS.index(interpolation),
            **blocks,
            num_warps=8,
            enable_fp_fusion=False,
        )


def _check(images, table, interpolation, fill, out) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.numel():
        raise ValueError(f"randaugment: images must be uint8 [B,H,W,3], not {images.dtype} {list(images.shape)}")
    if images[0].numel() >= 2**30:
        raise ValueError(f"randaugment: images of shape {list(images.shape)}: more than 2**30 values in one image")
    shape = (len(table), len(images), O.COLUMNS)
    if table.dtype != torch.int32 or table.shape != shape or not table.is_contiguous() or table.device != images.device:
        wanted = f"int32 [layers,{len(images)},{O.COLUMNS}], contiguous, on {images.device}"
        raise ValueError(f"randaugment: the table must be {wanted}, not {table.dtype} {list(table.shape)}")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"randaugment: interpolation is {interpolation!r}; choose one of {', '.join(INTERPOLATIONS)}")
    if len(fill) != 3 or not all(0 <= v <= 255 and v == int(v) for v in fill):
        raise ValueError(f"randaugment: fill is {fill}; it must be 3 whole numbers from 0 to 255")
    for tensor in out or ():
        same = tensor.shape == images.shape and tensor.dtype == torch.uint8 and tensor.device == images.device
        if not same or not tensor.is_contiguous():
            raise ValueError(f"randaugment: out must be two contiguous tensors uint8 {list(images.shape)}")
    if table.device.type == "cpu" and table.numel() and not 0 <= table[..., 0].min() <= table[..., 0].max() <= O.AFFINE:
        raise ValueError(f"randaugment: the table has operations outside 0..{O.AFFINE}")


# ---- ahead-of-time targets ----


def _target(interpolation: str, size: tuple[int, int]) -> Target:
    types = dict(images="*u8", table="*i32", levels="*u8", out="*u8", fill0="fp32", fill1="fp32", fill2="fp32")
    chosen = dict(H=size[0], W=size[1], INTERPOLATION=INTERPOLATIONS.index(interpolation))
    chosen |= _blocks(size[0] * size[1] * 3)
    wide = 16 if size[0] * size[1] * 3 % 16 == 0 else 1
    name = f"randaugment {interpolation} {size[0]}x{size[1]}"
    return Target(name, randaugment_kernel, types, chosen, 64 if wide > 1 else 96, wide, wide, fused=False, num_warps=8)


AOT = [_target(name, (224, 224)) for name in INTERPOLATIONS] + [_target("bicubic", (225, 225))]
