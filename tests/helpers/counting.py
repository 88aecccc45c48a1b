"""What the host does during a call, by counting: lines and calls of Python, calls of C, and operations of torch."""

import gc
import sys
from collections import Counter
from collections.abc import Callable

from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Counts the operations that torch dispatches, by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.counts[str(operation)] += 1
        return operation(*args, **(kwargs or {}))


def host_work(call: Callable[[], object]) -> tuple[Counter, Counter]:
    """What this thread does in call(): lines (a loop's as often as it turns) and calls by function, operations by name.

    Not seen: what compiled code does or calls inside one call of it, and other threads (autograd's, on a GPU).
    """
    python = Counter()

    def lines(frame, event, argument):
        if not frame.f_code.co_filename.startswith("<frozen"):  # isinstance() of an abc remembers its answers
            python[event, frame.f_code.co_filename, frame.f_code.co_name] += 1
            return lines

    def calls(frame, event, argument):
        if event == "c_call" and not frame.f_code.co_filename.startswith("<frozen"):
            python[event, frame.f_code.co_filename, getattr(argument, "__name__", "")] += 1

    trace, profile = sys.gettrace(), sys.getprofile()
    gc.disable()  # finalisers are Python, and come when they like
    try:
        with Operations() as operations:
            sys.settrace(lines)
            sys.setprofile(calls)
            try:
                call()
            finally:
                sys.setprofile(profile)
                sys.settrace(trace)
    finally:
        gc.enable()
    return python, operations.counts


def growth(call: Callable[[int], object], few: int = 8, many: int = 24) -> dict:
    """What call(n) does more or less often with `many` samples than with `few`: how often, with either.

    Each is called once before, so that compiled code, caches and what torch looks up once are there.
    """
    with Operations():
        call(few)
        call(many)
    pairs = zip(host_work(lambda: call(few)), host_work(lambda: call(many)), strict=True)
    return {key: (a[key], b[key]) for a, b in pairs for key in a.keys() | b.keys() if a[key] != b[key]}
