"""Kernels compiled ahead of time: for any GPU generation, with no GPU and no driver, down to the machine code.

Needs Triton, which brings ptxas and cuobjdump. Not for a process under TRITON_INTERPRET.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fastmix.kernels._triton import INTERPRETED, Target, triton, unusable

ARCHITECTURES = (80, 90, 100)  # A100, H100 and H200, B200: compute capability times ten


@dataclass(frozen=True)
class Build:
    """What the compiler made of a target.

    registers a thread, bytes of them spilled, bytes of shared memory a program, bytes of the widest global load and
    store.
    """

    target: Target
    architecture: int
    registers: int
    spilled: int
    shared: int
    load: int
    store: int
    cubin: bytes

    def sass(self) -> str:
        """The machine code, disassembled; takes half a second."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "kernel.cubin")
            path.write_bytes(self.cubin)
            command = [triton.knobs.nvidia.cuobjdump.path, "-sass", path]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    @property
    def within_limits(self) -> bool:
        """No spills, no more registers and no narrower accesses than the target says."""
        wanted = self.target
        return (
            not self.spilled
            and self.registers <= wanted.registers
            and self.load >= wanted.load
            and self.store >= wanted.store
        )


def build(target: Target, architecture: int) -> Build:
    """Compiles a target for sm_<architecture>. Raises ValueError where Triton cannot."""
    built = compile_for(target, architecture)
    ptx, shared = built.asm["ptx"], built.metadata.shared
    resources = _resources(ptx, architecture)
    return Build(target, architecture, *resources, shared, _widest(ptx, "ld"), _widest(ptx, "st"), built.asm["cubin"])


def compile_for(target: Target, architecture: int):
    """What Triton makes of a target for sm_<architecture>. Raises ValueError where it cannot."""
    if why := "unset TRITON_INTERPRET" if INTERPRETED else unusable():
        raise ValueError(f"no kernel can be compiled: {why}")
    from triton.backends.compiler import GPUTarget

    options = {"num_warps": target.num_warps, "enable_fp_fusion": target.fused}
    return triton.compile(_source(target), target=GPUTarget("cuda", architecture, 32), options=options)


def _source(target: Target):
    from triton.compiler import ASTSource

    names = target.kernel.arg_names
    signature = {name: target.types.get(name, "constexpr") for name in names}
    constants = {(names.index(name),): value for name, value in target.constants.items()}
    pointers = [k for k, name in enumerate(names) if signature[name].startswith("*")]
    return ASTSource(target.kernel, signature, constants, {(k,): [["tt.divisibility", 16]] for k in pointers})


def _resources(ptx: str, architecture: int) -> tuple[int, int]:
    """Registers a thread and bytes spilled."""
    from triton.backends.nvidia.compiler import get_ptxas

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx)
        name = re.search(r"\.target (\w+)", ptx)[1]
        command = [get_ptxas(architecture).path, "-v", f"--gpu-name={name}", path, "-o", path.with_suffix(".cubin")]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return int(re.search(r"Used (\d+) reg", log)[1]), sum(map(int, re.findall(r"(\d+) bytes spill", log)))


def _widest(ptx: str, operation: str) -> int:
    """Bytes of the widest global access of an operation ("ld" or "st")."""
    found = re.findall(operation + r"\.global(?:\.\w+)*?(?:\.v(\d))?\.[busf](\d+)", ptx)
    return max(int(count or 1) * int(bits) // 8 for count, bits in found)
