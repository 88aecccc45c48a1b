"""The `synthetic` loader: noise, made once and handed out again and again, to measure a step without any loading."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qsl

import numpy as np
import torch
from torch import Tensor

from fastmix.pipelines.loader import Loader
from fastmix.pipelines.packing import labels

DEFAULTS = {"n": 1_281_167, "classes": 1000}
MOST = {"n": 100_000_000, "classes": labels.MOST}


class Synthetic(Loader):
    """Every batch has the same images; labels are row modulo classes, in the epoch's order.

    source "n=1281167&classes=1000" says how many rows and classes, these being the defaults.
    """

    def open(self) -> None:
        given = dict(parse_qsl(str(self.given), keep_blank_values=True))
        for key, value in given.items():
            if key not in MOST or not value.isdecimal() or not 1 <= int(value[:20]) <= MOST[key]:
                options = ", ".join(f"{name}=<a whole number from 1 to {most}>" for name, most in MOST.items())
                raise ValueError(f"synthetic data {self.source!r}: {f'{key}={value}'!r} is none of {options}")
        size = DEFAULTS | {key: int(value) for key, value in given.items()}
        self.labels = np.arange(size["n"]) % size["classes"]
        self.class_names = [str(k) for k in range(size["classes"])]

    def epoch(self, epoch: int, first: int = 0, res: int | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """As Loader.epoch, but the images of every batch are the same memory."""
        side = self.view.at(res).size
        noise = np.random.Generator(np.random.Philox(self.seed)).integers(0, 256, (self.batch, side, side, 3), np.uint8)
        images = torch.from_numpy(noise).to(self.device)
        for entries, valid in zip(*(table[first:] for table in self.entries(epoch)), strict=True):
            labels = np.where(valid, self.labels[entries % self.n], 0)
            yield images, torch.from_numpy(labels).to(self.device), torch.from_numpy(valid).to(self.device)
