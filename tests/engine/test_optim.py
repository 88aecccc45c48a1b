"""Learning rates against the recipes' closed forms, weight-decay groups, the weight average."""

import math
import sys
import types

import pytest
import torch
from torch import nn

from fastmix.config import Optim, Schedule
from fastmix.engine.ema import Ema
from fastmix.engine.method import Method
from fastmix.engine.optim import build, learning_rate

pytestmark = pytest.mark.gradient


def test_cosine_by_epoch_ends_where_the_benchmark_says():
    cosine = Schedule(per="epoch")
    assert learning_rate(cosine, 0.1, 99 * 7, 7, 100) == pytest.approx(2.5e-5, rel=0.02)
    assert learning_rate(cosine, 0.1, 299 * 7 + 6, 7, 300) == pytest.approx(2.7e-6, rel=0.02)
    inside = {learning_rate(cosine, 0.1, 3 * 7 + k, 7, 100) for k in range(7)}
    assert inside == {0.1 * (1 + math.cos(math.pi * 3 / 100)) / 2}


def test_cosine_by_step_equals_torchs_scheduler():
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=40, eta_min=0.01)
    for step in range(40):
        ours = learning_rate(Schedule(per="step", min_lr=0.01), 0.3, step, 4, 10)
        assert ours == pytest.approx(opt.param_groups[0]["lr"], rel=1e-12)
        opt.step()
        theirs.step()


def test_warm_up_multiplies_the_cosine():
    warm = Schedule(per="epoch", warmup_epochs=2, warmup_factor=1e-3)
    plain = Schedule(per="epoch")
    factors = [learning_rate(warm, 1, s, 5, 10) / learning_rate(plain, 1, s, 5, 10) for s in range(12)]
    assert factors == pytest.approx([1e-3 + (1 - 1e-3) * s / 10 for s in range(10)] + [1, 1])


def names_of(opt, model, decayed: bool) -> set[str]:
    ids = {id(p) for g in opt.param_groups if bool(g["weight_decay"]) == decayed for p in g["params"]}
    return {n for n, p in model.named_parameters() if id(p) in ids}


def test_decay_groups():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model.pos_embed = nn.Parameter(torch.zeros(1, 2, 3))
    spared = names_of(build(Optim(no_decay=["norm", "bias", "pos_embed"]), model), model, False)
    assert spared == {"0.bias", "1.weight", "1.bias", "pos_embed"}
    assert names_of(build(Optim(no_decay=["*.bias"]), model), model, False) == {"0.bias", "1.bias"}
    assert names_of(build(Optim(), model), model, False) == set()


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_optimisers_minimise_and_take_the_mixers_groups(name):
    model, own = nn.Linear(3, 1, bias=False), nn.Parameter(torch.ones(2))
    opt = build(Optim(name=name, lr=0.05, weight_decay=0.0), model, [{"params": [own], "lr_scale": 0.1}])
    assert any(g.get("lr_scale") == 0.1 for g in opt.param_groups)
    x, first = torch.eye(3), None
    for _ in range(60):
        loss = (model(x) - 1).square().mean() + own.square().mean()
        first = first or loss.item()
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert loss < 0.5 * first


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_first_step_that_overflows_leaves_no_trace(nesterov):
    """In fp16 it often does. Then, as torch's unfused SGD has it, the next step is the first."""
    start = torch.linspace(-1, 1, 100)
    fused, plain = (nn.Linear(100, 1, bias=False) for _ in range(2))
    for model in (fused, plain):
        model.weight.data.copy_(start)
    ours = build(Optim(lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01), fused)
    theirs = torch.optim.SGD(plain.parameters(), 0.1, 0.9, nesterov=nesterov, weight_decay=0.01, foreach=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for k, size in enumerate([math.inf, 1.0, 2.0]):
        scaler.scale(size * (fused.weight.sum() if math.isinf(size) else fused.weight.square().sum())).backward()
        scaler.step(ours)
        scaler.update()
        ours.zero_grad()
        if k:
            (size * plain.weight.square().sum()).backward()
            theirs.step()
            theirs.zero_grad()
        torch.testing.assert_close(fused.weight, plain.weight)


def test_ema_equals_the_recursion_in_float64():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = Ema(model, decay=0.9, ramp_steps=4)
    expected = model[0].weight.detach().double().clone()
    for step in range(1, 8):
        with torch.no_grad():
            model[0].weight += step
            model[1].running_mean += 1
        ema.update(model, step)
        d = 0.9 * (0.9 + 0.1 * min(1, (step - 1) / 4))
        expected = d * expected + (1 - d) * model[0].weight.double()
    torch.testing.assert_close(ema.module[0].weight.double(), expected.detach(), rtol=1e-6, atol=0)
    assert torch.equal(ema.module[1].running_mean, model[1].running_mean)
    assert not ema.module.training and not any(p.requires_grad for p in ema.module.parameters())


@pytest.mark.parametrize("nvidias", [True, False])
def test_apex_is_used_only_if_it_is_nvidias(monkeypatch, nvidias):
    """PyPI's package of that name has no optimizers; NVIDIA's has FusedLAMB among them."""
    from fastmix.engine import optim

    package = types.ModuleType("apex")
    if nvidias:
        package.optimizers = types.ModuleType("apex.optimizers")
        package.optimizers.FusedLAMB = object
    monkeypatch.setitem(sys.modules, "apex", package)
    assert optim._apex() is (package.optimizers if nvidias else None)
    model = nn.Linear(2, 2)
    assert type(build(Optim(), model)) is torch.optim.SGD, "on a CPU never"


def test_compiling_raises_a_limit_that_torch_knows():
    """Of the graphs of one class, in every torch from 2.8 on; a name that torch does not know is an error there."""
    limits = torch._dynamo.config
    compiled = []
    net = types.SimpleNamespace(compile=lambda mode: compiled.append((mode, limits.recompile_limit)))
    method = Method("vanilla", nn.Linear(2, 2))
    with limits.patch(recompile_limit=8), pytest.MonkeyPatch.context() as patch:
        patch.setattr(method.mixer, "companions", lambda: [net])
        patch.setattr(method.model, "compile", net.compile)
        method.compile(mode="default")
    assert compiled == [("default", 64)] * 2
    with pytest.raises(AttributeError):
        limits.no_such_limit = 64
