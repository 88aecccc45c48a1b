"""Hooks that stay: armed and not, compiled and not, on copies; what they read against another way to it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import nn

from fastmix.models import load_timm
from fastmix.models.sites import Tap, attention_inputs, class_attention, install, read, rewrite, sites, upto
from helpers.backbones import NAMES, ROWS, TOKENS, images, make, size_of
from helpers.graphs import Counted
from helpers.transformers import unfused

pytestmark = pytest.mark.gradient

SIZE = (64, 96)
VITS = [("test_vit", 1), ("deit_tiny_distilled_patch16_224", 2)]


@pytest.fixture(scope="module", params=NAMES)
def backbone(request) -> tuple[nn.Module, torch.Tensor]:
    """A model and images for it."""
    size = size_of(request.param)
    return make(request.param, size), images(2, *size)


def taps(model: nn.Module) -> list[Tap]:
    return [hook for module in model.modules() for hook in module._forward_hooks.values() if isinstance(hook, Tap)]


def scaled(given: torch.Tensor, output: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    return output * by


@pytest.mark.long
@torch.no_grad()
def test_installed_hooks_change_nothing(backbone):
    plain, x = backbone
    model, expected = copy.deepcopy(plain), plain(x)
    keys = list(model.state_dict())
    install(model)
    count = len(taps(model))
    assert count >= len(sites(model)) and torch.equal(model(x), expected)
    install(model)
    with read(model, "features"), rewrite(model, [*sites(model)][0], scaled, torch.tensor(2.0)):
        assert not torch.equal(model(x), expected)
    assert len(taps(model)) == count and list(model.state_dict()) == keys
    assert torch.equal(model(x), expected)


@pytest.mark.long
@torch.no_grad()
def test_features_are_what_the_head_gets(backbone):
    (model, x), given = backbone, []
    with rewrite(model, "features", lambda _, output: given.append(output)):
        logits = model(x)
    assert torch.equal(given[0], model.forward_features(x))
    assert torch.equal(model.forward_head(given[0]), logits)


@pytest.mark.long
@torch.no_grad()
def test_upto_is_what_is_read_and_runs_nothing_behind(backbone):
    (model, x), ran = backbone, []
    names = [site for site in sites(model) if site != "stem"]
    hooks = [
        model.get_submodule(path).register_forward_hook(lambda module, given, out, site=site: ran.append(site))
        for site, path in sites(model).items()
    ]
    for site in (names[0], names[-2], names[-1]):
        with read(model, site) as reading:
            model(x)
        ran.clear()
        assert torch.equal(upto(model, x, site), reading.value)
        assert [name for name in ran if name != "stem"] == names[: names.index(site) + 1]
    for hook in hooks:
        hook.remove()


def test_upto_has_a_graph_and_knows_where_it_can_stop():
    model = make("test_resnet")
    upto(model, images(1, 32, 32), "stage2").sum().backward()
    assert next(model.parameters()).grad.abs().max() > 0 and model.layer3[0].conv1.weight.grad is None
    for site in ("stem", "stage7"):
        with pytest.raises(
            ValueError, match=f"^test_resnet does not stop at '{site}'; choose one of stage1, .*stage4$"
        ):
            upto(model, images(1, 32, 32), site)


@pytest.mark.long
@pytest.mark.parametrize("name, found", [("test_resnet", ["stage1", "stage3"]), ("test_vit", ["block0", "block2"])])
def test_a_compiled_model_has_one_graph_for_each_armed_site(name, found):
    model = make(name, (32, 32), **({"img_size": 32} if name == "test_vit" else {})).train()
    install(model)
    eager, backend = copy.deepcopy(model), Counted()
    model.compile(backend=backend, fullgraph=True)
    counts = []
    for step in range(4):
        x, by = images(3, 32, 32) + step, torch.tensor(2.0 + step)
        assert torch.equal(model(x), eager(x))
        for site in found:
            with rewrite(model, site, scaled, by), rewrite(eager, site, scaled, by):
                logits, expected = model(x), eager(x)
            assert torch.equal(logits, expected)
            assert not torch.equal(logits, eager(x))
        with read(model, found[0]) as reading, read(eager, found[0]) as expected:
            model(x), eager(x)
        assert torch.equal(reading.value, expected.value)
        counts.append(backend.graphs)
    assert counts == [4] * 4, "no site, each of two, one that is read"
    torch._dynamo.reset()


@pytest.mark.long
@torch.no_grad()
def test_a_site_that_a_compiled_model_does_not_know_is_right_too():
    model, x, two = make("test_resnet"), images(2, 32, 32), torch.tensor(2.0)
    clean = model(x)
    with rewrite(model, "stage2", scaled, two):
        expected = model(x)
    model = make("test_resnet")
    backend = Counted()
    model.compile(backend=backend)
    assert torch.equal(model(x), clean)
    for _ in range(2):
        with rewrite(model, "stage2", scaled, two):
            assert torch.equal(model(x), expected)
        assert torch.equal(model(x), clean)
    assert backend.graphs == 1
    torch._dynamo.reset()


@torch.no_grad()
def test_changes_of_one_site_follow_each_other_and_end_with_an_error_too():
    model, x, kept = make("test_resnet"), images(2, 32, 32), []

    def plus(given, output):
        kept.append(output)
        return output + 1

    clean = model(x)
    with read(model, "stage2") as before, rewrite(model, "stage2", plus), rewrite(model, "stage2", scaled, 2):
        with read(model, "stage2") as after:
            model(x)
    assert torch.equal(before.value, kept[0]) and torch.equal(after.value, (kept[0] + 1) * 2)
    with pytest.raises(RuntimeError, match="stopped"):
        with rewrite(model, "stage2", plus):
            raise RuntimeError("stopped")
    assert torch.equal(model(x), clean)


@torch.no_grad()
def test_a_copy_shares_nothing():
    model, x, two = make("test_resnet"), images(2, 32, 32), torch.tensor(2.0)
    install(model)
    clean = model(x)
    with rewrite(model, "stage2", scaled, two):
        changed, copied = model(x), copy.deepcopy(model)
        assert torch.equal(copied(x), clean), "made while the site is armed"
        with read(copied, "stage2") as reading:
            model(x)
            assert reading.value is None
    with rewrite(copied, "stage2", scaled, two):
        assert torch.equal(model(x), clean) and torch.equal(copied(x), changed)
    assert len(taps(copied)) == len(taps(model)) and not {*map(id, taps(copied))} & {*map(id, taps(model))}


@pytest.mark.parametrize("name, prefix", VITS)
@torch.no_grad()
def test_attention_is_that_of_the_unfused_blocks(name, prefix):
    model, x = make(name, SIZE, **({"img_size": SIZE} if name == "test_vit" else {})), images(3, *SIZE)
    slow, expected = unfused(model)
    slow(x)
    with class_attention(model) as last, attention_inputs(model) as blocks:
        model(x)
    assert last.value.shape == (3, 24) and last.value.dtype == torch.float32
    assert (last.value - expected[-1].mean(1)[:, 0, prefix:]).abs().max() < 1e-6
    assert (last.received - expected[-1][:, :, prefix:, prefix:].mean((1, 2))).abs().max() < 1e-6
    assert len(blocks) == len(expected) == len(model.blocks)
    for block, matrix in zip(blocks, expected, strict=True):
        assert (block.rows(0) - matrix.mean(1)).abs().max() < 1e-6
        assert (block.value - matrix.mean(1)[:, 0, prefix:]).abs().max() < 1e-6


@torch.no_grad()
def test_attention_of_pvt_is_that_of_its_last_stage(monkeypatch):
    model, x, expected = make("pvt_tiny", SIZE), images(2, *SIZE), []
    with attention_inputs(model) as blocks, class_attention(model) as last:
        logits = model(x)

    def explicit(q, k, v, scale):
        expected.append((q @ k.mT * scale).softmax(-1))
        return expected[-1] @ v

    monkeypatch.setattr(F, "scaled_dot_product_attention", explicit)
    assert (model(x) - logits).abs().max() < 1e-5 and len(expected) == 8
    for block, matrix in zip(blocks, expected[-2:], strict=True):
        assert (block.rows(0) - matrix.mean(1)).abs().max() < 1e-6
    assert last.value.shape == (2, 6) and (last.value - expected[-1].mean(1)[:, 0, 1:]).abs().max() < 1e-6


def test_attention_has_no_gradient_and_is_fp32_under_autocast():
    model, x = make("test_vit", img_size=32), images(3, 32, 32)
    with class_attention(model) as exact:
        model(x)
    with torch.autocast("cpu", torch.bfloat16):
        with class_attention(model) as half:
            logits = model(x)
        assert half.q.dtype == torch.bfloat16 and half.value.dtype == torch.float32
        again = (half.q[:, :, :1].double() @ half.k.double().mT * half.scale).softmax(-1).mean(1)[:, 0, 1:]
        assert (half.value - again).abs().max() < 1e-6, "of the q and k that the model had, in fp32"
    assert (half.value - exact.value).abs().max() < 0.02
    assert logits.requires_grad and not half.q.requires_grad and not half.k.requires_grad
    assert not half.value.requires_grad and not half.received.requires_grad


def test_attention_of_a_compiled_model_is_read_in_one_graph():
    model = make("test_vit", img_size=32).train()
    install(model)
    eager, backend = copy.deepcopy(model), Counted()
    model.compile(backend=backend, fullgraph=True)
    for step in range(3):
        x = images(3, 32, 32) + step
        with class_attention(model) as found, class_attention(eager) as expected:
            model(x).sum().backward()
            eager(x)
        assert torch.equal(found.value, expected.value)
        assert backend.graphs == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ROWS)
def test_models_without_a_class_token_say_who_has_one(name):
    with torch.device("meta"):
        model = load_timm().create_model(name)
    if name in TOKENS:
        with class_attention(model):
            return
    words = "has no class token whose attention can be read; of the benchmark's backbones DeiT-T, DeiT-S, DeiT-B and"
    if not name.startswith("wrn"):  # timm's own, with another stem or width
        name = name.removesuffix("_cifar").removesuffix("_quarter")
    for ask in (class_attention, attention_inputs):
        with pytest.raises(ValueError, match=f"^{name} {words} PVT-T have one$"):
            with ask(model):
                pass
