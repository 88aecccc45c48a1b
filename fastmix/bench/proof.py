"""python -m fastmix.bench proof: a few training steps of every method, right or wrong; no speeds.

Each method's step as it trains, with RandAugment and erasing, in bf16, some in fp16 as well; on a GPU also captured in
a CUDA graph where it can be. Wrong is: an error, a loss that is not finite, a last step in which the host
waits for the GPU, or captured losses that are not those of the ordinary steps to 5 % (a GPU's sums are not the same
bits every time; a step that trains on stale images is further off).
"""

from __future__ import annotations

import argparse
import math
import sys
import time

from fastmix.bench import measure

FP16 = ("cutmix", "automix", "puzzlemix")
STEPS, BATCH, NEAR = 10, 8, 0.05
EAGER, CAPTURED = "eager", "CUDA graph"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="methods; default: all")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="of each method; graphs replay from the fourth or eighth on"
    )
    parser.add_argument("--processes", type=int, help="at a time; default: the cores, at most 8")


def run(args: argparse.Namespace):
    """A row for each method and way, `wrong` 0 or 1, as they end. Raises ValueError for an unknown method."""
    from fastmix.bench.apart import apart
    from fastmix.mixers import MIXERS, nearest

    for name in args.only or ():
        if name not in MIXERS:
            raise ValueError(f"--only: no method {name!r}{nearest(name, MIXERS)}")
    tasks = [(name, args.device, args.steps) for name in args.only or MIXERS]
    for (name, *_), found, error in apart(ways, tasks, args.processes):
        for way, precision, trouble, seconds in found or [(EAGER, "bf16", error, 0.0)]:
            if trouble:
                print(f"wrong: {name}, {precision}, {way}: {trouble}", file=sys.stderr)
            what = name, f"fastmix, {way}", f"{args.steps} steps, {seconds:.1f} s", precision
            yield measure.row("proof", *what, "wrong", [float(bool(trouble))], device=args.device)


def ways(name: str, device: str, steps: int) -> list[tuple[str, str, str, float]]:
    """(way, precision, what is wrong, seconds) of each way in which a method trains."""
    from fastmix.bench import small_tasks

    found, losses = [], {}
    for precision in ("bf16", "fp16") if name in FP16 and device == "cuda" else ("bf16",):
        losses[precision], *rest = _tried(name, device, steps, precision, False)
        found.append((EAGER, precision, *rest))
    if device == "cuda" and not small_tasks.mixer(name).uncaptured:
        captured, trouble, seconds = _tried(name, device, steps, "bf16", True)
        found.append((CAPTURED, "bf16", trouble or apart_from(captured, losses["bf16"]), seconds))
    return found


def apart_from(captured: list[float], losses: list[float]) -> str:
    """What is wrong with the losses of captured steps beside those of ordinary ones; nothing: empty."""
    for k, (one, other) in enumerate(zip(captured, losses, strict=False)):
        if not abs(one - other) <= NEAR * abs(other):
            return f"the loss of captured step {k} is {one:.4g}, of the ordinary one {other:.4g}"
    return ""


def _tried(name: str, device: str, steps: int, precision: str, captured: bool) -> tuple[list[float], str, float]:
    """Losses, what is wrong, and seconds."""
    from fastmix.bench.apart import lost

    begun, losses = time.perf_counter(), []
    try:
        losses = train(name, device, steps, precision, captured)
        bad = [k for k, loss in enumerate(losses) if not math.isfinite(loss)]
        trouble = f"the loss of step {bad[0]} is {losses[bad[0]]}" if bad else ""
    except Exception as error:  # a proof reports whatever goes wrong
        if lost(error):
            raise  # the context is lost: the next method is another process's
        trouble = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return losses, trouble, time.perf_counter() - begun


def train(name: str, device: str, steps: int, precision: str, captured: bool) -> list[float]:
    """The losses of a method's first steps. On a GPU the last raises RuntimeError where the host would wait."""
    import torch

    from fastmix.bench import small_tasks
    from fastmix.config import Config, Optim
    from fastmix.engine import optim
    from fastmix.engine.captured_step import CapturedStep
    from fastmix.engine.step import Step
    from fastmix.engine.task import Task

    place = torch.device(device, 0) if device == "cuda" else torch.device(device)
    chosen = Optim(name="sgd", lr=0.01, momentum=0.9, clip=1.0, fused="torch")
    cfg = Config(precision=precision, optim=chosen, epochs=2)
    cfg.erase.prob, cfg.augment.kind = 0.25, "randaugment"
    mixer = small_tasks.mixer(name)
    model = small_tasks.network(name).to(place, memory_format=torch.channels_last)
    task = Task(model, mixer, cfg).to(place).train()
    opt = optim.build(cfg.optim, model, mixer.param_groups())
    scaler = torch.amp.GradScaler(place.type, enabled=precision == "fp16")
    step = (CapturedStep if captured else Step)(cfg, task, opt, scaler, 10)
    batches = [[t.to(place) for t in small_tasks.batch(BATCH, k)] for k in range(steps)]
    losses = torch.zeros(steps, device=place)
    for k, (images, labels) in enumerate(batches):
        strict = place.type == "cuda" and k == steps - 1
        if strict:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        try:
            found = step(images, labels, k)
        finally:
            if strict:
                torch.cuda.set_sync_debug_mode("default")
        losses[k] = found[0]
    return losses.tolist()
