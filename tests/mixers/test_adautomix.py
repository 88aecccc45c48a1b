"""AdAutoMix: a step by hand for two and three images, its masks, the sign of the block's gradient."""

import copy

import pytest
import torch
import torch.nn.functional as F

from fastmix import MIXERS
from fastmix.mixers.adautomix import AdAutoMix, likeness
from fastmix.mixers.mixblock import AdAutoMixBlock
from fastmix.targets import CrossEntropy
from helpers.automixing import (
    Recorder,
    batch_of,
    close,
    conv,
    feature,
    gradients,
    inputs,
    network,
    normalised,
    numbers,
    planes,
    pre_logits,
    prepared,
    soft,
    take_step,
)
from helpers.mixing import FixedLam

pytestmark = pytest.mark.gradient


def shares(block, z, partners, lam, size) -> torch.Tensor:
    """The masks [B,K,H,W], with convolutions, by loops over the images."""
    maps = [z[p] for p in partners]
    if block.lam_concat:
        maps = [planes(m, w) for m, w in zip(maps, lam, strict=True)]
    q, k, v = ([conv(layer, m).flatten(2) for m in maps] for layer in (block.query, block.key, block.value))
    out = []
    for n in range(len(maps)):
        score = 0
        for m in range(len(maps)):
            if m != n:
                score = score + q[n].relu().mT @ k[m].relu()
        out.append((score / q[n].shape[1] ** 0.5).softmax(2) @ v[n].mT)
    grid = torch.stack([m.view(len(z), *z.shape[2:]) for m in out], 1)
    return F.interpolate(grid, size, mode="bilinear", align_corners=False).softmax(1)


def by_hand(model, mixer, batch) -> torch.Tensor:
    """The loss of a step: dense masks, gathers, a pass of the teacher for each image of a mixture, one-hot targets."""
    rng, n, x, labels = batch.rng, len(batch), normalised(batch), batch.labels
    lam = rng.beta(mixer.alpha, mixer.alpha, mixer.samples)
    if mixer.samples == 2:
        draws = [([torch.arange(n), torch.from_numpy(rng.permutation(n))], [v, 1 - v]) for v in lam.tolist()]
    else:
        draws = [([torch.from_numpy(rng.permutation(n)) for _ in lam], (lam / lam.sum()).tolist()) for _ in "kq"]
    teacher = mixer.teacher
    with torch.no_grad():
        z = feature(teacher, x, mixer.site)

    def mixed(images, lam):
        s = shares(mixer.block, z, images, lam, batch.size)
        return sum(s[:, k : k + 1] * x[p] for k, p in enumerate(images))

    (images, lam), (images_q, lam_q) = draws
    logits = teacher(mixed(images, lam))
    loss = F.cross_entropy(logits, soft(labels, images, lam))
    if mixer.steps % 2 == 0:
        cos = 0
        for p, w in zip(images, lam, strict=True):
            with torch.no_grad():
                known = teacher(x[p])
            cos = cos + w * F.cosine_similarity(logits, known, -1)
        loss = -mixer.beta * loss + (1 - mixer.beta) * cos.mean()
    with torch.no_grad():
        seen = mixed(images_q, lam_q)
    loss = loss + F.cross_entropy(model(seen), soft(labels, images_q, lam_q))
    rest = F.cross_entropy(mixer.head(pre_logits(model, x)), labels)
    if mixer.samples == 3:
        plain = sum(w * x[p] for p, w in zip(images_q, lam_q, strict=True))
        rest = 0.5 * rest + 0.5 * F.cross_entropy(model(plain), soft(labels, images_q, lam_q))
    return loss + rest


def off_the_kink(block) -> None:
    """Half of the channels above zero and half below, wherever it is: no ReLU at which rounding decides."""
    for layer in (block.query, block.key):
        layer.weight.data.mul_(0.05)
        layer.bias.data[:] = 2
        layer.bias.data[::2] = -2


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("samples", [2, 3])
@pytest.mark.parametrize("net", ["test_resnet", "deit_tiny_patch16_224"])
def test_a_step_is_that_by_hand(net, samples, steps):
    found = []
    for hand in (False, True):
        model = network(net)
        mixer = prepared("adautomix", model, samples=samples, beta=0.3, lam_concat=steps < 2)
        mixer.steps = steps
        off_the_kink(mixer.block)
        batch = batch_of(seed=4)
        loss = by_hand(model, mixer, batch) if hand else mixer(model, batch, CrossEntropy())
        loss.backward()
        found.append((loss.detach(), gradients(model, mixer.head, mixer.block)))
    assert abs(found[0][0] - found[1][0]) < 1e-4 * abs(found[1][0])
    assert close(found[0][1], found[1][1])


@pytest.mark.parametrize("samples", [2, 3])
def test_masks_sum_to_one(samples):
    """Of images that are all one, whatever is mixed is one."""
    mixer = AdAutoMix(samples=samples)
    batch = batch_of(4, (20, 12))
    batch.images.fill_(255)
    batch.mean, batch.std = (0.0,) * 3, (1.0,) * 3
    images = [torch.arange(4).roll(k).int() for k in range(samples)]
    mixed = mixer.mixed(batch, batch.mix(), images, 3 * numbers(4, samples, 5, 3))
    assert (mixed - 1).abs().max() < 1e-6


