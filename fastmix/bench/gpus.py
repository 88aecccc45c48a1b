"""Figures of GPUs from which times are predicted, and what fits on one of their multiprocessors. Nothing is measured.

Sources: NVIDIA's data sheets (multiprocessors, memory bandwidth) and its CUDA programming guide (resources, operations
a cycle). Assumed, and marked so: clocks under load, a copy's share of the bandwidth, latencies, the launch.
"""

from __future__ import annotations

from dataclasses import dataclass

LAUNCH = 2.5  # us from one kernel to the next in a stream; assumed, 2 to 3 are usual
MEMORY_LATENCY = 0.7  # us of a load from memory under load; assumed, 0.6 to 0.8 for the H100's generation
CACHE_LATENCY = 0.3  # us of a load that the second-level cache answers; assumed
WARP, SCHEDULERS = 32, 4  # threads a warp; schedulers a multiprocessor, each issues one instruction a cycle
MOST_WARPS, MOST_PROGRAMS = 64, 32  # on a multiprocessor of these generations
REGISTERS, GRANULE = 65536, 256  # of a multiprocessor, a quarter to each scheduler; given to a warp by the granule
RESERVED = 1024  # bytes of shared memory that the system takes for each program


@dataclass(frozen=True)
class Gpu:
    """A GPU: its compute capability times ten, multiprocessors, GHz, TB/s of a copy (bytes read and written), KB of
    shared memory a multiprocessor."""

    name: str
    architecture: int
    processors: int
    clock: float
    copy: float
    shared: int


GPUS = {  # clocks: assumed under load, below the highest; copies: 0.9 of the published bandwidth, assumed
    "a100": Gpu("A100 SXM 80 GB", 80, 108, 1.41, 0.9 * 2.039, 164),
    "h100": Gpu("H100 SXM", 90, 132, 1.75, 0.9 * 3.35, 228),
    "h200": Gpu("H200 SXM", 90, 132, 1.75, 4.3, 228),  # a copy: of 4.8 published, as others have measured
    "b200": Gpu("B200", 100, 148, 1.85, 0.9 * 8.0, 228),
}


def cycles(units: dict[str, int], architecture: int) -> dict[str, int]:
    """Cycles of a scheduler that a warp's instructions keep it and each of its units busy.

    A scheduler issues one instruction a cycle. Its units do, in a cycle, 16 lanes of integer logic, comparison and
    selection, 16 of multiplication in integers, 32 of fp32 arithmetic (sm_80: 16, the same lanes), 4 of conversions
    and special functions, 8 of memory accesses.
    """
    integer, real = units.get("imad", 0), units.get("fma", 0)
    return {
        "issue": sum(units.values()),
        "logic": 2 * units.get("alu", 0),
        "arithmetic": 2 * (integer + real) if architecture == 80 else max(2 * integer, integer + real),
        "conversions": 8 * units.get("xu", 0),
        "accesses": 4 * units.get("memory", 0),
    }


def resident(registers: int, shared: int, warps: int, gpu: Gpu) -> int:
    """Programs of `warps` warps that a multiprocessor holds at a time.

    registers: of a thread; shared: bytes of a program.
    """
    each = -(-registers * WARP // GRANULE) * GRANULE
    by_registers = SCHEDULERS * (REGISTERS // SCHEDULERS // each) // warps
    by_shared = gpu.shared * 1024 // (shared + RESERVED)
    return min(by_registers, by_shared, MOST_WARPS // warps, MOST_PROGRAMS)
