"""Choice, and how the rows of a config become mixers."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fastmix import MIXERS
from fastmix.kernels.plan import BLEND, BOX, PLAIN
from fastmix.mixers import Choice, CutMix, FMix, GridMixCells, MixUp, ResizeMix, Vanilla, build
from fastmix.mixers.base import Mixer
from fastmix.targets import CrossEntropy
from helpers.mixing import FixedLam, constants, masks, noise, shapes

DEIT = {"mixer": "choice", "of": {"mixup": {"prob": 0.3, "alpha": 0.8}, "cutmix": {"prob": 0.7, "alpha": 1.0}}}


class Counting(Mixer):
    """A mixer that does not plan, with a parameter of its own, and that notes what it is told."""

    def __init__(self):
        super().__init__()
        self.own = nn.Parameter(torch.ones(1))
        self.told = []

    def forward(self, model, batch, criterion):
        self.told.append("forward")
        return self.own.sum() * 3

    def param_groups(self):
        return [{"params": [self.own], "lr_scale": 0.1}]

    def after_step(self, model):
        self.told.append(model)

    def set_progress(self, t):
        self.told.append(t)


def test_a_batch_follows_one_mixer_at_its_probability():
    mixer = build("deit", {"deit": DEIT})
    kinds = []
    for k in range(2000):
        kind = mixer.plan(shapes(4, (8, 8), [1, k])).kind
        assert (kind == kind[0]).all()
        kinds.append(kind[0].item())
    counts = np.array([kinds.count(BLEND), kinds.count(BOX)])
    assert counts.sum() == 2000 and stats.chisquare(counts, 2000 * np.array([0.3, 0.7])).pvalue > 1e-3


def test_samples_follow_their_own_mixers_at_their_probabilities():
    of = {MixUp(): 0.2, CutMix(): 0.5, Vanilla(): None}
    plan = Choice(of, "sample").plan(shapes(6000, (8, 8), seed=2))
    counts = np.bincount(plan.kind, minlength=3)[[BLEND, BOX, PLAIN]]
    assert stats.chisquare(counts, 6000 * np.array([0.2, 0.5, 0.3])).pvalue > 1e-3


def test_each_sample_is_that_of_the_chosen_mixer():
    mixers = [Vanilla(), MixUp(), CutMix(), FMix(bank=4), ResizeMix(), GridMixCells(), GridMixCells(cells=2)]
    batch, again = constants(8, (20, 14), seed=3), constants(8, (20, 14), seed=3)
    plan = Choice(dict.fromkeys(mixers), "sample").plan(batch)
    chosen = again.rng.choice(7, 8, p=np.full(7, 1 / 7))
    mixed = masks(plan, batch)
    for k, mixer in enumerate(mixers):
        alone = mixer.plan(again)
        for i in np.flatnonzero(chosen == k):
            if alone is None:
                assert plan.own[i] == 1 and plan.partner[i] == i
            else:
                assert torch.equal(plan.table[i, :4], alone.table[i, :4])
                assert torch.equal(mixed[i], masks(alone, again)[i])
    assert len(set(chosen)) > 3


def test_the_alpha_is_that_of_the_chosen_mixer():
    rows = {
        "two": {"mixer": "choice", "of": {"a": {"mixer": "mixup", "alpha": 0.1}, "b": {"mixer": "mixup", "alpha": 9}}}
    }
    mixer = build("two", rows)
    chosen, lam = [], []
    for k in range(3000):
        batch = shapes(1, (8, 8), [4, k])
        chosen.append(int(np.random.default_rng([4, k]).choice(2, p=[0.5, 0.5])))
        lam.append(mixer.plan(batch).own.item())
    chosen, lam = np.array(chosen), np.array(lam)
    for k, alpha in enumerate((0.1, 9)):
        centre = np.mean(np.abs(lam[chosen == k] - 0.5) < 0.2)
        law = stats.beta(alpha, alpha)
        count = (chosen == k).sum()
        expected = law.cdf(0.7) - law.cdf(0.3)
        assert abs(centre - expected) < 3 * np.sqrt(expected * (1 - expected) / count)


def test_forward_runs_the_mixer_that_plan_would_have_chosen():
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    counting, clean = Counting(), Vanilla()
    choice = Choice({counting: 0.5, clean: 0.5})
    for seed in range(10):
        batch = noise(2, (6, 6), seed)
        first = int(np.random.default_rng(seed).choice(2, p=[0.5, 0.5])) == 0
        before = len(counting.told)
        loss = choice(model, batch, CrossEntropy())
        assert len(counting.told) - before == first
        assert loss.item() == 3 if first else torch.equal(loss, clean(model, batch, CrossEntropy()))
    assert 0 < len(counting.told) < 10


def test_a_choice_passes_on_what_the_loop_says():
    one, two, model = Counting(), Counting(), nn.Identity()
    choice = Choice({one: 0.5, two: 0.5})
    choice.set_progress(0.25)
    choice.after_step(model)
    assert one.told == two.told == [0.25, model]
    assert [group["params"] for group in choice.param_groups()] == [[one.own], [two.own]]
    assert {id(p) for p in choice.parameters()} == {id(one.own), id(two.own)}


def test_missing_probabilities_are_equal_shares_of_the_rest():
    assert Choice({MixUp(): None, CutMix(): None}).probabilities.tolist() == [0.5, 0.5]
    assert Choice({MixUp(): 0.5, CutMix(): None, Vanilla(): None}).probabilities.tolist() == [0.5, 0.25, 0.25]
    assert Choice({MixUp(): 1 / 3, CutMix(): 1 / 3, Vanilla(): 0.3333334}).probabilities.sum() == 1


def test_a_choice_can_hold_a_choice():
    rows = {"outer": {"mixer": "choice", "of": {"deit": {"prob": 0.5, **DEIT}, "vanilla": {"prob": 0.5}}}}
    mixer = build("outer", rows)
    plans = [mixer.plan(shapes(2, (8, 8), [5, k])) for k in range(60)]
    assert {None if p is None else p.kind[0].item() for p in plans} == {None, BLEND, BOX}


@pytest.mark.parametrize(
    "probabilities", [(0.5, 0.4), (0.6, 0.6), (1.0, None), (0, 1), (-0.5, 1.5), ("a", 0.5), (True, None)]
)
def test_probabilities_that_are_none(probabilities):
    with pytest.raises(ValueError, match="prob"):
        Choice(dict(zip((MixUp(), CutMix()), probabilities, strict=True)))


def test_by_sample_only_mixers_that_plan():
    with pytest.raises(ValueError, match="sample.*Counting"):
        Choice({Counting(): 0.5, MixUp(): 0.5}, "sample")


def test_a_row_becomes_its_mixer():
    rows = {"soft": {"mixer": "mixup", "alpha": 0.4, "granularity": "sample"}, "cutmix": None, "smoothmix": {}}
    soft = build("soft", rows)
    assert type(soft) is MixUp and (soft.alpha, soft.granularity, soft.variant) == (0.4, "sample", "paper")
    assert type(build("cutmix", rows)) is CutMix
    assert rows["soft"] == {"mixer": "mixup", "alpha": 0.4, "granularity": "sample"}
    deit = build("deit", {"deit": DEIT})
    assert [type(m) for m in deit.mixers] == [MixUp, CutMix] and deit.probabilities.tolist() == [0.3, 0.7]
    assert deit.mixers[0].alpha == 0.8 and "prob" in DEIT["of"]["mixup"]


WRONG = {
    "unknown row": ({"cutmix": {}}, "cutmx", "mixers: no row 'cutmx'; did you mean 'cutmix'"),
    "no rows": ({}, "cutmix", "There is: nothing"),
    "unknown mixer": ({"a": {"mixer": "resizmix"}}, "a", "mixers.a: no mixer 'resizmix'; did you mean 'resizemix'"),
    "mixer is no name": ({"a": {"mixer": ["mixup"]}}, "a", "mixers.a: no mixer"),
    "unknown option": (
        {"cutmix": {"alhpa": 1}},
        "cutmix",
        "mixers.cutmix: cutmix has no option 'alhpa'; did you mean 'alpha'",
    ),
    "inert option": ({"smoothmix": {"alpha": 0.2}}, "smoothmix", "smoothmix has no option 'alpha'"),
    "option of vanilla": ({"vanilla": {"alpha": 1}}, "vanilla", "vanilla has no option 'alpha'"),
    "prob outside a choice": ({"mixup": {"prob": 1}}, "mixup", "no option 'prob'"),
    "row is no mapping": ({"cutmix": 1.0}, "cutmix", "mixers.cutmix: expected options"),
    "alpha of zero": ({"cutmix": {"alpha": 0}}, "cutmix", "alpha is 0; it must be a number from 1e-06 to 1,000,000"),
    "alpha is text": ({"mixup": {"alpha": "1e-1"}}, "mixup", "alpha is '1e-1'"),
    "alpha is not a number": ({"fmix": {"alpha": float("nan")}}, "fmix", "alpha is nan"),
    "granularity": (
        {"cutmix": {"granularity": "elem"}},
        "cutmix",
        "granularity is 'elem'; choose one of batch, sample",
    ),
    "variant": ({"cutmix": {"variant": "timm"}}, "cutmix", "variant is 'timm'; choose one of paper, openmixup"),
    "spectrum": ({"fmix": {"spectrum": "full"}}, "fmix", "spectrum is 'full'"),
    "bank": ({"fmix": {"bank": 0.5}}, "fmix", "bank is 0.5; it must be a whole number"),
    "scope": ({"resizemix": {"scope": [0.8, 0.1]}}, "resizemix", "scope is [0.8, 0.1]"),
    "scope above one": ({"resizemix": {"scope": [0.1, 1.5]}}, "resizemix", "scope is [0.1, 1.5]"),
    "holes": ({"gridmix": {"holes": [2, 6.5]}}, "gridmix", "holes is 6.5; it must be a whole number"),
    "spread": ({"smoothmix": {"spread": 0.5}}, "smoothmix", "spread is 0.5; it must be a list of 2 values"),
    "cells": ({"gridmix_cells": {"cells": 0}}, "gridmix_cells", "cells is 0"),
    "choice of nothing": ({"choice": {}}, "choice", "mixers.choice.of: expected rows"),
    "choice of a list": ({"choice": {"of": ["mixup"]}}, "choice", "mixers.choice.of: expected rows"),
    "child": (
        {"c": {"mixer": "choice", "of": {"mixpu": {}}}},
        "c",
        "mixers.c.of.mixpu: no mixer 'mixpu'; did you mean 'mixup'",
    ),
    "child's option": (
        {"c": {"mixer": "choice", "of": {"mixup": {"alpha": -1}}}},
        "c",
        "mixers.c.of.mixup: MixUp: alpha is -1",
    ),
    "sum": (
        {"choice": {"of": {"mixup": {"prob": 0.5}, "cutmix": {"prob": 0.4}}}},
        "choice",
        "mixers.choice: Choice: the prob",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_rows_are_named_in_one_line(case):
    rows, name, message = WRONG[case]
    with pytest.raises(ValueError) as error:
        build(name, rows)
    text = str(error.value)
    assert message in text and "\n" not in text
    if "no mixer" in text:
        assert all(known in text for known in MIXERS)


def test_two_banks_cannot_meet_in_one_batch():
    choice = Choice({FMix(bank=2): 0.5, FMix(bank=2, seed=1): 0.5}, "sample")
    with pytest.raises(ValueError, match="one fmix bank"):
        choice.plan(constants(4, (8, 8)))


def test_lambda_at_the_ends_leaves_images_whole_in_every_hard_method():
    for mixer in (CutMix(), FMix(bank=2), GridMixCells()):
        batch = constants(4, (12, 10))
        batch.rng = FixedLam(1.0)
        assert mixer.plan(batch).own.tolist() == [1.0] * 4
