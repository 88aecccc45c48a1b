"""Grad-CAM against CAM, which it is where a mean and one linear layer follow; rollout against attention by hand."""

import copy

import pytest
import torch
from scipy import stats
from torch import nn

from fastmix.models import sites
from fastmix.models.attribution import by_attention, grad_cam, rollout
from helpers import attending, backbones


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def enlarged(cam: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    large = nn.functional.interpolate(cam[:, None], x.shape[2:], mode="bilinear")[:, 0]
    return large / large.flatten(1).max(1).values.clamp(min=1e-30)[:, None, None]


def test_grad_cam_is_cam(x):
    model, classes = backbones.make("resnet18"), torch.tensor([4, 0, 2])
    with torch.no_grad():
        features = model.forward_features(x).double()
        cam = torch.einsum("bc,bchw->bhw", model.fc.weight[classes].double(), features).relu()
    found = grad_cam(model, x, classes)
    torch.testing.assert_close(found.double(), enlarged(cam, x), rtol=1e-4, atol=1e-4)
    assert found.shape == (3, 64, 96) and found.min() >= 0 and found.amax((1, 2)).max() == 1
    assert not by_attention(model)


def test_a_class_has_a_map_of_its_own_and_other_weights_another(x):
    """A map that stays when the weights are drawn anew shows the image and not the network (Adebayo et al. 2018)."""
    model = backbones.make("resnet18")
    one = grad_cam(model, x, torch.tensor([0, 0, 0])).flatten()
    for other in (model, copy.deepcopy(model)):
        if other is not model:
            torch.manual_seed(5)
            for module in other.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.reset_parameters()
        label = torch.full((3,), 1 if other is model else 0)
        assert stats.spearmanr(one, grad_cam(other, x, label).flatten()).statistic < 0.8


def test_rollout_is_the_product_of_the_blocks_attention():
    model = attending.network((32, 32)).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    seen, hooks = [], []
    for block in model.blocks:
        hooks.append(block.attn.register_forward_hook(lambda attn, given, out: seen.append((attn, given[0]))))
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    flow = torch.eye(17, dtype=torch.float64)
    for attn, given in seen:
        q, k, _ = attn.qkv(given).double().unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        a = (q @ k.mT * attn.scale).softmax(-1).mean(1)
        flow = (a / 2 + torch.eye(17) / 2) @ flow
    wanted = enlarged(flow[:, 0, 1:].unflatten(1, (4, 4)), images)
    assert by_attention(model)
    torch.testing.assert_close(rollout(model, images).double(), wanted.detach(), rtol=1e-4, atol=1e-5)


def test_rollout_of_other_weights_is_another():
    model = attending.network((32, 32)).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    other = copy.deepcopy(model)
    torch.manual_seed(6)
    for module in other.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)
    one, two = (rollout(net, images).flatten() for net in (model, other))
    assert stats.spearmanr(one, two).statistic < 0.8


def test_both_leave_the_model_as_it_was(x):
    model = backbones.make("resnet18").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    grad_cam(model, x, torch.tensor([0, 1, 2]))
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match="does not tell its stages"):
        grad_cam(nn.Sequential(nn.Conv2d(3, 4, 3)), x, torch.tensor([0, 1, 2]))
    assert "stage4" in sites.sites(model)
