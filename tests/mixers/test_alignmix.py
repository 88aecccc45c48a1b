"""AlignMix: whole steps against loops in float64 with a Sinkhorn of their own, and what alignment must leave alone."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

from fastmix import Batch, Targets
from fastmix.mixers import alignmix, build
from fastmix.mixers.alignmix import AlignMix, align, cost, plan_of
from fastmix.mixers.mixup import MixUp
from fastmix.targets import CrossEntropy
from helpers.backbones import NAMES, make, size_of
from helpers.losses import Recorded, run
from helpers.mixing import FixedLam, noise

pytestmark = pytest.mark.gradient

SIZE = (64, 96)
SIDES = (True, False)  # onto the image's own places, onto the partner's
LAYOUTS = {"NCHW": ("NCHW", 0), "NHWC": ("NHWC", 0), "tokens": ("NCHW", 2), "patches": ("NCHW", 0)}


class Drawn(FixedLam):
    """A generator whose Beta draws are `lam` and whose coin is `coin`."""

    def __init__(self, lam: float, coin: bool, seed: int = 0):
        super().__init__(lam, seed)
        self.coin = int(coin)

    def integers(self, low, high=None):
        return self.coin if (low, high) == (2, None) else super().integers(low, high)


def drawn(lam: float, coin: bool, n: int = 4, size: tuple[int, int] = SIZE) -> Batch:
    batch = noise(n, size)
    batch.rng = Drawn(lam, coin)
    return batch


def partners(n: int) -> torch.Tensor:
    return MixUp().plan(drawn(0.5, True, n)).partner.long()


def scaled(matrix: np.ndarray, eps: float, iterations: int, last: str) -> np.ndarray:
    """R by scaling rows and columns of the kernel in turn, the wanted ones last."""
    n, m = matrix.shape
    plan = np.exp(-(matrix - matrix.min()) / eps)
    for _ in range(iterations):
        for what in ("columns", "rows") if last == "rows" else ("rows", "columns"):
            axis = 1 if what == "rows" else 0
            plan *= (1 / n if axis else 1 / m) / plan.sum(axis, keepdims=True)
    return n * plan


def features(layout: str, n: int = 4, seed: int = 0, scale: float = 0.3) -> torch.Tensor:
    """Random ones of 2 x 3 places and 5 channels."""
    shape = {"NCHW": (n, 5, 2, 3), "NHWC": (n, 2, 3, 5), "tokens": (n, 2 + 6, 5), "patches": (n, 6, 5)}[layout]
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def places(x: torch.Tensor, layout: str) -> torch.Tensor:
    """[B,N,C] of features in any layout."""
    if layout == "NCHW":
        return torch.stack([x[:, :, k // 3, k % 3] for k in range(6)], 1)
    return x.reshape(len(x), -1, 5)


def slow(x: torch.Tensor, partner, own, onto_own: bool, solver, prefix: int) -> np.ndarray:
    """Mixed features [B,N,C], one place at a time."""
    x = x.double().numpy()
    out = np.zeros_like(x)
    for i, j in enumerate(partner.tolist()):
        a, b, lam = x[i, prefix:], x[j, prefix:], float(own[i])
        distances = np.array([[((p - q) ** 2).sum() for q in b] for p in a])
        plan = scaled(distances, *solver)
        for k in range(prefix):
            out[i, k] = lam * x[i, k] + (1 - lam) * x[j, k]
        for k in range(len(a)):
            if onto_own:
                own_part, other_part = a[k], sum(plan[k, m] * b[m] for m in range(len(b)))
            else:
                own_part, other_part = sum(plan[m, k] * a[m] for m in range(len(a))), b[k]
            out[i, prefix + k] = lam * own_part + (1 - lam) * other_part
    return out


def spread(x: torch.Tensor) -> float:
    """The mean squared distance between features [B,N,C]."""
    return 2 * x.flatten(0, 1).var(0).sum().item()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("onto_own", SIDES)
@pytest.mark.parametrize("last", ["rows", "columns"])
def test_features_mix_as_place_by_place(layout, onto_own, last):
    partner, own = torch.tensor([2, 0, 3, 1]), torch.tensor([0.1, 0.7, 0.5, 1.0])
    for seed, iterations in enumerate((1, 7, 60)):
        x, solver = features(layout, seed=seed), (0.2, iterations, last)
        for form in (x, x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x):
            found = align(form, form, partner, own, onto_own, solver, LAYOUTS[layout])
            assert found.shape == x.shape
            expected = slow(places(x, layout), partner, own, onto_own, solver, LAYOUTS[layout][1])
            assert np.abs(places(found, layout).double().numpy() - expected).max() < 1e-5


def test_the_cost_is_the_squared_distance_of_raw_features():
    x, y = (20 * torch.randn(3, 49, 512, generator=torch.Generator().manual_seed(k)).relu() for k in range(2))
    exact = torch.cdist(x.double(), y.double()).square()
    assert ((cost(x, y) - exact).abs() / exact).max() < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_step_is_the_head_of_aligned_features(name):
    model = make(name, size_of(name))
    own = torch.full((4,), round(0.3 * 2**16) / 2**16)
    layout = "NHWC" if name.startswith("swin") else "NCHW"
    for coin in SIDES:
        batch = drawn(0.3, coin, size=size_of(name))
        x, prefix = model.forward_features(batch.mix()), 1 if name.startswith(("deit", "pvt")) else 0
        flat = x if x.ndim == 3 else x.flatten(1, 2) if layout == "NHWC" else x.flatten(2).mT
        eps = spread(flat) / 10
        found = run(AlignMix(eps=eps, iterations=20), model, batch)
        solver = (eps, 20, "rows" if coin else "columns")
        mixed = torch.from_numpy(slow(flat, partners(4), own, coin, solver, prefix)).float()
        mixed = mixed.mT.reshape(x.shape) if x.ndim == 4 and layout == "NCHW" else mixed.reshape(x.shape)
        assert (found.logits - model.forward_head(mixed)).abs().max() < 1e-4 * found.logits.abs().max()
        expected = Targets.of(batch.labels, MixUp().plan(drawn(0.3, coin)))
        assert torch.equal(found.targets.labels, expected.labels)
        assert torch.equal(found.targets.weights, expected.weights)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_at_the_ends_of_lam_a_step_is_a_plain_one(name):
    model = make(name, size_of(name))
    own, partner = (partial(drawn, lam, lam == 1, size=size_of(name)) for lam in (1.0, 0.0))
    AlignMix().prepare(model)
    clean = model(own().mix())
    assert torch.equal(run(AlignMix(), model, own()).logits, clean)
    assert torch.equal(run(AlignMix(), model, partner()).logits, clean[partners(4)])
    assert torch.equal(model(own().mix()), clean)


@torch.no_grad()
def test_a_head_of_means_sees_the_plan_by_the_marginal_that_is_not_used_alone():
    """The mean of R Y is that of Y where the columns of R sum to one: then logits mix, aligned or not."""
    model = make("test_resnet")
    plain, (own, other) = (
        model(drawn(0.3, True).mix()),
        MixUp().plan(drawn(0.3, True)).table.view(torch.float32)[0, 2:4],
    )
    mixed = own * plain + other * plain[partners(4)]
    eps = spread(model.forward_features(drawn(0.3, True).mix()).flatten(2).mT) / 50
    kept, exact = (
        run(AlignMix(eps=eps, iterations=3, exact_marginals=exact), model, drawn(0.3, True)).logits
        for exact in (False, True)
    )
    assert (kept - mixed).abs().max() < 1e-5 < 1e-3 < (exact - mixed).abs().max()
    converged = run(AlignMix(eps=50 * eps, iterations=300), model, drawn(0.3, True)).logits
    assert (converged - mixed).abs().max() < 1e-5


def test_the_plan_of_the_paper():
    made = torch.Generator().manual_seed(0)
    for last in ("rows", "columns"):
        raw = 4 * torch.randn(3, 49, 64, generator=made).relu(), 4 * torch.randn(3, 49, 64, generator=made).relu()
        plan = plan_of(cost(*raw), 0.1, 100, last).double()
        sums = {"rows": plan.sum(2), "columns": plan.sum(1)}
        assert (plan >= 0).all() and (sums.pop(last) - 1).abs().max() < 3e-4
        (other,) = sums.values()
        assert other.min() < 0.7 and other.max() > 1.4, "far from converged, as the docstring says"
        unit = [torch.nn.functional.normalize(x, dim=2) for x in raw]
        plan = plan_of(cost(*unit), 0.1, 100, last)
        assert (plan.sum(1) - 1).abs().max() < 1e-3 and (plan.sum(2) - 1).abs().max() < 1e-3


def test_constant_maps_have_a_uniform_plan():
    x, y = torch.rand(2, 1, 7).expand(2, 12, 7), torch.rand(2, 1, 7).expand(2, 12, 7)
    for last in ("rows", "columns"):
        assert (plan_of(cost(x, y), 0.1, 100, last) - 1 / 12).abs().max() < 1e-6


@pytest.mark.parametrize("onto_own", SIDES)
def test_an_image_aligned_with_itself_stays_what_it_is(onto_own):
    x = 10 * features("NCHW", scale=1.0)
    alike = torch.cat([x, x])
    partner = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3])
    for lam in (0.0, 0.4, 1.0):
        solver = (0.1, 100, "rows" if onto_own else "columns")
        found = align(alike, alike, partner, torch.full((8,), lam), onto_own, solver, LAYOUTS["NCHW"])
        assert (found - alike).abs().max() < 1e-3


def test_where_the_partner_has_its_places_does_not_matter():
    x, order = features("NCHW", 2), torch.randperm(6, generator=torch.Generator().manual_seed(0))
    moved = x.clone()
    moved[1] = x[1].flatten(1)[:, order].view_as(x[1])
    one, two = (
        align(v, v, torch.tensor([1, 0]), torch.tensor([0.3, 0.3]), True, (0.1, 30, "rows"), LAYOUTS["NCHW"])
        for v in (x, moved)
    )
    assert (one[0] - two[0]).abs().max() < 1e-5
    assert (one[1] - two[1]).abs().max() > 1e-2, "whose own places are what is kept"


@pytest.mark.parametrize("onto_own", SIDES)
def test_the_gradient_reaches_both_maps_and_not_the_plan(onto_own):
    x = features("tokens").requires_grad_()
    partner, own = torch.tensor([1, 2, 3, 0]), torch.tensor([0.2, 0.5, 0.9, 0.4])
    solver, weights = (0.3, 30, "rows"), features("tokens", seed=1)
    (align(x, x, partner, own, onto_own, solver, LAYOUTS["tokens"]) * weights).sum().backward()
    flat = x.detach().double().numpy()
    expected = np.zeros_like(flat)
    for i, j in enumerate(partner.tolist()):
        a, b, lam, w = flat[i, 2:], flat[j, 2:], float(own[i]), weights[i].double().numpy()
        plan = scaled(((a[:, None] - b[None]) ** 2).sum(2), *solver)
        expected[i, :2] += lam * w[:2]
        expected[j, :2] += (1 - lam) * w[:2]
        expected[i, 2:] += lam * (w[2:] if onto_own else plan @ w[2:])
        expected[j, 2:] += (1 - lam) * (plan.T @ w[2:] if onto_own else w[2:])
    assert np.abs(x.grad.double().numpy() - expected).max() < 1e-5
    assert not plan_of(cost(x[:, 2:], x[:, 2:]).detach(), *solver).requires_grad


def test_the_sums_that_are_used_are_exact_unless_told_otherwise(monkeypatch):
    model, finishes, entered = make("test_resnet"), [], alignmix.sinkhorn
    monkeypatch.setattr(alignmix, "sinkhorn", lambda *given: finishes.append(given) or entered(*given))
    for exact in (True, False):
        for coin in SIDES:
            AlignMix(eps=0.2, iterations=9, exact_marginals=exact)(model, drawn(0.5, coin), CrossEntropy())
    assert [given[1:] for given in finishes] == [
        (0.2, 9, "rows"), (0.2, 9, "columns"), (0.2, 9, "columns"), (0.2, 9, "columns")
    ]  # fmt: skip


def test_the_coin_is_fair_and_each_sample_may_have_its_lam(monkeypatch):
    model, sides, entered = make("test_resnet"), [], alignmix.rewrite

    def spy(model, site, change, partner, own, onto_own, *more):
        sides.append(onto_own)
        assert own.unique().numel() == 3
        return entered(model, site, change, partner, own, onto_own, *more)

    monkeypatch.setattr(alignmix, "rewrite", spy)
    mixer, rng = AlignMix(iterations=1, granularity="sample"), np.random.default_rng(0)
    for _ in range(100):
        batch = noise(3, (32, 32))
        batch.rng = rng
        mixer(model, batch, CrossEntropy())
    assert 30 <= sum(sides) <= 70


@pytest.mark.long
def test_compiled_training_makes_two_graphs_and_equals_the_eager_one():
    import torch._dynamo
    from torch._dynamo.backends.common import aot_autograd

    graphs = []
    torch._dynamo.reset()
    compiled = make("test_resnet").train()
    mixer = AlignMix()
    mixer.prepare(compiled)
    eager = copy.deepcopy(compiled)
    keep = aot_autograd(fw_compiler=lambda graph, given: graphs.append(graph) or graph.forward)
    compiled.compile(backend=keep, fullgraph=True)
    for seed in range(6):
        losses = [mixer(model, noise(4, (64, 64), seed), CrossEntropy()) for model in (compiled, eager)]
        assert (losses[0] - losses[1]).abs() < 1e-5
    assert len(graphs) == 2, "one a side of the coin"
    torch._dynamo.reset()


def test_the_authors_recipe_trains_in_bfloat16():
    rows = {"alignmix": {"mixer": "choice", "of": {"mixup": {"prob": 0.5, "alpha": 2.0}, "alignmix": {"prob": 0.5}}}}
    model, mixer = make("test_resnet").train(), build("alignmix", rows)
    mixer.prepare(model)
    with torch.autocast("cpu", torch.bfloat16):
        for seed in range(4):
            batch, criterion = noise(3, (47, 64), seed), Recorded()
            batch.dtype = torch.bfloat16
            loss = mixer(model, batch, criterion)
            loss.backward()
            assert loss.isfinite() and loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "options, words",
    [
        ({"eps": 0}, "AlignMix: eps is 0; it must be a number from 1e-12 to 1,000,000"),
        ({"iterations": 0}, "AlignMix: iterations is 0; it must be a whole number from 1 to 10,000"),
        ({"exact_marginals": "yes"}, "AlignMix: exact_marginals is 'yes'; choose one of True, False"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=f"^{words}$"):
        AlignMix(**options)
