"""What a run tells: a progress bar for people, log.jsonl for programs. Only the first process speaks."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

MINUTE = 60.0


class Log:
    """A progress bar over `steps`, and one JSON line in `path` for each call."""

    def __init__(self, path: Path, steps: int, first: int, active: bool):
        self.file = open(path, "a", buffering=1, encoding="utf-8") if active else None
        bar = active and sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=first, disable=not bar, unit="step", dynamic_ncols=True, smoothing=0.05)
        self.steps, self.first = steps, first
        self.began = self.told = time.perf_counter()

    def __call__(self, kind: str, **values) -> None:
        """Writes one line; `kind` is train or val."""
        if self.file:
            row = {"kind": kind, "time": round(time.perf_counter() - self.began, 3), **values}
            self.file.write(json.dumps(row) + "\n")

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
        if self.file:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
        if self.file:
            self.file.close()


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
