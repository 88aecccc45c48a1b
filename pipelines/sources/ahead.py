"""Shards elsewhere on their way to the steps that read them: fetched in the order of the epoch, some steps ahead.

    plan of an epoch: which steps read a shard  ->  threads fetch what is needed next, as much as there is room for
                                                ->  shards of the next steps are open, those behind them are let go

All processes of a machine have the same plan, so they want the same shards at about the same time.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator

import numpy as np
from numpy import ndarray

from fastmix.pipelines.sources.bounded import FULL, Bounded, Copy
from fastmix.pipelines.sources.download import Tries

THREADS = 4  # that fetch, of a process
LEAD, BEHIND = 6, 2  # shards are open from so many steps before the first that reads them, to so many after the last:
# from as many as a loader has in work beyond that of the caller
POLL = 0.1  # seconds until a shard that another process is at, or that has no room, is looked at again
REST = 5.0  # seconds until one that failed is tried again, before a step needs it
NEVER = 1 << 60  # the first step of a shard that no step reads

Plan = tuple[ndarray, ndarray]
"""The first and the last step that read each shard, int64 [shards]; NEVER and -1 of one that none reads."""


class Ahead:
    """followed(batches, epoch, first) yields the batches of an epoch from a step on; meanwhile files(shards) waits
    until these are open, and returns their descriptors, int64 [n].

    plan(epoch)  of the whole machine, not of this process's share of the steps
    steps        of an epoch
    """

    def __init__(self, copies: Bounded, plan: Callable[[int], Plan], steps: int):
        self.copies, self.plan, self.steps = copies, plan, steps
        count, self.sizes = len(copies.sizes), np.array(copies.sizes)
        self.changed = threading.Condition()
        self.epoch, self.step, self.following = 0, 0, False
        self.plans: dict[int, Plan] = {}  # of this epoch and of the next one, once a thread has made it
        self.planning = False
        self.first, self.last, self.later = (np.full(count, NEVER) for _ in range(3))
        self.descriptors = np.full(count, -1)
        self.held: dict[int, Copy] = {}
        self.there: set[int] = set()  # on the disk when last looked
        self.at_work: set[int] = set()
        self.rests: dict[int, float] = {}  # until when a shard is not looked at,
        self.shelved: dict[int, float] = {}  # and until when not, unless a step needs it
        self.full: tuple[int, float] | None = None  # a shard without room, and since when a step needs it
        self.failed: dict[int, Exception] = {}
        self.threads: list[threading.Thread] = []
        weakref.finalize(self, _close, self.held)

    def followed(self, batches: Iterator, epoch: int, first: int) -> Iterator:
        self._begin(epoch, first)
        try:
            for step, batch in enumerate(batches, first):
                yield batch
                self._pass(step + 1)
        finally:
            with self.changed:
                self.following = False  # nobody waits any more
                self.changed.notify_all()
            batches.close()

    def files(self, shards: ndarray) -> ndarray:
        """Raises OSError and ValueError where a shard cannot be had."""
        found = self.descriptors[shards]
        while (found < 0).any():
            with self.changed:
                k = int(shards[(self.descriptors[shards] < 0).argmax()])
                if self.descriptors[k] < 0:
                    if k in self.failed:
                        raise self.failed[k]
                    if not self.following:
                        raise OSError("data.cache_size has images in an epoch of training alone; leave it empty")
                    self.changed.wait(1.0)
                found = self.descriptors[shards]
        return found

    def _begin(self, epoch: int, step: int) -> None:
        plan = self.plans.get(epoch) or self.plan(epoch)
        with self.changed:
            self.plans = {e: made for e, made in self.plans.items() if e == epoch + 1} | {epoch: plan}
            self.first, self.last = plan
            self.epoch, self.step, self.following = epoch, step, True
            self._look_further()
            for state in (self.there, self.rests, self.shelved, self.failed):
                state.clear()
            self._let_go()
            self.changed.notify_all()
        if not self.threads:
            self.threads = [
                threading.Thread(target=_work, args=(weakref.ref(self),), daemon=True) for _ in range(THREADS)
            ]
            for thread in self.threads:
                thread.start()

    def _pass(self, step: int) -> None:
        """The steps before this one are done."""
        with self.changed:
            self.step = step
            self._let_go()
            self.changed.notify_all()

    def _look_further(self) -> None:
        """Notes when the next epoch reads each shard, if that is known."""
        first = self.plans[self.epoch + 1][0] if self.epoch + 1 in self.plans else NEVER
        self.later = np.minimum(first + self.steps, NEVER)

    def _plan_next(self, epoch: int) -> None:
        plan = self.plan(epoch)
        with self.changed:
            self.planning = False
            if epoch == self.epoch + 1:
                self.plans[epoch] = plan
                self._look_further()

    def _need(self) -> ndarray:
        """The step that reads each shard next, int64 [shards]; those of the next epoch are numbered on."""
        return np.where(self.last < self.step - BEHIND, self.later, np.maximum(self.first, self.step))

    def _let_go(self) -> None:
        need = self._need()
        for k in [k for k in self.held if need[k] > self.step + LEAD]:
            self.descriptors[k] = -1
            self.held.pop(k).close()

    def _next(self, need: ndarray) -> int | None:
        """The shard to see to: the one that is needed soonest, of those that fit into the cache together."""
        order = np.lexsort((self.first, need))
        fits = (np.cumsum(self.sizes[order]) <= self.copies.limit) & (need[order] < NEVER)
        now = time.monotonic()
        for k in order[fits].tolist():
            near = need[k] <= self.step + LEAD
            done = k in self.held if near else k in self.there or self.shelved.get(k, 0) > now
            if done or k in self.at_work:
                continue
            if self.rests.get(k, 0) <= now:
                return k
            if self.full and self.full[0] == k:
                return None  # what is needed later must not take the room
        return None

    def see_to_one(self) -> None:
        """Fetches or opens the next shard, or waits for a change; or plans the next epoch."""
        with self.changed:
            epoch = self.epoch + 1
            if plans := not self.planning and epoch not in self.plans and self.step > BEHIND:
                self.planning = True
        if plans:
            self._plan_next(epoch)
        with self.changed:
            need = self._need()
            k = self._next(need)
            if k is None:
                self.changed.wait(POLL)
                return
            self.at_work.add(k)
        try:
            got = self.copies.take(k, need.__getitem__)
        except (OSError, ValueError) as error:
            got = error
        with self.changed:
            self.at_work.discard(k)
            near = self._need()[k] <= self.step + LEAD
            if isinstance(got, Copy):
                self._have(k, got, near)
            elif isinstance(got, Exception):
                (self.rests if near else self.shelved)[k] = time.monotonic() + REST
                if near:
                    self.failed[k] = got
            else:
                self._retry(k, got, near)
            self.changed.notify_all()

    def _have(self, k: int, copy: Copy, near: bool) -> None:
        self.there.add(k)
        self.failed.pop(k, None)
        if self.full and self.full[0] == k:
            self.full = None
        if near and k not in self.held:
            self.held[k], self.descriptors[k] = copy, copy.file
        else:
            copy.close()

    def _retry(self, k: int, why: str, near: bool) -> None:
        now = time.monotonic()
        self.rests[k] = now + POLL
        if why != FULL:
            return
        if not near or not self.full or self.full[0] != k:
            self.full = k, now
        elif now - self.full[1] > (limit := Tries().limit):
            self.failed[k] = OSError(
                f"{self.copies.folder}: no room for a shard in {limit:g} s, as other processes read those that are "
                "there: set a larger data.cache_size, or FASTMIX_CACHE to a folder of this run's own"
            )


def _work(ref: weakref.ref) -> None:
    """A thread's life: as long as that of whom it works for."""
    while (ahead := ref()) is not None:
        ahead.see_to_one()
        del ahead


def _close(held: dict[int, Copy]) -> None:
    for copy in held.values():
        copy.close()
