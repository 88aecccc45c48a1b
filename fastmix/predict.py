"""python -m fastmix.predict RUN|FILE SOURCE ...: what images show, by a trained model, as a table.

RUN is a run folder or a checkpoint of one, FILE its model.safetensors, which may lie anywhere. SOURCE is an image, a
folder (at any depth), a pattern, a .beton file, or - for paths on standard input, one a line. Images are seen as in
validation. Without --out the table goes to standard output as CSV, and all words to standard error. What cannot be read
is a row with a reason; the exit code is 2 where nothing could be read.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from fastmix import cli, files
from fastmix.ranges import Range

FIT = "fit"


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.predict", description="Tell what images show, by a trained model.")
    parser.add_argument("run", metavar="RUN|FILE", type=Path, help="a run folder, a checkpoint of one, or its "
                        "model.safetensors, which may lie anywhere")  # fmt: skip
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="an image, a folder, a pattern, a .beton file, or "
                        "- for paths on standard input")  # fmt: skip
    parser.add_argument("--checkpoint", default="last", choices=("last", "best"), help="of a run folder")
    parser.add_argument("--raw", action="store_true", help="the weights themselves, where there is their average too")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes an image (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="x.csv, .json or .parquet, instead of standard output")
    parser.add_argument("--overwrite", action="store_true", help="replace that file")
    parser.add_argument("--temperature", type=_temperature, default=1.0, metavar="T", help="divide the logits by T; "
                        "fit: by the one that calibrates the model on its validation data")  # fmt: skip
    parser.add_argument("--temperature-on", metavar="SOURCE", help="labelled images for that, as data.val")
    parser.add_argument("--classes", type=Path, metavar="FROM", help="class names, for a run that did not keep them: a "
                        ".beton, a class folder or a text file")  # fmt: skip
    parser.add_argument("--batch", type=int, default=64, help="images at a time (%(default)s)")
    parser.add_argument("--workers", type=int, help="decoding threads (default: one a core)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(a GPU where there is one)")
    parser.add_argument("--precision", choices=("auto", "fp32", "fp16", "bf16"), help="(the run's)")
    args = parser.parse_intermixed_args(argv)
    if args.temperature_on and args.temperature != FIT:
        raise ValueError("--temperature-on needs --temperature fit")

    from fastmix import distributed
    from fastmix.engine import prediction, prediction_tables, trained
    from fastmix.pipelines.sources.named import named

    if args.out:
        files.check_free(args.out, args.overwrite)
        prediction_tables.check(args.out)
    parts = named(args.sources, sys.stdin)
    try:
        model = trained.load(args.run, args.checkpoint, args.raw, args.classes, args.device, args.precision)
        if model.note:
            print(model.note, file=sys.stderr)
        loaders = prediction.opened(model, parts, args.batch, args.workers)
        temperature, top = args.temperature, min(args.top, len(model.info.classes))
        words = sys.stdout if args.out else sys.stderr
        if temperature == FIT:
            temperature = _fit(model, args.temperature_on, words)
        began = time.perf_counter()
        images, failed = prediction_tables.fill(args.out, prediction.predict(model, loaders, top, temperature), top)
        pace = images / (time.perf_counter() - began)
    finally:
        distributed.close()
    average = " (average)" if model.kind == "ema" else ""
    left = f", {failed} of them could not be read" if failed else ""
    how = f"{model.info.name} of {model.where}{average}, {model.info.size} px, {model.cfg.precision}"
    print(f"{args.out or 'predicted'}: {images} images{left}, {pace:.1f} images/s, {how}", file=words)
    return 0


def _temperature(text: str) -> float | str:
    return FIT if text == FIT else cli.number(float, Range(0.001, 1000))(text)


def _fit(model, source: str | None, words) -> float:
    from fastmix.engine import calibration

    found, where = calibration.calibrate(model, source)
    (nll, less), (ece, after) = found.nll, found.ece
    print(
        f"temperature {found.temperature:.4g}, fitted on {found.images} images of {where}: negative log likelihood "
        f"{nll:.4g} -> {less:.4g}, calibration error {100 * ece:.2f} -> {100 * after:.2f} %",
        file=words,
    )
    return found.temperature


if __name__ == "__main__":
    sys.exit(cli.run(main, "predict"))
