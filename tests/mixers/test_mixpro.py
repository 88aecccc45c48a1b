"""MixPro: its masks cell by cell, its labels against loops over samples in float64."""

import math
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from fastmix import MIXERS, Batch
from fastmix.mixers import mixpro
from fastmix.targets import BinaryCrossEntropy, CrossEntropy, Targets
from helpers.backbones import make
from helpers.mixing import FixedLam, constants, masks, within
from helpers.transformers import CLASSES, SIDE, against, batch_of, constant_weights, heard, matrices, vit

MixPro = MIXERS["mixpro"]
SIZES = [((224, 224), 64), ((224, 160), 56), ((32, 48), 16), ((40, 24), 16), ((64, 32), 32)]


def uncut(size: tuple[int, int]) -> Batch:
    return constants(5, size, seed=3)


@pytest.mark.parametrize("size, cell", SIZES, ids=str)
@pytest.mark.parametrize("r", [0.0, 0.07, 0.5, 1.0])
def test_each_sample_keeps_that_many_cells_and_their_pixels_are_its_weight(size, cell, r):
    batch = uncut(size)
    batch.rng = FixedLam(r)
    plan = MixPro(cell=cell, pal=False).plan(batch)
    grid = [math.ceil(length / cell) for length in size]
    for mask, own in zip(masks(plan, batch), plan.own.tolist(), strict=True):
        cells = [
            mask[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell] for y in range(grid[0]) for x in range(grid[1])
        ]
        assert all((part - part[0, 0]).abs().max() < 1e-6 for part in cells), "a cell shows one image"
        kept = sum(round(part[0, 0].item()) for part in cells)
        assert kept == math.ceil(r * len(cells))
        assert own == pytest.approx(mask.mean().item(), abs=1e-6)


def test_cells_that_are_cut_count_by_their_pixels():
    plan = MixPro(pal=False).plan(constants(8, (224, 224)))
    counted = np.ceil(np.random.default_rng(0).beta(1, 1, 1) * 16) / 16
    assert (plan.own - counted[0]).abs().max() > 0.01


def test_cells_are_chosen_uniformly_and_for_each_sample():
    mixer = MixPro(cell=8)
    kept = np.concatenate([mixer.kept(batch_of(8, seed=seed)) for seed in range(300)]).reshape(-1, 16)
    assert len({row.tobytes() for row in mixer.kept(batch_of(8, seed=4))}) > 4
    assert stats.chisquare(kept.sum(0)).pvalue > 1e-3
    by_batch, by_sample = (
        np.concatenate([MixPro(cell=8, granularity=g).kept(batch_of(8, seed=s)).mean((1, 2))[:1] for s in range(300)])
        for g in ("batch", "sample")
    )
    mean = np.mean([math.ceil(16 * r) / 16 for r in (np.arange(16000) + 0.5) / 16000])
    assert within(by_batch, mean) and within(by_sample, mean)
    counts = MixPro(cell=8, granularity="sample").kept(batch_of(8)).sum((1, 2))
    assert len(set(counts)) > 1 and len(set(mixer.kept(batch_of(8)).sum((1, 2)))) == 1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_follow_attention_as_far_as_the_prediction_agrees(smoothing):
    model, mixer = vit(img_size=(32, 48)), MixPro(cell=16)
    plan, batch, apart = mixer.plan(batch_of(6, (32, 48))), batch_of(6, (32, 48)), []
    attention = matrices(model, batch.mix(plan))[-1][:, 0, 1:].view(6, 4, 6)
    found = heard(mixer, model, batch, smoothing)
    shown = masks(plan, constants(6, (32, 48)))
    for i in range(6):
        area = shown[i].mean().item()
        target = torch.full((CLASSES,), smoothing / CLASSES, dtype=torch.float64)
        target[batch.labels[i]] += (1 - smoothing) * area
        target[batch.labels[plan.partner[i]]] += (1 - smoothing) * (1 - area)
        p = found.logits[i].detach().double().softmax(0)
        c = (p @ target / (p.norm() * target.norm())).item()
        seen = sum(attention[i, y, x].item() for y in range(4) for x in range(6) if shown[i, 8 * y, 8 * x] > 0.5)
        own = c * seen / attention[i].sum().item() + (1 - c) * area
        assert found.targets.weights[i].tolist() == pytest.approx([own, 1 - own], abs=1e-5)
        apart.append(abs(own - area))
    assert max(apart) > 0.01
    assert found.targets.labels.tolist() == [
        [a, b] for a, b in zip(batch.labels, batch.labels[plan.partner], strict=True)
    ]


