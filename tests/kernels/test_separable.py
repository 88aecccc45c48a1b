"""Filters of rows and columns against products in float64; shares of two maps against the formula in float64."""

import numpy as np
import pytest
import torch

from fastmix.kernels import ratio as ratios
from fastmix.kernels import separable as filters
from fastmix.kernels import threads
from fastmix.kernels.plan import ONE
from fastmix.kernels.ratio import ratio
from fastmix.kernels.separable import separable


def banded(n: int, length: int, taps: int) -> np.ndarray:
    """Random numbers in a band of a matrix float32 [n,length], with a 0 among them."""
    made = np.zeros((n, length), np.float32)
    rng = np.random.default_rng([n, length, taps])
    for i in range(n):
        start = (length - 1) * i // max(n - 1, 1)
        made[i, max(start - taps // 2, 0) : start + taps - taps // 2] = rng.standard_normal()
        made[i, start] = rng.integers(2)
    return made


SHAPES = [((5, 7, 3), (11, 4, 2)), ((33, 20, 9), (16, 40, 5)), ((40, 1, 1), (1, 6, 6)), ((17, 64, 64), (3, 17, 12))]


@pytest.mark.parametrize("down, across", SHAPES, ids=str)
@pytest.mark.parametrize("way", [separable, filters.reference], ids=["separable", "reference"])
def test_it_is_the_product_with_a_matrix_on_either_side(down, across, way):
    maps = torch.randn(3, down[1], across[1], generator=torch.Generator().manual_seed(0))
    d, a = banded(*down), banded(*across)
    size = np.abs(d).astype(np.float64) @ maps.abs().double().numpy() @ np.abs(a).T.astype(np.float64)
    with torch.autocast("cpu", torch.bfloat16):
        got = way(maps, banded, down, across)
    error = np.abs(got.double().numpy() - d.astype(np.float64) @ maps.double().numpy() @ a.T.astype(np.float64))
    assert got.dtype == torch.float32 and (error <= 1e-6 * size).all()


def test_maps_in_any_layout_and_any_number_of_threads(monkeypatch):
    maps = torch.randn(64, 30, 20).mT
    parts = [separable(one[None].contiguous(), banded, (40, 20, 3), (50, 30, 4)) for one in maps]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(threads, "SHARE", 100)
    assert torch.equal(separable(maps, banded, (40, 20, 3), (50, 30, 4)), torch.cat(parts))


@pytest.mark.parametrize("way", [ratio, ratios.reference], ids=["ratio", "reference"])
def test_weights_are_the_ratio_of_the_two_maps(way):
    made = torch.Generator().manual_seed(0)
    maps, scale = torch.rand(5, 9, 14, generator=made) ** 4, torch.rand(5, generator=made) * 1e3
    maps[1, 2], maps[3, 2], maps[0, 0, 0] = 0, 0, torch.nan
    partner = torch.tensor([2, 3, 0, 1, 4], dtype=torch.int32)
    weights, total = way(maps, scale, partner)
    own = maps.double() * scale.double()[:, None, None]
    wanted = own / (own + own[partner.long()])
    assert weights.dtype == torch.int32 and (weights - ONE * wanted.nan_to_num(0.5)).abs().max() <= 0.51
    assert (weights[1, 2] == ONE // 2).all() and weights[0, 0, 0] == weights[2, 0, 0] == ONE // 2
    assert torch.equal(total, weights.long().sum((1, 2)))
