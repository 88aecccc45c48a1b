"""python -m fastmix.bench loader: CPU time and throughput of the loaders, and of two peers, on the same images.

Every provider runs in a process of its own with `--workers` threads (processes, for torch) and yields uint8 batches;
they take turns, an epoch each, after one epoch that is not counted. CPU time is user plus system time of the process
and its children, which other work on the machine disturbs less than images/s. The ratios are taken turn by turn.

- "rrc": RandomResizedCrop of 8 % to 100 % of the area. ffcv cannot be given our crops; it draws its own from the same
  distribution. Ours and torch's also mirror half of the images; ffcv does not, as that is one more pass there.
- "centre": the middle of every image, resized to 8/7 of the size: the same windows for everybody.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import resource
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

MODES = ("rrc", "centre")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a .beton file, shapes:train, or a folder of images")
    parser.add_argument("--originals", help="a folder with the original files, when SOURCE is a .beton file")
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1000, help="images an epoch at least; fewer are repeated")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each provider that count")


def run(args: argparse.Namespace) -> list[dict]:
    """Rows in CPU ms an image and in images/s, and peers' CPU time over ours. Raises ValueError for a bad source."""
    from fastmix.bench.measure import row

    packed = args.source if args.source.endswith(".beton") or args.source.startswith("shapes:") else None
    originals = args.originals if packed else args.source
    with tempfile.TemporaryDirectory() as folder:
        sources = {
            "beton": packed and _repeated_beton(packed, args.rows, Path(folder)),
            "files": originals and _repeated_list(originals, args.rows, Path(folder)),
        }
        plans = [(mode, name) for mode in MODES for name, (needs, _) in PROVIDERS.items() if sources[needs]]
        plans = [(mode, name) for mode, name in plans if "ffcv" not in name or find_spec("ffcv")]
        turns = _measure(plans, sources, args)
    shape, rows, cpu = f"{args.batch}x{args.size}x{args.size}x3", [], {}
    for (mode, name), results in turns.items():
        cpu[mode, name] = [1e3 * seconds / images for images, _, seconds in results]
        speed = [images / wall for images, wall, _ in results]
        rows.append(row("loader", mode, name, shape, "uint8", "CPU ms/image", cpu[mode, name]))
        rows.append(row("loader", mode, name, shape, "uint8", "images/s", speed))
    for mode, ours, peer in ((mode, ours, peer) for mode in MODES for ours in OURS for peer in PEERS):
        if (mode, ours) in cpu and (mode, peer) in cpu:
            ratio = [theirs / mine for theirs, mine in zip(cpu[mode, peer], cpu[mode, ours], strict=True)]
            rows.append(row("loader", mode, f"{peer} / {ours}", shape, "uint8", "x CPU time", ratio))
    return rows


