"""Trains with methods on the pretended GPU, and compiles what they launch: exit code 1, and a line for each fault.

PYTHONPATH=.:tests python -m gpu training_check [--compile] STEPS PRECISION[,PRECISION] NAME ...: so many steps of each
method, of which all but the first must be free of faults, its picture, validation of the model, its average and what
else predicts. Methods whose steps can be captured also take captured ones: a graph must hold no copy from the host,
since it would repeat the numbers of one step. --compile: every build of a kernel that was asked for, with the installed
Triton.
"""

from __future__ import annotations

import collections
import sys
import tempfile
import traceback
from itertools import product
from pathlib import Path

import torch
from torch import nn

from fastmix import config
from fastmix.engine import captured_step, optim
from fastmix.engine.captured_step import CapturedStep
from fastmix.engine.ema import Ema
from fastmix.engine.loop import clean_hits
from fastmix.engine.method import step_rng
from fastmix.engine.step import Step
from fastmix.engine.task import Task
from fastmix.mixers import build
from gpu import pretended
from gpu.launches import compiled
from gpu.pretended import DEVICE, Gpu
from helpers import attending, tasks, teaching

BATCH = 8
MOST_STEPS = 30  # until a signature, some of which are drawn, comes again
TEACHERS = [name for name, options in tasks.OPTIONS.items() if "teacher" in options]


class Inline:
    """In place of captured_step.SideStream: does the work where it is, and notes what a capture would have held."""

    def __init__(self, gpu: Gpu):
        self.gpu = gpu

    def run(self, work):
        return work()

    def capture(self, work):
        sent, result = self.gpu.sent, work()
        if self.gpu.sent > sent:
            self.gpu.note("captured", f"{self.gpu.sent - sent} copies from the host")
        return lambda: result


def configured(name: str, precision: str) -> config.Config:
    optimiser = "adamw" if name in tasks.CLASS_TOKEN else "sgd"
    tree = {
        "precision": precision,
        "epochs": 2,
        "log_mixed": True,
        "erase": {"prob": 0.25},
        "augment": {"kind": "randaugment"},
    }
    tree["optim"] = {"name": optimiser, "lr": 0.05, "clip": 1.0, "fused": "torch"}
    return config.from_tree(tree, "the check")


def batches(count: int):
    for k in range(count):
        yield k, *(tensor.pin_memory().to(DEVICE, non_blocking=True) for tensor in tasks.batch(BATCH, seed=k))


def made(name: str, cfg: config.Config, teacher: str) -> tuple[Task, tuple]:
    """A task as training makes it, and the further arguments of its step."""
    options = dict(tasks.OPTIONS.get(name, {})) | ({"weights": teacher} if name in TEACHERS else {})
    model = tasks.network(name).to(memory_format=torch.channels_last)
    task = pretended.placed(Task(model, build(name, {name: options}), cfg)).train()
    opt = optim.build(cfg.optim, model, task.mixer.param_groups())
    scaler = torch.amp.GradScaler("cuda", enabled=cfg.precision == "fp16")
    return task, (opt, scaler, 10, Ema(model, 0.999))


def trained(name: str, precision: str, steps: int, teacher: str, gpu: Gpu) -> None:
    """Steps of a method, then its picture and validations."""
    cfg = configured(name, precision)
    task, rest = made(name, cfg, teacher)
    step = Step(cfg, task, *rest)
    for k, images, labels in batches(steps):
        if k == 1:  # in the first, models of a teacher are brought, and kernels built
            gpu.faults.clear()
            gpu.launches.steady = True
        losses = step(images, labels, k)
        assert clean_hits(task, images, labels).is_cuda and task.tally.sums.is_cuda
        assert losses[0].is_cuda and losses[0].dtype == torch.float32
    gpu.launches.steady = False
    batch = task.batch(images, labels, step_rng(0, 0, 0))
    batch.dtype = torch.float32  # as for the picture of the first batch
    assert task.mixer.shown(task.model, batch, task.criterion).images.is_cuda
    validated({"model": task.model, "average": step.ema.module, **task.mixer.predictors(task.model)}, task, images)
    if not task.mixer.uncaptured:
        captured(name, cfg, teacher, gpu)


@torch.no_grad()
def validated(networks: dict[str, nn.Module], task: Task, images: torch.Tensor) -> None:
    for network in networks.values():
        network.eval()
        with torch.autocast("cuda", task.dtype):
            assert network(task.batch(images, images.new_zeros(BATCH, dtype=torch.int64)).mix()).is_cuda


def captured(name: str, cfg: config.Config, teacher: str, gpu: Gpu) -> None:
    """Steps until one of them is replayed: the second of a signature is captured."""
    before = collections.Counter(gpu.faults)
    task, rest = made(name, cfg, teacher)
    step = CapturedStep(cfg, task, *rest, side=Inline(gpu))
    for k, images, labels in batches(MOST_STEPS):
        if k == 1:
            gpu.faults = before
        if any(found.replay for found in step.signatures.values()):
            return
        step(images, labels, k)
    raise AssertionError("no step was captured")


def found(name: str, precision: str, steps: int, teacher: str) -> tuple[list[str], dict]:
    """A line for each fault, and the builds that were asked for."""
    with pretended.pretending() as gpu:
        wrong = []
        try:
            trained(name, precision, steps, teacher, gpu)
        except Exception as error:  # of torch or Triton, whichever it is
            where = pretended.place(traceback.extract_tb(error.__traceback__))
            wrong.append(f"{type(error).__name__} | {str(error).partition(chr(10))[0]} | {where}")
    for (kind, what, where), count in gpu.faults.items():
        wrong.append(f"{kind} | {what} | {where} | {count} times")
    return [f"{name} {precision} | {line}" for line in wrong], gpu.launches.builds


def main() -> int:
    compiling = "--compile" in sys.argv
    steps, precisions, *names = [word for word in sys.argv[1:] if word != "--compile"]
    wrong, builds, teacher = [], {}, ""
    with tempfile.TemporaryDirectory() as folder:
        if set(names) & set(TEACHERS):
            teacher = teaching.teacher_file(Path(folder), teaching.trained())
        attending.prototype((64, 64), "vit_tiny_patch16_224")  # its weights are drawn on a real CPU
        pretended.install()
        captured_step.WARM = 1
        for name, precision in product(names, precisions.split(",")):
            lines, asked = found(name, precision, int(steps), teacher)
            wrong += lines
            builds |= asked
    if compiling:
        wrong += [f"{kernel} | {error}" for kernel, error in compiled(builds) if error]
    print(f"{len(names)} methods, {len(builds)} builds{' compiled' * compiling}")
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
