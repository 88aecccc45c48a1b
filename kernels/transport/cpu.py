"""Block transport on the CPU: numba, one sample at a time, samples spread over a few threads.

In each round only the sources that lost look for another target. Equal to `kernels.transport.reference`.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fastmix.kernels.compiled import compiled, inner
from fastmix.kernels.threads import share


@inner()
def _cheapest(i, u, wanted, lost, losses, ways, far, gh, gw):
    """The cheapest target of source i, and its cost; lost[i, :losses] are the targets that it lost.

    Nothing here makes an array: of each slice the references would be counted.
    """
    row = i // gw
    column = i - row * gw
    best, target = np.float32(np.inf), i
    for k in range(len(far)):
        if not far[k] - u <= best:
            break
        y, x = row + ways[k, 1], column + ways[k, 2]
        if 0 <= y < gh and 0 <= x < gw:
            j = y * gw + x
            again = np.float32(0)
            for r in range(losses):
                if lost[i, r] == j:
                    again += np.float32(1)
            cost = (far[k] - (u if wanted[j] else np.float32(0))) + again
            if cost < best or (cost == best and j < target):
                best, target = cost, j
    return target, best


@compiled(error_model="numpy")
def _transport(first, last, saliency, wanted, ways, scale, gh, gw, source):
    n, rounds = gh * gw, max(gh, gw)
    target, cost, losses = np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.int32)
    lost, winner, losers = np.empty((n, rounds), np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
    far = np.empty(len(ways), np.float32)
    for k in range(len(far)):
        far[k] = np.float32(ways[k, 0]) * scale
    nearest = far[1] if len(far) > 1 else np.float32(np.inf)
    for sample in range(first, last):
        shown, u = wanted[sample], saliency[sample]
        for j in range(n):
            winner[j] = -1
        for i in range(n):
            losses[i] = 0
            target[i], cost[i] = i, -u[i] if shown[i] else np.float32(0)
            if nearest - u[i] <= cost[i]:
                target[i], cost[i] = _cheapest(i, u[i], shown, lost, 0, ways, far, gh, gw)
            rival = winner[target[i]]
            if rival < 0 or cost[i] < cost[rival]:
                winner[target[i]] = i
        left = 0
        for i in range(n):
            if winner[target[i]] != i:
                losers[left] = i
                left += 1
        for _ in range(rounds - 1):
            for k in range(left):
                i = losers[k]
                lost[i, losses[i]] = target[i]
                losses[i] += 1
                target[i], cost[i] = _cheapest(i, u[i], shown, lost, losses[i], ways, far, gh, gw)
            bidders, left = left, 0
            for k in range(bidders):  # those who won keep what they have, or lose it to one of these
                i = losers[k]
                rival = winner[target[i]]
                if rival < 0 or cost[i] < cost[rival] or (cost[i] == cost[rival] and i < rival):
                    winner[target[i]], i = i, rival
                if i >= 0:
                    losers[left] = i
                    left += 1
            if left == 0:
                break
        for j in range(n):
            source[sample, j] = winner[j] if winner[j] >= 0 else j


def transport_cpu(
    saliency: Tensor, wanted: Tensor, ways: np.ndarray, scale: float, grid: tuple[int, int], source: Tensor
) -> None:
    """Fills source: checked arguments of `kernels.transport.transport`, all on the CPU; ways are its `offsets`."""
    args = saliency.numpy(), wanted.numpy(), ways, np.float32(scale), *grid, source.numpy()
    share(lambda first, last: _transport(first, last, *args), len(saliency), saliency.numel() * 40)
