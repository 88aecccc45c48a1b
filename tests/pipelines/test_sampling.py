"""Order, uniforms, crops and shards: against statistics, torchvision and brute force."""

import numpy as np
import pytest
from scipy import stats

from fastmix.pipelines import sampling
from fastmix.pipelines.view import View

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def windows(height: int, width: int, n: int, scale=SCALE, ratio=RATIO, seed: int = 0) -> np.ndarray:
    return View(224, scale=scale, ratio=ratio).windows(np.full(n, height), np.full(n, width), seed, 0, np.arange(n))[0]


def test_order_is_a_permutation_of_its_own_seed_and_epoch():
    orders = {(s, e): sampling.order(500, s, e) for s in range(3) for e in range(3)}
    for rows in orders.values():
        assert sorted(rows) == list(range(500))
    assert len({rows.tobytes() for rows in orders.values()}) == 9, "seed 0 epoch 1 is not seed 1 epoch 0"
    assert (sampling.order(500, 2, 1) == orders[2, 1]).all()


def test_order_is_uniform():
    first = [sampling.order(10, 7, epoch)[0] for epoch in range(5000)]
    assert stats.chisquare(np.bincount(first, minlength=10)).pvalue > 1e-3


def test_uniforms_depend_on_the_index_alone():
    whole = sampling.uniforms(3, 5, np.arange(100), 7)
    some = np.array([42, 3, 99])
    assert (sampling.uniforms(3, 5, some, 4) == whole[some, :4]).all()


@pytest.mark.parametrize("axis", ["seed", "epoch", "index", "draw"])
def test_uniforms_are_uniform_and_independent_along_each_axis(axis):
    n = 20000
    if axis == "seed":
        x = np.concatenate([sampling.uniforms(s, 1, np.array([4]), 1)[0] for s in range(n)])
    elif axis == "epoch":
        x = np.concatenate([sampling.uniforms(1, e, np.array([4]), 1)[0] for e in range(n)])
    elif axis == "index":
        x = sampling.uniforms(1, 2, np.arange(n), 1)[:, 0]
    else:
        x = sampling.uniforms(1, 2, np.array([4]), n)[0]
    assert 0 <= x.min() and x.max() < 1
    assert stats.kstest(x, "uniform").pvalue > 1e-3
    for lag in (1, 2, 3, 64, 1000):
        assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 4 / np.sqrt(n), lag
    cells = np.histogram2d(x[:-1], x[1:], bins=16, range=[(0, 1), (0, 1)])[0]
    assert stats.chisquare(cells.ravel()).pvalue > 1e-3
    low_bits = np.bincount((x * 2**53).astype(np.uint64).astype(np.int64) & 15, minlength=16)
    assert stats.chisquare(low_bits).pvalue > 1e-3


def test_columns_and_neighbouring_keys_are_uncorrelated():
    a = sampling.uniforms(1, 2, np.arange(20000), 6)
    others = [sampling.uniforms(*key, np.arange(20000), 6) for key in ((1, 3), (2, 2), (2, 1), (0, 2))]
    correlation = np.corrcoef(np.concatenate([a, *others], 1), rowvar=False)
    assert np.abs(correlation - np.eye(30)).max() < 5 / np.sqrt(20000)


@pytest.mark.parametrize("height, width", [(375, 500), (300, 300), (33, 41), (100, 400), (900, 60)])
def test_crops_lie_inside_with_area_and_aspect_in_range(height, width):
    y, x, h, w = windows(height, width, 5000).T
    assert (h > 0).all() and (w > 0).all() and (y >= 0).all() and (x >= 0).all()
    assert (y + h <= height).all() and (x + w <= width).all()
    # Rounding to whole pixels moves a side by at most half a pixel.
    fallback = (w == width) & (h < height) | (h == height) & (w < width)
    aspect_low, aspect_high = (w - 0.5) / (h + 0.5), (w + 0.5) / (h - 0.5)
    assert ((aspect_high >= RATIO[0]) & (aspect_low <= RATIO[1])).all()
    area_high = (h + 0.5) * (w + 0.5) / (height * width)
    assert ((area_high >= SCALE[0]) | fallback).all()


