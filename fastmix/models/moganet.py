"""MogaNet: convolutions whose context of several orders is gated, and a feed-forward part that reallots channels.

Li et al., "MogaNet: Multi-order Gated Aggregation Network", ICLR 2024.
"""

from __future__ import annotations

import math

import torch
from timm.layers import DropPath, LayerScale2d
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from fastmix.models.pyramid import Pyramid, Stage, create, drop_path_rates, pretrained_cfg

DIMS = (32, 64, 128, 256)
DEPTHS = (3, 3, 12, 2)
FFN_RATIOS = (8, 8, 4, 4)
SCALE = 1e-5  # start of layer scales and of the decomposition's


class MultiOrderConv(nn.Module):
    """Depthwise convolutions of three orders (section 4.2): 5x5 on all channels, of which 1/8 then stay, 3/8 pass a
    5x5 of dilation 2 and 4/8 a 7x7 of dilation 3; then 1x1 over all."""

    def __init__(self, dim: int):
        super().__init__()
        middle, high = dim * 3 // 8, dim // 2
        self.parts = (dim - middle - high, middle, high)
        self.low = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.middle = nn.Conv2d(middle, middle, 5, padding=4, dilation=2, groups=middle)
        self.high = nn.Conv2d(high, high, 7, padding=9, dilation=3, groups=high)
        self.mix = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        low, middle, high = self.low(x).split(self.parts, 1)
        return self.mix(torch.cat([low, self.middle(middle), self.high(high)], 1))


class Aggregation(nn.Module):
    """Multi-order gated aggregation (section 4.2): u + W(SiLU(gate(y)) SiLU(value(y))), where
    y = SiLU(p + s (p - GAP p)) and p = W'u; W, W' and gate are 1x1, s is a scale a channel.

    double_silu: SiLU twice on gate and value, as the authors' code does where it is told to compute the gate in fp32.
    Under float16 autocast the product and its projection are fp32: the product of two float16 can overflow.
    """

    def __init__(self, dim: int, double_silu: bool):
        super().__init__()
        self.double_silu = double_silu
        self.inward = nn.Conv2d(dim, dim, 1)
        self.scale = LayerScale2d(dim, SCALE)
        self.gate = nn.Conv2d(dim, dim, 1)
        self.value = MultiOrderConv(dim)
        self.outward = nn.Conv2d(dim, dim, 1)

    def forward(self, u: Tensor) -> Tensor:
        y = self.inward(u)
        y = F.silu(y + self.scale(y - y.mean((2, 3), keepdim=True)))
        gate, value = self.gate(y), self.value(y)
        if self.double_silu:
            gate, value = F.silu(gate), F.silu(value)
        if gate.dtype == torch.float16 and self.outward.weight.dtype == torch.float32:
            with torch.autocast(u.device.type, enabled=False):
                return u + self.outward(F.silu(gate.float()) * F.silu(value.float()))
        return u + self.outward(F.silu(gate) * F.silu(value))


class ChannelAggregation(nn.Module):
    """Feed-forward with channel aggregation (section 4.3): W2(z + s (z - GELU(Wz))), z = GELU(DW3x3(W1 x)); W makes one
    channel of all, s is a scale a channel."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.gather = nn.Conv2d(hidden, 1, 1)
        self.scale = LayerScale2d(hidden, SCALE)
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = F.gelu(self.depthwise(self.fc1(x)))
        return self.fc2(z + self.scale(z - F.gelu(self.gather(z))))


class Block(nn.Module):
    """x + scale * aggregation(BN x), then x + scale * channel aggregation(BN x)."""

    def __init__(self, dim: int, ffn_ratio: int, drop_path: float, double_silu: bool):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim)
        self.spatial = Aggregation(dim, double_silu)
        self.ls1 = LayerScale2d(dim, SCALE)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.BatchNorm2d(dim)
        self.channel = ChannelAggregation(dim, ffn_ratio * dim)
        self.ls2 = LayerScale2d(dim, SCALE)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.spatial(self.norm1(x))))
        return x + self.drop_path2(self.ls2(self.channel(self.norm2(x))))


class MogaStage(Stage):
    """Halving convolutions through `widths` channels, blocks, BN: [B,widths[0],H,W] to [B,widths[-1],H',W']."""

    def __init__(self, widths: tuple[int, ...], blocks: list[nn.Module]):
        super().__init__(blocks)
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip(widths, widths[1:], strict=False):
            layers += [nn.GELU()] if layers else []
            layers += [nn.Conv2d(fan_in, fan_out, 3, 2, padding=1), nn.BatchNorm2d(fan_out)]
        self.embed = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.run(self.embed(x)))


class MogaNet(Pyramid):
    """MogaNet-Tiny's shape on images [B,in_chans,H,W] of any size; img_size is accepted and has no effect.

    double_silu: see Aggregation. forward_features gives the map [B,C,H/32,W/32] after the last stage's BN.
    """

    pooling = "avg"

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 224,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        double_silu: bool = False,
    ):
        rates = drop_path_rates(drop_path_rate, DEPTHS)
        stages = []
        for k, dim in enumerate(DIMS):
            blocks = [Block(dim, FFN_RATIOS[k], rate, double_silu) for rate in rates[k]]
            stages.append(MogaStage((DIMS[k - 1], dim) if k else (in_chans, dim // 2, dim), blocks))
        super().__init__(stages, nn.Identity(), DIMS, in_chans, num_classes, global_pool, drop_rate)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """Names of the layer scales and of the scales of the two decompositions."""
        return {name for name, _ in self.named_parameters() if name.endswith(".gamma")}


default_cfgs = generate_default_cfgs({"moganet_tiny": pretrained_cfg(first_conv="stages.0.embed.0", crop_pct=0.9)})


@register_model
def moganet_tiny(pretrained: bool = False, **kwargs) -> MogaNet:
    """MogaNet-Tiny: widths 32 to 256, depths 3, 3, 12, 2; 5,197,332 parameters."""
    return create(MogaNet, "moganet_tiny", pretrained, **kwargs)