def test_two_images_of_the_fused_pass_are_a_softmax_of_two():
    mixer, batch, values = AdAutoMix(), batch_of(4, (20, 12)), 3 * numbers(4, 2, 5, 3)
    own, other = torch.arange(4).int(), torch.tensor([2, 3, 1, 0]).int()
    mixed = mixer.mixed(batch, batch.mix(), [own, other], values)
    s = F.interpolate(values, batch.size, mode="bilinear", align_corners=False).softmax(1)
    x = normalised(batch)
    assert (mixed - (s[:, :1] * x + s[:, 1:] * x[other.long()])).abs().max() < 1e-4


def test_the_block_works_against_the_teacher_on_every_other_step():
    """With beta 1 the adversarial gradient is the ordinary one, turned around."""
    model = network()
    mixer, signs = prepared("adautomix", model, beta=1.0, momentum=(1.0, 1.0)), []
    for _ in range(4):
        twin = copy.deepcopy(model)
        twin_mixer = copy.deepcopy(mixer)
        twin_mixer(twin, batch_of(), CrossEntropy()).backward()
        signs.append([p.grad for p in twin_mixer.block.parameters()])
        mixer.after_step(model)
    assert max(g.abs().max() for g in signs[0]) > 1e-6
    for k in range(3):
        assert all(torch.allclose(a, -b, rtol=1e-4, atol=1e-8) for a, b in zip(signs[k], signs[k + 1], strict=True))


def test_likeness_is_a_mean_of_cosines_and_reaches_the_mixture_alone():
    logits, known = numbers(4, 5).requires_grad_(), numbers(4, 5, seed=1)
    images, lam = [torch.arange(4).roll(1).int(), torch.arange(4).roll(2).int()], [0.3, 0.7]
    expected = 0.0
    for i in range(4):
        for p, w in zip(images, lam, strict=True):
            a, b = logits[i].detach().double(), known[p[i]].double()
            expected += w * (a @ b / a.norm() / b.norm()).item() / 4
    found = likeness(logits, known, images, lam)
    assert found.item() == pytest.approx(expected, abs=1e-6)
    model = network()
    mixer = prepared("adautomix", model, beta=0.0)
    mixer(model, batch_of(), Recorder(-1)).backward()
    assert any(p.grad.abs().max() > 0 for p in mixer.block.parameters())
    assert all(p.grad is None for p in mixer.teacher.parameters())
    assert all(p.grad.abs().max() == 0 for p in [*model.parameters(), *mixer.head.parameters()])


class Draws(FixedLam):
    """A generator whose three Beta draws are given."""

    def beta(self, a, b, size):
        return torch.tensor(self.lam).numpy()


@pytest.mark.parametrize(
    "draws, plain", [((0.5, 0.3, 0.2), False), ((0.02, 0.5, 0.48), True), ((0.98, 0.01, 0.01), True)]
)
def test_three_images_are_mixed_by_the_mask_unless_the_first_is_at_an_end(draws, plain):
    model = network()
    mixer, batch = prepared("adautomix", model, samples=3), batch_of()
    batch.rng = Draws(draws)
    seen = inputs(model)
    mixer(model, batch, CrossEntropy())
    assert torch.equal(seen[0], batch.mix()) and torch.equal(seen[1], seen[2]) == plain, "clean, plain, then masked"
    rng = Draws(draws)
    partners = [torch.from_numpy(rng.permutation(6)) for _ in range(6)][3:]
    x = normalised(batch)
    expected = sum(w / sum(draws) * x[p] for p, w in zip(partners, draws, strict=True))
    assert (seen[1] - expected).abs().max() < 1e-4


@pytest.mark.parametrize("lam, plain", [(0.03, True), (0.97, True), (0.04, False)])
def test_two_images_near_the_ends_are_ordinary_mixup(lam, plain):
    model = network()
    mixer, batch = prepared("adautomix", model, lam_margin=0.0301), batch_of(lam=lam)
    seen = inputs(model)
    mixer(model, batch, CrossEntropy())
    rng = FixedLam(lam)
    partner = [torch.from_numpy(rng.permutation(6)) for _ in range(2)][1]
    x = normalised(batch)
    assert ((seen[1] - (lam * x + (1 - lam) * x[partner])).abs().max() < 1e-4) == plain


def test_the_step_count_is_part_of_the_state():
    model = network()
    mixer = prepared("adautomix", model)
    for _ in range(3):
        take_step(model, mixer, batch_of())
    again = prepared("adautomix", network())
    again.load_state_dict(mixer.state_dict())
    assert again.steps == mixer.steps == 3


def test_the_block_of_three_gives_each_image_its_lambda():
    """The same image three times with the same weight: three equal masks; another weight: another mask."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = AdAutoMixBlock(16)
    for p in block.parameters():
        p.data.mul_(20)
    z, own = numbers(3, 16, 4, 4).relu(), torch.arange(3)
    found = block(block.project(z), [own] * 3, [1 / 3] * 3).softmax(1)
    assert torch.allclose(found, torch.tensor(1 / 3), atol=1e-6)
    found = block(block.project(z), [own] * 3, [0.5, 0.25, 0.25])
    assert torch.allclose(found[:, 1], found[:, 2]) and not torch.allclose(found[:, 0], found[:, 1])


def test_options_are_checked():
    with pytest.raises(ValueError, match="^AdAutoMix: samples is 4; choose one of 2, 3$"):
        MIXERS["adautomix"](samples=4)
    with pytest.raises(ValueError, match="^AdAutoMix: beta is -1; it must be a number from 0 to 1$"):
        MIXERS["adautomix"](beta=-1)
