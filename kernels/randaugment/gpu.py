"""The augmentation pass on a GPU: the Triton kernel."""

from __future__ import annotations

from fastmix.kernels._triton import Target, constant, jit, tl
from fastmix.kernels.randaugment import operations as O
from fastmix.kernels.randaugment.reference import INTERPOLATIONS

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


def block_sizes(elements: int) -> dict[str, int]:
    """The kernel's PART, WIDE, NARROW and PIXELS for images of so many elements, with 8 warps."""
    wide = 1 << 12 if elements % 16 == 0 else 1 << 10  # where 16 bytes cannot be read at once, fewer for each thread
    return dict(PART=1 << 15, WIDE=wide, NARROW=1 << 9, PIXELS=1 << 11)


def _target(interpolation: str, size: tuple[int, int]) -> Target:
    types = dict(images="*u8", table="*i32", levels="*u8", out="*u8", fill0="fp32", fill1="fp32", fill2="fp32")
    chosen = dict(H=size[0], W=size[1], INTERPOLATION=INTERPOLATIONS.index(interpolation))
    chosen |= block_sizes(size[0] * size[1] * 3)
    wide = 16 if size[0] * size[1] * 3 % 16 == 0 else 1
    name = f"randaugment {interpolation} {size[0]}x{size[1]}"
    return Target(name, randaugment_kernel, types, chosen, 64 if wide > 1 else 96, wide, wide, fused=False, num_warps=8)


AOT = [_target(name, (224, 224)) for name in INTERPOLATIONS] + [_target("bicubic", (225, 225))]
