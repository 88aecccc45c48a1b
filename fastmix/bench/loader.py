"""python -m fastmix.bench loader: the loaders, and two peers, on the same images.

Every provider runs in a process of its own with `--workers` threads (processes, for torch) and yields uint8 batches;
they take turns, an epoch each, after one epoch that is not counted. CPU time is user plus system time of the process
and its children, which other work on the machine disturbs less than images/s. The ratios are taken turn by turn.

- "rrc": RandomResizedCrop of 8 % to 100 % of the area. All of fastmix's loaders show the same crops, half of them
  mirrored; the peers draw their own from the same distribution, torch's mirrors too, ffcv's does not (one pass more).
- "centre": the middle of every image, resized to 8/7 of the size: the same windows for everybody.

Besides: seconds from making the loader to its first batch, after the imports; the largest memory of the process; how
the time of one thread is spent (see loader_parts.py); with --parity how far the pixels of the loaders differ; and with
--no-decode what is left of a loader when compiled code takes its images and does nothing: what Python's lock allows.
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
from typing import NamedTuple

from fastmix.bench import loader_parts, loader_peers

MODES = ("rrc", "centre")
GENERATED = "shapes:train?n=500&size=400"


class Provider(NamedTuple):
    """Who is measured: it reads the packed file ("beton") or the original files ("files"), and needs a package."""

    reads: str
    loader: str  # of LOADERS; empty: a peer
    decode: str = "exact"
    needs: str = ""


PROVIDERS = {
    "fastmix beton, exact": Provider("beton", "beton"),
    "fastmix beton, fast": Provider("beton", "beton", "fast"),
    "fastmix beton, gpu": Provider("beton", "beton", "gpu", "cuda"),
    "fastmix resident": Provider("beton", "resident"),
    "fastmix folder, exact": Provider("files", "folder"),
    "fastmix ffcv": Provider("beton", "ffcv", needs="ffcv"),
    "fastmix dali": Provider("beton", "dali", needs="nvidia.dali"),
    "fastmix dali, gpu": Provider("beton", "dali", "gpu", "nvidia.dali cuda"),
    "ffcv": Provider("beton", "", needs="ffcv"),
    "torch DataLoader, Pillow": Provider("files", "", needs="torchvision"),
}
OURS = tuple(name for name, provider in PROVIDERS.items() if provider.loader)
UNDECODED = ("fastmix beton, exact", "fastmix resident", "fastmix folder, exact")
PEERS = {"ffcv": loader_peers.ffcv, "torch DataLoader, Pillow": loader_peers.torch}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", default=GENERATED, help="a .beton file, shapes:..., or a folder of images")
    parser.add_argument("--originals", help="a folder with the original files, when SOURCE is a .beton file")
    parser.add_argument("--label", default="", help="what the file holds, for the names of the rows")
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rows", type=int, default=1000, help="images an epoch at least; fewer are repeated")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each provider that count")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=PROVIDERS, help="these providers, not all")
    parser.add_argument(
        "--no-decode", action="store_true", help="what Python takes: beton, resident and folder, which decode nothing"
    )
    parser.add_argument(
        "--parity", action="store_true", help="measure how far the pixels differ, not how long it takes"
    )


def run(args: argparse.Namespace) -> list[dict]:
    """Rows as the module says. Raises ValueError for a bad source."""
    from fastmix.pipelines.sources.resolve import is_packed

    packed = args.source if is_packed(args.source) else None
    originals = args.originals if packed else args.source
    names = args.only or (UNDECODED if args.no_decode else PROVIDERS)
    names = [name for name in names if _present(PROVIDERS[name].needs, args.device)]
    with tempfile.TemporaryDirectory() as folder:
        sources = {
            "beton": packed and repeated_beton(packed, args.rows, Path(folder)),
            "files": originals and repeated_list(originals, args.rows, Path(folder)),
        }
        names = [name for name in names if sources[PROVIDERS[name].reads]]
        if args.parity:
            return _parity(names, sources, args)
        rows = _rows(_measure([(mode, name) for mode in args.modes for name in names], sources, args), args)
        if sources["beton"] and not args.no_decode:
            rows += loader_parts.rows(sources["beton"], [view(mode, "exact", args) for mode in args.modes], args)
        return rows


def view(mode: str, decode: str, args: argparse.Namespace):
    """The View of a mode."""
    from fastmix.pipelines.view import View

    resize = args.size * 8 // 7 if mode == "centre" else None
    return View(args.size, crop=mode, resize=resize, flip=0.5 * (mode == "rrc"), decode=decode)


def title(mode: str, args: argparse.Namespace) -> str:
    """The name of a row."""
    undecoded = f"nothing decoded, {args.workers} threads" if args.no_decode else ""
    return " ".join(filter(None, (mode, args.label, undecoded)))


def _present(needs: str, device: str) -> bool:
    def there(name: str) -> bool:
        try:
            return device == "cuda" if name == "cuda" else find_spec(name) is not None
        except ModuleNotFoundError:  # of a package's parent
            return False

    return all(map(there, needs.split()))


def _rows(turns: dict[tuple, tuple[dict, list]], args: argparse.Namespace) -> list[dict]:
    from fastmix.bench.measure import row

    shape, rows, cpu = f"{args.batch}x{args.size}x{args.size}x3", [], {}

    def add(mode: str, name: str, unit: str, values: list[float]) -> None:
        rows.append(row("loader", title(mode, args), name, shape, "uint8", unit, values, device=args.device))

    for (mode, name), (start, results) in turns.items():
        cpu[mode, name] = [1e3 * seconds / images for images, _, seconds in results]
        add(mode, name, "CPU ms/image", cpu[mode, name])
        add(mode, name, "images/s", [images / wall for images, wall, _ in results])
        add(mode, name, "s to the first batch", [start["first"]])
        add(mode, name, "MB", [start["memory"]])
    for mode, ours, peer in ((mode, ours, peer) for mode in args.modes for ours in OURS for peer in PEERS):
        if (mode, ours) in cpu and (mode, peer) in cpu:
            pairs = zip(cpu[mode, peer], cpu[mode, ours], strict=True)
            add(mode, f"{peer} / {ours}", "x CPU time", [theirs / mine for theirs, mine in pairs])
    return rows


def repeated_beton(path: str, rows: int, folder: Path) -> str:
    """A .beton file of at least so many rows: this one, or its rows again and again, in `folder`."""
    from fastmix.pipelines.packing.format import Beton
    from fastmix.pipelines.packing.writer import BetonWriter
    from fastmix.pipelines.sources.resolve import resolve

    path = resolve(path)
    with Beton(path) as file:
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


def repeated_list(source: str, rows: int, folder: Path) -> str:
    """A list of at least so many image files, in `folder`: those of the source, or they again and again."""
    from fastmix.pipelines.packing.layouts import scan

    listing, out = scan(source), folder / "files.csv"
    with out.open("w", newline="") as file:
        pairs = list(zip(map(os.path.abspath, listing.paths()), listing.labels, strict=True))
        csv.writer(file).writerows(pairs * max(1, -(-rows // len(pairs))))
    return str(out)


def _parity(names: list[str], sources: dict, args: argparse.Namespace) -> list[dict]:
    """Mean and largest difference of each loader's pixels from those of the first, in levels, over its batches."""
    import numpy as np

    from fastmix.bench.measure import row

    rows = []
    for mode in args.modes:
        ours = [name for name in names if PROVIDERS[name].loader]
        loaders = [_loader(mode, name, sources[PROVIDERS[name].reads], args, workers=1) for name in ours]
        epochs = [loader.epoch(0) for loader in loaders]
        found: dict[str, list] = {name: [] for name in ours[1:]}
        for batches in zip(*epochs, strict=True):
            images = [batch[0].cpu().numpy().astype(np.int16) for batch in batches]
            for name, other in zip(found, images[1:], strict=True):
                off = np.abs(other - images[0])
                found[name].append((off.mean(), off.max()))
        for name, pairs in found.items():
            what = title(mode, args), f"{name} - {ours[0]}", f"{args.size}x{args.size}x3", "uint8"
            means, largest = zip(*pairs, strict=True)
            rows.append(row("loader", *what, "levels, mean", [float(v) for v in means], device=args.device))
            rows.append(row("loader", *what, "levels, largest", [float(max(largest))], device=args.device))
    return rows


