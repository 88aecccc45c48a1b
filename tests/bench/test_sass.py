"""Reading machine code: counts of hand-written listings, the longest way against a walk over all of them, occupancy."""

import numpy as np
import pytest

from fastmix.bench import gpus, sass

STRAIGHT = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;                          /* 0x00000a00ff017b82 */
                                                                                   /* 0x000e220000000800 */
        /*0010*/                   S2R R3, SR_CTAID.X ;                            /* 0x0000000000037919 */
        /*0020*/                   LDG.E R2, desc[UR4][R4.64] ;                    /* the row */
        /*0030*/                   ISETP.NE.U32.AND P2, PT, R2, 0x1, PT ;
        /*0040*/                   IMAD.WIDE R6, R2, 0x4, R8 ;
        /*0050*/              @!P2 LDG.E.64 R10, desc[UR4][R6.64] ;
        /*0060*/                   LDG.E.U8 R12, desc[UR4][R14.64] ;
        /*0070*/                   I2F.U16 R13, R12 ;
        /*0080*/                   I2FP.F32.U32 R16, R11 ;
        /*0090*/                   FFMA R17, R16, R13, R13 ;
        /*00a0*/                   F2FP.BF16.F32.PACK_AB R18, R17, R16 ;
        /*00b0*/                   NOP ;
        /*00c0*/              @P2  EXIT ;
        /*00d0*/                   STG.E.128 desc[UR4][R20.64], R16 ;
        /*00e0*/                   EXIT ;
        /*00f0*/                   BRA 0xf0;
        /*0100*/                   NOP;
"""


def test_a_straight_line():
    code = sass.read(STRAIGHT)
    assert code.shape == "straight" and len(code.way) == 14  # all but the NOP and the loop behind the last EXIT
    assert code.accesses() == {"LDG.32": 1, "LDG.64": 1, "LDG.8": 1, "STG.128": 1}
    assert code.classes()["conversion"] == 3 and code.classes()["control"] == 2
    assert code.units() == {"memory": 4, "xu": 1, "alu": 3, "fma": 1, "imad": 1, "other": 4}


def test_loads_that_wait_for_one_another():
    assert sass.read(STRAIGHT).chain() == 2  # the row, then the 8 bytes at a place that it names
    again = "        /*00b0*/                   LDG.E R9, desc[UR4][R11.64] ;"  # by the upper half of those
    assert sass.read(STRAIGHT.replace("        /*00b0*/                   NOP ;", again)).chain() == 3
    independent = STRAIGHT.replace("IMAD.WIDE R6, R2,", "IMAD.WIDE R6, R3,").replace("@!P2", "@!P3")
    assert sass.read(independent).chain() == 1


def test_loops_and_calls_have_no_count():
    loop = STRAIGHT.replace("NOP ;", "@P1 BRA 0x20 ;", 1)
    call = STRAIGHT.replace("NOP ;", "CALL.REL.NOINC 0x100 ;", 1)
    for text in (loop, call):
        assert sass.read(text) == sass.Code("loops or jumps", None)


@pytest.mark.parametrize("seed", range(8))
def test_the_longest_way_through_branches_equals_the_longest_of_all_ways(seed):
    rng, count = np.random.default_rng(seed), 24
    lines, after = [], []
    for k in range(count):
        last = k == count - 1
        kind = "EXIT" if last else rng.choice(["FADD R1, R1, R2", "NOP", "BRA", "EXIT"], p=[0.4, 0.1, 0.4, 0.1])
        predicate = "@P0 " if kind in ("BRA", "EXIT") and not last and rng.random() < 0.7 else ""
        target = k if last else int(rng.integers(k + 1, count))
        text = f"BRA 0x{16 * target:x}" if kind == "BRA" else kind
        lines.append(f"        /*{16 * k:04x}*/  {predicate}{text} ;")
        through = [k + 1] if predicate or kind not in ("BRA", "EXIT") else []
        after.append((kind != "NOP", through + [target] * (kind == "BRA")))

    def walk(k):
        counts, following = after[k]
        return counts + max((walk(j) for j in following), default=0)

    code = sass.read("\n".join(lines))
    if any("BRA" in line for line in lines):
        assert code.shape == "branches" and len(code.way) == walk(0)


@pytest.mark.parametrize("warps", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "registers,shared", [(16, 0), (32, 0), (33, 1024), (48, 48 << 10), (72, 100), (128, 0), (255, 0)]
)
def test_occupancy_equals_filling_a_multiprocessor(registers, shared, warps):
    gpu = gpus.GPUS["h200"]
    free = [65536 // 4 // 256] * 4  # granules of registers that each scheduler still has
    memory, slots, programs = gpu.shared * 1024, 64, 0
    granules = -(-registers * 32 // 256)
    while programs < 32 and slots >= warps and memory >= shared + 1024:
        for _ in range(warps):  # a warp goes where most is free
            best = max(range(4), key=free.__getitem__)
            free[best] -= granules
        if min(free) < 0:
            break
        memory, slots, programs = memory - shared - 1024, slots - warps, programs + 1
    assert gpus.resident(registers, shared, warps, gpu) == programs
