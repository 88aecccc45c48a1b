"""python -m fastmix.bench quickstart: the accuracy that the quickstart's training reaches, against the least it should.

The whole way, from drawn images through a loader, a method and the loop to a validation. On a CPU a much smaller one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from fastmix.bench import measure

SMALL = (
    *("data.train=shapes:train?n=1000&size=32", "data.val=shapes:val?n=200&size=32", "data.size=32"),
    *("data.val_resize=32", "model.name=test_resnet", "mix=vanilla", "epochs=4", "optim.lr=1e-2"),
    *("schedule.warmup_epochs=1", "precision=fp32", "data.workers=1"),
)
LEAST = {"cuda": 95.0, "cpu": 30.0}  # % top-1; ten classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", default=[], help="settings over the config")
    parser.add_argument("--least", type=float, help="%% top-1; default: 95 on a GPU, 30 of the small one on a CPU")


def run(args: argparse.Namespace):
    """Rows: % top-1 of the last epoch, images/s, and whether the accuracy is wrong. Raises ValueError for a setting."""
    from fastmix import config
    from fastmix.engine.training import train

    least = LEAST[args.device] if args.least is None else args.least
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        words = [*(SMALL if args.device == "cpu" else ()), *args.set, f"device={args.device}", f"out={out}"]
        cfg = config.load("quickstart", words)
        train(cfg, "quickstart")
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    reached = [line["top1"] for line in lines if line["kind"] == "val"][-1]
    rates = [line["images_per_s"] for line in lines if line["kind"] == "train" and "images_per_s" in line]
    what = f"{cfg.model.name} {cfg.mix}", "fastmix", f"{cfg.epochs} epochs, {cfg.data.size} px", cfg.precision
    yield measure.row("quickstart", *what, "% top-1", [reached], device=args.device)
    if rates:
        yield measure.row("quickstart", *what, "images/s", rates, device=args.device)
    yield measure.row("quickstart", *what, "wrong", [float(not reached >= least)], device=args.device)
