"""Triton where it is installed (it comes with CUDA builds of torch); the kernel files import without it, too."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:
    triton = tl = None

INTERPRETED = triton is not None and os.environ.get("TRITON_INTERPRET") == "1"  # read by triton.jit at import
OLDEST = (3, 4)  # of torch 2.8: 3.3 compiles a part of the kernels, 3.2 less


def unusable() -> str:
    """Why no kernel can be launched or compiled, in a line; empty where one can."""
    if triton is None:
        return "Triton is not installed: pip install triton"
    if tuple(map(int, re.findall(r"\d+", triton.__version__)[:2])) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return f"Triton {triton.__version__} cannot compile the kernels: install torch 2.8 or newer, or Triton {wanted}"
    return ""


def jit(function: Callable | None = None, *, numbers: tuple[str, ...] = ()):
    """triton.jit, or, where Triton is missing or too old, a kernel that says so when it is launched.

    numbers: the whole-number arguments. Triton would build a kernel for each case of 1, a multiple of 16 and neither,
    seconds in which a step waits; there is one build for all.
    """
    if function is None:
        return lambda function: jit(function, numbers=numbers)
    return Unusable(function) if unusable() else triton.jit(function, do_not_specialize=numbers)


class Unusable:
    """A kernel that cannot be launched: kernel[grid] raises ValueError."""

    def __init__(self, function: Callable):
        self.function = function

    def __getitem__(self, grid):
        raise ValueError(unusable())


def constant(value: int):
    """A module-level number that kernels may read."""
    return tl.constexpr(value) if triton is not None else value


@dataclass(frozen=True)
class Target:
    """One build of a kernel for the ahead-of-time check: argument types, constants, and what must hold of the result.

    registers: the most a thread may use; load, store: bytes that the widest global access must have at least.
    maxnreg: registers a thread that the compiler is held to, as at the launch; else it may spill to have fewer.
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
    maxnreg: int | None = None
    elements: int = 0
