"""Triton's launches where there is no GPU: looked at instead of made, and their builds compiled ahead of time.

Triton itself says which build a launch asks for: its own binder specialises the arguments, for sm_90.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

TARGET = GPUTarget("cuda", 90, 32)
MOST_BLOCKS = (2**31 - 1, 65535, 65535)  # CUDA's limits of a grid


class Driver:
    """Triton's view of the device: all that it takes to find out which build is needed, and to compile it."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return TARGET


class Launches:
    """What was launched. note(kind, what) is told of a tensor on the host ("mixed"), of a grid that CUDA refuses
    ("grid"), and while `steady` of a build that no launch before asked for, since its compiler would stop the step:
    "variant" where the kernel's own constants or its types are new, "build" where only Triton tells it from another, by
    the value of a number or by where memory begins.

    builds: (kernel, arguments, options) of the first launch of each build, by Triton's key. made: how many launches.
    """

    def __init__(self, note: Callable[[str, str], None]):
        self.note, self.steady, self.variants, self.made = note, False, set(), 0
        self.builds: dict[tuple, tuple[JITFunction, tuple, dict]] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Launches go here."""
        run = JITFunction.run
        JITFunction.run = lambda kernel, *args, grid, warmup, **options: self._take(run, kernel, args, grid, options)
        triton.runtime.driver.set_active(Driver())
        try:
            yield
        finally:
            JITFunction.run = run

    def _take(self, run: Callable, kernel: JITFunction, args: tuple, grid, options: dict) -> None:
        self.made += 1
        named = dict(zip(kernel.arg_names, args, strict=False)) | options
        for name, value in named.items():
            if isinstance(value, Tensor) and not value.is_cuda:
                self.note("mixed", f"{kernel.__name__}: {name} lies on the host")
        blocks = tuple(grid(named) if callable(grid) else grid)
        if not all(0 < n <= most for n, most in zip(blocks, MOST_BLOCKS, strict=False)):
            self.note("grid", f"{kernel.__name__}: {blocks}")

        chosen = {p.name: named[p.name] for p in kernel.params if p.is_constexpr and p.name in named}
        types = [value.dtype if isinstance(value, Tensor) else value is None for value in args]
        variant = str((kernel.__name__, types, chosen, options))

        def asked(*, key, fn, **about) -> bool:
            build = fn.module, fn.name, key
            if self.steady and build not in self.builds:
                numbers = {name: value for name, value in named.items() if not isinstance(value, Tensor)}
                self.note("build" if variant in self.variants else "variant", f"{kernel.__name__}: {numbers}")
            self.builds.setdefault(build, (kernel, args, options))
            self.variants.add(variant)
            return True  # not compiled now

        triton.knobs.runtime.jit_cache_hook = asked
        try:
            run(kernel, *args, grid=grid, warmup=True, **options)
        finally:
            triton.knobs.runtime.jit_cache_hook = None


def compiled(builds: dict) -> Iterator[tuple[str, Exception | None]]:
    """Compiles each build with the installed Triton, as a launch would; its name, and the error if there is one."""
    triton.runtime.driver.set_active(Driver())
    for kernel, args, options in builds.values():
        try:
            kernel.run(*args, grid=None, warmup=True, **options)
        except Exception as error:  # whatever the compiler raises
            yield kernel.__name__, error
        else:
            yield kernel.__name__, None
