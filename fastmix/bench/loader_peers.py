"""What the loaders are measured against: ffcv's own Loader, and torch's DataLoader with Pillow and torchvision.

Each function returns epoch(k) -> (images, when the first batch was there).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable


def count(batches: Iterable) -> tuple[int, float]:
    """The number of images in some batches, and the clock's time when the first was there."""
    total = first = 0
    for images in batches:
        first = first or time.perf_counter()
        total += len(images)
    return total, first


def ffcv(mode: str, source: str, args: argparse.Namespace):
    """As its documentation has it, with the crops and the decoder of a training on ImageNet."""
    from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import Squeeze, ToTensor

    size = (args.size, args.size)
    if mode == "rrc":
        decoder = RandomResizedCropRGBImageDecoder(size)
    else:
        decoder = CenterCropRGBImageDecoder(size, ratio=args.size / (args.size * 8 // 7))
    data = Loader(
        source,
        batch_size=args.batch,
        num_workers=args.workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        seed=0,
        pipelines={"image": [decoder, ToTensor()], "label": [IntDecoder(), ToTensor(), Squeeze()]},
    )
    return lambda epoch: count(images for images, _ in data)


class _Files:
    """A torch dataset of image files."""

    def __init__(self, files: list[str], labels: list[int], transform):
        self.files, self.labels, self.transform = files, labels, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int):
        from PIL import Image

        with Image.open(self.files[row]) as image:
            return self.transform(image.convert("RGB")), self.labels[row]


def torch(mode: str, source: str, args: argparse.Namespace):
    """As torchvision's reference scripts have it."""
    from torch import set_num_threads
    from torch.utils.data import DataLoader

    import fastmix.compat  # noqa: F401
    from fastmix.pipelines.packing.layouts import scan

    set_num_threads(1)
    from torchvision import transforms

    if mode == "rrc":
        steps = [transforms.RandomResizedCrop(args.size), transforms.RandomHorizontalFlip()]
    else:
        steps = [transforms.Resize(args.size * 8 // 7), transforms.CenterCrop(args.size)]
    listing = scan(source)
    data = DataLoader(
        _Files(listing.paths(), listing.labels, transforms.Compose([*steps, transforms.PILToTensor()])),
        args.batch,
        shuffle=True,
        num_workers=args.workers,
        drop_last=True,
        multiprocessing_context="fork",  # as it is by default; this process was started in another way
    )
    return lambda epoch: count(images for images, _ in data)
