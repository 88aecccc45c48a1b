"""Where the blocks of an image go under a mask (PuzzleMix): a batched block assignment, one program a sample.

    c_ij = eps |pos_i - pos_j|^2 / (s - 1)^2 - u_i z_j,      s = the longer side of the grid of blocks

is the cost of moving source block i, with saliency u_i, to the place of block j, where the image is wanted (z_j = 1)
or not (0). Kim, Choo, Song 2020, "Puzzle Mix", arXiv:2009.06962, algorithm 1: s rounds, in each of which every source
picks its cheapest target (the first of equals), every target keeps its cheapest suitor (the first of equals), and the
others add 1 to the cost of what they lost. The plan is what the last round's winners hold; a target that nobody holds
keeps its own block.

Costs are computed on the fly: those of one source grow with distance, up to what it lost before, so it looks at targets
from near to far and stops when no further one can be cheaper, mostly after a few. A round without a loser is the last.
In fp32, in one order of operations, so that all implementations give the same plan.

On a GPU a source looks at 8 targets at a time before all of its sample ask whether one must go on, which changes
nothing: what lies beyond where it would stop is no cheaper. Targets keep the least bid by an atomic minimum of whole
numbers, the same in any order. So a round of 16 x 16 blocks is at most 121 steps that wait for each other, and 4 more,
where one target at a time and then 4 targets at a time were 961 and 64.

Bytes: 5 read and 4 written for each block. Flops: about 10 for each target that is looked at; in the worst case
(eps = 0) these are all n^2 = 65,536 of 16 x 16 blocks in each of 16 rounds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.transport.cases import CASES
from fastmix.kernels.transport.gpu import AOT, lanes, transport_kernel, warps
from fastmix.kernels.transport.reference import DTYPES, MOST, offsets, offsets_on, reference, scale_of

__all__ = ["AOT", "CASES", "DTYPES", "reference", "transport"]


def transport(saliency: Tensor, wanted: Tensor, grid: tuple[int, int], eps: float) -> Tensor:
    """The source block of every block of B images: int32 [B,n], n = gh * gw; its own index where nothing comes.

    saliency float32 [B,n] of the image's blocks, finite and not below 0; wanted bool [B,n]: where the image shows; grid
    (gh, gw), up to 16 blocks a side. No source goes to two places. Without a wait for the device. Raises ValueError for
    arguments that do not fit each other.
    """
    _check(saliency, wanted, grid, eps)
    saliency, wanted = saliency.contiguous(), wanted.contiguous()
    source = torch.empty(saliency.shape, dtype=torch.int32, device=saliency.device)
    if saliency.is_cuda or INTERPRETED:
        ways, (samples, n) = offsets_on(tuple(grid), saliency.device), saliency.shape
        lost = torch.empty(samples, max(grid), n, dtype=torch.int32, device=saliency.device)
        bids = torch.empty(samples, n, dtype=torch.int64, device=saliency.device)
        with torch.cuda.device_of(saliency):
            transport_kernel[(len(saliency),)](
                saliency,
                wanted,
                ways,
                lost,
                bids,
                source,
                scale_of(grid, eps),
                len(ways),
                max(grid),
                *grid,
                **lanes(grid),
                num_warps=warps(grid),
                enable_fp_fusion=False,
            )
    else:
        from fastmix.kernels.transport.cpu import transport_cpu

        transport_cpu(saliency, wanted, offsets(tuple(grid)), scale_of(grid, eps), tuple(grid), source)
    return source


def _check(saliency, wanted, grid, eps) -> None:
    if len(grid) != 2 or not all(1 <= side <= MOST for side in grid):
        raise ValueError(f"transport: the grid of blocks is {tuple(grid)}; each side must be 1 to {MOST}")
    n = grid[0] * grid[1]
    if saliency.dtype != torch.float32 or saliency.ndim != 2 or saliency.shape[1] != n:
        raise ValueError(f"transport: saliency must be float32 [B,{n}], not {saliency.dtype} {list(saliency.shape)}")
    if wanted.dtype != torch.bool or wanted.shape != saliency.shape or wanted.device != saliency.device:
        where = f"bool {list(saliency.shape)} on {saliency.device}"
        raise ValueError(f"transport: wanted must be {where}, not {wanted.dtype} {list(wanted.shape)}")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"transport: eps is {eps}; it must be a number of at least 0")
