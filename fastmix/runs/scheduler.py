"""The runs of a sweep trained: a process each, one a GPU at a time, told on the terminal as they go."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass

from fastmix import cli, launch, system
from fastmix.runs import queue, run_folder, tables
from fastmix.runs.queue import FAILED, Job

POLL = 0.5
"""Seconds between looks at the processes."""
REDRAW = 5.0
"""Seconds between status tables on a terminal."""


@dataclass
class Child:
    """A run that is being trained."""

    job: Job
    device: str | None
    process: subprocess.Popen
    lock: run_folder.Lock
    log_begin: int


def devices(gpus: str | None, device: str = "auto") -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each GPU to use, or [None] for the CPU. Raises ValueError for a GPU that is not there."""
    if device == "cpu":
        if gpus is not None:
            raise ValueError(f"--gpus {gpus}, but the config says device: cpu")
        return [None]
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if os.environ.get("CUDA_VISIBLE_DEVICES") else None
    count = torch.cuda.device_count()
    known = (visible or [str(k) for k in range(count)])[:count]
    if gpus is None:
        return known or [None]
    chosen = gpus.split(",")
    if missing := [gpu for gpu in chosen if gpu not in known]:
        raise ValueError(f"--gpus {gpus}: no GPU {missing[0]!r}; there are: {', '.join(known) or 'none'}")
    return list(dict.fromkeys(chosen))


def command(job: Job, device: str | None, slots: list) -> list[str]:
    """The module that trains the run, and its words. Runs at a time share the cores, if the config says nothing."""
    words = list(job.settings)
    if job.cfg.data.workers is None and len(slots) > 1:
        words.append(f"data.workers={max(1, system.cores() // len(slots))}")
    if device is not None and job.cfg.device == "auto":
        words.append("device=cuda")  # never the CPU instead
    return ["fastmix.train", job.source, *words, f"out={job.folder}", "--resume"]


def sweep(jobs: list[Job], slots: list[str | None], retry: bool = False) -> int:
    """Trains the jobs, one a slot at a time; 0: all finished, 1: not all, 128 + signal where one stopped the sweep."""
    waiting = [job for job in jobs if job.state not in ("finished", *["failed"] * (not retry))]
    free, running, signals = list(slots), [], []
    kinds = (signal.SIGINT, signal.SIGTERM)
    handlers = {kind: signal.signal(kind, lambda got, _: signals.append(got)) for kind in kinds}
    screen = Screen(jobs)
    try:
        while (waiting or running) and not signals:
            for job in list(waiting):
                if not free:
                    break
                lock = job.lock()
                if lock is None:
                    continue  # another sweep trains it; if that one ends early, this one goes on
                waiting.remove(job)
                failed = (job.folder / FAILED).exists() and not retry
                if run_folder.finished(job.folder, job.cfg.epochs) or failed:  # by another sweep, in between
                    lock.release()
                    continue
                running.append(start(job, free.pop(0), slots, lock))
                screen.say(f"{job.folder}: started" + f" on GPU {running[-1].device}" * bool(running[-1].device))
            for child in [child for child in running if child.process.poll() is not None]:
                running.remove(child)
                free.append(child.device)
                end(child, screen)
            screen.show()
            time.sleep(POLL)
        for child in running:
            child.process.terminate()  # it saves and ends
        while running:
            if len(signals) > 1:  # asked twice
                for child in running:
                    child.process.kill()
            for child in [child for child in running if child.process.poll() is not None]:
                running.remove(child)
                end(child, screen)
            time.sleep(POLL / 5)
    finally:
        for child in running:
            child.process.terminate()
        for kind, handler in handlers.items():
            signal.signal(kind, handler)
    screen.clear()
    print(status(jobs), end="")
    if signals:
        return 128 + signals[0]
    return int(any(job.state != "finished" for job in jobs))


