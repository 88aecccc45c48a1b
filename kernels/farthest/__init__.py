"""Greedy pairing of unlike samples (GuidedMixup): one cycle through the batch that goes to the farthest each time.

    (i, j) = argmax d(i, j), i != j;   partner(i) = j;   from j on: partner(j) = argmax_{k not yet visited} d(j, k)

until all are visited; the last one's partner is i, so the cycle is closed and nobody is alone. Of equal distances the
first counts, row by row. Only comparisons: the reference, the Triton kernel and the numba twin agree bit for bit.

Bytes to move: the matrix twice, 4 N^2 each, at N = 256 from the second-level cache. The farthest sample of each, and so
the first pair, is found by N programs at once. The way is one program of N - 2 steps that wait for each other, a row
and a maximum each, while the rest of the device is free: a step begins where the one before ended, and what it may
choose from is what none before it took. Nearest-neighbour tours, which these are of -d, are P-complete (Kindervater,
Lenstra, Shmoys, "The parallel complexity of TSP heuristics", Journal of Algorithms 10, 1989): no number of programs is
known to cut the steps to much fewer, and a step has nothing for a second program, since a warp holds its row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.farthest.cases import CASES
from fastmix.kernels.farthest.gpu import AOT, farthest_kernel, program_shape, row_kernel
from fastmix.kernels.farthest.reference import DTYPES, LEAST, reference

__all__ = ["AOT", "CASES", "DTYPES", "farthest", "reference"]


def farthest(distance: Tensor) -> Tensor:
    """The partner of each sample, int32 [B], from distances float32 [B,B]: one cycle through all of them.

    The diagonal does not count, a NaN is the least distance, and one sample alone is its own partner. Without a wait
    for the device. Raises ValueError for distances of another type or shape.
    """
    n = len(distance)
    if distance.dtype != torch.float32 or distance.shape != (n, n) or not n:
        raise ValueError(f"farthest: distance must be float32 [B,B], not {distance.dtype} {list(distance.shape)}")
    distance = distance.contiguous()
    partner = torch.empty(n, dtype=torch.int32, device=distance.device)
    if distance.is_cuda or INTERPRETED:
        far, at = torch.empty(2, n, dtype=torch.int32, device=distance.device)
        with torch.cuda.device_of(distance):
            row_kernel[(n,)](distance, far, at, n, **program_shape(n))
            farthest_kernel[(1,)](distance, far, at, partner, n, **program_shape(n))
    else:
        from fastmix.kernels.farthest.cpu import farthest_cpu

        farthest_cpu(distance, LEAST, partner)
    return partner
