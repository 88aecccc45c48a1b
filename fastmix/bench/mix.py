"""The mixing pass against what users run today: torch eager, timm's normalising and Mixup, torchvision's v2 transforms.

On the CPU ours writes a reused output, as in training; the peers allocate as their users' code does, once with the
system's allocator as it is and once, in a process of its own, with one that keeps freed memory (TUNED), because page
faults of fresh outputs are much of their time. What there is to win is told by the plainest loop (mix_floor.py).

Rows of "floats" mix a batch [B,3,H,W] that is normalised already, as the loaders of others give it.

On a GPU times are those of events, and inputs and outputs rotate through more memory than the second-level cache holds.
A copy of as many bytes is measured beside each pass. Rows "plan and pass" also draw the plan with the real method and
send it (mix_whole.py); those in "ms host" say how long the host is busy with that, without waiting for the GPU. What
takes the time is torch.compile, twice for each shape and type, and in the end the capturing of graphs, two a plan.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from fastmix.bench import measure
from fastmix.bench.mix_peers import CLASSES, FLOATS, MIXED_BY_ALL, formula, mixed_floats, timm, torchvision
from fastmix.bench.mix_whole import whole

TUNED = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
NAMES = ("plain", "mixup", "cutmix", "mixup+cutmix", "gridmix", "smoothmix", "fmix", "cells", "map")
NAMES += ("resizemix", "stretched", "blocks", *FLOATS)
MOVED = ("resizemix", "stretched", "blocks")  # their pixels change places, which a mask alone does not do
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
ROTATED = 512 << 20  # bytes of inputs and outputs: more than any second-level cache
REPEATS = {"cpu": 20, "cuda": 30}
BATCH, TYPES = {"cpu": [64], "cuda": [256]}, {"cpu": ["fp32", "bf16"], "cuda": ["bf16"]}
WARMUP, MOST_WARMUP = 2, 20  # calls on the CPU; on a GPU as many as there are inputs, at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", nargs="+", type=int, help="64 on the CPU, 256 on a GPU where it is not given")
    parser.add_argument("--size", nargs="+", type=int, default=[224], help="height and width")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, help="fp32 and bf16 on the CPU, bf16 on a GPU")
    parser.add_argument("--plans", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--repeats", type=int, help="20 on the CPU, 30 on a GPU where it is not given")
    parser.add_argument(
        "--allocator", choices=("default", "tuned", "both"), default="both", help="of the peers, on CPU"
    )


def run(args: argparse.Namespace) -> Iterator[dict]:
    """The rows of all plans and types. Raises ValueError for a size or a count below 1, or where there is no GPU."""
    args.repeats = REPEATS[args.device] if args.repeats is None else args.repeats
    args.batch, args.dtype = args.batch or BATCH[args.device], args.dtype or TYPES[args.device]
    measure.check(args)
    if args.allocator == "tuned" and args.device == "cpu" and any(os.environ.get(k) != v for k, v in TUNED.items()):
        yield from _in_own_process(args)
        return
    copy = measure.copy_bandwidth(args.device)
    for n in args.batch:
        for size in args.size:
            compiled = Compiled()
            for name in args.plans:
                for dtype in args.dtype:
                    compare = _compare_floats if name in FLOATS else _compare
                    yield from compare(args, name, (n, size, size, 3), dtype, copy, compiled)
    if args.allocator == "both" and args.device == "cpu":
        yield from _in_own_process(args)


def _in_own_process(args) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        numbers = [word for key in ("batch", "size") for word in (f"--{key}", *map(str, getattr(args, key)))]
        lists = ["--dtype", *args.dtype, "--plans", *args.plans]
        options = [f"--repeats={args.repeats}", "--allocator=tuned", f"--json={path}"]
        command = [sys.executable, "-m", "fastmix.bench", "mix", *numbers, *lists, *options]
        subprocess.run(command, env=os.environ | TUNED, stdout=subprocess.DEVNULL, check=True)
        return json.loads(path.read_text())


class Compiled:
    """torch.compile's versions of the formula that users write, for images of one shape: one a type, and one without a
    mask, which all plans share."""

    def __init__(self):
        self.made = {}

    def __call__(self, mask, other, kind, device) -> Callable:
        import torch

        key = mask is None, kind
        if key not in self.made:
            if not self.made:
                torch.compiler.reset()  # or the formula has too many shapes, and torch no longer compiles it
            self.made[key] = torch.compile(formula(kind, device), dynamic=False)
        return lambda images: self.made[key](images, mask, other)


def _compare(args, name: str, shape: tuple[int, ...], dtype: str, copy: float, compiled: Compiled) -> list[dict]:
    import numpy as np
    import torch

    from fastmix.batch import Buffers
    from fastmix.bench.mix_floor import floor
    from fastmix.kernels.mix import mix
    from fastmix.kernels.mix.cases import MEAN, PLANS, STD

    kind, on_gpu, device = getattr(torch, DTYPES[dtype]), args.device == "cuda", measure.place(args.device)
    rng, noise = np.random.default_rng(0), torch.Generator(device).manual_seed(0)
    n, size, elements = shape[0], shape[1:3], int(np.prod(shape))
    rotation = -(-ROTATED // (elements * (1 + kind.itemsize))) if on_gpu else 1
    inputs = [torch.randint(256, shape, dtype=torch.uint8, device=device, generator=noise) for _ in range(rotation)]
    plan = PLANS[name](rng, n, size)
    moved = int(reads(plan, n, size) + elements * kind.itemsize)
    mask = None if plan is None or name == "blocks" else _mask(plan, n, size)
    plan = plan and plan.to(device)
    out = None
    if not on_gpu:
        out = Buffers().next((n, 3, *size), kind)  # as in training
    work = {"fastmix": lambda images: mix(images, plan, MEAN, STD, kind, out=out)}
    if name not in MOVED:
        other = None if plan is None else plan.partner.long()
        mask = None if mask is None else mask.to(device)
        work["torch eager"] = partial(formula(kind, device), mask=mask, other=other)
        if on_gpu:
            work["torch.compile"] = compiled(mask, other, kind, device)
    labels = torch.from_numpy(rng.integers(0, CLASSES, n)).to(device)
    if name in MIXED_BY_ALL:
        work["timm"] = timm(*MIXED_BY_ALL[name], labels, kind, device)
        work["torchvision v2"] = torchvision(*MIXED_BY_ALL[name], labels, kind)
    if not on_gpu and dtype == "fp32" and (least := floor(name, plan, shape, MEAN, STD)):
        work["plain numba loop"] = least
    calls, ways, host = {provider: rotating(each, inputs) for provider, each in work.items()}, {}, {}
    if on_gpu:
        calls["copy of the same bytes"] = _copies(moved, device)
        ways, host = whole(name, inputs, labels, kind)
        calls |= {provider: rotating(each, range(rotation)) for provider, each in ways.items()}
    warmup = min(rotation, MOST_WARMUP) if on_gpu else WARMUP
    times = measure.milliseconds(calls, args.repeats, args.device, warmup)
    name += ", tuned malloc" * (args.allocator == "tuned")
    text = "x".join(map(str, shape))
    rows = [
        measure.row(
            "mix", name, provider, text, dtype, "ms", values, None if provider in ways else moved, copy, args.device
        )
        for provider, values in times.items()
    ]
    for provider, values in measure.host_milliseconds(host, args.repeats).items():
        rows.append(measure.row("mix", name, provider, text, dtype, "ms host", values, device=args.device))
    return rows


def _compare_floats(args, name: str, shape: tuple[int, ...], dtype: str, copy: float, compiled: Compiled) -> list[dict]:
    import numpy as np
    import torch

    from fastmix.batch import Batch, Buffers
    from fastmix.kernels.mix.cases import PLANS

    kind, device, buffers = getattr(torch, DTYPES[dtype]), measure.place(args.device), Buffers()
    rng, (n, *size, channels) = np.random.default_rng(0), shape
    elements = int(np.prod(shape))
    rotation = -(-ROTATED // (2 * elements * kind.itemsize)) if device.type == "cuda" else 1
    inputs = [torch.randn(n, channels, *size, device=device).to(kind) for _ in range(rotation)]
    plan = PLANS[FLOATS[name]](rng, n, size)
    moved = int(reads(plan, n, size) * kind.itemsize) + elements * kind.itemsize
    plan = plan.to(device)
    labels = torch.from_numpy(rng.integers(0, CLASSES, n)).to(device)

    def ours(images):
        return Batch(images.permute(0, 2, 3, 1), labels, rng, dtype=kind, buffers=buffers).mix(plan)

    work = {"fastmix": ours} | mixed_floats(FLOATS[name], labels)
    calls = {provider: rotating(each, inputs) for provider, each in work.items()}
    times = measure.milliseconds(calls, args.repeats, args.device, min(rotation, MOST_WARMUP) + 1)
    name += ", tuned malloc" * (args.allocator == "tuned")
    text = "x".join(map(str, (n, channels, *size)))
    return [
        measure.row("mix", name, provider, text, dtype, "ms", values, moved, copy, args.device)
        for provider, values in times.items()
    ]


def rotating(work: Callable, inputs) -> Callable:
    """Calls with one input after another; of several, as many results are kept, so that they lie apart, too."""
    turn, kept = count(), [None] * len(inputs)

    def call():
        k = next(turn) % len(inputs)
        result = work(inputs[k])
        kept[k] = result if len(inputs) > 1 else None

    return call


def _copies(moved: int, device) -> Callable:
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
