"""Augmentations against what users run today: timm's RandAugment on Pillow images, torchvision's transforms.

Drawings, each augmented by itself. On the CPU everybody has one thread (a loader's workers multiply that), and the time
is that of drawing parameters and applying them; Pillow images and tensors are there before. torchvision's RandAugment
has other operations than timm's (14, one of them none) at the same magnitudes, and no bicubic turning of tensors. On a
GPU the peers that work there are measured, by events.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

from fastmix.bench import measure

NAMES = ("randaugment bicubic", "randaugment bilinear", "three", "jitter")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224, help="height and width")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--policies", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--repeats", type=int, default=10)


def run(args: argparse.Namespace) -> list[dict]:
    """The rows of all policies. Raises ValueError for a size or a count below 1, or where there is no GPU."""
    measure.check(args)
    with measure.one_thread():
        copy = measure.copy_bandwidth(args.device)
        return [row for name in args.policies for row in _compare(args, name, copy)]


def _compare(args, name: str, copy: float) -> list[dict]:
    import numpy as np
    import torch

    from fastmix.batch import Buffers
    from fastmix.engine.augment import Augmentation, ColorJitter, RandAugment, ThreeAugment
    from fastmix.pipelines.sources.shapes import SHAPES, draw

    rng = np.random.default_rng(0)
    drawings = [draw(rng, list(SHAPES)[k % len(SHAPES)], args.size) for k in range(min(args.batch, 40))]
    images = torch.from_numpy(np.stack([drawings[k % len(drawings)] for k in range(args.batch)])).to(args.device)
    kind, _, interpolation = name.partition(" ")
    jitter = ColorJitter(0.3, 0.3, 0.3)
    policies = {"randaugment": [RandAugment()], "three": [ThreeAugment(), jitter], "jitter": [jitter]}[kind]
    ours, buffers = Augmentation(policies, interpolation or "bicubic"), Buffers()

    work = {"fastmix": lambda: ours(images, rng, buffers), **_peers(kind, interpolation, images, args.device)}
    times = measure.milliseconds(work, args.repeats, args.device)
    layers = len(ours.draw(rng, 1, (args.size, args.size)))
    name += ", one thread" * (args.device == "cpu")
    size = f"{args.batch}x{args.size}x{args.size}x3"
    moved = 2 * layers * images.numel()
    return [
        measure.row("augment", name, provider, size, "uint8", "ms", values, moved, copy, args.device)
        for provider, values in times.items()
    ]


def _peers(kind: str, interpolation: str, images, device: str) -> dict[str, Callable]:
    import_module("fastmix.compat")  # before torchvision, which timm imports
    from PIL import Image, ImageFilter, ImageOps
    from torchvision.transforms import v2

    planar = list(images.permute(0, 3, 1, 2).contiguous())
    pictures = [Image.fromarray(image) for image in images.cpu().numpy()]
    jitter = v2.ColorJitter(0.3, 0.3, 0.3)
    work = {}
    if kind == "randaugment":
        resample = getattr(Image.Resampling, interpolation.upper())
        work["timm, Pillow"] = _each(_timm(resample), pictures)
        if interpolation == "bilinear":
            layer = v2.RandAugment(1, 9, 11, v2.InterpolationMode.BILINEAR, [124, 116, 104])
            work["torchvision v2, tensors"] = _each(v2.Compose([v2.RandomApply([layer], 0.5)] * 2), planar)
    elif kind == "three":
        import random

        def blur(image):
            return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2)))

        one = v2.RandomChoice([v2.Grayscale(3), lambda image: ImageOps.solarize(image, 128), blur])
        work["torchvision v2, Pillow"] = _each(v2.Compose([one, jitter]), pictures)
    else:
        work["torchvision v2, Pillow"] = _each(jitter, pictures)
        work["torchvision v2, tensors"] = _each(jitter, planar)
    return {name: call for name, call in work.items() if device == "cpu" or name.endswith("tensors")}


def _timm(resample) -> Callable:
    from timm.data.auto_augment import rand_augment_transform

    hparams = {"translate_pct": 0.45, "img_mean": (124, 116, 104), "interpolation": resample}
    transform = rand_augment_transform("rand-m9-mstd0.5-inc1", hparams)

    def call(image):
        with suppress(ValueError):  # Pillow 13 refuses to posterize to no bits, which timm asks for at magnitude 10
            return transform(image)

    return call


def _each(transform: Callable, images: list) -> Callable:
    return lambda: [transform(image) for image in images]
