"""python -m fastmix.bench mix|loader|step [--json FILE]: measures against named peers in one run and prints a table."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from fastmix.bench import measure

BENCHES = {
    "mix": "the mixing pass against torch eager, timm and torchvision",
    "loader": "images per second of the loaders",
    "step": "a whole training step",
}


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="fastmix bench", description=__doc__)
    commands = parser.add_subparsers(dest="bench", required=True)
    modules = {}
    for name, summary in BENCHES.items():
        command = commands.add_parser(name, help=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.add_argument("--json", metavar="FILE", help="write the rows there too, as a list of objects")
        if name in argv[:1]:  # the others need not even be importable
            modules[name] = import_module(f"fastmix.bench.{name}")
            modules[name].add_arguments(command)
    args = parser.parse_args(argv)
    try:
        rows = modules[args.bench].run(args)
    except ValueError as error:
        parser.error(str(error))
    print(measure.table(rows))
    if args.json:
        measure.write_json(rows, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
