"""PVT against the paper's formulas in plain float64 tensor operations."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastmix.models import load_timm, pvt

HEADS, REDUCTIONS = (1, 2, 5, 8), (8, 4, 2, 1)


def layer_norm(x: Tensor, weights: dict, name: str, eps: float) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Tensor, weights: dict, name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def patches(x: Tensor, weights: dict, name: str) -> Tensor:
    """[B,H,W,C] to [B,H//k,W//k,C']: a matrix applied to each k x k patch, what is left over at the edges dropped."""
    kernel = weights[f"{name}.weight"]
    k = kernel.shape[-1]
    h, w = x.shape[1] // k, x.shape[2] // k
    cut = x[:, : h * k, : w * k].reshape(len(x), h, k, w, k, -1)
    return torch.einsum("bhiwjc,ocij->bhwo", cut, kernel) + weights[f"{name}.bias"]


def attention(x: Tensor, weights: dict, name: str, heads: int, reduction: int, grid: tuple) -> Tensor:
    q, source = linear(x, weights, f"{name}.q"), x
    if reduction > 1:
        source = patches(x.reshape(len(x), *grid, -1), weights, f"{name}.reduce").flatten(1, 2)
        source = layer_norm(source, weights, f"{name}.norm", 1e-5)
    k, v = linear(source, weights, f"{name}.kv").chunk(2, -1)
    d, out = x.shape[-1] // heads, []
    for head in range(heads):
        mine = slice(head * d, (head + 1) * d)
        scores = (q[..., mine] @ k[..., mine].transpose(1, 2) / math.sqrt(d)).exp()
        out.append(scores / scores.sum(-1, keepdim=True) @ v[..., mine])
    return linear(torch.cat(out, -1), weights, f"{name}.proj")


def embedding(weights: dict, name: str, tokens: int, own: tuple, grid: tuple) -> Tensor:
    """[tokens + N,C] for a map of `grid`; the first `tokens` belong to no place."""
    table = weights[name][0]
    place = table[tokens:].reshape(*own, -1).permute(2, 0, 1)[None].float()
    place = F.interpolate(place, grid, mode="bicubic", antialias=True, align_corners=False).double()
    return torch.cat([table[:tokens], place[0].flatten(1).T])


def reference(weights: dict, images: Tensor, depths: tuple, size: tuple) -> tuple[Tensor, list[Tensor]]:
    """(logits, the maps [B,C,H,W] of the four stages) of a model made for images of `size`."""
    x, maps = images.permute(0, 2, 3, 1), []
    for k in range(4):
        stage, own = f"stages.{k}", (size[0] // 2 ** (k + 2), size[1] // 2 ** (k + 2))
        x = patches(x, weights, f"{stage}.patch_embed.proj")
        grid = (x.shape[1], x.shape[2])
        x = layer_norm(x.flatten(1, 2), weights, f"{stage}.patch_embed.norm", 1e-5)
        if k == 3:
            x = torch.cat([weights[f"{stage}.cls_token"].repeat(len(x), 1, 1), x], 1)
        x = x + embedding(weights, f"{stage}.pos_embed", int(k == 3), own, grid)
        for b in range(depths[k]):
            block = f"{stage}.blocks.{b}"
            y = layer_norm(x, weights, f"{block}.norm1", 1e-6)
            x = x + attention(y, weights, f"{block}.attn", HEADS[k], REDUCTIONS[k], grid)
            y = linear(layer_norm(x, weights, f"{block}.norm2", 1e-6), weights, f"{block}.mlp.fc1")
            x = x + linear(y * (1 + torch.erf(y / math.sqrt(2))) / 2, weights, f"{block}.mlp.fc2")
        spatial = x[:, 1:] if k == 3 else x
        maps.append(spatial.transpose(1, 2).reshape(len(x), -1, *grid))
        if k < 3:
            x = x.reshape(len(x), *grid, -1)
    return linear(layer_norm(x, weights, "norm", 1e-6)[:, 0], weights, "head"), maps


def randomised(name: str, **args) -> torch.nn.Module:
    """A float64 model in which every parameter counts: also biases, scales and position embeddings of order 1."""
    model = load_timm().create_model(name, num_classes=7, **args).double().eval()
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.shape[0] > 1:
            parameter.data.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture(scope="module")
def tiny():
    return randomised("pvt_tiny", img_size=64)


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (43, 75)])
def test_logits_and_maps_equal_the_formulas(tiny, size):
    images = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, maps = reference(tiny.state_dict(), images, (2, 2, 2, 2), (64, 64))
        tokens, got = tiny.forward_intermediates(images)
        logits = tiny(images)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-6)
    for ours, theirs in zip(got, maps, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(tiny.forward_head(tokens), logits, rtol=0, atol=0)
    assert logits.std(0).mean() > 1e-2, "the comparison sees something"


@pytest.mark.long
def test_pvt_small_and_oblong_embeddings():
    model = randomised("pvt_small", img_size=(32, 64))
    images = torch.randn(1, 3, 32, 64, dtype=torch.float64)
    with torch.no_grad():
        wanted, _ = reference(model.state_dict(), images, (3, 4, 6, 3), (32, 64))
        torch.testing.assert_close(model(images), wanted, rtol=0, atol=1e-6)


def test_queries_and_keys_can_be_read_and_give_the_attention(tiny):
    """Hooks at timm's names see what the reference's softmax needs; the class token's row sums to one over keys."""
    attn, seen = tiny.stages[3].blocks[1].attn, {}
    handles = [
        getattr(attn, f"{name}_norm").register_forward_hook(lambda m, given, out, name=name: seen.update({name: out}))
        for name in "qk"
    ]
    inputs = attn.register_forward_pre_hook(lambda m, given: seen.update(x=given[0]))
    with torch.no_grad():
        tiny(torch.randn(1, 3, 64, 64, dtype=torch.float64))
    for handle in (*handles, inputs):
        handle.remove()
    weights = attn.state_dict()
    head = slice(64, 128)
    q = linear(seen["x"], weights, "q")[..., head]
    k = linear(seen["x"], weights, "kv")[..., :512][..., head]
    wanted = (q @ k.transpose(1, 2) / 8).softmax(-1)
    got = (seen["q"][:, 1] @ seen["k"][:, 1].transpose(1, 2) * attn.scale).softmax(-1)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)


