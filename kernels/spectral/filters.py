"""What the spectral residual does along a side of its maps, as matrices: float32, in numpy."""

from __future__ import annotations

import numpy as np

from fastmix.kernels.upsample import matrix

TAPS, SIGMA = 7, 3.0


def shrunk(length: int, cells: int, shares: tuple[float, ...] = (1.0,)) -> np.ndarray:
    """[cells,length * C]: bilinear and antialiased, from pixels of C channels whose sum counts by `shares`."""
    step = length / cells
    distance = (np.arange(cells)[:, None] + 0.5) * step - (np.arange(length) + 0.5)
    weight = (1 - np.abs(distance) / step).clip(0)
    return np.kron(weight / weight.sum(1, keepdims=True), shares).astype(np.float32)


def averaged(length: int, factor: float = 1.0) -> np.ndarray:
    """[length,length]: the mean of three neighbours, times a factor; borders replicated."""
    at = np.arange(length)
    unit = np.eye(length, dtype=np.float32)
    return np.float32(factor / 3) * (unit[(at - 1).clip(0)] + unit + unit[(at + 1).clip(max=length - 1)])


def blurred(length: int, cells: int, parts: int) -> np.ndarray:
    """[parts,cells]: a map of `cells` a side brought to `length` pixels (bilinear), blurred, and averaged over parts.

    Parts overlap in a pixel where it belongs to two (as in torch's adaptive_avg_pool2d).
    """
    pixel, part = np.arange(length), np.arange(parts)[:, None]
    inside = (pixel >= part * length // parts) & (pixel < -(-(part + 1) * length // parts))
    average = inside / inside.sum(1, keepdims=True)
    return (average @ gaussian(length) @ matrix(length, cells, "bilinear")).astype(np.float32)


def gaussian(length: int) -> np.ndarray:
    """float64 [length,length]: from what stands at j to what comes out at i; borders mirrored (once)."""
    i, j = np.arange(length)[:, None], np.arange(length)
    total = np.zeros((length, length))
    for place, exists in ((j, j >= 0), (-j, j > 0), (2 * (length - 1) - j, j < length - 1)):
        step = i - place
        total += np.exp(-0.5 * (step / SIGMA) ** 2) * (exists & (abs(step) <= TAPS // 2))
    return total / total.sum(1, keepdims=True)
