"""python -m faults.during WHAT STEP MODULE ARGUMENT ...: a module, and what befalls its training after that step.

WHAT: names of signals, joined by +; nan (weights that are no numbers); full (no file may grow over 10,000 bytes, as on
a full disk); die (the process is killed); lost, gone (of torchrun's processes number 1 is killed, when they are started
for the first time, and with gone its agent too, as where a machine loses its power). STEP 0: before the first one.
"""

from __future__ import annotations

import os
import resource
import runpy
import shutil
import signal
import sys

from fastmix.engine.checkpoint import State


def main() -> None:
    what, step = sys.argv[1], int(sys.argv[2])
    record = State.record

    def recording(self, loss):
        record(self, loss)
        if self.step + 1 == step:
            befall(what, self)

    State.record = recording
    if step == 0:
        befall(what, None)
    sys.argv = sys.argv[3:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def befall(what: str, state: State | None) -> None:
    if what == "nan":
        next(state.parts["task"].parameters()).data.fill_(float("nan"))
    elif what == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    elif what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what in ("lost", "gone"):
        if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
            shutil.copy(state.last, state.folder / "left.pt")
            for process in [os.getppid()] * (what == "gone") + [os.getpid()]:
                os.kill(process, signal.SIGKILL)
    else:
        for name in what.split("+"):
            signal.raise_signal(signal.Signals[name])


if __name__ == "__main__":
    main()