@pytest.mark.parametrize("c", [0.0, 1.0])
def test_the_ends_of_progress(c, monkeypatch):
    monkeypatch.setattr(mixpro, "agreement", lambda logits, targets, smoothing: torch.full((len(logits),), c))
    model, mixer = vit(), MixPro(cell=16, granularity="sample")
    plan = mixer.plan(batch_of(9))
    kept = torch.from_numpy(mixer.sampled(mixer.kept(batch_of(9)), (4, 4), (SIDE, SIDE))).flatten(1)
    attention = matrices(model, batch_of(9).mix(plan))[-1][:, 0, 1:]
    expected = (attention * kept).sum(1) / attention.sum(1) if c else plan.own.double()
    weights = heard(mixer, model, batch_of(9)).targets.weights.double()
    assert (weights[:, 0] - expected).abs().max() < 1e-5 and (weights.sum(1) - 1).abs().max() < 1e-6
    assert weights[:, 0].std() > 0.02


def test_without_attention_to_patches_the_area_counts(monkeypatch):
    @contextmanager
    def told(model):
        yield SimpleNamespace(value=torch.zeros(5, 16))

    monkeypatch.setattr(mixpro, "class_attention", told)
    weights = heard(MixPro(cell=16), vit(), batch_of(5)).targets.weights
    assert (weights[:, 0] - MixPro(cell=16).plan(batch_of(5)).own).abs().max() < 1e-6


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradient_are_those_of_the_formula(smoothing):
    """With the smoothing in the target of the cosine alone, whose gradient counts; the attention has none."""
    model, mixer = vit(), MixPro(cell=16)
    found = heard(mixer, model, batch_of(6), smoothing)
    plan = mixer.plan(batch_of(6))
    kept = torch.from_numpy(mixer.sampled(mixer.kept(batch_of(6)), (4, 4), (SIDE, SIDE))).flatten(1)
    attention = matrices(model, batch_of(6).mix(plan))[-1][:, 0, 1:]
    logits = found.logits.detach().double().requires_grad_()
    own, other = (F.one_hot(labels, CLASSES).double() for labels in found.targets.labels.unbind(1))
    area = plan.own.double()[:, None]
    target = (1 - smoothing) * (area * own + (1 - area) * other) + smoothing / CLASSES
    c = F.cosine_similarity(target, logits.softmax(1))
    shown = (attention * kept).sum(1) / attention.sum(1)

    def gradient(c):
        lam = c * shown + (1 - c) * area[:, 0]
        each = -logits.log_softmax(1)
        loss = (lam * (each * own).sum(1) + (1 - lam) * (each * other).sum(1)).mean()
        assert found.loss.item() == pytest.approx(loss.item(), abs=1e-5)
        return torch.autograd.grad(loss, logits, retain_graph=True)[0]

    got = torch.autograd.grad(found.loss, found.logits)[0]
    assert (got - gradient(c)).abs().max() < 1e-5
    assert (got - gradient(c.detach())).abs().max() > 1e-3, "the cosine's gradient counts"


def test_no_gradient_flows_through_attention(monkeypatch):
    monkeypatch.setattr(mixpro, "agreement", lambda logits, targets, smoothing: torch.full((len(logits),), 0.7))
    constant_weights(MixPro(cell=16), vit(), 6)


def test_weights_belong_to_samples():
    assert against(heard(MixPro(cell=8), vit(), batch_of(8))) > 0.1


def test_agreement_is_the_cosine():
    logits, labels = torch.tensor([[50.0, 0, 0], [0.0, 50, 0], [0, 0, 0]]), torch.tensor([[0, 2], [0, 2], [0, 1]])
    targets = Targets(labels, torch.tensor([[1.0, 0], [1.0, 0], [0.5, 0.5]]))
    assert mixpro.agreement(logits, targets, 0.0).tolist() == pytest.approx([1, 0, (2 / 3) ** 0.5], abs=1e-6)
    assert mixpro.agreement(logits, targets, 1.0)[2] == pytest.approx(1, abs=1e-6)


def test_without_pal_any_model_is_trained_by_area():
    model, mixer, criterion = make("test_resnet").train(), MixPro(cell=16, pal=False), CrossEntropy(0.1)
    mixer.prepare(model)
    loss = mixer(model, batch_of(4), criterion)
    batch = batch_of(4)
    plan = mixer.plan(batch)
    assert torch.equal(loss, criterion(model(batch.mix(plan)), Targets.of(batch.labels, plan)))


def test_binary_cross_entropy_counts_too():
    criterion, model, mixer = BinaryCrossEntropy(0.1), vit(), MixPro(cell=16)
    assert mixer(model, batch_of(4), criterion).isfinite()


def test_what_does_not_fit_is_said_in_one_line():
    with pytest.raises(
        ValueError, match="^MixPro: cell is 20; vit_tiny_patch16_224 needs a multiple of 8, its patches$"
    ):
        MixPro(cell=20).prepare(vit())
    with pytest.raises(ValueError, match="^MixPro: test_resnet has no class token .*PVT-T have one$"):
        MixPro().prepare(make("test_resnet"))
    with pytest.raises(ValueError, match="^MixPro: cell is 64, a whole image of 32 x 32 pixels; choose a smaller one$"):
        MixPro().plan(batch_of(2))
    with pytest.raises(ValueError, match="^MixPro: pal is 1.5; choose one of True, False$"):
        MixPro(pal=1.5)
