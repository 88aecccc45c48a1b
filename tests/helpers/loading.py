"""What the loaders' tests share: data sets small enough to look at every pixel, and how to compare batches."""

import io
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from numba import config
from PIL import Image

from fastmix.pipelines.packing.format import JPEG, RAW
from fastmix.pipelines.packing.writer import BetonWriter
from fastmix.pipelines.sources import shapes

PACKAGES = {"ffcv": "ffcv", "dali": "nvidia.dali"}  # what a loader needs that need not be installed


def installed(loader: str) -> bool:
    """Whether what a loader needs is there. Imports ffcv without its JIT, which takes seconds and is not used."""
    package = PACKAGES.get(loader)
    if package is None:
        return True
    jit, config.DISABLE_JIT = config.DISABLE_JIT, 1
    try:
        import_module(package)
    except ImportError:
        return False
    finally:
        config.DISABLE_JIT = jit
    return True


def image_folder(root: Path, n: int) -> Path:
    """n JPEGs of three classes and of varied sizes, from 40 to 120 pixels."""
    for k in range(n):
        rng = np.random.default_rng(k)
        picture = Image.fromarray(shapes.draw(rng, list(shapes.SHAPES)[k % 10], 120))
        width, height = rng.integers(40, 121, 2)
        (root / f"class{k % 3}").mkdir(exist_ok=True, parents=True)
        picture.crop((0, 0, width, height)).save(root / f"class{k % 3}" / f"{k:03}.jpg", quality=85)
    return root


def every_kind(folder: Path) -> list[str]:
    """The same picture of 48 x 40 pixels in every kind of file; returns the names, sorted."""
    corners = np.random.default_rng(1).integers(40, 216, (3, 3, 3), dtype=np.uint8)
    picture = Image.fromarray(corners).resize((48, 40), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise for display
    files = {
        "a.png": (picture, {}),
        "b.jpg": (picture, {"quality": 95}),
        "c_cmyk.jpg": (picture.convert("CMYK"), {"quality": 95}),
        "d_turned.jpg": (picture.transpose(Image.Transpose.ROTATE_90), {"quality": 95, "exif": exif}),
        "e_alpha.png": (picture.convert("RGBA"), {}),
        "f_palette.png": (picture.quantize(256), {}),
        "g_grey.jpg": (picture.convert("L"), {"quality": 95}),
        "h_grey.png": (picture.convert("L"), {}),
        "i_progressive.jpg": (picture, {"quality": 95, "progressive": True}),
    }
    folder.mkdir()
    for name, (image, options) in files.items():
        image.save(folder / name, **options)
    return list(files)


def encoded(pixels: np.ndarray, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def beton_of(path: Path, images: list[np.ndarray | bytes]) -> Path:
    """A file of raw pixels (arrays) and JPEGs (bytes), labels 0, 1, ..."""
    with BetonWriter(path, len(images)) as writer:
        for k, image in enumerate(images):
            raw = isinstance(image, np.ndarray)
            height, width = image.shape[:2] if raw else Image.open(io.BytesIO(image)).size[::-1]
            writer.add(RAW if raw else JPEG, height, width, image.tobytes() if raw else image, k)
        writer.finish()
        writer.publish(None)
    return path


def copies(batches: Iterable) -> list[tuple]:
    return [tuple(tensor.clone() for tensor in batch) for batch in batches]


def joined(batches: Iterable) -> tuple[np.ndarray, np.ndarray]:
    """All valid images and labels of some batches."""
    parts = [(images[valid].numpy(), labels[valid].numpy()) for images, labels, valid in batches]
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def equal(a: list[tuple], b: list[tuple]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )
