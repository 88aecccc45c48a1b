"""RegMixup against the paper's sum of two losses, in float64."""

import copy

import pytest
import torch

from fastmix import Targets
from fastmix.mixers import MixUp, RegMixup, Vanilla, build
from fastmix.targets import CrossEntropy
from helpers.backbones import SMOOTH, make
from helpers.mixing import FixedLam
from helpers.transformers import CLASSES, batch_of, heard, multiplications, vit

pytestmark = pytest.mark.gradient


def smoothed(label: int, smoothing: float) -> torch.Tensor:
    target = torch.full((CLASSES,), smoothing / CLASSES, dtype=torch.float64)
    target[label] += 1 - smoothing
    return target


def naive(model, batch, partner: list[int], lam: float, eta: float, smoothing: float) -> torch.Tensor:
    """The loss, sample by sample, of one pass over the clean images and the mixed ones behind them."""
    clean = batch.mix()
    mixed = torch.stack([lam * clean[i] + (1 - lam) * clean[j] for i, j in enumerate(partner)])
    logp = model(torch.cat([clean, mixed])).double().log_softmax(1)
    total = 0
    for i, j in enumerate(partner):
        own, other = (smoothed(batch.labels[k].item(), smoothing) for k in (i, j))
        total = total - (own * logp[i]).sum() - eta * ((lam * own + (1 - lam) * other) * logp[len(partner) + i]).sum()
    return total / len(partner)


@pytest.mark.parametrize("eta, smoothing", [(1.0, 0.0), (0.3, 0.1), (0.0, 0.0)])
@pytest.mark.parametrize("network", [vit, lambda: make("test_resnet", **SMOOTH).train()], ids=["vit", "resnet"])
def test_the_loss_and_its_gradient_are_those_of_the_paper(network, eta, smoothing):
    model, lam = network(), 0.4375  # a multiple of 2**-16
    other = copy.deepcopy(model)
    batch = batch_of(6, seed=1)
    batch.rng = FixedLam(lam, seed=2)
    partner = RegMixup().plan(batch).partner.tolist()
    batch.rng = FixedLam(lam, seed=2)
    found = heard(RegMixup(eta=eta), model, batch, smoothing)
    expected = naive(other, batch, partner, lam, eta, smoothing)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    ours, theirs = (torch.autograd.grad(loss, [*net.parameters()]) for loss, net in
                    ((found.loss, model), (expected, other)))  # fmt: skip
    largest = max(g.abs().max() for g in theirs)
    assert all((a - b).abs().max() < 1e-4 * largest for a, b in zip(ours, theirs, strict=True))
    for a, b in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), "statistics of both halves together"


def test_without_a_weight_it_is_the_loss_of_the_clean_images():
    model = vit()
    assert torch.allclose(
        RegMixup(eta=0.0)(model, batch_of(5), CrossEntropy(0.1)), Vanilla()(model, batch_of(5), CrossEntropy(0.1))
    )


def test_lambda_is_near_a_half_with_the_variance_of_beta():
    plan = RegMixup(granularity="sample").plan(batch_of(4000, (1, 1)))
    own = plan.own.double()
    assert abs(own.mean() - 0.5) < 4 * (1 / 164 / 4000) ** 0.5
    assert own.var().item() == pytest.approx(1 / (4 * (2 * 20 + 1)), rel=0.1)
    assert torch.equal(MixUp(20.0, "sample").plan(batch_of(9, seed=4)).table,
                       RegMixup(granularity="sample").plan(batch_of(9, seed=4)).table)  # fmt: skip


def test_it_costs_two_steps():
    model = vit()
    assert multiplications(RegMixup(), model, 4) == 2 * multiplications(Vanilla(), model, 4)


def test_methods_built_on_others_keep_its_clean_loss_or_refuse_it():
    """DecoupledMix with eta 0 is the method's own loss; a choice by sample and SUMix know plans only."""
    rows = {
        "decoupledmix": {"of": {"regmixup": {"eta": 0.5}}, "eta": 0.0},
        "choice": {"of": {"regmixup": {"eta": 0.5}}},
    }
    model, losses = vit(), []
    for name in rows:
        losses.append(build(name, rows)(model, batch_of(6), CrossEntropy()))
    assert torch.equal(*losses)
    batch = batch_of(6)
    batch.rng.choice(1, None, p=[1.0])  # which mixer
    plan = MixUp(20.0).plan(batch)
    mixed = CrossEntropy()(model(batch.mix(plan)), Targets.of(batch.labels, plan))
    clean = CrossEntropy()(model(batch.mix()), Targets.of(batch.labels))
    assert losses[0].item() == pytest.approx((clean + 0.5 * mixed).item(), rel=1e-5)
    for row in ({"mixer": "sumix", "of": {"regmixup": {}}},
                {"mixer": "choice", "granularity": "sample", "of": {"regmixup": {}, "mixup": {}}}):  # fmt: skip
        with pytest.raises(ValueError, match="RegMixup, which does more than"):
            build("one", {"one": row})


def test_options_out_of_range_are_refused():
    for options in ({"eta": -1}, {"alpha": 0}, {"granularity": "image"}):
        with pytest.raises(ValueError, match=f"^RegMixup: {next(iter(options))} is "):
            RegMixup(**options)
