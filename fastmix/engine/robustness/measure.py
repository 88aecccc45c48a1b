"""A run's robustness: every test on every image, in one pass over the validation data."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from fastmix import mixers
from fastmix.engine.evaluate import TOP, each_once
from fastmix.engine.robustness import calibrated
from fastmix.engine.robustness.network import Network
from fastmix.engine.robustness.protocols import PROTOCOLS, Options
from fastmix.engine.task import Task
from fastmix.engine.validation import Subject, chosen, network, opened
from fastmix.pipelines.loader import Loader
from fastmix.runs import run_folder
from fastmix.runs.each_image import EachImage


def measure(subject: Subject, options: Options, kind: str | None = None, bar: bool = True) -> tuple[dict, EachImage]:
    """What robustness.json holds: `clean`, and of each test what docs/robustness.md says; and what the network says of
    each image as it is. The same on every process.

    kind: "raw" or "ema"; None: the average where there is one. Raises ValueError.
    """
    cfg = subject.cfg
    kind = kind or ("ema" if "ema" in subject.sets else "raw")
    values = chosen(subject, kind)[kind]
    device, val, classes = opened(cfg)
    if options.images is not None and options.images < len(val.rows):
        drawn = np.random.default_rng(options.seed).permutation(val.rows)[: options.images]
        val.rows = np.sort(drawn)
    model = network(cfg, classes, values, subject.checkpoint, val.view.size, device).eval()
    seen = Network(model, Task(model, mixers.MIXERS["vanilla"](), cfg).to(device), classes)
    began = time.perf_counter()
    found, each = judge(seen, val, options, bar)
    told = {"checkpoint": subject.checkpoint, "ema": kind == "ema", "model": cfg.model.name, "size": val.view.size}
    told |= {"resize": val.view.resize, "interpolation": val.view.interpolation, "precision": cfg.precision}
    told |= {"seed": options.seed, "device": device.type, "seconds": round(time.perf_counter() - began, 3)}
    return told | found | {"versions": run_folder.versions()}, each


def judge(seen: Network, val: Loader, options: Options, bar: bool = False) -> tuple[dict, EachImage]:
    """`clean`, and the scores of the tests, of a loader's images; and what is said of each."""
    size = val.view.size
    tests = {name: PROTOCOLS[name](seen, options, size) for name in options.tests if name in PROTOCOLS}
    widths = []

    def told(images: Tensor, labels: Tensor, rows: np.ndarray) -> Tensor:
        columns = [seen.logits(images, labels), *(test.told(images, labels, rows) for test in tests.values())]
        widths[:] = [part.shape[1] for part in columns]
        return torch.cat(columns, 1)

    table, valid = each_once(val, told, bar)
    labels = val.labels[valid]
    z, *answers = np.split(table[valid], np.cumsum(widths)[:-1], axis=1)
    z, y = torch.from_numpy(z.copy()), torch.from_numpy(labels)
    found = {"clean": clean(z, y)}
    if "ece" in options.tests:
        found["ece"] = calibrated.scores(z, y, options.seed)
    each = EachImage(np.flatnonzero(valid), labels, z.argmax(1).numpy())
    for (name, test), part in zip(tests.items(), answers, strict=True):
        found[name] = test.scores(part, labels)
    return found, each


def clean(z: Tensor, labels: Tensor) -> dict[str, float]:
    """top1 and top5 (percent), loss and images."""
    hits = z.topk(min(TOP, z.shape[1]), 1).indices == labels[:, None]
    loss = torch.nn.functional.cross_entropy(z.double(), labels)
    share = [100 * float(found.double().mean()) for found in (hits[:, 0], hits.any(1))]
    return {"top1": share[0], "top5": share[1], "loss": float(loss), "images": len(labels)}
