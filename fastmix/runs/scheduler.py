"""The runs of a sweep trained by an engine, told on the terminal as they go; and the engine that is this machine."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from fastmix import system
from fastmix.runs import one_run, queue, run_folder, tables
from fastmix.runs.one_run import Child, Outcome
from fastmix.runs.queue import Job

POLL = 0.5
"""Seconds between looks at the runs."""
REDRAW = 5.0
"""Seconds between status tables on a terminal."""


class Engine(Protocol):
    """What trains runs: this machine's slots, or a cluster."""

    goes_on: bool
    """Whether a run that was stopped, and not by this sweep, is to be continued by it: its place was taken away."""

    def busy(self) -> bool:
        """Whether it trains any."""

    def room(self) -> bool:
        """Whether it takes another run now."""

    def begin(self, job: Job, retry: bool) -> str:
        """Takes a run, and says so; nothing where another process has it."""

    def ended(self) -> list[tuple[Job, Outcome]]:
        """The runs that have ended since it was asked."""

    def stop(self) -> None:
        """Has all runs save and end; called a second time, end."""

    def close(self) -> None:
        """Leaves nothing behind."""


class Local:
    """This machine: a run a slot at a time. `slots`: of devices(), each as often as it takes runs at a time."""

    goes_on = False

    def __init__(self, slots: list[str | None]):
        self.slots, self.free = slots, list(slots)
        self.running: list[tuple[Child, str | None]] = []

    def words(self, job: Job, device: str | None) -> list[str]:
        """Runs at a time share the cores."""
        several = len(self.slots) > 1
        return one_run.command(job, device is not None, max(1, system.cores() // len(self.slots)) if several else None)

    def busy(self) -> bool:
        return bool(self.running)

    def room(self) -> bool:
        return bool(self.free)

    def begin(self, job: Job, retry: bool) -> str:
        lock = one_run.take(job, retry)
        if lock is None:
            return ""
        device = self.free.pop(0)
        env = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
        self.running.append((one_run.start(job, self.words(job, device), lock, env), device))
        return "started" + f" on GPU {device}" * bool(device)

    def ended(self) -> list[tuple[Job, Outcome]]:
        over = [(child, device) for child, device in self.running if child.ended()]
        self.running = [pair for pair in self.running if pair not in over]
        self.free += [device for _, device in over]
        return [(child.job, one_run.end(child)) for child, _ in over]

    def stop(self) -> None:
        for child, _ in self.running:
            child.stop()

    def close(self) -> None:
        self.stop()


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


def to_do(retry: bool) -> tuple[str, ...]:
    """The states of runs that a sweep trains."""
    return ("waiting", "stopped", queue.EARLY, *["failed"] * retry)


def sweep(jobs: list[Job], engine: Engine, retry: bool = False) -> int:
    """Trains the jobs; 0: all finished, 1: not all, 128 + signal where one stopped the sweep."""
    begun = to_do(retry)
    waiting = [job for job in jobs if job.state in (*begun, "running")]
    signals, told = [], 0
    handlers = handled_by(lambda got, _: signals.append(got))
    screen = Screen(jobs)
    try:
        while engine.busy() or (waiting and not signals):
            for job in [] if signals else list(waiting):
                if not engine.room():
                    break
                state = job.state
                if state == "running":
                    continue  # another sweep trains it; if that one ends early, this one goes on
                waiting.remove(job)
                if state not in begun:
                    continue  # another sweep has ended it
                if text := engine.begin(job, retry):
                    screen.say(f"{job.folder}: {text}")
                else:
                    waiting.append(job)
            if told < len(signals):
                engine.stop()
                told += 1
            for job, outcome in engine.ended():
                if outcome.kind == "busy" or (outcome.kind == "stopped" and engine.goes_on and not signals):
                    waiting.append(job)
                if outcome.kind != "busy":
                    screen.say(f"{job.folder}: {outcome.text}")
            screen.show()
            time.sleep(POLL / 5 if signals else POLL)
    finally:
        engine.close()
        restore(handlers)
    return ended(jobs, screen, signals, ("finished",))


def handled_by(handler: Callable) -> dict[int, object]:
    """Has handler(kind, frame) take the signals that ask a sweep to end; what took them before, for restore()."""
    return {kind: signal.signal(kind, handler) for kind in (signal.SIGINT, signal.SIGTERM)}


def restore(handlers: dict[int, object]) -> None:
    for kind, handler in handlers.items():
        signal.signal(kind, handler)


def ended(jobs: list[Job], screen: Screen, signals: list[int], good: tuple[str, ...]) -> int:
    """Prints what became of the jobs; 0: all are in a good state, 1: not all, 128 + the first signal."""
    screen.clear()
    print(status(jobs), end="")
    if signals:
        return 128 + signals[0]
    return int(any(job.state not in good for job in jobs))


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
            train = run_folder.last(job.folder).get("train")
            epoch = f"{train['epoch']:.1f}" if train else "0"
            pace = f"{train['images_per_s']:.0f}" if train else "–"
            left = _left(job, train) if train and state == "running" else "–"
            why = queue.why(job.folder, state)
            rows.append(
                [str(job.folder), state, f"{epoch}/{job.cfg.epochs}", run_folder.top1(job.folder), pace, left, why]
            )
    header = ["run", "state", "epoch", "top-1", "images/s", "left", ""]
    count = ", ".join(f"{number} {state}" for state, number in Counter(states).items())
    return tables.markdown(header, rows) + f"{len(jobs)} runs: {count}\n"


def _left(job: Job, train: dict) -> str:
    minutes = run_folder.minutes_left(job.cfg, train)
    return "–" if minutes is None else f"{minutes // 60}:{minutes % 60:02}"
