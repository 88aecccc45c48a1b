"""TransMix against the attention of blocks that are not fused, weighted by the mask of all pixels."""

import copy
import re
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastmix import MIXERS
from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows.reference import outside
from fastmix.mixers import build, transmix
from fastmix.targets import CrossEntropy
from helpers.backbones import make
from helpers.graphs import Counted
from helpers.mixing import constants, masks
from helpers.transformers import (
    DIMS,
    PATCH,
    SIDE,
    against,
    batch_of,
    constant_weights,
    heard,
    indifferent,
    matrices,
    multiplications,
    vit,
)

TransMix, CutMix = MIXERS["transmix"], MIXERS["cutmix"]
SIZE = (32, 48)
GRID = (4, 6)


def weights(mixer, model, batch) -> torch.Tensor:
    return heard(mixer, model, batch).targets.weights.double()


def explicit(plan: Plan, attention: torch.Tensor, grid: tuple[int, int], size: tuple[int, int], ratio: float):
    """The weights of the images' own labels, sample by sample, from masks of all pixels. attention float64 [B,h*w]"""
    found = []
    for mask, a in zip(masks(plan, constants(len(plan), size)), attention, strict=True):
        low = F.interpolate(mask[None, None], grid, mode="nearest")[0, 0].flatten().round()
        found.append(ratio * mask.mean() + (1 - ratio) * (low * a).sum() / a.sum())
    return torch.stack(found)


@pytest.mark.parametrize("granularity", ["batch", "sample"])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize("name, prefix", [("vit_tiny_patch16_224", 1), ("deit_tiny_distilled_patch16_224", 2)])
def test_weights_are_those_of_the_mask_and_the_unfused_attention(granularity, ratio, name, prefix):
    model, mixer = vit(name, img_size=SIZE), TransMix(ratio=ratio, granularity=granularity)
    spread = []
    for seed in range(4):
        plan, batch = mixer.plan(batch_of(7, SIZE, seed)), batch_of(7, SIZE, seed)
        attention = matrices(model, batch.mix(plan))[-1][:, 0, prefix:]
        expected = explicit(plan, attention, GRID, SIZE, ratio)
        found = weights(mixer, model, batch)
        assert (found[:, 0] - expected).abs().max() < 1e-5
        assert (found.sum(1) - 1).abs().max() < 1e-6 and (found >= 0).all() and (found <= 1).all()
        spread.append(found[:, 0].std().item())
    assert max(spread) > 0.02, "the samples differ"


def test_pvt_goes_by_its_last_stage(monkeypatch):
    size, batch, seen = (64, 96), batch_of(5, (64, 96)), []
    model = make("pvt_tiny", size).train()
    plan = TransMix().plan(batch_of(5, size))
    found = weights(TransMix(), model, batch)

    def unfused(q, k, v, scale):
        seen.append((q @ k.mT * scale).softmax(-1))
        return seen[-1] @ v

    monkeypatch.setattr(F, "scaled_dot_product_attention", unfused)
    with torch.no_grad():
        model(batch.mix(plan))
    expected = explicit(plan, seen[-1].double().mean(1)[:, 0, 1:], (2, 3), size, 0.5)
    assert (found[:, 0] - expected).abs().max() < 1e-5


def test_attention_that_is_everywhere_the_same_counts_patches():
    model, mixer = indifferent(vit()), TransMix(ratio=0.0, granularity="sample")
    plan = mixer.plan(batch_of(40))
    found = weights(mixer, model, batch_of(40))
    for own, (y0, y1, x0, x1) in zip(found[:, 0].tolist(), plan.table[:, 4:8].tolist(), strict=True):
        inside = sum(y0 <= y < y1 and x0 <= x < x1 for y in range(0, SIDE, PATCH) for x in range(0, SIDE, PATCH))
        assert own == pytest.approx(1 - inside / 16, abs=1e-6)


@pytest.mark.parametrize("where, share", [("inside", 0.5), ("outside", 0.5), ("nowhere", 1.0)])
def test_attention_to_one_image_alone(monkeypatch, where, share):
    """Half the weight is that of the area; without any attention to patches all of it is."""
    plan = TransMix(granularity="sample").plan(batch_of(30))
    kept = outside(plan, (4, 4), (SIDE, SIDE))
    both = kept.any(1) & ~kept.all(1)
    given = {"inside": ~kept, "outside": kept, "nowhere": torch.zeros_like(kept)}[where].float()

    @contextmanager
    def told(model):
        yield SimpleNamespace(value=given)

    monkeypatch.setattr(transmix, "class_attention", told)
    found = weights(TransMix(granularity="sample"), vit(), batch_of(30))[both, 0]
    expected = share * plan.own.double() + (1 - share) * (where == "outside")
    assert both.sum() > 10 and (found - expected[both]).abs().max() < 1e-6


