"""ManifoldMix: its ends on every backbone, its formula and gradient on a network that can be computed by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from fastmix import MIXERS, Batch, Targets, config
from fastmix.mixers import manifoldmix
from fastmix.mixers.manifoldmix import ManifoldMix, blend
from fastmix.mixers.mixup import MixUp
from fastmix.models.sites import sites
from fastmix.targets import CrossEntropy
from helpers import ROOT
from helpers.backbones import ROWS, SMOOTH, make
from helpers.losses import run
from helpers.mixing import FixedLam, noise

pytestmark = pytest.mark.gradient

SIZE = (32, 32)
CONFIGS = ROOT / "configs"


class Stub(nn.Module):
    """Two stages of stride 4 and 8; what follows the first is linear."""

    feature_info = [{"module": "first", "reduction": 4}, {"module": "second", "reduction": 8}]

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.GELU())
        self.second = nn.Conv2d(6, 8, 2, 2, bias=False)
        self.head = nn.Linear(8, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3)))


@pytest.fixture
def stub() -> Stub:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Stub()


def with_lam(lam: float, n: int = 3, size: tuple[int, int] = SIZE, seed: int = 0) -> Batch:
    batch = noise(n, size, seed)
    batch.rng = FixedLam(lam, seed)
    return batch


def partners(batch: Batch, lam: float, seed: int = 0) -> torch.Tensor:
    """Those that a generator with this seed pairs first."""
    return MixUp().plan(with_lam(lam, len(batch), seed=seed)).partner.long()


def test_every_backbone_of_the_configs_is_tried():
    configs = map(config.load, CONFIGS.glob("*.yaml"))
    used = {cfg.model.name.split(".")[0] for cfg in configs if "manifoldmix" in cfg.mixers}
    assert used <= set(ROWS)


QUICK = ("resnet18_cifar", "mobilenetv2_100", "deit_tiny_patch16_224", "pvt_tiny")


def exchanged(model: nn.Module, site: str, x: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
    """Logits where the features of every image are its partner's: last bits depend on places in the batch."""
    if site == "input":
        return model(x[partner])
    module = model.get_submodule(sites(model)[site])
    with module.register_forward_hook(lambda module, given, output: output[partner]):
        return model(x)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name not in QUICK)) for name in ROWS])
@torch.no_grad()
def test_at_the_ends_of_lam_a_step_is_a_plain_one_of_either_image(name):
    size = (16, 16) if name.endswith("_cifar") else SIZE
    model, batch = make(name, size), with_lam(1.0, size=size)
    places = ManifoldMix().places(model)
    assert len(places) == 3 and places[0] == "input"
    clean = model(batch.mix())
    ManifoldMix().prepare(model)
    assert torch.equal(model(batch.mix()), clean), "hooks are there"
    for site in places:
        for lam in (1.0, 0.0):
            found = run(ManifoldMix(sites=[site]), model, with_lam(lam, size=size))
            expected = clean if lam else exchanged(model, site, batch.mix(), partners(batch, lam))
            assert not torch.equal(clean, clean[partners(batch, lam)])
            assert (expected - (clean if lam else clean[partners(batch, lam)])).abs().max() < 1e-5 * clean.abs().max()
            assert torch.equal(found.logits, expected), (site, lam)
        between = run(ManifoldMix(sites=[site]), model, with_lam(0.5, size=size)).logits
        assert (between - clean).abs().amax(1).min() > 0, "every image is mixed"
    assert torch.equal(model(batch.mix()), clean)


@pytest.mark.parametrize("variant", ["paper", "openmixup"])
@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_at_the_input_it_is_mixup(granularity, variant):
    model, options = make("test_resnet"), {"granularity": granularity, "variant": variant}
    for seed in range(3):
        one = run(ManifoldMix(0.7, ["input"], **options), model, noise(5, (32, 32), seed))
        two = run(MixUp(0.7, **options), model, noise(5, (32, 32), seed))
        assert torch.equal(one.logits, two.logits) and torch.equal(one.loss, two.loss)
        assert torch.equal(one.targets.labels, two.targets.labels)
        assert torch.equal(one.targets.weights, two.targets.weights)


@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_behind_a_linear_rest_logits_mix_as_features_do(stub, granularity):
    for seed in range(3):
        batch = noise(6, (16, 24), seed)
        plain = stub(batch.mix()).double()
        plan = MixUp(0.8, granularity).plan(noise(6, (16, 24), seed))
        own, partner = plan.own.double()[:, None], plan.partner.long()
        assert (plan.own.unique().numel() == 1) == (granularity == "batch")
        for site in ("stage1", "stage2"):
            found = run(ManifoldMix(0.8, [site], granularity), stub, noise(6, (16, 24), seed))
            assert (found.logits - (own * plain + (1 - own) * plain[partner])).abs().max() < 1e-6
            logp = found.logits.log_softmax(1)
            ce = [F.nll_loss(logp, labels, reduction="none") for labels in (batch.labels, batch.labels[partner])]
            assert (found.loss - (own[:, 0] * ce[0] + (1 - own[:, 0]) * ce[1]).mean()).abs() < 1e-6


