"""python -m fastmix.bench train [DATA]: images/s of training on real data, beside the same step on synthetic images.

Providers take turns in one process, `--rounds` of them. A turn begins an epoch of the loader, takes `--warmup` steps
that do not count, then `--steps` that do, and ends the loader with its threads or processes, so that nobody works in
the turn of another. The device is waited for before and after the steps that count, and never between.

- "fastmix synthetic": the step of the training loop on the same noise again and again.
- "fastmix beton, fast" and so on: the same step (one model for all loaders of a method) behind that loader.
- --peer timm: its dataset, loader with prefetcher and collate function (which mixes on the host), its model, losses and
  torch's SGD, channels-last, autocast, page-locked memory; the crops, mirror images and filter of fastmix, no colour
  jitter. "timm synthetic" mixes on the device. With --compile both are there eager and compiled.

Rows: images/s; the share of the synthetic step's rate, turn by turn; the share of the time in which the loop waited for
data, as the training loop measures it (log.Clock); on a GPU the largest memory of tensors, in GB. The spread is over
rounds. A few images are repeated until they fill a turn: the name of a row says how often. They all lie in memory then,
so a disk is not measured. timm's processes hand out whole batches, so --steps should be many times --workers.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from fastmix.bench import step as steps
from fastmix.bench.step import leaving_out

LOADERS = {"beton": "packed", "folder": "files", "resident": "", "dali": "", "ffcv": "packed"}  # what each reads
DECODING = ("beton", "folder", "dali")  # loaders that --decode concerns


class Provider(NamedTuple):
    """take(images, labels) is a step; epoch(k) yields (images, labels, ...) and ends its workers when it is closed."""

    name: str
    base: str  # the provider whose rate is the whole
    take: Callable
    epoch: Callable[[int], Iterator[tuple]]
    held: int  # bytes on the device between turns


class Pace(NamedTuple):
    """What a turn measured."""

    rate: float  # images/s
    waiting: float  # share of the time, 0 to 1
    peak: int  # bytes beyond those held before the turn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="?", default="shapes:train", help="a .beton file, a folder of classes or a list")
    parser.add_argument("--originals", metavar="FOLDER", help="the image files, when DATA is a .beton file")
    steps.add_step_arguments(parser)
    parser.set_defaults(mix=["cutmix"])
    parser.add_argument("--loader", nargs="+", choices=LOADERS, help="default: beton or folder, as DATA is")
    parser.add_argument("--decode", default="fast", choices=("fast", "exact", "gpu"))
    parser.add_argument("--workers", type=int, help="threads, or timm's processes; default: the cores")
    parser.add_argument("--peer", choices=("timm",))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="steps of a turn that count")
    parser.add_argument("--warmup", type=int, default=10, help="steps of a turn before them")
    parser.add_argument("--repeat-data", type=int, metavar="N", help="images an epoch at least; default: a turn's")


def run(args: argparse.Namespace) -> list[dict]:
    """Rows as the module says. Raises ValueError for bad data or options."""
    from fastmix.bench import measure

    cfg, device = steps.settings(args)
    names = args.loader or ["beton" if _packed(args.data) else "folder"]
    with tempfile.TemporaryDirectory() as folder:
        sources, images = _sources(args, names, Path(folder))
        found: dict[tuple, list[Pace]] = {}
        providers = list(_providers(args, cfg, device, names, sources))
        for k in range(args.rounds):
            for mix, provider in providers:
                found.setdefault((mix, provider), []).append(turn(provider, k, args.warmup, args.steps, device))
    shape = f"{args.batch}x{args.size}x{args.size}"
    out = []
    for mix, name, unit, values in rows(found):
        what = f"{args.model} {mix}, {images}", name, shape, steps.dtype(cfg), unit
        out.append(measure.row("train", *what, values, device=device.type))
    return [row for row in out if row["unit"] != "GB" or device.type == "cuda"]


def turn(provider: Provider, k: int, warmup: int, count: int, device) -> Pace:
    """`count` steps after `warmup` others, in the loader's epoch k. Raises ValueError for an epoch that is shorter."""
    import torch

    from fastmix.bench.memory import Peak
    from fastmix.engine.log import Clock

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    taken = 0
    with Peak(device) as peak, closing(provider.epoch(k)) as epoch:
        clock = Clock()
        for images, labels, *_ in clock.waiting(islice(epoch, warmup + count)):
            provider.take(images, labels)
            taken += 1
            if taken == warmup:
                wait()
                clock.read()
        wait()
        pace = clock.read()
    if taken < warmup + count:
        raise ValueError(f"{provider.name}: an epoch is {taken} steps, a turn {warmup + count}: raise --repeat-data")
    return Pace(pace["images_per_s"], pace["data_wait"], peak.bytes)


