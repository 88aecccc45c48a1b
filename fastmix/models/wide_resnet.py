"""Wide ResNets for 32 px, in timm's conventions (Zagoruyko, Komodakis, "Wide Residual Networks", BMVC 2016)."""

from __future__ import annotations

from timm.layers import BatchNormAct2d, DropPath
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from fastmix.models.pyramid import Pyramid, Stage, create, drop_path_rates, pretrained_cfg

STEM = 16  # channels


def _norm(channels: int, benchmark: bool) -> BatchNormAct2d:
    if benchmark:
        slope = {"negative_slope": 0.1}
        return BatchNormAct2d(channels, eps=1e-3, momentum=1e-3, act_layer=nn.LeakyReLU, act_kwargs=slope)
    return BatchNormAct2d(channels)


class Block(nn.Module):
    """x + conv2(f(conv1(f(x)))), f batch-norm and activation. Where the shape changes, for the first x stands a 1x1
    convolution of f(x), or with `raw` of x.
    """

    def __init__(self, fan_in: int, fan_out: int, stride: int, drop_path: float, benchmark: bool, raw: bool):
        super().__init__()
        self.norm1, self.norm2 = _norm(fan_in, benchmark), _norm(fan_out, benchmark)
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=benchmark)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=benchmark)
        changes = stride > 1 or fan_in != fan_out
        self.shortcut = nn.Conv2d(fan_in, fan_out, 1, stride, bias=benchmark) if changes else nn.Identity()
        self.shared = changes and not raw
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        active = self.norm1(x)
        residual = self.conv2(self.norm2(self.conv1(active)))
        return self.shortcut(active if self.shared else x) + self.drop_path(residual)


class WideStage(Stage):
    """Blocks on maps [B,C,H,W]; the first stage begins with the stem's convolution."""

    def __init__(self, blocks: list[nn.Module], embed: nn.Module | None):
        super().__init__(blocks)
        self.embed = embed or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.embed(x))


class WideResNet(Pyramid):
    """A Wide ResNet of `depth` = 6 n + 4 layers and `width` times the channels, on images [B,in_chans,H,W] of any size.

    Three stages on maps of the image's size, its half and its quarter; as of the other networks with a small stem,
    `reduction` tells four times that. forward_features gives the last map, normed and activated.

    benchmark: the network of OpenMixup's tables: leaky ReLU with slope 0.1, batch-norms of momentum 0.001 and
    eps 0.001, convolutions with bias, and in the second and third stage shortcuts of what is not yet activated.
    Raises ValueError for another depth.
    """

    pooling = "avg"

    def __init__(
        self,
        depth: int = 28,
        width: int = 8,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        benchmark: bool = False,
    ):
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"WideResNet: depth is {depth}; it must be 6 n + 4, such as 28")
        channels, stages = STEM, []
        for k, rates in enumerate(drop_path_rates(drop_path_rate, 3 * [(depth - 4) // 6])):
            fan_out, blocks = STEM * width << k, []
            for n, rate in enumerate(rates):
                blocks.append(Block(channels, fan_out, 2 if k and not n else 1, rate, benchmark, benchmark and k > 0))
                channels = fan_out
            stem = None if k else nn.Conv2d(in_chans, STEM, 3, padding=1, bias=benchmark)
            stages.append(WideStage(blocks, stem))
        dims = [STEM * width << k for k in range(3)]
        super().__init__(stages, _norm(channels, benchmark), dims, in_chans, num_classes, global_pool, drop_rate)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


small = {"input_size": (3, 32, 32), "min_input_size": (3, 8, 8), "pool_size": (8, 8), "crop_pct": 1.0}
default_cfgs = generate_default_cfgs({"wrn28_8_cifar": pretrained_cfg(first_conv="stages.0.embed", **small)})


@register_model
def wrn28_8_cifar(pretrained: bool = False, **kwargs) -> WideResNet:
    """WRN-28-8: 128, 256 and 512 channels, four blocks a stage; 23,401,012 parameters at 100 classes."""
    return create(WideResNet, "wrn28_8_cifar", pretrained, stages=3, **{"depth": 28, "width": 8} | kwargs)
