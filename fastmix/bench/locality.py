"""python -m fastmix.bench locality: how much less images mix where each machine reads its own shards alone.

Rows are sorted by class, the worst case, in shards of equal size that are made here of images of one pixel. Counted are
the entries of one epoch of every process, without reading an image, with data.locality none and shard:

- classes in the part of a batch that one process has, whose batch statistics these are, and in the whole batch;
- Spearman's correlation of an image's row and its place in the epoch: 0 where the order tells nothing of the row;
- how far rows that are neighbours in a part lie from each other, as a share of all rows: 1/3 for a random order;
- images of an epoch that are shown, as machines with more images than others drop theirs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy import ndarray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=1_281_167, help="images")
    parser.add_argument("--shards", type=int, default=128)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--machines", type=int, nargs="+", default=[2, 4, 16, 64])
    parser.add_argument("--processes", type=int, default=8, help="on each machine")
    parser.add_argument("--batch", type=int, default=32, help="of a process")


def run(args: argparse.Namespace) -> Iterator[dict]:
    """Rows of medians over steps, or of one number."""
    from fastmix.bench.measure import row

    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), args)
        for machines in args.machines:
            shape = f"{machines} machines of {args.processes} processes, {args.shards} shards"
            for locality, groups in {"none": 1, "shard": machines}.items():
                for (name, unit), values in _told(f"{folder}/x-*.beton", machines, groups, args).items():
                    yield row("locality", name, f"locality {locality}", shape, "sorted", unit, values)


def _write(folder: Path, args: argparse.Namespace) -> None:
    from fastmix.pipelines.packing.format import RAW
    from fastmix.pipelines.packing.series import shard
    from fastmix.pipelines.packing.sharding import cut
    from fastmix.pipelines.packing.writer import BetonWriter

    for k, rows in enumerate(cut(args.rows, args.shards)):
        with BetonWriter(shard(folder / "x.beton", k, args.shards), len(rows)) as writer:
            for row in rows:
                writer.add(RAW, 1, 1, row.to_bytes(3, "little"), row * args.classes // args.rows)
            writer.finish()
            writer.publish([f"class {k}" for k in range(args.classes)])


def _told(source: str, machines: int, groups: int, args: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    from fastmix.pipelines.beton import Beton
    from fastmix.pipelines.view import View

    world = machines * args.processes
    options = {"view": View(8), "train": True, "world": world, "machines": groups, "workers": 1}
    loader, parts = Beton(source, args.batch, rank=0, **options), []
    for rank in range(world):
        loader.rank = rank
        parts.append(loader.entries(0)[0])
    entries = np.stack(parts, 1)  # [steps, world, batch]
    labels, order = loader.labels[entries], entries.reshape(-1)
    places = np.arange(len(order))
    neighbours = np.abs(np.diff(entries, axis=2)).reshape(-1)
    return {
        ("classes in a process's part", "of a batch"): _distinct(labels.reshape(-1, args.batch)),
        ("classes in a batch", "of all"): _distinct(labels.reshape(len(labels), -1)),
        ("row and place", "Spearman"): [float(np.corrcoef(places, np.argsort(np.argsort(order)))[0, 1])],
        ("neighbours in a part", "of all rows apart"): [float(neighbours.mean() / loader.n)],
        ("images shown", "% of all"): [100 * len(order) / loader.n],
    }


def _distinct(labels: ndarray) -> list[float]:
    """How many different labels each of these rows [n, m] has."""
    ordered = np.sort(labels, 1)
    return (1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1)).tolist()
