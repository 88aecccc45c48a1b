"""SMMix against brute force over all squares and its loss, written out in plain torch."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from fastmix import MIXERS, config
from fastmix.engine import optim
from fastmix.kernels.plan_rows.reference import outside
from fastmix.targets import BinaryCrossEntropy, CrossEntropy
from helpers.attending import CLASSES, batch_of, explicit_attention, network
from helpers.mixing import constants, masks, noise, shapes

SMMix = MIXERS["smmix"]
GRIDS = [((224, 224), (14, 14)), ((64, 96), (4, 6)), ((16, 16), (2, 2))]


def ready(model):
    mixer = SMMix()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mixer.prepare(model)
    return mixer


def attention_of(n: int, grid: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *grid, generator=torch.Generator().manual_seed(seed))


def best(attention: np.ndarray, side: int, sign: int) -> tuple[int, int]:
    """The first row and column of the square of the largest (sign 1) or least (-1) sum, by trying all."""
    h, w = attention.shape
    corners = [(y, x) for y in range(h - side + 1) for x in range(w - side + 1)]
    return max(corners, key=lambda c: sign * attention[c[0] : c[0] + side, c[1] : c[1] + side].sum(dtype=np.float64))


@pytest.mark.parametrize("size, grid", GRIDS, ids=str)
def test_the_best_square_covers_the_worst(size, grid):
    for seed in range(4):
        batch, attention = noise(5, size, seed), attention_of(5, grid, seed)
        plan = SMMix().plan(batch, attention)
        (y0, y1), patch = plan.table[0, 4:6].tolist(), size[0] // grid[0]
        side = (y1 - y0) // patch
        pixels = side * patch
        expected = batch.images.clone()
        for i, j in enumerate(plan.partner.tolist()):
            y, x = (patch * v for v in best(attention[i].numpy(), side, -1))
            v, u = (patch * v for v in best(attention[j].numpy(), side, 1))
            expected[i, y : y + pixels, x : x + pixels] = batch.images[j, v : v + pixels, u : u + pixels]
        batch.mean, batch.std = (0.0,) * 3, (1 / 255,) * 3
        mixed = batch.mix(plan).permute(0, 2, 3, 1).round().byte()
        assert torch.equal(mixed, expected)
        share = side**2 / (grid[0] * grid[1])
        assert (plan.own == np.float32(1 - share)).all() and (plan.other == np.float32(share)).all()


@pytest.mark.parametrize("size, grid", GRIDS, ids=str)
def test_kept_and_pasted_patches_are_those_of_the_pixels(size, grid):
    batch = constants(4, size)
    plan = SMMix().plan(batch, attention_of(4, grid))
    kept, patch = outside(plan, grid, size).view(4, *grid), size[0] // grid[0]
    shown = kept.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    assert torch.equal(masks(plan, batch).round(decimals=3), shown.double())
    assert torch.equal(kept.double().mean((1, 2)).float(), plan.own)


@pytest.mark.parametrize(
    "scope, grid, sides", [((0.25, 0.75), 14, (3, 10)), ((0.1, 1), 7, (1, 6)), ((0.5, 0.5), 4, (2, 2))]
)
def test_sides_are_uniform(scope, grid, sides):
    attention, found = attention_of(2, (grid, grid)), []
    for seed in range(400):
        table = SMMix(scope).plan(shapes(2, (grid * 16, grid * 16), seed), attention).table
        found.append((table[:, 5] - table[:, 4]).div(16).tolist())
    found = np.array(found)
    assert (found[:, 0] == found[:, 1]).all(), "one a batch"
    low, high = sides
    counts = np.bincount(found[:, 0].astype(int), minlength=high + 1)
    assert counts.sum() == counts[low:].sum() == 400 and len(counts) == high + 1
    assert low == high or stats.chisquare(counts[low:]).pvalue > 1e-3


def test_the_guide_is_what_the_patches_receive():
    model, batch = network((24, 48)), batch_of(4, (24, 48))
    expected = explicit_attention(model, batch.mix())[:, :, 1:, 1:].mean((1, 2))
    logits = copy.deepcopy(model).eval()(batch.mix())
    received, found = ready(model).ask(model, batch)
    assert received.shape == (4, 3, 6) and (received.flatten(1) - expected).abs().max() < 1e-6
    assert (found - logits).abs().max() < 1e-5 and not found.requires_grad


@pytest.mark.parametrize("criterion", [CrossEntropy(0.1), BinaryCrossEntropy(0.1)], ids=["ce", "bce"])
def test_the_loss_and_its_gradients_are_those_of_the_equation(criterion):
    model = network()
    mixer, s = ready(model), 0.1
    other, head = copy.deepcopy(model), copy.deepcopy(mixer.token_head)
    given, again = batch_of(6), batch_of(6)
    plan = mixer.decide(model, again, criterion)
    loss = mixer(model, given, criterion)
    loss.backward()

    def smoothed(labels):
        return (1 - s) * F.one_hot(labels, CLASSES).float() + s / CLASSES

    def classified(logits, target):
        if isinstance(criterion, BinaryCrossEntropy):
            return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(logits)
        return F.cross_entropy(logits, target)

    with torch.no_grad():
        clean = other.eval()(given.mix())
    other.train()
    j, own = plan.partner.long(), plan.own[:, None]
    y, v = smoothed(given.labels), smoothed(given.labels[j])
    kept = masks(plan, constants(6, given.size)).round().bool()[:, ::8, ::8].flatten(1)
    features = other.forward_features(given.mix(plan))
    logits, tokens = other.forward_head(features), features[:, 1:]
    a = torch.stack([tokens[i][kept[i]].mean(0) for i in range(6)])
    b = torch.stack([tokens[i][~kept[i]].mean(0) for i in range(6)])
    p, q = (own * clean + (1 - own) * clean[j]).softmax(1), logits.softmax(1)
    expected = classified(logits, own * y + (1 - own) * v) + (classified(head(a), y) + classified(head(b), v)) / 2
    expected = expected + (p * (p / q).log()).sum(1).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    pairs = zip((*model.parameters(), *mixer.parameters()), (*other.parameters(), *head.parameters()), strict=True)
    assert all(torch.allclose(g.grad, e.grad, rtol=1e-3, atol=1e-5 * e.grad.abs().max().item()) for g, e in pairs)


def test_the_token_head_is_trained_like_the_model():
    model = network()
    mixer, cfg = ready(model), config.Optim(name="adamw", weight_decay=0.05, no_decay=["bias"])
    opt = optim.build(cfg, model, mixer.param_groups())
    decays = {p: group["weight_decay"] for group in opt.param_groups for p in group["params"]}
    assert (decays[mixer.token_head.weight], decays[mixer.token_head.bias]) == (0.05, 0)
    assert {*mixer.parameters()} < {*decays}
    before = mixer.token_head.weight.clone()
    mixer(model, batch_of(4), CrossEntropy()).backward()
    opt.step()
    assert not torch.equal(mixer.token_head.weight, before)


def test_a_saved_state_gives_the_next_loss_again():
    model = network()
    one, two = ready(model), SMMix()
    with torch.no_grad():
        one.token_head.bias += torch.arange(CLASSES)
    two.prepare(model)
    two.load_state_dict(one.state_dict())
    losses = [mixer(model, batch_of(4), CrossEntropy()).item() for mixer in (one, two)]
    assert losses[0] == losses[1] and not any("token_head" in name for name in model.state_dict())


def test_images_of_one_patch_are_refused():
    model = network((32, 32), "pvt_tiny")
    with pytest.raises(ValueError, match="^SMMix: images of 1 x 1 patches have no square"):
        ready(model).decide(model, batch_of(2), CrossEntropy())


@pytest.mark.parametrize("scope", [(0, 0.5), (0.5, 1.5), (0.7, 0.3), 0.5])
def test_options_are_checked(scope):
    with pytest.raises(ValueError, match="^SMMix: scope is"):
        SMMix(scope)
