"""Sites of every backbone: maps against timm's own intermediates, the last map against the logits that follow."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fastmix.models import load_timm
from fastmix.models.sites import as_map, classifier, last_map, read, rewrite, sites
from helpers.backbones import NAMES, ROWS, TOKENS, images, make, size_of


def sites_of(name: str) -> list[str]:
    """All but the stem."""
    if name.startswith("deit"):
        return [f"block{k}" for k in range(12)]
    return [f"stage{k}" for k in range(1, 4 if name.startswith("wrn") else 5)]


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_stages_are_timms_intermediates(name):
    size = size_of(name)
    model, x = make(name, size), images(2, *size)
    inner = [site for site in sites(model) if site != "stem"]
    maps = model.forward_intermediates(x, norm=False, intermediates_only=True)[-len(inner) :]
    expected = dict(zip(inner, maps, strict=True))
    assert inner == sites_of(name)
    for site in inner if len(inner) < 12 else ("block0", "block6", "block11"):
        with read(model, site) as reading:
            assert reading.value is None
            model(x)
        assert torch.equal(reading.value, expected[site])
        if len(inner) < 12:
            stride = 2 ** (int(site[-1]) + 1) // (4 if name.endswith("_cifar") else 1)
            assert reading.value.shape[2:] == (size[0] // stride, size[1] // stride)


@pytest.mark.parametrize("name", ROWS)
def test_every_backbone_has_its_sites(name):
    with torch.device("meta"):
        model = load_timm().create_model(name, num_classes=5)
    found, order = sites(model), []
    for path in found.values():
        model.get_submodule(path).register_forward_hook(lambda module, given, out, path=path: order.append(path))
    model(torch.empty(1, 3, 224, 224, device="meta"))
    assert list(found.values()) == order
    assert ("stem" in found) == (not name.startswith("pvt"))
    assert [site for site in found if site != "stem"] == sites_of(name)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in NAMES if name not in TOKENS])
@torch.no_grad()
def test_the_stem_is_a_map_of_the_whole_image(name):
    model, x = make(name, (64, 64)), images(2, 64, 64)
    with read(model, "stem") as reading:
        model(x)
    side = math.isqrt(reading.value[0, 0].numel())
    assert reading.value.shape[2:] == (side, side) and side in (64, 32, 16)


@torch.no_grad()
def test_tokens_become_the_place_that_they_come_from():
    model = make("deit_tiny_patch16_224", (32, 48))
    x = torch.zeros(1, 3, 32, 48)
    x[:, :, 16:, 32:] = 1  # the last of 2 x 3 patches
    with read(model, "stem") as reading:
        model(x)
    assert reading.value.shape == (1, 192, 2, 3)
    different = (reading.value - reading.value[:, :, :1, :1]).abs().amax((0, 1)) > 0
    assert different.tolist() == [[False] * 3, [False, False, True]]


@torch.no_grad()
@pytest.mark.parametrize("name, site", [("resnet18", "stage2"), ("swin_tiny_patch4_window7_224", "stage2")])
def test_rewriting_a_site_by_itself_changes_nothing_and_by_another_everything_behind(name, site):
    model, x = make(name, (64, 64)), images(2, 64, 64)
    clean = model(x)
    with rewrite(model, site, lambda given, output: output.clone()):
        assert torch.equal(model(x), clean)
    with rewrite(model, site, lambda given, output: output.flip(0)):
        assert torch.equal(model(x), clean.flip(0))
    assert torch.equal(model(x), clean), "the hook is gone"


@torch.no_grad()
def test_a_compiled_model_is_read_too():
    model, x = make("test_resnet"), images(2, 32, 32)
    clean = model(x)
    model.compile(backend="eager")
    assert torch.equal(model(x), clean)
    with read(model, "stage3") as reading:
        model(x)
    assert torch.equal(reading.value, model.forward_intermediates(x, intermediates_only=True)[-2])


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in NAMES if name not in TOKENS])
@torch.no_grad()
def test_the_classifier_judges_the_mean_of_the_last_map(name):
    model, x = make(name, size_of(name)), images(2, *size_of(name))
    weight, bias = classifier(model)
    features = last_map(model, x)
    assert features.shape[:2] == (2, weight.shape[1])
    logits = nn.functional.linear(features.mean((2, 3)), weight, bias)
    if name.startswith("convnext"):  # it normalises the mean: the same on a map that is everywhere the same
        same = model.forward_features(x).mean((2, 3), keepdim=True)
        logits = nn.functional.linear(model.head.norm(same)[:, :, 0, 0], weight, bias)
        assert (features - model.head.norm(model.forward_features(x))).abs().max() == 0
    assert (logits - model(x)).abs().max() < 1e-5


@pytest.mark.parametrize("name", TOKENS)
def test_a_model_without_a_last_map_says_so(name):
    with torch.device("meta"):
        model = load_timm().create_model(name)
    with pytest.raises(
        ValueError, match=f"^{name} classifies from a class token, not from a map; choose another model$"
    ):
        last_map(model, torch.empty(1, 3, 224, 224, device="meta"))


def test_errors_are_one_line_and_name_the_model():
    model = make("test_resnet")
    with pytest.raises(ValueError, match="^test_resnet has no site 'stage9'; choose one of stem, stage1.*$"):
        with read(model, "stage9"):
            pass
    with pytest.raises(ValueError, match="^Linear does not tell its stages"):
        sites(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="^test_resnet has no linear classifier$"):
        classifier(load_timm().create_model("test_resnet", num_classes=0))


def test_as_map_is_a_view():
    output = torch.zeros(1, 4, 6, 5)
    assert as_map(make("test_resnet"), output, output).data_ptr() == output.data_ptr()