def _repeated_beton(path: str, rows: int, folder: Path) -> str:
    from fastmix.pipelines.format import Beton
    from fastmix.pipelines.sources import resolve
    from fastmix.pipelines.writer import BetonWriter

    with Beton(resolve(path)) as file:
        if len(file) >= rows:
            return path
        out, total = folder / "repeated.beton", -(-rows // len(file)) * len(file)
        with BetonWriter(out, total) as writer:
            for k in (k % len(file) for k in range(total)):
                image = int(file.modes[k]), int(file.heights[k]), int(file.widths[k]), file.data(k).tobytes()
                writer.add(*image, int(file.labels[k]))
            writer.finish()
            writer.publish(None)
    return str(out)


def _repeated_list(source: str, rows: int, folder: Path) -> str:
    from fastmix.pipelines.layouts import scan

    listing, out = scan(source), folder / "files.csv"
    with out.open("w", newline="") as file:
        pairs = list(zip(map(os.path.abspath, listing.files), listing.labels, strict=True))
        csv.writer(file).writerows(pairs * max(1, -(-rows // len(pairs))))
    return str(out)


def _measure(plans: list, sources: dict, args: argparse.Namespace) -> dict[tuple, list]:
    """(images, seconds, CPU seconds) of each turn of each (mode, provider)."""
    context = multiprocessing.get_context("spawn")
    workers, turns = {}, {plan: [] for plan in plans}
    try:
        for mode, name in plans:
            ours, theirs = context.Pipe()
            work = mode, name, sources[PROVIDERS[name][0]], args
            process = context.Process(target=_serve, args=(theirs, *work), daemon=False)
            process.start()
            theirs.close()
            workers[mode, name] = process, ours
            _turn(ours, name)
        for _ in range(args.rounds):
            for plan, (_, pipe) in workers.items():
                turns[plan].append(_turn(pipe, plan[1]))
    finally:
        for process, pipe in workers.values():
            pipe.close()
            process.join()
    return turns


def _turn(pipe, name: str) -> tuple[int, float, float]:
    try:
        pipe.send("epoch")
        result = pipe.recv()
    except (EOFError, BrokenPipeError):
        raise RuntimeError(f"bench loader: the process of {name} died") from None
    if isinstance(result, str):
        raise ValueError(f"{name}: {result}")
    return result


def _serve(pipe, mode: str, name: str, source: str, args: argparse.Namespace) -> None:
    """A provider's process: an epoch each time it is asked for, until the other end closes."""
    epoch, k = None, 0
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        try:
            epoch = epoch or PROVIDERS[name][1](mode, source, args)
            wall, cpu = time.perf_counter(), _cpu_seconds()
            images = epoch(k)
            pipe.send((images, time.perf_counter() - wall, _cpu_seconds() - cpu))
        except (ValueError, OSError, ImportError) as error:
            pipe.send(str(error))
        k += 1


def _cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _fastmix(loader: str, decode: str):
    def start(mode: str, source: str, args: argparse.Namespace):
        from fastmix.pipelines import loader_class
        from fastmix.pipelines.view import View

        resize = args.size * 8 // 7 if mode == "centre" else None
        view = View(args.size, crop=mode, resize=resize, flip=0.5 * (mode == "rrc"), decode=decode)
        data = loader_class(loader)(source, args.batch, view=view, train=True, workers=args.workers)
        return lambda epoch: sum(len(images) for images, _, _ in data.epoch(epoch))

    return start


def _ffcv(mode: str, source: str, args: argparse.Namespace):
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
    return lambda epoch: sum(len(images) for images, _ in data)


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


def _torch(mode: str, source: str, args: argparse.Namespace):
    import torch

    import fastmix.compat  # noqa: F401
    from fastmix.pipelines.layouts import scan

    torch.set_num_threads(1)
    from torchvision import transforms

    if mode == "rrc":
        steps = [transforms.RandomResizedCrop(args.size), transforms.RandomHorizontalFlip()]
    else:
        steps = [transforms.Resize(args.size * 8 // 7), transforms.CenterCrop(args.size)]
    listing = scan(source)
    data = torch.utils.data.DataLoader(
        _Files(listing.files, listing.labels, transforms.Compose([*steps, transforms.PILToTensor()])),
        args.batch,
        shuffle=True,
        num_workers=args.workers,
        drop_last=True,
        multiprocessing_context="fork",  # as it is by default; this process was started in another way
    )
    return lambda epoch: sum(len(images) for images, _ in data)


PROVIDERS = {  # name: (what it reads, how it starts)
    "fastmix beton, exact": ("beton", _fastmix("beton", "exact")),
    "fastmix beton, fast": ("beton", _fastmix("beton", "fast")),
    "ffcv": ("beton", _ffcv),
    "fastmix folder, exact": ("files", _fastmix("folder", "exact")),
    "torch DataLoader, Pillow": ("files", _torch),
}
PEERS = ("ffcv", "torch DataLoader, Pillow")
OURS = tuple(name for name in PROVIDERS if name not in PEERS)
