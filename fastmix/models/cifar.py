"""Networks with the stem of the CIFAR and Tiny-ImageNet benchmarks: one 3x3 convolution of stride 1, no max-pooling."""

from __future__ import annotations

from timm.models import register_model
from timm.models.convnext import ConvNeXt, convnext_tiny
from timm.models.resnet import ResNet, resnet18, resnext50_32x4d
from torch import nn


def _small_stem(model: ResNet) -> ResNet:
    first = next(module for module in model.conv1.modules() if isinstance(module, nn.Conv2d))
    model.conv1 = nn.Conv2d(first.in_channels, model.bn1.num_features, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


@register_model
def resnet18_cifar(pretrained: bool = False, **kwargs) -> ResNet:
    """ResNet-18 for 32 to 64 px: maps of 64, 32, 16 and 8 at 64 px; 11,271,432 parameters at 200 classes."""
    return _small_stem(resnet18(pretrained=pretrained, **kwargs))


@register_model
def resnext50_32x4d_cifar(pretrained: bool = False, **kwargs) -> ResNet:
    """ResNeXt-50 32x4d for 32 to 64 px; 23,382,024 parameters at 200 classes."""
    return _small_stem(resnext50_32x4d(pretrained=pretrained, **kwargs))


@register_model
def resnet18_quarter_cifar(pretrained: bool = False, **kwargs) -> ResNet:
    """ResNet-18 with a quarter of the channels, 16 to 128, for comparisons on a CPU; 701,466 parameters, 10 classes."""
    width = 16  # timm: a deep stem of width w / 2 ends in w channels
    return _small_stem(
        resnet18(
            pretrained=pretrained,
            **{"stem_type": "deep", "stem_width": width // 2, "channels": [width * k for k in (1, 2, 4, 8)]} | kwargs,
        )
    )


@register_model
def convnext_tiny_cifar(pretrained: bool = False, **kwargs) -> ConvNeXt:
    """ConvNeXt-T for 32 px: maps of 32, 16, 8 and 4; 27,895,012 parameters at 100 classes."""
    model = convnext_tiny(pretrained=pretrained, **kwargs)
    first = model.stem[0]
    model.stem[0] = nn.Conv2d(first.in_channels, first.out_channels, kernel_size=3, padding=1)
    nn.init.trunc_normal_(model.stem[0].weight, std=0.02)
    nn.init.zeros_(model.stem[0].bias)
    return model
