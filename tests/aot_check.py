"""Compiles every kernel for every GPU generation, with no GPU, and prints a table of what the compiler made of it.

python tests/aot_check.py [KERNEL ...]: exit code 1 if a kernel spills, uses more registers than its target allows, or
has narrower memory accesses than it should. Must run without TRITON_INTERPRET.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TRITON_CACHE_DIR", tempfile.mkdtemp(prefix="aot"))

from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource
from triton.compiler import compile as triton_compile

from fastmix.kernels import KERNELS

ARCHITECTURES = (80, 90, 100)


def source(target) -> ASTSource:
    names = target.kernel.arg_names
    signature = {name: target.types.get(name, "constexpr") for name in names}
    constants = {(names.index(name),): value for name, value in target.constants.items()}
    pointers = [k for k, name in enumerate(names) if signature[name].startswith("*")]
    return ASTSource(target.kernel, signature, constants, {(k,): [["tt.divisibility", 16]] for k in pointers})


def resources(ptx: str, architecture: int) -> tuple[int, int]:
    """Registers a thread and bytes spilled."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx)
        name = re.search(r"\.target (\w+)", ptx)[1]
        command = [get_ptxas(architecture).path, "-v", f"--gpu-name={name}", path, "-o", path.with_suffix(".cubin")]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return int(re.search(r"Used (\d+) reg", log)[1]), sum(map(int, re.findall(r"(\d+) bytes spill", log)))


def widest(ptx: str, operation: str) -> int:
    """Bytes of the widest global access of an operation ("ld" or "st")."""
    found = re.findall(operation + r"\.global(?:\.\w+)*?(?:\.v(\d))?\.[busf](\d+)", ptx)
    return max(int(count or 1) * int(bits) // 8 for count, bits in found)


def main() -> int:
    print("| kernel | architecture | registers | spilled | widest load | widest store | shared memory |")
    print("|---|---|---|---|---|---|---|")
    wrong = []
    chosen = [k for k in KERNELS if not sys.argv[1:] or k.__name__.rsplit(".", 1)[1] in sys.argv[1:]]
    for target in (target for kernel in chosen for target in kernel.AOT):
        for architecture in ARCHITECTURES:
            options = {"num_warps": target.num_warps, "enable_fp_fusion": target.fused}
            built = triton_compile(source(target), target=GPUTarget("cuda", architecture, 32), options=options)
            ptx, shared = built.asm["ptx"], built.metadata.shared
            registers, spilled = resources(ptx, architecture)
            load, store = widest(ptx, "ld"), widest(ptx, "st")
            sizes = " | ".join(f"{size} B" for size in (spilled, load, store, shared))
            print(f"| {target.name} | sm_{architecture} | {registers} | {sizes} |")
            if spilled or registers > target.registers or load < target.load or store < target.store:
                wrong.append(f"{target.name} on sm_{architecture}")
    print("\n".join(f"over its limits: {name}" for name in wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