def test_the_gradient_reaches_both_images(stub):
    batch, features, mixed = with_lam(0.25, 5, (16, 16)), [], []

    def keep(into):
        return lambda module, given, out: out.retain_grad() or into.append(out)

    stub.first[1].register_forward_hook(keep(features))
    stub.second.register_forward_pre_hook(lambda module, given: given[0].retain_grad() or mixed.append(given[0]))
    run(ManifoldMix(sites=["stage1"]), stub, batch).loss.backward()
    partner, slope = partners(batch, 0.25), mixed[0].grad
    assert len(features) == len(mixed) == 1, "one forward pass"
    expected = 0.25 * slope
    expected[partner] += 0.75 * slope
    assert (features[0].grad - expected).abs().max() < 1e-7 < slope.abs().max()
    for i in range(5):  # what image i has of its own loss, and of the loss of the one that it is the partner of
        other = partner.tolist().index(i)
        assert other != i and (0.25 * slope[i]).abs().max() > 0 and (0.75 * slope[other]).abs().max() > 0


def test_one_site_a_step_each_as_often(stub, monkeypatch):
    armed, entered = [], manifoldmix.rewrite
    monkeypatch.setattr(manifoldmix, "rewrite", lambda m, site, *more: armed.append(site) or entered(m, site, *more))
    mixer, rng, counts = ManifoldMix(), np.random.default_rng(0), {"input": 0, "stage1": 0, "stage2": 0}
    for _ in range(600):
        batch = noise(2, (8, 8))
        batch.rng = rng
        armed.clear()
        mixer(stub, batch, CrossEntropy())
        assert len(armed) <= 1
        counts[armed[0] if armed else "input"] += 1
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_blending_half_precision_rounds_once():
    made = torch.Generator().manual_seed(0)
    partner, own = torch.tensor([2, 0, 1]), torch.rand(3, generator=made)
    for shape in ((3, 8, 5, 4), (3, 7, 8)):
        x = torch.randn(shape, generator=made)
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            half = x.to(dtype)
            weight = own.double().view(-1, *[1] * (len(shape) - 1))
            exact = weight * half.double() + (1 - weight) * half[partner].double()
            found = blend(half, half, partner, own)
            assert found.dtype == dtype
            assert ((found - exact).abs() <= torch.finfo(dtype).eps / 2 * exact.abs() + 1e-6).all()
    maps = torch.randn(3, 8, 5, 4, generator=made).contiguous(memory_format=torch.channels_last)
    assert blend(maps, maps, partner, own).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.long
def test_training_compiled_equals_training_eagerly():
    import torch._dynamo

    torch._dynamo.reset()
    compiled = make("test_resnet", **SMOOTH).train()
    mixer = ManifoldMix(1.0)
    mixer.prepare(compiled)
    eager = copy.deepcopy(compiled)
    compiled.compile(backend="aot_eager", fullgraph=True)
    for seed in range(4):
        losses = [mixer(model, noise(4, (64, 64), seed), CrossEntropy()) for model in (compiled, eager)]
        assert (losses[0] - losses[1]).abs() < 1e-5
        for loss in losses:
            loss.backward()
    for (name, p), q in zip(compiled.named_parameters(), eager.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-5 * q.grad.abs().max().item()), name
    torch._dynamo.reset()


def test_it_runs_in_bfloat16_and_on_one_image():
    model = make("test_resnet").train()
    with torch.autocast("cpu", torch.bfloat16):
        for site in ("input", "stem", "stage4"):
            batch = noise(3, (33, 47))
            batch.dtype = torch.bfloat16
            loss = ManifoldMix(sites=[site])(model, batch, CrossEntropy())
            assert loss.isfinite() and loss.dtype == torch.float32
            loss.backward()
    one = noise(1, (32, 32))
    expected = CrossEntropy()(model.eval()(one.mix()), Targets.of(one.labels))
    assert torch.equal(ManifoldMix(sites=["stage1"])(model, one, CrossEntropy()), expected), "its own partner"


def test_sites_are_checked():
    for value in ("stage1", [], [1]):
        with pytest.raises(ValueError, match="^ManifoldMix: sites is .*; it must be a list of names such as"):
            ManifoldMix(sites=value)
    with pytest.raises(ValueError, match="^ManifoldMix: test_vit has no site 'stage1'; choose one of stem, block0, b"):
        ManifoldMix(sites=["input", "stage1"]).prepare(make("test_vit"))
    assert MIXERS["manifoldmix"]().places(make("deit_tiny_patch16_224", SIZE)) == ("input", "block2", "block5")
