"""python -m fastmix.bench decode: JPEG decoders, and what `decode: fast` costs in pixels and in top-1.

- CPU ms an image of each decoder for whole images, on one thread, in turns, and of the package's own for random resized
  crops.
- The mean difference of the pixels of `fast` from those of `exact`, and its sign (fast minus exact), over the crops of
  an epoch, at several sizes.
- With --train N: the last top-1 of a small network trained either way, for N seeds, on the built-in drawings at 32
  pixels, where every crop is scaled in the DCT domain.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

CONFIG, SMALL = "quickstart", ("data.size=32", "data.val_resize=32", "mix=vanilla")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", default="shapes:train?n=500&size=400", help="a .beton file of JPEGs")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 96], help="pixels of the crops")
    parser.add_argument("--images", type=int, default=200, help="how many are decoded")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--train", type=int, default=0, metavar="N", help="seeds to train with each way")


def run(args: argparse.Namespace) -> list[dict]:
    """Rows as the module says. Raises ValueError for a bad source."""
    from fastmix.pipelines.packing.format import JPEG, Beton
    from fastmix.pipelines.sources.resolve import resolve

    with Beton(resolve(args.source)) as file:
        rows = np.flatnonzero(file.modes == JPEG)[: args.images]
        if not len(rows):
            raise ValueError(f"{args.source}: has no JPEGs to decode")
        images = [(file.data(row).copy(), int(file.heights[row]), int(file.widths[row])) for row in rows]
    return [*_speed(images, args), *_pixels(args), *_top1(args)]


def _speed(images: list[tuple], args: argparse.Namespace) -> list[dict]:
    from fastmix.bench.measure import row

    pixels = sum(height * width for _, height, width in images) / len(images)
    size = sum(len(data) for data, _, _ in images) / len(images)
    shape = f"{pixels / 1e3:.0f}k pixels, {size / 1e3:.0f} kB"
    decoders = _decoders(args)
    times: dict[str, list[float]] = {name: [] for name in decoders}
    for k in range(args.rounds + 1):
        for name, decode in decoders.items():
            start = time.process_time()
            for image in images:
                decode(*image)
            if k:
                times[name].append(1e3 * (time.process_time() - start) / len(images))
    return [row("decode", "JPEG", name, shape, "uint8", "CPU ms/image", values) for name, values in times.items()]


def _decoders(args: argparse.Namespace) -> dict[str, Callable]:
    import io

    from PIL import Image

    from fastmix.pipelines.jpeg.codec import codec
    from fastmix.pipelines.jpeg.decode import jpeg
    from fastmix.pipelines.resize import sees
    from fastmix.pipelines.view import View

    view = View(args.sizes[0])

    def part(data: np.ndarray, height: int, width: int):
        row = np.array([data[-3000:].sum()])  # some number of the image's own: each round takes the same crops
        windows, _ = view.windows(np.array([height]), np.array([width]), 0, 0, row)
        return jpeg(data, height, width, 1, sees(windows[0], view.size, view.interpolation, view.whole))

    found = {
        "simplejpeg": lambda data, *_: codec().decode_jpeg(data),
        "Pillow": lambda data, *_: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
        "fastmix, random crops": part,
    }
    try:
        import cv2

        cv2.setNumThreads(1)
        found["opencv"] = lambda data, *_: cv2.imdecode(data, cv2.IMREAD_COLOR)
    except ImportError:
        pass
    return found


def _pixels(args: argparse.Namespace) -> list[dict]:
    """Over each image of an epoch: the mean difference, without and with its sign."""
    from fastmix.bench.measure import row
    from fastmix.pipelines.beton import Beton
    from fastmix.pipelines.view import View

    out = []
    for size in args.sizes:
        exact, fast = (
            Beton(args.source, 1, view=View(size, decode=decode), train=True, workers=1).epoch(0)
            for decode in ("exact", "fast")
        )
        off = [b[0].numpy().astype(int) - a[0].numpy() for a, b in islice(zip(exact, fast, strict=True), 1000)]
        name, shape = "fast - exact", f"{size}x{size}x3"
        off = [image for image in off if image.any()]
        out.append(row("decode", name, "images that differ", shape, "uint8", "images", [len(off)]))
        for what, values in {
            "mean difference of those": [np.abs(image).mean() for image in off],
            "mean difference with its sign": [image.mean() for image in off],
            "largest mean difference": [max((np.abs(image).mean() for image in off), default=0.0)],
        }.items():
            out.append(row("decode", name, what, shape, "uint8", "levels", [float(v) for v in values] or [0.0]))
    return out


def _top1(args: argparse.Namespace) -> list[dict]:
    from fastmix import config
    from fastmix.bench.measure import row
    from fastmix.engine.training import train

    out = []
    with tempfile.TemporaryDirectory() as folder:
        for decode in ("exact", "fast")[: 2 * args.train]:
            scores = []
            for seed in range(args.train):
                run = Path(folder, f"{decode}{seed}")
                words = [*SMALL, f"data.decode={decode}", f"seed={seed}", f"out={run}"]
                train(config.load(CONFIG, words), "decode")
                if not (run / "model.safetensors").exists():
                    raise ValueError(f"bench decode: the training of seed {seed} was stopped")
                lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
                scores.append([line["top1"] for line in lines if line["kind"] == "val"][-1])
            out.append(row("decode", "top-1 of the quickstart", decode, "32x32x3", "uint8", "%", scores))
    return out
