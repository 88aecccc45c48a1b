"""python -m fastmix.draw [CONFIG] IMAGES [key=value ...] --mix NAME ...: what methods make of images, as one PNG.

A block a method, a column a sample: the image, its partner, the mask (white where the image itself is seen), what the
network is given, and how much each label counts. IMAGES is a .beton file, a folder or shapes:train.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fastmix import cli, config, files
from fastmix.ranges import Range


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.draw", description="Draw images as training methods mix them.")
    parser.add_argument("words", nargs="+", metavar="[CONFIG] IMAGES key=value", help="a config, if wanted, whose "
                        "hyper-parameters hold; the images; settings such as mixers.cutmix.alpha=1")  # fmt: skip
    parser.add_argument("--mix", nargs="+", required=True, metavar="NAME", help="methods, or rows of the config")
    parser.add_argument("--n", type=int, default=6, help="images, which are also the batch")
    parser.add_argument(
        "--seed", type=cli.number(int, Range(0, 2**63 - 1)), default=0, help="of the choice of images and of the mixing"
    )
    parser.add_argument("--size", type=cli.number(int, Range(8, 4096)), help="pixels a side")
    parser.add_argument("--model", help="whom the methods ask that ask a model: a timm model instead of the config's")
    trained = parser.add_mutually_exclusive_group()
    trained.add_argument("--weights", type=Path, help="of that model: a .safetensors or .pth file, or a checkpoint")
    trained.add_argument("--untrained", action="store_true", help="ask a model with random weights")
    parser.add_argument("--across", type=int, default=1, help="blocks side by side")
    parser.add_argument("--out", type=Path, default=Path("draw.png"))
    args = parser.parse_intermixed_args(argv)
    files.require_folder(args.out)
    args.words += [word for word in args.mix if "=" in word]  # settings behind the names
    args.mix = [word for word in args.mix if "=" not in word]
    cfg = _config(args)

    from fastmix import distributed
    from fastmix.engine import contact_sheet, picture

    try:
        picture.save(args.out, contact_sheet.draw(cfg, args.mix, args.across, args.weights, args.untrained))
    finally:
        distributed.close()
    print(f"{args.out}: {', '.join(args.mix)}")
    return 0


def _config(args: argparse.Namespace) -> config.Config:
    """The config, or every mixer's defaults, with the images and how they are shown: whole centres, in random order."""
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
        cfg = config.from_tree(config.over({"mixers": {name: {} for name in args.mix}}, settings), "draw")
    from fastmix.pipelines.sources.resolve import is_packed

    data, old = cfg.data, cfg.data.size
    data.train, data.loader = paths[-1], "beton" if is_packed(paths[-1]) else "folder"
    data.size = old if args.size is None else args.size
    data.val_resize = data.val_resize and round(data.val_resize * data.size / old)
    data.crop, data.flip, data.repeats, data.ramp, data.decode = "centre", 0.0, 1, None, "exact"
    cfg.batch_total, cfg.accum, cfg.seed = args.n, 1, args.seed
    if args.model:
        cfg.model = config.Model(args.model)
    return cfg


if __name__ == "__main__":
    sys.exit(cli.run(main, "draw"))
