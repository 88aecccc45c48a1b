"""A process that meets what a test cannot have in its own: a fork while threads run, a file that shrinks, a kill.

python tests/helpers/faulty.py LOADER SOURCE BATCH WHOLE prints a line of JSON for each of the first two; WHOLE stays.
"""

import hashlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path

from fastmix.pipelines import loader_class
from fastmix.pipelines.view import View
from helpers.loading import installed

VIEW = View(24, flip=0.5)
SOON = 5  # seconds


def digest(name: str, source: str, batch: int) -> str:
    """Of an epoch's images and labels."""
    seen = hashlib.sha256()
    for images, labels, _ in loader_class(name)(source, batch, view=VIEW, train=True, workers=2).epoch(0):
        seen.update(images.numpy().tobytes() + labels.numpy().tobytes())
    return seen.hexdigest()


def forked(name: str, source: str, batch: int) -> dict:
    """The digest that a child gets, forked while the parent's loader has threads and batches in work."""
    batches = loader_class(name)(source, batch, view=VIEW, train=True, workers=2).epoch(0)
    next(batches)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, digest(name, source, batch).encode())
        os._exit(0)
    ready, _, _ = select.select([reading], [], [], SOON)
    if not ready:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    rest = sum(1 for _ in batches)
    return {"child": os.read(reading, 64).decode() if ready else "hangs", "rest": rest}


def shrunk(name: str, source: str, batch: int) -> dict:
    """What is raised when the file, or the last one of a folder, is cut to a tenth after the first batch."""
    batches = loader_class(name)(source, batch, view=VIEW, train=False, workers=2).epoch(0)
    next(batches)
    path = Path(source) if Path(source).is_file() else sorted(Path(source).rglob("*.jpg"))[-1]
    os.truncate(path, path.stat().st_size // 10)
    begin = time.perf_counter()
    try:
        for _ in batches:
            pass
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    else:
        said = "nothing"
    return {"said": said, "seconds": time.perf_counter() - begin}


if __name__ == "__main__":
    loader, source, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
    assert installed(loader)
    print(json.dumps(forked(loader, source, batch)), flush=True)
    print(json.dumps(shrunk(loader, source, batch)), flush=True)
    for _ in loader_class(loader)(sys.argv[4], batch, view=VIEW, train=True, workers=2).epoch(0):
        os.kill(os.getpid(), signal.SIGKILL)
