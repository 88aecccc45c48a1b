"""python -m fastmix.supermix SOURCE OUT.beton --teacher NAME --weights FILE --count N: mixed images, made once.

SuperMix as its authors use it (Dabouei et al., CVPR 2021): a teacher's gradient shapes the masks in up to 50 steps; the
mixtures in which it then sees both classes are kept, the others are not. A file holds one label an image: the teacher's
first class, as in the authors' distillation, or that of the dominant image. Training reads the file like any other. The
mixer `supermix` does the same while training, in a few steps.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from fastmix import cli

ROUND = 5  # steps between two looks at which samples are finished, which are then left out


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    out = Path(args.out)
    if out.suffix != ".beton":
        raise ValueError(f"{out}: give the packed file a name that ends in .beton")
    if out.exists() and not args.overwrite:
        raise ValueError(f"{out}: exists already; remove it or give --overwrite")
    if not out.parent.is_dir():
        raise ValueError(f"{out.parent}: no such folder to write {out.name} into")
    for option, least in (("count", 1), ("size", 32), ("batch", 2), ("steps", 1), ("side", 1)):
        if getattr(args, option) < least:
            raise ValueError(f"--{option} is {getattr(args, option)}; it must be at least {least}")
    for option in ("alpha", "sigma"):
        if not getattr(args, option) > 0:
            raise ValueError(f"--{option} is {getattr(args, option)}; it must be above 0")
    if not (args.sparsity >= 0 and 0 <= args.tol < 1 and 1 <= args.quality <= 100):
        raise ValueError("--sparsity must be at least 0, --tol a share from 0 to below 1, --quality from 1 to 100")
    return generate(args, out)


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


def generate(args: argparse.Namespace, out: Path) -> int:
    """Writes the file; it appears under its name when it is whole. Raises ValueError of one line."""
    import torch
    from tqdm import tqdm

    from fastmix import distributed
    from fastmix.models.teacher import Teacher
    from fastmix.pipelines import loader_class
    from fastmix.pipelines.packing.format import JPEG, RAW
    from fastmix.pipelines.packing.writer import BetonWriter
    from fastmix.pipelines.sources.resolve import exists, is_packed
    from fastmix.pipelines.view import View

    if not exists(args.source):
        raise ValueError(f"{args.source}: no such file or folder")
    teacher = Teacher("supermix", args.teacher, args.weights)
    view = View(args.size, crop="centre", resize=args.resize or args.size, interpolation="bicubic")
    loader = loader_class("beton" if is_packed(args.source) else "folder")(
        args.source, args.batch, view=view, train=True, seed=args.seed, device=distributed.init(args.device)
    )
    if teacher.classes != loader.classes:
        raise ValueError(
            f"{args.weights}: a teacher of {teacher.classes} classes, but {args.source} has {loader.classes}; give "
            "weights that were trained on these classes"
        )
    began, tried, finished, kept, sums = time.perf_counter(), 0, 0, 0, []
    with BetonWriter(out, args.count + loader.n * args.originals) as writer, torch.no_grad():

        def add(mode: int, height: int, width: int, data: bytes, label: int) -> None:
            writer.add(mode, height, width, data, label)
            sums.append(crc32(data))

        for row in range(loader.n if args.originals else 0):
            record = loader.record(row)
            add(RAW if record.raw else JPEG, record.height, record.width, bytes(record.data), loader.labels[row])
        with tqdm(desc="supermix", total=args.count, unit="img", disable=None, leave=False) as bar:
            for images, labels, pairs in mixtures(loader, teacher, args):
                tried, finished = tried + pairs, finished + len(images)
                for pixels, label in zip(images[: args.count - kept], labels, strict=False):
                    data = pixels.tobytes() if args.raw else _jpeg(pixels, args.quality)
                    add(RAW if args.raw else JPEG, args.size, args.size, data, label)
                    kept += 1
                bar.update(kept - bar.n)
                if kept == args.count:
                    break
        writer.finish()
        writer.publish(loader.class_names, sums)
    seconds = time.perf_counter() - began
    first = f"{loader.n} originals and " if args.originals else ""
    share = f"{finished / tried:.0%} of the {tried} pairs were finished"
    print(f"{out}: {first}{kept} mixed images, {share}, {kept / seconds:.1f} images/s")
    return 0


def mixtures(loader, teacher, args: argparse.Namespace) -> Iterator[tuple]:
    """For each batch, epoch after epoch: the finished mixtures uint8 [n,S,S,3], their labels int64 [n], and how many
    pairs there were. Raises ValueError where a whole epoch gives none."""
    from itertools import count

    from fastmix.engine.task import step_rng

    for epoch in count():
        found = 0
        for step, (images, labels, _) in enumerate(loader.epoch(epoch)):
            rng = step_rng(args.seed, epoch * len(loader) + step, 0)
            pixels, chosen, finished = mixed(images, labels, rng, teacher, args)
            found += int(finished.sum())
            yield pixels[finished].cpu().numpy(), chosen[finished].cpu().numpy(), len(images)
        if not found:
            raise ValueError(
                f"{args.source}: in none of its {loader.n} images, mixed with another, did the teacher see both "
                "classes; give more --steps, or weights, --mean and --std that fit each other"
            )


def mixed(images, labels, rng, teacher, args: argparse.Namespace) -> tuple:
    """A batch's mixtures uint8 [B,S,S,3], their labels int64 [B], and which of them show the teacher both classes.

    images uint8 [B,S,S,3], labels int64 [B]. Finished samples are left out of the further rounds of steps.
    """
    import numpy as np
    import torch

    from fastmix.batch import IMAGENET_MEAN, IMAGENET_STD, Batch
    from fastmix.engine.task import DTYPES, precision
    from fastmix.kernels.mix import mix
    from fastmix.kernels.plan import Plan
    from fastmix.mixers.base import cyclic
    from fastmix.mixers.supermix_online import optimise, recognised, weight

    device, n = images.device, len(images)
    dtype = DTYPES[precision("auto", device)]

    def ask(x):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return teacher.logits(x)

    def seen(pixels):
        return Batch(pixels, labels, rng, args.mean or IMAGENET_MEAN, args.std or IMAGENET_STD).mix()

    partner = torch.from_numpy(cyclic(rng, n)).to(device)
    lam = torch.from_numpy(rng.beta(args.alpha, args.alpha, n).astype(np.float32)).to(device)
    x, other = seen(images), partner.long()
    classes = ask(x).argmax(1)
    pairs = torch.stack([classes, classes[other]], 1)
    raw, live = torch.zeros(n, 2, args.side, args.side, device=device), torch.arange(n, device=device)
    for taken in range(0, args.steps, ROUND):
        steps, start = min(ROUND, args.steps - taken), raw[live] if taken else None
        chosen = x[live], x[other[live]], pairs[live], lam[live]
        raw[live], done = optimise(ask, *chosen, args.side, args.sigma, args.sparsity, steps, start)
        live = live[~done]
        if len(live) <= args.tol * n:
            break
    plan = Plan.map(partner, weight(raw, (args.size, args.size)), (args.size, args.size))
    blend = mix(images, plan, (0.0, 0.0, 0.0), (1 / 255,) * 3)
    pixels = blend.round().byte().permute(0, 2, 3, 1).contiguous()
    logits = ask(seen(pixels))
    dominant = torch.where(lam >= 0.5, labels, labels[other])
    return pixels, logits.argmax(1) if args.labels == "teacher" else dominant, recognised(logits, pairs)


def _jpeg(pixels, quality: int) -> bytes:
    import simplejpeg

    return simplejpeg.encode_jpeg(pixels, quality, "RGB", "420", fastdct=False)


if __name__ == "__main__":
    sys.exit(cli.run(main, "supermix"))
