"""Faults, for every loader: each ends soon, in an error that says what and where, and leaves no thread or memory."""

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fastmix.pipelines import LOADERS, loader_class
from fastmix.pipelines.view import View
from helpers import ROOT
from helpers.faulty import SOON, digest
from helpers.loading import beton_of, copies, encoded, equal, installed

N, SIZE, BATCH = 60, 24, 4
TRAIN, VAL = View(SIZE, flip=0.5), View(SIZE, crop="none")
KINDS = [  # loader, and what its source holds
    ("beton", "jpeg"),
    ("beton", "raw"),
    ("dali", "jpeg"),
    ("dali", "folder"),
    ("ffcv", "jpeg"),
    ("folder", "folder"),
    ("resident", "jpeg"),
]
QUICK = (("beton", "jpeg"), ("folder", "folder"))  # the others run the same engine
KINDS = [
    pytest.param(kind, id=" ".join(kind), marks=[pytest.mark.long] * (kind not in QUICK))
    for kind in KINDS
    if kind[0] in LOADERS
]


def test_every_loader_that_reads_is_here():
    assert {kind.values[0][0] for kind in KINDS} == set(LOADERS) - {"synthetic"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """60 noisy pictures of 48 x 40 pixels, in every kind of source."""
    root = tmp_path_factory.mktemp("faults")
    pixels = np.random.default_rng(0).integers(0, 256, (N, 40, 48, 3), dtype=np.uint8)
    images = [encoded(image) for image in pixels]
    (root / "folder" / "a").mkdir(parents=True)
    for k, image in enumerate(images):
        (root / "folder" / "a" / f"{k:02}.jpg").write_bytes(image)
    return {
        "jpeg": beton_of(root / "jpeg.beton", images),
        "raw": beton_of(root / "raw.beton", list(pixels)),
        "folder": root / "folder",
    }


class Case:
    """A loader's name and a source of its own, which may be harmed."""

    def __init__(self, name: str, holds: str, source: Path, folder: Path):
        self.name, self.holds, self.source = name, holds, folder / source.name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, self.source)

    def make(self, batch: int = BATCH, **options):
        options = {"view": TRAIN, "train": True, "workers": 2} | options
        return loader_class(self.name)(self.source, batch, **options)

    def file(self, row: int) -> Path:
        """The file with this row."""
        return self.source / "a" / f"{row:02}.jpg" if self.holds == "folder" else self.source

    def cut(self, row: int) -> None:
        """Makes the end of a row's JPEG unreadable."""
        if self.holds == "folder":
            os.truncate(self.file(row), self.file(row).stat().st_size // 2)
        else:
            file = loader_class("beton")(self.source, 1, view=VAL, train=False).file
            half = int(file.sizes[row]) // 2
            with open(self.source, "r+b") as out:
                out.seek(int(file.offsets[row]) + half)
                out.write(bytes(int(file.sizes[row]) - half))


@pytest.fixture(params=KINDS)
def case(request, stored, tmp_path):
    name, holds = request.param
    if not installed(name):
        pytest.skip(f"needs {name}")
    return Case(name, holds, stored[holds], tmp_path)


@contextmanager
def soon():
    begin = time.perf_counter()
    yield
    assert time.perf_counter() - begin < SOON


def tasks() -> int:
    """The threads of this process, of Python or not."""
    return len(os.listdir("/proc/self/task"))


def settled(most: int) -> bool:
    """Whether there are at most so many threads, once those that are ending have ended."""
    gc.collect()
    end = time.perf_counter() + 2
    while tasks() > most and time.perf_counter() < end:
        time.sleep(0.01)
    return tasks() <= most and not [thread for thread in threading.enumerate() if "loader" in thread.name]


def warm(case: Case) -> int:
    """The threads that stay when a loader has run: torch's and numba's own."""
    copies(case.make().epoch(0))
    gc.collect()
    count = None
    while count != (count := tasks()):
        time.sleep(0.05)
    return count


# ---- damage ----


def test_damaged_row(case):
    if case.holds == "raw":
        pytest.skip("every byte is a pixel")
    before = warm(case)
    case.cut(23)
    with soon(), pytest.raises(ValueError, match=r"(row 23\b|23\.jpg).*: .*\w") as error:
        copies(case.make(view=VAL, train=False).epoch(0))
    assert "\n" not in str(error.value) and str(case.file(23)) in str(error.value)
    del error
    assert settled(before)
    loader = case.make(view=VAL, train=False, bad="skip")
    assert sum(int(valid.sum()) for _, _, valid in loader.epoch(0)) == N - 1
    assert len(loader.skipped) == 1 and "23" in loader.skipped[0]


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_truncated_before_it_is_opened(case, share):
    path = case.file(N - 1)
    os.truncate(path, int(path.stat().st_size * share))
    with soon(), pytest.raises(ValueError) as error:
        copies(case.make(view=VAL, train=False).epoch(0))
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_deleted_in_mid_epoch(case):
    expected = copies(case.make(view=VAL, train=False).epoch(0))
    before = warm(case)
    batches = case.make(view=VAL, train=False).epoch(0)
    got = copies([next(batches)])
    if case.source.is_dir():
        case.file(N - 1).unlink()
    else:
        case.source.unlink()
    if case.name in ("folder", "dali") and case.source.is_dir():
        with soon(), pytest.raises(ValueError, match=r"59\.jpg.*No such file"):
            copies(batches)
    else:  # open, or in memory
        assert equal(expected, got + copies(batches))
    del batches
    assert settled(before)


# ---- errors of our own ----


def test_exception_while_a_batch_is_made(case, monkeypatch):
    before = warm(case)
    draws = View.draws

    def failing(self, seed, epoch, entries):
        if 30 in entries:
            raise RuntimeError("the transform is on fire")
        return draws(self, seed, epoch, entries)

    monkeypatch.setattr(View, "draws", failing)
    taken = []
    with soon(), pytest.raises(RuntimeError, match="on fire"):
        for batch in case.make(view=VAL, train=False).epoch(0):
            taken.append(batch)
    assert len(taken) <= 30 // BATCH, "row 30 is in this batch"
    if case.name != "resident":
        assert len(taken) == 30 // BATCH
    monkeypatch.undo()
    assert settled(before) and len(copies(case.make().epoch(0))) == N // BATCH


# ---- leaving, waiting, sharing ----


def test_leaving_early_twenty_times(case):
    def leave(epoch):
        for _ in loader.epoch(epoch):
            break

    def interrupt(epoch):
        try:
            for _ in loader.epoch(epoch):
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass

    def close(epoch):
        batches = loader.epoch(epoch)
        next(batches)
        batches.close()

    def resident() -> int:
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def all_ways(times):
        for k in range(times):
            (leave, interrupt, close)[k % 3](k)

    if case.holds == "raw":
        pytest.skip("as with JPEGs")
    loader = case.make(20, view=View(160))  # 1.5 MB a batch, several in work
    before = warm(case)
    all_ways(4)
    memory = resident()
    all_ways(20)
    assert settled(before)
    assert resident() - memory < 40e6, "20 times what is in work would be more than 90 MB"


def test_slow_consumer_meets_bounded_buffers(case, monkeypatch):
    made, windows = [], View.windows

    def counted(self, heights, widths, seed, epoch, entries):
        made.append(len(entries))
        return windows(self, heights, widths, seed, epoch, entries)

    monkeypatch.setattr(View, "windows", counted)
    batches = case.make(2).epoch(0)
    next(batches)
    time.sleep(0.3)
    ahead = sum(made) // 2
    time.sleep(0.2)
    assert sum(made) // 2 == ahead
    if case.name != "resident":  # an epoch's windows are a small table there
        assert ahead <= 8 < N // 2
    batches.close()


def test_two_loaders_on_one_source_at_once(case):
    expected = [copies(case.make(seed=seed).epoch(0)) for seed in (0, 1)]
    got = [None, None]

    def read(seed):
        got[seed] = copies(case.make(seed=seed).epoch(0))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * SOON)
    assert equal(got[0], expected[0]) and equal(got[1], expected[1]) and not equal(got[0], got[1])


