"""fastmix bench mix|loader|convert|step [--json FILE]: measures against named peers in one run and prints a table.

Each benchmark is a module here with add_arguments(parser) and run(args) -> rows (see measure.py).
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from fastmix.bench import measure
from fastmix.cli import Parser

BENCHES = {
    "mix": "the mixing pass against torch eager, timm and torchvision",
    "loader": "the loaders against each other",
    "decode": "JPEG decoders, and what fast decoding costs",
    "convert": "packing images, against ffcv's writer",
    "crop": "the crop pass against torchvision and Pillow",
    "floor": "what a training step must cost on a GPU, counted from the model",
    "roofline": "what the mixing pass should take on a GPU, worked out from its machine code",
    "augment": "RandAugment, 3-Augment and colour jitter against timm and torchvision",
    "plan": "deciding how a batch is mixed, against gco and OpenCV",
    "step": "a whole training step",
    "train": "training with a real loader, against the same step on synthetic images, and timm",
}


def main(argv: list[str] | None = None) -> None:
    """The command. Raises ValueError for wrong arguments."""
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(prog="fastmix bench", description="Measures against named peers in one run and prints a table.")
    commands = parser.add_subparsers(dest="bench", required=True)
    for name, summary in BENCHES.items():
        command = commands.add_parser(name, help=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.add_argument("--json", metavar="FILE", help="write the rows there too, as a list of objects")
        command.add_argument("--csv", metavar="FILE", help="append the rows to this table")
        if name in argv[:1]:  # the others need not even be importable
            module = import_module(f"fastmix.bench.{name}")
            module.add_arguments(command)
    args = parser.parse_args(argv)
    rows = module.run(args)
    print(measure.table(rows))
    if args.json:
        measure.write_json(rows, args.json)
    if args.csv:
        measure.append_csv(rows, args.csv)
