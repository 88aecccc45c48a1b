"""PVT v1: a transformer on four shrinking maps, whose keys and values are taken from a coarser map.

Wang et al., "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions", ICCV 2021.
"""

from __future__ import annotations

from functools import partial

import torch
from timm.layers import DropPath, LayerNorm, Mlp, resample_abs_pos_embed, to_2tuple, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from fastmix.models.pyramid import Pyramid, Stage, create, drop_path_rates, pretrained_cfg

DIMS = (64, 128, 320, 512)
HEADS = (1, 2, 5, 8)
MLP_RATIOS = (8, 8, 4, 4)
REDUCTIONS = (8, 4, 2, 1)

_norm = partial(LayerNorm, eps=1e-6)


class Attention(nn.Module):
    """softmax(q k' / sqrt(d)) v with keys and values of the map reduced R-fold by a strided convolution (section 3.3).

    [B,N,C] tokens of a map of `size` in and out. `q_norm` and `k_norm` do nothing: they are the places, under timm's
    names, where queries and keys [B,heads,N,d] can be read.
    """

    def __init__(self, dim: int, heads: int, reduction: int):
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.scale = self.head_dim**-0.5
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.q_norm, self.k_norm = nn.Identity(), nn.Identity()
        self.proj = nn.Linear(dim, dim)
        self.reduce = nn.Conv2d(dim, dim, reduction, reduction) if reduction > 1 else None
        self.norm = LayerNorm(dim, eps=1e-5) if reduction > 1 else None

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        b, n, c = x.shape
        q = self.q(x).view(b, n, self.num_heads, self.head_dim).transpose(1, 2)
        if self.reduce is not None:
            x = self.norm(_tokens(self.reduce(_map(x, size))))
        k, v = self.kv(x).view(b, -1, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, scale=self.scale)
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    """x + attention(LN x), then x + MLP(LN x)."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int, reduction: int, drop_path: float):
        super().__init__()
        self.norm1 = _norm(dim)
        self.attn = Attention(dim, heads, reduction)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = _norm(dim)
        self.mlp = Mlp(dim, mlp_ratio * dim)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x), size))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Patches without overlap to tokens, layer-normed: [B,C,H,W] to [B,(H//patch)(W//patch),C']."""

    def __init__(self, in_chans: int, dim: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch, patch)
        self.norm = LayerNorm(dim, eps=1e-5)  # as the authors; OpenMixup: 1e-6

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.proj(x)
        return self.norm(_tokens(x)), (x.shape[-2], x.shape[-1])


class PvtStage(Stage):
    """Patches, position embedding for a map of `grid` (resized bicubically for another), blocks.

    [B,C,H,W] to [B,C',H/patch,W/patch]; with class_token to tokens [B,1+N,C'], the class token first.
    """

    def __init__(
        self, in_chans: int, dim: int, patch: int, grid: tuple[int, int], class_token: bool, blocks: list[nn.Module]
    ):
        super().__init__(blocks)
        self.grid = grid
        self.patch_embed = PatchEmbed(in_chans, dim, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, int(class_token) + grid[0] * grid[1], dim))

    def forward(self, x: Tensor) -> Tensor:
        x, size = self.patch_embed(x)
        prefix = 0 if self.cls_token is None else 1
        if prefix:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], 1)
        x = x + resample_abs_pos_embed(self.pos_embed, list(size), list(self.grid), num_prefix_tokens=prefix)
        x = self.run(x, size)
        return x if prefix else _map(x, size)


class Pvt(Pyramid):
    """PVT v1 on images [B,in_chans,H,W] of at least 32 pixels a side; classification from the last stage's class token.

    img_size sizes the position embeddings; other sizes work and resize them at each call. forward_features gives
    tokens [B,1+N,C], normed, the class token first. Raises ValueError for an img_size below 32.
    """

    pooling = "token"
    num_prefix_tokens = 1

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 224,
        global_pool: str = "token",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        height, width = to_2tuple(img_size)
        if min(height, width) < 32:
            raise ValueError(f"PVT: img_size must be at least 32, not {img_size}")
        rates = drop_path_rates(drop_path_rate, depths)
        stages = []
        for k, dim in enumerate(DIMS):
            blocks = [Block(dim, HEADS[k], MLP_RATIOS[k], REDUCTIONS[k], rate) for rate in rates[k]]
            grid = (height // 2 ** (k + 2), width // 2 ** (k + 2))
            stages.append(PvtStage(DIMS[k - 1] if k else in_chans, dim, 2 if k else 4, grid, k == 3, blocks))
        super().__init__(stages, _norm(DIMS[-1]), DIMS, in_chans, num_classes, global_pool, drop_rate)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                self.init_linear(module)
        for stage in self.stages:
            trunc_normal_(stage.pos_embed, std=0.02)
        trunc_normal_(self.stages[-1].cls_token, std=0.02)

    def init_linear(self, linear: nn.Linear) -> None:
        trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)

    def pool(self, x: Tensor) -> Tensor:
        return x[:, 0]

    def to_map(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return _map(x[:, 1:], size)

    def no_weight_decay(self) -> set[str]:
        """Names of the position embeddings and the class token."""
        return {name for name, _ in self.named_parameters() if name.split(".")[-1] in ("pos_embed", "cls_token")}


def _tokens(x: Tensor) -> Tensor:
    """[B,C,H,W] to [B,HW,C]; free where the map is channels-last."""
    return x.flatten(2).transpose(1, 2)


def _map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[B,HW,C] to [B,C,H,W], a channels-last view."""
    return x.transpose(1, 2).unflatten(2, size)


default_cfgs = generate_default_cfgs(
    {name: pretrained_cfg(first_conv="stages.0.patch_embed.proj") for name in ("pvt_tiny", "pvt_small")}
)


@register_model
def pvt_tiny(pretrained: bool = False, **kwargs) -> Pvt:
    """PVT-Tiny: depths 2, 2, 2, 2; 13,229,288 parameters."""
    return create(Pvt, "pvt_tiny", pretrained, **dict(kwargs, depths=(2, 2, 2, 2)))


@register_model
def pvt_small(pretrained: bool = False, **kwargs) -> Pvt:
    """PVT-Small: depths 3, 4, 6, 3."""
    return create(Pvt, "pvt_small", pretrained, **dict(kwargs, depths=(3, 4, 6, 3)))
