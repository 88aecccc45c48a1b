"""TL-Align's one number a token against dense labels, and its box against CutMix's on the grid of patches."""

import copy

import pytest
import torch

from fastmix import MIXERS
from fastmix.mixers.tlalign import aligned
from fastmix.models.sites import ALIGNED, Attention
from fastmix.targets import CrossEntropy
from helpers.backbones import make
from helpers.graphs import Counted
from helpers.mixing import constants, masks
from helpers.transformers import (
    CLASSES,
    DIMS,
    PATCH,
    against,
    batch_of,
    constant_weights,
    heard,
    indifferent,
    matrices,
    multiplications,
    vit,
)

TLAlign, CutMix = MIXERS["tlalign"], MIXERS["cutmix"]


def one_hot(label: int, smoothing: float) -> torch.Tensor:
    y = torch.full((CLASSES,), smoothing / CLASSES, dtype=torch.float64)
    y[label] += 1 - smoothing
    return y


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("granularity", ["batch", "sample"])
@pytest.mark.parametrize("name, prefix", [("vit_tiny_patch16_224", 1), ("deit_tiny_distilled_patch16_224", 2)])
def test_one_number_a_token_equals_dense_labels(smoothing, granularity, name, prefix):
    size = (32, 48)
    model, mixer, moved = vit(name, img_size=size), TLAlign(patch=PATCH, granularity=granularity), []
    for seed in range(3):
        plan, batch = mixer.plan(batch_of(6, size, seed)), batch_of(6, size, seed)
        blocks = matrices(model, batch.mix(plan))
        criterion = heard(mixer, model, batch, smoothing)
        found = criterion.targets.dense(CLASSES, smoothing).double()
        shown = masks(plan, constants(6, size))[:, ::PATCH, ::PATCH].flatten(1)
        for i in range(6):
            pair = [one_hot(batch.labels[k].item(), smoothing) for k in (i, plan.partner[i].item())]
            lam = plan.own[i].double()
            tokens = [lam * pair[0] + (1 - lam) * pair[1]] * prefix
            tokens = torch.stack(tokens + [pair[0] if m > 0.5 else pair[1] for m in shown[i]])
            for a in blocks:
                tokens = (tokens + a[i] @ tokens) / 2
            assert (found[i] - tokens[0]).abs().max() < 1e-6
            moved.append(abs(criterion.targets.weights[i, 0].item() - lam))
        logp = criterion.logits.detach().double().log_softmax(1)
        assert criterion.loss.item() == pytest.approx(-(found * logp).sum(1).mean().item(), rel=1e-5)
    assert max(moved) > 0.01


def test_attention_that_is_everywhere_the_same_has_a_closed_form():
    mixer = TLAlign(patch=PATCH, granularity="sample")
    plan = mixer.plan(batch_of(12))
    share = heard(mixer, indifferent(vit()), batch_of(12)).targets.weights[:, 1].double()
    area = plan.other.double()
    mean = (area + 16 * area) / 17  # over the class token and the patches, which the box covers whole
    assert (share - (mean + (area - mean) / 2 ** DIMS["depth"])).abs().max() < 1e-6


def fixed(matrix: torch.Tensor) -> Attention:
    """Attention that is nearly this permutation, in two heads."""
    n = len(matrix)
    q = (100 * matrix).expand(3, 2, n, n).contiguous()
    return Attention(1.0, 1, q, torch.eye(n).expand(3, 2, n, n).contiguous())


def test_tokens_that_attend_to_themselves_keep_their_labels():
    pasted, area = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)) > 0.5, torch.tensor([0.0, 0.3, 1.0])
    assert (aligned(area, pasted, [fixed(torch.eye(7))] * 4) - area).abs().max() < 1e-6
    turned = aligned(area, pasted, [fixed(torch.eye(7).roll(1, 1))])
    assert (turned - (area + pasted[:, 0].float()) / 2).abs().max() < 1e-6, "the class token looks at the first patch"


