"""python -m fastmix.robustness RUN ... [--tests ...] [key=value ...]: calibration, corruptions, attacks, occlusion.

RUN is a run folder, or a checkpoint or the model.safetensors in one; robustness.json is written there, after each test,
beside what it holds. What is measured, and how long it takes, is in docs/robustness.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fastmix import cli, files
from fastmix.ranges import Range
from fastmix.runs import each_image, robustness_file
from fastmix.runs.robustness_file import FILE


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.robustness", description="Measure trained weights beyond top-1.")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN key=value", help="run folders, or files of weights "
                        "in them; and settings over their configs, such as data.val=FILE")  # fmt: skip
    parser.add_argument("--tests", nargs="+", metavar="TEST", help="of ece corruptions fgsm pgd occlusion shuffle "
                        "(all)")  # fmt: skip
    parser.add_argument("--corruptions", nargs="+", metavar="NAME", help="some of the fifteen")
    parser.add_argument("--frost", type=Path, metavar="FOLDER", help="the authors' pictures of frost, frost1 to "
                        "frost5, in place of synthesised frost")  # fmt: skip
    parser.add_argument("--images", type=int, metavar="N", help="only so many, drawn by the seed (all)")
    parser.add_argument("--seed", type=cli.number(int, Range(0, 2**31 - 1)), default=0, help="of all that is random")
    parser.add_argument("--steps", type=int, default=10, help="of PGD (%(default)s)")
    parser.add_argument("--restarts", type=int, default=1, help="of PGD, each from a random point (%(default)s)")
    parser.add_argument("--linf", nargs="+", type=cli.number(float, Range(0, 255)), metavar="EPS",
                        help="radii of PGD in levels of 255 (0.5 1 4)")  # fmt: skip
    parser.add_argument("--l2", nargs="+", type=cli.number(float, Range(0, 1000)), metavar="EPS",
                        help="radii of PGD in pixels of [0,1] (0.25 0.5)")  # fmt: skip
    parser.add_argument("--checkpoint", default="last", choices=("last", "best"), help="of run folders")
    parser.add_argument("--raw", action="store_true", help="the weights themselves, where there is their average too")
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"instead of {FILE} in the run folder; of one run")
    parser.add_argument("--again", action="store_true", help="measure anew what the file has; and all, where it is of "
                        "other weights or images, which are dropped")  # fmt: skip
    words = sys.argv[1:] if argv is None else argv
    # Also behind a list of an option. A sweep's run folder has the settings in its name.
    settings = [word for word in words if "=" in word and not word.startswith("-") and not Path(word).exists()]
    args = parser.parse_intermixed_args([word for word in words if word not in settings])
    if not args.runs:
        raise ValueError("name a run folder")
    if args.json and len(args.runs) > 1:
        raise ValueError(f"--json names one file, for {len(args.runs)} runs")
    places = [args.json or (run if run.is_dir() else run.parent) / FILE for run in args.runs]
    for place in places:
        files.require_folder(place)
        robustness_file.read(place)  # one that is none is told before anything is measured

    from fastmix import distributed
    from fastmix.engine.robustness import protocols

    options = protocols.Options(seed=args.seed, images=args.images, steps=args.steps, restarts=args.restarts)
    for name, known in (("tests", protocols.NAMES), ("corruptions", (*protocols.CORRUPTIONS, protocols.FROST))):
        if (given := getattr(args, name)) is not None:
            setattr(options, name, _known(name, given, known))
    options.linf, options.l2 = tuple(args.linf or options.linf), tuple(args.l2 or options.l2)
    _frost(options, args.frost)
    try:
        for run, place in zip(args.runs, places, strict=True):
            _measure(run, place, settings, options, args)
    finally:
        distributed.close()
    return 0


def _measure(run: Path, place: Path, settings: list[str], options, args: argparse.Namespace) -> None:
    """Measures what a run's file lacks; each test is in it as soon as it is done."""
    from fastmix import distributed
    from fastmix.engine import validation
    from fastmix.engine.robustness import measure

    stand = measure.prepared(validation.of_run(run, args.checkpoint, settings), options, "raw" if args.raw else None)
    notes = _same(place, stand.on, args.again)
    known = {} if args.again else _there(place, stand.on)
    each_file = None if args.json else place.with_name(each_image.FILE)
    if each_file and not each_file.is_file():
        known.pop("clean", None)
    passes = measure.missing(stand, options, known)
    wanted = {"ece" if name == "clean" else name for name, _ in passes}
    if kept := [name for name in options.tests if name not in wanted]:
        notes.append(f"{place}: has {', '.join(kept)}; --again measures anew")
    first = distributed.rank() == 0
    if first:
        sys.stderr.writelines(f"{note}\n" for note in notes)
    for new, each in measure.measure(stand, options, passes):
        if first and each and each_file:
            files.write_text(each_file, each.text())
        if first:
            found = measure.joined(stand, _there(place, stand.on), new)
            files.write_text(place, json.dumps(found, indent=1) + "\n")
    if first:
        print(f"{place}: {_words(_there(place, stand.on))}", flush=True)


