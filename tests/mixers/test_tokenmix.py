"""TokenMix: masks against a walk through the algorithm, labels against sums over tokens, maps against explicit ones."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from fastmix import MIXERS, config, models
from fastmix.mixers.base import cyclic
from fastmix.mixers.tokenmix import block_masks, regridded
from fastmix.models.teacher import resized
from fastmix.targets import CrossEntropy
from helpers.attending import batch_of, explicit_attention, network
from helpers.mixing import FixedLam, constants, masks, noise, shapes
from helpers.teaching import CLASSES, NAME, teacher_file, trained

TokenMix, TokenMixAttention = MIXERS["tokenmix"], MIXERS["tokenmix_attn"]
GRIDS = [((224, 224), (14, 14)), ((64, 96), (4, 6)), ((230, 215), (14, 13))]


def walk(rng: np.random.Generator, count: int, rows: int, columns: int) -> np.ndarray:
    """One mask, rectangle by rectangle and try by try. bool [rows,columns]"""
    mask, missing = np.zeros((rows, columns), bool), count
    while missing:
        for _ in range(10):
            area = rng.uniform(1, missing)
            ratio = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < rows and w < columns:
                top, left = rng.integers(0, rows - h + 1), rng.integers(0, columns - w + 1)
                added = h * w - mask[top : top + h, left : left + w].sum()
                if 0 < added <= missing:
                    mask[top : top + h, left : left + w] = True
                    missing -= added
                    break
        else:
            return mask
    return mask


def edges(masks: np.ndarray) -> np.ndarray:
    """How many pairs of neighbours of each mask differ."""
    return sum(np.diff(masks, axis=axis).sum((1, 2)) for axis in (1, 2))


@pytest.mark.parametrize("count, rows, columns", [(112, 14, 14), (60, 14, 14), (190, 14, 14), (12, 4, 6), (20, 9, 3)])
def test_masks_have_the_law_of_the_algorithm(count, rows, columns):
    n, rng = 500, np.random.default_rng(0)
    expected = np.stack([walk(rng, count, rows, columns) for _ in range(n)])
    found = block_masks(rng, np.full(4 * n, count), (rows, columns))
    assert found.dtype == bool and found.shape == (4 * n, rows, columns)
    assert stats.ks_2samp(found.sum((1, 2)), expected.sum((1, 2))).pvalue > 1e-3
    assert stats.ks_2samp(edges(found), edges(expected)).pvalue > 1e-3
    means = [m.astype(float).reshape(len(m), -1) for m in (found, expected)]
    z = (means[0].mean(0) - means[1].mean(0)) / np.sqrt(sum(m.var(0) / len(m) for m in means) + 1e-9)
    assert np.abs(z).max() < stats.norm.isf(5e-4 / z.size)


def test_masks_nearly_always_have_the_count_that_is_asked_for():
    counts = block_masks(np.random.default_rng(1), np.full(3000, 112), (14, 14)).sum((1, 2))
    assert counts.max() == 112 and (counts == 112).mean() > 0.97 and counts.min() > 98
    each = np.array([0, 1, 5, 100])
    assert block_masks(np.random.default_rng(1), each, (14, 14)).sum((1, 2)).tolist() == each.tolist()
    assert not block_masks(np.random.default_rng(1), np.array([1]), (1, 1)).any(), "a block is smaller than the grid"


class Given(TokenMixAttention):
    """The activation maps are given; what is pasted is kept for the test."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = None

    def counts(self, batch, tokens):
        self.seen = super().counts(batch, tokens)
        return self.seen


def maps_of(n: int, grid: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *grid, generator=torch.Generator().manual_seed(seed))


