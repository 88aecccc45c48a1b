"""python -m fastmix.doctor [--json]: what this machine has, and what each missing part would give.

Exit code 0 where training can run here, on a GPU or the CPU, 1 where it cannot (docs/doctor.md).
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from textwrap import wrap

import fastmix
from fastmix import cli
from fastmix.machine import findings as judge
from fastmix.machine import probes
from fastmix.machine.facts import Facts
from fastmix.machine.findings import Finding

WIDTH = 120
MARGIN = " " * 21  # below a finding's text


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.doctor", description="Tell what this machine has, and what is missing.")
    parser.add_argument("--json", action="store_true", help="facts and findings as one JSON object")
    args = parser.parse_args(argv)
    facts = probes.gather()
    found = judge.findings(facts)
    trains = judge.can_train(found)
    if args.json:
        print(
            json.dumps({"can_train": trains, "facts": asdict(facts), "findings": [asdict(f) for f in found]}, indent=1)
        )
    else:
        print("\n".join(screen(facts, found)))
    return 0 if trains else 1


def screen(facts: Facts, found: list[Finding]) -> list[str]:
    """The lines, of at most WIDTH characters."""
    lines = [f"fastmix {fastmix.__version__}, {facts.system}"]
    for finding in found:
        gives = f"; would give: {finding.gives}" if finding.gives and finding.level != judge.OK else ""
        head = f"{finding.level:8} {finding.part:12}"
        lines += _wrapped(head.ljust(len(MARGIN)), finding.text + gives)
        lines += _wrapped(f"{MARGIN}> ", finding.command)
    count = {level: sum(finding.level == level for finding in found) for level in judge.LEVELS}
    rest = ", ".join(f"{n} {level}" for level, n in count.items() if n)
    gpus = len(facts.torch.gpus) if facts.torch else 0
    where = f"on {gpus} GPU{'s' * (gpus > 1)}" if gpus else "on the CPU"
    return [
        *lines,
        f"Training can run here, {where}: {rest}" if judge.can_train(found) else f"Training cannot run here: {rest}",
    ]


def _wrapped(head: str, text: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(cli.run(main, "doctor"))