def _frost(options, folder: Path | None) -> None:
    """Puts frost of pictures in the place of synthesised frost. Raises ValueError for what are none, and for frost
    without them."""
    from fastmix.engine.robustness import corruption_error
    from fastmix.engine.robustness.corruptions import frost

    photographed, synthesised = corruption_error.FROSTS
    if folder:
        options.pictures = frost.read(folder)
        renamed = (photographed if name == synthesised else name for name in options.corruptions)
        options.corruptions = tuple(dict.fromkeys(renamed))
    elif photographed in options.corruptions:
        raise ValueError(f"--corruptions {photographed} needs the pictures: --frost FOLDER; or take {synthesised}")


def _there(place: Path, on: dict) -> dict:
    """What has been measured on the same."""
    found = robustness_file.read(place) or {}
    return {} if robustness_file.others(found, on) else found


def _same(place: Path, on: dict, again: bool) -> list[str]:
    """A note where the file is of something else, which is then given up. Raises ValueError where that is not asked."""
    found = robustness_file.read(place)
    others = ", ".join(robustness_file.others(found, on)) if found else ""
    if others and not again:
        raise ValueError(f"{place}: measured on {others}; --again drops that, --json FILE writes elsewhere")
    return [f"{place}: measured on {others}; what it has is dropped"] * bool(others)


def _known(name: str, given: list[str], known) -> tuple[str, ...]:
    """The names in the order of `known`, each once. Raises ValueError for others."""
    for word in given:
        if word not in known:
            raise ValueError(f"--{name}: '{word}' is none of {', '.join(known)}")
    return tuple(word for word in known if word in given)


def _words(found: dict) -> str:
    """The result in a line."""
    words = [f"top1 {found['clean']['top1']:.2f} % of {found['clean']['images']} images"]
    if ece := found.get("ece"):
        after = f" ({100 * ece['after']['ece']:.2f} at temperature {ece['temperature']:.3g})" if "after" in ece else ""
        words.append(f"ECE {100 * ece['all']['ece']:.2f} %{after}")
    if bad := found.get("corruptions"):
        words.append(f"corrupted {bad['mean_top1']:.2f} %" + (f", mCE {bad['mce']:.1f} %" if "mce" in bad else ""))
    if fgsm := found.get("fgsm"):
        words.append(", ".join(f"FGSM {eps}/255 {fgsm['top1'][eps]:.2f} %" for eps in (1, 4, 8)))
    if pgd := found.get("pgd"):
        balls = zip(pgd["norm"], pgd["eps"], pgd["top1"], strict=True)
        shown = (f"{norm} {eps:g}{'/255' * (norm == 'linf')} {top1:.2f} %" for norm, eps, top1 in balls)
        words.append(f"PGD-{pgd['steps']} " + ", ".join(shown))
    if gone := found.get("occlusion"):
        half = gone["dropped"].index(0.5)
        words.append("half of the patches gone: " + ", ".join(f"{k} {v[half]:.2f} %" for k, v in gone["top1"].items()))
    if moved := found.get("shuffle"):
        parts = zip(moved["parts_a_side"], moved["top1"], strict=True)
        words.append("shuffled " + ", ".join(f"{g}x{g} {top1:.2f} %" for g, top1 in parts))
    return "; ".join(words)


if __name__ == "__main__":
    sys.exit(cli.run(main, "robustness"))
