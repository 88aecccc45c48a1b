"""Block transport on the CPU: numba, one sample at a time, samples spread over a few threads.

In each round only the sources that lost look for another target. Equal to `kernels.transport.reference`.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fastmix.kernels.compiled import compiled, inner
from fastmix.kernels.threads import share


@inner()
def _cheapest(i, u, wanted, lost, losses, ways, scale, gh, gw):
    """The cheapest target of source i, and its cost; lost[:losses] are the targets that it lost."""
    row, column = i // gw, i % gw
    best, target = np.float32(np.inf), i
    for k in range(len(ways)):
        distance = np.float32(ways[k, 0]) * scale
        if not distance - u <= best:
            break
        y, x = row + ways[k, 1], column + ways[k, 2]
        if 0 <= y < gh and 0 <= x < gw:
            j = y * gw + x
            again = np.float32(0)
            for r in range(losses):
                if lost[r] == j:
                    again += np.float32(1)
            cost = (distance - (u if wanted[j] else np.float32(0))) + again
            if cost < best or (cost == best and j < target):
                best, target = cost, j
    return target, best


@compiled()
def _transport(first, last, saliency, wanted, ways, scale, gh, gw, source):
    n, rounds = gh * gw, max(gh, gw)
    target, cost, losses = np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.int32)
    lost, winner = np.empty((n, rounds), np.int32), np.empty(n, np.int32)
    for sample in range(first, last):
        for i in range(n):
            losses[i] = 0
            target[i], cost[i] = _cheapest(i, saliency[sample, i], wanted[sample], lost[i], 0, ways, scale, gh, gw)
        for k in range(rounds):
            winner[:] = -1
            for i in range(n):
                j = target[i]
                if winner[j] < 0 or cost[i] < cost[winner[j]]:
                    winner[j] = i
            losers = 0
            if k + 1 < rounds:
                for i in range(n):
                    if winner[target[i]] != i:
                        lost[i, losses[i]] = target[i]
                        losses[i] += 1
                        losers += 1
                        target[i], cost[i] = _cheapest(
                            i, saliency[sample, i], wanted[sample], lost[i], losses[i], ways, scale, gh, gw
                        )
            if losers == 0:
                break
        for j in range(n):
            source[sample, j] = winner[j] if winner[j] >= 0 else j


def transport_cpu(
    saliency: Tensor, wanted: Tensor, ways: np.ndarray, scale: float, grid: tuple[int, int], source: Tensor
) -> None:
    """Fills source: checked arguments of `kernels.transport.transport`, all on the CPU; ways are its `offsets`."""
    args = saliency.numpy(), wanted.numpy(), ways, np.float32(scale), *grid, source.numpy()
    share(lambda first, last: _transport(first, last, *args), len(saliency), saliency.numel() * 40)
