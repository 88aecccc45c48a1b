"""Batch-norm statistics measured anew, at fixed weights, instead of averaged over past steps."""

from __future__ import annotations

from itertools import islice

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastmix.distributed import rank
from fastmix.engine.loaders import resolution
from fastmix.engine.method import step_rng
from fastmix.engine.task import Task


def precise_bn(model: nn.Module, task: Task, data, step: int) -> None:
    """Sets `model`'s running means and variances to the mean of those of the batches of `cfg.precise_bn` images.

    They are the first training batches of the epoch that `step` ended, mixed as in training (Wu & Johnson 2021,
    "Rethinking Batch in BatchNorm", section 3, whose mean of variances this is). Each process takes its share; the
    validation averages over processes. Nothing but these statistics changes.
    """
    cfg, training = task.cfg, model.training
    held = task.frozen.norms
    norms = [m for name, m in model.named_modules() if isinstance(m, _BatchNorm) and name not in held]
    norms = [norm for norm in norms if norm.track_running_stats]
    kept = [(norm, norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the mean over all batches since the reset
    model.train()
    task.frozen.hold(model)
    task.train()
    epoch = step // len(data) - 1
    count = min(len(data), -(-cfg.precise_bn // cfg.batch_total))
    with torch.compiler.set_stance("force_eager"):  # gradients stay on: a mixer may need those of the pixels
        for k, (images, labels, _) in enumerate(islice(data.epoch(epoch, 0, resolution(cfg, epoch)), count)):
            task.active.set_progress(step / (cfg.epochs * len(data)))
            parts = zip(images.tensor_split(cfg.accum), labels.tensor_split(cfg.accum), strict=True)
            for part, (x, y) in enumerate(parts):
                rng = step_rng(cfg.seed, step, rank(), cfg.accum * (k + 1) + part + 1)  # none that a step has
                torch.manual_seed(rng.integers(2**63))
                with torch.autocast(images.device.type, task.dtype, enabled=task.dtype != torch.float32):
                    task.active(model, task.batch(x, y, rng), task.criterion)
    model.train(training)
    for norm, momentum, tracked in kept:
        norm.momentum = momentum
        norm.num_batches_tracked.copy_(tracked)
