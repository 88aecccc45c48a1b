"""PuzzleMix: energies against loops in float64, limits of its parameters, blocks, labels."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from fastmix import Batch
from fastmix.kernels.borders import borders
from fastmix.kernels.gridcut import energy, gridcut
from fastmix.kernels.mask_energy import mask_energy
from fastmix.mixers import puzzlemix
from fastmix.mixers.gradient import saliency
from fastmix.mixers.puzzlemix import PuzzleMix
from fastmix.targets import CrossEntropy
from helpers.mixing import FixedLam, constants, masks, noise
from helpers.waiting import no_waits


def bumps(n: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """A gradient with a few large smooth regions. [B,3,H,W]"""
    made = torch.Generator().manual_seed(seed)
    hills = F.interpolate(torch.rand(n, 1, 5, 5, generator=made) ** 3, size, mode="bilinear")
    return (hills * torch.randn(n, 3, *size, generator=made)).contiguous(memory_format=torch.channels_last)


def scenes(n: int, size: tuple[int, int], seed: int = 0) -> Batch:
    """Smooth images."""
    made = torch.Generator().manual_seed(seed)
    images = (255 * F.interpolate(torch.rand(n, 3, 6, 6, generator=made), size, mode="bilinear")).byte()
    return Batch(images.permute(0, 2, 3, 1).contiguous(), torch.arange(n) % 5, np.random.default_rng(seed))


def mask_of(plan) -> torch.Tensor:
    """m of each cell. [B,C]"""
    return plan.blocks[..., 2] / 2**16


def level(plan, labels: int) -> torch.Tensor:
    return ((1 - mask_of(plan)) * (labels - 1)).round().int()


# ---- the energy ----


def looped(own, other, share, down, right, labels, beta, gamma, eta):
    """The published formulas, block by block in float64, for one sample."""
    b = len(own)
    smooth = beta / (16 * b)
    unary, weights = np.empty((labels, b, b)), [np.empty((b - 1, b)), np.empty((b, b - 1))]

    def d(p, q, upper, lower):
        table = down if upper[1] == lower[1] else right
        return gamma * smooth * table[2 * p + q][upper]

    for y, x in np.ndindex(b, b):
        u1, u2 = own[y, x], other[y, x]
        for here, there, is_upper in (
            ((y, x), (y + 1, x), True),
            ((y, x), (y, x + 1), True),
            ((y - 1, x), (y, x), False),
            ((y, x - 1), (y, x), False),
        ):
            if min(here) < 0 or max(there) == b:
                continue
            if is_upper:
                u1 += (d(0, 1, here, there) + d(0, 0, here, there)) / 2
                u2 += (d(1, 0, here, there) + d(1, 1, here, there)) / 2
                weight = smooth
                for p, q, sign in ((1, 0, 1), (0, 1, 1), (1, 1, -1), (0, 0, -1)):
                    weight += sign * d(p, q, here, there) / 2
                weights[0 if there[0] > y else 1][y, x] = weight
            else:
                u1 += (d(1, 0, here, there) + d(0, 0, here, there)) / 2
                u2 += (d(0, 1, here, there) + d(1, 1, here, there)) / 2
        for k in range(labels):
            t, kept = k / (labels - 1), labels - 1 - k
            prior = -math.log(stats.binom.pmf(kept, labels - 1, share) + 1e-8)
            unary[k, y, x] = (1 - t) * u2 + t * u1 + eta / b**2 * prior
    return unary, *weights


@pytest.mark.parametrize("labels", [2, 3, 4])
@pytest.mark.parametrize("b", [2, 4, 8, 16])
def test_energies_equal_the_formulas_in_float64(b, labels):
    batch, share = scenes(3, (64, 48)), torch.tensor([0.02, 0.5, 0.93])
    partner = torch.tensor([1, 2, 0], dtype=torch.int32)
    own = saliency(bumps(3, (64, 48)), (b, b))
    other, differences = own[partner.long()], borders(batch.images, partner, b, 4)
    options = dict(labels=labels, beta=1.2, gamma=0.5, eta=0.2)
    got = mask_energy(own, other, share, *differences, **options)
    for i in range(3):
        wanted = looped(*(v[i].double().numpy() for v in (own, other, share, *differences)), **options)
        for ours, theirs in zip(got, wanted, strict=True):
            np.testing.assert_allclose(ours[i].numpy(), theirs, rtol=1e-5, atol=1e-8)
    assert (got[1] > 0).all() and (got[2] > 0).all()


@pytest.mark.long
@pytest.mark.parametrize("labels", [2, 3, 4])
@pytest.mark.parametrize("b", [2, 4, 8])
def test_exchanging_the_images_exchanges_the_mask(b, labels):
    batch, share = scenes(8, (64, 64), seed=1), torch.rand(8, generator=torch.Generator().manual_seed(1))
    partner = torch.arange(8, dtype=torch.int32) ^ 1
    own, back = saliency(bumps(8, (64, 64), 1), (b, b)), partner.long()
    differences = borders(batch.images, partner, b, 4)
    unary, down, right = mask_energy(own, own[back], share, *differences, labels)
    theirs = mask_energy(own, own[back], 1 - share[back], *differences, labels)
    torch.testing.assert_close(unary, theirs[0][back].flip(1), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(down, theirs[1][back])
    torch.testing.assert_close(right, theirs[2][back])
    mask, swapped = gridcut(unary, down, right), labels - 1 - gridcut(*theirs)[back]
    assert (mask == swapped).float().mean() > 0.95  # all but ties, and where annealing ends elsewhere
    best = [energy(labelling, unary, down, right) for labelling in (mask, swapped)]
    torch.testing.assert_close(*best, rtol=1e-3 if b == 8 else 1e-6, atol=1e-6)


@pytest.mark.parametrize("b", [2, 4, 8, 16])
def test_the_mask_is_better_than_simple_ones(b):
    batch, gradient = scenes(16, (64, 64), seed=2), bumps(16, (64, 64), 2)
    batch.rng = FixedLam(0.4)
    plan = PuzzleMix(blocks=b).plan(batch, gradient)
    own, back = saliency(gradient, (b, b)), plan.partner.long()
    terms = mask_energy(own, own[back], torch.tensor([0.4]), *borders(batch.images, plan.partner.contiguous(), b, 4))
    ours = energy(level(plan, 3).view(16, b, b), *terms)
    for other in (*(torch.full((16, b, b), label) for label in range(3)), terms[0].argmin(1)):
        assert (ours <= energy(other, *terms) + 1e-6).all()
    if b == 2:
        every = torch.cartesian_prod(*[torch.arange(3)] * 4).view(-1, 1, 2, 2).expand(-1, 16, 2, 2)
        least = torch.stack([energy(labelling, *terms) for labelling in every]).amin(0)
        torch.testing.assert_close(ours, least, rtol=1e-6, atol=0)


# ---- limits of the parameters ----


@pytest.mark.parametrize("b", [2, 4, 8, 16])
def test_without_smoothness_and_prior_each_block_is_the_more_salient_one(b):
    gradient = bumps(8, (64, 64), 3)
    plan = PuzzleMix(blocks=b, beta=0, eta=0).plan(scenes(8, (64, 64), 3), gradient)
    own = saliency(gradient, (b, b)).flatten(1)
    assert torch.equal(mask_of(plan), (own > own[plan.partner.long()]).float())


@pytest.mark.parametrize(
    "lam, labels, wanted", [(0.5, 3, 1 / 2), (0.9, 3, 1), (0.1, 3, 0), (0.4, 4, 1 / 3), (0.6, 2, 1)]
)
def test_a_strong_prior_gives_every_block_the_likeliest_level(lam, labels, wanted):
    batch = scenes(6, (64, 64), 4)
    batch.rng = FixedLam(lam)
    for b in (2, 8):
        plan = PuzzleMix(blocks=b, labels=labels, eta=1e4).plan(batch, bumps(6, (64, 64), 4))
        assert (mask_of(plan) - wanted).abs().max() < 1e-5


def test_dear_transport_leaves_every_block_in_its_place():
    gradient = bumps(8, (64, 64), 5)
    far, off, near = (
        PuzzleMix(blocks=8, **options).plan(scenes(8, (64, 64), 5), gradient)
        for options in ({"t_eps": 1e6}, {"transport": False}, {"t_eps": 0.01})
    )
    cell = torch.arange(64)
    assert torch.equal(far.blocks, off.blocks) and not torch.equal(near.blocks, off.blocks)
    assert torch.equal(off.blocks[..., 0], torch.arange(8)[:, None] * 64 + cell)
    assert torch.equal(off.blocks[..., 1], off.partner[:, None] * 64 + cell)
    assert torch.equal(near.blocks[..., 2], off.blocks[..., 2]) and torch.equal(near.own, off.own)


@pytest.mark.parametrize("b", [4, 8, 16])
def test_blocks_come_from_the_two_images_each_at_most_once_and_show_more_of_what_is_salient(b):
    n = b * b
    gradient = bumps(16, (64, 64), 6)
    plan = PuzzleMix(blocks=b, t_eps=0.1).plan(scenes(16, (64, 64), 6), gradient)
    own, mask = saliency(gradient, (b, b)).flatten(), mask_of(plan)
    for sources, seen, image in (
        (plan.blocks[..., 0], mask > 0, torch.arange(16)),
        (plan.blocks[..., 1], mask < 1, plan.partner),
    ):
        assert torch.equal(sources // n, image[:, None].expand(16, n).int())
        stays = image[:, None] * n + torch.arange(n)
        for i in range(16):
            shown = sources[i][seen[i]].tolist()
            assert len(set(shown)) == len(shown)
        assert (own[sources.long()] * seen).sum() > (own[stays.long()] * seen).sum()


def test_the_scale_of_a_gradient_does_not_matter():
    gradient = bumps(6, (64, 64), 7)
    factor = 2.0 ** torch.tensor([-30, -3, 0, 1, 5, 20])[:, None, None, None]
    for b in (2, 4, 8, 16):
        one, two = (PuzzleMix(blocks=b).plan(scenes(6, (64, 64), 7), g) for g in (gradient, gradient * factor))
        assert torch.equal(one.table, two.table) and torch.equal(one.blocks, two.blocks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_vanished_gradient_counts_as_equally_salient_everywhere(dtype):
    gradient = bumps(4, (32, 32), 8)
    gradient[1:3] = 0
    even = torch.full((4, 4), 1 / 16)
    assert torch.equal(saliency(gradient.to(dtype), (4, 4))[1], even)
    plan = PuzzleMix(blocks=4).plan(scenes(4, (32, 32), 8), gradient.to(dtype))
    assert torch.isfinite(plan.own).all()


# ---- labels and pixels ----


@pytest.mark.parametrize("transport", [True, False])
@pytest.mark.parametrize("b", [2, 4, 8, 16])
def test_the_label_is_the_mean_of_the_mask_and_constant_images_are_blended_by_it(b, transport):
    batch = constants(8, (64, 64), seed=9)
    plan = PuzzleMix(blocks=b, transport=transport).plan(batch, bumps(8, (64, 64), 9))
    mask = F.interpolate(mask_of(plan).view(8, 1, b, b), (64, 64))[:, 0]
    torch.testing.assert_close(masks(plan, batch), mask.double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(plan.own, mask.mean((1, 2)), rtol=0, atol=1e-6)
    assert torch.equal(plan.own * (2 * b * b), (plan.own * (2 * b * b)).round())
    assert torch.equal(plan.other, 1 - plan.own)


@pytest.mark.parametrize("n, size", [(1, (33, 20)), (5, (33, 20)), (6, (17, 48))])
def test_odd_and_oblong_images(n, size):
    for b in (2, 4, 16):
        batch = constants(n, size, seed=10)
        plan = PuzzleMix(blocks=b, labels=4).plan(batch, bumps(n, size, 10))
        mask = masks(plan, batch)[plan.partner != torch.arange(n)]
        torch.testing.assert_close(mask.mean((1, 2)).float(), plan.own[: len(mask)], rtol=0, atol=1e-5)
        assert torch.isfinite(batch.mix(plan)).all()


def test_t_size_moves_smaller_cells_under_the_same_mask():
    gradient = bumps(8, (32, 32), 11)
    fine, coarse = (PuzzleMix(blocks=2, t_size=t, t_eps=0.1).plan(scenes(8, (32, 32), 11), gradient) for t in (4, None))
    assert fine.table[0, 4:6].tolist() == [8, 8] and coarse.table[0, 4:6].tolist() == [2, 2]
    assert torch.equal(fine.own, coarse.own)
    mask = F.interpolate(mask_of(coarse).view(8, 1, 2, 2), (8, 8)).flatten(1)
    assert torch.equal(mask_of(fine), mask)
    own = saliency(gradient, (8, 8)).flatten()
    shown, stays = own[fine.blocks[..., 0].long()] * (mask > 0), own.view(8, 64) * (mask > 0)
    assert shown.sum() > stays.sum()
    same = (PuzzleMix(blocks=8, t_size=t).plan(scenes(8, (32, 32), 11), gradient) for t in (4, 16, None))
    assert len({plan.blocks.numpy().tobytes() for plan in same}) == 1  # cells not smaller than blocks
    with pytest.raises(ValueError, match="t_size is 4; images of .* pixels need at least 14"):
        PuzzleMix(t_size=4).plan(scenes(2, (224, 224)), bumps(2, (224, 224)))


# ---- what is drawn ----


@pytest.mark.parametrize("b", [4, 8])
def test_the_mean_of_the_mask_follows_what_is_asked_for(b):
    n = 256
    share = torch.rand(n, generator=torch.Generator().manual_seed(12))
    batch = scenes(n, (64, 64), 12)
    batch.rng = FixedLam(0.0)
    batch.rng.lam = share.numpy()
    plan = PuzzleMix(blocks=b, granularity="sample").plan(batch, bumps(n, (64, 64), 12))
    assert np.corrcoef(share, plan.own)[0, 1] > 0.95
    assert (share - plan.own).abs().mean() < 0.12


@pytest.mark.long
def test_grids_are_drawn_uniformly():
    for options, wanted in (({}, [2, 4, 8, 16]), ({"variant": "openmixup"}, [2, 4, 8]), ({"blocks": [3, 5]}, [3, 5])):
        batch, gradient = noise(2, (16, 16)), torch.ones(2, 3, 16, 16)
        mixer = PuzzleMix(transport=False, **options)
        counts = {b: 0 for b in wanted}
        for _ in range(300):
            counts[int(mixer.plan(batch, gradient).table[0, 4])] += 1
        assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize(
    "size, variant, wanted", [(32, "paper", 4), (64, "paper", 4), (224, "paper", 2), (224, "openmixup", 4)]
)
def test_borders_are_compared_at_the_resolution_of_the_authors(size, variant, wanted, monkeypatch):
    seen = []
    monkeypatch.setattr(puzzlemix, "borders", lambda *args: seen.append(args[3]) or borders(*args))
    for options, pixels in (({}, wanted), ({"neighbours": 3}, 3)):
        PuzzleMix(blocks=4, variant=variant, **options).plan(noise(2, (size, size)), torch.ones(2, 3, size, size))
        assert seen.pop() == pixels


def test_options_that_make_no_sense_are_refused():
    for option, value in (
        ("blocks", 1),
        ("blocks", 32),
        ("blocks", []),
        ("blocks", [2, 4.0]),
        ("labels", 5),
        ("labels", 1),
        ("gamma", 1.5),
        ("beta", -1),
        ("eta", math.nan),
        ("t_eps", "0.8"),
        ("t_size", 0),
        ("neighbours", 0),
        ("alpha", 0),
    ):
        with pytest.raises(ValueError, match=f"PuzzleMix: {option} is") as error:
            PuzzleMix(**{option: value})
        assert "\n" not in str(error.value)


# ---- in training ----


@pytest.mark.parametrize("clean_lam", [0.0, 0.5])
def test_a_step_of_training(clean_lam):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 5, 2),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(1568, 5),
    )
    mixer, batch = PuzzleMix(clean_lam=clean_lam), scenes(8, (32, 32), 13)
    loss = mixer(model, batch, CrossEntropy())
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters())
    before = [v.clone() for v in (*model.state_dict().values(), *(p.grad for p in model.parameters()))]
    mixer.decide(model, batch, CrossEntropy())
    after = (*model.state_dict().values(), *(p.grad for p in model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)) and model[1].training


@pytest.mark.cuda
def test_plans_on_a_gpu_without_a_sync_and_as_on_the_cpu():
    gradient, batch = bumps(16, (64, 64), 14), scenes(16, (64, 64), 14)
    for b in (2, 4, 8, 16):
        batch.rng = np.random.default_rng(b)
        wanted = PuzzleMix(blocks=b, t_size=4).plan(batch, gradient)
        on_gpu = Batch(batch.images.cuda(), batch.labels.cuda(), np.random.default_rng(b))
        slope, mixer = gradient.cuda(), PuzzleMix(blocks=b, t_size=4)
        mixer.plan(on_gpu, slope)  # compiles
        on_gpu.rng = np.random.default_rng(b)
        with no_waits():
            plan = mixer.plan(on_gpu, slope)
        same = (plan.blocks.cpu() == wanted.blocks).all(2).float().mean()
        assert same > 0.98  # sums in another order decide near ties
