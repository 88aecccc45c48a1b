"""What a run tells: a progress bar for people, log.jsonl for programs. Only the first process speaks."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from fastmix.runs.follower import Followers

MINUTE = 60.0


class Log:
    """A progress bar over `steps`, and one JSON line in `path` for each call."""

    def __init__(
        self, path: Path, steps: int, first: int, active: bool, quiet: bool = False, trackers: Sequence[str] = ()
    ):
        """active: whether this process speaks. quiet: warnings only. trackers: what follows the log besides."""
        self.path, self.file = path, open(path, "ab", buffering=0) if active else None
        if self.file and not _ends_whole(path):  # a kill may leave half a line, to which the next would be joined
            self.file.write(b"\n")
        self.quiet, bar = quiet, active and not quiet and sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=first, disable=not bar, unit="step", dynamic_ncols=True, smoothing=0.05)
        self.steps, self.first = steps, first
        self.began = self.told = time.perf_counter()
        self.followers = Followers(path.parent, trackers if active else (), self.warn)

    def __call__(self, kind: str, **values) -> None:
        """Writes one line; `kind` is train or val."""
        if self.file:
            row = {"kind": kind, "time": round(time.perf_counter() - self.began, 3), **values}
            line = json.dumps(row).encode() + b"\n"
            try:
                if self.file.write(line) < len(line):  # a disk that gets full takes a part first
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            self.followers.look()

    def show(self, step: int, text: str) -> None:
        """The words behind the bar; where there is no bar, a line a minute with the time left."""
        self.bar.set_postfix_str(text, refresh=False)
        now = time.perf_counter()
        if self.bar.disable and now - self.told > MINUTE:
            self.told = now
            left = (now - self.began) / max(1, step - self.first) * (self.steps - step)
            self.say(f"step {step} of {self.steps}, {text}, {left / MINUTE:.0f} min left")

    def say(self, text: str) -> None:
        """One line above the bar, or on standard error where there is no bar."""
        if not self.quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """Likewise, also where it is quiet."""
        if self.file:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Also waits for what follows the log, within a limit (`followers.WAIT`)."""
        self.bar.close()
        if self.file:
            self.file.close()
        self.followers.close()


def _ends_whole(path: Path) -> bool:
    """Whether a log is empty or ends with a line's end."""
    with open(path, "rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


class Clock:
    """Images a second, and the share of the time that was spent waiting for data, since the last `read`."""

    def __init__(self):
        self.images, self.waited, self.began = 0, 0.0, time.perf_counter()

    def waiting(self, batches: Iterable) -> Iterator:
        """The same batches; the time that each takes to come counts as waiting."""
        source = iter(batches)
        try:
            while True:
                asked = time.perf_counter()
                batch = next(source, None)
                self.waited += time.perf_counter() - asked
                if batch is None:
                    return
                self.images += len(batch[1])
                yield batch
        finally:
            if hasattr(source, "close"):
                source.close()

    def read(self) -> dict[str, float]:
        """images_per_s (of this process) and data_wait (0 to 1); starts anew."""
        seconds = time.perf_counter() - self.began
        out = {"images_per_s": round(self.images / seconds, 1), "data_wait": round(self.waited / seconds, 4)}
        self.__init__()
        return out
