"""Vanilla: no mixing."""

from __future__ import annotations

from fastmix.batch import Batch
from fastmix.mixers.base import Mixer


class Vanilla(Mixer):
    """out = x_i, label y_i: the baseline, and the clean batches of a Choice.

    Cost: the pass that normalises; each image is read once and written once.
    """

    drawn = ""

    def __init__(self):
        super().__init__()

    def plan(self, batch: Batch) -> None:
        return None
