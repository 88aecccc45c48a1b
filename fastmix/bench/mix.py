"""The mixing pass against what users run today: torch eager, timm's normalising and Mixup, torchvision's v2 transforms.

On the CPU ours writes a reused output, as in training; the peers allocate as their users' code does, once with the
system's allocator as it is and once, in a process of its own, with one that keeps freed memory (TUNED), because page
faults of fresh outputs are much of their time.

On a GPU times are those of events, and inputs and outputs rotate through more memory than the second-level cache holds.
A copy of as many bytes is measured beside each pass. Rows "plan and pass" also draw the plan with the real method and
send it (mix_whole.py); those in "ms host" say how long the host is busy with that, without waiting for the GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

from fastmix.bench import measure
from fastmix.bench.mix_peers import CLASSES, MIXED_BY_ALL, eager, timm, torchvision
from fastmix.bench.mix_whole import whole

TUNED = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
NAMES = ("plain", "mixup", "cutmix", "mixup+cutmix", "gridmix", "smoothmix", "fmix", "cells", "map")
NAMES += ("resizemix", "stretched", "blocks")
MOVED = ("resizemix", "stretched", "blocks")  # their pixels change places, which a mask alone does not do
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
ROTATED = 512 << 20  # bytes of inputs and outputs: more than any second-level cache
REPEATS = {"cpu": 20, "cuda": 100}
WARMUP = {"cpu": 2, "cuda": 10}  # calls; on a GPU at least one of each input


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", nargs="+", type=int, default=[64])
    parser.add_argument("--size", nargs="+", type=int, default=[224], help="height and width")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--plans", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--repeats", type=int, help="20 on the CPU, 100 on a GPU where it is not given")
    parser.add_argument(
        "--allocator", choices=("default", "tuned", "both"), default="both", help="of the peers, on CPU"
    )


def run(args: argparse.Namespace) -> list[dict]:
    """The rows of all plans and types. Raises ValueError for a size or a count below 1, or where there is no GPU."""
    args.repeats = REPEATS[args.device] if args.repeats is None else args.repeats
    measure.check(args)
    if args.allocator == "tuned" and args.device == "cpu" and any(os.environ.get(k) != v for k, v in TUNED.items()):
        return _in_own_process(args)
    copy = measure.copy_bandwidth(args.device)
    rows = [
        row
        for n in args.batch
        for size in args.size
        for name in args.plans
        for dtype in args.dtype
        for row in _compare(args, name, (n, size, size, 3), dtype, copy)
    ]
    return rows + (_in_own_process(args) if args.allocator == "both" and args.device == "cpu" else [])


def _in_own_process(args) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        numbers = [word for key in ("batch", "size") for word in (f"--{key}", *map(str, getattr(args, key)))]
        lists = ["--dtype", *args.dtype, "--plans", *args.plans]
        options = [f"--repeats={args.repeats}", "--allocator=tuned", f"--json={path}"]
        command = [sys.executable, "-m", "fastmix.bench", "mix", *numbers, *lists, *options]
        subprocess.run(command, env=os.environ | TUNED, stdout=subprocess.DEVNULL, check=True)
        return json.loads(path.read_text())


def _compare(args, name: str, shape: tuple[int, ...], dtype: str, copy: float) -> list[dict]:
    import numpy as np
    import torch

    from fastmix.batch import Buffers
    from fastmix.kernels.mix import mix
    from fastmix.kernels.mix.cases import MEAN, PLANS, STD

    kind, device = getattr(torch, DTYPES[dtype]), args.device
    rng = np.random.default_rng(0)
    n, size, elements = shape[0], shape[1:3], int(np.prod(shape))
    rotation = 1 if device == "cpu" else -(-ROTATED // (elements * (1 + kind.itemsize)))
    inputs = [torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)).to(device) for _ in range(rotation)]
    plan = PLANS[name](rng, n, size)
    moved = int(reads(plan, n, size) + elements * kind.itemsize)
    mask = None if plan is None or name == "blocks" else _mask(plan, n, size)
    plan = plan and plan.to(device)
    out = None
    if device == "cpu":
        out = Buffers().next((n, 3, *size), kind)  # as in training
    work = {"fastmix": lambda images: mix(images, plan, MEAN, STD, kind, out=out)}
    if name not in MOVED:
        other = None if plan is None else plan.partner.long()
        work["torch eager"] = eager(None if mask is None else mask.to(device), other, kind, device)
        if device == "cuda":
            torch.compiler.reset()  # or the formula's code has too many shapes, and torch no longer compiles it
            work["torch.compile"] = torch.compile(work["torch eager"], dynamic=False)
    labels = torch.from_numpy(rng.integers(0, CLASSES, n)).to(device)
    if name in MIXED_BY_ALL:
        work["timm"] = timm(*MIXED_BY_ALL[name], labels, kind, device)
        work["torchvision v2"] = torchvision(*MIXED_BY_ALL[name], labels, kind)
    calls, ways, host = {provider: rotating(each, inputs) for provider, each in work.items()}, {}, {}
    if device == "cuda":
        calls["copy of the same bytes"] = _copies(moved, device)
        ways, host = whole(name, inputs, labels, kind)
        calls |= {provider: rotating(each, range(rotation)) for provider, each in ways.items()}
    warmup = max(WARMUP[device], rotation if device == "cuda" else 0)
    times = measure.milliseconds(calls, args.repeats, device, warmup)
    name += ", tuned malloc" * (args.allocator == "tuned")
    text = "x".join(map(str, shape))
    rows = [
        measure.row("mix", name, provider, text, dtype, "ms", values, None if provider in ways else moved, copy, device)
        for provider, values in times.items()
    ]
    for provider, values in measure.host_milliseconds(host, args.repeats).items():
        rows.append(measure.row("mix", name, provider, text, dtype, "ms host", values, device=device))
    return rows


def rotating(work: Callable, inputs) -> Callable:
    """Calls with one input after another; of several, as many results are kept, so that they lie apart, too."""
    turn, kept = count(), [None] * len(inputs)

    def call():
        k = next(turn) % len(inputs)
        result = work(inputs[k])
        kept[k] = result if len(inputs) > 1 else None

    return call


def _copies(moved: int, device: str) -> Callable:
    """Copies of moved / 2 bytes, which reads and writes `moved`, through more memory than the cache holds."""
    import torch

    pairs = torch.ones(-(-ROTATED // moved), 2, moved // 2, dtype=torch.uint8, device=device)
    return rotating(lambda pair: pair[0].copy_(pair[1]), pairs)


def _mask(plan, n, size):
    """float32 [B,1,H,W], the weight of each image itself: ones mixed by the plan with zeros."""
    import torch

    from fastmix.kernels.mix import mix
    from fastmix.kernels.plan import PLAIN, Plan

    table = torch.cat([plan.table, Plan.plain(n).table])
    table[:n, 1] += n
    images = (torch.arange(2 * n) < n).byte().view(-1, 1, 1, 1).expand(-1, *size, 3)
    both = replace(plan, table=table, kinds=plan.kinds | 1 << PLAIN)
    return mix(images, both, (0, 0, 0), (1 / 255,) * 3)[:n, :1].contiguous()


def reads(plan, n: int, size: tuple[int, int]) -> float:
    """Bytes that must be read: the pixels that count, the rank maps and the soft maps."""
    from fastmix.kernels.plan import ONE

    if plan is None:
        return 3 * n * size[0] * size[1]
    if plan.blocks is not None:
        weight = plan.blocks[..., 2] / ONE
    else:
        weight = _mask(plan, n, size)
    pixels = n * size[0] * size[1]
    share = (weight > 0).float().mean() + (weight < 1).float().mean()
    ranks = 0 if plan.bank is None else pixels * plan.bank.element_size()
    return float(3 * pixels * share) + ranks + (0 if plan.maps is None else plan.maps.nbytes)