@pytest.mark.parametrize("height, width", [(375, 500), (120, 60), (64, 64), (100, 420)])
def test_crops_are_distributed_as_torchvisions(height, width):
    import fastmix.compat  # noqa: F401

    transforms = pytest.importorskip("torchvision.transforms")
    import torch

    torch_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([transforms.RandomResizedCrop.get_params(image, SCALE, RATIO) for _ in range(4000)])
    torch.random.set_rng_state(torch_state)
    ours = windows(height, width, 4000)
    for k, name in enumerate("yxhw"):
        assert stats.ks_2samp(ours[:, k], theirs[:, k]).pvalue > 1e-3, name
    (h, w), (their_h, their_w) = ours[:, 2:].T, theirs[:, 2:].T
    assert stats.ks_2samp(h * w, their_h * their_w).pvalue > 1e-3, "area"
    assert stats.ks_2samp(w / h, their_w / their_h).pvalue > 1e-3, "aspect"


@pytest.mark.parametrize("height, width, box", [(10, 400, (0, 193, 10, 13)), (400, 10, (193, 0, 13, 10))])
def test_crop_of_an_extreme_image_is_the_centred_one(height, width, box):
    assert (windows(height, width, 50, scale=(0.9, 1.0)) == box).all()


def test_crop_reaches_every_place_equally():
    counts = np.histogram2d(*windows(8, 9, 30000, (16 / 72,) * 2, (1, 1)).T[:2], bins=[np.arange(6), np.arange(7)])[0]
    assert counts.sum() == 30000, "4 x 4 pixels of 8 x 9: top 0 to 4, left 0 to 5"
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_padded_crop_reaches_every_place_equally():
    sides = np.full(50000, 32)
    boxes, _ = View(32, crop="pad", pad=4).windows(sides, sides, 0, 0, np.arange(50000))
    assert (boxes[:, 2:] == 32).all()
    counts = np.histogram2d(boxes[:, 0], boxes[:, 1], bins=9, range=[(-4.5, 4.5)] * 2)[0]
    assert counts.sum() == 50000
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


@pytest.mark.parametrize("height, width", [(375, 500), (501, 333), (256, 256), (97, 1000)])
def test_centre_crop_is_torchvisions_resize_and_centre_crop(height, width):
    """Each pixel of an image that holds its own source coordinates tells where it came from."""
    import fastmix.compat  # noqa: F401

    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    import torch

    view = View(224, crop="centre", resize=256)
    ((y, x, h, w),), _ = view.windows(np.array([height]), np.array([width]), 0, 0, np.arange(1))
    rows, columns = (torch.arange(n, dtype=torch.float64) + 0.5 for n in (height, width))
    image = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    image = functional.center_crop(functional.resize(image, [256], antialias=False), [224, 224])
    # Linear interpolation reproduces a linear ramp, except next to the image's own edges.
    steps = (np.arange(224) + 0.5) / 224
    ours = np.stack(np.meshgrid(y + steps * h, x + steps * w, indexing="ij"))
    inside = (ours[0] > 2) & (ours[0] < height - 2) & (ours[1] > 2) & (ours[1] < width - 2)
    assert inside.mean() > 0.9
    assert np.abs(image.numpy() - ours).max(0)[inside].max() < 1e-3


def test_flips_have_their_probability():
    sides = np.full(20000, 8)
    none, all_, some = (View(8, flip=p).windows(sides, sides, 0, 0, np.arange(20000))[1] for p in (0.0, 1.0, 0.3))
    assert not none.any() and all_.all()
    assert stats.binomtest(int(some.sum()), 20000, 0.3).pvalue > 1e-3


