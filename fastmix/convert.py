"""fastmix convert SOURCE OUT.beton: packs images and labels into one file that the trainer reads at full speed.

SOURCE is a folder of class folders, a list of path and label (.csv, .tsv, .txt), a .tar, parquet files, or one of the
data sets that docs/data.md names, as it is handed out: imagenet/train, CUB_200_2011/test, cifar-10-batches-py/train.
With --verify and a finished FILE.beton alone, or a pattern of several, every image of them is checked.

--shards N writes OUT-00000-of-0000N.beton and so on, which train as one data set; --part I/N writes the I-th part of
them, as each of N machines may; --join 'OUT-*.beton' then looks whether they are all there and belong together.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from functools import partial
from pathlib import Path

from fastmix.cli import Parser, number, run
from fastmix.pipelines.jpeg.limits import MAX_PIXELS
from fastmix.ranges import Range, size
from fastmix.reading import shown


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(
        "fastmix convert", description=__doc__.split("\n\n", 1)[1], epilog="Class names and checksums go beside OUT."
    )
    p.add_argument(
        "source", help="a folder, list or archive of images, or a data set's folder with one of its parts behind it"
    )
    p.add_argument("out", nargs="?", help="the .beton file to write")
    cut = p.add_mutually_exclusive_group()
    cut.add_argument("--shards", type=int, metavar="N", help="write N files, OUT-00000-of-0000N.beton and so on")
    cut.add_argument(
        "--shard-size",
        type=_size,
        metavar="SIZE",
        help="write as many as hold about so much of SOURCE each: 1GiB, 500MB",
    )
    p.add_argument(
        "--part", type=_part, metavar="I/N", help="write the I-th of N parts of the shards (default: a shard each)"
    )
    p.add_argument(
        "--shuffle",
        type=number(int, Range(0, 2**63 - 1)),
        metavar="SEED",
        help="write the images in a random order: for shards that are mixed a few at a time (data.window)",
    )
    p.add_argument(
        "--join", action="store_true", help="SOURCE is a pattern of finished shards: tell what they are together"
    )
    p.add_argument("--max-resolution", type=int, metavar="N", help="longest side, in pixels; larger ones are reduced")
    p.add_argument(
        "--quality",
        type=number(int, Range(1, 100)),
        default=90,
        metavar="Q",
        help="of newly encoded JPEGs (%(default)s)",
    )
    p.add_argument(
        "--max-pixels",
        type=number(int, Range(1, 1 << 32)),
        default=MAX_PIXELS,
        metavar="N",
        help="an image of more, as it comes, counts as damaged (%(default)s)",
    )
    p.add_argument("--recompress", action="store_true", help="encode every JPEG anew at --quality; not lossless")
    p.add_argument("--seekable", action="store_true", help="put restart markers into JPEGs, lossless: fast crops")
    p.add_argument(
        "--jpeg-share",
        type=number(float, Range(0, 1)),
        default=1.0,
        metavar="P",
        help="share stored as JPEG, the rest raw",
    )
    p.add_argument("--workers", type=int, metavar="N", help="threads (default: one a core)")
    p.add_argument("--classes", metavar="FROM", help="class names in order: a .beton, a class folder or a text file")
    p.add_argument("--skip-bad", action="store_true", help="leave damaged images out and list them in OUT.bad.csv")
    p.add_argument("--list-skipped", action="store_true", help="name the files in SOURCE that were passed over")
    p.add_argument("--verify", action="store_true", help="read the file back and compare; or check finished files")
    p.add_argument("--overwrite", action="store_true", help="replace OUT")
    return p


def main(argv: list[str] | None = None) -> int:
    """Runs the command; raises ValueError or OSError, with one line, for what cannot be converted."""
    args = parser().parse_args(argv)
    if args.out is None:
        if args.join:
            return _join(args.source, args.verify, args.workers)
        if args.verify and Path(args.source).suffix == ".beton":
            return _check(args.source, args.workers)
        raise ValueError("the following arguments are required: out (see fastmix convert --help)")
    if args.join:
        raise ValueError(f"{shown(args.out)}: --join takes one pattern, in quotes")
    if Path(args.out).suffix != ".beton":
        raise ValueError(f"{args.out}: give the packed file a name that ends in .beton")

    from fastmix.pipelines.packing import series
    from fastmix.pipelines.packing.layouts import load_classes, scan
    from fastmix.pipelines.packing.pack import bad_path, pack
    from fastmix.pipelines.packing.sharding import pack_shards, shuffled, wanted
    from fastmix.pipelines.packing.walk import summary

    start = time.perf_counter()
    listing = scan(args.source, load_classes(args.classes) if args.classes else None)
    listing = listing if args.shuffle is None else shuffled(listing, args.shuffle)
    n = args.part[1] if args.part and not args.shards else args.shards
    n = wanted(listing, args.shard_size) if args.shard_size else n
    write = partial(pack_shards, n=n, part=args.part or (1, 1)) if n else pack
    result = write(
        listing,
        args.out,
        max_resolution=args.max_resolution,
        max_pixels=args.max_pixels,
        quality=args.quality,
        recompress=args.recompress,
        jpeg_share=args.jpeg_share,
        seekable=args.seekable,
        workers=args.workers,
        skip_bad=args.skip_bad,
        verify=args.verify,
        overwrite=args.overwrite,
    )
    packed, rows = result if n else (result, range(len(listing.files)))
    seconds = time.perf_counter() - start
    classes = f" in {len(listing.classes)} classes" if listing.classes else ""
    ways = [f"{packed.kept} JPEGs kept untouched"]
    if args.seekable:
        ways = [f"{packed.seekable} JPEGs made seekable", f"{packed.kept} kept untouched (progressive and the like)"]
    kinds = ", ".join(f"{n} {kind}" for kind, n in packed.odd.most_common())
    ways += [f"{packed.encoded} encoded anew" + f" ({kinds})" * bool(kinds)] * (packed.encoded > 0)
    ways += [f"{packed.raw} raw"] * (packed.raw > 0)
    out = series.named(args.out, n) if n else args.out
    part = f", part {args.part[0]} of {args.part[1]}" if args.part else ""
    print(
        f"{shown(out)}{part}: {packed.rows} images{classes}, {packed.bytes / 1e6:.1f} MB, {', '.join(ways)}, "
        f"{(packed.rows - packed.taken_up) / seconds:.0f} images/s" + (", verified" if args.verify else "")
    )
    if packed.taken_up:
        earlier = "by an earlier conversion" if n else "before it was killed"
        print(f"{packed.taken_up} images had been written {earlier}, and were taken up")
    if left_out := len(rows) - packed.rows:
        print(f"{left_out} damaged images left out, listed in {shown(bad_path(out))}")
    if listing.passed:
        hint = "" if args.list_skipped else "; --list-skipped names them"
        print(f"{len(listing.passed)} files passed over: {summary(listing.passed)}{hint}")
    for file in listing.passed if args.list_skipped else ():
        print(f"  {file}")
    warnings = [*listing.warnings]
    if emptied := packed.emptied(listing, rows):
        warnings.append(f"{shown(args.source)}: all images of these classes were damaged: {', '.join(emptied)}")
    for line in warnings:
        print(f"fastmix convert: warning: {line}", file=sys.stderr)
    return 0


def _check(source: str, workers: int | None) -> int:
    from fastmix.pipelines.packing.check import check
    from fastmix.pipelines.packing.checksums import sums_path
    from fastmix.pipelines.sources.resolve import packed

    paths = packed(source)
    found = [check(path, workers) for path in paths]
    without = [path for path, (_, sums) in zip(paths, found, strict=True) if not sums]
    compared = f"not compared, as there is no {shown(sums_path(without[0]))}" if without else "all as they were written"
    if 0 < len(without) < len(paths):
        compared += f" ({len(without)} of {len(paths)} files)"
    shards = f"{len(paths)} files, " * (len(paths) > 1)
    print(f"{shown(source)}: {shards}{sum(rows for rows, _ in found)} images, {compared}; they decode whole")
    return 0


def _join(source: str, verify: bool, workers: int | None) -> int:
    from fastmix.pipelines.packing.sharding import join
    from fastmix.pipelines.sources.resolve import packed

    whole = join(packed(source))
    left = f", {whole.left_out} damaged ones left out" * bool(whole.left_out)
    images = f"{whole.images} images in {whole.classes} classes{left}, {whole.bytes / 1e6:.1f} MB"
    print(f"{shown(source)}: all {whole.shards} shards of one list, {images}" + "; --verify reads them" * (not verify))
    return _check(source, workers) if verify else 0


def _size(text: str) -> int:
    """Bytes, of a number with a unit."""
    found = size(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is no size, such as 1GiB or 500MB")
    return found


def _part(text: str) -> tuple[int, int]:
    """I and N of "I/N"."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is no part I/N, such as 1/8, the first, to 8/8, the last")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    sys.exit(run(main, "convert"))
