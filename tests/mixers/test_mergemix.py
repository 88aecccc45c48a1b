"""MergeMix against sorting, and its patches against the pixels that they show."""

import numpy as np
import pytest
import torch
from scipy import stats

from fastmix import MIXERS
from fastmix.targets import CrossEntropy
from helpers.attending import batch_of, explicit_attention, network
from helpers.mixing import FixedLam, constants, masks, shapes

MergeMix = MIXERS["mergemix"]


def attention_of(n: int, grid: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *grid, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size, grid", [((224, 224), (14, 14)), ((32, 48), (4, 6)), ((230, 224), (14, 14))], ids=str)
@pytest.mark.parametrize("lam", [0.0, 0.003, 0.37, 0.99])
def test_the_most_attended_patches_are_kept(size, grid, lam):
    batch, attention = constants(5, size), attention_of(5, grid)
    batch.rng = FixedLam(lam)
    plan = MergeMix().plan(batch, attention)
    cells, k = grid[0] * grid[1], int(lam * grid[0] * grid[1])
    values = attention.flatten(1).numpy()
    kept = np.zeros((5, cells), bool)
    for i in range(5):
        kept[i, np.argsort(-values[i])[:k]] = True
    kept = kept.reshape(5, *grid)
    y, x = (np.arange(length) * count // length for length, count in zip(size, grid, strict=True))
    pixels = kept[:, y][:, :, x]
    assert np.array_equal(masks(plan, batch).round(decimals=3).numpy(), pixels)
    assert torch.equal(plan.own, torch.from_numpy(pixels.mean((1, 2))).float())
    if size[0] % grid[0] == 0:
        assert (plan.own.double() - k / cells).abs().max() < 1e-7
    assert torch.equal(plan.other, torch.from_numpy((~pixels).mean((1, 2))).float())


def test_lam_is_drawn_once_a_batch_or_once_a_sample_and_uniform():
    attention = attention_of(3000, (4, 4))
    plan = MergeMix(granularity="sample").plan(shapes(3000, (32, 32)), attention)
    counts = (plan.own * 16).round().int().bincount(minlength=17)
    assert counts[16] == 0 and stats.chisquare(counts[:16].numpy()).pvalue > 1e-3
    assert len(MergeMix().plan(shapes(30, (32, 32)), attention[:30]).own.unique()) == 1
    few = MergeMix(alpha=8.0, granularity="sample").plan(shapes(3000, (32, 32)), attention).own
    assert few.var() < plan.own.var() / 2


def test_the_guide_is_the_attention_of_the_class_token():
    model, batch = network((24, 48)), batch_of(4, (24, 48))
    expected = explicit_attention(model, batch.mix()).mean(1)[:, 0, 1:]
    mixer = MergeMix()
    mixer.prepare(model)
    found = mixer.guide(model, batch, CrossEntropy())
    assert found.shape == (4, 3, 6) and (found.flatten(1) - expected).abs().max() < 1e-6


def test_options_are_checked():
    with pytest.raises(ValueError, match="alpha is 0"):
        MergeMix(alpha=0)