def test_initialisation():
    torch.manual_seed(0)
    model = load_timm().create_model("pvt_tiny")
    for name, p in model.named_parameters():
        std = p.std().item()
        if "norm" in name:
            assert (p == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith(("pos_embed", "cls_token")) or (p.ndim == 2):
            assert std == pytest.approx(0.02, rel=0.1), name
        elif p.ndim == 4 or "reduce" in name or "patch_embed" in name:  # torch's own start: uniform
            weight = p if p.ndim == 4 else model.get_parameter(name.replace("bias", "weight"))
            bound = weight[0].numel() ** -0.5
            assert p.abs().max() <= bound and std == pytest.approx(bound / 3**0.5, rel=0.2), name
        else:
            assert not p.any(), name


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="img_size must be at least 32, not 16"):
        load_timm().create_model("pvt_tiny", img_size=16)


def test_patches_are_normed_with_the_authors_eps():
    """Seen where an image has next to no contrast."""
    embed = pvt.PatchEmbed(3, 16, 4)
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 1e-3
    tokens = embed.proj(x).flatten(2).mT
    tokens = tokens - embed.proj.bias.detach()
    with torch.no_grad():
        embed.proj.bias.zero_()
    spread = tokens.var(2, unbiased=False, keepdim=True)
    wanted = (tokens - tokens.mean(2, keepdim=True)) / (spread + 1e-5).sqrt()
    assert spread.max() < 1e-5 and (embed(x)[0] - wanted).abs().max() < 1e-4
