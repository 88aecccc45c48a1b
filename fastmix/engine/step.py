"""Step: what one optimiser step does, from a batch on the device to changed weights. No wait for the device in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from fastmix.config import Config
from fastmix.distributed import parallel, rank, world
from fastmix.engine.ema import Ema
from fastmix.engine.method import step_rng
from fastmix.engine.optim import set_rates
from fastmix.engine.tally import NORM
from fastmix.engine.task import Task

Part = tuple[Tensor, Tensor, np.random.Generator]
"""Images uint8 [B,H,W,3] and labels int64 [B] of an accumulated part, and the generator of its draws."""

SHARED = 2**32  # in place of a process in the seed of what all draw alike


class Step:
    """Step(cfg, task, opt, scaler, epoch_steps, ema)(images, labels, step) -> losses.

    Dropout is seeded and the learning rates set, then each accumulated part goes forward and backward, gradients are
    clipped and the optimiser steps; the mixer's after_step() and the weight average follow. All that is random is a
    function of (seed, step, process, part). Make it after the model is compiled: with several processes it wraps the
    task in DDP.
    """

    def __init__(
        self,
        cfg: Config,
        task: Task,
        opt: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        epoch_steps: int,
        ema: Ema | None = None,
    ):
        self.cfg, self.task, self.opt, self.scaler, self.ema = cfg, task, opt, scaler, ema
        self.epoch_steps, self.device = epoch_steps, task.noise.device
        self.lr = cfg.optim.lr  # the model's, of the last step
        self.module, self.unsynced = self.asked(), nullcontext
        if world() > 1:
            self.module = self.shared(self.module)
            self.unsynced = self.module.no_sync

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> list[Tensor]:
        """Takes step number `step`, from 0: images uint8 [B,H,W,3] and labels int64 [B] of this process, on the device.

        Returns the loss of each accumulated part, float32 scalars on the device, to be read before the next step.
        """
        cfg, task = self.cfg, self.task
        torch.manual_seed(step_rng(cfg.seed, step, rank(), cfg.accum).integers(2**63))  # dropout, drop path
        self.lr = self.set_rates(step)
        task.set_progress(step / (cfg.epochs * self.epoch_steps))
        parts = zip(images.tensor_split(cfg.accum), labels.tensor_split(cfg.accum), strict=True)
        losses = self.take([(x, y, *self.generators(step, k)) for k, (x, y) in enumerate(parts)])
        task.after_step()
        if self.ema and (step + 1) % cfg.ema.every == 0:
            self.ema.update(task.model, step + 1)
        return losses

    def asked(self) -> nn.Module:
        """What gives a part's loss."""
        return self.task

    def shared(self, module: nn.Module) -> nn.Module:
        """The same with gradients averaged over the processes."""
        return parallel(module, self.device, **vars(self.cfg.ddp))

    def generators(self, step: int, part: int) -> list[np.random.Generator]:
        """What a part draws from; with fidelity openmixup its mix from another one, which all processes share."""
        places = [rank()] if self.cfg.fidelity == "paper" else [rank(), SHARED]
        return [step_rng(self.cfg.seed, step, place, part) for place in places]

    def set_rates(self, step: int) -> float:
        """Gives each parameter group its learning rate; returns the model's."""
        return set_rates(self.opt, self.cfg, step, self.epoch_steps)

    def take(self, parts: list[Part]) -> list[Tensor]:
        """The device's work: from the parts to changed weights."""
        return self.descend(self.module, parts)

    def descend(self, loss_of: Callable[..., Tensor], parts: list[tuple]) -> list[Tensor]:
        """Forward and backward for each part, by `loss_of(*part)`, and one update of the weights; the losses."""
        losses, dtype, tally = [], self.task.dtype, self.task.tally
        for k, part in enumerate(parts):
            with self.unsynced() if k < len(parts) - 1 else nullcontext():
                with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                    loss = loss_of(*part)
                self.scaler.scale(loss / len(parts)).backward()
            losses.append(loss.detach())
            tally.add_part()
        if NORM in tally.names:
            self.scaler.unscale_(self.opt)
            tally.add([(NORM, self.norm())])
        self.scaler.step(self.opt)
        self.scaler.update()
        self.opt.zero_grad(set_to_none=True)
        return losses

    def norm(self) -> Tensor:
        """The global norm of the gradient, which is then clipped where the config has a bound."""
        if self.cfg.optim.clip:
            return nn.utils.clip_grad_norm_(self.task.parameters(), self.cfg.optim.clip)
        return nn.utils.get_total_norm([p.grad for p in self.task.parameters() if p.grad is not None])
