"""What timm's models offer, ours offer too: names, features, classifiers, weights, checkpointing, compilation."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastmix.config import Model
from fastmix.models import build, load_timm

timm = load_timm()
DEPTHS = {"pvt_tiny": (2, 2, 2, 2), "moganet_tiny": (3, 3, 12, 2)}
NAMES = list(DEPTHS)


def lively(model: nn.Module) -> nn.Module:
    """Layer scales of 1e-5 would hide the blocks."""
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(parameter, 0.3)
    return model


@pytest.fixture(scope="module", params=NAMES)
def model(request) -> nn.Module:
    """In evaluation mode, for images of 64 pixels and 7 classes; BN statistics of noise."""
    args = {"drop_path_rate": 0.1, "img_size": 64}
    model = lively(build(Model(request.param, args=args, channels_last=False), 7, seed=1))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        torch.manual_seed(0)  # of the dropped paths
        model(images(16))
        for norm in norms:
            norm.momentum = 0.1
    return model.eval()


def images(n: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def name_of(model: nn.Module) -> str:
    return model.pretrained_cfg["architecture"]


@torch.no_grad()
def test_features_head_and_intermediates_are_parts_of_the_forward_pass(model):
    x = images()
    logits, features = model(x), model.forward_features(x)
    before = model.forward_head(features, pre_logits=True)
    assert torch.equal(model.forward_head(features), logits)
    assert torch.equal(model.get_classifier()(before), logits) and before.shape == (2, model.num_features)

    final, maps = model.forward_intermediates(x, norm=True)
    assert torch.equal(final, features) and len(maps) == 4
    for info, stage in zip(model.feature_info, maps, strict=True):
        assert stage.shape == (2, info["num_chs"], 64 // info["reduction"], 64 // info["reduction"])
    places = features[:, model.num_prefix_tokens :].transpose(1, 2) if features.ndim == 3 else features.flatten(2)
    assert torch.equal(maps[-1].flatten(2), places)


@torch.no_grad()
def test_intermediates_are_the_outputs_of_the_named_stages(model):
    x, seen = images(), []
    hooks = [
        model.get_submodule(info["module"]).register_forward_hook(lambda m, given, out: seen.append(out))
        for info in model.feature_info
    ]
    _, maps = model.forward_intermediates(x)
    assert all(torch.equal(a, b) for a, b in zip(seen[:3], maps, strict=False))
    seen.clear()
    (only,) = model.forward_intermediates(x, indices=[-2], stop_early=True, intermediates_only=True)
    assert torch.equal(only, maps[2]) and len(seen) == 3, "the last stage is not run"
    last, _ = model.forward_intermediates(x, indices=[1], stop_early=True)
    assert torch.equal(last, maps[1])
    two = model.forward_intermediates(x, indices=2, intermediates_only=True)
    assert torch.equal(two[0], maps[2]) and torch.equal(two[1], maps[3])
    for hook in hooks:
        hook.remove()
    with pytest.raises(ValueError, match="output_fmt must be NCHW, not NLC"):
        model.forward_intermediates(x, output_fmt="NLC")


@torch.no_grad()
def test_replacing_a_stages_output_replaces_what_follows(model):
    """As feature mixing does it, with a hook: exchanging two images' maps exchanges their logits."""
    x = images()
    hook = model.stages[1].register_forward_hook(lambda m, given, out: out.flip(0))
    exchanged = model(x)
    hook.remove()
    torch.testing.assert_close(exchanged, model(x).flip(0), rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_features_only(name):
    torch.manual_seed(4)
    whole = timm.create_model(name, img_size=64).eval()
    torch.manual_seed(4)
    part = timm.create_model(name, img_size=64, features_only=True, out_indices=(0, 2)).eval()
    wanted = whole.forward_intermediates(images(), indices=[0, 2], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(part(images()), wanted, strict=True))
    assert part.feature_info.channels() == [m.shape[1] for m in wanted]
    assert not [n for n, _ in part.named_parameters() if "stages.3" in n or "head" in n], (
        "what is not needed is left out"
    )


@pytest.mark.parametrize("name", NAMES)
def test_reset_classifier(name):
    torch.manual_seed(2)
    model = timm.create_model(name, img_size=64).eval()
    with torch.no_grad():
        before = model.forward_head(model.forward_features(images()), pre_logits=True)
        model.reset_classifier(300)
        head = model.get_classifier()
        torch.testing.assert_close(model(images()), before @ head.weight.T, rtol=1e-4, atol=1e-6)
        assert head.weight.std().item() == pytest.approx({"pvt_tiny": 0.02, "moganet_tiny": 0.01}[name], rel=0.02)
        model.reset_classifier(0)
        assert torch.equal(model(images()), before)
        model.reset_classifier(0, "")
        assert torch.equal(model(images()), model.forward_features(images()))
    with pytest.raises(ValueError, match="global_pool must be .* not 'max'"):
        model.reset_classifier(3, "max")


@torch.no_grad()
def test_a_checkpoint_goes_through_timm(model, tmp_path):
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    args = {"num_classes": 7, "img_size": 64, "checkpoint_path": tmp_path / "model.safetensors"}
    again = timm.create_model(name_of(model), **args).eval()
    assert torch.equal(again(images()), model(images()))


@pytest.mark.parametrize("name", NAMES)
def test_unpublished_weights_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} has no published weights"):
        timm.create_model(name, pretrained=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_description_names_both_ends(name):
    with torch.device("meta"):
        model = timm.create_model(name, in_chans=4, num_classes=9)
    first, last = (model.get_submodule(model.default_cfg[key]) for key in ("first_conv", "classifier"))
    assert first.in_channels == model.in_chans == 4 and last.out_features == model.num_classes == 9
    assert next(model.children()).get_submodule("0") is model.stages[0] and last is model.get_classifier()


def test_drop_path_grows_with_depth(model):
    name = name_of(model)
    rates = [
        (block.drop_path1.drop_prob, block.drop_path2.drop_prob) for stage in model.stages for block in stage.blocks
    ]
    wanted = np.linspace(0, 0.1, sum(DEPTHS[name]))
    np.testing.assert_allclose(rates, np.stack([wanted, wanted], 1), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_dropped_block_is_the_identity(name):
    model = lively(timm.create_model(name, img_size=32, drop_path_rate=1.0))
    block = model.stages[3].blocks[-1]
    x = torch.randn(2, 5, 512) if name == "pvt_tiny" else torch.randn(2, 256, 2, 2)
    grid = ((2, 2),) if name == "pvt_tiny" else ()
    assert torch.equal(block(x, *grid), x) and not torch.equal(block.eval()(x, *grid), x)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    model.zero_grad()
    nn.functional.cross_entropy(model(images()), torch.tensor([1, 3])).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_the_gradient_reaches_everything_and_is_the_same_when_recomputed(model):
    plain = gradients(model)
    assert [name for name, grad in plain.items() if not grad.any() or not grad.isfinite().all()] == []
    calls = []
    hook = model.stages[1].blocks[0].register_forward_pre_hook(lambda *a: calls.append(0))
    model.set_grad_checkpointing()
    again = gradients(model)
    model.set_grad_checkpointing(False)
    hook.remove()
    assert len(calls) == 2, "the block ran again in the backward pass"
    for name, grad in plain.items():
        torch.testing.assert_close(again[name], grad, rtol=1e-5, atol=1e-8, msg=name)


def test_layers_of_layer_decay_are_the_blocks(model):
    """Stem, then a layer a block (the entry of a stage with its first block, its closing norm with its last), head."""
    from timm.models import group_parameters

    depths = DEPTHS[name_of(model)]
    starts = np.cumsum((0, *depths))
    for name, layer in group_parameters(model, model.group_matcher(), reverse=True).items():
        block = re.match(r"stages\.(\d)\.blocks\.(\d+)\.", name)
        stage = re.match(r"stages\.(\d)\.(norm)?", name)
        if block:
            wanted = 1 + starts[int(block[1])] + int(block[2])
        elif stage and stage[2]:
            wanted = starts[int(stage[1]) + 1]
        elif stage:
            wanted = 1 + starts[int(stage[1])] if int(stage[1]) else 0
        else:
            wanted = starts[-1] + (1 if name.startswith("head") else 0)
        assert layer == wanted, name
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert sorted(set(coarse.values())) == [0, 1, 2, 3, 4, 5]


def test_no_weight_decay_names_what_is_no_weight(model):
    names = dict(model.named_parameters())
    spared = model.no_weight_decay()
    assert spared == {n for n in names if re.search(r"pos_embed$|cls_token$|\.(scale|ls\d)\.gamma$", n)} and spared
    layers = {n for n, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    assert {n for n, p in names.items() if n not in spared and p.ndim > 1} == {f"{n}.weight" for n in layers}


@torch.no_grad()
def test_channels_last_and_half_precision_stay_close(model):
    wanted = model(images())
    other = build(Model(name_of(model), args={"img_size": 64}), 7).eval()
    other.load_state_dict(model.state_dict())
    x = images().to(memory_format=torch.channels_last)
    torch.testing.assert_close(other(x), wanted, rtol=1e-4, atol=1e-5)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            rounded = other(x).float()
        # MogaNet's gates, products of what comes in, amplify rounding
        assert (rounded - wanted).norm() < 32 * torch.finfo(dtype).eps * wanted.norm()


@pytest.mark.long
@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_compiles_as_one_graph(name):
    model = lively(build(Model(name, args={"img_size": 64, "drop_path_rate": 0.1}), 7))
    for stage in model.stages:
        stage.blocks = stage.blocks[-1:]  # one of each kind
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert compiled(images()).isfinite().all()
