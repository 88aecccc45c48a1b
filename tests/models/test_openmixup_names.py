"""Checkpoints of OpenMixup, by an independent renaming of timm's models: they load, and give the same outputs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastmix import config
from fastmix.models import build, load_timm, pretrained, weights
from fastmix.models.openmixup import renamed
from helpers.openmixup_names import state, theirs, unfolded

CASES = [
    ("resnet", "resnet18", {}, 32),
    ("resnet", "resnext50_32x4d_cifar", {}, 32),
    ("vit", "deit_tiny_patch16_224", {"img_size": 32, "depth": 3}, 32),
    ("swin", "swin_tiny_patch4_window7_224", {"img_size": 64, "depths": (1, 1, 2, 1)}, 64),
    ("convnext", "convnext_tiny", {"depths": (1, 1, 2, 1)}, 32),
    ("pvt", "pvt_tiny", {"img_size": 32}, 32),
    ("moganet", "moganet_tiny", {}, 32),
    ("wide_resnet", "wrn28_8_cifar", {"benchmark": True, "depth": 10}, 16),
    ("efficientnet", "tf_efficientnet_b0", {}, 32),
    ("mobilenet_v2", "mobilenetv2_100", {}, 32),
]


def network(name, args, seed, classes=5):
    model = build(config.Model(name, args=args), classes, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():  # so that no two tensors are alike
        if value.is_floating_point():
            value.add_(0.1 * (torch.rand(value.shape, generator=generator) - 0.5 * (value.ndim > 1)))
    return model


@pytest.mark.parametrize("family, name, args, size", CASES, ids=[case[1] for case in CASES])
def test_a_checkpoint_gives_the_outputs_of_the_network_that_it_is_of(family, name, args, size, tmp_path):
    donor, other = network(name, args, 1), network(name, args, 2)
    file = tmp_path / "epoch_300.pth"
    given = state(family, donor)
    assert any(name.startswith("backbone.") for name in given)
    torch.save({"meta": {"epoch": 300}, "state_dict": given, "optimizer": {}}, file)
    weights.put(weights.read(file).sets["raw"], other, file)
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        expected = donor(x)
        assert expected.isfinite().all() and expected.std() > 0 and torch.equal(other(x), expected)


def test_the_network_of_automix_is_q_with_the_classifier_of_mixed_images(tmp_path):
    q, k, fresh = (network("resnet18_cifar", {}, seed) for seed in (1, 2, 3))
    one = {name.replace("backbone.", "backbone_q."): v for name, v in state("resnet", q).items()}
    two = {name.replace("backbone.", "backbone_k."): v for name, v in state("resnet", k).items()}
    given = {name.replace("head.", "head_mix_q."): v for name, v in one.items()}
    given |= {name.replace("head.", "head_mix_k."): v for name, v in two.items()}
    given |= {name: v for name, v in state("resnet", k).items()}  # there `backbone` and `head` are k's, by another name
    given |= {"mix_block.query.conv.weight": torch.rand(4, 4, 1, 1), "ema_backbone_q_conv1_weight": torch.rand(1)}
    torch.save({"state_dict": given}, tmp_path / "latest.pth")
    lines, anew = pretrained.fit(weights.read(tmp_path / "latest.pth"), fresh, [str(n) for n in range(5)], "latest.pth")
    assert anew == "" and "left out" not in " ".join(lines)
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, q.state_dict()[name]), name


def test_pixels_are_merged_in_the_order_that_unfold_gives_them():
    """A merging of patches as that code has it, with torch.nn.Unfold, against timm's, by float64 outputs."""
    load_timm()
    from timm.models.swin_transformer import PatchMerging

    torch.manual_seed(0)
    there = nn.ModuleDict({"norm": nn.LayerNorm(24), "reduction": nn.Linear(24, 12, bias=False)}).double()
    nn.init.normal_(there["norm"].weight)
    nn.init.normal_(there["norm"].bias)
    x = torch.randn(2, 8, 10, 6, dtype=torch.double)
    tokens = F.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
    expected = there["reduction"](there["norm"](tokens)).unflatten(1, (4, 5))
    given = {f"backbone.stages.0.downsample.{name}": v for name, v in there.state_dict().items()}
    given["backbone.stages.0.blocks.0.attn.w_msa.qkv.weight"] = torch.zeros(1)
    ours = PatchMerging(6, 12).double()
    prefix = "layers.1.downsample."
    ours.load_state_dict({n.removeprefix(prefix): v for n, v in renamed(given).items() if n.startswith(prefix)})
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-12)


def test_the_helper_undoes_the_order():
    value = torch.arange(24.0)
    there = {"backbone.stages.0.downsample.norm.weight": unfolded(value)}
    there["backbone.stages.0.blocks.0.attn.w_msa.qkv.weight"] = torch.zeros(1)
    assert torch.equal(renamed(there)["layers.1.downsample.norm.weight"], value)


@pytest.mark.parametrize("given", [
    {"conv1.weight": torch.rand(2), "layer1.0.conv1.weight": torch.rand(2), "fc.weight": torch.rand(2)},
    {"blocks.0.norm1.weight": torch.rand(2), "head.weight": torch.rand(2)},
    {"backbone.some.weight": torch.rand(2), "head.fc.weight": torch.rand(2)},
])  # fmt: skip
def test_other_names_stay_as_they_are(given):
    assert renamed(given) == given


def test_names_that_fit_nothing_are_refused_in_a_line(tmp_path):
    model = network("resnet18", {}, 1)
    file = tmp_path / "vit.pth"
    torch.save({"state_dict": state("vit", network("deit_tiny_patch16_224", {"img_size": 32, "depth": 3}, 1))}, file)
    with pytest.raises(
        ValueError, match=r"not weights of this model: it holds .*; the model has conv1.weight"
    ) as error:
        pretrained.fit(weights.read(file), model, ["a"] * 5, str(file))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="the weights do not fit the model"):
        weights.put(weights.read(file).sets["raw"], model, file)
    assert theirs("vit", "blocks.2.norm1.weight") == "backbone.layers.2.ln1.weight"
