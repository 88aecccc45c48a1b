"""Signals that ask a run to stop: which count, which are left alone, and what is put back."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from torch import nn

from fastmix.engine import export, stopping
from fastmix.engine.checkpoint import State

KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def state(tmp_path):
    return State(tmp_path, None, {}, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_each_asks_the_run_to_stop_and_is_put_back(state, kind):
    before = {kind: signal.getsignal(kind) for kind in KINDS}
    with stopping.by_signals(state):
        assert not state.stop
        os.kill(os.getpid(), kind)
        assert state.stop and not state.stopped  # stopped: once all processes agree
    assert {kind: signal.getsignal(kind) for kind in KINDS} == before


def test_a_signal_that_is_ignored_stays_so(state):
    """As nohup ignores SIGHUP, and a shell SIGINT of what it starts in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.by_signals(state):
            os.kill(os.getpid(), signal.SIGHUP)
        assert not state.stop and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_ends_at_once_but_not_one_that_torchrun_hands_on(state, monkeypatch):
    with pytest.raises(KeyboardInterrupt), stopping.by_signals(state):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr(stopping, "world", lambda: 2)
    state.stop = False
    with stopping.by_signals(state):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # within a second: the same Ctrl-C, from the terminal and from torchrun
        assert state.stop
        monkeypatch.setattr(stopping, "ECHO", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_another_thread_leaves_signals_alone(state):
    before = {kind: signal.getsignal(kind) for kind in KINDS}

    def within():
        with stopping.by_signals(state):
            seen.update({kind: signal.getsignal(kind) for kind in KINDS})

    seen: dict = {}
    thread = threading.Thread(target=within)
    thread.start()
    thread.join()
    assert seen == before


def test_a_model_whose_state_is_no_tensors_is_refused_before_it_is_trained():
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"steps": 3}

    export.require(nn.Linear(2, 2), "linear")
    with pytest.raises(ValueError, match="model odd: its _extra_state is no plain tensor"):
        export.require(Odd(2, 2), "odd")
