"""Backbones: published parameter counts and costs, initialisation, sizes; what the documentation lists."""

from __future__ import annotations

import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fastmix.config import Model
from fastmix.models import build, load_timm
from helpers.backbones import ROWS, TEXT


def on_meta(name: str, **args) -> torch.nn.Module:
    """The model without its values."""
    with torch.device("meta"):
        return load_timm().create_model(name, **args).eval()


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.long
@pytest.mark.parametrize("name", ROWS)
def test_the_documented_counts(name):
    count, gmac, size, where = ROWS[name]
    classes = re.search(r"(\d+) classes", where)
    model = on_meta(name, num_classes=int(classes[1]) if classes else 1000)
    assert parameters(model) == count
    with FlopCounterMode(display=False) as flops:
        model(torch.empty(1, 3, size, size, device="meta"))
    assert f"{flops.get_total_flops() / 2e9:.2f}" == gmac


def test_every_backbone_of_the_benchmark_is_listed():
    assert len(ROWS) == 20 == len(re.findall(r"^\| `\w+` ", TEXT, re.M))


def small_stem_layers(width: int, size: int) -> list[tuple[int, int, int, int]]:
    """Input and output channels, kernel and side of the map of each convolution of a ResNet-18 with the small stem."""
    layers, channels = [(3, width, 3, size)], width
    for stage in range(4):
        out, side = width << stage, size >> stage
        layers += [(channels, out, 3, side)] + 3 * [(out, out, 3, side)]
        layers += [(channels, out, 1, side)] if stage else []
        channels = out
    return layers


@pytest.mark.parametrize(
    "name, width, size, classes", [("resnet18_quarter_cifar", 16, 32, 10), ("resnet18_cifar", 64, 64, 200)]
)
def test_the_small_stems_counts_from_a_list_of_layers(name, width, size, classes):
    layers = small_stem_layers(width, size)
    model = on_meta(name, num_classes=classes)
    norms = 2 * sum(out for _, out, _, _ in layers)
    assert parameters(model) == sum(i * o * k * k for i, o, k, _ in layers) + norms + (8 * width + 1) * classes
    with FlopCounterMode(display=False) as flops:
        model(torch.empty(1, 3, size, size, device="meta"))
    assert flops.get_total_flops() == 2 * (
        sum(i * o * (k * side) ** 2 for i, o, k, side in layers) + 8 * width * classes
    )


def test_the_quarter_has_a_quarter_of_the_channels_everywhere():
    whole, quarter = (
        dict(on_meta(f"resnet18{part}_cifar", num_classes=10).named_parameters()) for part in ("", "_quarter")
    )
    assert {name: tuple(p.shape) for name, p in quarter.items()} == {
        name: tuple(n // 4 if n >= 64 else n for n in p.shape)  # smaller ones: kernels, colours, classes
        for name, p in whole.items()
    }


# The figures of the papers, in thousand millions.
@pytest.mark.parametrize("name, published", [("pvt_tiny", 1.94), ("pvt_small", 3.8), ("moganet_tiny", 1.09)])
def test_cost_of_our_own_as_published(name, published):
    with FlopCounterMode(display=False) as flops:
        on_meta(name)(torch.empty(1, 3, 224, 224, device="meta"))
    assert flops.get_total_flops() / 2e9 == pytest.approx(published, rel=0.02)


def test_pvt_small_has_the_published_size():
    assert parameters(on_meta("pvt_small")) == pytest.approx(24.5e6, abs=0.05e6)


def test_the_small_stem_keeps_the_resolution():
    model = build(Model("resnet18_cifar"), 10).eval()
    sizes = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage.register_forward_hook(lambda module, given, out: sizes.append(out.shape[-1]))
    model(torch.zeros(1, 3, 64, 64))
    assert sizes == [64, 32, 16, 8]


def test_initialisation_is_the_recipes_and_a_function_of_the_seed():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, other = (build(Model("resnet18"), 1000, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.fc.weight, other.fc.weight)
    assert a.fc.weight.std().item() == pytest.approx(0.01, rel=0.01) and not a.fc.bias.any()
    assert all(not block.bn2.weight.any() for stage in (a.layer1, a.layer4) for block in stage)
    conv = a.layer4[1].conv2.weight
    assert conv.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert conv.is_contiguous(memory_format=torch.channels_last)


def test_initialisation_of_bottlenecks_with_groups():
    model = build(Model("resnext50_32x4d_cifar"), 200)
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]
    assert all(not block.bn3.weight.any() and (block.bn2.weight == 1).all() for block in blocks)
    # the fan-out does not count groups: 1024 * 9 for [1024,32,3,3]
    assert model.layer4[0].conv2.weight.std().item() == pytest.approx((2 / (1024 * 9)) ** 0.5, rel=0.02)
    assert model.conv1.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.01)


def test_initialisation_of_vits():
    model = build(Model("deit_tiny_patch16_224"), 1000)
    for value in (model.cls_token, model.pos_embed, model.head.weight, model.blocks[3].mlp.fc1.weight):
        assert value.std().item() == pytest.approx(0.02, rel=0.15 if value.numel() < 1000 else 0.03)
    assert not model.blocks[3].attn.qkv.bias.any()


def test_loaded_weights_are_kept(tmp_path):
    model = build(Model("resnet18_cifar"), 7, seed=1)
    model.fc.weight.data.fill_(0.5)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    again = build(Model("resnet18_cifar", args={"checkpoint_path": str(tmp_path / "weights.pt")}), 7, seed=2)
    theirs = again.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())


def test_the_convnext_of_cifar_is_timms_behind_another_stem():
    model = build(Model("convnext_tiny_cifar", args={"drop_path_rate": 0.3}), 100)
    timms, own = (
        dict(on_meta(name, num_classes=100).named_parameters()) for name in ("convnext_tiny", "convnext_tiny_cifar")
    )
    assert {n: p.shape for n, p in own.items() if "stem.0" not in n} == {
        n: p.shape for n, p in timms.items() if "stem.0" not in n
    }
    assert own["stem.0.weight"].shape == (96, 3, 3, 3)
    maps = model.forward_intermediates(torch.zeros(1, 3, 32, 32), intermediates_only=True)
    assert [m.shape[-1] for m in maps] == [32, 16, 8, 4]
    assert model.stem[0].weight.std().item() == pytest.approx(0.02, rel=0.05) and not model.stem[0].bias.any()


SIZED = tuple(name for name in ROWS if name.startswith(("deit", "swin", "pvt", "moganet")))  # these know img_size


@pytest.mark.long
@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", ROWS)
def test_small_images_as_build_says(name, size):
    model = on_meta(name, num_classes=10, **({"img_size": size} if name in SIZED else {}))
    assert model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 10)
    if name not in SIZED:
        with pytest.raises(ValueError, match=f"model {name} with .*img_size"):
            build(Model(name, args={"img_size": size}), 10)


@pytest.mark.parametrize("name", ["resnet18_cifar", "pvt_tiny", "moganet_tiny"])
def test_other_channels(name):
    model = on_meta(name, num_classes=10, in_chans=5)
    assert model(torch.empty(1, 5, 64, 64, device="meta")).shape == (1, 10)


def test_a_wrong_argument_names_the_model():
    with pytest.raises(ValueError, match="model resnet18 with model.args .*: .*depths"):
        build(Model("resnet18", args={"depths": 3}), 10)
