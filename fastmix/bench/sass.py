"""Reads machine code (SASS) as cuobjdump prints it: what a thread executes, and on which unit.

A kernel without a branch is a straight line whose instructions are all issued, also those whose predicate is false. In
one with branches forward alone the longest way is at least what a thread executes. With loops, calls or computed jumps
nothing is said.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastmix.bench.gpus import WARP

if TYPE_CHECKING:
    from fastmix.kernels.aot import Build

LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*);", re.MULTILINE)
CLASSES = {  # opcode (as a pattern) -> class, unit; the first that matches. Units: see CYCLES in gpus.py
    r"LDG|LD": ("global load", "memory"),
    r"STG|ST|RED|ATOM\w*": ("global store", "memory"),
    r"LDS\w*|STS\w*|SHFL|LDSM|STSM|LDL|STL": ("shared", "memory"),
    r"U?LDC\w*": ("constant load", "other"),
    r"U?I2FP|F2FP|F2IP|I2IP": ("conversion", "alu"),
    r"I2F|F2F|F2I|I2I|FRND|F2F|MUFU|POPC|FLO|BREV": ("conversion", "xu"),
    r"FFMA\w*|FADD\w*|FMUL\w*|HFMA2\w*|HADD2\w*|HMUL2\w*": ("float", "fma"),
    r"D(FMA|ADD|MUL|SETP)": ("double", "fp64"),
    r"F(SEL|SETP|SET|MNMX\w*|CHK|SWZ\w*)|H(SETP2|SET2|MNMX2)": ("float", "alu"),
    r"BRA|BRX\w*|EXIT|BSSY|BSYNC|BREAK|CALL|RET|WARPSYNC|BAR|BMOV|NOP|YIELD|NANOSLEEP|DEPBAR|ERRBAR|MEMBAR|CCTL|ACQBULK":
        ("control", "other"),
    r"U[A-Z]\w*|S2R|S2UR|CS2R|R2UR|R2P|P2R": ("uniform", "other"),
    r"IMAD|IDP|IMUL": ("integer", "imad"),
    r".*": ("integer", "alu"),
}  # fmt: skip
UNKNOWN = re.compile(r"BRX\w*|JMP|JMX|CALL|RET|BREAK")  # where they lead cannot be read off


@dataclass(frozen=True)
class Instruction:
    """One instruction: byte address, predicate or "", opcode with its modifiers, operands."""

    address: int
    predicate: str
    opcode: str
    operands: str

    @property
    def name(self) -> str:
        return self.opcode.split(".")[0]

    @property
    def kind(self) -> tuple[str, str]:
        """Its class and the unit that executes it."""
        return next(value for pattern, value in CLASSES.items() if re.fullmatch(pattern, self.name))

    @property
    def width(self) -> int:
        """Bytes of a thread's access."""
        found = re.search(r"\.[US]?(8|16|64|128)(?![0-9])", self.opcode.removeprefix(self.name))
        return int(found[1]) // 8 if found else 4


@dataclass(frozen=True)
class Code:
    """What a thread executes: "straight", the longest way through "branches", or unknown ("loops or jumps")."""

    shape: str
    way: list[Instruction] | None

    def classes(self) -> Counter:
        return Counter(each.kind[0] for each in self.way)

    def units(self) -> Counter:
        return Counter(each.kind[1] for each in self.way)

    def accesses(self) -> dict[str, int]:
        """How often each global access is made, as {"LDG.64": 2, ...} with its bits."""
        found = [each for each in self.way if each.kind[0].startswith("global")]
        return dict(Counter(f"{each.name}.{8 * each.width}" for each in found))

    def chain(self) -> int:
        """How many global loads wait for one another at most: the longest chain by the registers they read."""
        depth, longest = Counter(), 0
        for each in self.way:
            operands = each.operands.split(",")
            writes = 0 if each.kind[0] in ("global store", "control") else 2 if "SETP" in each.name else 1
            read = re.findall(r"U?[RP]\d+", ",".join(operands[writes:]) + each.predicate)
            reached = max((depth[register] for register in read), default=0) + (each.kind[0] == "global load")
            longest = max(longest, reached)
            for register in re.findall(r"U?[RP]\d+", ",".join(operands[:writes])):
                wide = each.width // 4 if each.kind[0].endswith("load") else 1 + ("WIDE" in each.opcode)
                letters, number = re.match(r"([A-Z]+)(\d+)", register).groups()
                for k in range(max(1, wide)):
                    depth[f"{letters}{int(number) + k}"] = max(reached, depth[register] if each.predicate else 0)
        return longest


def per_element(build: Build) -> str:
    """Instructions for each element that a thread writes, as a table's cell."""
    threads, elements, code = WARP * build.target.num_warps, build.target.elements, read(build.sass())
    if code.way is None or not elements:
        return code.shape
    return "at most " * (code.shape == "branches") + f"{len(code.way) * threads / elements:.1f}"


def read(text: str) -> Code:
    """The code of a listing of one kernel."""
    code = [Instruction(int(a, 16), p or "", o, r.strip()) for a, p, o, r in LINE.findall(text)]
    end = max(k for k, each in enumerate(code) if each.name == "EXIT")
    place = {each.address: k for k, each in enumerate(code)}
    used = [each for each in code[: end + 1] if each.name != "NOP"]
    if not any(each.name == "BRA" or UNKNOWN.fullmatch(each.name) for each in used):
        return Code("straight", used)
    longest: list[tuple[int, int | None]] = [(0, None)] * (len(code) + 1)
    for k in reversed(range(len(code))):
        each, after = code[k], [k + 1] if k + 1 < len(code) else []
        if k > end and each.name in ("BRA", "NOP"):
            continue  # the loop in place that fills the last line
        if UNKNOWN.fullmatch(each.name):
            return Code("loops or jumps", None)
        if each.name == "EXIT" and not each.predicate:
            after = []
        if each.name == "BRA":
            target = place[int(re.findall(r"0x([0-9a-f]+)", each.operands)[-1], 16)]
            if target <= k:
                return Code("loops or jumps", None)
            after = [target, k + 1] if each.predicate or not re.fullmatch(r"0x\w+", each.operands) else [target]
        best = max(after, key=lambda j: longest[j][0], default=None)
        longest[k] = ((longest[best][0] if best is not None else 0) + (each.name != "NOP"), best)
    way, k = [], 0
    while k is not None:
        way.append(code[k])
        k = longest[k][1]
    return Code("branches", [each for each in way if each.name != "NOP"])
