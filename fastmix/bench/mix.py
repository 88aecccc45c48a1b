"""The mixing pass against what users run today: torch eager, timm's normalising and Mixup, torchvision's v2 transforms.

On the CPU ours writes a reused output, as in training; the peers allocate as their users' code does, once with the
system's allocator as it is and once, in a process of its own, with one that keeps freed memory (TUNED), because page
faults of fresh outputs are much of their time. On a GPU times are those of events, and the inputs rotate through more
memory than the second-level cache holds.
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
from importlib import import_module
from itertools import count
from pathlib import Path

from fastmix.bench import measure

TUNED = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
NAMES = ("plain", "mixup", "cutmix", "mixup+cutmix", "gridmix", "smoothmix", "fmix", "cells", "map")
NAMES += ("resizemix", "stretched", "blocks")
MOVED = ("resizemix", "stretched", "blocks")  # their pixels change places, which a mask alone does not do
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
MIXED_BY_ALL = {"plain": (0, 0), "mixup": (1, 0), "cutmix": (0, 1), "mixup+cutmix": (1, 1)}  # mixup and cutmix alpha
CLASSES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224, help="height and width")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--plans", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument(
        "--allocator", choices=("default", "tuned", "both"), default="both", help="of the peers, on CPU"
    )


def run(args: argparse.Namespace) -> list[dict]:
    """The rows of all plans and types. Raises ValueError for a size or a count below 1, or where there is no GPU."""
    measure.check(args)
    if args.allocator == "tuned" and args.device == "cpu" and any(os.environ.get(k) != v for k, v in TUNED.items()):
        return _in_own_process(args)
    copy = measure.copy_bandwidth(args.device)
    rows = [row for name in args.plans for dtype in args.dtype for row in _compare(args, name, dtype, copy)]
    return rows + (_in_own_process(args) if args.allocator == "both" and args.device == "cpu" else [])


def _in_own_process(args) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        sizes = [f"--{key}={getattr(args, key)}" for key in ("batch", "size", "repeats")]
        lists = ["--dtype", *args.dtype, "--plans", *args.plans]
        command = [sys.executable, "-m", "fastmix.bench", "mix", *sizes, *lists, "--allocator=tuned", f"--json={path}"]
        subprocess.run(command, env=os.environ | TUNED, stdout=subprocess.DEVNULL, check=True)
        return json.loads(path.read_text())


def _compare(args, name: str, dtype: str, copy: float) -> list[dict]:
    import numpy as np
    import torch

    from fastmix.batch import Buffers
    from fastmix.kernels.mix import mix
    from fastmix.kernels.mix_cases import MEAN, PLANS, STD

    kind = getattr(torch, DTYPES[dtype])
    rng = np.random.default_rng(0)
    shape = (args.batch, args.size, args.size, 3)
    elements = int(np.prod(shape))
    rotation = 1 if args.device == "cpu" else max(1, -(-(512 << 20) // elements))  # more than any second-level cache
    inputs = [torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)).to(args.device) for _ in range(rotation)]
    plan = PLANS[name](rng, args.batch, shape[1:3])
    reads = _reads(plan, args.batch, shape[1:3])
    mask = None if plan is None or name == "blocks" else _mask(plan, args.batch, shape[1:3])
    plan = plan and plan.to(args.device)
    out = None
    if args.device == "cpu":
        out = Buffers().next((args.batch, 3, *shape[1:3]), kind)  # as in training
    work = {"fastmix": lambda images: mix(images, plan, MEAN, STD, kind, out=out)}
    if name not in MOVED:
        other = None if plan is None else plan.partner.long()
        work["torch eager"] = _eager(None if mask is None else mask.to(args.device), other, kind, args.device)
        if args.device == "cuda":
            work["torch.compile"] = torch.compile(work["torch eager"])
    if name in MIXED_BY_ALL:
        labels = torch.from_numpy(rng.integers(0, CLASSES, args.batch)).to(args.device)
        work["timm"] = _timm(*MIXED_BY_ALL[name], labels, kind, args.device)
        work["torchvision v2"] = _torchvision(*MIXED_BY_ALL[name], labels, kind)
    times = measure.milliseconds({k: _rotating(v, inputs) for k, v in work.items()}, args.repeats, args.device)
    name += ", tuned malloc" * (args.allocator == "tuned")
    size = "x".join(map(str, shape))
    moved = int(reads + elements * kind.itemsize)
    return [
        measure.row("mix", name, provider, size, dtype, "ms", values, moved, copy, args.device)
        for provider, values in times.items()
    ]


def _rotating(work: Callable, inputs: list) -> Callable:
    turn = count()
    return lambda: work(inputs[next(turn) % len(inputs)])


def _mask(plan, n, size):
    """float32 [B,1,H,W], the weight of each image itself: ones mixed by the plan with zeros."""
    import torch

    from fastmix.kernels.mix import mix
    from fastmix.kernels.plan import Plan

    table = torch.cat([plan.table, Plan.plain(n).table])
    table[:n, 1] += n
    images = (torch.arange(2 * n) < n).byte().view(-1, 1, 1, 1).expand(-1, *size, 3)
    return mix(images, replace(plan, table=table), (0, 0, 0), (1 / 255,) * 3)[:n, :1].contiguous()


def _reads(plan, n, size) -> float:
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


def _eager(mask, other, dtype, device) -> Callable:
    """What users write: normalise in fp32, gather the partners, weigh, add."""
    import torch

    from fastmix.kernels.mix_cases import MEAN, STD

    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (MEAN, STD))

    def work(images):
        x = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
        if mask is not None:
            x = mask * x + (1 - mask) * x[other]
        return x.to(dtype)

    return work


def _timm(mixup: float, cutmix: float, labels, dtype, device) -> Callable:
    """The arithmetic of timm's PrefetchLoader, then its Mixup for the whole batch, from the NCHW that it collates."""
    import torch

    import_module("fastmix.compat")  # before torchvision, which timm imports
    from timm.data import Mixup

    from fastmix.kernels.mix_cases import MEAN, STD

    mean, std = (torch.tensor([255 * v for v in c], device=device, dtype=dtype).view(1, 3, 1, 1) for c in (MEAN, STD))
    mixer = Mixup(mixup, cutmix, num_classes=CLASSES) if mixup or cutmix else None

    def work(images):
        x = images.to(dtype).sub_(mean).div_(std)
        return mixer(x, labels) if mixer else x

    return _planar(work)


def _torchvision(mixup: float, cutmix: float, labels, dtype) -> Callable:
    """ToDtype, Normalize, then MixUp or CutMix or either by chance, from uint8 NCHW."""
    import torch

    import_module("fastmix.compat")
    from torchvision.transforms import v2

    from fastmix.kernels.mix_cases import MEAN, STD

    prepare = v2.Compose([v2.ToDtype(dtype, scale=True), v2.Normalize(MEAN, STD)])
    mixers = [v2.MixUp(num_classes=CLASSES)] * bool(mixup) + [v2.CutMix(num_classes=CLASSES)] * bool(cutmix)
    mixer = v2.RandomChoice(mixers) if mixers else None

    def work(images: torch.Tensor):
        x = prepare(images)
        return mixer(x, labels) if mixer else x

    return _planar(work)


def _planar(work: Callable) -> Callable:
    """Calls with an NCHW copy of the images, made once for each of them and so outside of what is measured."""
    copies = {}

    def call(images):
        key = images.data_ptr()
        if key not in copies:
            copies[key] = images.permute(0, 3, 1, 2).contiguous()
        return work(copies[key])

    return call
