"""The mixing pass with logits, and its gradient, on the CPU: numba, a row at a time, samples in a few threads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastmix.kernels.compiled import compiled, inner
from fastmix.kernels.erase import Erase
from fastmix.kernels.exp import exp_
from fastmix.kernels.mix.cpu import blend_row, erased, put_row
from fastmix.kernels.mix.values import as_numpy, pixel
from fastmix.kernels.threads import share
from fastmix.kernels.upsample import places


@inner()
def _sigmoid_row(s, power, over, under, down, left, right, across):
    """s [W] = the sigmoid of the logits of a row of pixels, which lies between two rows of cells."""
    for x in range(len(s)):
        upper = over[left[x]] * (np.float32(1) - across[x]) + over[right[x]] * across[x]
        lower = under[left[x]] * (np.float32(1) - across[x]) + under[right[x]] * across[x]
        s[x] = -(upper * (np.float32(1) - down) + lower * down)
    exp_(s, power)
    for x in range(len(s)):
        s[x] = np.float32(1) / (np.float32(1) + s[x])


@inner(fastmath={"reassoc"})
def _sums(s):
    total, squares = np.float32(0), np.float32(0)
    for x in range(len(s)):
        total += s[x]
        squares += s[x] * s[x]
    return total, squares


@compiled()
def _mix_logits(
    start, stop, images, partner, logits, top, bottom, down, left, right, across, boxes, fill, mean, scale,
    out, sums,
):  # fmt: skip
    """Samples start..stop, to out[0:]; images and outputs [B,H,W*3]."""
    height, n = images.shape[1], images.shape[2]
    begin, channels = np.int64(0), np.int64(3)  # see kernels.mix.cpu
    a, b = np.empty(n, np.float32), np.empty(n, np.float32)
    weight = np.empty(n, np.float32)
    s, power = np.empty(n // 3, np.float32), np.empty(n // 3, np.int32)
    zero, one = np.zeros(n, np.float32), np.ones(n, np.float32)  # normalising by these leaves pixels as they are
    for i in range(start, stop):
        total, squares = 0.0, 0.0
        for y in range(height):
            if y == 0 or down[y] > 0 or top[y] != top[y - 1]:  # else the mask is that of the row above
                _sigmoid_row(s, power, logits[i, top[y]], logits[i, bottom[y]], down[y], left, right, across)
                for x in range(len(s)):
                    weight[3 * x] = weight[3 * x + 1] = weight[3 * x + 2] = s[x]
                row_total, row_squares = _sums(s)
            total, squares = total + row_total, squares + row_squares
            line = out[i - start, y]
            if boxes is not None:
                put_row(a, begin, images, boxes, fill, i, y, begin, n, zero, one, channels)
                put_row(b, begin, images, boxes, fill, partner[i], y, begin, n, zero, one, channels)
                blend_row(line, b, a, weight, mean, scale)
            else:
                blend_row(line, images[partner[i], y], images[i, y], weight, mean, scale)
        sums[0, i], sums[1, i] = total, squares


@inner()
def _through_pixels(total, a, b, grad, scale):
    for e in range(len(total)):
        total[e] += grad[e] * (pixel(b[e]) - pixel(a[e])) * scale[e]


@inner()
def _through_sigmoid(over, under, total, s, count, with_s, with_s2, down):
    """Adds what reaches the logits of `count` rows of pixels to the rows of cells above and below them, [W] each."""
    for x in range(len(s)):
        pixel = total[3 * x] + total[3 * x + 1] + total[3 * x + 2] + count * (with_s + with_s2 * s[x])
        pixel *= s[x] * (np.float32(1) - s[x])
        over[x] += pixel * (np.float32(1) - down)
        under[x] += pixel * down


@compiled()
def _mix_logits_grad(
    start, stop, images, partner, logits, grad_out, grad_s, grad_s2, top, bottom, down, left, right, across,
    boxes, fill, scale, grad,
):  # fmt: skip
    """Samples start..stop; images and grad_out [B,H,W*3]. Rows with the same mask are summed before it is applied."""
    height, n = images.shape[1], images.shape[2]
    begin, channels = np.int64(0), np.int64(3)  # see kernels.mix.cpu
    rows, columns = logits.shape[1:]
    a, b, total = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
    s, power = np.empty(n // 3, np.float32), np.empty(n // 3, np.int32)
    zero, one = np.zeros(n, np.float32), np.ones(n, np.float32)
    above, below = np.empty((rows, n // 3), np.float32), np.empty((rows, n // 3), np.float32)
    cells = np.empty(columns, np.float64)
    for i in range(start, stop):
        above[:], below[:] = 0, 0
        y = 0
        while y < height:
            total[:] = 0
            first = y
            while y == first or (y < height and down[y] == 0 and top[y] == top[first]):
                if boxes is not None:
                    put_row(a, begin, images, boxes, fill, i, y, begin, n, zero, one, channels)
                    put_row(b, begin, images, boxes, fill, partner[i], y, begin, n, zero, one, channels)
                    _through_pixels(total, a, b, grad_out[i, y], scale)
                else:
                    _through_pixels(total, images[i, y], images[partner[i], y], grad_out[i, y], scale)
                y += 1
            over, under = top[first], bottom[first]
            _sigmoid_row(s, power, logits[i, over], logits[i, under], down[first], left, right, across)
            count, with_s2 = np.float32(y - first), np.float32(2) * grad_s2[i]
            _through_sigmoid(above[over], below[under], total, s, count, grad_s[i], with_s2, down[first])
        for row in range(rows):
            cells[:] = 0
            for x in range(len(s)):
                pixel = above[row, x] + below[row, x]
                cells[left[x]] += pixel * (1 - across[x])
                cells[right[x]] += pixel * across[x]
            grad[i, row] = cells


def mix_logits_cpu(
    images: Tensor, partner: Tensor, logits: Tensor, mean, scale, mode: str, erase: Erase | None, out: Tensor
) -> Tensor:
    """Fills out [B,H,W,3], contiguous, and returns the sums of S and S**2, float32 [2,B]; arguments are checked."""
    n, height, width, _ = images.shape
    sums = torch.empty(2, n)
    args = (*_sources(images, partner, logits), *_sides(images, logits, mode), *erased(erase))
    args += tuple(np.tile(v, width) for v in (mean, scale))
    results = as_numpy(out).reshape(n, height, 3 * width)

    def work(start: int, stop: int) -> None:
        _mix_logits(start, stop, *args, results[start:stop], sums.numpy())

    share(work, n, images.numel())
    return sums


def mix_logits_grad_cpu(
    images: Tensor, partner: Tensor, logits: Tensor, grad_out: Tensor, grad_s: Tensor, grad_s2: Tensor,
    scale, mode: str, erase: Erase | None, grad: Tensor,
) -> None:  # fmt: skip
    """Fills grad [B,h,w], contiguous, from grad_out [B,H,W,3], contiguous; arguments are checked."""
    n, height, width, _ = images.shape
    grads = (grad_out.float().view(n, height, 3 * width).numpy(), grad_s.numpy(), grad_s2.numpy())
    args = (*_sources(images, partner, logits), *grads, *_sides(images, logits, mode), *erased(erase))
    args += (np.tile(scale, width), grad.numpy())
    share(lambda start, stop: _mix_logits_grad(start, stop, *args), n, images.numel())


def _sources(images, partner, logits):
    n, height, width, _ = images.shape
    return as_numpy(images).reshape(n, height, 3 * width), partner.numpy(), logits.detach().numpy()


def _sides(images, logits, mode):
    """What of each side of the grid each pixel takes."""
    for length, cells in zip(images.shape[1:3], logits.shape[1:], strict=True):
        first, second, share_of_second = places(length, cells, mode)
        yield from (first, second, share_of_second.astype(np.float32))