def test_a_box_between_the_first_pixels_of_patches_has_no_patch():
    one = np.ones(2, int)
    plan = Plan.box(np.array([1, 0]), one, 8 * one, 9 * one, 16 * one, (SIDE, SIDE))
    assert outside(plan, (4, 4), (SIDE, SIDE)).all() and plan.own[0] < 1
    plan = Plan.box(np.array([1, 0]), 0 * one, one, 8 * one, 9 * one, (SIDE, SIDE))
    assert outside(plan, (4, 4), (SIDE, SIDE)).tolist() == [[k != 1 for k in range(16)]] * 2


def test_no_gradient_flows_through_the_attention():
    constant_weights(TransMix(granularity="sample"), vit(), 6, smoothing=0.1)


def test_an_image_changes_its_own_weight_alone():
    batch, model = batch_of(6), vit()
    (y0, y1, x0, x1), partner = TransMix().plan(batch_of(6)).table[0, 4:8], TransMix().plan(batch_of(6)).partner
    assert 0 < (y1 - y0) * (x1 - x0) < SIDE**2
    before = weights(TransMix(), model, batch)
    for changed in ([2], [2, partner.tolist().index(2)]):  # outside the box; also inside, where another image shows it
        again = batch_of(6)
        other = 255 - again.images[2]
        if len(changed) == 1:
            other[y0:y1, x0:x1] = again.images[2, y0:y1, x0:x1]
        again.images[2] = other
        moved = (weights(TransMix(), model, again) - before).abs().amax(1) > 1e-6
        assert moved.nonzero().flatten().tolist() == sorted(changed)


def test_by_area_alone_it_is_cutmix():
    model = vit()
    for seed in range(3):
        criterion = CrossEntropy(0.1)
        loss = TransMix(ratio=1.0)(model, batch_of(6, seed=seed), criterion)
        assert torch.equal(loss, CutMix()(model, batch_of(6, seed=seed), criterion))


def test_it_costs_one_row_of_attention_more_than_cutmix():
    model, n = vit(), 4
    row = 2 * DIMS["embed_dim"] * 17  # of all heads together
    for mixer in (TransMix(), MIXERS["mixpro"](cell=16)):
        assert multiplications(mixer, model, n) - multiplications(CutMix(), model, n) == n * row


def test_weights_belong_to_samples_and_in_openmixup_to_the_batch():
    mixer = TransMix(variant="openmixup")
    criterion = heard(TransMix(ratio=0.0), vit(), batch_of(8))
    assert against(criterion) > 0.1
    plans = [mixer.plan(batch_of(8, seed=seed)) for seed in range(20)]
    seed = next(k for k, plan in enumerate(plans) if (plan.partner != torch.arange(8)).all())
    plan, batch = plans[seed], batch_of(8, seed=seed)
    attention = matrices(vit(), batch.mix(plan))[-1][:, 0, 1:]
    found = weights(mixer, vit(), batch)
    expected = explicit(plan, attention, (4, 4), (SIDE, SIDE), 0.5).mean()
    assert len(found[:, 0].unique()) == 1 and abs(found[0, 0] - expected) < 1e-5


def test_the_benchmarks_row():
    rows = {
        "transmix": {"mixer": "choice", "of": {"mixup": {"prob": 0.2, "alpha": 0.8}, "transmix": {"prob": 0.8}}},
    }
    mixer, model = build("transmix", rows), vit()
    mixer.prepare(model)
    alike = [len(weights(mixer, model, batch_of(4, seed=s))[:, 0].unique()) == 1 for s in range(30)]
    assert 0 < sum(alike) < 15


def test_a_compiled_model_has_one_graph():
    model, mixer, losses = vit(), TransMix(), []
    mixer.prepare(model)
    eager, backend = copy.deepcopy(model), Counted()
    model.compile(backend=backend, fullgraph=True)
    for seed in range(3):
        for network in (model, eager):
            losses.append(mixer(network, batch_of(4, seed=seed), CrossEntropy()))
        assert torch.equal(*losses[-2:]) and backend.graphs == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("name, end", [("resnet18", ""), ("swin_tiny_patch4_window7_224", " (the paper's Swin, ")])
def test_a_model_without_a_class_token_is_refused(name, end):
    with torch.device("meta"):
        model = make(name)
    words = f"TransMix: {name} has no class token whose attention can be read; of the benchmark's backbones DeiT-T, "
    with pytest.raises(ValueError, match=f"^{words}DeiT-S, DeiT-B and PVT-T have one{re.escape(end)}") as error:
        TransMix().prepare(model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, True, "half", float("nan")])
def test_ratios_that_are_none(ratio):
    with pytest.raises(ValueError, match="^TransMix: ratio is .*; it must be a number from 0 to 1$"):
        TransMix(ratio=ratio)
