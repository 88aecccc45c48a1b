"""ResizeMix against its expected areas, against torch's resizing and against index arithmetic."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from fastmix import MIXERS, Batch, mix
from helpers.mixing import NO_NORM, SIDE, clipped_length, noise, shapes, within


def side_chances(low: float, high: float, length: int) -> np.ndarray:
    """Chance of floor(tau * length) = 0..length for tau ~ U(low, high)."""
    edges = np.clip(np.arange(length + 2) / length, low, high)
    return np.diff(edges) / (high - low)


def test_resizemix_mean_area():
    low, high = 0.1, 0.8
    plan = MIXERS["resizemix"](granularity="sample").plan(shapes(20_000, (SIDE, SIDE), seed=27))
    tau = 1 / plan.table.view(torch.float32)[:, 10].double().numpy()
    assert within(tau**2, (high**3 - low**3) / (3 * (high - low))) and round((high**3 - low**3) / 2.1, 3) == 0.243
    exact = (side_chances(low, high, SIDE) * (np.arange(SIDE + 1) / SIDE) ** 2).sum()
    assert within(plan.other.double().numpy(), exact)
    assert stats.kstest(tau, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_resizemix_of_openmixup_has_a_smaller_distorted_box():
    chances = side_chances(0.1, 0.8, SIDE)
    exact = sum(p * clipped_length(s, SIDE) ** 2 for s, p in enumerate(chances)) / SIDE**2
    assert exact == pytest.approx(0.173, abs=1e-3)
    batch = shapes(20_000, (SIDE, SIDE), seed=28)
    plan = MIXERS["resizemix"](granularity="sample", variant="openmixup").plan(batch)
    assert within(plan.other.double().numpy(), exact)
    y0, y1, x0, x1 = plan.table[:, 4:8].T
    longer, shorter = torch.maximum(y1 - y0, x1 - x0), torch.minimum(y1 - y0, x1 - x0)
    assert abs((longer / shorter > 1.5).double().mean() - 0.175) < 0.01


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0])
def test_resizemix_alpha_redraws_outside_the_scope(alpha):
    tau = MIXERS["resizemix"](alpha=alpha).tau(np.random.default_rng(29), 20_000)
    beta, uniform = stats.beta(alpha, alpha), stats.uniform(0.1, 0.7)
    inside = beta.cdf(0.8) - beta.cdf(0.1)

    def law(t):
        return np.clip(beta.cdf(np.clip(t, 0.1, 0.8)) - beta.cdf(0.1), 0, 1) + (1 - inside) * uniform.cdf(t)

    assert stats.kstest(tau, law).pvalue > 1e-3
    if alpha == 1.0:
        assert stats.kstest(tau, uniform.cdf).pvalue > 1e-3


@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_resizemix_shows_the_whole_partner_shrunk(granularity):
    batch = noise(8, (33, 20), seed=30)
    plan = MIXERS["resizemix"](granularity=granularity).plan(batch)
    mixed = mix(batch.images, plan, **NO_NORM)
    clean = mix(batch.images, None, **NO_NORM)
    for i in range(8):
        y0, y1, x0, x1 = plan.table[i, 4:8].tolist()
        inverse = plan.table.view(torch.float32)[i, 10].item()
        assert (y1 - y0, x1 - x0) == (int(33 / inverse), int(20 / inverse))
        rows, columns = (np.floor(np.arange(k) * np.float32(inverse)).astype(int) for k in (y1 - y0, x1 - x0))
        expected = clean[i].clone()
        expected[:, y0:y1, x0:x1] = clean[plan.partner[i]][:, rows][:, :, columns]
        assert torch.equal(mixed[i], expected)
    places = {tuple(row) for row in plan.table[:, 4:8].tolist()}
    assert len(places) > 1


def test_resizemix_of_openmixup_squeezes_as_interpolate_does():
    for seed in range(20):
        batch = noise(4, (32, 24), seed)
        plan = MIXERS["resizemix"](variant="openmixup").plan(batch)
        clean = mix(batch.images, None, **NO_NORM)
        y0, y1, x0, x1 = plan.table[0, 4:8].tolist()
        expected = clean.clone()
        if y1 > y0 and x1 > x0:
            small = F.interpolate(clean[plan.partner.long()].contiguous(), (y1 - y0, x1 - x0), mode="nearest")
            expected[:, :, y0:y1, x0:x1] = small
        assert torch.equal(mix(batch.images, plan, **NO_NORM), expected)


def test_resizemix_keeps_a_ramp_a_ramp():
    ramp = torch.arange(200, dtype=torch.uint8)[None, None, :, None].expand(2, 40, 200, 3)
    batch = Batch(ramp.contiguous(), torch.zeros(2, dtype=torch.int64), np.random.default_rng(31))
    plan = MIXERS["resizemix"](scope=(0.25, 0.25)).plan(batch)
    y0, _, x0, x1 = plan.table[0, 4:8].tolist()
    row = (mix(batch.images, plan, **NO_NORM)[0, 0, y0, x0:x1] * 255).round()
    assert row.tolist() == list(range(0, 200, 4))


def test_resizemix_places_are_shifted_inside():
    length, side = 32, 16
    table = MIXERS["resizemix"](scope=(0.5, 0.5)).plan(shapes(8000, (length, length), seed=32)).table
    expected = np.bincount([min(max(c - side // 2, 0), length - side) for c in range(length)]) / length
    for column in (4, 6):
        assert stats.chisquare(np.bincount(table[:, column]), 8000 * expected).pvalue > 1e-3
    assert expected[0] > 5 * expected[1] and table[:, 5].max() == length


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 9)])
@pytest.mark.parametrize("variant", ["paper", "openmixup"])
def test_resizemix_survives_tiny_images(size, variant):
    batch = noise(4, size)
    plan = MIXERS["resizemix"](granularity="sample", variant=variant).plan(batch)
    y0, y1, x0, x1 = plan.table[:, 4:8].T
    assert (y0 >= 0).all() and (x0 >= 0).all() and (y1 <= size[0]).all() and (x1 <= size[1]).all()
    if variant == "paper":
        assert (plan.other > 0).all()
    assert batch.mix(plan).isfinite().all()
