"""SAMix: a step by hand, its block and its lambda, the variance of its mask."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastmix import MIXERS
from fastmix.kernels.mix_logits import mix_logits
from fastmix.mixers.mixblock import SAMixBlock, rescaled
from fastmix.targets import CrossEntropy
from helpers.automixing import attention, batch_of, conv, network, numbers, prepared, same_as_by_hand

pytestmark = pytest.mark.gradient


def logits_of(block, z, partner, lam):
    """The block on the concatenation of both images, with convolutions."""
    scale = rescaled(lam, block.k)
    a, b = z * (1 + scale), z[partner] * (1 + (1 - scale))
    both = torch.cat([a, b], 1)
    hidden = F.conv2d(b, block.hidden.weight[:, :, None, None])
    norm = block.norm
    if norm.training:
        hidden = F.batch_norm(hidden, None, None, norm.weight, norm.bias, True)
    else:
        hidden = F.batch_norm(hidden, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    elu, last, _ = block.value
    return attention(conv(block.query, both), conv(block.key, both), conv(last, elu(hidden)))


def masks(block, z, partner, lam, size=(64, 64)):
    return F.interpolate(logits_of(block, z, partner, lam), size, mode="bilinear", align_corners=False).sigmoid()


def mask_term(s, lam):
    outside = max(((1 - s).mean() - lam).abs() - 0.1, torch.zeros(()))
    return 0.1 * (outside - 2 * s.var(correction=0))


@pytest.mark.parametrize("k", [-1.0, 0.25])
@pytest.mark.parametrize("net", ["test_resnet", "deit_tiny_patch16_224"])
def test_a_step_is_that_by_hand(net, k):
    same_as_by_hand("samix", net, masks, mask_term, dropout=0.0, k=k)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("training", [True, False])
def test_shared_projections_are_those_of_the_concatenation(lam, training):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = SAMixBlock(32, k=0.25, dropout=0.0)
    block.norm.running_mean.normal_(generator=torch.Generator().manual_seed(1))
    block.train(training)
    for p in block.parameters():
        p.data.mul_(20 if p.ndim == 2 else 1)
    z, partner = numbers(5, 32, 7, 4).relu(), torch.tensor([3, 0, 4, 1, 2])
    expected = logits_of(block, z, partner, lam)[:, 0]
    found = block(block.project(z), partner.int(), lam)
    assert found.std() > 0.1 and (found - expected).abs().max() < 1e-5 * expected.abs().max() + 1e-5


@pytest.mark.parametrize("channels, count", [(256, 164), (384, 370), (1024, 2624)])
def test_the_block_has_the_published_size(channels, count):
    found = sum(p.numel() for p in SAMixBlock(channels).parameters())
    d = channels // 2
    assert found == 2 * (2 * channels * d + d) + channels * d + 2 * d + d and round(found / 1000) == count


@pytest.mark.parametrize("k", [0.0, 0.25, 1.0, 10.0])
def test_lambda_is_rescaled_by_an_odd_monotone_cubic(k):
    lam = np.linspace(0, 1, 101)
    values = np.array([rescaled(v, k) for v in lam])
    assert np.abs(values + values[::-1] - 1).max() < 1e-12
    assert values[0] == 0 and values[-1] == pytest.approx(1) and (np.diff(values) >= 0).all()
    if k == 0.25:
        assert values[[10, 25]] == pytest.approx([0.182, 0.357], abs=5e-4)
    assert rescaled(0.3, -1.0) == 0.3


def test_the_masks_variance_is_rewarded():
    mixer, weight = MIXERS["samix"](mask_weight=0.4), 0.4
    batch = batch_of(4, (8, 8))
    partner = torch.tensor([1, 2, 3, 0], dtype=torch.int32)

    def loss(logits: torch.Tensor) -> float:
        _, area, square = mix_logits(batch.images, partner, logits, batch.mean, batch.std, mode="nearest")
        return mixer.mask_loss(area, square, batch, 0.5, mixer.weight()).item()

    half = torch.full((4, 2, 2), 100.0)
    half[:2] = -100.0
    assert loss(half) == pytest.approx(-0.5 * weight, abs=1e-6)
    assert loss(torch.zeros(4, 2, 2)) == pytest.approx(0, abs=1e-7)
    mixed = numbers(4, 2, 2)
    assert loss(mixed) == pytest.approx(-2 * weight * mixed.sigmoid().var(correction=0).item(), abs=1e-6)


def test_dropout_falls_on_the_values_in_training_alone():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = SAMixBlock(16, dropout=0.5)
        z, partner = numbers(4, 16, 3, 3), torch.arange(4).roll(1)
        one, two = (block(block.project(z), partner, 0.4) for _ in range(2))
        assert not torch.equal(one, two)
        block.eval()
        one, two = (block(block.project(z), partner, 0.4) for _ in range(2))
        assert torch.equal(one, two)
    assert isinstance(MIXERS["samix"]().mix_block(16).value[-1], nn.Dropout)


def test_both_mixtures_go_through_the_blocks_statistics():
    model = network()
    mixer = prepared("samix", model)
    mixer(model, batch_of(lam=0.5), CrossEntropy())
    assert int(mixer.block.norm.num_batches_tracked) == 2


def test_options_are_checked():
    with pytest.raises(ValueError, match="^SAMix: k is None; it must be a number .*$"):
        MIXERS["samix"](k=None)
    with pytest.raises(ValueError, match="^SAMix: dropout is 1.5; it must be a number from 0 to below 1$"):
        MIXERS["samix"](dropout=1.5)