def test_shares_stay_between_none_and_all():
    weights = [heard(TLAlign(patch=PATCH), vit(), batch_of(6, seed=s)).targets.weights for s in range(20)]
    weights = torch.cat(weights)
    assert (weights >= -1e-6).all() and (weights <= 1 + 1e-6).all() and (weights.sum(1) - 1).abs().max() < 1e-6
    zeros, ones = torch.zeros(3), torch.ones(3)
    blocks = [fixed(torch.randn(7, 7, generator=torch.Generator().manual_seed(1)) / 50)] * 3
    assert (aligned(zeros, torch.zeros(3, 6), blocks)).abs().max() == 0
    assert (aligned(ones, torch.ones(3, 6), blocks) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("granularity", ["batch", "sample"])
@pytest.mark.parametrize("size", [(32, 32), (48, 80)])
def test_the_box_is_cutmixs_on_the_grid_of_patches(granularity, size):
    grid = tuple(length // PATCH for length in size)
    for seed in range(10):
        plan = TLAlign(patch=PATCH, granularity=granularity).plan(batch_of(5, size, seed))
        small = CutMix(granularity=granularity).plan(batch_of(5, grid, seed))
        assert torch.equal(plan.table[:, 4:8], PATCH * small.table[:, 4:8])
        assert torch.equal(plan.table[:, :4], small.table[:, :4]), "partners and areas"


def test_half_precision_rounds_the_shares_as_the_tokens():
    model, mixer = vit(), TLAlign(patch=PATCH)
    exact = heard(mixer, model, batch_of(6)).targets.weights
    for dtype in (torch.bfloat16, torch.float16):
        x = batch_of(6)
        with torch.autocast("cpu", dtype):
            half = heard(mixer, model, x).targets.weights
        assert half.dtype == torch.float32 and (half - exact).abs().max() < 0.02


def test_no_gradient_flows_through_the_labels():
    constant_weights(TLAlign(patch=PATCH, granularity="sample"), vit(), 6, smoothing=0.1)


def test_it_costs_a_fused_attention_on_few_columns_in_each_block():
    model, n = vit(), 4
    products = 2 * 17**2 * (DIMS["embed_dim"] + DIMS["num_heads"] * ALIGNED)
    more = multiplications(TLAlign(patch=PATCH), model, n) - multiplications(CutMix(), model, n)
    assert more == n * DIMS["depth"] * products


def test_weights_belong_to_samples():
    assert against(heard(TLAlign(patch=PATCH, granularity="sample"), vit(), batch_of(8))) > 0.1


def test_a_compiled_model_has_one_graph():
    model, mixer, losses = vit(), TLAlign(patch=PATCH), []
    mixer.prepare(model)
    eager, backend = copy.deepcopy(model), Counted()
    model.compile(backend=backend, fullgraph=True)
    for seed in range(3):
        for network in (model, eager):
            losses.append(mixer(network, batch_of(4, seed=seed), CrossEntropy(0.1)))
        assert torch.equal(*losses[-2:]) and backend.graphs == 1
    torch._dynamo.reset()


REFUSED = {
    "resnet18": "resnet18 has no class token whose attention can be read; .*PVT-T have one",
    "swin_tiny_patch4_window7_224": "swin_.* has no class token whose attention can be read; .*PVT-T have one",
    "pvt_tiny": "pvt_tiny merges patches between its stages, .*; of the benchmark's .*DeiT-B keep them",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_whose_tokens_labels_cannot_follow_is_refused(name):
    with torch.device("meta"):
        model = make(name)
    with pytest.raises(ValueError, match=f"^TLAlign: {REFUSED[name]}$"):
        TLAlign().prepare(model)


def test_the_patch_is_the_models():
    TLAlign(patch=PATCH).prepare(vit())
    with pytest.raises(ValueError, match="^TLAlign: patch is 16; those of vit_tiny_patch16_224 are of 8 pixels$"):
        TLAlign().prepare(vit())
