"""Models that are not timm's: what one look finds inside, and the attention of torch's own module."""

import copy

import pytest
import torch
from torch import nn

from fastmix.models import own as look
from fastmix.models.sites import attention_inputs, channels, class_attention, classifier, last_map, place, read
from helpers import own
from helpers.untouched import same, state


def test_a_look_finds_classifier_and_features_and_leaves_nothing():
    for kind in (own.Plain, own.Tokens):
        model = own.made(kind).train()
        before = state(model)
        found = look.seen(model)
        assert same(before, state(model))
        assert found.classes == own.CLASSES and found.classifier == "output"
        assert classifier(model)[0] is model.output.weight
        assert place(model, "features") is (model.layer3 if kind is own.Plain else model.last)
        assert copy.deepcopy(model)._seen_by_fastmix == found


def test_the_last_map_is_what_the_classifier_judges():
    model, x = own.made(own.Plain).eval(), torch.randn(2, 3, 64, 64)
    features = last_map(model, x)
    torch.testing.assert_close(model.output(features.mean((2, 3))), model(x))
    assert channels(model, "layer2") == 16
    with read(model, "layer2") as reading:
        model(x)
    torch.testing.assert_close(reading.value, model.layer2(model.layer1(x)))


def test_attention_of_torchs_module_is_what_it_says_itself():
    model, x = own.made(own.Tokens).eval(), torch.randn(3, 3, 64, 64)
    asked, wanted = copy.deepcopy(model), []
    for block in asked.blocks:
        block.attention.register_forward_pre_hook(
            lambda module, given, options: (given, {"need_weights": True}), with_kwargs=True
        )
        block.attention.register_forward_hook(lambda module, given, output: wanted.append(output[1]))
    asked(x)
    with attention_inputs(model) as found:
        model(x)
    for attention, explicit in zip(found, wanted, strict=True):
        torch.testing.assert_close(attention.rows(0), explicit)
    with class_attention(model) as last:
        model(x)
    torch.testing.assert_close(last.value, wanted[-1][:, 0, 1:])


def test_a_vgg_has_no_map_whose_mean_is_judged():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Conv2d(3, 4, 3, 8), nn.Linear(4 * 8 * 8, 5)

        def forward(self, x):
            return self.head(self.layer(x).flatten(1))

    model = Flat()
    assert look.seen(model, 64).features is None and classifier(model)[0].shape == (5, 256)
    with pytest.raises(ValueError, match="Flat has no map whose mean"):
        last_map(model, torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="Flat cannot be looked at with images of 32 pixels .*: say image_size=N$"):
        look.seen(Flat(), 32)
