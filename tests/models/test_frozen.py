"""Frozen parts neither train nor follow the statistics of batches; patterns name what they say."""

import pytest
import torch
from torch import nn

from fastmix import config, models
from fastmix.models.frozen import Frozen


@pytest.fixture
def model():
    return models.build(config.Model("test_resnet"), 4)


def trained(model, frozen):
    """Names of what a step with weight decay and new statistics changes."""
    frozen.set(thawed=False)
    frozen.hold(model.train())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    params = [p for p in model.parameters() if p.requires_grad]
    model(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    torch.optim.SGD(params, 0.1, weight_decay=0.1).step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_the_backbone_is_all_but_the_classifier(model):
    frozen = Frozen(model, ["backbone"])
    assert trained(model, frozen) == {"fc.weight", "fc.bias"}
    assert len(frozen.norms) == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize("pattern", ["layer1", "layer1.*", "layer1.0"])
def test_a_block_by_its_name(model, pattern):
    changed = trained(model, Frozen(model, [pattern]))
    names = set(model.state_dict())
    assert not any(name.startswith("layer1.0") for name in changed)
    assert {name for name in names if name.startswith("layer2") and "weight" in name} <= changed


def test_thawed_parts_train(model):
    frozen = Frozen(model, ["layer1"])
    frozen.set(thawed=True)
    frozen.hold(model.train())
    assert all(p.requires_grad for p in model.parameters()) and all(m.training for m in model.modules())


def test_kept_statistics_stay_while_all_trains(model):
    frozen = Frozen(model, ["layer1"], stats="keep")
    frozen.set(thawed=True)
    frozen.hold(model.train())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.rand(4, 3, 32, 32)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if "running" in name)
    assert all(p.grad is not None for p in model.parameters())


def test_no_pattern_freezes_nothing(model):
    assert Frozen(model, []).parameters == [] and Frozen(model, []).norms == []


@pytest.mark.parametrize(
    "patterns, what", [(["layr1"], "'layr1' names no parameter; the model has conv1"), (["*"], "nothing is left")]
)
def test_bad_patterns(model, patterns, what):
    with pytest.raises(ValueError, match=what.replace("*", r"\*")):
        Frozen(model, patterns)
