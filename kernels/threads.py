"""A batch's samples spread over a few threads that stay: what the CPU kernels have in common."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import count

import torch

SHARE = 200_000  # elements below which handing a part to a thread takes longer than doing it


def share(work: Callable[[int, int], None], n: int, elements: int) -> None:
    """Calls work(first, last) for parts of 0..n that together are all of it, `elements` being their size in memory.

    In `torch.get_num_threads()` threads, of which this is one. `work` should not hold the interpreter lock.
    """
    workers = torch.get_num_threads()
    parts = min(n, 4 * workers, elements // SHARE)
    if workers == 1 or parts < 2:
        work(0, n)
        return
    edges, following = [n * k // parts for k in range(parts + 1)], count()

    def take() -> None:
        while (k := next(following)) < parts:
            work(edges[k], edges[k + 1])

    others = [_pool(os.getpid(), workers).submit(take) for _ in range(min(workers, parts) - 1)]
    take()  # this thread has nothing to wait for while there are parts
    for other in others:
        if not other.cancel():  # it has begun
            other.result()


@lru_cache(maxsize=1)
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """Kept from call to call; a forked process has none of its parent's threads and makes its own."""
    return ThreadPoolExecutor(workers - 1, thread_name_prefix="kernels")
