"""Built-in data: drawn shapes of ten classes, for a first run and for tests without any download.

Only the shape tells the class: colours, size, turn and place are drawn independently of it, before a textured
background. An image is a function of (seed, split, index), so the same seed gives the same bytes. The JPEG files are
written into class folders, packed like anybody's data and kept in the cache folder (cache.py).
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image, ImageDraw

from fastmix.pipelines.jpeg.codec import need
from fastmix.pipelines.packing.format import classes_path
from fastmix.pipelines.packing.layouts import scan
from fastmix.pipelines.packing.pack import pack
from fastmix.pipelines.sources import cache
from fastmix.ranges import Range

PREFIX = "shapes:"
SPLITS = {"train": 2000, "val": 500}  # images
DEFAULTS = {"size": 96, "seed": 0}  # pixels a side
VERSION = 1  # of the drawings; part of the cached file's name
FINE = 4  # subpixels a side
QUALITY = 90
CONTRAST = 90  # least difference of brightness between shape and background, in grey levels


def _arc(radius: float, start: float = 0.0, stop: float = 2 * np.pi, points: int = 64) -> np.ndarray:
    t = np.linspace(start, stop, points)
    return radius * np.stack([np.cos(t), np.sin(t)], 1)


def _corners(radii: list[float]) -> np.ndarray:
    t = 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.asarray(radii)[:, None] * np.stack([np.cos(t), np.sin(t)], 1)


def _cross() -> np.ndarray:
    arm = np.array([3 - 1j, 3 + 1j, 1 + 1j]) / 3.2
    points = np.concatenate([arm * 1j**k for k in range(4)])
    return np.stack([points.real, points.imag], 1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 64)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, y + 2.5], 1) / 17


# Each shape in the unit disc: what is drawn, then what is cut out of it. No two are equal under turns and mirroring.
SHAPES: dict[str, list[np.ndarray]] = {
    "arrow": [np.array([(1, 0), (0.1, 0.75), (0.1, 0.3), (-0.95, 0.3), (-0.95, -0.3), (0.1, -0.3), (0.1, -0.75)])],
    "circle": [_arc(0.85)],
    "crescent": [_arc(0.95), _arc(0.75) + (0.5, 0)],
    "cross": [_cross()],
    "heart": [_heart()],
    "ring": [_arc(0.95), _arc(0.5)],
    "semicircle": [_arc(1.0, 0, np.pi) - (0, 0.4)],
    "square": [_corners([1] * 4)],
    "star": [_corners([1, 0.4] * 5)],
    "triangle": [_corners([1] * 3)],
}


def draw(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    """One picture of the shape `name`: uint8 [size,size,3]."""
    back, front = _colours(rng), _colours(rng)
    while abs(back.mean() - front.mean()) < CONTRAST:
        front = _colours(rng)
    mask = _mask(rng, SHAPES[name], size)[..., None]
    ground, surface = (c[0] + _texture(rng, size)[..., None] * (c[1] - c[0]) for c in (back, front))
    pixels = mask * surface + (1 - mask) * ground + rng.normal(0, rng.uniform(1, 6), (size, size, 1))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def jpeg(split: str, index: int, size: int = 96, seed: int = 0) -> bytes:
    """The JPEG file of a split's index-th image; its class is index modulo the number of classes."""
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    file = io.BytesIO()
    Image.fromarray(draw(rng, list(SHAPES)[index % len(SHAPES)], size)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def resolve(source: str) -> str:
    """The path of a data source: "shapes:train" and "shapes:val" become a packed file, made once; paths pass through.

    Options: "shapes:train?n=200&size=48&seed=1" (images, pixels a side, seed). Raises ValueError for an unknown split
    or option.
    """
    if not source.startswith(PREFIX):
        return source
    split, options = parse(source)
    name = "-".join(["shapes", split, *(f"{key}{value}" for key, value in options.items()), f"v{VERSION}"])
    path = cache.kept(f"{name}.beton")
    with cache.alone(path):
        if not path.is_file():
            need(source)
            sys.stderr.write(f"drawing {options['n']} shapes once, kept as {path}\n")
            _make(path, split, **options)
    return str(path)


def parse(source: str) -> tuple[str, dict[str, int]]:
    """Split and options (n, size, seed) of a name such as "shapes:train?n=200". Raises ValueError."""
    split, _, query = source[len(PREFIX) :].partition("?")
    if split not in SPLITS:
        raise ValueError(f"'{source}': no such built-in data; there are {', '.join(PREFIX + s for s in SPLITS)}")
    options = {"n": SPLITS[split], **DEFAULTS}
    for key, value in parse_qsl(query, keep_blank_values=True):
        allowed = {"n": Range(len(SHAPES), 1_000_000), "size": Range(16, 4096), "seed": Range(0, 2**32 - 1)}.get(key)
        if allowed is None:
            raise ValueError(f"'{source}': unknown option '{key}'; there are {', '.join(options)}")
        if not value.isdecimal() or int(value[:20]) not in allowed:
            raise ValueError(f"'{source}': {key} must be a whole number {allowed}")
        options[key] = int(value)
    return split, options


def _make(path: Path, split: str, n: int, size: int, seed: int) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=path.stem) as folder:
        images, packed = Path(folder, "images"), Path(folder, path.name)
        for name in SHAPES:
            (images / name).mkdir(parents=True)
        for k in range(n):
            (images / list(SHAPES)[k % len(SHAPES)] / f"{k:06}.jpg").write_bytes(jpeg(split, k, size, seed))
        pack(scan(images), packed)
        os.replace(classes_path(packed), classes_path(path))  # first: the file counts as made once it is there
        os.replace(packed, path)


def _colours(rng: np.random.Generator) -> np.ndarray:
    """The two ends of a texture's colours: RGB [2,3], not far apart."""
    first = rng.uniform(20, 235, 3)
    return np.clip([first, first + rng.uniform(-40, 40, 3)], 0, 255)


def _mask(rng: np.random.Generator, outlines: list[np.ndarray], size: int) -> np.ndarray:
    """How much of each pixel the shape covers, in [0,1]: drawn finer and averaged."""
    turn, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.36, 0.46)
    centre = rng.uniform(radius * 0.95, 1 - radius * 0.95, 2)
    spin = np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))])
    mask = Image.new("L", (size * FINE, size * FINE))
    for k, outline in enumerate(outlines):
        points = np.rint((outline @ spin * radius + centre) * size * FINE)
        ImageDraw.Draw(mask).polygon([tuple(p) for p in points.tolist()], fill=0 if k else 255)
    return np.asarray(mask, np.float64).reshape(size, FINE, size, FINE).mean((1, 3)) / 255


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A field in [0,1], [size,size]: a gradient, stripes or smooth noise."""
    kind, turn = rng.integers(3), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size] / size - 0.5
    along = x * np.cos(turn) + y * np.sin(turn)
    if kind == 0:
        return np.clip(0.5 + along, 0, 1)
    if kind == 1:
        return 0.5 + 0.5 * np.sin(2 * np.pi * (rng.uniform(1, 6) * along + rng.uniform()))
    cells = rng.integers(0, 256, (int(rng.integers(3, 9)),) * 2, dtype=np.uint8)
    smooth = Image.fromarray(cells).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float64) / 255
