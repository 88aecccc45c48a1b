"""python -m fastmix.draw [CONFIG] IMAGES [key=value ...] --mix NAME ...: what methods make of images, as one PNG.

A block a method, a column a lambda, a row an image: the mask (white where the image itself is seen), what the network
is given, and how much each label counts. Methods without a lambda say what they draw in its place; those that mix
inside the network say where. IMAGES is a .beton file, a folder or shapes:train.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fastmix import cli, config, files
from fastmix.ranges import Range

LAMS = [0.2, 0.4, 0.5, 0.6, 0.8]
STAND_ON = {
    "choice": {"of": {"mixup": {}, "cutmix": {}}},
    "decoupledmix": {"of": {"cutmix": {}}},
    "sumix": {"of": {"cutmix": {}}},
}
"""What methods stand on that need others, where no config says it."""


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.draw", description="Draw images as training methods mix them.")
    parser.add_argument("words", nargs="+", metavar="[CONFIG] IMAGES key=value", help="a config, if wanted, whose "
                        "hyper-parameters hold; the images; settings such as mixers.cutmix.alpha=1")  # fmt: skip
    parser.add_argument("--mix", nargs="+", required=True, metavar="NAME", help="methods, or rows of the config; all")
    parser.add_argument(
        "--lam", nargs="+", type=cli.number(float, Range(0, 1)), default=LAMS, metavar="L",
        help="weights of the image itself, a column each (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--n", type=int, default=4, help="images of the batch (%(default)s)")
    parser.add_argument("--rows", type=int, default=2, help="how many of them are drawn (%(default)s)")
    parser.add_argument(
        "--seed", type=cli.number(int, Range(0, 2**63 - 1)), default=0, help="of the choice of images and of the mixing"
    )
    parser.add_argument("--size", type=cli.number(int, Range(8, 4096)), help="pixels a side that the network sees")
    parser.add_argument("--tile", type=cli.number(int, Range(48, 1024)), help="pixels that a drawn image is wide")
    parser.add_argument(
        "--weights", nargs="+", type=Path, default=[], metavar="RUN|FILE",
        help="whom the methods ask that ask a model, the first that they work with: run folders, checkpoints, files of "
        "weights. A run's own method is drawn with what it has learned",
    )  # fmt: skip
    parser.add_argument(
        "--model", nargs="+", default=[], metavar="NAME",
        help="timm models: of files that do not tell theirs, in that order, then of --untrained",
    )  # fmt: skip
    parser.add_argument("--untrained", action="store_true", help="ask models with random weights, where none are given")
    parser.add_argument("--across", type=int, default=1, help="blocks side by side")
    parser.add_argument("--title", default="", help="words above all")
    parser.add_argument(
        "--colours", type=cli.number(int, Range(2, 256)), help="of the file, for a third of its size (all)"
    )
    parser.add_argument("--out", type=Path, default=Path("draw.png"))
    args = parser.parse_intermixed_args(argv)
    files.require_folder(args.out)
    args.words += [word for word in args.mix if "=" in word]  # settings behind the names
    args.mix = [word for word in args.mix if "=" not in word]
    cfg = _config(args)

    from fastmix import distributed
    from fastmix.engine import contact_sheet, lettering, picture

    try:
        names = [*cfg.mixers] if args.mix == ["all"] else args.mix
        found = contact_sheet.draw(
            cfg, names, args.lam, min(args.rows, args.n), args.model, args.weights, args.untrained,
            args.across, args.tile, args.title,
        )  # fmt: skip
    finally:
        distributed.close()
    picture.save(args.out, found.image, args.colours)
    lines = lettering.lacking([*found.class_names, args.title])
    for line in [*lines, *(f"{name}: not drawn: {reason}" for name, reason in found.reasons.items())]:
        print(line, file=sys.stderr)
    print(f"{args.out}: {', '.join(name for name in names if name not in found.reasons)}")
    return 0


def _config(args: argparse.Namespace) -> config.Config:
    """The config, that of the first run, or every mixer's defaults, with the images and how they are shown: whole
    centres, in random order."""
    settings = [word for word in args.words if "=" in word.partition("?")[0]]
    paths = [word for word in args.words if word not in settings]
    if not 1 <= len(paths) <= 2:
        raise ValueError(
            f"{len(paths)} words are no settings; name the images (a .beton file, a folder or shapes:train) and, "
            "before them, a config if wanted"
        )
    if len(paths) == 2:
        cfg = config.load(paths[0], settings)
    else:
        cfg = config.from_tree(config.over(_defaults(args), settings), "draw")
    from fastmix.pipelines.sources.resolve import is_packed

    data, old = cfg.data, cfg.data.size
    data.train, data.loader = paths[-1], "beton" if is_packed(paths[-1]) else "folder"
    data.size = old if args.size is None else args.size
    data.val_resize = data.val_resize and round(data.val_resize * data.size / old)
    data.crop, data.flip, data.repeats, data.ramp, data.decode = "centre", 0.0, 1, None, "exact"
    data.split, data.balance = 0.0, "none"
    cfg.batch_total, cfg.accum, cfg.seed = args.n, 1, args.seed
    if args.model:
        cfg.model = config.Model(args.model[0])
    return cfg


def _defaults(args: argparse.Namespace) -> dict:
    """What holds without a config: the defaults of the methods, and all else of the run that --weights begins with."""
    from fastmix.mixers import MIXERS

    rows = {name: STAND_ON.get(name, {}) for name in (MIXERS if args.mix == ["all"] else args.mix)}
    first = args.weights[0] if args.weights else Path()
    beside = (first if first.is_dir() else first.parent) / "config.yaml"
    tree = config.to_tree(config.load(beside)) if args.weights and beside.is_file() else {}
    return tree | {"mixers": rows | tree.get("mixers", {})}


if __name__ == "__main__":
    sys.exit(cli.run(main, "draw"))
