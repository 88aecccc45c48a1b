"""python -m fastmix.supermix SOURCE OUT.beton --teacher NAME --weights FILE --count N: mixed images, made once.

SuperMix as its authors use it (Dabouei et al., CVPR 2021): a teacher's gradient shapes the masks in up to 50 steps; the
mixtures in which it then sees both classes are kept, the others are not. A file holds one label an image: the teacher's
first class, as in the authors' distillation, or that of the dominant image. Training reads the file like any other. The
mixer `supermix` does the same while training, in a few steps.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fastmix import cli, files
from fastmix.ranges import Range


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    out = Path(args.out)
    if out.suffix != ".beton":
        raise ValueError(f"{out}: give the packed file a name that ends in .beton")
    files.check_free(out, args.overwrite)
    options = {key: value for key, value in vars(args).items() if key not in ("out", "overwrite")}

    from fastmix.engine.supermix_offline import Settings, generate

    print(generate(Settings(**options), out))
    return 0


def parser() -> cli.Parser:
    p = cli.Parser("python -m fastmix.supermix", description="Write images that SuperMix mixes into a .beton file.")
    p.add_argument("source", help="a .beton file, or a folder of class folders")
    p.add_argument("out", help="the .beton file to write; an interrupted run leaves nothing and begins anew")
    p.add_argument("--teacher", required=True, metavar="NAME", help="a timm model")
    p.add_argument("--weights", required=True, metavar="FILE", help="its weights, trained on these classes")
    p.add_argument("--count", required=True, type=int, metavar="N", help="mixed images to write")
    p.add_argument("--originals", action="store_true", help="put the images of the source before them, as they are")
    p.add_argument("--labels", default="teacher", choices=("teacher", "dominant"), help="what the teacher sees first "
                   "in the mixture, or the label of the image with the larger share (%(default)s)")  # fmt: skip
    p.add_argument("--size", type=cli.number(int, Range(32, 4096)), default=224, help="pixels a side (%(default)s)")
    p.add_argument(
        "--resize",
        type=cli.number(int, Range(8, 4096)),
        help="short side before the centre crop of that size (default: the same)",
    )
    p.add_argument(
        "--batch",
        type=cli.number(int, Range(2, 1_000_000)),
        default=128,
        help="images that are mixed at once (%(default)s)",
    )
    p.add_argument(
        "--steps", type=cli.number(int, Range(1, 10_000)), default=50, help="most steps of a pair (%(default)s)"
    )
    p.add_argument("--tol", type=cli.number(float, Range(0, 1, below=True)), default=0.0,
                   help="give a batch up when so few are unfinished (%(default)s; "
                   "0.7 in the authors' code, which favours easy pairs)")  # fmt: skip
    p.add_argument(
        "--alpha",
        type=cli.number(float, Range(1e-6, 1_000_000)),
        default=3.0,
        help="of the Dirichlet law of the proportions (%(default)s)",
    )
    p.add_argument(
        "--side", type=cli.number(int, Range(1, 256)), default=16, help="cells a side of a mask; CIFAR: 8 (%(default)s)"
    )
    p.add_argument(
        "--sigma",
        type=cli.number(float, Range(1e-6, 1000)),
        default=2.0,
        help="of the gradient's blur, in cells; CIFAR: 1 (%(default)s)",
    )
    p.add_argument("--sparsity", type=float, default=25.0, help="weight of the masks' spread (%(default)s)")
    p.add_argument(
        "--mean", type=cli.number(float, Range(0, 1)), nargs=3, help="of the teacher's normalisation (ImageNet's)"
    )
    p.add_argument("--std", type=cli.number(float, Range(0.001, 10)), nargs=3, help="likewise")
    p.add_argument("--quality", type=cli.number(int, Range(1, 100)), default=95, help="of the JPEGs (%(default)s)")
    p.add_argument("--raw", action="store_true", help="store pixels instead")
    p.add_argument(
        "--seed", type=cli.number(int, Range(0, 2**63 - 1)), default=0, help="of pairs and proportions (%(default)s)"
    )
    p.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(a GPU where there is one)")
    p.add_argument("--overwrite", action="store_true", help="replace OUT")
    return p


if __name__ == "__main__":
    sys.exit(cli.run(main, "supermix"))
