"""python -m fastmix.bench scale: what a run on many GPUs asks of cores, networks and object stores: worked out.

From what was measured on a CPU (time to decode an image, to fetch a shard) and from what is assumed, which are the
arguments; docs/scale.md has the formulas.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

RESULTS = Path("results")
READ = 16 << 20  # bytes that fsspec asks for at a time: the 8 MiB of a read, and as many ahead
OPENING = 5  # requests for the tables of a shard, its class names and checksums
RESNET50 = 25_557_032  # parameters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--on-one", type=int, default=8, help="GPUs of a machine")
    parser.add_argument("--rate", type=float, default=2500, help="images/s that a GPU trains: assumed")
    parser.add_argument("--batch", type=int, default=128, help="images of a GPU in a step")
    parser.add_argument("--rows", type=int, default=1_281_167, help="images: ImageNet's")
    parser.add_argument("--bytes", type=int, default=115_440, help="of an image: ImageNet's tar by its images")
    parser.add_argument("--shards", type=int, default=512)
    parser.add_argument("--parameters", type=int, default=RESNET50, help="of the model: ResNet-50's")
    parser.add_argument("--loader", type=Path, default=RESULTS / "loader_cpu.csv", help="measured decoding")
    parser.add_argument("--remote", type=Path, default=RESULTS / "remote_cpu.csv", help="measured fetching")


def run(args: argparse.Namespace) -> list[dict]:
    """Rows of one number each."""
    from fastmix.bench.measure import row

    rows = []
    for gpus in args.gpus:
        for (name, unit), value in _told(gpus, args).items():
            made = row("scale", name, f"{gpus} GPUs", "a run", "", unit, [value])
            rows.append(made | {"hardware": "worked out, not measured"})
    return rows


def _told(gpus: int, args: argparse.Namespace) -> dict[tuple[str, str], float]:
    here, machines = min(gpus, args.on_one), -(-gpus // args.on_one)
    images, epoch, step = gpus * args.rate, args.rows / (gpus * args.rate), args.batch / args.rate
    size = args.rows * args.bytes / args.shards
    gradient, weights = 4 * args.parameters, 4 * args.parameters
    decode = measured(args.loader, name="rrc originals", provider="fastmix beton, fast", unit="CPU ms/image")
    fetch = measured(args.remote, name="fetching and checking", unit="CPU s/GB")
    data = here * args.rate * args.bytes / 1e9  # GB/s
    return {
        ("a step's images", "images"): gpus * args.batch,
        ("images of all", "images/s"): images,
        ("an epoch", "s"): epoch,
        ("decoding, on a machine", "cores"): here * args.rate * decode / 1000,
        ("fetching and checking, on a machine", "cores"): data * fetch,
        ("data over a machine's network", "Gbit/s"): 8 * data,
        ("data out of the object store", "GB/s"): machines * data,
        ("requests when a run begins", "requests"): machines * args.shards * OPENING,
        ("requests of an epoch, http", "requests"): args.shards,
        ("requests of an epoch, fsspec", "requests"): args.shards * (1 + math.ceil(size / READ)),
        ("requests of an epoch, fsspec", "requests/s"): args.shards * (1 + math.ceil(size / READ)) / epoch,
        ("gradients that a machine sends, fp32", "Gbit/s"): 8 * 2 * (gpus - 1) / gpus * gradient / step / 1e9,
        ("gradients that a machine sends, half", "Gbit/s"): 8 * (gpus - 1) / gpus * gradient / step / 1e9,
        ("a checkpoint, SGD with average", "MB"): 3 * weights / 1e6,
        ("writing it in 1 % of an epoch", "MB/s"): 3 * weights / 1e6 / (0.01 * epoch),
    }


def measured(path: Path, **conditions: str) -> float:
    """The newest median in a table of a row with these values. Raises ValueError where there is none."""
    with open(path, newline="", encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if all(row[key] == value for key, value in conditions.items())]
    if not found:
        raise ValueError(f"{path}: has no row with {', '.join(map('='.join, conditions.items()))}")
    return float(max(found, key=lambda row: row["date"])["p50"])
