"""Signals that stop a run in order: it ends the step, saves, and can be resumed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastmix.distributed import rank, world
from fastmix.engine.checkpoint import State

KINDS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
ECHO = 1.0
"""Seconds within which torchrun may hand a Ctrl-C on to a process that the terminal has told already."""


@contextmanager
def by_signals(state: State) -> Iterator[None]:
    """Within it SIGTERM, SIGHUP and Ctrl-C set `state.stop`, and a second Ctrl-C raises KeyboardInterrupt.

    A signal that is ignored stays so: nohup, and shells that start a run in the background. In another thread than the
    main one, where Python takes no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = -ECHO

    def ask(kind: int, _) -> None:
        nonlocal asked
        if kind == signal.SIGINT and state.stop and not (world() > 1 and time.monotonic() - asked < ECHO):
            raise KeyboardInterrupt
        if kind == signal.SIGINT and not state.stop and rank() == 0:
            os.write(2, b"\nfastmix train: stopping after this step; Ctrl-C again ends at once, without saving\n")
        asked, state.stop = time.monotonic(), True

    before = {kind: signal.getsignal(kind) for kind in KINDS}
    for kind in (kind for kind in KINDS if before[kind] != signal.SIG_IGN):
        signal.signal(kind, ask)
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
