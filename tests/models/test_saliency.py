"""Saliency passes: gradients against autograd on a copy and finite differences; the model stays as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastmix import Batch, Targets
from fastmix.kernels.erase import Erase, noise
from fastmix.mixers.gradient import GradientMixer
from fastmix.models import load_timm
from fastmix.models.saliency import SMALL, evaluated, feature_gradient, input_gradient
from fastmix.models.sites import sites
from fastmix.targets import BinaryCrossEntropy, CrossEntropy
from helpers.backbones import SMOOTH
from helpers.untouched import same, state

pytestmark = pytest.mark.gradient

LABELS = torch.tensor([0, 3, 1])


def make(name: str = "test_resnet", **args) -> nn.Module:
    """A network in train mode whose statistics are not those of a new one, with gradients that were accumulated."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = load_timm().create_model(name, num_classes=5, **args)
        for _ in range(2):
            F.cross_entropy(model(2 * torch.randn(8, 3, 32, 32)), torch.arange(8) % 5).backward()
    return model


def images(n: int = 3, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(1))


def loss(logits: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), LABELS, reduction="sum")


def slow(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The gradient by an ordinary backward pass through a copy in eval mode."""
    model, x = copy.deepcopy(model).eval(), x.clone().requires_grad_()
    loss(model(x)).backward()
    return x.grad


@pytest.mark.parametrize("name, args", [("test_resnet", {}), ("test_vit", {"img_size": 32})])
def test_input_gradient_is_autograds_and_leaves_the_model_alone(name, args):
    model, x = make(name, **args), images()
    model.train().get_submodule(sites(model)["stem"]).eval()  # modes of its own, and weights that are not trained
    next(model.parameters()).requires_grad_(False)
    before, kept = state(model), x.clone()
    found = input_gradient(model, x, loss)
    assert same(state(model), before) and torch.equal(x, kept) and not x.requires_grad
    assert torch.equal(found, slow(model, x)) and not found.requires_grad
    assert found.abs().amax((1, 2, 3)).min() > 0


def test_input_gradient_equals_a_finite_difference():
    model, x = make().double(), images().double()

    def loss(logits):
        return F.cross_entropy(logits, LABELS, reduction="sum")

    found, model = input_gradient(model, x, loss), model.eval()
    for seed in range(5):
        step = 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).double()
        change = (loss(model(x + step)) - loss(model(x - step))) / 2
        assert change.item() == pytest.approx((found * step).sum().item(), rel=1e-4)


def test_the_gradient_of_a_sample_knows_nothing_of_the_others():
    model, x = make(**SMOOTH), images()
    found = input_gradient(model, x, loss)
    for k in range(3):
        one = input_gradient(model, x[k : k + 1], lambda logits, k=k: F.cross_entropy(logits, LABELS[k : k + 1]))
        assert (one[0] - found[k]).abs().max() <= 1e-5 * one.abs().max()


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad])
def test_the_callers_grad_mode_does_not_matter(context):
    model, x = make(), images()
    expected, slope = slow(model, x), feature_gradient(model, "stage3", x, loss)[1]
    with context():
        assert torch.equal(input_gradient(model, x, loss), expected)
        assert torch.equal(feature_gradient(model, "stage3", x, loss)[1], slope)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradients_point_the_same_way(dtype):
    model, x = make(), images()
    expected = slow(model, x)
    with torch.autocast("cpu", dtype):
        found = input_gradient(model, x.to(dtype), loss).float()
        feature, slope = feature_gradient(model, "stage3", x.to(dtype), loss)
    assert slope.isfinite().all() and slope.dtype == feature.dtype == dtype
    size = SMALL if dtype == torch.float16 else 1
    assert (found.norm() / expected.norm()).item() == pytest.approx(size, rel=0.05)
    assert F.cosine_similarity(found.flatten(1), expected.flatten(1)).min() > 0.96


def test_in_float16_small_gradients_do_not_vanish_and_large_ones_count_as_none():
    model, x = make(), images()
    with torch.autocast("cpu", torch.float16):
        little = input_gradient(model, x.half(), lambda logits: loss(logits) * 2.0**-12).float()
        assert F.cosine_similarity(little.flatten(1), slow(model, x).flatten(1)).min() > 0.95
        assert input_gradient(model, x.half(), lambda logits: loss(logits) * 2.0**40).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_cast_for_a_saliency_pass_do_not_reach_the_training_pass(dtype):
    def gradients(first) -> list[torch.Tensor]:
        model = make()
        model.zero_grad()
        with torch.autocast("cpu", dtype):
            first(model)
            F.cross_entropy(model(images()), LABELS).backward()
        return [p.grad for p in model.parameters()]

    def without_graph(model):
        with evaluated(model), torch.no_grad():
            model(images())

    expected = gradients(lambda model: None)
    for first in (without_graph, lambda m: input_gradient(m, images(), loss)):
        assert all(map(torch.equal, gradients(first), expected))


class Backward(TorchDispatchMode):
    """Records, for each convolution of a backward pass, for which of input, weight and bias it is differentiated."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.masks.append(args[-1])
        return func(*args, **(kwargs or {}))


def convolutions(module: nn.Module) -> int:
    return sum(isinstance(m, nn.Conv2d) for m in module.modules())


def test_no_gradient_of_a_weight_is_computed():
    model, x = make(), images()
    with Backward() as seen:
        input_gradient(model, x, loss)
    assert seen.masks == [[True, False, False]] * convolutions(model)


def test_only_what_lies_behind_the_site_is_differentiated():
    model, x, behind = make(), images(), 0
    for k in (4, 3, 2, 1):
        with Backward() as seen:
            feature_gradient(model, f"stage{k}", x, loss)
        assert seen.masks == [[True, False, False]] * behind
        behind += convolutions(getattr(model, f"layer{k}"))


@pytest.mark.parametrize("site", ["stem", "stage1", "stage2", "stage3", "stage4"])
def test_feature_gradient_is_that_of_the_rest_of_the_network(site):
    model, x = make(), images()
    kept, before = {}, state(model)
    feature, slope = feature_gradient(model, site, x, loss)
    assert same(state(model), before)
    whole = copy.deepcopy(model).eval()
    whole.get_submodule(sites(whole)[site]).register_forward_hook(lambda module, given, out: kept.update(out=out))
    value = loss(whole(x))
    assert torch.equal(feature, kept["out"]) and torch.equal(slope, torch.autograd.grad(value, kept["out"])[0])
    assert slope.abs().max() > 0 and not feature.requires_grad


def test_feature_gradient_of_tokens_is_a_map():
    model, x = make("test_vit", img_size=32), images()
    feature, slope = feature_gradient(model, "block3", x, loss)
    kept = {}
    whole = copy.deepcopy(model).eval()
    whole.blocks[3].register_forward_hook(lambda module, given, out: kept.update(out=out))
    tokens = torch.autograd.grad(loss(whole(x)), kept["out"])[0]
    assert torch.equal(slope.flatten(2).transpose(1, 2), tokens[:, 1:]) and slope.shape[2:] == (2, 2)


@pytest.mark.long
def test_a_compiled_model_gives_the_same_and_computes_no_gradient_of_a_weight():
    import torch._dynamo
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    model, x = make(**SMOOTH), images()
    expected, before = input_gradient(model, x, loss), state(model)
    features = feature_gradient(model, "stage3", x, loss)
    traced = []

    def backend(graph, given):
        def keep(kind):
            return lambda graph, given: traced.append((kind, graph)) or make_boxed_func(graph)

        return aot_autograd(fw_compiler=keep("forward"), bw_compiler=keep("backward"))(graph, given)

    torch._dynamo.reset()
    model.compile(backend=backend)
    model(x).sum().backward()
    model.zero_grad()
    model.load_state_dict(make(**SMOOTH).state_dict())
    for p, q in zip(model.parameters(), make(**SMOOTH).parameters(), strict=True):
        p.grad = q.grad
    found = input_gradient(model, x, loss)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert [kind for kind, _ in traced] == ["forward", "backward", "forward", "backward"]
    outputs = [
        sum(v is not None for v in graph.graph.output_node().args[0]) for kind, graph in traced if kind[0] == "b"
    ]
    assert outputs[1] == 1 < outputs[0], "the pixels' gradient alone"
    assert all(map(torch.equal, feature_gradient(model, "stage3", x, loss), features))
    assert same(state(model)[1:4], before[1:4])
    torch._dynamo.reset()


def test_an_error_inside_leaves_the_model_as_it_was():
    model = make()
    before = state(model)
    for ask in (input_gradient, lambda *args: feature_gradient(args[0], "stage2", *args[1:])):
        with pytest.raises(RuntimeError, match="no loss"):
            ask(model, images(), lambda logits: (_ for _ in ()).throw(RuntimeError("no loss")))
        assert same(state(model), before)


class Whole(GradientMixer):
    """Follows nothing: mixes halves, and keeps the gradient that it was shown."""

    def draw(self, batch, grid):
        return torch.from_numpy(self.pair(batch))

    def put(self, batch, gradient, drawn):
        from fastmix.kernels.plan import Plan

        self.seen = gradient
        return Plan.blend(drawn, 0.75)


def batch_of(n: int = 3, size: tuple[int, int] = (32, 32)) -> Batch:
    pixels = np.random.default_rng(2).integers(0, 256, (n, *size, 3), np.uint8)
    return Batch(torch.from_numpy(pixels), LABELS[:n], np.random.default_rng(3))


@pytest.mark.parametrize("prob", [0, 1])
def test_the_guide_is_the_gradient_of_the_clean_batch(prob):
    """Erased like the mixed one."""
    model, batch = make(), batch_of()
    clean = batch.mix()
    batch.erase = Erase.draw(np.random.default_rng(4), 3, batch.size, prob, noise((0, 0, 0), (64, 64, 64)))
    found = Whole().guide(model, batch, None)
    assert torch.equal(found, slow(model, batch.mix())) and torch.equal(batch.mix(), clean) == (prob == 0)


def test_checkpointed_activations_give_the_same_or_an_error():
    model, x = make(), images()
    expected = input_gradient(model, x, loss)
    model.set_grad_checkpointing()
    assert torch.equal(input_gradient(model, x, loss), expected)
    with pytest.raises(ValueError, match="^test_resnet does not run stage3 as a module: switch gradient checkpointing"):
        feature_gradient(model, "stage3", x, loss)


@pytest.mark.parametrize("criterion", [CrossEntropy(0.2), BinaryCrossEntropy(0.1, threshold=0.15, reduction="mean")])
def test_variant_openmixup_follows_the_training_criterion(criterion):
    model, batch = make(**SMOOTH), batch_of()
    dense = F.one_hot(LABELS, 5) * (1 - criterion.smoothing) + criterion.smoothing / 5
    x, copied = batch.mix().requires_grad_(), copy.deepcopy(model).eval()
    logits = copied(x)
    if isinstance(criterion, CrossEntropy):
        value = -(dense * logits.log_softmax(1)).sum()
    else:
        value = F.binary_cross_entropy_with_logits(logits, (dense > 0.15).float(), reduction="none").mean(1).sum()
    value.backward()
    found = Whole(variant="openmixup").guide(model, batch, criterion)
    assert (found - x.grad).abs().max() <= 1e-5 * x.grad.abs().max()
    assert torch.equal(Whole().guide(model, batch, criterion), slow(model, batch.mix()))


@pytest.mark.parametrize("size, expected", [((64, 96), (32, 48)), ((33, 21), (33, 21)), ((32, 32), (32, 32))])
def test_a_smaller_saliency_pass_sees_smaller_images(size, expected):
    model, batch = make(), batch_of(size=size)
    found = Whole(saliency_size=32).guide(model, batch, None)
    assert found.shape[2:] == expected
    assert torch.equal(found, slow(model, F.interpolate(batch.mix(), expected, mode="bilinear", antialias=False)))


def test_clean_lam_trains_on_the_clean_images_and_follows_their_gradient_in_train_mode():
    model, criterion = make(**SMOOTH), CrossEntropy(0.1)
    mixer = Whole(clean_lam=0.5)
    whole = mixer(model, batch_of(), criterion)
    model.zero_grad()
    whole.backward()
    again, x = make(**SMOOTH), batch_of().mix().requires_grad_()
    again.zero_grad()
    clean = F.cross_entropy(again(x), LABELS)
    followed = torch.autograd.grad(3 * clean, x, retain_graph=True)[0]
    (0.5 * clean).backward()
    batch = batch_of()
    plan = mixer.plan(batch, followed)
    criterion(again(batch.mix(plan)), Targets.of(LABELS, plan)).backward()
    assert not torch.equal(followed, slow(make(**SMOOTH), batch_of().mix())), "batch statistics, not running ones"
    for (name, p), q in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-6 * q.grad.abs().max().item()), name
    for p, q in zip(model.buffers(), again.buffers(), strict=True):
        assert torch.equal(p, q), "the statistics see both passes, once"
    mixer(make(**SMOOTH), batch_of(), criterion)
    assert torch.equal(mixer.seen, followed)


def test_a_compiled_model_trains_with_clean_lam():
    import torch._dynamo

    torch._dynamo.reset()
    plain, compiled = make(**SMOOTH), make(**SMOOTH)
    compiled.compile(backend="aot_eager")
    for model in (plain, compiled):
        model.zero_grad()
        Whole(clean_lam=1.0)(model, batch_of(), CrossEntropy()).backward()
    for p, q in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-5 * p.grad.abs().max().item())
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"clean_lam": -1}, "clean_lam is -1; it must be a number from 0 to 1,000,000"),
        ({"clean_lam": "1"}, "clean_lam is '1'"),
        ({"saliency_size": 4}, "saliency_size is 4; it must be a whole number from 8 to 4,096"),
        ({"saliency_size": 112, "clean_lam": 1.0}, "leave saliency_size out"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        Whole(**options)