def test_fork_shrinking_file_and_kill(case, stored):
    """In a process of its own: one that ends by a signal must not take the tests along."""
    if case.name != "folder" and case.holds != "jpeg":
        pytest.skip("as with JPEGs in a packed file")
    whole = stored[case.holds]
    files = sorted(case.source.parent.rglob("*"))
    command = [sys.executable, ROOT / "tests/helpers/faulty.py", case.name, case.source, str(BATCH), whole]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment)
    assert done.returncode == -9, f"{done.returncode}: {done.stderr[-2000:]}"
    forked, shrunk = map(json.loads, done.stdout.splitlines())
    assert forked == {"child": digest(case.name, str(whole), BATCH), "rest": N // BATCH - 1}
    assert shrunk["seconds"] < SOON
    if case.name == "resident":
        assert shrunk["said"] == "nothing"
    else:
        assert shrunk["said"].startswith("ValueError: ") and "\n" not in shrunk["said"]
        assert str(case.file(N - 1)) in shrunk["said"]
    assert sorted(case.source.parent.rglob("*")) == files, "no lock, no cache"


RANK = """
import os, signal, sys
import torch
import torch.distributed as dist
from fastmix.pipelines import loader_class
from fastmix.pipelines.view import View

source, store, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
loader = loader_class("beton")(source, 2, view=View(24), train=True, rank=rank, world=2)
for step, (images, _, _) in enumerate(loader.epoch(0)):
    dist.all_reduce(images.float().mean())
    if rank == 1 and step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
print("went on")
"""


@pytest.mark.long
def test_a_killed_rank_ends_the_other(stored, tmp_path):
    """No thread of the loader keeps a process alive whose step has failed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, stored["jpeg"], tmp_path / "store", str(rank)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        ranks[1].communicate(timeout=60)
        with soon():
            out, error = ranks[0].communicate(timeout=60)
    finally:
        for rank in ranks:
            rank.kill()
    assert ranks[1].returncode == -9 and ranks[0].returncode == 1 and not out
    assert "Connection closed by peer" in error or "Connection reset by peer" in error, error