def pasted(plan, batch, grid) -> torch.Tensor:
    """Which tokens of the mixed images show the partner, read back from the pixels of constant images. bool [B,h,w]"""
    shown = masks(plan, constants(len(batch), batch.size)).round(decimals=3)
    y, x = (torch.arange(length) * cells // length for length, cells in zip(batch.size, grid, strict=True))
    first = [(v[:, None] == torch.arange(v.max() + 1)).int().argmax(0) for v in (y, x)]
    own = shown[:, first[0]][:, :, first[1]]
    assert torch.equal(own[:, y][:, :, x], shown), "tokens are whole"
    return own == 0


@pytest.mark.parametrize("granularity", ["batch", "sample"])
@pytest.mark.parametrize("size, grid", GRIDS, ids=str)
def test_labels_are_the_activation_that_is_shown(size, grid, granularity):
    batch, maps = constants(6, size, seed=1), maps_of(6, grid)
    mixer = Given(granularity=granularity)
    plan = mixer.plan(batch, maps)
    tokens = pasted(plan, batch, grid)
    assert len(tokens.unique(dim=0)) == (1 if granularity == "batch" else 6)
    assert (tokens.sum((1, 2)).numpy() <= mixer.seen).all() and tokens.any()
    for i, j in enumerate(plan.partner.tolist()):
        own = sum(maps[i, y, x].item() for y, x in np.argwhere(~tokens[i].numpy())) / maps[i].sum().item()
        other = sum(maps[j, y, x].item() for y, x in np.argwhere(tokens[i].numpy())) / maps[j].sum().item()
        assert plan.own[i].item() == pytest.approx(own, abs=1e-6)
        assert plan.other[i].item() == pytest.approx(other, abs=1e-6)
    assert (plan.own + plan.other - 1).abs().max() > 1e-3, "they need not sum to one"


@pytest.mark.parametrize("size, grid", GRIDS, ids=str)
def test_maps_of_one_value_count_by_tokens(size, grid):
    batch = constants(4, size)
    plan = Given(granularity="sample").plan(batch, torch.full((4, *grid), 0.3))
    share = pasted(plan, batch, grid).double().mean((1, 2))
    assert (plan.own - (1 - share)).abs().max() < 1e-6 and (plan.other - share).abs().max() < 1e-6


def test_what_is_hidden_counts_nothing_and_what_is_shown_counts_all():
    batches = [constants(4, (224, 224), seed=7) for _ in range(3)]
    tokens = pasted(Given().plan(batches[0], maps_of(4, (14, 14))), batches[0], (14, 14))[0]
    assert tokens.sum() == 112
    hidden, shown = torch.zeros(2, 14, 14)
    hidden[tuple(tokens.nonzero()[0])] = 1
    shown[tuple((~tokens).nonzero()[0])] = 1
    plan = Given().plan(batches[1], hidden.expand(4, -1, -1))
    assert plan.own.tolist() == [0] * 4 and plan.other.tolist() == [1] * 4
    plan = Given().plan(batches[2], shown.expand(4, -1, -1))
    assert plan.own.tolist() == [1] * 4 and plan.other.tolist() == [0] * 4


def test_an_image_without_activation_counts_nothing():
    maps = maps_of(4, (14, 14))
    maps[2] = 0
    plan = Given().plan(constants(4, (224, 224)), maps)
    partner = plan.partner.tolist()
    assert plan.own[2] == 0 and plan.other[partner.index(2)] == 0
    assert (plan.own > 0).sum() == 3 and plan.own.isfinite().all()


@pytest.mark.parametrize("lam, count", [(0.5, 112), (0.3, 151), (0.0, 196), (0.999, 14)])
def test_how_many_tokens_are_asked_for(lam, count):
    batch = shapes(5, (224, 224))
    batch.rng = FixedLam(lam)
    for granularity, n in (("batch", 1), ("sample", 5)):
        mixer = TokenMixAttention(alpha=1.0, granularity=granularity)
        assert mixer.counts(batch, 196).tolist() == [count] * n
    if lam == 0.5:
        assert TokenMixAttention().counts(shapes(5, (224, 224)), 196).tolist() == [count]
        assert TokenMixAttention(granularity="sample").counts(batch, 16).tolist() == [9] * 5


def test_partners_are_shifted():
    batch, again = shapes(7, (64, 64)), shapes(7, (64, 64))
    plan = TokenMixAttention().plan(batch, maps_of(7, (4, 4)))
    assert plan.partner.tolist() == cyclic(again.rng, 7).tolist()


def test_maps_on_other_grids():
    maps = maps_of(3, (8, 12))
    coarse = regridded(maps, (4, 6))
    taps = torch.tensor([1.0, 3, 3, 1]) / 8  # bilinear, with twice the support
    smooth = F.conv2d(F.pad(maps[:, None], (1, 1, 1, 1)), torch.outer(taps, taps)[None, None], stride=2)[:, 0]
    inner = coarse[:, 1:-1, 1:-1] / smooth[:, 1:-1, 1:-1]
    assert (inner / inner[:, :1, :1] - 1).abs().max() < 1e-5
    fine = regridded(maps, (16, 20))
    plain = F.interpolate(maps[:, None], (16, 20), mode="bilinear", align_corners=False)[:, 0]
    assert (fine - plain).abs().max() < 1e-6
    assert regridded(maps, (8, 12)) is maps


def test_the_guide_is_the_attention_of_the_class_token():
    model, batch = network((24, 48)), batch_of(4, (24, 48))
    mixer = TokenMixAttention(patch=8)
    mixer.prepare(model)
    expected = explicit_attention(model, batch.mix()).mean(1)[:, 0, 1:].unflatten(1, (3, 6))
    found = mixer.guide(model, batch, CrossEntropy())
    assert (found - expected).abs().max() < 1e-6
    plan = mixer.decide(model, batch, CrossEntropy())
    tokens = pasted(plan, batch, (3, 6))
    share = ((expected * ~tokens).sum((1, 2)) / expected.sum((1, 2))).float()
    assert (plan.own - share).abs().max() < 1e-5


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> tuple[torch.nn.Module, str]:
    model = trained()
    return model, teacher_file(tmp_path_factory.mktemp("teacher"), model)


@torch.no_grad()
def test_the_teachers_map_is_the_class_activation_map(teacher):
    model, file = teacher
    mixer = TokenMix(teacher=NAME, weights=file, size=96)
    batch = noise(5, (64, 48))
    x = resized(batch.mix(), (96, 96))
    found = mixer.guide(None, batch, None)
    maps = F.conv2d(model.forward_features(x), model.get_classifier().weight[:, :, None, None])
    expected = maps[torch.arange(5), batch.labels].clamp(min=0)
    assert expected.any() and (found - expected).abs().max() < 1e-4 * expected.max()
    whole = maps.mean((2, 3)) + model.get_classifier().bias
    assert (whole - model(x)).abs().max() < 1e-4 * whole.abs().max(), "the classifier is linear in the map"


def test_a_teacher_is_needed_and_must_fit(teacher, tmp_path):
    _, file = teacher
    with pytest.raises(ValueError, match="^TokenMix: weights is not given; name a file") as error:
        TokenMix()
    assert "\n" not in str(error.value)
    mixer = TokenMix(teacher=NAME, weights=file, size=64)
    with pytest.raises(ValueError, match=f"^TokenMix: teacher {NAME} has {CLASSES} classes, the model 3;"):
        mixer.prepare(models.build(config.Model(NAME), 3))
    mixer.prepare(models.build(config.Model(NAME), CLASSES))
    token = models.build(config.Model("test_vit"), CLASSES)
    with pytest.raises(ValueError, match="^TokenMix: teacher test_vit classifies from a class token"):
        TokenMix(teacher="test_vit", weights=teacher_file(tmp_path, token), size=160)
    assert not mixer.state_dict() and not [*mixer.parameters()]


@pytest.mark.parametrize("options, words", [({"alpha": 0}, "alpha is 0"), ({"patch": 0}, "patch is 0")])
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=f"^TokenMixAttention: {words}"):
        TokenMixAttention(**options)
