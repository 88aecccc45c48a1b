"""Triton where it is installed (it comes with CUDA builds of torch); the kernel files import without it, too."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:
    triton = tl = None

INTERPRETED = triton is not None and os.environ.get("TRITON_INTERPRET") == "1"  # read by triton.jit at import


def jit(function):
    """triton.jit, or the bare function, which nothing calls, where Triton is missing."""
    return triton.jit(function) if triton is not None else function


def constant(value: int):
    """A module-level number that kernels may read."""
    return tl.constexpr(value) if triton is not None else value


@dataclass(frozen=True)
class Target:
    """One build of a kernel for the ahead-of-time check: argument types, constants, and what must hold of the result.

    registers: the most a thread may use; load, store: bytes that the widest global access must have at least.
    elements: how many results a program writes, where that is one number: instructions are counted for each of them.
    """

    name: str
    kernel: Callable
    types: dict[str, str]
    constants: dict[str, int | bool]
    registers: int
    load: int
    store: int
    fused: bool = True
    num_warps: int = 4
    elements: int = 0
