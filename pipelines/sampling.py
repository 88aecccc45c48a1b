"""Order, crops and flips as functions of (seed, epoch, index): no state and no global generator.

The same numbers come out on any number of workers and ranks, for any batch size, and after a resume.
"""

from __future__ import annotations

import math

import numpy as np
from numpy import ndarray

ATTEMPTS = 10  # of the random resized crop, as in torchvision
CROP_DRAWS = 2 * ATTEMPTS + 2  # uniforms that one random resized crop takes

_WINDOWED = 3  # a stream of random numbers, beside that of `order` and those of selection.py
_STEP = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd
_MASK = 2**64 - 1


def order(n: int, seed: int, epoch: int, repeats: int = 1) -> ndarray:
    """What an epoch of n images shows, in order: entries, int64 [n], each row + n * copy.

    Without repeats a permutation of range(n). With them the copies of an image follow one another, so that an epoch of
    the same length has 1 / repeats of the images (repeated augmentation; Hoffer et al. 2019, Berman et al. 2019).
    """
    key = np.array([seed & _MASK, epoch & _MASK], np.uint64)
    rows = np.random.Generator(np.random.Philox(key=key)).permutation(n)
    return (rows[: -(-n // repeats), None] + n * np.arange(repeats)).reshape(-1)[:n]


def windowed(shards: ndarray, machines: ndarray, window: int, seed: int, epoch: int) -> ndarray:
    """An order in which only the images of a few shards are mixed at a time: a permutation of range(n), int64.

    shards int64 [n]: of each image. machines int64 [shards]: whose a shard is. Each machine takes its own in a random
    order, one a unit of time. The images of its k-th one come at random times from k + 1/2 - window / 2 to k + 1/2 +
    window / 2, within the epoch: so at no time they are of more than `window` shards, and of half as many where an
    epoch begins and ends. A function of (seed, epoch). MosaicML Streaming's order py1e likewise shifts each image by a
    random part of a window.
    """
    rng = np.random.Generator(np.random.Philox(key=seed & _MASK, counter=[0, 0, epoch, _WINDOWED]))
    place, count = np.empty(len(machines)), np.empty(len(machines))
    for machine in np.unique(machines):
        own = np.flatnonzero(machines == machine)
        place[own], count[own] = rng.permutation(len(own)) + 0.5, len(own)
    begin, end = (place - window / 2).clip(0), np.minimum(place + window / 2, count)
    times = begin[shards] + rng.random(len(shards)) * (end - begin)[shards]
    return np.argsort(times / count[shards], kind="stable")


def shard(
    entries: ndarray, batch: int, rank: int, world: int, train: bool, spread: bool = False
) -> tuple[ndarray, ndarray]:
    """One rank's share of an epoch's entries [n]: (entries int64 [steps, batch], valid bool [steps, batch]).

    Step s of all ranks together takes entries[s * batch * world : (s+1) * batch * world], rank r the r-th part of it,
    or, spread, every world-th from its r-th on (so that copies of an image go to different ranks). Every rank has the
    same number of steps. Training drops the incomplete last step; validation has every row once over all ranks and
    fills up with invalid entries (row 0).
    """
    together = batch * world
    steps = len(entries) // together if train else -(-len(entries) // together)
    padded = np.zeros(steps * together, np.int64)
    kept = entries[: steps * together]
    padded[: len(kept)] = kept
    valid = np.arange(steps * together) < len(kept)
    if spread:
        return padded.reshape(steps, batch, world)[..., rank], valid.reshape(steps, batch, world)[..., rank]
    return padded.reshape(steps, world, batch)[:, rank], valid.reshape(steps, world, batch)[:, rank]


def _scramble(x: ndarray) -> ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014; Stafford's variant 13), a bijection of uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(seed: int, epoch: int, indices: ndarray, k: int) -> ndarray:
    """float64 [len(indices), k] in [0, 1): entry (i, j) depends on (seed, epoch, indices[i], j) alone."""
    x = np.zeros((1, 1), np.uint64)
    words = (seed & _MASK, epoch & _MASK, np.asarray(indices).astype(np.uint64)[:, None], np.arange(k, dtype=np.uint64))
    for word in words:
        x = _scramble((x ^ np.asarray(word, np.uint64)) + np.uint64(_STEP))
    return (x >> np.uint64(11)) * 2.0**-53


def random_resized_crop(
    heights: ndarray, widths: ndarray, u: ndarray, scale: tuple[float, float], ratio: tuple[float, float]
) -> ndarray:
    """Windows (y, x, h, w) in pixels, int32 [n,4], of images of these sizes [n]; u [n, CROP_DRAWS] are uniforms.

    torchvision's RandomResizedCrop: up to 10 times an area share uniform in `scale` and an aspect w/h log-uniform in
    `ratio` are drawn until the window fits into the image; else the largest centred window with an aspect in `ratio`.
    """
    n = len(heights)
    area, tries = u[:, 2 : 2 + ATTEMPTS], u[:, 2 + ATTEMPTS : 2 + 2 * ATTEMPTS]
    area = (heights * widths)[:, None] * (scale[0] + area * (scale[1] - scale[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + tries * (high - low))
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w > 0) & (h > 0) & (w <= widths[:, None]) & (h <= heights[:, None])
    at, found = (np.arange(n), fits.argmax(1)), fits.any(1)
    full = widths / heights
    h = np.where(found, h[at], np.where(full < ratio[0], np.rint(widths / ratio[0]), heights))
    w = np.where(found, w[at], np.where(full > ratio[1], np.rint(heights * ratio[1]), widths))
    y = np.where(found, np.floor(u[:, 0] * (heights - h + 1)), (heights - h) // 2)
    x = np.where(found, np.floor(u[:, 1] * (widths - w + 1)), (widths - w) // 2)
    return np.stack([y, x, h, w], 1).astype(np.int32)


def padded_crop(heights: ndarray, widths: ndarray, u: ndarray, size: int, pad: int) -> ndarray:
    """Windows (y, x, size, size), int32 [n,4], uniform over the images padded by `pad` on each side; u [n,2].

    y and x are those of the image without its border, so they may be negative. Every image must be at least
    size - 2 * pad on each side.
    """
    y = np.floor(u[:, 0] * (heights + 2 * pad - size + 1)) - pad
    x = np.floor(u[:, 1] * (widths + 2 * pad - size + 1)) - pad
    return np.stack([y, x, np.full(len(y), size), np.full(len(y), size)], 1).astype(np.int32)


def centre_crop(heights: ndarray, widths: ndarray, resize: int | None, crop: int) -> ndarray:
    """Windows (y, x, h, w) in source pixels, float64 [n,4], of a resize of the short side followed by a centre crop.

    With short side `resize` the image becomes H' x W' (the long side rounded down, as in torchvision); the window is
    the crop x crop square at round((H' - crop) / 2), round((W' - crop) / 2) of it, put back into source pixels. None:
    the image is not resized.
    """
    if resize is None:
        tall, wide = heights, widths
    else:
        short = np.minimum(heights, widths)
        tall, wide = heights * resize // short, widths * resize // short
    y, x = np.rint((tall - crop) / 2), np.rint((wide - crop) / 2)
    down, across = heights / tall, widths / wide
    return np.stack([y * down, x * across, crop * down, crop * across], 1)


def flips(u: ndarray, probability: float) -> ndarray:
    """Which images are mirrored left to right, bool [n]; u [n] are uniforms."""
    return u < probability
