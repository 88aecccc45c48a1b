"""python -m fastmix.bench convert FOLDER: packing images into a `.beton`, against ffcv's own writer.

Every provider runs in a process of its own with `--workers` threads (processes, for ffcv); they take turns, a whole
file each, after one that is not counted. ffcv gets the images from Pillow, as in its documentation. Both reduce to
`--max-resolution`; ours checks every image for damage and waits until the file is on the disk, ffcv's does neither.

- "jpeg": every image is encoded anew.   - "raw": every image is stored as pixels.
- "kept", "seekable": ours only; the original JPEG bytes, and the same with restart markers.

Of several sources, which are the same images in several forms, we convert each as "kept", its listing included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="+", help="images in a layout that convert knows; several: of the same images")
    parser.add_argument("--rows", type=int, default=1000, help="images a file at least; fewer are repeated")
    parser.add_argument("--rounds", type=int, default=7, help="files of each provider that count")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-resolution", type=int, default=500, help="longest side, in pixels")
    parser.add_argument("--quality", type=int, default=90)


def run(args: argparse.Namespace) -> list[dict]:
    """Rows in images/s, CPU ms an image and MB, and ffcv's times over ours. Raises ValueError for a bad source."""
    from fastmix.bench.measure import row
    from fastmix.pipelines.packing.layouts import scan

    if len(args.source) > 1:
        return _forms(args)
    listing = scan(args.source[0])
    repeats = max(1, -(-args.rows // len(listing.files)))
    listing = listing._replace(files=listing.files * repeats, labels=listing.labels * repeats)
    turns = _measure([plan for plan in PLANS if plan[1] == "fastmix" or find_spec("ffcv")], listing, args)
    shape, rows = f"{len(listing.files)} images, {args.max_resolution} px, q{args.quality}", []
    for (mode, name), results in turns.items():
        walls, cpus, sizes = zip(*results, strict=True)
        for unit, values in {
            "images/s": [len(listing.files) / wall for wall in walls],
            "CPU ms/image": [1e3 * cpu / len(listing.files) for cpu in cpus],
            "MB": [size / 1e6 for size in sizes],
        }.items():
            rows.append(row("convert", mode, name, shape, "uint8", unit, values))
    for mode in dict.fromkeys(mode for mode, name in turns if name == "ffcv"):
        for k, unit in enumerate(("x time", "x CPU time")):
            pairs = zip(turns[mode, "ffcv"], turns[mode, "fastmix"], strict=True)
            ratio = [theirs[k] / ours[k] for theirs, ours in pairs]
            rows.append(row("convert", mode, "ffcv / fastmix", shape, "uint8", unit, ratio))
    return rows


def _forms(args: argparse.Namespace) -> list[dict]:
    """Rows of the same images in several forms, and the first one's times over the others'."""
    from fastmix.bench.measure import row
    from fastmix.pipelines.packing.layouts import scan

    n = len(scan(args.source[0]).files)
    turns = _measure([("form", source) for source in args.source], None, args)
    shape, rows = f"{n} images, {args.workers} workers", []
    for (_, source), results in turns.items():
        walls, cpus, _ = zip(*results, strict=True)
        rows.append(row("convert", "form", Path(source).name, shape, "uint8", "images/s", [n / wall for wall in walls]))
        rows.append(
            row("convert", "form", Path(source).name, shape, "uint8", "CPU ms/image", [1e3 * cpu / n for cpu in cpus])
        )
    first = Path(args.source[0]).name
    for source in args.source[1:]:
        for k, unit in enumerate(("x time", "x CPU time")):
            pairs = zip(turns["form", args.source[0]], turns["form", source], strict=True)
            ratio = [one[k] / other[k] for one, other in pairs]
            rows.append(row("convert", "form", f"{first} / {Path(source).name}", shape, "uint8", unit, ratio))
    return rows


def _measure(plans: list[tuple], listing, args: argparse.Namespace) -> dict[tuple, list[tuple[float, float, int]]]:
    """(seconds, CPU seconds, bytes) of each turn of each (mode, provider)."""
    turns = {plan: [] for plan in plans}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        pools = {plan: stack.enter_context(ProcessPoolExecutor(1, spawn, _prepare)) for plan in plans}
        for k in range(1 + args.rounds):
            for (mode, name), pool in pools.items():
                result = pool.submit(_turn, mode, name, listing, Path(folder, "a.beton"), args).result()
                if k:
                    turns[mode, name].append(result)
    return turns


def _prepare() -> None:
    os.environ["TQDM_DISABLE"] = "1"  # ffcv's progress bar
    multiprocessing.set_start_method("fork", force=True)  # of ffcv's workers, as it is in a user's process


def _turn(mode: str, name: str, listing, out: Path, args: argparse.Namespace) -> tuple[float, float, int]:
    work = _form if mode == "form" else PLANS[mode, name]
    out.unlink(missing_ok=True)
    wall, cpu = time.perf_counter(), _cpu_seconds()
    work(name if mode == "form" else mode, listing, out, args)
    return time.perf_counter() - wall, _cpu_seconds() - cpu, out.stat().st_size


def _cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _fastmix(mode: str, listing, out: Path, args: argparse.Namespace) -> None:
    from fastmix.pipelines.packing.pack import pack

    how = {"recompress": mode == "jpeg", "seekable": mode == "seekable", "jpeg_share": float(mode != "raw")}
    size = args.max_resolution if mode in ("jpeg", "raw") else None
    pack(listing, out, max_resolution=size, quality=args.quality, workers=args.workers, **how)


def _form(source: str, listing, out: Path, args: argparse.Namespace) -> None:
    from fastmix.pipelines.packing.layouts import scan
    from fastmix.pipelines.packing.pack import pack

    pack(scan(source), out, workers=args.workers)


def _ffcv(mode: str, listing, out: Path, args: argparse.Namespace) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    kind = "jpg" if mode == "jpeg" else "raw"
    image = RGBImageField(write_mode=kind, max_resolution=args.max_resolution, jpeg_quality=args.quality)
    writer = DatasetWriter(str(out), {"image": image, "label": IntField()}, num_workers=args.workers)
    writer.from_indexed_dataset(_Files(listing.paths(), listing.labels))


class _Files:
    """Pillow images and labels."""

    def __init__(self, files: list[str], labels: list[int]):
        self.files, self.labels = files, labels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int):
        from PIL import Image

        with Image.open(self.files[row]) as image:
            return image.convert("RGB"), self.labels[row]


PLANS = {
    ("jpeg", "fastmix"): _fastmix,
    ("jpeg", "ffcv"): _ffcv,
    ("raw", "fastmix"): _fastmix,
    ("raw", "ffcv"): _ffcv,
    ("kept", "fastmix"): _fastmix,
    ("seekable", "fastmix"): _fastmix,
}
