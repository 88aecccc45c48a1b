"""The crop pass against torchvision's resized_crop and Pillow, on pixels that are decoded already.

Noise images of 500 x 375 pixels and random resized crops of them ("rrc"), or CIFAR's crop out of a border ("pad"); the
same windows for everybody. On a GPU ours is one launch a batch, of planar images that lie apart, as nvJPEG leaves them,
or, for "pad", of interleaved ones in one piece, as `resident` has them; torchvision goes image by image. On the CPU
everybody has one thread, and ours is the resize of the loaders. Bytes are those of the windows and of the result.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module

from fastmix.bench import measure

NAMES = ("rrc bilinear", "rrc bicubic", "pad")
SIDES = {"rrc": (375, 500), "pad": (32, 32)}  # pixels, height and width


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="height and width of the random resized crops")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--crops", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--repeats", type=int, default=10)


def run(args: argparse.Namespace) -> list[dict]:
    """The rows of all crops. Raises ValueError for a size or a count below 1, or where there is no GPU."""
    measure.check(args)
    with measure.one_thread():
        copy = measure.copy_bandwidth(args.device)
        return [row for name in args.crops for row in _compare(args, name, copy)]


def _compare(args: argparse.Namespace, name: str, copy: float) -> list[dict]:
    import numpy as np

    from fastmix.pipelines.view import View

    kind, _, interpolation = name.partition(" ")
    height, width = SIDES[kind]
    size, interpolation = (args.size, interpolation) if kind == "rrc" else (height, "bilinear")
    view = View(size, crop=kind, flip=0.5, interpolation=interpolation)
    sides = [np.full(args.batch, side) for side in (height, width)]
    windows, flips = view.windows(*sides, 0, 0, np.arange(args.batch))
    images = np.random.default_rng(0).integers(0, 256, (args.batch, height, width, 3), np.uint8)
    make = _on_gpu if args.device == "cuda" else _on_cpu
    times = measure.milliseconds(make(images, sides, windows, flips, view), args.repeats, args.device)
    seen = int((np.minimum(windows[:, 2], height) * np.minimum(windows[:, 3], width)).sum()) * 3
    name += ", one thread" * (args.device == "cpu")
    shape = f"{args.batch}x{size}x{size}x3"
    moved = seen + args.batch * size * size * 3
    return [
        measure.row("crop", name, provider, shape, "uint8", "ms", values, moved, copy, args.device)
        for provider, values in times.items()
    ]


def _on_gpu(images, sides, windows, flips, view) -> dict[str, Callable]:
    import torch

    from fastmix.kernels.crop import crop
    from fastmix.kernels.crop.table import offsets, rows

    planar = [torch.from_numpy(image).cuda().permute(2, 0, 1).contiguous() for image in images]
    together = torch.from_numpy(images).cuda().reshape(-1)
    apart = view.crop == "rrc"
    places = offsets(planar) if apart else 3 * sides[0] * sides[1] * range(len(images))
    table = rows(*sides, windows, flips, view.size, places, planar=apart, interpolation=view.interpolation)
    table, out = torch.from_numpy(table).cuda(), torch.empty(len(images), view.size, view.size, 3, dtype=torch.uint8)
    out, pixels = out.cuda(), planar if apart else together
    work = {"fastmix": lambda: crop(pixels, table, view.size, view.interpolation, out=out)}
    return work | _torchvision(planar, windows, flips, view)


def _on_cpu(images, sides, windows, flips, view) -> dict[str, Callable]:
    import numpy as np
    import torch
    from PIL import Image

    from fastmix.pipelines.resize import place

    out = np.empty((len(images), view.size, view.size, 3), np.uint8)
    pictures = [Image.fromarray(image) for image in images]
    method = Image.Resampling[view.interpolation.upper()]

    def fastmix():
        for image, window, flip, target in zip(images, windows, flips, out, strict=True):
            place(image, window, flip, target, view.interpolation)

    def pillow():
        for picture, (y, x, h, w), flip in zip(pictures, windows.tolist(), flips, strict=True):
            result = picture.crop((x, y, x + w, y + h))
            if (h, w) != (view.size, view.size):
                result = result.resize((view.size, view.size), method)
            np.asarray(result.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else result)

    planar = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    return {"fastmix": fastmix, "Pillow": pillow} | _torchvision(planar, windows, flips, view)


def _torchvision(planar, windows, flips, view) -> dict[str, Callable]:
    import torch

    import_module("fastmix.compat")  # before torchvision
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    mode, size = InterpolationMode(view.interpolation), [view.size, view.size]

    def one(image, window, flip):
        y, x, h, w = map(int, window)
        image = functional.crop(image, y, x, h, w)  # with a black border where it reaches out of the image
        image = image if [h, w] == size else functional.resize(image, size, mode, antialias=True)
        return functional.horizontal_flip(image) if flip else image

    return {"torchvision v2": lambda: torch.stack(list(map(one, planar, windows, flips)))}
