"""Checkpoints of OpenMixup, by an independent renaming of timm's models: they load, and give the same outputs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastmix import config, mixers
from fastmix.models import build, load_timm, pretrained, weights
from fastmix.models.openmixup import parts as parts_of
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
    scores = {
        "best_score": np.float64(81.5),
        "last": np.float32(80),
        "epochs": np.int64(3),
    }  # as mmcv's hooks leave them
    torch.save({"meta": {"epoch": 300, "hook_msgs": scores}, "state_dict": given, "optimizer": {}}, file)
    weights.put(weights.read(file).sets["raw"], other, file)
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        expected = donor(x)
        assert expected.isfinite().all() and expected.std() > 0 and torch.equal(other(x), expected)


BLOCKS = {
    "automix": nn.ModuleDict({"query": nn.Conv2d(257, 128, 1), "value": nn.Conv2d(257, 1, 1)}),
    "samix": nn.ModuleDict({
        "query": nn.Conv2d(512, 128, 1), "key": nn.Conv2d(512, 128, 1), "hidden": nn.Conv2d(256, 128, 1, bias=False),
        "norm": nn.BatchNorm2d(128), "value": nn.Conv2d(128, 1, 1, bias=False)}),
}  # fmt: skip
NAMES = {"query": "query.conv", "key": "key.conv", "hidden": "value.conv.0.conv", "norm": "value.conv.0.bn"}


def automix(kind, q, k, generator):
    """A checkpoint of the method whose network is q, whose average is k, and its parts."""
    parts = BLOCKS[kind]
    for value in parts.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) / 4)
    names = NAMES | {"value": "value" if kind == "automix" else "value.conv.1.conv"}
    given = {f"mix_block.{names[n.split('.')[0]]}.{n.split('.')[1]}": v for n, v in parts.state_dict().items()}
    for net, letter in ((q, "q"), (k, "k")):
        for name, value in state("resnet", net).items():
            given[name.replace("backbone.", f"backbone_{letter}.").replace("head.", f"head_mix_{letter}.")] = value
        for name in ("weight", "bias"):
            value = net.state_dict()[f"fc.{name}"]
            given[f"head_one_{letter}.fc.{name}"] = torch.rand(value.shape, generator=generator)
    given |= state("resnet", k)  # there `backbone` and `head` are k's, by another name
    return given | {"ema_backbone_q_conv1_weight": torch.rand(1)}, parts


def mask_logits(kind, parts, x, partner, lam):
    """The logits of a block as that code has it: features [B,C,h,w], of which the partners' are looked at."""
    a, b = x, x[partner]
    if kind == "automix":
        plane = torch.full_like(x[:, :1], lam)
        a, b = torch.cat([a, plane], 1), torch.cat([b, 1 - plane], 1)
        query, key, value = parts["query"](a), parts["query"](b), parts["value"](b)
    else:
        a, b = a * (1 + lam), b * (1 + 1 - lam)
        both = torch.cat([a, b], 1)
        query, key = parts["query"](both), parts["key"](both)
        value = parts["value"](F.elu(parts["norm"](parts["hidden"](b))))
    weight = (query.flatten(2).mT @ key.flatten(2) / query.shape[1] ** 0.5).softmax(-1)
    return (weight @ value.flatten(2).mT).squeeze(-1).unflatten(1, x.shape[2:])


@pytest.mark.parametrize("kind", ["automix", "samix"])
def test_a_file_of_automix_is_the_network_its_average_classifiers_and_block(kind, tmp_path):
    q, k, fresh = (network("resnet18_cifar", {}, seed) for seed in (1, 2, 3))
    given, parts = automix(kind, q, k, torch.Generator().manual_seed(4))
    torch.save({"state_dict": given}, tmp_path / "latest.pth")
    content = weights.read(tmp_path / "latest.pth")
    lines, anew = pretrained.fit(content, fresh, [str(n) for n in range(5)], "latest.pth")
    assert anew == "" and "left out" not in " ".join(lines)
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, q.state_dict()[name]), name

    mixer = mixers.build(kind, {kind: {}})
    mixer.prepare(fresh)
    cfg = config.Model("resnet18_cifar", weights=str(tmp_path / "latest.pth"))
    lines = mixer.begin(lambda: pretrained.parts(cfg))
    assert [line.split("'s ")[1] for line in lines] == [
        f"{part} as in the file" for part in ("teacher", "head", "teacher_head", "block")
    ]
    for name, value in mixer.teacher.state_dict().items():
        assert torch.equal(value, k.state_dict()[name]), name
    assert torch.equal(mixer.head.weight, given["head_one_q.fc.weight"])
    assert torch.equal(mixer.teacher_head.bias, given["head_one_k.fc.bias"])
    x, partner = torch.rand(3, 256, 4, 4), torch.tensor([1, 2, 0])
    with torch.no_grad():
        ours = mixer.eval().block(mixer.block.project(x), partner.int(), 0.3)
        torch.testing.assert_close(ours, mask_logits(kind, parts.eval(), x, partner, 0.3), rtol=1e-5, atol=1e-5)


def test_parts_of_another_method_or_of_other_classes_begin_anew(tmp_path):
    q, other = network("resnet18_cifar", {}, 1), network("resnet18_cifar", {}, 2, classes=7)
    given, _ = automix("automix", q, q, torch.Generator().manual_seed(4))
    mixer = mixers.build("samix", {"samix": {}})
    mixer.prepare(other)
    before = {name: value.clone() for name, value in mixer.state_dict().items()}
    lines = mixer.begin(lambda: parts_of(given))
    assert len(lines) == 4 and all("begins anew: that of the file is another" in line for line in lines)
    assert all(torch.equal(value, before[name]) for name, value in mixer.state_dict().items())
    assert mixers.build("cutmix", {"cutmix": {}}).begin(lambda: parts_of(given)) == []


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
