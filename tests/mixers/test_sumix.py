"""SUMix against a loop over samples in float64."""

import copy

import pytest
import torch
from torch import nn

from fastmix import Targets, config
from fastmix.engine.task import Task
from fastmix.mixers import CoMixup, CutMix, ManifoldMix, MixUp, SUMix, Vanilla, build
from fastmix.targets import CrossEntropy
from helpers.backbones import make
from helpers.graphs import Counted
from helpers.mixing import FixedLam
from helpers.transformers import CLASSES, DIMS, against, batch_of, heard, multiplications, vit

pytestmark = pytest.mark.gradient


def prepared(model: nn.Module, of: dict, seed: int = 0, **options) -> SUMix:
    mixer = SUMix(of, **options)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mixer.prepare(model)
        if mixer.normed:
            mixer.head.weight.data.normal_(std=0.5)
    return mixer


def features_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model.forward_head(model.forward_features(x), pre_logits=True)


def unit(v: torch.Tensor) -> torch.Tensor:
    return v / v.pow(2).sum().sqrt()


def naive(mixer: SUMix, model: nn.Module, batch, plan, smoothing: float, scale: float):
    """The loss and the label weights, sample by sample."""
    outputs = []
    for x in (batch.mix(), batch.mix(plan)):
        f = features_of(model, x)
        z = model.get_classifier()(f).double()
        outputs.append((z, [unit(v.softmax(0)) for v in mixer.head(f).double()] if mixer.normed else list(z)))
    (clean, unsure), (mixed, unsure_mixed) = outputs
    total, weights = 0, []
    for i, j in enumerate(plan.partner.tolist()):
        a, b, lam = batch.labels[i].item(), batch.labels[j].item(), plan.own[i].double().item()
        p_m, p_a, p_b = (z.detach().softmax(0) for z in (mixed[i], clean[i], clean[j]))
        p_a[b], p_b[a] = 0, 0
        far_a, far_b = (scale * unit((p_m - p).softmax(0)) for p in (p_a, p_b))
        one, two = lam * (-far_a[a]).exp(), (1 - lam) * (-far_b[b]).exp()
        weights.append([(one / (one + two)).item(), (two / (one + two)).item()])
        target = torch.full((CLASSES,), smoothing / CLASSES, dtype=torch.float64)
        target[a] += (1 - smoothing) * weights[i][0]
        target[b] += (1 - smoothing) * weights[i][1]
        total = total - (target * mixed[i].log_softmax(0)).sum()
        for share, other, far, label in ((lam, i, far_a, a), (1 - lam, j, far_b, b)):
            e = (-(unsure[other] + unsure_mixed[i] + far)).exp()
            total = total - mixer.gamma * share * e.log_softmax(0)[label]
    return total / len(batch), torch.tensor(weights)


@pytest.mark.parametrize("normed, gamma", [(True, 1.0), (False, 0.5)])
@pytest.mark.parametrize("scale, smoothing", [(None, 0.0), (2.5, 0.1)])
@pytest.mark.parametrize("inner", [MixUp(1.0), CutMix(1.0, "sample")], ids=["mixup", "cutmix"])
def test_the_loss_and_its_gradient_are_those_of_a_loop(normed, gamma, scale, smoothing, inner):
    model = vit()
    mixer = prepared(model, {inner: 1.0}, normed=normed, gamma=gamma, scale=scale)
    batch = batch_of(6)
    batch.labels = torch.tensor([0, 1, 1, 1, 4, 3])  # with pairs of one class among the neighbours
    given, parameters = copy.deepcopy(batch), [*model.parameters(), *mixer.parameters()]
    found = heard(mixer, model, batch, smoothing)
    plan = mixer.decide(model, given, None)
    expected, weights = naive(mixer, model, given, plan, smoothing, scale or 6.0)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (found.targets.weights.double() - weights).abs().max() < 1e-5
    assert (found.targets.weights.sum(1) - 1).abs().max() < 1e-6
    assert (found.targets.weights[:, 0] - plan.own).abs().max() > 0.01
    one, two = (torch.autograd.grad(loss, parameters) for loss in (found.loss, expected))
    for ours, theirs in zip(one, two, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5 * theirs.abs().max().item())


def test_weights_belong_to_samples_and_have_no_gradient():
    model = vit()
    mixer = prepared(model, {MixUp(1.0): 1.0}, gamma=0.0, scale=20.0)
    criterion = heard(mixer, model, batch_of(8))
    assert not criterion.targets.weights.requires_grad and against(criterion) > 0.1
    parameters = list(model.parameters())
    numbers = Targets(criterion.targets.labels, torch.tensor(criterion.targets.weights.tolist()))
    found = torch.autograd.grad(criterion.loss, parameters, retain_graph=True)
    expected = torch.autograd.grad(CrossEntropy()(criterion.logits, numbers), parameters)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_an_image_that_is_alone_keeps_its_whole_weight(lam):
    model = vit()
    mixer, batch = prepared(model, {MixUp(1.0): 1.0}, gamma=0.0), batch_of(5)
    batch.rng = FixedLam(lam)
    criterion = heard(mixer, model, batch, 0.1)
    assert criterion.targets.weights.tolist() == [[lam, 1 - lam]] * 5
    plain = heard(prepared(model, {Vanilla(): 1.0}, gamma=0.0), model, batch_of(5), 0.1)
    assert plain.targets.weights.tolist() == [[1, 0]] * 5
    assert plain.loss == CrossEntropy(0.1)(model(batch.mix()), Targets.of(batch.labels))