def _measure(plans: list[tuple], sources: dict, args: argparse.Namespace) -> dict[tuple, tuple[dict, list]]:
    """What starting took, and (images, seconds, CPU seconds) of each turn, of each (mode, provider)."""
    context = multiprocessing.get_context("spawn")
    workers, turns = {}, {}
    try:
        for mode, name in plans:
            ours, theirs = context.Pipe()
            work = mode, name, sources[PROVIDERS[name].reads], args
            process = context.Process(target=_serve, args=(theirs, *work), daemon=False)
            process.start()
            theirs.close()
            workers[mode, name] = process, ours
            turns[mode, name] = _turn(ours, name), []
        for _ in range(args.rounds):
            for plan, (_, pipe) in workers.items():
                turns[plan][1].append(_turn(pipe, plan[1]))
    finally:
        for process, pipe in workers.values():
            pipe.close()
            process.join()
    return turns


def _turn(pipe, name: str):
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
    import torch  # noqa: F401

    import fastmix.pipelines.loader  # noqa: F401

    if args.no_decode:
        loader_parts.decode_nothing()
    epoch, k = None, 0
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        try:
            if epoch is None:
                start = time.perf_counter()
                epoch = _ours(mode, name, source, args) if PROVIDERS[name].loader else PEERS[name](mode, source, args)
                first = epoch(0)[1] - start
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
                pipe.send({"first": first, "memory": memory})
            else:
                wall, cpu = time.perf_counter(), _cpu_seconds()
                images, _ = epoch(k)
                pipe.send((images, time.perf_counter() - wall, _cpu_seconds() - cpu))
        except (ValueError, OSError, ImportError) as error:
            pipe.send(str(error))
        k += 1


def _ours(mode: str, name: str, source: str, args: argparse.Namespace):
    loader = _loader(mode, name, source, args, args.workers)
    return lambda epoch: loader_peers.count(images for images, _, _ in loader.epoch(epoch))


def _loader(mode: str, name: str, source: str, args: argparse.Namespace, workers: int):
    from fastmix.pipelines import loader_class

    provider = PROVIDERS[name]
    how = {"view": view(mode, provider.decode, args), "train": True, "workers": workers, "device": args.device}
    return loader_class(provider.loader)(source, args.batch, **how)


def _cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
