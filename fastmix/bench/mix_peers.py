"""What users run today for the mix pass: torch eager, timm's normalising and Mixup, torchvision's v2 transforms."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

MIXED_BY_ALL = {"plain": (0, 0), "mixup": (1, 0), "cutmix": (0, 1), "mixup+cutmix": (1, 1)}  # mixup and cutmix alpha
FLOATS = {f"{plan} of floats": plan for plan in MIXED_BY_ALL if plan != "plain"}
CLASSES = 1000


def formula(dtype, device) -> Callable:
    """What users write, as a function of images, mask and partners: normalise in fp32, gather, weigh, add."""
    import torch

    from fastmix.kernels.mix.cases import MEAN, STD

    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (MEAN, STD))

    def work(images, mask, other):
        x = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
        if mask is not None:
            x = mask * x + (1 - mask) * x[other]
        return x.to(dtype)

    return work


def timm(mixup: float, cutmix: float, labels, dtype, device) -> Callable:
    """The arithmetic of timm's PrefetchLoader, then its Mixup for the whole batch, from the NCHW that it collates."""
    import torch

    import_module("fastmix.compat")  # before torchvision, which timm imports
    from timm.data import Mixup

    from fastmix.kernels.mix.cases import MEAN, STD

    mean, std = (torch.tensor([255 * v for v in c], device=device, dtype=dtype).view(1, 3, 1, 1) for c in (MEAN, STD))
    mixer = Mixup(mixup, cutmix, num_classes=CLASSES) if mixup or cutmix else None

    def work(images):
        x = images.to(dtype).sub_(mean).div_(std)
        return mixer(x, labels) if mixer else x

    return _planar(work)


def torchvision(mixup: float, cutmix: float, labels, dtype) -> Callable:
    """ToDtype, Normalize, then MixUp or CutMix or either by chance, from uint8 NCHW."""
    import torch

    import_module("fastmix.compat")
    from torchvision.transforms import v2

    from fastmix.kernels.mix.cases import MEAN, STD

    prepare = v2.Compose([v2.ToDtype(dtype, scale=True), v2.Normalize(MEAN, STD)])
    mixers = [v2.MixUp(num_classes=CLASSES)] * bool(mixup) + [v2.CutMix(num_classes=CLASSES)] * bool(cutmix)
    mixer = v2.RandomChoice(mixers) if mixers else None

    def work(images: torch.Tensor):
        x = prepare(images)
        return mixer(x, labels) if mixer else x

    return _planar(work)


def mixed_floats(plan: str, labels) -> dict[str, Callable]:
    """timm's Mixup, which changes its input, and torchvision's v2 transforms on a normalised batch [B,3,H,W]."""
    import_module("fastmix.compat")  # before torchvision, which timm imports
    from timm.data import Mixup
    from torchvision.transforms import v2

    mixup, cutmix = MIXED_BY_ALL[plan]
    theirs = Mixup(mixup, cutmix, num_classes=CLASSES)
    mixers = [v2.MixUp(num_classes=CLASSES)] * bool(mixup) + [v2.CutMix(num_classes=CLASSES)] * bool(cutmix)
    either = v2.RandomChoice(mixers)
    return {
        "timm": lambda images: theirs(images, labels)[0],
        "torchvision v2": lambda images: either(images, labels)[0],
    }


def _planar(work: Callable) -> Callable:
    """Calls with an NCHW copy of the images, made once for each of them and so outside of what is measured."""
    copies = {}

    def call(images):
        key = images.data_ptr()
        if key not in copies:
            copies[key] = images.permute(0, 3, 1, 2).contiguous()
        return work(copies[key])

    return call
