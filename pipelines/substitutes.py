"""What a training batch shows in the place of a damaged image: the next good one of the epoch's order.

A step keeps its size, so batch norm and the schedule are what they would be. The choice is a function of the order, and
so of (seed, epoch), and of which images are good: the same on any number of threads and processes, and after a resume.
Each process looks for its own, and none waits for another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy import ndarray
from torch import Tensor

from fastmix.pipelines.transfer import upload
from fastmix.pipelines.view import View


class Substitutes:
    """Those of an epoch of a loader's. A substitute has a crop of its own, which no entry of the epoch has."""

    def __init__(self, loader, view: View, epoch: int):
        self.loader, self.view, self.epoch = loader, view, epoch
        self._bad: set[int] = set()  # rows that are damaged where a substitute would be cut

    @cached_property
    def order(self) -> ndarray:
        """The entries of the epoch over all processes, int64 [n]: first needed when an image is damaged."""
        return self.loader.order(self.epoch)

    def fill(self, images: Tensor, places: ndarray, entries: ndarray) -> None:
        """Writes substitutes into these places of a batch, images uint8 [B,S,S,3] and entries int64 [B].

        Raises ValueError where the epoch has no good image.
        """
        for place in places.tolist():
            shown = np.empty((1, *images.shape[1:]), np.uint8)
            entries[place] = self.next(int(entries[place]), lambda entry, shown=shown: self._cut(entry, shown))
            images[place] = upload(shown[0], images.device)

    def next(self, entry: int, good: Callable[[int], bool]) -> int:
        """The entry that stands for a damaged one of the epoch: the next that is good. Raises ValueError."""
        n, m, start = self.loader.n, len(self.order), int(np.flatnonzero(self.order == entry)[0])
        copies = int(self.order.max()) // n + 1
        for k in range(1, m):
            row = int(self.order[(start + k) % m] % n)
            if row in self._bad:
                continue
            substitute = row + n * copies
            if good(substitute):
                return substitute
            self._bad.add(row)
        raise ValueError(
            f"{self.loader.source}: none of its images can be read in epoch {self.epoch}, "
            f"such as {self.loader.where(entry % n)}"
        )

    def _cut(self, entry: int, images: ndarray) -> bool:
        """Whether the entry's crop could be written into images uint8 [1,S,S,3]."""
        chunk, _ = self.loader.chunk(np.zeros(1, np.int64), np.array([entry]), self.view, self.epoch)
        return len(chunk.places) == 1 and not self.loader.develop(chunk, self.view, images)
