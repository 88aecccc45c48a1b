"""Streams and events with CUDA's ordering: work waits in its stream, and is done as late as that ordering allows.

In place of those of torch.cuda, for one device. The host's waits (`synchronize`) do what they wait for; all other work
stays undone until it is asked for. So what reads or overwrites memory without a wait for it finds the wrong bytes every
time, not once in a thousand runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Point = tuple["Stream", int]
"""All that was queued in a stream up to a number of pieces of work."""


@dataclass
class Work:
    do: Callable[[], object]
    after: list[Point]
    done: bool = False


class Stream:
    def __init__(self, device=None, priority: int = 0):
        self.queue: list[Work] = []

    def put(self, do: Callable[[], object], after: list[Point] = ()) -> None:
        self.queue.append(Work(do, list(after)))

    @property
    def now(self) -> Point:
        return self, len(self.queue)

    def wait_event(self, event: Event) -> None:
        self.put(lambda: None, event.points)

    def wait_stream(self, stream: Stream) -> None:
        self.put(lambda: None, [stream.now])

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        waits("Stream.synchronize")
        finish(self.now)

    def query(self) -> bool:
        return reached(self.now)


class Event:
    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False):
        self.points: list[Point] = []

    def record(self, stream: Stream | None = None) -> None:
        self.points = [(stream or current_stream()).now]

    def wait(self, stream: Stream | None = None) -> None:
        (stream or current_stream()).wait_event(self)

    def synchronize(self) -> None:
        waits("Event.synchronize")
        for point in self.points:
            finish(point)

    def query(self) -> bool:
        return all(map(reached, self.points))


def finish(point: Point) -> None:
    """Does what is queued up to this point, and what that waits for, and no more."""
    stream, count = point
    for work in stream.queue[:count]:
        if not work.done:
            for other in work.after:
                finish(other)
            work.do()
            work.done = True


def reached(point: Point) -> bool:
    stream, count = point
    return all(work.done for work in stream.queue[:count])


_default = Stream()
_current = [_default]
_listeners: list[Callable[[str], None]] = []


def current_stream(device=None) -> Stream:
    return _current[-1]


def default_stream(device=None) -> Stream:
    return _default


@contextmanager
def stream(chosen: Stream | None) -> Iterator[None]:
    _current.append(chosen or _current[-1])
    try:
        yield
    finally:
        _current.pop()


def synchronize(device=None) -> None:
    waits("torch.cuda.synchronize")
    finish(_default.now)


def waits(what: str) -> None:
    """The host is about to wait for the device."""
    for listener in _listeners:
        listener(what)


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Tells the listener whenever the host waits for a stream or an event."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


IN_TORCH = {
    "Stream": Stream,
    "Event": Event,
    "current_stream": current_stream,
    "default_stream": default_stream,
    "stream": stream,
    "synchronize": synchronize,
}
"""What stands in torch.cuda for all this, by its name there."""
