"""Order, crops and flips as functions of (seed, epoch, index): no state and no global generator.

The same numbers come out on any number of workers and ranks, for any batch size, and after a resume.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from fastmix.kernels.compiled import compiled, inner

ATTEMPTS = 10  # of the random resized crop, as in torchvision

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


@inner()
def _scramble(x):
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014; Stafford's variant 13), a bijection of uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled()
def _uniforms(seed, epoch, indices, out):
    step = np.uint64(_STEP)
    key = _scramble((_scramble(seed + step) ^ epoch) + step)
    for i in range(len(indices)):
        own = _scramble((key ^ np.uint64(indices[i])) + step)
        for j in range(out.shape[1]):
            out[i, j] = (_scramble((own ^ np.uint64(j)) + step) >> np.uint64(11)) * 2.0**-53


def uniforms(seed: int, epoch: int, indices: ndarray, k: int) -> ndarray:
    """float64 [len(indices), k] in [0, 1): entry (i, j) depends on (seed, epoch, indices[i], j) alone."""
    out = np.empty((len(indices), k))
    _uniforms(np.uint64(seed & _MASK), np.uint64(epoch & _MASK), np.ascontiguousarray(indices, np.int64), out)
    return out


class Crop(NamedTuple):
    """What of an image is shown, for nopython code.

    kind    int            RRC: random resized crop, torchvision's: up to 10 times an area share and an aspect w/h are
                           drawn until the window fits into the image; else the largest centred window with an aspect
                           from `low` to `high`
                           PAD: size x size pixels, anywhere in the image with a border of `pad` pixels on each side,
                           in the coordinates of the image without it
                           CENTRE: the short side is resized to `resize` (0: as it is), the long one rounded down as in
                           torchvision; the size x size pixels of the centre, put back into pixels of the source
                           ALL: the whole image
    smallest  int          pixels of the shortest side that an image may have
    """

    kind: int
    size: int
    low: float
    high: float
    pad: int
    resize: int
    smallest: int


RRC, PAD, CENTRE, ALL = range(4)
DRAWS = {RRC: 3 + 2 * ATTEMPTS, PAD: 3, CENTRE: 1, ALL: 1}


def draws(crop: Crop, scale: tuple[float, float], seed: int, epoch: int, entries: ndarray) -> ndarray:
    """What chance decides of each entry's crop, whatever its image: float64 [n, DRAWS].

    Uniforms for the flip, for y and for x, then, for RRC, ATTEMPTS area shares uniform in `scale` and as many aspects
    log-uniform from `low` to `high`.
    """
    u = uniforms(seed, epoch, entries, DRAWS[crop.kind])
    if crop.kind == RRC:
        shares, aspects = u[:, 3 : 3 + ATTEMPTS], u[:, 3 + ATTEMPTS :]
        low, high = math.log(crop.low), math.log(crop.high)
        shares[:] = scale[0] + shares * (scale[1] - scale[0])
        aspects[:] = np.exp(low + aspects * (high - low))
    return u


@inner()
def window(crop, height, width, draw):
    """The window (y, x, h, w), in pixels, of an image of this size for one row of `draws`: four float64."""
    if crop.kind == RRC:
        return _random_resized(crop, height, width, draw)
    if crop.kind == PAD:
        y = np.floor(draw[1] * (height + 2 * crop.pad - crop.size + 1)) - crop.pad
        x = np.floor(draw[2] * (width + 2 * crop.pad - crop.size + 1)) - crop.pad
        return y, x, float(crop.size), float(crop.size)
    if crop.kind == CENTRE:
        tall, wide, short = height, width, min(height, width)
        if crop.resize:
            tall, wide = height * crop.resize // short, width * crop.resize // short
        y, x = np.rint((tall - crop.size) / 2), np.rint((wide - crop.size) / 2)
        down, across = height / tall, width / wide
        return y * down, x * across, crop.size * down, crop.size * across
    return 0.0, 0.0, float(height), float(width)


@inner()
def _random_resized(crop, height, width, draw):
    for k in range(3, 3 + ATTEMPTS):
        area, aspect = height * width * draw[k], draw[k + ATTEMPTS]
        w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return np.floor(draw[1] * (height - h + 1)), np.floor(draw[2] * (width - w + 1)), h, w
    full, h, w = width / height, float(height), float(width)
    if full < crop.low:
        h = np.rint(width / crop.low)
    if full > crop.high:
        w = np.rint(height * crop.high)
    return np.floor((height - h) / 2), np.floor((width - w) / 2), h, w


@compiled()
def windows(crop, heights, widths, draws):
    """`window` of each of n images, int64 [n]: float64 [n,4]."""
    out = np.empty((len(heights), 4))
    for k in range(len(heights)):
        out[k, 0], out[k, 1], out[k, 2], out[k, 3] = window(crop, heights[k], widths[k], draws[k])
    return out
