"""Run folders with made-up curves, as training would have left them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastmix import config
from fastmix.engine import picture


def write(
    folder: Path,
    cfg: config.Config,
    top1: Sequence[float],
    loss: Sequence[float] = (),
    ema: Sequence[float] = (),
    finished: bool = True,
) -> Path:
    """A run that got as far as its curves: 36 s, 10 steps and a line of each kind an epoch. A loss not given is 1."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config.dump(cfg))
    lines = []
    for epoch, score in enumerate(top1, 1):
        place = {"time": 36.0 * epoch, "step": 10 * epoch, "epoch": epoch}
        value = loss[epoch - 1] if loss else 1.0
        lines.append({"kind": "train", **place, "loss": value, "lr": 0.1, "images_per_s": 100.0 + epoch})
        average = {"ema_top1": ema[epoch - 1]} if ema else {}
        lines.append({"kind": "val", **place, "top1": score, **average})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        (folder / "model.safetensors").write_bytes(b"")
    return folder


def curves(seed: int, epochs: int) -> tuple[list[float], list[float]]:
    """Top-1 in percent that rises, and a loss that falls, with noise."""
    rng, along = np.random.default_rng(seed), np.linspace(0, 1, epochs)
    top1 = 20 + rng.uniform(45, 55) * along**0.4 + rng.normal(0, 0.4, epochs)
    loss = 0.5 + 4 * np.exp(-rng.uniform(3, 5) * along) + rng.normal(0, 0.02, epochs)
    return top1.round(2).tolist(), loss.tolist()


def many(base: Path, mixes: Sequence[str], seeds: int, epochs: int, size: int = 112) -> None:
    """A sweep's folders, finished: every method with each seed; the first with a picture of noise, hard to store."""
    common = config.load("cifar10_small")
    for k, mix in enumerate(mixes):
        for seed in range(seeds):
            cfg = dataclasses.replace(common, mix=mix, mixers={mix: {}}, seed=seed, epochs=epochs)
            write(base / f"{mix}_s{seed}", cfg, *curves(seeds * k + seed, epochs))
        noise = np.random.default_rng(k).integers(0, 256, (4 * size, 8 * size, 3), np.uint8)
        picture.save(base / f"{mix}_s0" / "first_batch.png", noise)
