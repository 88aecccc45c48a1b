"""Operations on single images as rows of a small table: `kernels.randaugment` applies what `engine.augment` draws.

A row of 8 int32 says what happens to one image: the operation, then up to 7 parameters, whole numbers or fp32 bits.

| operation | parameters | a value v of 0..255 becomes |
|---|---|---|
| COPY | | v |
| POSTERIZE | mask | v & mask |
| SOLARIZE | threshold | v below the threshold, else 255 - v (threshold 0 inverts) |
| SOLARIZE_ADD | add | min(255, v + add) below 128, else v |
| BRIGHTNESS | factor | blend(0, v) |
| CONTRAST | factor | blend(mean of the image's grey, v) |
| AUTOCONTRAST | | each channel stretched to 0..255 |
| EQUALIZE | | each channel's histogram flattened |
| COLOR | factor | blend(grey, v) (factor 0: the grey image) |
| SHARPNESS | factor | blend(3x3 smoothed, v); pixels of the border stay |
| BLUR_X, BLUR_Y | w0..w6 | w0 v + sum of w_k (v_-k + v_+k) along an axis, clamped at the ends, rounded |
| AFFINE | a b c d e f | the image at (a x + b y + c, d x + e y + f), pixel centres at .5; outside: the fill colour |

blend(a, v) = a + factor (v - a), clipped to 0..255 and truncated; grey = (19595 R + 38470 G + 7471 B + 32768) >> 16. It
is the arithmetic of Pillow's ImageOps, ImageEnhance and Image.transform.
"""

from __future__ import annotations

import numpy as np

COPY, POSTERIZE, SOLARIZE, SOLARIZE_ADD, BRIGHTNESS, CONTRAST, AUTOCONTRAST, EQUALIZE = range(8)
COLOR, SHARPNESS, BLUR_X, BLUR_Y, AFFINE = range(8, 13)  # those above are a table of 256 values a channel
COLUMNS = 8
TAPS = 6  # of a blur to either side
MAX_RADIUS = 2.0  # of a blur that these taps hold


def whole(operation: int, n: int, parameter=0) -> np.ndarray:
    """Rows int32 [n,8] of an operation whose parameter, a number or [n], is whole, or which has none."""
    rows = np.zeros((n, COLUMNS), np.int32)
    rows[:, 0], rows[:, 1] = operation, parameter
    return rows


def real(operation: int, n: int, *parameters) -> np.ndarray:
    """Rows int32 [n,8] of an operation with real parameters, each a number or [n]."""
    rows = whole(operation, n)
    for k, values in enumerate(parameters, 1):
        rows.view(np.float32)[:, k] = values
    return rows


def posterize(bits: np.ndarray) -> np.ndarray:
    """Keeps the highest 0 to 8 bits, [n]."""
    return whole(POSTERIZE, len(bits), 256 - (256 >> np.asarray(bits)))


def rotate(degrees: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Turns images of size (H, W) counter-clockwise around their centre, [n]."""
    y, x = size[0] / 2, size[1] / 2
    angle = -np.radians(degrees)
    cos, sin = np.cos(angle).round(15), np.sin(angle).round(15)
    return real(AFFINE, len(degrees), cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


def shear(along_x, along_y) -> np.ndarray:
    """Shows at (x, y) the image at (x + along_x y, y + along_y x); [n] or numbers."""
    return real(AFFINE, np.broadcast(along_x, along_y).size, 1, along_x, 0, along_y, 1, 0)


def translate(right, down) -> np.ndarray:
    """Shows at (x, y) the image at (x + right, y + down), in pixels; [n] or numbers."""
    return real(AFFINE, np.broadcast(right, down).size, 1, 0, right, 0, 1, down)


def blur(radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of BLUR_X and of BLUR_Y, to be applied one after the other: a Gaussian of that standard deviation [n].

    As in Pillow it is three equal box filters with fractional ends (Gwosdek et al. 2011, eq. 7, 11, 14), here as one
    kernel. Raises ValueError for a radius above 2 pixels.
    """
    if np.max(radius, initial=0) > MAX_RADIUS:
        raise ValueError(f"blur: a radius is {np.max(radius)}; it must be at most {MAX_RADIUS}")
    variance = np.square(radius, dtype=np.float64) / 3
    whole_radius = np.floor((np.sqrt(12 * variance + 1) - 1) / 2)
    above = whole_radius + 1
    end = (2 * whole_radius + 1) * (whole_radius * above - 3 * variance) / (6 * (variance - above**2))
    offset = np.abs(np.arange(-2, 3))
    box = np.where(offset <= whole_radius[:, None], 1.0, np.where(offset == above[:, None], end[:, None], 0.0))
    box /= box.sum(1, keepdims=True)
    weights = np.zeros((len(box), 2 * TAPS + 1))
    for i, j, k in np.ndindex(5, 5, 5):
        weights[:, i + j + k] += box[:, i] * box[:, j] * box[:, k]
    half = weights[:, TAPS:].T
    return real(BLUR_X, len(box), *half), real(BLUR_Y, len(box), *half)
