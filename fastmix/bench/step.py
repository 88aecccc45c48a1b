"""python -m fastmix.bench step: the whole training step on synthetic images, mixer by mixer, and timm's step beside it.

A step is mix, forward, backward and optimiser; data wait is not in it. timm's step is what its train script does: the
uint8 batch normalised by sub and div on the device, its Mixup class, its losses, the same model, precision, memory
format and optimiser; eager, and with --compile compiled, too. On a GPU also the largest memory that each takes. For
DeiT-S, Swin-T and ConvNeXt-T, each method's time and memory over vanilla's, ours and those that the benchmark prints.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    Take = Callable[[Tensor, Tensor], object]

EPOCH_STEPS = 5004  # those of ImageNet-1k at 256 images a step: where the learning rate is in its schedule
CLASSES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_step_arguments(parser)
    parser.add_argument("--repeats", type=int, default=20)


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what a step is."""
    parser.add_argument("--model", default="resnet50", help="a timm model")
    parser.add_argument("--mix", nargs="+", default=["mixup", "cutmix"], help="mixers with their default options; all")
    parser.add_argument("--teacher", metavar="FILE", help="weights of the teacher of attentivemix, supermix, tokenmix")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "fp16", "bf16"))
    parser.add_argument("--compile", default="off", choices=("off", "default", "reduce-overhead", "max-autotune"))
    parser.add_argument("--cuda-graph", action="store_true", help="fastmix's step as one CUDA graph")
    parser.add_argument("--fused-norm", default="off", choices=("auto", "off"), help="fastmix's model.fused_norm")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))


def run(args: argparse.Namespace) -> list[dict]:
    """Rows in ms a step, and in GB on a GPU: `vanilla` and each mixer by fastmix, what timm has by timm, in turns.

    Raises ValueError for a size or a count below 1, an unknown model or method, or without a GPU.
    """
    from functools import partial

    import torch

    from fastmix.bench.measure import check, milliseconds, row
    from fastmix.bench.memory import Peak, built
    from fastmix.bench.published_cost import beside

    check(args)
    cfg, device = settings(args)
    generator = torch.Generator(device).manual_seed(0)
    shape = (args.batch, args.size, args.size, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device, generator=generator)
    labels = torch.randint(0, CLASSES, (args.batch,), device=device, generator=generator)

    planar = images.permute(0, 3, 1, 2).contiguous()  # as timm's loader has it
    steps, peaks = {}, {}
    for provider, name, build in makers(cfg, args, device, ["vanilla", *args.mix], peer=True):
        inputs = images if provider == "fastmix" else planar, labels
        with leaving_out("all" in args.mix):
            take, kept = built(build, inputs, device, shares=cfg.cuda_graph and provider == "fastmix")
            steps[provider, name] = call = partial(take, *inputs)
            if device.type == "cuda":
                with Peak(device) as peak:
                    call()
                peaks[provider, name] = kept + peak.bytes
    rows, kind = [], dtype(cfg)
    for (provider, name), values in milliseconds(steps, args.repeats, device.type).items():
        what = f"{args.model} {name}", provider, f"{args.batch}x{args.size}x{args.size}", kind
        rows.append(row("step", *what, "ms", values, device=device.type))
        if (provider, name) in peaks:
            rows.append(row("step", *what, "GB", [peaks[provider, name] / 1e9], device=device.type))
    return rows + beside(rows, args.model, device.type)


@contextmanager
def leaving_out(allowed: bool) -> Iterator[None]:
    """Tells a ValueError in a line on standard error and goes on, where that is allowed."""
    try:
        yield
    except ValueError as error:
        if not allowed:
            raise
        print(f"left out: {error}", file=sys.stderr)


def settings(args: argparse.Namespace):
    """The Config and the device that the options mean. Raises ValueError for an unknown method, or without a GPU."""
    import torch

    from fastmix import distributed
    from fastmix.config import Config, Data, Model
    from fastmix.engine.task import precision
    from fastmix.mixers import MIXERS, nearest

    for name in args.mix:
        if name not in (*MIXERS, "all"):
            raise ValueError(f"--mix: no method {name!r}{nearest(name, MIXERS)}")
    device = distributed.init(args.device)
    if args.fused_norm == "auto" and device.type == "cpu":
        raise ValueError("--fused-norm: on a CPU it is torch's own batch-norm that runs; leave it off")
    torch.backends.cudnn.benchmark = True  # as both trainers do
    cfg = Config(
        precision=precision(args.precision, device),
        cuda_graph=args.cuda_graph,
        data=Data(size=args.size),
        model=Model(args.model, compile=args.compile, fused_norm=args.fused_norm),
        batch_total=args.batch,
    )
    return cfg, device


def dtype(cfg) -> str:
    """How the steps of a run compute, for its rows; timm's eager step is one beside compiled ones."""
    model = cfg.model
    ways = {" compiled": model.compile != "off", " graph": cfg.cuda_graph, " fused norm": model.fused_norm == "auto"}
    return cfg.precision + "".join(way for way, taken in ways.items() if taken)


def makers(cfg, args: argparse.Namespace, device, names: list[str], peer: bool, classes: int = CLASSES) -> Iterator:
    """(provider, method, function that makes its Take) of each method by fastmix, then of those that timm has by timm.

    "all" among the names stands for every method. With --compile timm is there eager and compiled.
    """
    from functools import partial

    from fastmix.bench import timm_peer
    from fastmix.mixers import MIXERS

    names = list(dict.fromkeys(name for given in names for name in (MIXERS if given == "all" else [given])))
    for name in names:
        yield "fastmix", name, partial(ours, cfg, name, device, args.teacher, classes)
    modes = {"timm": "off"} | ({"timm, compiled": cfg.model.compile} if cfg.model.compile != "off" else {})
    for provider, mode in modes.items() if peer else ():
        for name in names:
            if name in timm_peer.ALPHAS:
                yield provider, name, partial(timm_peer.step, cfg, name, device, mode, classes)


def ours(cfg, name: str, device, teacher: str | None = None, classes: int = CLASSES) -> Take:
    """fastmix's step of a method: a function of images uint8 [B,H,W,3] and labels int64 [B], on the device.

    Raises ValueError for an unknown model or method, or one that does not work with the model or without a file.
    """
    import inspect
    import itertools

    import torch

    from fastmix import models
    from fastmix.engine import optim
    from fastmix.engine.captured_step import CapturedStep, check
    from fastmix.engine.step import Step
    from fastmix.engine.task import Task
    from fastmix.mixers import MIXERS, build

    options = {"weights": teacher} if name in MIXERS and "weights" in inspect.signature(MIXERS[name]).parameters else {}
    mixer = build(name, {name: options})
    model = models.build(cfg.model, classes, 0, device).train()
    task, count = Task(model, mixer, cfg).to(device), itertools.count()
    opt = optim.build(cfg.optim, model, mixer.param_groups())
    if cfg.cuda_graph:
        check(cfg, mixer, opt, device)
    if cfg.model.compile != "off":
        task.compile(mode=cfg.model.compile)
    scaler = torch.amp.GradScaler(device.type, enabled=cfg.precision == "fp16")
    step = (CapturedStep if cfg.cuda_graph else Step)(cfg, task, opt, scaler, EPOCH_STEPS)
    return lambda images, labels: step(images, labels, next(count))
