"""LAMB on lists of tensors: timm's in every bit, in few operations, without a wait. (Float64: test_recipes.)"""

import copy

import pytest
import torch
from torch import nn

from fastmix.engine.lamb import Lamb
from fastmix.models import load_timm
from helpers.counting import Operations

OPTIONS = {"lr": 5e-3, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.02}


def network(blocks: int = 3) -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.GELU()) for _ in range(blocks)
    ]
    model = nn.Sequential(*layers, nn.Conv2d(4, 8, 1, bias=False), nn.Flatten(), nn.Linear(72, 3))
    nn.init.zeros_(model[-1].weight)  # of norm 0
    return model.to(memory_format=torch.channels_last)


def groups(model: nn.Module) -> list[dict]:
    decayed, spared = [], []
    for p in model.parameters():
        (decayed if p.ndim > 1 else spared).append(p)
    return [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]


def timms(model: nn.Module, **options) -> torch.optim.Optimizer:
    load_timm()
    from timm.optim import Lamb as Theirs

    return Theirs(groups(model), **OPTIONS, **options)


def gradients(model: nn.Module, k: int) -> None:
    """Those of step k: above the bound in some, below in others, and one parameter has none in the third."""
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(k))
    model.zero_grad()
    (model(x).sub(1).square().sum() * (30 if k % 2 else 1e-3)).backward()
    if k == 2:
        model[0][1].bias.grad = None


def descend(model: nn.Module, opt: torch.optim.Optimizer, steps: range) -> None:
    for k in steps:
        gradients(model, k)
        for group in opt.param_groups:
            group["lr"] = 5e-3 * (1 + k / 7)
        opt.step()


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_it_is_timms_in_every_bit_and_goes_on_from_its_checkpoint():
    theirs, ours = network(), network()
    opt, own = timms(theirs), Lamb(groups(ours), **OPTIONS)
    descend(theirs, opt, range(6))
    descend(ours, own, range(6))
    assert same(theirs, ours) and not same(ours, network())
    resumed = copy.deepcopy(theirs)
    other = Lamb(groups(resumed), **OPTIONS)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    descend(theirs, opt, range(6, 9))
    descend(resumed, other, range(6, 9))
    assert same(theirs, resumed)
    assert [group["step"].item() for group in other.param_groups] == [9, 9]


def test_a_rate_on_the_device_moves_weights_as_a_number_does():
    """To a rounding of each step's product."""
    one, two = network(), network()
    number, tensor = Lamb(groups(one), **OPTIONS), Lamb(groups(two), **OPTIONS | {"lr": torch.tensor(5e-3)})
    for k in range(4):
        for model, opt in ((one, number), (two, tensor)):
            gradients(model, k)
            opt.step()
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


VIEWS = ("as_strided", "split", "unbind", "expand", "detach", "empty")


@pytest.mark.parametrize("rate", [5e-3, torch.tensor(5e-3)], ids=["number", "tensor"])
def test_operations_do_not_grow_with_the_parameters_and_none_waits(rate):
    counts = []
    for blocks in (3, 9):
        model = network(blocks)
        opt = Lamb(groups(model), **OPTIONS | {"lr": rate})
        gradients(model, 0)
        opt.step()
        with Operations() as operations:
            opt.step()
        assert "aten._local_scalar_dense.default" not in operations.counts
        counts.append(sum(n for name, n in operations.counts.items() if not any(view in name for view in VIEWS)))
    assert counts[0] == counts[1] < 70