def start(job: Job, device: str | None, slots: list, lock: run_folder.Lock) -> Child:
    """Begins or continues a run. Its process holds the lock, and gets SIGTERM should the sweep die (Linux)."""
    (job.folder / FAILED).unlink(missing_ok=True)
    env = launch.alone() | {run_folder.INHERITED: str(lock.file.fileno())}
    env |= {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
    with open(job.folder / "train.log", "ab") as log:
        begin = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "fastmix.runs.end_with_parent", str(os.getpid()), *command(job, device, slots)],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock.file.fileno()],
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which then ends its runs in order
        )
    return Child(job, device, process, lock, begin)


def end(child: Child, screen: Screen) -> None:
    """Notes how a run ended."""
    job, code = child.job, child.process.returncode
    if code == 0 and run_folder.finished(job.folder, job.cfg.epochs):
        screen.say(f"{job.folder}: finished, top-1 {_top1(run_folder.last(job.folder))} %")
    elif code in (0, cli.TRY_AGAIN):
        screen.say(f"{job.folder}: stopped, saved")
    else:
        with open(job.folder / "train.log", "rb") as log:
            log.seek(child.log_begin)
            lines = log.read().decode(errors="replace").strip().splitlines() or ["no output"]
        killed = f"killed by {signal.Signals(-code).name}; last: " if code < 0 else ""
        (job.folder / FAILED).write_text(f"{killed}{lines[-1]}\n", encoding="utf-8")
        screen.say(f"{job.folder}: failed, {killed}{lines[-1]} (see train.log there)")
    child.lock.release()


class Screen:
    """Lines of what happens, and on a terminal the status of the runs below them."""

    def __init__(self, jobs: list[Job]):
        self.jobs, self.drawn, self.told = jobs, 0, 0.0

    def say(self, text: str) -> None:
        self.clear()
        print(text, flush=True)
        self.told = 0.0

    def show(self) -> None:
        if not sys.stdout.isatty() or time.monotonic() - self.told < REDRAW:
            return
        width, height = shutil.get_terminal_size()
        lines = status(self.jobs).splitlines()
        if len(lines) >= height:
            lines = status(self.jobs, only="running").splitlines()
        self.clear()
        print("".join(f"{line[:width]}\n" for line in lines), end="", flush=True)  # a wrapped line would count twice
        self.drawn, self.told = len(lines), time.monotonic()

    def clear(self) -> None:
        if self.drawn:
            print(f"\x1b[{self.drawn}A\x1b[J", end="", flush=True)
        self.drawn = 0


def status(jobs: list[Job], only: str = "") -> str:
    """A line a run: state, epochs done, last top-1 in percent, images/s, hours and minutes left; then their number."""
    states = [job.state for job in jobs]
    rows = []
    for job, state in zip(jobs, states, strict=True):
        if only in ("", state):
            found = run_folder.last(job.folder)
            train = found.get("train")
            epoch = f"{train['epoch']:.1f}" if train else "0"
            pace = f"{train['images_per_s']:.0f}" if train else "–"
            left = _left(job, train) if train and state == "running" else "–"
            why = queue.why(job.folder) if state == "failed" else ""
            rows.append([str(job.folder), state, f"{epoch}/{job.cfg.epochs}", _top1(found), pace, left, why])
    header = ["run", "state", "epoch", "top-1", "images/s", "left", ""]
    count = ", ".join(f"{number} {state}" for state, number in Counter(states).items())
    return tables.markdown(header, rows) + f"{len(jobs)} runs: {count}\n"


def _top1(found: dict[str, dict]) -> str:
    """Of the weights that are saved: their average, where there is one."""
    val = found.get("val", {})
    score = val.get("ema_top1", val.get("top1"))
    return "–" if score is None else f"{score:.2f}"


def _left(job: Job, train: dict) -> str:
    minutes = run_folder.minutes_left(job.cfg, train)
    return "–" if minutes is None else f"{minutes // 60}:{minutes % 60:02}"
