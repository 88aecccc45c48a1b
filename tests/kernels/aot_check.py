"""Compiles every kernel for every GPU generation, with no GPU, and prints a table of what the compiler made of it.

python tests/kernels/aot_check.py [--quick | --first] [--instructions] [KERNEL ...]: exit code 1 if a kernel spills,
uses more registers than its target allows, or has narrower memory accesses than it should. --quick: only the first
build of all is made for every generation, the others for sm_90; --first: the first build of each kernel, for sm_90.
--instructions counts them, which takes half a second each: those for an element that a thread writes, or "loops or
jumps" where there is no such number; where there are branches, those of the longest way.
Must run without TRITON_INTERPRET. PYTHONPATH can put another Triton before the installed one (CONTRIBUTING.md).
"""

from __future__ import annotations

import os
import sys
import tempfile

import triton

from fastmix.bench.sass import per_element
from fastmix.kernels import KERNELS, kernel
from fastmix.kernels.aot import ARCHITECTURES, build


def main() -> int:
    counted, quick, first = (f"--{word}" in sys.argv for word in ("instructions", "quick", "first"))
    names = [word for word in sys.argv[1:] if not word.startswith("--")]
    heads = ["kernel", "architecture", "registers", "spilled", "widest load", "widest store", "shared memory"]
    heads += ["instructions an element"] * counted
    print(f"Triton {triton.__version__}\n\n| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    wrong = []
    chosen = [kernel(name) for name in KERNELS if not names or name in names]
    targets = [target for module in chosen for target in (module.AOT[:1] if first else module.AOT)]
    for k, target in enumerate(targets):
        for architecture in (90,) if first or quick and k else ARCHITECTURES:
            made = build(target, architecture)
            cells = [f"sm_{architecture}", str(made.registers)]
            cells += [f"{size} B" for size in (made.spilled, made.load, made.store, made.shared)]
            print(f"| {' | '.join([target.name, *cells, *[per_element(made)] * counted])} |")
            if not made.within_limits:
                wrong.append(f"{target.name} on sm_{architecture}")
    print("\n".join(f"over its limits: {name}" for name in wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="aot") as scratch:
        os.environ.setdefault("TRITON_CACHE_DIR", scratch)
        sys.exit(main())
