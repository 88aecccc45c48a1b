"""python -m fastmix.bench shards: a data set in many packed files against the same rows in one.

Both are made here, of small JPEGs that are used again and again, in a temporary folder. Starting is measured
`--starts` times, in new processes: seconds from making the loader to its being open, and from there to the first batch,
and memory that was added by then, at its highest. CPU time is that of one thread, which reads, decodes and crops
batches of random rows, some from one file, some from the shards, in turns. Images are small, so that what is not
decoding counts most.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

PICTURES = 512  # that differ


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=1_281_167, help="images")
    parser.add_argument("--shards", type=int, default=128)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--pixels", type=int, default=64, help="a side of each image")
    parser.add_argument("--size", type=int, default=32, help="a side of what is trained on")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    parser.add_argument("--rounds", type=int, default=99, help="turns that count")
    parser.add_argument("--starts", type=int, default=5, help="processes that are started for each")
    parser.add_argument("--workers", type=int, default=2)


def run(args: argparse.Namespace) -> Iterator[dict]:
    """Rows in seconds, MB and CPU us an image, and one file's CPU time over the shards'."""
    from fastmix.bench.measure import row

    with tempfile.TemporaryDirectory() as folder:
        sources = {"one file": f"{folder}/one.beton", f"{args.shards} shards": f"{folder}/x-*.beton"}
        _write(Path(folder), args)
        started: dict[str, list[dict]] = {name: [] for name in sources}
        spawn = multiprocessing.get_context("spawn")
        for _ in range(args.starts):
            for name, source in sources.items():
                with ProcessPoolExecutor(1, spawn) as pool:
                    started[name].append(pool.submit(_started, source, args).result())
        turns = _turns(sources, args)
    shape = f"{args.rows:,} images of {args.pixels} px"
    for name in sources:
        for what in started[name][0]:
            values = [start[what] for start in started[name]]
            yield row("shards", what.split(", ")[0], name, shape, "JPEG", what.split(", ")[1], values)
        micro = [1e6 * cpu for cpu in turns[name]]
        yield row("shards", "an image of a batch", name, shape, "JPEG", "CPU us", micro)
    one, many = sources
    ratio = [100 * a / b for a, b in zip(turns[one], turns[many], strict=True)]
    yield row("shards", "rate by CPU time", f"{many} of {one}", shape, "JPEG", "%", ratio)


def _write(folder: Path, args: argparse.Namespace) -> None:
    from fastmix.pipelines.jpeg.codec import codec
    from fastmix.pipelines.packing.format import JPEG
    from fastmix.pipelines.packing.series import shard
    from fastmix.pipelines.packing.sharding import cut
    from fastmix.pipelines.packing.writer import BetonWriter

    rng, side = np.random.default_rng(0), args.pixels
    coarse = rng.integers(0, 256, (PICTURES, 8, 8, 3), np.uint8)
    pictures = [codec().encode_jpeg(np.ascontiguousarray(p.repeat(side // 8, 0).repeat(side // 8, 1))) for p in coarse]
    side, names = side // 8 * 8, [str(k) for k in range(args.classes)]
    which, labels = rng.integers(0, PICTURES, args.rows), rng.integers(0, args.classes, args.rows).tolist()
    files = {folder / "one.beton": range(args.rows)}
    for k, rows in enumerate(cut(args.rows, args.shards)):
        files[shard(folder / "x.beton", k, args.shards)] = rows
    for path, rows in files.items():
        with BetonWriter(path, len(rows)) as writer:
            for row in rows:
                writer.add(JPEG, side, side, pictures[which[row]], labels[row])
            writer.finish()
            writer.publish([f"class {name}" for name in names])


def _started(source: str, args: argparse.Namespace) -> dict[str, float]:
    """What starting takes, in a process that has loaded a batch of other data before."""
    from fastmix import system
    from fastmix.pipelines.beton import Beton
    from fastmix.pipelines.view import View

    options = {"view": View(args.size), "train": True, "workers": args.workers}
    list(Beton("shapes:val?n=64&size=64", 64, **options).epoch(0))
    before, began = system.resident_memory(), time.perf_counter()
    loader = Beton(source, args.batch, **options)
    opened, held = time.perf_counter(), system.resident_memory()
    next(loader.epoch(0))
    first, peak = time.perf_counter(), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "opening, s": opened - began,
        "from there to the first batch, s": first - opened,
        "memory when open, MB": (held - before) / 1e6,
        "memory at its highest, MB": (peak - before) / 1e6,
    }


def _turns(sources: dict[str, str], args: argparse.Namespace) -> dict[str, list[float]]:
    """CPU seconds an image of each turn: what a thread does for a batch, from its entries to its pixels."""
    from fastmix.pipelines.beton import Beton
    from fastmix.pipelines.view import View

    view, places = View(args.size), np.arange(args.batch)
    images = np.empty((args.batch, args.size, args.size, 3), np.uint8)
    loaders = {name: Beton(source, args.batch, view=view, train=True) for name, source in sources.items()}
    entries, turns = iter(np.concatenate([loaders["one file"].entries(k)[0] for k in range(2)])), {}
    for k in range(2 + args.rounds):
        for name in list(loaders)[:: 1 if k % 2 else -1]:
            steps, start = list(islice(entries, args.steps)), time.thread_time()
            for step in steps:  # each row is read once, so none is nearer to the processor than the others
                chunk, _ = loaders[name].chunk(places, step, view, 0)
                if loaders[name].develop(chunk, view, images):
                    raise RuntimeError("bench shards: a damaged image")
            if k > 1:
                turns.setdefault(name, []).append((time.thread_time() - start) / (args.steps * args.batch))
    return turns
