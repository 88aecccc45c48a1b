"""python -m faults.elsewhere WHAT MODULE ARGUMENT ...: a module, as it runs where the system is another one.

WHAT, joined by +:
    mac         without what only Linux has
    unlocked    on a file system without locks
    windows     where there are no locks at all
    thread      in another thread than the main one
    threadless  where no thread can be started
    closed      without stdout and stderr, as some daemons start
    ascii       with an output that takes ASCII only
    gone        in a folder that has been removed
    umask077
"""

from __future__ import annotations

import errno
import io
import os
import runpy
import sys
import threading
from pathlib import Path

from fastmix import system


def mac() -> None:
    for name in ("sched_getaffinity", "posix_fadvise"):
        delattr(os, name)
    read, is_file = Path.read_text, Path.is_file

    def read_text(self, *words, **options):
        if str(self).startswith("/proc/"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(self))
        return read(self, *words, **options)

    Path.read_text = read_text
    Path.is_file = lambda self: not str(self).startswith("/proc/") and is_file(self)


def unlocked() -> None:
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    system.fcntl.flock = flock


def windows() -> None:
    system.fcntl = None


def threadless() -> None:
    def start(self):
        raise RuntimeError("can't start new thread")

    threading.Thread.start = start


def closed() -> None:
    os.close(1)
    sys.stdout = sys.stderr = None


def ascii() -> None:
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, "ascii", "strict")


def gone() -> None:
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")


def umask077() -> None:
    os.umask(0o077)


def main() -> int:
    what = sys.argv[1].split("+")
    sys.argv = sys.argv[2:]
    for name in what:
        if name != "thread":
            globals()[name]()
    if "thread" not in what:
        return run()
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run()))
    thread.start()
    thread.join()
    return codes[0] if codes else 1


def run() -> int:
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code or 0
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout = sys.stdout or sys.__stdout__
    sys.stderr = sys.stderr or sys.__stderr__
    sys.exit(code)
