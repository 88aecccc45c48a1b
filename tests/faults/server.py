"""python -m faults.server: runs commands in forks of a process that has imported what they need.

A line of JSON on stdin asks for one: words, folder, env, limit (seconds), files (for stdout and stderr). The answer is
a line of JSON with code (negative: a signal), hung, and left: processes and shared memory that outlived it.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import re
import runpy
import signal
import sys
import tempfile
import threading
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import NoReturn

MODULES = ("fastmix.engine.training", "fastmix.engine.dryrun", "fastmix.engine.validation", "fastmix.runs.scheduler")
MODULES += ("fastmix.pipelines.packing.pack", "fastmix.pipelines.packing.check", "fastmix.mixers", "PIL.Image")


def main() -> None:
    import fastmix.models

    fastmix.models.load_timm()
    for name in MODULES:
        import_module(name)
    import_module("fastmix.pipelines.sources.download").PAUSE = 0.05  # before a further try
    gc.collect()
    gc.freeze()  # else a child's first collection copies the memory
    assert len(os.listdir("/proc/self/task")) == 1, "a thread runs: its locks would be lost in a fork"
    for line in sys.stdin:
        ask = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            become(ask)
        answer = wait(child, began + ask["limit"])
        print(json.dumps(answer), flush=True)


def become(ask: dict) -> NoReturn:
    """Runs the command in this process and ends it as Python would, but for freeing memory, which takes a second."""
    os.setsid()
    os.chdir(ask["folder"])
    os.environ.update(ask["env"])
    tempfile.tempdir = None
    for number, path in enumerate(ask["files"], 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    module, *sys.argv[1:] = ask["words"]
    sys.path[0] = ask["folder"]  # as `python -m` has it
    sys.modules.pop(module, None)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait(child: int, until: float) -> dict:
    """How the child ended, which is made to end at a time."""
    hung = False
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > until:
            hung = True
            os.killpg(child, signal.SIGKILL)
            until = float("inf")
        time.sleep(0.005)
    others = members(child)  # while the dead child still holds the group's number
    if others:
        time.sleep(0.3)
        others = members(child)
        for pid in others:
            os.kill(pid, signal.SIGKILL)
    left = [f"process {pid}" for pid in others] + [f"/dev/shm/{name}" for name in shared(child)]
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"code": code, "hung": hung, "left": left}


def shared(pid: int) -> list[str]:
    """Shared memory that bears a process's number in its name, as torch's does."""
    return [name for name in os.listdir("/dev/shm") if str(pid) in re.findall(r"\d+", name)]


def members(group: int) -> list[int]:
    """The living processes of a group but its leader."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != group:
            try:
                state, _, own, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            except (OSError, ValueError):
                continue
            if int(own) == group and state != "Z":
                found.append(int(folder.name))
    return found


if __name__ == "__main__":
    main()
