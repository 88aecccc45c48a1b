"""Backbones: the published parameter counts, the small stem, the initialisation."""

import pytest
import torch

from fastmix.config import Model
from fastmix.models import build


@pytest.mark.parametrize(
    "name, classes, parameters",
    [("resnet18", 1000, 11_689_512), ("resnet18_cifar", 200, 11_271_432), ("resnext50_32x4d_cifar", 200, 23_382_024)],
)
def test_parameter_counts(name, classes, parameters):
    assert sum(p.numel() for p in build(Model(name), classes).parameters()) == parameters


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


def test_a_wrong_argument_names_the_model():
    with pytest.raises(ValueError, match="model resnet18: .*depths"):
        build(Model("resnet18", args={"depths": 3}), 10)
