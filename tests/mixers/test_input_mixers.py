"""Properties that every input mixer has, tested through the real pass on images whose mixtures can be read back."""

import inspect
import re

import numpy as np
import pytest
import torch
from scipy import stats

from fastmix import IMAGENET_MEAN, IMAGENET_STD, MIXERS, Targets, mix
from fastmix.kernels.plan import Plan
from fastmix.mixers.base import InputMixer
from fastmix.targets import CrossEntropy
from helpers.mixing import NO_NORM, ROWS, SOFT, constants, masks, mixer_of, noise, shapes

SIZES = [(1, (32, 32)), (2, (16, 16)), (5, (33, 20)), (8, (17, 48))]
MIXING = [row for row in ROWS if not row.startswith("vanilla")]
every = pytest.mark.parametrize("row", ROWS)
every_mixing = pytest.mark.parametrize("row", MIXING)
sizes = pytest.mark.parametrize("n, size", SIZES, ids=lambda v: str(v).replace(" ", ""))


def plan_of(row: str, batch) -> Plan:
    plan = mixer_of(row).plan(batch)
    return Plan.plain(len(batch)) if plan is None else plan


def same(one: Plan, two: Plan) -> bool:
    names = ("table", "profiles", "bank", "blocks", "maps", "sources", "weights")
    pairs = [(getattr(one, name), getattr(two, name)) for name in names]
    return all(a is b is None or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


@every
@sizes
def test_each_pixel_comes_from_the_two_images_and_the_label_is_the_mean_of_the_mask(row, n, size):
    for seed in range(4):
        batch = constants(n, size, seed)
        plan = plan_of(row, batch)
        mask = masks(plan, batch)
        alone = plan.partner == torch.arange(n)
        assert torch.equal(batch.mix(plan)[alone], batch.mix()[alone])
        mask = mask[~alone]
        assert (mask >= -1e-6).all() and (mask <= 1 + 1e-6).all()
        if not row.startswith((*SOFT, "choice")):
            assert ((mask.abs() < 1e-6) | ((mask - 1).abs() < 1e-6)).all()
        own, other = plan.own[~alone].double(), plan.other[~alone].double()
        realised = mask.mean((1, 2))
        if row.startswith("smoothmix") and "openmixup" in row:
            realised = 1 - realised  # its labels are swapped
        assert (own - realised).abs().le(1e-6).all()
        assert (own + other - 1).abs().le(1e-7).all()


@pytest.mark.parametrize("row", [row for row in ROWS if not row.startswith((*SOFT, "choice"))])
def test_selected_pixels_are_the_sources_bit_for_bit(row):
    batch = constants(8, (33, 20), seed=5)
    plan = plan_of(row, batch)
    clean, mixed = batch.mix(), batch.mix(plan)
    assert ((mixed == clean) | (mixed == clean[plan.partner.long()])).all()


@every
def test_equal_images_stay_what_they_are(row):
    batch = noise(1, (33, 20))
    batch.images = torch.tensor([7, 100, 201], dtype=torch.uint8).expand(6, 33, 20, 3).contiguous()
    batch.labels = torch.arange(6)
    plan = plan_of(row, batch)
    assert torch.equal(batch.mix(plan), batch.mix())


@every
def test_normalisation_commutes_with_mixing(row):
    batch = noise(5, (33, 20))
    plan = plan_of(row, batch)
    raw = mix(batch.images, plan, **NO_NORM).double()
    mean, std = (torch.tensor(v, dtype=torch.float64)[None, :, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    for dtype in (torch.float32, torch.bfloat16):
        after = (raw - mean) / std
        before = mix(batch.images, plan, IMAGENET_MEAN, IMAGENET_STD, dtype).double()
        roundings = 3 * torch.finfo(torch.float32).eps / std  # of both ways in fp32, with values up to 1 / std
        assert ((before - after).abs() <= torch.finfo(dtype).eps / 2 * after.abs() + roundings).all()


@every
@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_partners_are_valid_and_the_inputs_unchanged(row, n):
    for seed in range(5):
        batch = noise(n, (16, 12), seed)
        images = batch.images.clone()
        mixer = mixer_of(row)
        plan = plan_of(row, batch)
        batch.mix(plan)
        assert torch.equal(batch.images, images)
        partner = plan.partner
        assert (partner >= 0).all() and (partner < n).all()
        if row in MIXING and not row.startswith("choice"):
            assert partner.sort().values.tolist() == list(range(n))
            if mixer.variant == "paper" and n > 1:
                assert (partner != torch.arange(n)).all()


@every_mixing
@sizes
def test_the_plan_is_a_function_of_the_generator(row, n, size):
    one, two, other = (plan_of(row, shapes(n, size, seed)) for seed in (3, 3, 4))
    assert same(one, two)
    if n >= 5:
        assert not same(one, other)


@pytest.mark.parametrize("row", [row for row in MIXING if not row.startswith("choice")])
def test_batch_draws_one_mask_and_sample_draws_many(row):
    mixer = mixer_of(row)
    own = mixer.plan(shapes(64, (33, 20), seed=2)).own
    one = mixer.granularity == "batch"
    assert (len(own.unique()) == 1) == one


@pytest.mark.long
@pytest.mark.parametrize("row", [r for r in MIXING if r.endswith(("batch-paper", "batch-openmixup", "cells-batch"))])
def test_both_granularities_have_one_law(row):
    by_batch, by_sample = mixer_of(row), mixer_of(row.replace("batch", "sample"))
    batches = np.array([by_batch.plan(shapes(2, (32, 32), [7, k])).own[0].item() for k in range(1500)])
    samples = by_sample.plan(shapes(3000, (32, 32), seed=8)).own.numpy()
    assert stats.ks_2samp(batches, samples).pvalue > 1e-3


@pytest.mark.parametrize("row", ["mixup-sample-paper", "fmix-sample-paper", "fmix-official", "gridmix_cells-sample"])
def test_methods_without_a_preferred_image_are_symmetric(row):
    plan, again = (mixer_of(row).plan(shapes(4000, (32, 32), seed)) for seed in (1, 2))
    assert stats.ks_2samp(plan.own.numpy(), again.other.numpy()).pvalue > 1e-3


@every_mixing
def test_targets_pair_the_labels_as_the_images(row):
    batch = constants(8, (16, 16), seed=1)
    plan = plan_of(row, batch)
    targets = Targets.of(batch.labels, plan)
    assert torch.equal(targets.labels[:, 1].int(), plan.partner)
    equal = Targets.of(torch.full((8,), 2), plan)
    assert (equal.dense(4) - torch.eye(4)[2]).abs().max() <= 1e-6


def test_a_mixer_is_a_loss_of_a_batch():
    batch, again = noise(6, (12, 10), seed=9), noise(6, (12, 10), seed=9)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(360, 3))
    mixer = mixer_of("cutmix-sample-paper")
    loss = mixer(model, batch, CrossEntropy())
    plan = mixer.plan(again)
    logp = model(again.mix(plan)).log_softmax(1)
    dense = torch.zeros(6, 3)
    for i in range(6):
        dense[i, again.labels[i]] += plan.own[i]
        dense[i, again.labels[plan.partner[i]]] += plan.other[i]
    assert torch.allclose(loss, -(dense * logp).sum(1).mean(), atol=1e-6)


@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_says_what_it_is(name):
    cls = MIXERS[name]
    assert "Cost:" in cls.__doc__
    if issubclass(cls, InputMixer):
        assert "Departs from" in cls.__doc__ and re.search(r"\b20\d\d\b", cls.__doc__)
        assert ("variant openmixup:" in cls.__doc__) == ("variant" in inspect.signature(cls).parameters)
