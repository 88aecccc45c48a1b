"""Samples shared over threads: each once, whoever takes it, and the first error is the caller's."""

import threading
from functools import partial

import pytest
import torch

from fastmix.kernels.threads import SHARE, share


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("n", [1, 2, 7, 100])
@pytest.mark.parametrize("elements", [10, 3 * SHARE, 1000 * SHARE])
def test_each_sample_is_done_once(threads, n, elements):
    done, lock, who = [0] * n, threading.Lock(), set()

    def work(first: int, last: int) -> None:
        with lock:
            who.add(threading.get_ident())
            for k in range(first, last):
                done[k] += 1

    share(work, n, elements)
    assert done == [1] * n and len(who) <= threads
    assert elements > 10 or who == {threading.get_ident()}, "little to do is done here"


def test_the_callers_thread_works_while_others_are_held_up(threads):
    if threads == 1:
        pytest.skip("one thread")
    caller, held, here = threading.get_ident(), threading.Event(), []

    def work(first: int, last: int) -> None:
        if threading.get_ident() == caller:
            here.append(first)
            if len(here) == 4 * threads - (threads - 1):  # all parts but those that the others hold
                held.set()
        else:
            held.wait(20)

    share(work, 100, 1000 * SHARE)
    assert len(set(here)) == len(here) >= 4 * threads - (threads - 1)


def test_an_error_of_any_part_is_raised(threads):
    for bad in (0, 41, 99):
        with pytest.raises(RuntimeError, match="on fire"):
            share(partial(_burn, bad), 100, 1000 * SHARE)


def _burn(bad: int, first: int, last: int) -> None:
    if first <= bad < last:
        raise RuntimeError("on fire")
