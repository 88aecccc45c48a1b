"""Both grid mixes against their rectangles and cells, gone through one by one."""

import numpy as np
import pytest
import torch
from scipy import stats

from fastmix import MIXERS
from fastmix.mixers.gridmix import stripes, wrapped_stripes
from helpers.mixing import SIDE, FixedLam, constants, masks, others, shapes, within


def enumerated(size, y, x, crop_h, crop_w, cell, hole) -> np.ndarray:
    """The partner's mask, rectangle by rectangle, with Python's slices: ends below zero count from the far edge."""
    mask = np.zeros(size, bool)
    for i in range(crop_w // cell + 2):
        for j in range(crop_h // cell + 2):
            x1, y1 = min(cell * i, crop_w), min(cell * j, crop_h)
            x2, y2 = min(x1 + hole, crop_w), min(y1 + hole, crop_h)
            mask[y + y1 : y + y2, x + x1 : x + x2] = True
    return mask


def random_grids(rng, size, inside: bool):
    for _ in range(400):
        crop = [rng.integers(1, length + 1 if inside else 2 * length) for length in size]
        start = [int((length - c) * rng.random()) for length, c in zip(size, crop, strict=True)]
        cell = int(rng.integers(1, max(size)))
        yield (*start, *crop, cell, min(max(int(cell * rng.random()), 1), cell - 1))


@pytest.mark.parametrize("size", [(32, 32), (33, 20), (9, 40)])
@pytest.mark.parametrize("pattern, inside", [(stripes, True), (wrapped_stripes, True), (wrapped_stripes, False)])
def test_gridmix_patterns_equal_the_enumerated_rectangles(size, pattern, inside):
    grids = list(random_grids(np.random.default_rng(13), size, inside))
    y, x, crop_h, crop_w, cell, hole = np.array(grids).T
    rows, columns = pattern(size[0], y, crop_h, cell, hole), pattern(size[1], x, crop_w, cell, hole)
    for k, grid in enumerate(grids):
        assert np.array_equal(np.outer(rows[k], columns[k]), enumerated(size, *grid))


def published(size, clamp: bool, lam, holes, aspect, area, u, v) -> np.ndarray:
    """The partner's mask of the published procedure for one set of draws."""
    h, w = size
    crop_w = int(np.sqrt(int(h * w * area) / aspect))
    crop_h = int(crop_w * aspect)
    if clamp:
        crop_h, crop_w = min(crop_h, h), min(crop_w, w)
    cell = int(np.ceil(crop_w / holes))
    hole = min(max(int(cell * np.sqrt(1 - lam)), 1), cell - 1)
    return enumerated(size, int((h - crop_h) * u), int((w - crop_w) * v), crop_h, crop_w, cell, hole)


@pytest.mark.parametrize("size", [(32, 32), (33, 20), (20, 41)])
@pytest.mark.parametrize("variant", ["paper", "openmixup"])
def test_gridmix_masks_are_those_of_the_published_procedure(variant, size):
    n = 300
    plan = MIXERS["gridmix"](alpha=0.7, granularity="sample", variant=variant).plan(shapes(n, size, seed=14))
    rng = np.random.default_rng(14)
    draws = [rng.beta(0.7, 0.7, n), rng.integers(2, 7, n), rng.uniform(0.5, 2, n), rng.uniform(0.5, 1, n)]
    draws += [rng.random(n), rng.random(n)]
    rows, columns = (plan.profiles / 256).numpy()[:, : size[0]], (plan.profiles / 256).numpy()[:, size[0] :]
    for i, draw in enumerate(zip(*draws, strict=True)):
        mask = published(size, variant == "paper", *draw)
        assert np.array_equal(np.outer(rows[i], columns[i]), mask)
        assert plan.other[i] == pytest.approx(mask.mean(), abs=1e-7)


@pytest.mark.parametrize("variant", ["paper", "openmixup"])
def test_gridmix_area_has_the_law_of_the_published_procedure(variant):
    ours, rng = others("gridmix", 4000, seed=14, side=64, alpha=1.0, variant=variant), np.random.default_rng(15)
    draws = [(rng.beta(1, 1), rng.integers(2, 7), rng.uniform(0.5, 2), rng.uniform(0.5, 1)) for _ in range(4000)]
    reference = np.array(
        [published((64, 64), variant == "paper", *d, rng.random(), rng.random()).mean() for d in draws]
    )
    assert stats.ks_2samp(ours, reference).pvalue > 1e-3
    error = np.hypot(ours.std(), reference.std()) / np.sqrt(4000)
    assert abs(ours.mean() - reference.mean()) < 3 * error


def test_gridmix_mean_area_of_whole_image_grids():
    exact = 0.0
    for holes in range(2, 7):
        cell = -(-SIDE // holes)
        for side in range(1, cell):  # floor(cell sqrt(1 - lam)), lam uniform, brought to 1..cell-1
            low, high = (0 if side == 1 else side / cell), (1 if side == cell - 1 else (side + 1) / cell)
            covered = sum(p % cell < side for p in range(SIDE)) / SIDE
            exact += (high**2 - low**2) * covered**2 / 5
    weights = others("gridmix", 20_000, seed=16, alpha=1.0, area=(1.0, 1.0), aspect=(1.0, 1.0))
    assert within(weights, exact)


@pytest.mark.parametrize("lam, hole", [(0.0, 15), (0.5, 11), (1.0, 1)])
def test_gridmix_holes_leave_a_pixel_of_both_images_in_each_cell(lam, hole):
    batch = shapes(8, (64, 64))
    batch.rng = FixedLam(lam)
    plan = MIXERS["gridmix"](holes=(4, 4), area=(1.0, 1.0), aspect=(1.0, 1.0)).plan(batch)  # cells of 16 pixels
    assert plan.other.tolist() == [(hole / 16) ** 2] * 8


def test_gridmix_crops_of_openmixup_leave_the_image_in_56_percent_of_the_draws():
    def leaves(s, rc):  # in units of the image's side: width sqrt(s / rc), height sqrt(s rc)
        return s / rc > 1 or s * rc > 1

    rng = np.random.default_rng(17)
    share = np.mean([leaves(s, rc) for s, rc in rng.uniform((0.5, 0.5), (1, 2), (20_000, 2))])
    assert share == pytest.approx(0.56, abs=0.01)
    wrapped, cut = (others("gridmix", 20_000, seed=17, alpha=1.0, variant=v) for v in ("openmixup", "paper"))
    same_crop = np.mean(wrapped == cut)  # one seed: the draws before the place are equal
    assert same_crop < 1 - share + 0.1 and wrapped.mean() < cut.mean()


@pytest.mark.parametrize("lam, kept", [(0.0, 0), (0.3, 5), (0.5, 8), (0.95, 15), (1.0, 16)])
@pytest.mark.parametrize("size", [(32, 32), (33, 18)])
def test_gridmix_cells_keeps_the_exact_number_of_cells(lam, kept, size):
    batch = constants(8, size)
    batch.rng = FixedLam(lam)
    plan = MIXERS["gridmix_cells"](granularity="sample").plan(batch)
    for mask in masks(plan, batch).round():
        cells = {(y * 4 // size[0], x * 4 // size[1]) for y in range(size[0]) for x in range(size[1]) if mask[y, x]}
        assert len(cells) == kept
        for y in range(size[0]):
            for x in range(size[1]):
                assert mask[y, x] == ((y * 4 // size[0], x * 4 // size[1]) in cells)


def test_gridmix_cells_chooses_each_cell_equally_often():
    batch = shapes(4000, (32, 32))
    batch.rng = FixedLam(0.25, seed=18)
    bits = MIXERS["gridmix_cells"](granularity="sample").plan(batch).table[:, 6:7]
    own = bits >> torch.arange(16) & 1
    # without replacement: the counts vary less than multinomial ones, by the factor 12/15 in variance
    chi = ((own.sum(0) - 1000) ** 2 / (4000 * 0.25 * 0.75)).sum() * 15 / 16
    assert stats.chi2(15).sf(chi.item()) > 1e-3
