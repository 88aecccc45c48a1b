"""Followers: a process for each tracker of a run, which reads log.jsonl as it grows and hands it on.

Training writes its log and nothing else: it neither waits for a tracker nor holds its memory, and what crashes or hangs
in one is at most a line. A follower ends when its standard input does, so also where the run was killed. In
track/NAME.json it keeps what names the run to the tracker and how much of the log is handed on: a resumed run goes on
there, with what an earlier follower left undone. What it prints is in track/NAME.log.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

from fastmix import config, files, optional, system
from fastmix.runs import run_folder
from fastmix.runs.trackers import PACKAGES, TRACKERS

START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from fastmix.runs.follower import main; main()"
WAIT = 30.0  # seconds that a run's end waits for its trackers; FASTMIX_TRACK_WAIT sets another number
EVERY = 1.0  # seconds between two looks at the log
POLITE = 10  # added to a follower's niceness: training comes first


def require(names: list[str]) -> None:
    """Raises ValueError where a tracker's package is missing, or the time limit is none."""
    for name in names:
        optional.need(f"track: {name}", *PACKAGES.get(name, ()))
    wait()


def wait() -> float:
    return system.seconds("FASTMIX_TRACK_WAIT", WAIT)


class Followers:
    """The followers of a run folder, whose log.jsonl exists. `warn` is called with a line for each that is lost."""

    def __init__(self, folder: Path, names: list[str], warn: Callable[[str], None]):
        self.folder, self.warn, self.running = folder / "track", warn, {}
        for name in names:
            self._start(name)

    def _start(self, name: str) -> None:
        command = [sys.executable, "-c", START, json.dumps(sys.path), name, str(self.folder.parent), str(wait())]
        try:
            self.folder.mkdir(exist_ok=True)
            with open(self._said(name), "ab") as said:
                self.running[name] = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True
                )
        except OSError as error:
            self._lost(name, f"does not start ({error.strerror})")

    def look(self) -> None:
        """Tells of followers that have ended. Costs a system call each."""
        for name, process in [*self.running.items()]:
            if process.poll() is not None:
                self._ended(name)

    def close(self) -> None:
        """Has all hand on the rest and end; those that do not within the limit are killed, with what they started."""
        for process in self.running.values():
            process.stdin.close()
        end = time.monotonic() + wait()
        try:
            for name, process in [*self.running.items()]:
                try:
                    process.wait(max(0.0, end - time.monotonic()))
                    self._ended(name)
                except subprocess.TimeoutExpired:
                    self._lost(name, f"has not ended in {wait():g} s (FASTMIX_TRACK_WAIT)")
        finally:
            for process in self.running.values():
                os.killpg(process.pid, signal.SIGKILL)  # its session is its own, so is the group
                process.wait()
            self.running.clear()

    def _ended(self, name: str) -> None:
        process = self.running.pop(name)
        process.stdin.close()
        if process.returncode:
            lines = self._said(name).read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            self._lost(name, f"ended with {process.returncode}" + (f" ({last[:200]})" if last else ""))

    def _said(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _lost(self, name: str, why: str) -> None:
        self.warn(f"track: {name} {why}; the run goes on without it. {self._said(name)} has what it said")


def follow(folder: Path, name: str, ended: threading.Event) -> None:
    """Hands the log on to a tracker until `ended` is set and its last line is read."""
    kept = folder / "track" / f"{name}.json"
    state = json.loads(kept.read_text()) if kept.exists() else {"identity": uuid.uuid4().hex[:8], "read": 0}
    tracker = TRACKERS[name](folder, state["identity"], first=not kept.exists())
    files.write_text(kept, json.dumps(state))
    with open(folder / "log.jsonl", "rb") as log:
        log.seek(state["read"])
        while True:
            last = ended.wait(EVERY)  # asked before the log is read: nothing comes into it afterwards
            for line in whole_lines(log):
                if row := run_folder.parsed(line.decode(errors="replace")):
                    tracker.log(row)
            tracker.flush()
            if log.tell() > state["read"]:
                state["read"] = log.tell()
                files.write_text(kept, json.dumps(state))
            if last:
                break
    tracker.close(finished(folder))


def whole_lines(log: IO[bytes]) -> list[bytes]:
    """The lines behind the file's position whose ends are written; the position moves behind them."""
    read = log.read()
    length = read.rfind(b"\n") + 1
    log.seek(length - len(read), os.SEEK_CUR)
    return read[:length].splitlines()


def finished(folder: Path) -> bool:
    """Whether the last epoch is validated."""
    epochs = config.load(folder / "config.yaml").epochs
    return (run_folder.last(folder).get("val") or {}).get("epoch") == epochs


def main() -> None:
    """A follower's process: its arguments are sys.path, a tracker's name, the run folder and the limit of its end."""
    name, folder, limit = sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # which the run gets, too: its end is the follower's
        signal.signal(kind, signal.SIG_IGN)
    os.nice(POLITE)
    ended = threading.Event()

    def watch() -> None:
        sys.stdin.buffer.read()
        ended.set()
        signal.alarm(math.ceil(limit) + 5)  # where the run is no longer there to end it

    threading.Thread(target=watch, daemon=True).start()
    try:
        follow(folder, name, ended)
    except BaseException:
        traceback.print_exc()
        code = 1
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without the libraries' own endings, which may hang
