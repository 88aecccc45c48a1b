"""Saliency Grafting against the definition in its docstring, in float64 where that can disagree."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import special, stats

from fastmix import MIXERS, models
from fastmix.config import Model
from fastmix.kernels.plan_rows.reference import candidates, graft_cells, importance
from fastmix.mixers.saliency_grafting import middle
from fastmix.targets import CrossEntropy
from helpers.backbones import SMOOTH
from helpers.mixing import FixedLam, constants, masks, noise, shapes
from helpers.teaching import trained

pytestmark = pytest.mark.gradient

MIXER = MIXERS["grafting"]


def saliency(n: int, side: int = 7, seed: int = 0) -> torch.Tensor:
    """Heavy-tailed, so that few cells stand out."""
    return torch.from_numpy(np.random.default_rng(seed).exponential(size=(n, side, side)).astype(np.float32) ** 2)


def uniform(n: int, cells: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n, cells), np.float32))


def stands_out(values: torch.Tensor, temperature: float = 0.2) -> np.ndarray:
    """The candidates by scipy, bool [n,cells]."""
    s = values.flatten(1).double().numpy()
    soft = special.softmax(s / s.max(1, keepdims=True) / temperature, axis=1)
    return soft >= soft.mean(1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_candidates_are_the_cells_of_at_least_average_softmax(temperature):
    values = saliency(500)
    found = candidates(values.flatten(1), temperature).numpy()
    assert (found == stands_out(values, temperature)).all()
    assert 0 < found.mean() < 0.6


def test_each_candidate_is_kept_with_probability_p_and_no_other_cell():
    values = saliency(1, seed=5).flatten(1).expand(20_000, -1)
    candidate = stands_out(values[:1].view(1, 7, 7))[0]
    size = candidate.sum()
    for p in (0.15, 0.5, 0.9):
        kept = graft_cells(values, torch.full((20_000,), p), uniform(20_000, 49), 0.2).numpy()
        assert not kept[:, ~candidate].any() and kept.any(1).all()
        counts = np.bincount(kept.sum(1), minlength=size + 1)[1:]
        law = stats.binom(size, p).pmf(np.arange(size + 1))
        law = np.concatenate([[law[0] + law[1]], law[2:]])  # none kept becomes one
        common = law * 20_000 >= 5
        expected = law[common] / law[common].sum() * counts[common].sum()
        assert common.sum() > 2 and stats.chisquare(counts[common], expected).pvalue > 1e-3
        mean = p * size + (1 - p) ** size
        assert abs(kept.sum(1).mean() - mean) < 4 * kept.sum(1).std() / math.sqrt(20_000)


def test_the_cell_that_is_kept_at_least_is_any_candidate():
    values = saliency(1, seed=5).flatten(1).expand(6000, -1)
    candidate = stands_out(values[:1].view(1, 7, 7))[0]
    kept = graft_cells(values, torch.zeros(6000), uniform(6000, 49), 0.2).numpy()
    assert (kept.sum(1) == 1).all()
    assert stats.chisquare(kept.sum(0)[candidate]).pvalue > 1e-3


def test_labels_are_the_shares_of_saliency_that_are_shown():
    values, batch = saliency(16), constants(8, (49, 35), seed=3)
    plan = MIXER(granularity="sample").plan(batch, values[:8])
    cells = masks(plan, batch)[:, 3::7, 2::5].round().bool().flatten(1).numpy()  # the middle of each cell
    s, partner = values[:8].flatten(1).double().numpy(), plan.partner.numpy()
    norm = np.linalg.norm
    own = norm(s * cells, axis=1) / norm(s, axis=1)
    other = norm(s[partner] * ~cells, axis=1) / norm(s[partner], axis=1)
    assert np.allclose(plan.own, own / (own + other), atol=1e-6)
    assert torch.allclose(plan.own + plan.other, torch.ones(8))
    assert (cells <= stands_out(values[:8])).all()


@pytest.mark.parametrize("level", [0.0, 1e-20, 5.0])
def test_equal_saliency_counts_cells(level):
    batch = constants(6, (56, 56), seed=2)
    plan = MIXER(granularity="sample").plan(batch, torch.full((6, 7, 7), level))
    share = masks(plan, batch).mean((1, 2)).sqrt()
    rest = (1 - share**2).sqrt()
    assert ((share / (share + rest)) - plan.own).abs().max() < 1e-6
    assert (plan.own > 0).all()


def test_swapped_roles_swap_the_label():
    a, b = saliency(40, seed=1).flatten(1), saliency(40, seed=2).flatten(1)
    shown = uniform(40, 49) < 0.4

    def label(first, second, mask):
        own = importance(first, mask)
        return own / (own + importance(second, ~mask))

    assert torch.allclose(label(a, b, shown), 1 - label(b, a, ~shown), atol=1e-6)


def test_the_label_is_all_its_own_only_where_nothing_salient_of_the_partner_is_shown():
    values = torch.zeros(2, 7, 7)
    values[:, 2, 3] = 1.0  # both images are salient in the same cell, which is always kept
    plan = MIXER().plan(constants(2, (28, 28)), values)
    assert plan.own.tolist() == [1.0, 1.0]
    values[1] = values[1].roll(1, 0)
    plan = MIXER().plan(constants(2, (28, 28)), values)
    assert plan.own.tolist() == [0.5, 0.5]


def test_the_unit_of_the_saliency_changes_nothing():
    values, batch = saliency(8), shapes(8, (64, 48), seed=4)
    plan = MIXER().plan(batch, values)
    unit = torch.tensor([2.0**k for k in (-30, -9, 0, 1, 2, 5, 17, 40)])[:, None, None]
    again = MIXER().plan(shapes(8, (64, 48), seed=4), unit * values)
    assert torch.equal(plan.table, again.table)


@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_p_is_drawn_for_the_batch_or_for_each_sample(granularity):
    values = torch.ones(200, 7, 7)
    plan = MIXER(granularity=granularity, alpha=0.1).plan(shapes(200, (49, 49), seed=3), values)
    extreme = ((plan.own < 0.3) | (plan.own > 0.7)).float().mean()  # Beta(0.1, 0.1) is near 0 or 1, never both at once
    low, high = (plan.own < 0.3).any(), (plan.own > 0.7).any()
    assert extreme > 0.5 and (low and high) == (granularity == "sample")


def test_p_is_the_mean_of_the_mask_where_all_cells_are_candidates():
    batch = constants(8, (49, 49))
    batch.rng = FixedLam(0.3)
    kept = [masks(MIXER().plan(batch, torch.ones(8, 7, 7)), batch).mean().item() for _ in range(20)]
    assert abs(np.mean(kept) - 0.3) < 4 * math.sqrt(0.3 * 0.7 / (20 * 8 * 49))


def test_pixels_are_the_sources_bit_for_bit():
    batch = noise(5, (33, 20))
    plan = MIXER().plan(batch, saliency(5))
    clean, mixed = batch.mix(), batch.mix(plan)
    assert ((mixed == clean) | (mixed == clean[plan.partner.long()])).all()


# ---- where the saliency comes from ----


def by_hand(model, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """|d CE / d layer3| of a ResNet of timm, summed over channels, by running it in two halves."""
    model.eval()
    with torch.no_grad():
        first = model.act1(model.bn1(model.conv1(x)))
        first = model.layer3(model.layer2(model.layer1(model.maxpool(first))))
    first.requires_grad_()
    logits = model.fc(model.global_pool(model.layer4(first)))
    losses = F.cross_entropy(logits, labels, reduction="none")
    return torch.stack([torch.autograd.grad(loss, first, retain_graph=True)[0][i] for i, loss in enumerate(losses)])


def test_saliency_is_the_gradient_at_the_third_stage_and_leaves_the_model_as_it_is():
    model = trained(classes=3, **SMOOTH).train()
    batch = noise(2, (128, 192), seed=1)
    model(batch.mix()).sum().backward()  # gradients that are being accumulated
    state = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters()]
    found = MIXER(grid=4).guide(model, batch, CrossEntropy())
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), grads, strict=True))
    slope = by_hand(model, batch.mix(), batch.labels).abs().sum(1)
    cells = slope.view(2, 4, 2, 4, 3).mean((2, 4))
    assert torch.allclose(found, cells, rtol=1e-4, atol=1e-5 * cells.max())


@pytest.mark.parametrize("name, size, site, grid", [
    ("resnet18", 224, "stage3", 7),
    ("resnet18_cifar", 64, "stage3", 8),
    ("test_vit", 160, "block3", 10),
])  # fmt: skip
def test_site_and_grid_by_default(name, size, site, grid):
    model = models.build(Model(name), 3)
    assert middle(model) == site
    assert MIXER().guide(model, noise(1, (size, size)), None).shape == (1, grid, grid)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_constant_images_and_half_precision_have_a_finite_loss(dtype):
    model = trained(classes=3)
    batch = noise(4, (64, 64))
    batch.images = torch.full((4, 64, 64, 3), 128, dtype=torch.uint8)
    batch.dtype = dtype
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        plan = MIXER().decide(model, batch, CrossEntropy())
        assert plan.own.isfinite().all() and (plan.own > 0).all()
        assert MIXER()(model, batch, CrossEntropy()).isfinite()


@pytest.mark.parametrize("options, message", [
    ({"grid": 0}, "grid is 0"), ({"temperature": 0}, "temperature is 0"), ({"alpha": -1}, "alpha is -1"),
])  # fmt: skip
def test_mistakes_are_one_line(options, message):
    with pytest.raises(ValueError, match=f"^SaliencyGrafting: {message}"):
        MIXER(**options)


def test_an_unknown_site_names_those_that_there_are():
    with pytest.raises(ValueError, match="no site 'layer9'; choose one of .*stage3"):
        MIXER(site="layer9").guide(trained(), noise(2, (32, 32)), None)
