"""A command of ours in a process group of its own, under a time limit, with a log; nothing of it outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple


class Outcome(NamedTuple):
    """code: the exit code; None where the limit ended it. tail: the last line that it wrote, for a reader."""

    code: int | None
    seconds: float
    tail: str


def run(words: list[str], limit: float, log: Path, env: dict[str, str]) -> Outcome:
    """`python -m WORDS` for at most `limit` seconds, what it writes appended to `log`. With Ctrl-C it ends as well."""
    command = [sys.executable, "-m", "fastmix.runs.end_with_parent", str(os.getpid()), *words]
    begun = time.perf_counter()
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ python -m {' '.join(words)}    # at most {limit:.0f} s\n")
        file.flush()
        streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
        process = subprocess.Popen(
            command, **streams, env=env, preexec_fn=os.setpgrp
        )  # no session: priorities hang on it
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
            file.write(f"stopped at its limit of {limit:.0f} s\n")
        finally:
            _end(process)
    return Outcome(code, time.perf_counter() - begun, _last(log))


def _end(process: subprocess.Popen) -> None:
    """The process and what it started, in its group, which is ours alone."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _last(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