def rows(found: dict[tuple[str, Provider], list[Pace]]) -> Iterator[tuple[str, str, str, list[float]]]:
    """(method, provider, unit, values) of all turns of all (method, provider)."""
    whole = {(mix, provider.name): [pace.rate for pace in paces] for (mix, provider), paces in found.items()}
    for (mix, provider), paces in found.items():
        rates = whole[mix, provider.name]
        yield mix, provider.name, "images/s", rates
        if provider.name != provider.base:
            pairs = zip(rates, whole[mix, provider.base], strict=True)
            yield mix, provider.name, "% of synthetic", [100 * rate / most for rate, most in pairs]
        yield mix, provider.name, "% waiting for data", [100 * pace.waiting for pace in paces]
        yield mix, provider.name, "GB", [(provider.held + max(pace.peak for pace in paces)) / 1e9]


def _packed(source: str) -> bool:
    from fastmix.pipelines.sources.resolve import is_packed

    return is_packed(source)


def _sources(args: argparse.Namespace, names: list[str], folder: Path) -> tuple[dict[str, str], str]:
    """Where packed images and image files are, repeated as often as it takes, and in words how many these are."""
    from fastmix.bench.loader import repeated_beton, repeated_list
    from fastmix.pipelines.packing.format import Beton
    from fastmix.pipelines.packing.layouts import scan
    from fastmix.pipelines.sources.resolve import exists, resolve

    for source in filter(None, (args.data, args.originals)):
        if not exists(source):
            raise ValueError(f"{source}: no such file or folder")
    packed = args.data if _packed(args.data) else None
    files = args.originals if packed else args.data
    readers = [
        *(f"--loader {name}" for name in names if LOADERS[name] == "files"),
        *(["--peer timm"] * bool(args.peer)),
    ]
    if readers and not files:
        raise ValueError(f"{readers[0]} reads image files, and {args.data} is packed: give --originals FOLDER")
    for name in names:
        if LOADERS[name] == "packed" and not packed:
            raise ValueError(f"--loader {name} reads a .beton file; `python -m fastmix.convert {args.data}` makes one")
    least = args.repeat_data or (args.warmup + args.steps) * args.batch
    if packed:
        with Beton(resolve(packed)) as file:
            n = len(file)
    else:
        n = len(scan(files).files)
    times = max(1, -(-least // n))
    made = {"packed": packed and repeated_beton(packed, times * n, folder)}
    made["files"] = files and readers and repeated_list(files, times * n, folder)
    made[""] = made["packed"] or made["files"] or files and repeated_list(files, times * n, folder)
    return made, f"{n} images" + (f" x {times}" if times > 1 else "")


def _providers(
    args: argparse.Namespace, cfg, device, names: list[str], sources: dict
) -> Iterator[tuple[str, Provider]]:
    """(method, provider) for all that is to be measured."""
    from fastmix.bench import timm_peer
    from fastmix.bench.memory import built

    opened = {name: _opened(args, cfg, device, name, sources[LOADERS[name]]) for name in names}
    classes = max(steps.CLASSES, *(loader.classes for loader, _ in opened.values()))
    n = args.batch * (args.warmup + args.steps)
    noise, _ = _opened(args, cfg, device, "synthetic", f"n={n}&classes={classes}")
    workers = next(iter(opened.values()))[0].workers

    for who, mix, build in steps.makers(cfg, args, device, args.mix, bool(args.peer), classes):
        ours, base = who == "fastmix", f"{who} synthetic"
        epoch = noise.epoch if ours else partial(_planar, noise)
        with leaving_out("all" in args.mix), closing(epoch(0)) as batches:
            take, held = built(build, next(batches)[:2], device, shares=cfg.cuda_graph and ours)
            yield mix, Provider(base, base, take, epoch, held)
            if ours:
                for name, (loader, kept) in opened.items():
                    title = f"fastmix {name}" + f", {loader.view.decode}" * (name in DECODING)
                    yield mix, Provider(title, base, take, loader.epoch, held + kept)
            else:
                loader = timm_peer.loader(cfg, mix, sources["files"], workers, device, classes)
                yield mix, Provider(who, base, take, lambda k, loader=loader: iter(loader), held)


def _opened(args: argparse.Namespace, cfg, device, name: str, source: str):
    """A training loader, and the bytes that it holds on the device."""
    from fastmix.bench.memory import held
    from fastmix.engine import loaders

    decode = args.decode if name in DECODING else "exact"
    before, data = held(device), replace(cfg.data, loader=name, train=source, decode=decode, workers=args.workers)
    return loaders.training(replace(cfg, data=data), device), held(device) - before


def _planar(loader, epoch: int) -> Iterator[tuple]:
    """The synthetic batches as [B,3,H,W], as timm's loader has them."""
    planar = None
    for images, labels, _ in loader.epoch(epoch):
        planar = images.permute(0, 3, 1, 2).contiguous() if planar is None else planar
        yield planar, labels
