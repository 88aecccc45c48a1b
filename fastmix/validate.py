"""python -m fastmix.validate RUN [key=value ...]: top-1 and top-5 of trained weights on validation data.

RUN is a run folder, a checkpoint of one, or its model.safetensors. `--model NAME --weights FILE` takes weights of any
timm model, `--weights timm` the published ones.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fastmix import cli, files
from fastmix.ranges import Range

SHOWN = ("top1", "top5", "loss", "images", "s")  # last words of the keys that are printed


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.validate", description="Validate trained weights, each image exactly once.")
    parser.add_argument("words", nargs="*", metavar="RUN key=value", help="a run folder, a checkpoint of one or its "
                        "model.safetensors; then settings over its config, such as data.val=FILE")  # fmt: skip
    parser.add_argument("--checkpoint", default="last", choices=("last", "best"), help="of a run folder")
    parser.add_argument("--model", help="a timm model instead of a run, with --weights; words are then settings")
    parser.add_argument("--weights", help="a .safetensors or .pth file, or timm for the published weights")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--ema", action="store_true", help="only the moving average, where there are both")
    kind.add_argument("--raw", action="store_true", help="only the weights themselves, where there are both")
    parser.add_argument(
        "--size", type=cli.number(int, Range(8, 4096)), help="pixels a side; the resize keeps its proportion to it"
    )
    resize = parser.add_mutually_exclusive_group()
    resize.add_argument(
        "--resize", type=cli.number(int, Range(8, 4096)), help="short side in pixels, before the centre crop"
    )
    resize.add_argument(
        "--crop-pct",
        type=cli.number(float, Range(0.01, 1)),
        help="the same as a share: resize = size / share, rounded down",
    )
    parser.add_argument("--interpolation", choices=("bilinear", "bicubic"))
    parser.add_argument("--flip", action="store_true", help="mean of the logits of an image and of its mirror image")
    parser.add_argument("--per-class", type=Path, metavar="FILE.csv", help="write the scores of each class")
    parser.add_argument("--confusion", type=Path, metavar="FILE.csv", help="write what each class is taken for")
    parser.add_argument("--real", type=Path, metavar="real.json", help="score against ImageNet-ReaL's labels too")
    parser.add_argument("--names", metavar="FOLDER", help="for --real with a .beton: the images that it was made from")
    parser.add_argument("--json", type=Path, help="write the result here too")
    args = parser.parse_intermixed_args(argv)
    asked = {"per_class": args.per_class, "confusion": args.confusion}
    for path in filter(None, (args.json, *asked.values())):
        files.require_folder(path)
    if not args.model and not args.words:
        raise ValueError("name a run folder or a checkpoint, or give --model NAME --weights FILE")
    if args.names and not args.real:
        raise ValueError("--names goes with --real FILE, whose labels it puts in order")
    if args.weights and not args.model:
        raise ValueError("--weights needs --model NAME, which says what they are the weights of")
    if args.model and not args.weights:
        raise ValueError(f"--model {args.model} needs --weights FILE, or --weights timm for the published ones")

    from fastmix import distributed
    from fastmix.engine import validation

    if args.model:
        cropped = bool(args.resize or args.crop_pct)
        subject = validation.of_timm(args.model, args.weights, args.words, args.interpolation, cropped)
    else:
        subject = validation.of_run(Path(args.words[0]), args.checkpoint, args.words[1:])
    validation.view(subject.cfg.data, args.size, args.resize, args.crop_pct, args.interpolation)
    kind = "ema" if args.ema else "raw" if args.raw else None
    try:
        by_class = any(asked.values())
        result, found = validation.validate(subject, kind, args.flip, by_class, args.real, args.names)
        if distributed.rank() == 0:
            if subject.note:
                print(subject.note, file=sys.stderr)
            print(", ".join(_words(key, value) for key, value in result.items() if key.split("_")[-1] in SHOWN))
            if args.json:
                files.write_text(args.json, json.dumps(result) + "\n")
            for name, path in asked.items():
                if path:
                    files.write_text(path, found[name])
    finally:
        distributed.close()
    return 0


def _words(key: str, value: float) -> str:
    percent = key.endswith(("top1", "top5"))
    return f"{key} {value:.2f} %" if percent else f"{key} {value:g}" if isinstance(value, int) else f"{key} {value:.4g}"


if __name__ == "__main__":
    sys.exit(cli.run(main, "validate"))
