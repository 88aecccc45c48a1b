"""Random numbers that are functions of (seed, row, purpose): the same in any batch, on any device and process."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Draws:
    """The draws of a batch of images for one purpose. Every call gives new numbers; the same calls give the same.

    rows int64 [B]: the images. A 32-bit hash of (image and purpose) and of the place gives 24 bits; for two images of
    one seed and purpose the first of these is never the same, as the hash is a bijection.
    """

    def __init__(self, seed: int, rows: np.ndarray, purpose: str, device: torch.device | str = "cpu"):
        self.seed, self.purpose, self.calls = seed, zlib.crc32(purpose.encode()), 0
        self.rows = torch.as_tensor(np.asarray(rows).astype(np.int32)).to(device)

    def uniform(self, *shape: int) -> Tensor:
        """float32 [B,*shape] in (0, 1): odd multiples of 2^-25."""
        salt = np.random.SeedSequence([self.seed, self.purpose, self.calls]).generate_state(1).view(np.int32).item()
        self.calls += 1
        image = _hash(_hash(self.rows.clone()) ^ salt)
        place = _hash(torch.arange(math.prod(shape), dtype=torch.int32, device=self.rows.device))
        bits = _hash(image[:, None] ^ place)
        return bits.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF).float().add_(0.5).mul_(2**-24).view(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """float32 [B,*shape] of mean 0 and deviation 1, within 5.9 of 0 (Box and Muller 1958)."""
        count = math.prod(shape)
        radius, angle = self.uniform(2, -(-count // 2)).unbind(1)
        radius, angle = radius.log_().mul_(-2).sqrt_(), angle.mul_(2 * math.pi)
        both = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)
        return both[:, :count].reshape(-1, *shape)

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        """int64 [B,*shape] from low to high - 1, of a range that is small beside 2^24."""
        return (self.uniform(*shape) * (high - low)).long() + low

    def order(self, count: int, *shape: int) -> Tensor:
        """int64 [B,*shape,count]: a permutation of 0 to count - 1 for each."""
        return self.uniform(*shape, count).argsort(-1)

    def choice(self, values: Sequence[float], *shape: int) -> Tensor:
        """float32 [B,*shape], each one of the values."""
        return torch.tensor(values, dtype=torch.float32, device=self.rows.device)[self.whole(0, len(values), *shape)]


def _hash(x: Tensor) -> Tensor:
    """A bijection of int32 onto itself, in place: two multiplications and three shifts (Wellons, "Prospecting for hash
    functions", 2018). torch's shifts keep the sign, so its copies are masked away."""
    x.bitwise_xor_(x.bitwise_right_shift(16).bitwise_and_(0xFFFF)).mul_(0x7FEB352D)
    x.bitwise_xor_(x.bitwise_right_shift(15).bitwise_and_(0x1FFFF)).mul_(0x846CA68B - (1 << 32))
    return x.bitwise_xor_(x.bitwise_right_shift(16).bitwise_and_(0xFFFF))
