"""One run of a sweep trained, on whatever machine this is: its processes, what they are told, and what their end means.

Every engine trains a run so. Whoever has the run's lock starts `fastmix.train --resume`, which inherits the lock,
waits for its end, and notes a failure in the folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Literal

from fastmix import cli, launch
from fastmix.runs import run_folder
from fastmix.runs.queue import FAILED, Job

POLL = 0.5
"""Seconds between looks at the processes."""
PATIENCE = 120.0
"""Seconds for which a run's lock may outlive the machine that held it: NFS frees it after 90."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `busy`: it was not begun, because another process trains it or has ended it."""

    kind: Literal["finished", "stopped", "failed", "busy"]
    text: str


@dataclass
class Child:
    """A run that is being trained, by one process or several on this machine."""

    job: Job
    lock: run_folder.Lock
    processes: list[subprocess.Popen]
    log_begin: int
    asked: int = 0

    def ended(self) -> bool:
        return all(process.poll() is not None for process in self.processes)

    def stop(self) -> None:
        """Has it save and end; asked a second time, end."""
        for process in self.processes:
            process.send_signal(signal.SIGKILL if self.asked else signal.SIGTERM)
        self.asked += 1

    @property
    def code(self) -> int:
        """The exit code of the run: of its processes the first that failed, or that of one that was stopped.

        One that SIGTERM ended had not come to where it saves.
        """
        codes = [process.returncode for process in self.processes]
        codes = [cli.TRY_AGAIN if code == -signal.SIGTERM else code for code in codes]
        return next((code for code in codes if code not in (0, cli.TRY_AGAIN)), max(codes))


def command(job: Job, gpu: bool, workers: int | None) -> list[str]:
    """The module that trains the run, and its words. `workers`: decoding threads, if the config does not say."""
    words = list(job.settings)
    if job.cfg.data.workers is None and workers:
        words.append(f"data.workers={workers}")
    if gpu and job.cfg.device == "auto":
        words.append("device=cuda")  # never the CPU instead
    return ["fastmix.train", job.source, *words, f"out={job.folder}", "--resume"]


def take(job: Job, retry: bool, patience: float = 0.0) -> run_folder.Lock | None:
    """The lock of a run that is to be trained; None where another process keeps it for `patience` s, or ended it."""
    end = time.monotonic() + patience
    while (lock := job.lock()) is None:
        if time.monotonic() >= end:
            return None
        time.sleep(POLL)
    if run_folder.finished(job.folder, job.cfg.epochs) or (not retry and (job.folder / FAILED).exists()):
        lock.release()
        return None
    return lock


def start(
    job: Job, words: list[str], lock: run_folder.Lock, env: dict[str, str] | None = None, processes: int = 1
) -> Child:
    """Begins or continues a run. `env` goes over this process's environment.

    Its processes hold the lock, and get SIGTERM should this one die (Linux).
    """
    for note in (FAILED, run_folder.EARLY):
        (job.folder / note).unlink(missing_ok=True)
    env = launch.alone() | (env or {}) | {run_folder.INHERITED: str(lock.file.fileno())}
    with open(job.folder / "train.log", "ab") as log:
        begin = log.tell()
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "fastmix.runs.end_with_parent", str(os.getpid()), *words],
                env=env | own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock.file.fileno()],
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which then ends its runs in order
            )
            for own in launch.several(processes)
        ]
    return Child(job, lock, running, begin)


def end(child: Child) -> Outcome:
    """How a run ended, noted in its folder where it failed. Gives its lock back."""
    job, code = child.job, child.code
    if code == 0 and run_folder.finished(job.folder, job.cfg.epochs):
        outcome = Outcome("finished", f"finished, top-1 {run_folder.top1(job.folder)} %")
    elif code in (0, cli.TRY_AGAIN):
        outcome = Outcome("stopped", "stopped, saved")
    else:
        with open(job.folder / "train.log", "rb") as log:
            log.seek(child.log_begin)
            lines = log.read().decode(errors="replace").strip().splitlines() or ["no output"]
        killed = f"killed by {signal.Signals(-code).name}; last: " if code < 0 else ""
        (job.folder / FAILED).write_text(f"{killed}{lines[-1]}\n", encoding="utf-8")
        outcome = Outcome("failed", f"failed, {killed}{lines[-1]} (see train.log there)")
    child.lock.release()
    return outcome


def train(job: Job, words: list[str], env: dict[str, str], processes: int, retry: bool) -> Outcome:
    """Trains a run to its end. KeyboardInterrupt, at any time, has it save and end; a second one has it end."""
    child = None
    while True:
        try:
            if child is None:
                lock = take(job, retry, PATIENCE)
                if lock is None:
                    return Outcome("busy", "another process trains it")
                child = start(job, words, lock, env, processes)
            while not child.ended():
                time.sleep(POLL)
            return end(child)
        except KeyboardInterrupt:
            if child is None:
                return Outcome("stopped", "stopped before it began")
            child.stop()
