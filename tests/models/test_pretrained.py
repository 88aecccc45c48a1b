"""Weights of every origin come to the same model; what does not fit is said, or refused in one line."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastmix import config, models
from fastmix.models import pretrained
from fastmix.models.info import KEY, Info
from helpers import ROOT

NAMES = ["a", "b", "c", "d"]
MODEL = config.Model("test_resnet")


@pytest.fixture(scope="module")
def donor():
    """Another initialisation, and statistics that are not those of the start."""
    model = models.build(MODEL, 4, seed=9)
    model.train()(torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def begun(names=NAMES, model="test_resnet", **options):
    return pretrained.build(config.Model(model, weights="file.pth", **options), names)


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def openmixup(state):
    return {("head." if name.startswith("fc") else "backbone.") + name: value for name, value in state.items()}


WRAPPED = {
    "plain": lambda s: s,
    "timm": lambda s: {"state_dict": s, "epoch": 3, "arch": "x"},
    "module": lambda s: {"model": prefixed("module.", s)},
    "compiled": lambda s: {"state_dict": prefixed("_orig_mod.", s)},
    "both": lambda s: prefixed("module._orig_mod.", s),
    "lightning": lambda s: {"state_dict": prefixed("model.", s), "pytorch-lightning_version": "2.0", "epoch": 1},
    "lightning, another attribute": lambda s: {"state_dict": prefixed("net.backbone.", s)},
    "openmixup": lambda s: {"state_dict": openmixup(s), "meta": {"epoch": 300}},
}


@pytest.mark.parametrize("how", WRAPPED)
def test_wrappers_do_not_matter(donor, how):
    torch.save(WRAPPED[how](donor.state_dict()), "file.pth")
    model, lines = begun()
    for name, value in donor.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert lines == [f"weights: {len(donor.state_dict())} of {len(donor.state_dict())} tensors from file.pth"]


def test_an_average_comes_before_the_weights(donor):
    other = models.build(MODEL, 4, seed=2)
    torch.save({"state_dict": other.state_dict(), "state_dict_ema": donor.state_dict()}, "file.pth")
    assert torch.equal(begun()[0].conv1[0].weight, donor.conv1[0].weight)


def test_a_classifier_of_another_size_begins_as_timm_begins_it(donor):
    torch.save(donor.state_dict(), "file.pth")
    model, lines = begun([*NAMES, "e"])
    own = models.load_timm().create_model("test_resnet", num_classes=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own.reset_classifier(5)
    assert torch.equal(model.fc.weight, own.fc.weight) and torch.equal(model.fc.bias, own.fc.bias)
    assert torch.equal(model.conv1[0].weight, donor.conv1[0].weight)
    assert lines[1] == "weights: the classifier begins anew: fc.weight, fc.bias in the file are of other classes"


def test_other_names_are_another_classifier(donor):
    info = Info("test_resnet", ["a", "b", "c", "x"], 32, None, "bicubic", [0.5] * 3, [0.5] * 3)
    for classes, same in ((info.classes, False), (NAMES, True)):
        told = {KEY: json.dumps(vars(info) | {"classes": classes})}
        save_file({k: v.contiguous() for k, v in donor.state_dict().items()}, "file.safetensors", told)
        model, lines = pretrained.build(config.Model("test_resnet", weights="file.safetensors"), NAMES)
        assert torch.equal(model.fc.weight, donor.fc.weight) == same and (len(lines) == 1) == same


def test_no_classifier_and_a_foreign_part(donor):
    state = {name: value for name, value in donor.state_dict().items() if not name.startswith("fc")}
    torch.save(state | {"projector.weight": torch.ones(3)}, "file.pth")
    model, lines = begun()
    assert torch.equal(model.conv1[0].weight, donor.conv1[0].weight)
    assert lines[1:] == [
        "weights: the classifier begins anew: fc.weight, fc.bias not in the file",
        "weights: not the model's, left out: projector.weight",
    ]


def test_position_embeddings_are_resized_as_timm_resizes_them():
    name, small, large = "deit_tiny_patch16_224", {"img_size": 32}, {"img_size": 64}
    timm = models.load_timm()
    donor = timm.create_model(name, num_classes=4, **small)
    nn.init.normal_(donor.pos_embed)
    torch.save(donor.state_dict(), "file.pth")
    model, lines = begun(model=name, args=large)
    from timm.layers import resample_abs_pos_embed

    wanted = resample_abs_pos_embed(donor.pos_embed, new_size=(4, 4), num_prefix_tokens=1)
    assert torch.equal(model.pos_embed, wanted)
    assert "weights: pos_embed resized from [1, 5, 192] to [1, 17, 192]" in lines


FIRST = "conv1.0.weight"


REFUSED = {
    "another architecture": (lambda s: models.build(config.Model("test_vit"), 4).state_dict(), "not weights of this"),
    "a deeper network": (lambda s: s | {"layer1.7.conv1.weight": torch.ones(1)}, "the file has also layer1.7.conv1"),
    "a shallower network": (lambda s: {k: v for k, v in s.items() if "layer1" not in k}, "layer1.* not in the file"),
    "a wider one": (lambda s: s | {FIRST: torch.ones(1, 3, 3, 3)}, r"conv1.0.weight is \[1, 3, 3, 3\] in the"),
    "not finite": (lambda s: s | {FIRST: s[FIRST] * torch.nan}, "conv1.0.weight holds numbers that are"),
    "no tensors": (lambda s: {"epoch": 3}, "no weights in it"),
}  # fmt: skip


@pytest.mark.parametrize("how", REFUSED)
def test_what_is_no_weights_of_the_model_is_one_line(donor, how):
    change, words = REFUSED[how]
    torch.save(change(donor.state_dict()), "file.pth")
    with pytest.raises(ValueError, match=words) as error:
        begun()
    assert "file.pth" in str(error.value) and "\n" not in str(error.value)


def test_no_such_file_and_a_folder_without_a_run(tmp_path):
    for where, words in (("no.pth", "no.pth: no such checkpoint"), (str(tmp_path), "without model.safetensors")):
        with pytest.raises(ValueError, match=words):
            pretrained.build(config.Model("test_resnet", weights=where), NAMES)


@pytest.mark.parametrize("column", ["cub200_r18_200ep", pytest.param("aircraft_rx50_200ep", marks=pytest.mark.long)])
@torch.no_grad()
def test_columns_by_transfer_begin_with_torchvisions_file(column):
    from torchvision import models as theirs

    cfg = config.load(ROOT / "configs" / f"{column}.yaml", ["model.weights=file.pth"])
    donor = getattr(theirs, cfg.model.name.removesuffix(".tv_in1k"))().eval()
    torch.save(donor.state_dict(), "file.pth")
    model, lines = pretrained.build(cfg.model, [str(k) for k in range(200)])
    count = len(donor.state_dict())
    assert lines == [
        f"weights: {count - 2} of {count} tensors from file.pth",
        "weights: the classifier begins anew: fc.weight, fc.bias in the file are of other classes",
    ]
    x, donor.fc = torch.rand(2, 3, 64, 64), nn.Identity()
    features = model.eval().forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(features, donor(x), rtol=1e-4, atol=1e-5)