def test_windows_are_the_formulas_in_numpy():
    """Bit for bit: the sizes of crops, their places and the flips, each written once more for whole arrays."""
    n, rng = 4000, np.random.default_rng(0)
    heights, widths = rng.integers(40, 900, (2, n))
    rows, scale, ratio = rng.integers(0, 1 << 40, n), (0.3, 0.9), (0.5, 1.2)
    x = np.zeros(1, np.uint64)
    for word in (np.uint64(7), np.uint64(2), rows.astype(np.uint64)[:, None], np.arange(23, dtype=np.uint64)):
        x = (x ^ word) + np.uint64(0x9E3779B97F4A7C15)  # splitmix64
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    u = (x >> np.uint64(11)) * 2.0**-53
    area = (heights * widths)[:, None] * (scale[0] + u[:, 3:13] * (scale[1] - scale[0]))
    aspect = np.exp(np.log(ratio[0]) + u[:, 13:] * (np.log(ratio[1]) - np.log(ratio[0])))
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w > 0) & (h > 0) & (w <= widths[:, None]) & (h <= heights[:, None])
    first, some = fits.argmax(1), fits.any(1)
    assert 0.7 < some.mean() < 1
    h = np.where(some, h[np.arange(n), first], np.minimum(heights, np.rint(widths / ratio[0])))
    w = np.where(some, w[np.arange(n), first], np.minimum(widths, np.rint(heights * ratio[1])))
    top = np.where(some, np.floor(u[:, 1] * (heights - h + 1)), (heights - h) // 2)
    left = np.where(some, np.floor(u[:, 2] * (widths - w + 1)), (widths - w) // 2)
    windows, flips = View(224, scale=scale, ratio=ratio, flip=0.4).windows(heights, widths, 7, 2, rows)
    assert (windows == np.stack([top, left, h, w], 1)).all() and (flips == (u[:, 0] < 0.4)).all()


@pytest.mark.parametrize("n", [1, 7, 8, 103, 120])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("train", [True, False])
def test_shards_of_all_ranks_are_the_steps_of_one(n, world, train):
    rows, batch = sampling.order(n, 0, 0), 4
    shards = [sampling.shard(rows, batch, rank, world, train) for rank in range(world)]
    steps = n // (batch * world) if train else -(-n // (batch * world))
    assert {shard.shape for shard, _ in shards} == {(steps, batch)}
    seen = []
    for step in range(steps):
        taken = np.concatenate([shard[step][valid[step]] for shard, valid in shards])
        assert (taken == rows[step * batch * world : (step + 1) * batch * world]).all()
        seen += list(taken)
    assert len(seen) == (steps * batch * world if train else n)


# ---- repeated augmentation ----


def test_repeats_show_fewer_images_more_often_in_one_step():
    n, repeats, batch = 100, 3, 4
    plain, entries = sampling.order(n, 5, 2), sampling.order(n, 5, 2, repeats)
    assert len(entries) == n and len(set(entries)) == n
    rows, copies = entries % n, entries // n
    assert (rows == np.repeat(plain[:34], 3)[:n]).all() and (copies[:99].reshape(33, 3) == np.arange(3)).all()
    for world in (1, 2, 3):
        shares = [sampling.shard(entries, batch, rank, world, True, spread=True)[0] for rank in range(world)]
        together = batch * world
        for step in range(n // together):
            shown = np.concatenate([share[step] for share in shares])
            assert sorted(shown) == sorted(entries[step * together : (step + 1) * together])
        if world == repeats:  # so that a rank's mixing partners are other images
            assert all(len(set(step % n)) == batch for share in shares for step in share)


def test_repeats_are_the_images_of_timms_sampler():
    """The same share of the images, each so often: timm shuffles by torch's generator, so only counts compare."""
    import fastmix.compat  # noqa: F401

    sampler = pytest.importorskip("timm.data.distributed_sampler").RepeatAugSampler
    n, world = 512, 2
    theirs = np.concatenate([list(sampler(range(n), world, rank, num_repeats=3)) for rank in range(world)])
    ours = sampling.order(n, 0, 0, 3) % n
    counts = [np.bincount(np.bincount(rows, minlength=n), minlength=5) for rows in (ours, theirs)]
    assert counts[0].tolist() == counts[1].tolist()
