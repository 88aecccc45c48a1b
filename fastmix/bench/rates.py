"""python -m fastmix.bench rates: what the device reaches at best, a copy of its memory and a product of matrices.

Every other figure is to be held against these: bytes over the one, arithmetic over the other.
"""

from __future__ import annotations

import argparse

from fastmix.bench import measure

SIDE = {"cuda": 8192, "cpu": 512}
MEGABYTES = {"cuda": 1024, "cpu": 64}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--side", type=int, help="of the square matrices; 8192 on a GPU, 512 on a CPU")
    parser.add_argument("--repeats", type=int, default=10)


def run(args: argparse.Namespace):
    """Rows in GB/s, read and written together, and TFLOP/s. Raises ValueError for a count below 1 or without a GPU."""
    import torch

    args.side = SIDE[args.device] if args.side is None else args.side
    megabytes = MEGABYTES[args.device]
    rate = measure.copy_bandwidth(args.device, megabytes, args.repeats)
    yield measure.row("rates", "copy", "torch", f"{megabytes} MB", "uint8", "GB/s", [rate], device=args.device)
    for dtype in ("bfloat16", "float32"):
        one, other = (torch.randn(args.side, args.side, device=args.device).to(getattr(torch, dtype)) for _ in range(2))
        work = {"torch": lambda one=one, other=other: one @ other}
        times = measure.milliseconds(work, args.repeats, args.device)["torch"]
        rates = [2e-9 * args.side**3 / ms for ms in times]
        shape = f"{args.side}x{args.side}"
        yield measure.row("rates", "matmul", "torch", shape, dtype, "TFLOP/s", rates, device=args.device)
