"""The augmentation pass in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmix.kernels.randaugment import operations as O

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
DTYPES = (torch.uint8,)


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
