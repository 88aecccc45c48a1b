"""Greedy pairing in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.float32,)
LEAST = -1e38  # counts for everything below, and for NaN, so that there is always a farthest one


def reference(distance: Tensor) -> Tensor:
    """`farthest` in plain torch."""
    n = len(distance)
    d = torch.where(distance > LEAST, distance, LEAST)
    d.fill_diagonal_(-torch.inf)
    partner = torch.empty(n, dtype=torch.int32, device=distance.device)
    first, at = divmod(int(d.argmax()), n)
    partner[first] = at
    d[:, first] = -torch.inf
    for _ in range(n - 2):
        d[:, at] = -torch.inf
        partner[at] = d[at].argmax()
        at = int(partner[at])
    partner[at] = first
    return partner
