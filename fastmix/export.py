"""python -m fastmix.export RUN|FILE --to onnx|torchscript|torch-export|safetensors: a trained model for other programs.

The file takes any number of images, tells class names and preprocessing in its metadata, and is compared with the model
on real images before it gets its name.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fastmix import cli, files

FORMATS = ("onnx", "torchscript", "torch-export", "safetensors")


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.export", description="Write a trained model for other programs.")
    parser.add_argument("run", metavar="RUN|FILE", type=Path, help="a run folder, a checkpoint of one, or its "
                        "model.safetensors, which may lie anywhere")  # fmt: skip
    parser.add_argument("--to", required=True, choices=FORMATS)
    parser.add_argument("--out", type=Path, metavar="FILE", help="(model.onnx, .torchscript, .pt2 or .safetensors "
                        "beside the weights)")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace that file")
    parser.add_argument("--with-preprocessing", action="store_true", help="take pixels uint8 [batch,S,S,3], and "
                        "normalise them in the graph")  # fmt: skip
    parser.add_argument("--checkpoint", default="last", choices=("last", "best"), help="of a run folder")
    parser.add_argument("--raw", action="store_true", help="the weights themselves, where there is their average too")
    parser.add_argument("--classes", type=Path, metavar="FROM", help="class names, for a run that did not keep them: a "
                        ".beton, a class folder or a text file")  # fmt: skip
    args = parser.parse_args(argv)

    from fastmix import distributed
    from fastmix.engine import exchange, trained

    kind = exchange.check(args.to, args.with_preprocessing)
    folder = args.run if args.run.is_dir() else args.run.parent
    out = args.out or folder / f"model{kind.suffix}"
    files.check_free(out, args.overwrite)
    try:
        model = trained.load(args.run, args.checkpoint, args.raw, args.classes, "cpu", "fp32")
        if model.note:
            print(model.note, file=sys.stderr)
        done = exchange.export(model, kind, out, args.with_preprocessing)
    finally:
        distributed.close()
    average = " (average)" if model.kind == "ema" else ""
    print(
        f"{out}: {model.info.name} of {model.where}{average}, {len(model.info.classes)} classes, {done.size / 1e6:.1f} "
        f"MB, takes {done.input}; at most {done.difference:.1g} from the model on {done.images}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, "export"))
