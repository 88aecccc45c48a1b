"""Which images of a data set are shown, and how often: a part held out for validation, and balanced classes."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

POWERS = {"equal": 0.0, "sqrt": 0.5, "none": 1.0}
"""A class of n images has a share of an epoch in proportion to n to this power."""

_HELD_OUT, _BALANCED = 1, 2  # streams of random numbers, beside that of sampling.order
_MASK = 2**64 - 1


def held_out(labels: ndarray, class_names: list[str], share: float, seed: int) -> ndarray:
    """Which images are kept for validation: bool [n], a random `share` of each class, at least one and not all.

    labels int64 [n]. A function of the labels and the seed. Raises ValueError for a class of one image.
    """
    rng = np.random.Generator(np.random.Philox(key=seed & _MASK, counter=[0, 0, 0, _HELD_OUT]))
    held = np.zeros(len(labels), bool)
    for label, name in enumerate(class_names):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) == 1:
            raise ValueError(f"class {name!r} has one image: it cannot be trained and validated with")
        held[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = len(rows) > 0
    return held


def balanced(rows: ndarray, labels: ndarray, how: str, seed: int, epoch: int) -> ndarray:
    """An epoch in which classes are balanced: entries, int64 [m], in random order, of these rows [m].

    An entry is row + n * copy, of labels int64 [n]. Each class has its share (POWERS) of the m places, in the mean over
    epochs exactly; of its images each is shown as often as any other, or once more. A function of (seed, epoch).
    """
    n, m = len(labels), len(rows)
    rng = np.random.Generator(np.random.Philox(key=seed & _MASK, counter=[0, 0, epoch, _BALANCED]))
    shown, sizes = np.unique(labels[rows], return_counts=True)
    shares = sizes.astype(np.float64) ** POWERS[how]
    ends = np.floor(np.cumsum(shares) / shares.sum() * m + rng.random() - 1e-9).clip(0, m).astype(np.int64)
    ends[-1] = m
    entries = []
    for label, places in zip(shown, np.diff(ends, prepend=0), strict=True):
        own = rng.permutation(rows[labels[rows] == label])
        k = np.arange(places)
        entries.append(own[k % len(own)] + n * (k // len(own)))
    return rng.permutation(np.concatenate(entries))
