"""fastmix convert SOURCE OUT.beton: packs images and labels into one file that the trainer reads at full speed.

SOURCE is a folder of class folders, a list of path and label (.csv, .tsv, .txt), a .tar, parquet files, or one of the
data sets that docs/data.md names, as it is handed out: imagenet/train, CUB_200_2011/test, cifar-10-batches-py/train.
With --verify and a finished FILE.beton alone, every image of that file is checked.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from fastmix.cli import Parser, number, run
from fastmix.pipelines.jpeg.limits import MAX_PIXELS
from fastmix.ranges import Range
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
    p.add_argument("--verify", action="store_true", help="read the file back and compare; or check a finished file")
    p.add_argument("--overwrite", action="store_true", help="replace OUT")
    return p


def main(argv: list[str] | None = None) -> int:
    """Runs the command; raises ValueError or OSError, with one line, for what cannot be converted."""
    args = parser().parse_args(argv)
    if args.out is None:
        if args.verify and Path(args.source).suffix == ".beton":
            return _check(args.source, args.workers)
        raise ValueError("the following arguments are required: out (see fastmix convert --help)")
    if Path(args.out).suffix != ".beton":
        raise ValueError(f"{args.out}: give the packed file a name that ends in .beton")

    from fastmix.pipelines.packing.layouts import load_classes, scan
    from fastmix.pipelines.packing.pack import bad_path, pack
    from fastmix.pipelines.packing.walk import summary

    start = time.perf_counter()
    listing = scan(args.source, load_classes(args.classes) if args.classes else None)
    packed = pack(
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
    seconds = time.perf_counter() - start
    classes = f" in {len(listing.classes)} classes" if listing.classes else ""
    ways = [f"{packed.kept} JPEGs kept untouched"]
    if args.seekable:
        ways = [f"{packed.seekable} JPEGs made seekable", f"{packed.kept} kept untouched (progressive and the like)"]
    kinds = ", ".join(f"{n} {kind}" for kind, n in packed.odd.most_common())
    ways += [f"{packed.encoded} encoded anew" + f" ({kinds})" * bool(kinds)] * (packed.encoded > 0)
    ways += [f"{packed.raw} raw"] * (packed.raw > 0)
    print(
        f"{shown(args.out)}: {packed.rows} images{classes}, {packed.bytes / 1e6:.1f} MB, {', '.join(ways)}, "
        f"{(packed.rows - packed.taken_up) / seconds:.0f} images/s" + (", verified" if args.verify else "")
    )
    if packed.taken_up:
        print(f"{packed.taken_up} images had been written before it was killed, and were taken up")
    if packed.bad:
        print(f"{len(packed.bad)} damaged images left out, listed in {shown(bad_path(args.out))}")
    if listing.passed:
        hint = "" if args.list_skipped else "; --list-skipped names them"
        print(f"{len(listing.passed)} files passed over: {summary(listing.passed)}{hint}")
    for file in listing.passed if args.list_skipped else ():
        print(f"  {file}")
    warnings = [*listing.warnings]
    if packed.emptied:
        warnings.append(f"{shown(args.source)}: all images of these classes were damaged: {', '.join(packed.emptied)}")
    for line in warnings:
        print(f"fastmix convert: warning: {line}", file=sys.stderr)
    return 0


def _check(path: str, workers: int | None) -> int:
    from fastmix.pipelines.packing.check import check
    from fastmix.pipelines.packing.checksums import sums_path

    rows, sums = check(path, workers)
    compared = "all as they were written" if sums else f"not compared, as there is no {shown(sums_path(path))}"
    print(f"{shown(path)}: {rows} images, {compared}; they decode whole")
    return 0


if __name__ == "__main__":
    sys.exit(run(main, "convert"))
