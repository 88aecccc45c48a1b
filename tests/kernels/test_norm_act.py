"""Batch-norm with ReLU and shortcuts: the kernels by `norm_act_check.py`, and what can be seen without any."""

from __future__ import annotations

import copy

import norm_act_check
import pytest
import torch
from test_builds import script
from torch import nn

from fastmix import config, models
from fastmix.bench import floor
from fastmix.kernels import norm_act as kernels
from fastmix.kernels.norm_act import gradient
from fastmix.kernels.norm_act.cases import Case
from fastmix.kernels.norm_act.reference import table
from fastmix.models import fused_norm
from helpers import ROOT

CHECK = ROOT / "tests" / "kernels" / "norm_act_check.py"


@pytest.mark.parametrize("shortcut", ["none", "plain"])
@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_in_closed_form_is_that_of_autograd(shortcut, training):
    """In float64, both in plain torch: what the kernels are held against."""
    given = Case((4, 6, 5, 3), shortcut, training, cap=1.0).arguments(torch.float64)
    norm, leaves = given["norm"], [given["x"].requires_grad_()]
    norm.weight, norm.bias = (value.double().requires_grad_() for value in (norm.weight, norm.bias))
    leaves += [norm.weight, norm.bias] + [given[name].requires_grad_() for name in ("shortcut",) if name in given]
    by = table(given["x"].detach(), norm).detach()
    out = kernels.reference(**given)
    grad = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    wanted = torch.autograd.grad(out, leaves, grad)
    kept = out.detach() if shortcut == "plain" else None
    found = gradient.reference(grad, given["x"].detach(), by, kept, cap=1.0)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"x": torch.zeros(2, 8, 4, 4, dtype=torch.int32)}, "expected x of float32/float16/bfloat16"),
        ({"x": torch.zeros(2, 8, 4, 4)}, "x is not channels-last"),
        ({"shortcut": torch.zeros(2, 8, 4, 1)}, "expected shortcut of torch.float32"),
        ({"x": torch.zeros(1, 8, 1, 1)}, "a single value a channel has no variance"),
        ({"norm": kernels.Norm(torch.ones(3), torch.ones(3), None, None)}, "does not fit 8 channels"),
        ({"norm": kernels.Norm(torch.ones(8), torch.ones(8), None, None, False)}, "no running statistics"),
    ],
)
def test_arguments_that_do_not_fit(change, words):
    given = dict(x=torch.zeros(2, 8, 4, 4).contiguous(memory_format=torch.channels_last))
    given["norm"] = kernels.Norm(torch.ones(8), torch.ones(8), None, None)
    with pytest.raises(ValueError, match=f"^norm_act: .*{words}"):
        kernels.norm_act(**given | change)


def test_a_model_on_a_cpu_is_timms_own():
    """So are checkpoints and what is exported, which is built there."""
    off, auto = (models.build(config.Model("resnet18_quarter_cifar", fused_norm=way), 10) for way in ("off", "auto"))
    assert [type(m) for m in off.modules()] == [type(m) for m in auto.modules()]


def test_fusing_renames_nothing_and_changes_nothing_where_there_is_no_kernel():
    model = models.build(config.Model("resnet18_quarter_cifar"), 10).train()
    fused, x = copy.deepcopy(model), torch.randn(4, 3, 16, 16)
    assert fused_norm.fuse(fused) == 9  # eight blocks and the stem
    assert [name for name, _ in fused.named_modules()] == [name for name, _ in model.named_modules()]
    fused.load_state_dict(model.state_dict())
    results = [net(x) for net in (model, fused)]
    assert torch.equal(*results)
    sum(result.sum() for result in results).backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), fused.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), fused.buffers(), strict=True))


class Two(nn.Module):
    """A convolution with batch-norm and ReLU, and a block around another two."""

    def __init__(self):
        super().__init__()
        from timm.layers import BatchNormAct2d
        from timm.models.resnet import BasicBlock

        self.first, self.norm, self.block = nn.Conv2d(3, 8, 3, 1, 1, bias=False), BatchNormAct2d(8), BasicBlock(8, 8)

    def forward(self, x):
        return self.block(self.norm(self.first(x))).mean((2, 3))


def test_passes_over_maps_counted_by_hand():
    """Two norms with ReLU save 5 of 13, one with a shortcut 5 of 16. The gradient of a mean lies otherwise than its
    map: it is copied, 2."""
    plain, fused = Two(), Two()
    assert fused_norm.fuse(fused) == 2
    n = 4 * 4 * 8 * 32**2  # bytes of a map
    before, after = (floor.traffic(model, (4, 3, 32, 32), torch.float32)[0] for model in (plain, fused))
    assert before - after == pytest.approx((3 * 5 - 2) * n, abs=n // 8)


@pytest.mark.long
def test_the_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    script("norm_act_check.py", TRITON_INTERPRET="1", PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")


@pytest.mark.long
def test_two_processes_share_statistics():
    pytest.importorskip("triton")
    words = "../helpers/forked.py", "2", "helpers.process", str(CHECK)
    script(*words, TRITON_INTERPRET="1", PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")


@pytest.mark.cuda
@pytest.mark.parametrize("check", norm_act_check.CHECKS, ids=lambda check: check.__name__)
def test_the_kernels_on_a_gpu(check):
    check("cuda")


@pytest.mark.cuda
def test_a_configured_model_is_fused_on_a_gpu_and_waits_for_nothing():
    from helpers.waiting import no_waits

    model = models.build(config.Model("resnet18", fused_norm="auto"), 10, device="cuda").train()
    assert type(model).__name__ != "ResNet"
    x = torch.randn(8, 3, 64, 64, device="cuda").contiguous(memory_format=torch.channels_last)
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16):
            model(x).float().square().sum().backward()
    with no_waits(), torch.autocast("cuda", torch.bfloat16):
        model(x).float().square().sum().backward()
