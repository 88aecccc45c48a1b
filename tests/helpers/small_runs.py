"""Whole runs on a small network, and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from fastmix import files, train
from fastmix.engine import checkpoint
from faults.harness import Server
from helpers.forked import forked

SMALL = """
epochs: 2
batch_total: 20
precision: fp32
log_every: 3
data: {train: "shapes:train?n=100&size=32", val: "shapes:val?n=43&size=32", size: 32, val_resize: null, workers: 2}
model: {name: test_resnet}
optim: {name: sgd, lr: 0.05, momentum: 0.9, weight_decay: 1e-4}
mixers: {vanilla: {}, cutmix: {}, mixup: {alpha: 0.2, granularity: sample}, fmix: {bank: 8}}
"""


def run(*words: str, resume: bool = False) -> int:
    return train.main(["small.yaml", *words] + ["--resume"] * resume)


def same(a: Path, b: Path) -> None:
    """Weights, optimiser and average of two checkpoints agree in every bit."""

    def compare(x, y, where):
        assert type(x) is type(y), where
        if isinstance(x, dict):
            assert x.keys() == y.keys(), where
            for key in x:
                compare(x[key], y[key], f"{where}.{key}")
        elif isinstance(x, list):
            assert len(x) == len(y), where
            for k, pair in enumerate(zip(x, y, strict=True)):
                compare(*pair, f"{where}[{k}]")
        elif isinstance(x, torch.Tensor):
            assert torch.equal(x, y), where
        else:
            assert x == y, where

    x, y = files.read_torch(a), files.read_torch(b)
    for content in (x, y):
        content["run"].pop("config")
    compare(x, y, "")


def rows(path: Path, kind: str) -> list[dict]:
    return [row for row in map(json.loads, (path / "log.jsonl").read_text().splitlines()) if row["kind"] == kind]


def stop_at(monkeypatch, step: int) -> None:
    """As if SIGTERM came during that step."""
    record = checkpoint.State.record

    def recording(self, loss):
        record(self, loss)
        self.stop = self.stop or self.step + 1 == step

    monkeypatch.setattr(checkpoint.State, "record", recording)


def launch(by: Server, *words: str, before: tuple[str, ...] = (), says: str = "") -> None:
    """Trains on two processes; `before` stands before the module's name. It is to succeed, or to say something."""
    done = forked(by, *before, "fastmix.train", "small.yaml", *words)
    assert says in done.err if says else done.code == 0, done.err[-3000:]
