"""Pairing, mixup, cutmix and smoothmix against their formulas and against another library."""

from importlib import import_module

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from fastmix import MIXERS, mix
from fastmix.kernels.plan import ONE
from fastmix.mixers.base import cyclic, shuffled
from fastmix.mixers.cutmix import clipped_box
from helpers.mixing import NO_NORM, SIDE, FixedLam, clipped_length, constants, masks, noise, others, shapes, within


def test_cyclic_partners_are_uniform_over_the_other_images():
    rng = np.random.default_rng(0)
    seen = np.zeros((7, 7), int)
    for _ in range(4200):
        seen[np.arange(7), cyclic(rng, 7)] += 1
    assert (seen.diagonal() == 0).all()
    assert stats.chisquare(seen[0, 1:]).pvalue > 1e-3


def test_shuffled_partners_have_one_fixed_point_on_average():
    rng = np.random.default_rng(1)
    fixed = np.array([(shuffled(rng, 32) == np.arange(32)).sum() for _ in range(3000)])
    assert within(fixed, 1.0) and abs(fixed.var() - 1) < 0.15  # Poisson(1) in the limit


def test_redrawing_leaves_few_fixed_points():
    rng, n = np.random.default_rng(2), 5
    failed = sum((shuffled(rng, n, redraws=10) == np.arange(n)).any() for _ in range(20_000))
    derangements = 44  # of 5 elements
    assert stats.binomtest(failed, 20_000, (1 - derangements / 120) ** 11).pvalue > 1e-3


@pytest.mark.parametrize("name, redraws", [("cutmix", 10), ("fmix", 10), ("mixup", 0), ("smoothmix", 0)])
def test_openmixup_pairs_as_it_does_there(name, redraws):
    mixer = MIXERS[name](variant="openmixup")
    fixed = 0
    for seed in range(300):
        fixed += (mixer.plan(shapes(16, (8, 8), seed)).partner == torch.arange(16)).any().item()
    chance = 1 - 1 / np.e  # of a fixed point in one permutation
    assert stats.binomtest(fixed, 300, chance ** (redraws + 1)).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.2, 0.8, 1.0, 2.0])
def test_mixup_lambda_is_beta(alpha):
    plan = MIXERS["mixup"](alpha=alpha, granularity="sample").plan(shapes(20_000, (8, 8), seed=3))
    assert plan.own.isfinite().all()
    for weight in (plan.own, plan.other):  # rounded to 2**-16: the law is compared half a step above each value
        values, counts = np.unique(weight.double().numpy(), return_counts=True)
        law = stats.beta(alpha, alpha).cdf(np.minimum(values + 0.5 / ONE, 1))
        assert np.abs(counts.cumsum() / 20_000 - law).max() < stats.kstwobign.isf(1e-3) / np.sqrt(20_000)


def test_mixup_is_linear_and_keeps_the_sum_of_the_pixels():
    batch = noise(6, (12, 10))
    batch.rng = FixedLam(0.3)
    plan = MIXERS["mixup"]().plan(batch)
    mixed, images = mix(batch.images, plan, **NO_NORM).double() * 255, batch.images.permute(0, 3, 1, 2).double()
    lam = round(0.3 * ONE) / ONE
    assert (mixed - (lam * images + (1 - lam) * images[plan.partner.long()])).abs().max() < 1e-4
    assert (mixed.sum(0) - images.sum(0)).abs().max() < 1e-3


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_mixup_at_its_ends_is_one_of_the_images(lam):
    batch = noise(6, (12, 10))
    batch.rng = FixedLam(lam)
    plan = MIXERS["mixup"]().plan(batch)
    clean = batch.mix()
    assert torch.equal(batch.mix(plan), clean if lam else clean[plan.partner.long()])


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_cutmix_mean_area(alpha):
    sides = np.arange(SIDE + 1)
    edges = stats.beta(alpha, alpha).cdf(1 - np.minimum(np.append(sides, SIDE + 1) / SIDE, 1) ** 2)
    chance = edges[:-1] - edges[1:]  # of floor(H sqrt(1 - lam)) = side
    chance[-1] += edges[-1]
    exact = sum(p * clipped_length(s, SIDE) ** 2 for p, s in zip(chance, sides, strict=True)) / SIDE**2
    weights = others("cutmix", 20_000, seed=4, alpha=alpha)
    assert chance.sum() == pytest.approx(1) and within(weights, exact)
    continuous = stats.beta(alpha, alpha).expect(lambda lam: (np.sqrt(1 - lam) - (1 - lam) / 4) ** 2)
    assert 0 < continuous - exact < 1 / SIDE  # whole and even sides are up to two pixels shorter


