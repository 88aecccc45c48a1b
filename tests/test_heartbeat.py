"""Who is silent is named, and who has ended is not waited for. On real machines' networks: tests/test_hosts.py."""

import time

import pytest
import torch.distributed as dist

from fastmix import heartbeat
from fastmix.heartbeat import Heartbeat

LIMIT = 50.0
MACHINES = {"alive/0": "a (process 0)", "alive/2": "b (process 2)", "alive/4": "c (process 4)"}


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(heartbeat, "EVERY", 0.01)
    store = dist.HashStore()
    for key in MACHINES:
        store.set(key, "0")
    return store


def until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_silent_one_is_named(store):
    """Machine b counts on, c does not."""
    own = Heartbeat(store, MACHINES, "alive/0", LIMIT)
    try:
        start = own.heard["alive/4"]
        for k in range(5):
            store.set("alive/2", f"again {k}")
            until(lambda then=own.heard["alive/2"]: own.heard["alive/2"] > then)
        until(lambda: own.heard["alive/0"] > start)
        late = own.heard["alive/4"] + LIMIT
        assert own.lost(late - 1) == ""
        own.heard["alive/0"] = own.heard["alive/2"] = own.answered = late
        assert own.lost(late + 1).startswith("nothing was heard of c (process 4) for 50 s")
    finally:
        own.end()


def test_who_has_ended_is_not_waited_for(store):
    others = Heartbeat(store, MACHINES, "alive/2", LIMIT)
    own = Heartbeat(store, MACHINES, None, LIMIT)
    try:
        others.end()
        until(lambda: own.heard["alive/2"] == float("inf"))
        own.heard["alive/0"] = own.heard["alive/4"] = own.answered = time.monotonic() + 1000
        assert own.lost(time.monotonic() + 999) == ""
    finally:
        own.end()


def test_a_store_that_does_not_answer_is_the_first_machine(store):
    class Hanging:
        def multi_get(self, keys):
            raise RuntimeError("Broken pipe")

    own = Heartbeat(Hanging(), MACHINES, None, LIMIT)
    try:
        time.sleep(0.05)
        assert "heard of a (process 0) for" in own.lost(own.answered + LIMIT + 1)
    finally:
        own.end()
