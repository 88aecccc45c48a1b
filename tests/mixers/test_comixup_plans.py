"""Co-Mixup's plans: blocks, labels, groups, the prior, and options."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastmix import MIXERS, Batch, Targets, mix
from fastmix.mixers.comixup import peaks_apart
from helpers.mixing import NO_NORM, constants, noise


def mixer(**options):
    return MIXERS["comixup"](**options)


def gradient_of(n: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """A lump of gradient in each image. [B,3,H,W]"""
    rng = np.random.default_rng([seed, 9])
    y, x = (np.arange(length) / length for length in size)
    cy, cx, width = rng.random((3, n, 1, 1))
    lump = np.exp(-((y[:, None] - cy) ** 2 + (x - cx) ** 2) / (0.1 + 0.3 * width) ** 2) + 0.02
    return torch.from_numpy(rng.normal(size=(n, 3, *size)) * lump[:, None]).float()


def areas(plan, batch: Batch) -> torch.Tensor:
    """How much of each pixel of each output is of which image, read back from the pass. float64 [B,K,H,W]"""
    found = []
    for k in range(len(batch)):
        images = torch.zeros_like(batch.images)
        images[k] = 255
        found.append(mix(images, plan, **NO_NORM)[:, 0].double())
    return torch.stack(found, 1)


@pytest.mark.parametrize("n, size, group, blocks", [(10, (33, 50), 4, 4), (7, (16, 24), 16, -1), (9, (40, 40), 9, 7)])
def test_blocks_show_one_image_or_two_halves_and_labels_are_the_areas(n, size, group, blocks):
    halves = 0
    for seed in range(4):
        batch = constants(n, size, seed) if n < 9 else noise(n, size, seed)
        plan = mixer(group=group, blocks=blocks, gamma=0.3).plan(batch, gradient_of(n, size, seed))
        z = areas(plan, batch)
        assert torch.isin(z.mul(2).round(decimals=6), torch.tensor([0.0, 1, 2]).double()).all()
        assert (z.sum(1) - 1).abs().max() < 1e-6
        halves += (z == 0.5).sum()
        area = z.mean((2, 3))
        targets = Targets.of(torch.arange(n), plan)
        assert (targets.dense(n) - area).abs().max() < 1e-6
        assert (targets.weights.double().sum(1) - 1).abs().max() < 1e-6
        assert torch.equal(plan.sources[:, 0].long(), torch.arange(n))
        assert (plan.own - area.diagonal()).abs().max() < 1e-6
        rest = area - torch.diag(area.diagonal())
        assert (plan.other - rest.max(1).values).abs().max() < 1e-6
        shown = plan.partner != torch.arange(n)
        assert (rest.gather(1, plan.partner.long()[:, None])[:, 0] - plan.other).abs()[shown].max() < 1e-6
        assert (rest[~shown].abs() < 1e-6).all()
    assert halves > 0


@pytest.mark.parametrize("n, group", [(16, 16), (17, 16), (31, 16), (5, 16), (20, 3)])
def test_groups_are_as_even_as_possible_and_stay_among_themselves(n, group):
    batch = noise(n, (16, 16))
    plan = mixer(group=group).plan(batch, gradient_of(n, (16, 16)))
    members = [frozenset(row) for row in plan.sources.tolist()]
    sizes = sorted(map(len, set(members)))
    assert sum(sizes) == n and sizes[-1] <= group and sizes[-1] - sizes[0] <= 1
    assert len(sizes) == -(-n // group)
    assert all(i in members[i] for i in range(n))


def test_a_group_of_one_is_the_image():
    for options, n in (({}, 1), ({"group": 1}, 5)):
        batch = noise(n, (24, 16))
        plan = mixer(**options).plan(batch, gradient_of(n, (24, 16)))
        assert torch.equal(batch.mix(plan), batch.mix())
        assert (plan.own == 1).all() and (plan.other == 0).all()
        assert torch.equal(plan.partner.long(), torch.arange(n))


def test_the_prior_decides_where_it_is_large():
    """Then all outputs show the image with the largest share of Dirichlet(alpha), whose law is that of numpy's."""
    from scipy.stats import ks_2samp

    shares = []
    for seed in range(300):
        batch = noise(3, (8, 8), seed)
        plan = mixer(eta=1e3, beta=0.0, gamma=0.0, iterations=1, blocks=2).plan(batch, gradient_of(3, (8, 8)))
        dense = Targets.of(torch.arange(3), plan).dense(3)
        assert ((dense == 1).sum(1) == 1).all() and (dense == dense[0]).all()
        shares.append(int(dense[0].argmax()))
    expected = np.random.default_rng(0).dirichlet([2.0] * 3, 300).argmax(1)
    assert ks_2samp(shares, expected).pvalue > 1e-3


def test_salient_images_are_seen_where_they_are_salient():
    """More saliency is shown than by outputs at random, and than by each image alone where lumps do not collide."""
    batch, gradient = noise(16, (64, 64)), gradient_of(16, (64, 64))
    plan = mixer().plan(batch, gradient)
    z = areas(plan, batch)
    saliency = gradient.double().square().mean(1).sqrt()
    saliency /= saliency.sum((1, 2), keepdim=True)
    assert (z * saliency).sum() / 16 > 1.2, "each image alone shows 1"


def test_distances_of_peaks_are_those_of_the_pooled_maximum():
    gradient = gradient_of(9, (48, 64))
    pooled = F.avg_pool2d(gradient.square().mean(1, keepdim=True).sqrt(), 8)[:, 0]
    places = [np.unravel_index(int(p.argmax()), p.shape) for p in pooled]
    expected = [[abs(a[0] - b[0]) + abs(a[1] - b[1]) for b in places] for a in places]
    assert torch.equal(peaks_apart(gradient), torch.tensor(expected).float())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"group": 30}, "group is 30; it must be a whole number from 1 to 29"),
        ({"group": 0}, "group is 0"),
        ({"blocks": 1}, "blocks is 1"),
        ({"blocks": 16}, "from 2 to 8, or -1"),
        ({"alpha": 0}, "alpha is 0"),
        ({"tau": -0.1}, "tau is -0.1"),
        ({"omega": 1.5}, "omega is 1.5; it must be a number from 0 to 1"),
        ({"iterations": 0}, "iterations is 0"),
        ({"clean_lam": -1}, "clean_lam"),
        ({"saliency_size": 32}, "clean_lam trains on the clean images"),
    ],
)
def test_options_that_are_not_valid_are_refused(options, message):
    with pytest.raises(ValueError, match=message) as error:
        mixer(**options)
    assert "\n" not in str(error.value)
