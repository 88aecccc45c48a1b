"""MogaNet against the paper's formulas in plain float64 tensor operations."""

import math

import pytest
import torch
from torch import Tensor

from fastmix.models import load_timm
from fastmix.models.moganet import Aggregation

DEPTHS = (3, 3, 12, 2)


def conv(x: Tensor, weights: dict, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
    """A convolution of odd kernel k, padded by dilation * (k // 2), as a sum over the kernel's taps."""
    kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    k, (h, w) = kernel.shape[-1], x.shape[-2:]
    pad = dilation * (k // 2)
    padded = x.new_zeros(*x.shape[:2], h + 2 * pad, w + 2 * pad)
    padded[..., pad : pad + h, pad : pad + w] = x
    out = 0
    for i in range(k):
        for j in range(k):
            part = padded[..., i * dilation : i * dilation + h : stride, j * dilation : j * dilation + w : stride]
            if kernel.shape[1] == 1 and len(kernel) == x.shape[1]:  # depthwise
                out = out + part * kernel[:, 0, i, j, None, None]
            else:
                out = out + torch.einsum("bchw,oc->bohw", part, kernel[:, :, i, j])
    return out + bias[:, None, None]


def batch_norm(x: Tensor, weights: dict, name: str) -> Tensor:
    mean, var, weight, bias = (weights[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    return ((x.movedim(1, -1) - mean) / (var + 1e-5).sqrt() * weight + bias).movedim(-1, 1)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def decompose(x: Tensor, common: Tensor, weights: dict, name: str) -> Tensor:
    return x + weights[f"{name}.gamma"][:, None, None] * (x - common)


def spatial(u: Tensor, weights: dict, name: str, double_silu: bool) -> Tensor:
    y = conv(u, weights, f"{name}.inward")
    y = silu(decompose(y, y.mean((2, 3), keepdim=True), weights, f"{name}.scale"))
    gate, low = conv(y, weights, f"{name}.gate"), conv(y, weights, f"{name}.value.low")
    eighth = u.shape[1] // 8
    orders = [
        low[:, :eighth],
        conv(low[:, eighth : 4 * eighth], weights, f"{name}.value.middle", dilation=2),
        conv(low[:, 4 * eighth :], weights, f"{name}.value.high", dilation=3),
    ]
    value = conv(torch.cat(orders, 1), weights, f"{name}.value.mix")
    for _ in range(1 + double_silu):
        gate, value = silu(gate), silu(value)
    return u + conv(gate * value, weights, f"{name}.outward")


def channel(x: Tensor, weights: dict, name: str) -> Tensor:
    z = gelu(conv(conv(x, weights, f"{name}.fc1"), weights, f"{name}.depthwise"))
    z = decompose(z, gelu(conv(z, weights, f"{name}.gather")), weights, f"{name}.scale")
    return conv(z, weights, f"{name}.fc2")


def reference(weights: dict, x: Tensor, double_silu: bool) -> tuple[Tensor, list[Tensor]]:
    """(logits, the maps [B,C,H,W] of the four stages)."""
    maps = []
    for k, depth in enumerate(DEPTHS):
        stage = f"stages.{k}"
        x = batch_norm(conv(x, weights, f"{stage}.embed.0", stride=2), weights, f"{stage}.embed.1")
        if k == 0:
            x = batch_norm(conv(gelu(x), weights, f"{stage}.embed.3", stride=2), weights, f"{stage}.embed.4")
        for b in range(depth):
            block = f"{stage}.blocks.{b}"
            first, second = (weights[f"{block}.ls{n}.gamma"][:, None, None] for n in (1, 2))
            x = x + first * spatial(batch_norm(x, weights, f"{block}.norm1"), weights, f"{block}.spatial", double_silu)
            x = x + second * channel(batch_norm(x, weights, f"{block}.norm2"), weights, f"{block}.channel")
        x = batch_norm(x, weights, f"{stage}.norm")
        maps.append(x)
    return x.mean((2, 3)) @ weights["head.weight"].T + weights["head.bias"], maps


@pytest.mark.parametrize("size, double_silu", [((64, 64), False), ((64, 64), True), ((33, 75), False)])
def test_logits_and_maps_equal_the_formulas(size, double_silu):
    model = load_timm().create_model("moganet_tiny", num_classes=7, double_silu=double_silu).double().eval()
    torch.manual_seed(3)
    for name, value in model.named_parameters():  # every parameter counts
        if value.ndim > 1:
            value.data.normal_(std=value[0].numel() ** -0.5)
        elif name.endswith(("weight", "gamma")):
            value.data.uniform_(0.5, 1.5)
        else:
            value.data.normal_(std=0.3)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.8  # near this batch, so that the products of the gates do not explode; not at it
        model.train()(images)
        model.eval()
        wanted, maps = reference(model.state_dict(), images, double_silu)
        other, _ = reference(model.state_dict(), images, not double_silu)
        features, got = model.forward_intermediates(images)
        logits = model(images)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-6)
    for ours, theirs in zip(got, maps, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(features, maps[-1], rtol=0, atol=1e-6)
    assert (logits - other).abs().max() > 1e-3, "the second SiLU is seen"


@pytest.mark.parametrize("double_silu", [False, True])
def test_gates_beyond_float16_stay_finite(double_silu):
    """Gate and value are 400 in every channel: their product, 160,000, is no float16, and its projection is 1,600."""
    module = Aggregation(32, double_silu)
    with torch.no_grad():
        for last in (module.gate, module.value.mix):
            last.weight.zero_()
            last.bias.fill_(400)
        module.outward.weight.fill_(0.01 / 32)
        module.outward.bias.fill_(7)
    u = torch.randn(2, 32, 4, 4)
    with torch.autocast("cpu", torch.float16):
        out = module(u)
    torch.testing.assert_close(out, u + 1607, rtol=1e-5, atol=0)


def test_initialisation():
    torch.manual_seed(0)
    model = load_timm().create_model("moganet_tiny")
    for name, p in model.named_parameters():
        if name.endswith("gamma"):
            assert (p == 1e-5).all(), name
        elif name == "head.weight":
            assert p.std().item() == pytest.approx(0.01, rel=0.02)
        elif p.ndim == 4:
            module = model.get_submodule(name.removesuffix(".weight"))
            fan_out = p.shape[0] * p.shape[2] * p.shape[3] / module.groups
            assert p.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=4 / (2 * p.numel()) ** 0.5), name
        else:
            assert (p == ("norm" in name or ".embed." in name) * name.endswith("weight")).all(), name
