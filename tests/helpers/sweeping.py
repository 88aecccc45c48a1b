"""Sweeps watched from outside: the processes that train their runs, and programs that stand in for training."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

PATIENT = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(print("saving"))))
open(sys.argv[1] + "/log.jsonl", "w").close()
time.sleep(60)
"""
"""A module whose argument is a run folder: it begins, and trains until it is told to stop."""
CLIMBING = """
import json, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(75)))
folder, rate = sys.argv[1], float(sys.argv[2])
for epoch in range(1, 28):
    time.sleep(0.05)
    with open(folder + "/log.jsonl", "a") as log:
        log.write(json.dumps({"kind": "train", "time": 1, "step": epoch, "epoch": epoch, "images_per_s": 1}) + "\\n")
        log.write(json.dumps({"kind": "val", "time": 1, "step": epoch, "epoch": epoch, "top1": rate * epoch}) + "\\n")
open(folder + "/model.safetensors", "w").close()
"""
"""A module whose arguments are a run folder and a rate: in 27 epochs, top-1 climbs by the rate in each."""


def wait(what: Callable[[], object], seconds: float = 180):
    """What it returns, as soon as that is true; the limit is for a busy machine."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)
    return found


def trainers() -> dict[str, int]:
    """The processes that train in this folder, by the last word of what they were told but --resume."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").rstrip("\0").split("\0")
            if "fastmix.runs.end_with_parent" in words and os.readlink(path.with_name("cwd")) == os.getcwd():
                found[[word for word in words if word != "--resume"][-1].removeprefix("out=")] = int(path.parent.name)
        except OSError:
            continue
    return found


def parents(pid: int) -> list[int]:
    """The processes above one."""
    above = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        above.append(pid)
    return above
