"""python -m fastmix.look RUN IMAGE ... [--mix NAME]: where a trained network looks, as one PNG.

A column an image: the image, and over it what speaks for its likeliest class (Grad-CAM), or, of a transformer with a
class token, its attention (rollout). With --mix the images are mixed in pairs, with a map for the class of each.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fastmix import cli, files
from fastmix.ranges import Range


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.look", description="Draw where a trained network looks.")
    parser.add_argument("run", metavar="RUN|FILE", type=Path, help="a run folder, a checkpoint of one, or its "
                        "model.safetensors, which may lie anywhere")  # fmt: skip
    parser.add_argument("sources", nargs="+", metavar="IMAGE", help="an image, a folder, a pattern or a .beton file")
    parser.add_argument("--mix", default="", metavar="NAME", help="mix the images in pairs, by this method")
    parser.add_argument("--seed", type=cli.number(int, Range(0, 2**63 - 1)), default=0, help="of the mixing")
    parser.add_argument("--checkpoint", default="last", choices=("last", "best"), help="of a run folder")
    parser.add_argument("--raw", action="store_true", help="the weights themselves, where there is their average too")
    parser.add_argument("--out", type=Path, default=Path("look.png"))
    args = parser.parse_intermixed_args(argv)
    files.require_folder(args.out)

    from fastmix import distributed
    from fastmix.engine import heat_sheet, picture, trained
    from fastmix.pipelines.sources.named import named

    try:
        model = trained.load(args.run, args.checkpoint, args.raw, compute="fp32")
        images, names = heat_sheet.opened(model, named(args.sources, sys.stdin))
        picture.save(args.out, heat_sheet.draw(model, images, names, args.mix, args.seed))
    finally:
        distributed.close()
    mixed = f", mixed by {args.mix}" if args.mix else ""
    print(f"{args.out}: {len(names)} images{mixed}, {model.info.name} of {model.where}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, "look"))
