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
        return _cuobjdump("-sass", self.cubin)

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
    ptx, cubin, shared = built.asm["ptx"], built.asm["cubin"], built.metadata.shared
    return Build(target, architecture, *_resources(cubin), shared, _widest(ptx, "ld"), _widest(ptx, "st"), cubin)


def compile_for(target: Target, architecture: int):
    """What Triton makes of a target for sm_<architecture>. Raises ValueError where it cannot."""
    if why := "unset TRITON_INTERPRET" if INTERPRETED else unusable():
        raise ValueError(f"no kernel can be compiled: {why}")
    from triton.backends.compiler import GPUTarget

    options = {"num_warps": target.num_warps, "enable_fp_fusion": target.fused, "maxnreg": target.maxnreg}
    return triton.compile(_source(target), target=GPUTarget("cuda", architecture, 32), options=options)


def _source(target: Target):
    from triton.compiler import ASTSource

    names = target.kernel.arg_names
    signature = {name: target.types.get(name, "constexpr") for name in names}
    constants = {(names.index(name),): value for name, value in target.constants.items()}
    pointers = [k for k, name in enumerate(names) if signature[name].startswith("*")]
    return ASTSource(target.kernel, signature, constants, {(k,): [["tt.divisibility", 16]] for k in pointers})


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers a thread, and bytes of its stack, where what does not fit is spilled: of the machine code itself."""
    used = _cuobjdump("-res-usage", cubin)
    return int(re.search(r"REG:(\d+)", used)[1]), int(re.search(r"STACK:(\d+)", used)[1])


def _cuobjdump(what: str, cubin: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, what, path]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _widest(ptx: str, operation: str) -> int:
    """Bytes of the widest global access of an operation ("ld" or "st")."""
    found = re.findall(operation + r"\.global(?:\.\w+)*?(?:\.v(\d))?\.[busf](\d+)", ptx)
    return max(int(count or 1) * int(bits) // 8 for count, bits in found)
