"""Whether the other machines of a run are still there.

A machine that loses its power or its network closes no connection: the others would wait in an all-reduce for half
an hour, or for ever. So the first process of each machine counts in the store that the group met in, every few seconds,
and every process watches the counts. Where one stands still for too long, the processes that see it end, with a line.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import torch.distributed as dist

EVERY = 3.0  # seconds between two counts
SILENT = 45.0  # seconds after which a machine counts as lost; FASTMIX_SILENT_TIMEOUT sets another number
LOST = 1  # exit code


class Heartbeat:
    """Watches `machines`: names of machines by the key under which each counts, that of the store first.

    Counts under `own`, of the first process of this machine; the others have none. `store` is a connection of its own:
    an operation on a machine that is gone may never come back. Two threads, therefore: one that counts and reads, one
    that looks at the clock. Where a machine is silent for `limit` seconds, the process ends.
    """

    def __init__(self, store: dist.Store, machines: dict[str, str], own: str | None, limit: float):
        self.store, self.machines, self.own, self.limit = store, machines, own, limit
        self.ended = threading.Event()
        self.answered = time.monotonic()  # when the store did last
        self.heard = dict.fromkeys(machines, self.answered)  # when a count was last another one
        for loop in (self._count, self._watch):
            threading.Thread(target=loop, daemon=True).start()

    def end(self) -> None:
        """No longer counts or watches, and the others no longer wait for this machine."""
        self.ended.set()

    def _count(self) -> None:
        seen: dict[str, bytes] = {}
        number = 0
        while True:
            last = self.ended.is_set()
            number += 1
            try:
                if self.own:
                    self.store.set(self.own, "end" if last else str(number))
                if last:
                    return
                for key, count in zip(self.machines, self.store.multi_get(list(self.machines)), strict=True):
                    if count != seen.get(key):
                        seen[key], self.heard[key] = count, time.monotonic() if count != b"end" else float("inf")
                self.answered = time.monotonic()
            except RuntimeError:  # the store's machine is gone, or has ended: the clock tells how long
                if last:
                    return
            self.ended.wait(EVERY)

    def _watch(self) -> None:
        while not self.ended.wait(1.0):
            lost = self.lost(time.monotonic())
            if lost:
                sys.stderr.write(f"error: {lost}\n")
                sys.stderr.flush()
                os._exit(LOST)  # the main thread waits in an operation that nothing interrupts

    def lost(self, now: float) -> str:
        """What to say of machines that are silent for too long; empty where there are none."""
        silent = [self.machines[key] for key, heard in self.heard.items() if now - heard > self.limit]
        if not silent:
            return ""
        if now - self.answered > self.limit / 2:
            silent = [next(iter(self.machines.values()))]  # whose store tells of the others
        return (
            f"nothing was heard of {', '.join(silent)} for {self.limit:g} s: the machine or the network to it is gone. "
            "Start all processes again with --resume; FASTMIX_SILENT_TIMEOUT sets another number of seconds"
        )