@pytest.mark.parametrize("lam", [0.1, 0.5, 0.9])
def test_cutmix_boxes_at_a_given_lambda(lam):
    batch = shapes(20_000, (SIDE, SIDE))
    batch.rng = FixedLam(lam, seed=5)
    plan = MIXERS["cutmix"](granularity="sample").plan(batch)
    weights, (y0, y1, x0, x1) = plan.other.double().numpy(), plan.table[:, 4:8].T.numpy()
    side = int(SIDE * np.sqrt(1 - lam))
    assert within(weights, (clipped_length(side, SIDE) / SIDE) ** 2)
    assert (weights <= 1 - lam).all()
    inside = (y0 > 0) & (x0 > 0) & (y1 < SIDE) & (x1 < SIDE)
    assert ((y1 - y0) * (x1 - x0))[inside].tolist() == [4 * (side // 2) ** 2] * inside.sum()
    for low, high in ((y0, y1), (x0, x1)):  # the centre is uniform: so is that of the boxes which are not cut
        uncut = low[(low > 0) & (high < SIDE)]
        counts = np.bincount(uncut, minlength=SIDE - side // 2 * 2)[1:]
        assert len(counts) == SIDE - side // 2 * 2 - 1 and stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("size", [(33, 20), (32, 32), (1, 7)])
def test_cutmix_boxes_equal_the_formula_and_timms_for_the_same_centres(size, monkeypatch):
    import_module("fastmix.compat")
    rand_bbox = pytest.importorskip("timm.data.mixup").rand_bbox
    lam = np.random.default_rng(6).random(300)
    sides = [(length * np.sqrt(1 - lam)).astype(int) for length in size]
    boxes = np.stack(clipped_box(np.random.default_rng(7), *sides, size), 1)
    again = np.random.default_rng(7)
    centres = np.stack([again.integers(0, length, 300) for length in size], 1)
    for k, box in enumerate(boxes.tolist()):
        formula = []
        for length, centre in zip(size, centres[k].tolist(), strict=True):
            half = int(length * float(np.sqrt(1 - lam[k]))) // 2
            formula += [max(centre - half, 0), min(centre + half, length)]
        assert box == formula
        given = iter(centres[k].tolist())
        monkeypatch.setattr(np.random, "randint", lambda low, high, size=None, given=given: next(given))
        timms = [int(v) for v in rand_bbox((1, 3, *size), lam[k])]
        for axis in (0, 2):  # timm keeps the last pixel of an odd side, which the authors' code loses
            odd = int(sides[axis // 2][k] % 2 and box[axis + 1] < size[axis // 2])
            assert timms[axis : axis + 2] == [box[axis], box[axis + 1] + odd]


def test_cutmix_shows_one_rectangle_with_whole_pixels():
    batch = constants(8, (33, 20), seed=8)
    plan = MIXERS["cutmix"](granularity="sample").plan(batch)
    for mask, other in zip(masks(plan, batch), plan.other.tolist(), strict=True):
        partner = mask < 0.5
        assert partner.equal(partner.any(1)[:, None] & partner.any(0)[None])
        assert round(other * 33 * 20) == partner.sum()


def smooth_mean(centres) -> float:
    """E[mean G] for s ~ U(0.25, 0.5), where `centres` gives the mean of one factor for a given s."""
    return integrate.quad(lambda s: centres(s) ** 2, 0.25, 0.5)[0] / 0.25


def test_smoothmix_mean():
    pixels = (np.arange(SIDE) + 0.5) / SIDE

    def factor(s):  # mean over pixels and over uniform centres
        cdf = special.erf((1 - pixels) / (s * np.sqrt(2))) + special.erf(pixels / (s * np.sqrt(2)))
        return (s * np.sqrt(np.pi / 2) * cdf).mean()

    def continuous(s):
        return s * np.sqrt(2 * np.pi) * special.erf(1 / (s * np.sqrt(2))) - 2 * s**2 * (1 - np.exp(-0.5 / s**2))

    assert round(smooth_mean(continuous), 3) == 0.429
    weights = others("smoothmix", 20_000, seed=9)
    assert within(weights, smooth_mean(factor)) and within(weights, smooth_mean(continuous))


def test_smoothmix_of_openmixup_has_its_centres_and_swapped_labels():
    grid = (np.arange(64) - np.arange(64)[:, None] + 0.5) / 64
    own = 1 - others("smoothmix", 20_000, seed=10, side=64, variant="openmixup")
    assert within(own, smooth_mean(lambda s: np.exp(-0.5 * (grid / s) ** 2).mean()))
    batch = constants(5, (16, 16), seed=2)
    plan = MIXERS["smoothmix"](variant="openmixup").plan(batch)
    mask = masks(plan, batch)[plan.partner != torch.arange(5)].mean((1, 2))
    assert (plan.other[0] - mask).abs().max() < 1e-6 and abs(plan.other[0] - 0.5) > 0.01


def test_smoothmix_mask_is_the_gaussian_of_its_centre():
    batch = constants(6, (32, 48), seed=11)
    plan = MIXERS["smoothmix"](granularity="sample").plan(batch)
    rng = np.random.default_rng(11)
    sigma, cy, cx = rng.uniform(0.25, 0.5, 6), rng.uniform(0, 32, 6), rng.uniform(0, 48, 6)
    for i, mask in enumerate(masks(plan, batch).numpy()):
        for y in range(32):
            for x in range(48):
                dy, dx = (y + 0.5 - cy[i]) / (32 * sigma[i]), (x + 0.5 - cx[i]) / (48 * sigma[i])
                assert abs(1 - mask[y, x] - np.exp(-(dy**2 + dx**2) / 2)) < 1 / 256
        assert np.linalg.matrix_rank(1 - mask, tol=1e-3) == 1


def test_smoothmix_centres_of_openmixup_are_corners_of_pixels():
    plan = MIXERS["smoothmix"](granularity="sample", variant="openmixup").plan(shapes(50, (16, 24), seed=11))
    rng = np.random.default_rng(11)
    sigma, cy = rng.uniform(0.25, 0.5, 50), rng.integers(0, 16, 50)
    for profile, s, c in zip(plan.profiles[:, :16].numpy(), sigma, cy, strict=True):
        assert np.abs(profile / 256 - np.exp(-0.5 * ((np.arange(16) - (c - 0.5)) / (16 * s)) ** 2)).max() <= 1 / 512


def test_smoothmix_law_is_the_same_along_both_axes():
    plan = MIXERS["smoothmix"](granularity="sample").plan(shapes(4000, (32, 32), seed=12))
    peak = [plan.profiles[:, :32].argmax(1).numpy(), plan.profiles[:, 32:].argmax(1).numpy()]
    assert stats.ks_2samp(*peak).pvalue > 1e-3 and stats.ks_2samp(peak[0], 31 - peak[0]).pvalue > 1e-3
