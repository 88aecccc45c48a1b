"""What runs a fault and judges it: a case is a command in a folder of its own, run by a warm child process.

A case fails as
    HANG    it ran over its limit
    CRASH   a traceback, death by a signal, or another exit code than the expected one
    SILENT  exit code 0 where an error was expected, a word missing of what is to be said, or more than one line of it
    LOST    a command that refused its input changed a file or left one behind; one that did not changed its input
    LEAK    a process, a half-written or temporary file, or shared memory left behind

A table is a file here with a list FAULTS; test_faults.py finds it. See it fail before the fix: an expectation that was
copied from the output proves nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from helpers import ROOT

CONFIG = Path(__file__).parent / "small.yaml"
"""What `{config}` stands for in a command: one epoch of two steps on a tiny network."""


@dataclass(frozen=True)
class Fault:
    """A fault, and what is to become of it.

    name      unique in its table
    prepare   makes the input in an empty folder, in which the command then runs
    command   what follows `python -m `; `{config}` is a small config, `{python}` the interpreter, `{root}` the checkout
    says      what the error line (exit code 2), or else the output, must hold: what, where, what to do
    code      the exit code
    after     further assertions on the folder and the output (stdout, then stderr)
    env       further environment
    limit     seconds
    changes   patterns of the prepared files that the command may change, where the exit code is not 2
    """

    name: str
    prepare: Callable[[Path], object]
    command: str
    says: tuple[str, ...] = ()
    code: int = 2
    after: Callable[[Path, str], object] | None = None
    env: dict[str, str] = field(default_factory=dict)
    limit: float = 20.0
    changes: tuple[str, ...] = ()


def nothing(folder: Path) -> None:
    """Prepares no file."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code (negative: by that signal), what it wrote, and what outlived it."""

    code: int
    hung: bool
    left: list[str]
    out: str
    err: str

    @property
    def output(self) -> str:
        return self.out + self.err


class Server:
    """A process that has imported what the commands need, and forks for each of them."""

    def __init__(self, scratch: Path):
        self.scratch = scratch
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        env.pop("FASTMIX_TRACEBACK", None)
        env.setdefault("FASTMIX_CACHE", str(scratch / "cache"))
        command = [sys.executable, "-m", "faults.server"]
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        warm = scratch / "warm"
        warm.mkdir()
        done = self.run(["fastmix.train", str(CONFIG)], warm, {}, 600)  # compiles and draws what the cases then find
        assert done.code == 0, done.output

    def run(self, words: list[str], folder: Path, env: dict[str, str], limit: float) -> Outcome:
        """Runs `python -m WORDS` in the folder."""
        paths = self.scratch / "out", self.scratch / "err"
        temporary = self.scratch / "tmp"
        temporary.mkdir(exist_ok=True)
        env = {"TMPDIR": str(temporary), **env}
        ask = {"words": words, "folder": str(folder), "env": env, "limit": limit, "files": [str(p) for p in paths]}
        self.process.stdin.write(json.dumps(ask) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
        left = answer["left"] + sorted(contents(temporary))
        shutil.rmtree(temporary)
        return Outcome(answer["code"], answer["hung"], left, *texts)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@contextmanager
def server(scratch: Path) -> Iterator[Server]:
    running = Server(scratch)
    try:
        yield running
    finally:
        running.close()


def judge(fault: Fault, folder: Path, by: Server) -> None:
    """Runs a fault in an empty folder. Raises AssertionError, which says of what kind the failure is."""
    fault.prepare(folder)
    before = contents(folder)
    words = [
        word.replace("{config}", str(CONFIG)).replace("{python}", sys.executable).replace("{root}", str(ROOT))
        for word in shlex.split(fault.command)
    ]
    done = by.run(words, folder, fault.env, fault.limit)
    after = contents(folder)

    def check(good: bool, kind: str, why: str) -> None:
        assert good, f"{kind}: {why}\n$ python -m {shlex.join(words)}\nexit code {done.code}\n{done.output[-4000:]}"

    check(not done.hung, "HANG", f"over {fault.limit} s")
    check("Traceback" not in done.err, "CRASH", "a traceback")
    check(done.code >= 0, "CRASH", f"died by signal {-done.code}")
    check(done.code != 0 or fault.code == 0, "SILENT", f"expected exit code {fault.code}")
    check(done.code == fault.code, "CRASH", f"expected exit code {fault.code}")
    said = done.output
    if fault.code == 2:
        said = done.err
        module = next((word for word in words if word.startswith("fastmix.")), words[0])
        prefix = f"fastmix {module.removeprefix('fastmix.')}: error: "
        one = len(said.splitlines()) == 1 and said.startswith(prefix) and said.strip() != prefix.strip()
        check(one, "SILENT", f"expected one line that begins with {prefix!r}")
        check("\x1b" not in said, "SILENT", "colours in the error")
    missing = [text for text in fault.says if text not in said]
    check(not missing, "SILENT", f"not said: {missing}")
    allowed = () if fault.code == 2 else fault.changes
    lost = [path for path in before if after.get(path) != before[path] and not any(fnmatch(path, a) for a in allowed)]
    check(not lost, "LOST", f"changed or gone: {lost}")
    left = sorted(after.keys() - before.keys())
    check(fault.code != 2 or not left, "LOST", f"left behind: {left}")
    half = [path for path in left if path.endswith((".part", ".tmp", "~"))]
    check(not half and not done.left, "LEAK", f"left over: {half + done.left}")
    if fault.after:
        fault.after(folder, done.output)


def contents(folder: Path) -> dict[str, str]:
    """What stands at each path below a folder: a digest of a file's bytes, a link's target, or the kind of the rest."""
    found = {}
    for path, folders, names in os.walk(os.fsencode(folder)):
        for name in [*folders, *names]:
            full = os.path.join(path, name)
            mode = os.lstat(full).st_mode
            if stat.S_ISREG(mode):
                with open(full, "rb") as file:
                    what = hashlib.sha256(file.read()).hexdigest()
            else:
                what = os.fsdecode(os.readlink(full)) if stat.S_ISLNK(mode) else f"kind {stat.S_IFMT(mode):o}"
            found[os.fsdecode(os.path.relpath(full, os.fsencode(folder)))] = what
    return found
