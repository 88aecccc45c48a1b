"""fastmix bench mix|loader|convert|step [--json FILE]: measures against named peers in one run and prints a table.

Each benchmark is a module here with add_arguments(parser) and run(args) -> rows (see measure.py), a list or generator:
the rows of a generator are in the csv file as they come. A row in the unit `wrong` counts what a proof found wrong.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from fastmix import files
from fastmix.bench import measure
from fastmix.cli import Parser

BENCHES = {
    "card": "all that a lent GPU should run first, in minutes: proofs, then speeds",
    "proof": "a few training steps of every method: right or wrong",
    "kernels": "every kernel against its reference: right or wrong",
    "start": "what the first use in a process takes, with and without kept compiled code",
    "quickstart": "the accuracy of the quickstart's training: right or wrong",
    "rates": "what the device reaches at best: a copy, a product of matrices",
    "mix": "the mixing pass against torch eager, timm and torchvision",
    "loader": "the loaders against each other",
    "shards": "a data set in many packed files against the same in one",
    "locality": "how much less images mix where each machine reads its own shards",
    "remote": "what it costs to fetch a shard into a bounded cache",
    "scale": "what a run on many GPUs asks of cores, networks and object stores, worked out",
    "decode": "JPEG decoders, and what fast decoding costs",
    "convert": "packing images, against ffcv's writer",
    "crop": "the crop pass against torchvision and Pillow",
    "floor": "what a training step must cost on a GPU, counted from the model",
    "roofline": "what the mixing pass should take on a GPU, worked out from its machine code",
    "augment": "RandAugment, 3-Augment and colour jitter against timm and torchvision",
    "plan": "deciding how a batch is mixed, against gco and OpenCV",
    "step": "a whole training step",
    "track": "training with a tracker against training without",
    "train": "training with a real loader, against the same step on synthetic images, and timm",
}
MADE_OF_ROWS = {
    "readme": "the tables of a page, from those in results/",
    "charts": "the README's charts, likewise",
}


def main(argv: list[str] | None = None) -> int:
    """The command; 1 where a proof found something wrong. Raises ValueError for wrong arguments, or without a GPU."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] and argv[0] in MADE_OF_ROWS:
        return import_module(f"fastmix.bench.{argv[0]}").main(argv[1:])
    parser = Parser(prog="fastmix bench", description="Measures against named peers in one run and prints a table.")
    commands = parser.add_subparsers(dest="bench", required=True)
    for name, summary in BENCHES.items():
        command = commands.add_parser(name, help=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.add_argument("--json", metavar="FILE", help="write the rows there too, as a list of objects")
        command.add_argument("--csv", metavar="FILE", help="append the rows to this table")
        if name in argv[:1]:  # the others need not even be importable
            module = import_module(f"fastmix.bench.{name}")
            module.add_arguments(command)
    for name, summary in MADE_OF_ROWS.items():
        commands.add_parser(name, help=summary)
    args = parser.parse_args(argv)
    for path in filter(None, (args.json, args.csv)):
        files.require_folder(Path(path))
    if getattr(args, "device", None) == "cuda" and not getattr(args, "dry_run", False):
        measure.needs_gpu()
    rows = []
    for row in module.run(args):
        rows.append(row)
        if args.csv:
            measure.append_csv([row], args.csv)
    print(measure.table(rows))
    if args.json:
        measure.write_json(rows, args.json)
    return int(any(map(measure.is_wrong, rows)))
