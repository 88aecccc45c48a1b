"""The rows of a plan, made on the device from what was drawn and what a method saw: one launch in place of 23 to 87.

kernels/plan_rows/rules.py says of each rule what it is given, which kind its rows have, and how they follow. What comes
of whole numbers, and of sums in one order, is the same bit for bit in all implementations. Labels that are sums of
float32 (Grafted, Tokens) differ by their order; those of Stretched are float64 until they are written.

Bytes: 48 written a sample, 12 a cell of blocks; 4 to 12 read a cell. Of maps 4 or 8 a pixel read, and 4 written. One
program a sample, of one warp up to 256 cells: but for maps a launch is all that it costs.

On the CPU the reference runs: a few kB, some ten operations, no twin; but for a ratio of maps, which is kernels.ratio.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmix.kernels import plan as P
from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows import groups, launch
from fastmix.kernels.plan_rows.cases import CASES
from fastmix.kernels.plan_rows.gpu import plan_rows_kernel
from fastmix.kernels.plan_rows.launch import Asked, asked, program_shape
from fastmix.kernels.plan_rows.reference import DTYPES, reference
from fastmix.kernels.plan_rows.rules import Groups, Rule

__all__ = ["AOT", "CASES", "DTYPES", "plan_rows", "reference"]

AOT = launch.AOT + groups.AOT


def plan_rows(rule: Rule, partner: Tensor, size: tuple[int, int]) -> Plan:
    """The plan of images of size (H, W) by a rule, where its tensors lie; partner int32 [B], for Groups any [B].

    Without a wait for the device. Grids of more than 4,096 cells, and activation maps of more than 32 a side, are left
    to plain torch.
    """
    if partner.is_cuda or INTERPRETED:
        if isinstance(rule, Groups):
            return groups.launched(rule, size)
        wanted = asked(rule, size)
        if wanted.fits:
            return _launched(wanted, partner, size)
    return reference(rule, partner, size)


def _launched(wanted: Asked, partner: Tensor, size: tuple[int, int]) -> Plan:
    n, device, (h, w), values, apart = len(partner), partner.device, wanted.grid, wanted.values, 0
    if values is not None:
        values = values if values[0].is_contiguous() else values.contiguous()
        apart = values.stride(0)
    shape = program_shape(wanted, apart)
    kind = P.BLOCKS if shape["FINE"] else wanted.kind
    table = torch.empty(n, P.COLUMNS, dtype=torch.int32, device=device)
    more = {}
    if kind == P.BLOCKS:
        more["blocks"] = torch.empty(n, h * w, 3, dtype=torch.int32, device=device)
    elif kind == P.MAP:
        more["maps"] = torch.empty(n, *size, dtype=torch.int32, device=device)
    with torch.cuda.device_of(table):
        plan_rows_kernel[(n,)](
            table,
            next(iter(more.values()), None),
            partner,
            values,
            wanted.first,
            wanted.second,
            *wanted.matrices,
            partner.stride(0),
            apart,
            *size,
            h,
            w,
            wanted.step,
            wanted.number,
            wanted.least,
            wanted.factor,
            **shape,
            enable_fp_fusion=False,
        )
    return Plan(table, kinds=1 << kind, **more)
