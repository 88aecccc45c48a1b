"""Wide ResNets against the paper's formulas in float64, written for this test, and their size from a list of layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastmix.config import Model
from fastmix.models import build, load_timm
from fastmix.models.sites import sites

timm = load_timm()


def activated(x: Tensor, w: dict, name: str, benchmark: bool) -> Tensor:
    mean, var, scale, shift = (
        w[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
    )
    x = (x - mean) / (var + (1e-3 if benchmark else 1e-5)).sqrt() * scale + shift
    return torch.where(x > 0, x, 0.1 * x if benchmark else torch.zeros_like(x))


def conv(x: Tensor, w: dict, name: str, stride: int = 1) -> Tensor:
    kernel = w[f"{name}.weight"]
    columns = F.unfold(x, kernel.shape[-1], padding=kernel.shape[-1] // 2, stride=stride)
    out = (kernel.flatten(1) @ columns).unflatten(2, (x.shape[2] // stride, x.shape[3] // stride))
    return out + w[f"{name}.bias"][:, None, None] if f"{name}.bias" in w else out


def reference(w: dict, x: Tensor, depth: int, benchmark: bool) -> Tensor:
    x = conv(x, w, "stages.0.embed")
    for stage in range(3):
        for n in range((depth - 4) // 6):
            block, stride = f"stages.{stage}.blocks.{n}", 2 if stage and not n else 1
            active = activated(x, w, f"{block}.norm1", benchmark)
            y = conv(active, w, f"{block}.conv1", stride)
            y = conv(activated(y, w, f"{block}.norm2", benchmark), w, f"{block}.conv2")
            if f"{block}.shortcut.weight" in w:
                x = conv(x if benchmark and stage else active, w, f"{block}.shortcut", stride)
            x = x + y
    return activated(x, w, "norm", benchmark).mean((2, 3)) @ w["head.weight"].T + w["head.bias"]


@pytest.mark.parametrize("benchmark", [False, True])
def test_logits_equal_the_formulas(benchmark):
    args = {"depth": 16, "width": 2, "num_classes": 7, "benchmark": benchmark}
    model = timm.create_model("wrn28_8_cifar", **args).double().eval()
    torch.manual_seed(1)
    for name, value in model.state_dict().items():
        if "norm" in name and value.is_floating_point():
            value.uniform_(0.5, 1.5)
        elif name.endswith("bias"):
            value.normal_(std=0.3)
    x = torch.randn(2, 3, 16, 20, dtype=torch.float64)
    with torch.no_grad():
        got = model(x)
        torch.testing.assert_close(got, reference(model.state_dict(), x, 16, benchmark), rtol=1e-9, atol=1e-9)
        assert (got - reference(model.state_dict(), x, 16, not benchmark)).abs().max() > 1e-3


@pytest.mark.parametrize("classes, millions", [(10, 23.4), (100, 23.4)])
def test_its_size_from_a_list_of_layers(classes, millions):
    """The paper prints 23.4 million for WRN-28-8."""
    convolutions, norms, channels = [(3, 16, 3)], [], 16
    for width in (128, 256, 512):
        for n in range(4):
            norms += [channels, width]
            convolutions += [(channels, width, 3), (width, width, 3)] + [(channels, width, 1)] * (n == 0)
            channels = width
    plain = sum(i * o * k * k for i, o, k in convolutions) + 2 * sum([*norms, 512]) + (512 + 1) * classes
    for benchmark, more in ((False, 0), (True, sum(o for _, o, _ in convolutions))):
        with torch.device("meta"):
            model = timm.create_model("wrn28_8_cifar", num_classes=classes, benchmark=benchmark)
        assert sum(p.numel() for p in model.parameters()) == plain + more
    assert round(plain / 1e6, 1) == millions


def test_maps_and_sites():
    model = build(Model("wrn28_8_cifar", args={"depth": 10, "width": 1}), 10).eval()
    maps = model.forward_intermediates(torch.zeros(1, 3, 32, 32), intermediates_only=True)
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert list(sites(model)) == ["stem", "stage1", "stage2", "stage3"]
    parts = timm.create_model("wrn28_8_cifar", depth=10, width=1, features_only=True)
    assert parts.feature_info.channels() == [16, 32, 64] and len(parts(torch.zeros(1, 3, 32, 32))) == 3


def test_it_starts_as_timms_resnets():
    model = build(Model("wrn28_8_cifar"), 100, seed=3)
    for stage, width in zip(model.stages, (128, 256, 512), strict=True):
        for weight in (stage.blocks[1].conv1.weight, stage.blocks[1].conv2.weight):
            assert weight.std().item() == pytest.approx((2 / (9 * width)) ** 0.5, rel=0.02)
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.02) and not model.head.bias.any()
    assert (model.norm.weight == 1).all() and not model.norm.bias.any()


@pytest.mark.parametrize("depth", [4, 27])
def test_another_depth_is_refused(depth):
    with pytest.raises(ValueError, match=f"model wrn28_8_cifar .*depth is {depth}; it must be 6 n \\+ 4"):
        build(Model("wrn28_8_cifar", args={"depth": depth}), 10)
