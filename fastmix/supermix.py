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


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    out = Path(args.out)
    if out.suffix != ".beton":
        raise ValueError(f"{out}: give the packed file a name that ends in .beton")
    files.check_free(out, args.overwrite)
    for option, least in (("count", 1), ("size", 32), ("batch", 2), ("steps", 1), ("side", 1)):
        if getattr(args, option) < least:
            raise ValueError(f"--{option} is {getattr(args, option)}; it must be at least {least}")
    for option in ("alpha", "sigma"):
        if not getattr(args, option) > 0:
            raise ValueError(f"--{option} is {getattr(args, option)}; it must be above 0")
    if not (args.sparsity >= 0 and 0 <= args.tol < 1 and 1 <= args.quality <= 100):
        raise ValueError("--sparsity must be at least 0, --tol a share from 0 to below 1, --quality from 1 to 100")
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
    p.add_argument("--size", type=int, default=224, help="pixels a side (%(default)s)")
    p.add_argument("--resize", type=int, help="short side before the centre crop of that size (default: the same)")
    p.add_argument("--batch", type=int, default=128, help="images that are mixed at once (%(default)s)")
    p.add_argument("--steps", type=int, default=50, help="most steps of a pair (%(default)s)")
    p.add_argument("--tol", type=float, default=0.0, help="give a batch up when so few are unfinished (%(default)s; "
                   "0.7 in the authors' code, which favours easy pairs)")  # fmt: skip
    p.add_argument("--alpha", type=float, default=3.0, help="of the Dirichlet law of the proportions (%(default)s)")
    p.add_argument("--side", type=int, default=16, help="cells a side of a mask; CIFAR: 8 (%(default)s)")
    p.add_argument("--sigma", type=float, default=2.0, help="of the gradient's blur, in cells; CIFAR: 1 (%(default)s)")
    p.add_argument("--sparsity", type=float, default=25.0, help="weight of the masks' spread (%(default)s)")
    p.add_argument("--mean", type=float, nargs=3, help="of the teacher's normalisation (ImageNet's)")
    p.add_argument("--std", type=float, nargs=3, help="likewise")
    p.add_argument("--quality", type=int, default=95, help="of the JPEGs (%(default)s)")
    p.add_argument("--raw", action="store_true", help="store pixels instead")
    p.add_argument("--seed", type=int, default=0, help="of pairs and proportions (%(default)s)")
    p.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(a GPU where there is one)")
    p.add_argument("--overwrite", action="store_true", help="replace OUT")
    return p


if __name__ == "__main__":
    sys.exit(cli.run(main, "supermix"))
