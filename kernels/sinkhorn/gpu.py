"""Sinkhorn's iterations on a GPU: the Triton kernel."""

from __future__ import annotations

from fastmix.kernels._triton import Target, constant, jit, tl

REGISTERS = 128  # a thread: as many as 16 warps can have
FAR = constant(-1e30)  # K outside of the matrix: finite, so that no difference is inf - inf


@jit
def _entries(cost, scale, i, j, n, m):
    return tl.where((i < n) & (j < m), tl.load(cost + i * m + j, mask=(i < n) & (j < m), other=0.0) * scale, FAR)


@jit(numbers=("n", "m", "iterations"))
def sinkhorn_kernel(cost, plan, scale, log_ratio, factor, n, m, iterations, N: tl.constexpr, M: tl.constexpr):
    """One program: one sample, f last; M >= m columns, N rows at a time. Logarithms are to the base 2."""
    first = cost + tl.program_id(0).to(tl.int64) * (n * m)
    i, j = tl.arange(0, N)[:, None], tl.arange(0, M)[None, :]
    g = tl.zeros([1, M], tl.float32)
    for iteration in range(iterations):
        top, total = tl.full([1, M], FAR, tl.float32), tl.zeros([1, M], tl.float32)
        for row in range(0, n, N):
            k = _entries(first, scale, row + i, j, n, m)
            f = tl.zeros([N, 1], tl.float32)
            if iteration > 0:
                t = k + g
                most = tl.max(t, 1, keep_dims=True)
                f = -most - tl.log2(tl.sum(tl.exp2(t - most), 1, keep_dims=True))
            t = k + tl.where(row + i < n, f, 0.0)
            most = tl.maximum(top, tl.max(t, 0, keep_dims=True))
            total = total * tl.exp2(top - most) + tl.sum(tl.exp2(t - most), 0, keep_dims=True)
            top = most
        g = tl.where(j < m, log_ratio - top - tl.log2(total), 0.0)
    out = plan + tl.program_id(0).to(tl.int64) * (n * m)
    for row in range(0, n, N):
        k = _entries(first, scale, row + i, j, n, m)
        t = k + g
        e = tl.exp2(t - tl.max(t, 1, keep_dims=True))
        share = e * (factor / tl.sum(e, 1, keep_dims=True))
        tl.store(out + (row + i) * m + j, share, mask=(row + i < n) & (j < m))


def program_shape(n: int, m: int) -> tuple[int, int, int]:
    """Rows at a time, columns, warps: at most 4096 entries, 8 a thread, as 16 do not fit the registers everywhere."""
    rows, columns = (1 << (length - 1).bit_length() for length in (n, m))
    rows = min(rows, 4096 // columns)
    return rows, columns, max(rows * columns // 256, 1)


def _target(name, n, m) -> Target:
    rows, columns, warps = program_shape(n, m)
    types = dict(cost="*fp32", plan="*fp32", scale="fp32", log_ratio="fp32", factor="fp32", iterations="i32")
    types |= dict(n="i32", m="i32")
    return Target(
        name, sinkhorn_kernel, types, dict(N=rows, M=columns), REGISTERS, 4, 4, num_warps=warps, maxnreg=REGISTERS
    )


AOT = [_target("sinkhorn 7x7", 49, 49), _target("sinkhorn 14x14", 196, 196)]