def test_the_second_head_is_the_mixers_and_is_trained():
    cfg, model = config.Config(precision="fp32"), make("test_resnet").train()
    task = Task(model, SUMix({CutMix(1.0): 1.0}), cfg)
    keys = {key for key in task.state_dict() if key.startswith("mixer.")}
    assert keys == {"mixer.head.weight", "mixer.head.bias"} and set(make("test_resnet").train().state_dict()) == set(
        model.state_dict()
    )
    (group,) = task.mixer.param_groups()
    assert [p.shape for _, p in group["params"]] == [model.get_classifier().weight.shape, (5,)]
    batch = batch_of(4, (64, 64))
    task(batch.images, batch.labels, batch.rng).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in task.mixer.head.parameters())
    again = Task(make("test_resnet").train(), SUMix({CutMix(1.0): 1.0}), cfg)
    assert torch.equal(again.mixer.head.weight, task.mixer.head.weight), "a function of the seed"
    assert not SUMix({CutMix(1.0): 1.0}, normed=False).param_groups()


def test_both_batches_pass_the_model_once():
    model, seen = make("test_resnet").train(), []
    mixer = prepared(model, {CutMix(1.0): 1.0})
    model.conv1.register_forward_hook(lambda module, given, out: seen.append(given[0].clone()))
    batch = batch_of(4, (64, 64))
    again = batch_of(4, (64, 64))
    mixer(model, batch, CrossEntropy())
    assert len(seen) == 2 and torch.equal(seen[0], again.mix())
    assert torch.equal(seen[1], again.mix(mixer.decide(model, again, None)))


def test_a_compiled_model_has_one_graph():
    model, losses = vit(), []
    mixer = prepared(model, {MixUp(1.0): 1.0})
    eager, backend = copy.deepcopy(model), Counted()
    model.compile(backend=backend, fullgraph=True)
    for seed in range(3):
        for net in (model, eager):
            losses.append(mixer(net, batch_of(4, seed=seed), CrossEntropy(0.1)))
            parameters = [*net.parameters(), *mixer.parameters()]
            losses.append(torch.cat([g.flatten() for g in torch.autograd.grad(losses[-1], parameters)]))
        assert torch.equal(losses[-4], losses[-2]) and torch.allclose(losses[-3], losses[-1], atol=1e-6)
        assert backend.graphs == 1
    torch._dynamo.reset()


def test_it_costs_two_steps_and_a_head():
    model, n = vit(), 4
    product = 2 * n * DIMS["embed_dim"] * CLASSES
    heads = 2 * 3 * product - 2 * product  # the clean batch's logits are not differentiated, only its uncertainty
    step = multiplications(Vanilla(), model, n)
    assert multiplications(prepared(model, {CutMix(): 1.0}), model, n) == 2 * step + heads
    assert multiplications(prepared(model, {CutMix(): 1.0}, normed=False), model, n) == 2 * step


def test_half_precision_is_finite():
    model = vit()
    mixer = prepared(model, {MixUp(1.0): 1.0})
    exact = mixer(model, batch_of(4), CrossEntropy())
    with torch.autocast("cpu", torch.bfloat16):
        half = mixer(model, batch_of(4), CrossEntropy())
    assert half.dtype == torch.float32 and abs(half - exact) < 0.1 * exact


def test_what_does_not_fit_is_said_in_one_line():
    with pytest.raises(ValueError, match="^SUMix: of holds ManifoldMix, which does more than change the input; "):
        SUMix({ManifoldMix(): 1.0})
    with pytest.raises(ValueError, match="^SUMix: of holds CoMixup, which does more than"):
        SUMix({CoMixup(): 1.0})
    for options in ({"gamma": -1}, {"normed": 2}, {"scale": 0}):
        with pytest.raises(ValueError, match=f"^SUMix: {next(iter(options))} is "):
            SUMix({MixUp(): 1.0}, **options)
    with pytest.raises(ValueError, match="^SUMix: test_resnet has no linear classifier, beside which"):
        SUMix({MixUp(): 1.0}).prepare(headless())
    with pytest.raises(ValueError, match="^mixers.sumix.of: expected rows"):
        build("sumix", {"sumix": {}})


def headless() -> nn.Module:
    model = make("test_resnet")
    model.reset_classifier(0)
    return model
