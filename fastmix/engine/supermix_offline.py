"""SuperMix's images, made once and written to a `.beton` file, as its authors use it (Dabouei et al., CVPR 2021).

A teacher's gradient shapes the masks in many steps; the mixtures in which it then sees both classes are kept.
`mixers/supermix_online.py` does the same while training, in a few steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from tqdm import tqdm

from fastmix import distributed, kernels
from fastmix.batch import IMAGENET_MEAN, IMAGENET_STD, Batch
from fastmix.engine.method import step_rng
from fastmix.engine.task import DTYPES, precision
from fastmix.kernels.mix import mix
from fastmix.kernels.plan import Plan
from fastmix.mixers.base import cyclic
from fastmix.mixers.supermix_online import optimise, recognised, weight
from fastmix.models.teacher import Teacher
from fastmix.pipelines import loader_class
from fastmix.pipelines.jpeg.codec import codec, need
from fastmix.pipelines.packing.format import JPEG, RAW
from fastmix.pipelines.packing.writer import BetonWriter
from fastmix.pipelines.sources.resolve import exists, is_packed
from fastmix.pipelines.view import View

ROUND = 5  # steps between two looks at which samples are finished, which are then left out


@dataclass
class Settings:
    """What is mixed and how; the command `fastmix.supermix` explains each."""

    source: str
    teacher: str
    weights: str
    count: int
    originals: bool
    labels: str
    size: int
    resize: int | None
    batch: int
    steps: int
    tol: float
    alpha: float
    side: int
    sigma: float
    sparsity: float
    mean: list[float] | None
    std: list[float] | None
    quality: int
    raw: bool
    seed: int
    device: str


def generate(asked: Settings, out: Path) -> str:
    """Writes the file, which appears under its name when it is whole; says what is in it. Raises ValueError."""
    if not exists(asked.source):
        raise ValueError(f"{asked.source}: no such file or folder")
    need(str(out), not asked.raw)
    device = distributed.init(asked.device)
    kernels.check(device)
    teacher = Teacher("supermix", asked.teacher, asked.weights)
    view = View(asked.size, crop="centre", resize=asked.resize or asked.size, interpolation="bicubic")
    loader = loader_class("beton" if is_packed(asked.source) else "folder")(
        asked.source, asked.batch, view=view, train=True, seed=asked.seed, device=device
    )
    if teacher.classes != loader.classes:
        raise ValueError(
            f"{asked.weights}: a teacher of {teacher.classes} classes, but {asked.source} has {loader.classes}; give "
            "weights that were trained on these classes"
        )
    began, tried, finished, kept, sums = time.perf_counter(), 0, 0, 0, []
    with BetonWriter(out, asked.count + loader.n * asked.originals) as writer, torch.no_grad():

        def add(mode: int, height: int, width: int, data: bytes, label: int) -> None:
            writer.add(mode, height, width, data, label)
            sums.append(crc32(data))

        for row in range(loader.n if asked.originals else 0):
            record = loader.record(row)
            add(RAW if record.raw else JPEG, record.height, record.width, bytes(record.data), loader.labels[row])
        with tqdm(desc="supermix", total=asked.count, unit="img", disable=None, leave=False) as bar:
            for images, labels, pairs in mixtures(loader, teacher, asked):
                tried, finished = tried + pairs, finished + len(images)
                for pixels, label in zip(images[: asked.count - kept], labels, strict=False):
                    data = pixels.tobytes() if asked.raw else _jpeg(pixels, asked.quality)
                    add(RAW if asked.raw else JPEG, asked.size, asked.size, data, label)
                    kept += 1
                bar.update(kept - bar.n)
                if kept == asked.count:
                    break
        writer.finish()
        writer.publish(loader.class_names, sums)
    seconds = time.perf_counter() - began
    first = f"{loader.n} originals and " if asked.originals else ""
    share = f"{finished / tried:.0%} of the {tried} pairs were finished"
    return f"{out}: {first}{kept} mixed images, {share}, {kept / seconds:.1f} images/s"


def mixtures(loader, teacher, asked: Settings) -> Iterator[tuple]:
    """For each batch, epoch after epoch: the finished mixtures uint8 [n,S,S,3], their labels int64 [n], and how many
    pairs there were. Raises ValueError where a whole epoch gives none."""
    for epoch in count():
        found = 0
        for step, (images, labels, _) in enumerate(loader.epoch(epoch)):
            rng = step_rng(asked.seed, epoch * len(loader) + step, 0)
            pixels, chosen, finished = mixed(images, labels, rng, teacher, asked)
            found += int(finished.sum())
            yield pixels[finished].cpu().numpy(), chosen[finished].cpu().numpy(), len(images)
        if not found:
            raise ValueError(
                f"{asked.source}: in none of its {loader.n} images, mixed with another, did the teacher see both "
                "classes; give more --steps, or weights, --mean and --std that fit each other"
            )


def mixed(images, labels, rng, teacher, asked: Settings) -> tuple:
    """A batch's mixtures uint8 [B,S,S,3], their labels int64 [B], and which of them show the teacher both classes.

    images uint8 [B,S,S,3], labels int64 [B]. Finished samples are left out of the further rounds of steps.
    """
    device, n = images.device, len(images)
    dtype = DTYPES[precision("auto", device)]

    def ask(x):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return teacher.logits(x)

    def seen(pixels):
        return Batch(pixels, labels, rng, asked.mean or IMAGENET_MEAN, asked.std or IMAGENET_STD).mix()

    partner = torch.from_numpy(cyclic(rng, n)).to(device)
    lam = torch.from_numpy(rng.beta(asked.alpha, asked.alpha, n).astype(np.float32)).to(device)
    x, other = seen(images), partner.long()
    classes = ask(x).argmax(1)
    pairs = torch.stack([classes, classes[other]], 1)
    raw, live = torch.zeros(n, 2, asked.side, asked.side, device=device), torch.arange(n, device=device)
    for taken in range(0, asked.steps, ROUND):
        steps, start = min(ROUND, asked.steps - taken), raw[live] if taken else None
        chosen = x[live], x[other[live]], pairs[live], lam[live]
        raw[live], done = optimise(ask, *chosen, asked.side, asked.sigma, asked.sparsity, steps, start)
        live = live[~done]
        if len(live) <= asked.tol * n:
            break
    plan = Plan.map(partner, weight(raw, (asked.size, asked.size)), (asked.size, asked.size))
    blend = mix(images, plan, (0.0, 0.0, 0.0), (1 / 255,) * 3)
    pixels = blend.round().byte().permute(0, 2, 3, 1).contiguous()
    logits = ask(seen(pixels))
    dominant = torch.where(lam >= 0.5, labels, labels[other])
    return pixels, logits.argmax(1) if asked.labels == "teacher" else dominant, recognised(logits, pairs)


def _jpeg(pixels, quality: int) -> bytes:
    return codec().encode_jpeg(pixels, quality, "RGB", "420", fastdct=False)
