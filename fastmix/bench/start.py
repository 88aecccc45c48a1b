"""python -m fastmix.bench start: what the first use in a process takes, with and without compiled code on the disk.

In CPU time, which other work on the machine disturbs less. Every figure is of a process of its own, after its imports:
one that finds no compiled code, and one after it that finds what this one kept. With --peer FOLDER, a checkout of
another version, the two take turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from fastmix.bench.measure import row

STATES = ("nothing kept on the disk", "compiled code kept")
SOURCE = "shapes:train?n=64&size=64"
TIMED = "import time\n{imports}\nbegun = time.process_time()\n{work}\nprint('took', time.process_time() - begun)"
LOADER = (
    "from fastmix.pipelines.beton import Beton\nfrom fastmix.pipelines.view import View",
    f"next(iter(Beton({SOURCE!r}, 16, view=View(32), train=True, workers=1).epoch(0)))",
)
MIX = (
    "from fastmix.kernels.mix import cpu, mix\nfrom fastmix.kernels.mix.cases import Case\n"
    "arguments = Case({plan!r}, 11, (32, 32)).arguments()",
    "mix(**arguments)",
)
HELP = "", "try:\n    from fastmix.train import main\n    main(['--help'])\nexcept SystemExit:\n    pass"


def _mix(plan: str) -> tuple[str, str]:
    return MIX[0].format(plan=plan), MIX[1]


def _both(*parts: tuple[str, str]) -> tuple[str, str]:
    return tuple("\n".join(lines) for lines in zip(*parts, strict=True))


PARTS = {
    "the loader beton, first batch": LOADER,
    "the mixing pass, mixup and cutmix, first call": _mix("mixup+cutmix"),
    "the mixing pass, all kinds, first call": _mix("all kinds"),
    "both, of mixup and cutmix": _both(LOADER, _mix("mixup+cutmix")),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="processes for each figure")
    parser.add_argument("--peer", metavar="FOLDER", help="a checkout of another version, in turns with this one")
    parser.add_argument("--only", metavar="WORDS", default="", help="parts whose name has these words")


def run(args: argparse.Namespace):
    """Rows in CPU s. Raises ValueError for a --peer that is no checkout, and RuntimeError where a process fails."""
    from fastmix.pipelines.sources.resolve import resolve

    providers = {"fastmix": None}
    if args.peer:
        providers[_commit(args.peer)] = str(Path(args.peer).resolve())
    resolve(SOURCE)  # drawn once, by nobody who is measured
    for name, code in PARTS.items():
        if args.only not in name:
            continue
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(args.rounds):
            for provider, folder in providers.items():
                with tempfile.TemporaryDirectory() as kept:
                    for state in STATES:
                        times.setdefault((state, provider), []).append(seconds(code, kept, folder))
        for state, provider in product(STATES, providers):
            yield row("start", f"{name}, {state}", provider, "", "uint8", "CPU s", times[state, provider])
    if args.only in "train --help":
        yield row("start", "train --help", "fastmix", "", "", "CPU s", [seconds(HELP, "") for _ in range(args.rounds)])


def seconds(code: tuple[str, str], kept: str, folder: str | None = None) -> float:
    """CPU seconds of the second part of `code`, (imports, work), in a new process with its compiled code in `kept`.

    folder: the checkout that it imports, default this one.
    """
    env = os.environ | {"NUMBA_CACHE_DIR": kept, "OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": folder} if folder else {})
    command = [sys.executable, "-c", TIMED.format(imports=code[0], work=code[1])]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a process that was measured failed: {done.stderr.strip()[-500:]}")
    return float(done.stdout.rsplit("took", 1)[1])


def _commit(folder: str) -> str:
    command = ["git", "-C", folder, "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode or not Path(folder, "fastmix").is_dir():
        raise ValueError(f"--peer: {folder} is no checkout of fastmix")
    return found.stdout.strip()
