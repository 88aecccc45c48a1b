"""300 changed files, read by all that reads them; `make fuzz N=...` tries more."""

import os
import signal

import numpy as np
import pytest

from faults import fuzz


@pytest.mark.long
def test_every_change_ends_in_pixels_or_in_one_line():
    counts, failed = fuzz.fuzz(300)
    assert not failed, failed
    assert sum(counts.values()) == 300 and min(counts["pixels"], counts["error"]) > 20, counts


@pytest.mark.long
def test_what_kills_or_stops_the_process_is_seen(monkeypatch):
    by = fuzz.Child(0)
    try:
        os.kill(by.process.pid, signal.SIGSEGV)
        assert by.ask(0) == "CRASH exit code -11"
    finally:
        by.close()
    by = fuzz.Child(0)
    try:
        os.kill(by.process.pid, signal.SIGSTOP)
        monkeypatch.setattr(fuzz, "LIMIT", 0.2)
        assert by.ask(0) == "HANG over 0 s"
    finally:
        by.close()


def test_a_change_is_a_function_of_seed_and_number():
    data = fuzz.jpegs()[0]
    a, b, c = (fuzz.changed("jpeg", data, np.random.default_rng([0, k])) for k in (4, 4, 6))
    assert a == b != c
