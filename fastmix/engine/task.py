"""Task: the method that a config describes, with the config's augmentation and erasing, and layers that it freezes.

It is what DDP wraps: one forward and one backward a step, however often a mixer calls the model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.config import Config
from fastmix.engine.augment import augmentation
from fastmix.engine.method import Method
from fastmix.engine.tally import Tally
from fastmix.kernels.erase import Erase, noise
from fastmix.mixers.base import Mixer
from fastmix.models.frozen import Frozen
from fastmix.targets import BinaryCrossEntropy, CrossEntropy

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Task(Method):
    """Task(model, mixer, cfg): forward(images uint8 [B,H,W,3], labels int64 [B], rng) -> loss, a scalar.

    frozen: what of the model does not train now. tally: what is told for the log. Checkpoints count the steps.
    With a config's fidelity openmixup the batch is mixed, and goes through the model, in groups of column.gpu_batch, as
    on several GPUs; `shared` is what they draw from, the same for all, where rng is that of augmentation and erasing.
    """

    get_extra_state, set_extra_state = nn.Module.get_extra_state, nn.Module.set_extra_state

    def __init__(self, model: nn.Module, mixer: Mixer, cfg: Config):
        norm, dtype = {"mean": cfg.data.mean, "std": cfg.data.std}, DTYPES[cfg.precision]
        super().__init__(mixer, model, loss=criterion(cfg), rng=cfg.seed, dtype=dtype, **norm)
        self.cfg, self.augmentation, self.tally = cfg, augmentation(cfg), Tally(cfg, mixer, self.criterion)
        self.register_buffer("noise", erasing_noise(cfg), persistent=False)
        self.frozen = Frozen(model, cfg.model.freeze, cfg.model.norm_stats)

    def train(self, mode: bool = True) -> Task:
        super().train(mode)
        self.frozen.hold(self.model)
        return self

    def forward(
        self, images: Tensor, labels: Tensor, rng: np.random.Generator, shared: np.random.Generator | None = None
    ) -> Tensor:
        self.tally.restart()
        batch = self.batch(images, labels, rng)
        if self.cfg.fidelity == "paper":
            return self.active(self.model, batch, self.criterion)
        batch.rng = shared or rng
        groups = batch.groups(self.cfg.column.gpu_batch)
        return sum(self.active(self.model, group, self.criterion) for group in groups) / len(groups)

    def batch(self, images: Tensor, labels: Tensor, rng: np.random.Generator | None = None) -> Batch:
        """The batch as mixers see it; without a generator, as validation does: not augmented, not erased."""
        if rng is not None and self.augmentation is not None:
            images = self.augmentation(images, rng, self.reused)
        erase = None
        if rng is not None and self.cfg.erase.prob > 0:
            erase = Erase.draw(rng, len(labels), images.shape[1:3], self.cfg.erase.prob, self.noise).to(images.device)
        return Batch(images, labels, rng, self.mean, self.std, self.dtype, erase, self.reused)


def criterion(cfg: Config) -> nn.Module:
    """The loss that the config names."""
    loss = cfg.loss
    weights = loss.class_weights if isinstance(loss.class_weights, list) else None
    if loss.kind == "ce":
        return CrossEntropy(loss.smoothing, weights)
    return BinaryCrossEntropy(loss.smoothing, loss.threshold, loss.reduction, weights)


def erasing_noise(cfg: Config) -> Tensor:
    """What erased rectangles show, in pixel units: `fill` of kernels.erase.Erase."""
    if cfg.erase.mode == "uint8":
        return noise(cfg.erase.mean, cfg.erase.std, whole=True)
    mean, std = (tuple(255 * v for v in values) for values in (cfg.data.mean, cfg.data.std))
    return noise(mean, std if cfg.erase.mode == "pixel" else (0.0, 0.0, 0.0))


def precision(name: str, device: torch.device) -> str:
    """fp32, fp16 or bf16 for a config's `precision`; auto: bf16 where the device computes in it, else fp16 or fp32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    flags = Path("/proc/cpuinfo")
    words = flags.read_text().split() if flags.is_file() else []
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(words) else "fp32"
