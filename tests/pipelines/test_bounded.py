"""Shards elsewhere in a cache smaller than they are: the same pixels, never more bytes, one copy for all processes."""

import math
import multiprocessing
import os
import shutil
import threading
import time
from contextlib import closing, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import numpy as np
import pytest
import torch

from fastmix import config, system
from fastmix.engine import loaders
from fastmix.pipelines import sampling, sources
from fastmix.pipelines.beton import Beton
from fastmix.pipelines.packing.format import RAW
from fastmix.pipelines.packing.series import shard
from fastmix.pipelines.packing.shards import Shards
from fastmix.pipelines.packing.writer import BetonWriter
from fastmix.pipelines.sources import bounded, cache, download
from fastmix.pipelines.sources.bounded import BUSY, FULL, MORE, Bounded, Copy
from fastmix.pipelines.sources.resolve import packed, tables
from fastmix.pipelines.view import View
from fastmix.ranges import as_size, size
from helpers.loading import copies, equal
from helpers.serving import Serving

SHARDS, ROWS, SIDE, BATCH = 12, 64, 24, 8
VIEW = View(SIDE, crop="pad", pad=2, flip=0.5)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Twelve shards of 64 images, of 137 kB each."""
    folder = tmp_path_factory.mktemp("made")
    for k in range(SHARDS):
        images = np.random.default_rng(k).integers(0, 256, (ROWS, SIDE, SIDE, 3), dtype=np.uint8)
        with BetonWriter(shard(folder / "x.beton", k, SHARDS), ROWS, 4096) as writer:
            for row, image in enumerate(images):
                writer.add(RAW, SIDE, SIDE, image.tobytes(), row % 4)
            writer.finish()
            writer.publish(list("abcd"), [crc32(image) for image in images])
    return folder


@pytest.fixture
def server(made, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # of some hundred small files, seconds of a busy disk
    with Serving({file.name: file.read_bytes() for file in made.iterdir()}) as serving:
        yield serving


def names(way: str, server: Serving) -> str:
    return server.url(way, "x-{00000..00011}-of-00012.beton")


def loader(source: str, **options) -> Beton:
    return Beton(source, BATCH, **{"view": VIEW, "train": True, "seed": 3, "workers": 2, "window": 2} | options)


def bound(shards: int, server: Serving, way: str = "good") -> int:
    """A size of the cache that holds so many shards, and all tables."""
    made = tables(packed(names(way, server)))
    server.asked.clear()
    return sum(table.taken() for table in made) + shards * (made[0].size + MORE) + MORE


def used(folder: Path) -> int:
    """Bytes of the disk that a folder takes."""
    total = 0
    for entry in os.scandir(folder):
        try:
            total += used(entry.path) if entry.is_dir() else entry.stat().st_blocks * 512
        except FileNotFoundError:
            pass
    return total


@contextmanager
def watched(folder: Path):
    """A list that has the largest number of bytes in the folder, as seen every few milliseconds."""
    most, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.003):
            most[0] = max(most[0], used(folder))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


# ---- the order ----


def test_an_order_by_window_shows_each_image_once_and_few_shards_at_a_time():
    shards, machines = np.repeat(np.arange(12), [30, 50] * 6), np.arange(12) % 3
    for window, epoch in ((1, 0), (2, 1), (3, 2), (99, 0)):
        order = sampling.windowed(shards, machines, window, 7, epoch)
        assert sorted(order) == list(range(len(shards)))
        assert (order != sampling.windowed(shards, machines, window, 7, epoch + 1)).any()
        for machine in range(3):
            shown = shards[order][machines[shards[order]] == machine]
            places = {k: np.flatnonzero(shown == k) for k in set(shown.tolist())}
            alive = [sum(p[0] <= at <= p[-1] for p in places.values()) for at in range(len(shown))]
            assert max(alive) <= window + 1 and (window > 4 or max(alive) >= window)


def test_neighbours_in_an_order_by_window_are_strangers():
    """Within the window any two shards are as likely to follow each other as in a random order of these."""
    shards = np.repeat(np.arange(64), 100)
    order = shards[sampling.windowed(shards, np.zeros(64, int), 16, 0, 0)][1600:-1600]
    same = (order[1:] == order[:-1]).mean()
    assert abs(same - 1 / 16) < 4 * math.sqrt(1 / 16 / len(order))


# ---- a run ----


def test_three_epochs_from_a_server_that_drops_each_tenth_request(made, server, tmp_path):
    near = loader(str(made / "x-*.beton"))
    most = bound(6, server, "tenth")
    far = loader(names("tenth", server), cache_size=most)
    assert far.file.size > most and far.class_names == list("abcd")
    with watched(tmp_path / "cache") as seen:
        for epoch in range(3):
            assert equal(copies(near.epoch(epoch)), copies(far.epoch(epoch)))
    assert most / 2 < seen[0] <= most
    assert (
        len(server.asked) >= SHARDS + 2 * (SHARDS - 6) + 2
    )  # six may stay from one epoch to the next; two were dropped
    assert equal(copies(near.epoch(1, first=50)), copies(far.epoch(1, first=50)))  # as a resume does


def test_a_run_by_its_config_whatever_fsspec_opens(made, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path))
    words = [f"data.train=file://{made}/x-{{00000..00011}}-of-00012.beton", "data.locality=shard", "data.window=2"]
    words += [f"data.size={SIDE}", "data.crop=pad", "data.val_resize=null", f"batch_total={BATCH}", "seed=3"]
    far, whole = (
        loaders.training(config.from_tree(config.over({}, [*words, *more]), "x"), torch.device("cpu"))
        for more in (["data.cache_size=1200KiB"], [])
    )
    assert far.fetched and (far.window, far.cache_size, whole.fetched) == (2, 1200 << 10, None)
    assert equal(*(copies(islice(each.epoch(0), 30)) for each in (far, whole)))


def process(source: str, rank: int, most: int, step, results) -> None:
    mine = Beton(
        source, BATCH // 2, view=VIEW, train=True, seed=3, workers=1, window=2, cache_size=most, rank=rank, world=2
    )
    found = []
    for epoch in range(2):
        for batch in mine.epoch(epoch):
            step.wait(30)  # as the average of gradients does
            found.append(batch[0].clone().numpy())
    results.put((rank, np.stack(found)))


def test_two_processes_share_a_copy(made, server):
    context = multiprocessing.get_context("fork")
    near, most = loader(str(made / "x-*.beton")), bound(6, server)
    step, results = context.Barrier(2), context.Queue()
    both = [context.Process(target=process, args=(names("good", server), k, most, step, results)) for k in range(2)]
    for each in both:
        each.start()
    found = dict(results.get(timeout=60) for _ in both)
    for each in both:
        each.join()
    want = torch.stack([images.clone() for epoch in range(2) for images, _, _ in near.epoch(epoch)])
    assert torch.equal(torch.cat([torch.from_numpy(found[k]) for k in range(2)], 1), want)
    whole = [name for _, name, asked in server.asked if asked is None and name.endswith(".beton")]
    assert 2 * SHARDS - 6 <= len(whole) <= 2 * SHARDS + 6 + 2  # of the third epoch what there was room for


# ---- the cache ----


@pytest.fixture
def few(server) -> Bounded:
    """Room for three of six shards."""
    found = tables(packed(names("good", server))[:6])
    return Bounded(found, Shards([str(table.path) for table in found]).files, 3 * (found[0].size + MORE))


def there(copies: Bounded) -> list[int]:
    return [k for k, path in enumerate(copies.paths) if path.exists()]


def test_what_is_needed_last_goes_first_and_none_that_is_read(few):
    need = [0, 40, 30, 20, 10, 50].__getitem__
    first = few.take(1, need)
    assert isinstance(first, Copy)
    for k in (2, 3):
        few.take(k, need).close()
    assert few.take(5, need) == FULL and there(few) == [1, 2, 3]  # of these each is needed sooner
    few.take(4, need).close()
    assert there(few) == [1, 3, 4]  # 1 is needed last, but read
    first.close()
    few.take(0, need).close()
    assert there(few) == [0, 3, 4]


def test_copies_of_other_data_go_before_all(few):
    other = few.folder / f"0123456789abcdef-{few.tables[0].size}.beton"
    other.write_bytes(bytes(10))
    for k in range(2):
        few.take(k, int).close()
    assert other.exists()
    few.take(2, int).close()
    assert not other.exists() and there(few) == [0, 1, 2]


def test_what_a_killed_process_left_is_taken_up_or_makes_room(few, server):
    part = bounded._part(few.paths[0])
    part.write_bytes(bytes(100))
    few.take(0, int).close()
    assert there(few) == [0] and not part.exists()
    part = bounded._part(few.paths[5])
    part.touch()
    for k in (1, 2):
        few.take(k, lambda k: k).close()
    assert there(few) == [0, 1, 2] and not part.exists()


def test_a_shard_that_another_process_fetches_is_waited_for(few):
    with open(bounded._lock(few.paths[0]), "a") as lock:
        system.hold(lock)
        assert few.take(0, int) == BUSY
    few.take(0, int).close()


def test_a_wrong_bit_on_the_way_costs_a_request_and_for_ever_is_a_line(few, server):
    found = tables(packed(names("flipped", server))[:1])
    damaged = Bounded(found, Shards([str(found[0].path)]).files, few.limit)
    damaged.take(0, int).close()
    assert damaged.paths[0].read_bytes() == server.files["x-00000-of-00012.beton"]
    assert [way for way, name, asked in server.asked if asked is None and name.endswith("beton")] == ["flipped"] * 3
    damaged.paths[0].unlink()
    server.asked.clear()
    wrong = server.files["x-00000-of-00012.beton"]
    server.files["x-00000-of-00012.beton"] = wrong[:30000] + bytes([wrong[30000] ^ 1]) + wrong[30001:]
    with pytest.raises(
        ValueError, match=r"flipped/x-00000-of-00012.beton: row \d+: its bytes are not those .* 3 times"
    ):
        damaged.take(0, int)


def test_a_copy_that_was_altered_is_made_again(few, server):
    few.take(0, int).close()
    with open(few.paths[0], "r+b") as file:
        file.write(b"altered")
    few.take(0, int).close()
    assert few.paths[0].read_bytes() == server.files["x-00000-of-00012.beton"]


def test_another_file_than_when_the_run_began_is_a_line(few, server):
    server.files["x-00000-of-00012.beton"] = server.files["x-00001-of-00012.beton"]
    with pytest.raises(ValueError, match="x-00000-of-00012.beton: another file than when the run began"):
        few.take(0, int)
    few.take(1, int).close()


def test_tables_are_asked_for_once_a_minute_and_fetched_again_where_the_file_is_another(server, monkeypatch):
    one = server.url("good", "x-00000-of-00012.beton")
    (first,) = tables([one])
    asked = len(server.asked)
    assert asked == 5 and tables([one]) == [first] and len(server.asked) == asked
    monkeypatch.setattr(sources.tables, "RECENT", 0)
    assert tables([one]) == [first] and len(server.asked) == asked + 1
    server.files |= {name.replace("00001", "00000"): data for name, data in server.files.items() if "x-00001" in name}
    (other,) = tables([one])
    assert other.version != first.version
    Bounded([other], Shards([str(other.path)]).files, 1 << 20).take(0, int).close()
    server.files = {}
    assert tables([one]) == [other]


FAILS = {
    "always_dropped": "bytes arrived of",
    "silent": "no byte for 1 s",
    "drip": r"less than \d+ bytes in 1 s",
    "no_range": "sends no parts of files",
    "no_length": "sends no parts of files",
    "broken": "the server answers 500",
    "forbidden": "the server answers 403",
    "page": "not a .beton file",
    "empty": "0 bytes are shorter than its header",
}


@pytest.mark.parametrize("way", [*FAILS, "dropped", "crumbs", "moved", "weak", "busy", "unnamed"])
def test_tables_arrive_whole_or_one_line_says_why_not(way, server, monkeypatch):
    monkeypatch.setenv("FASTMIX_REMOTE_TIMEOUT", "1")
    one, began = server.url(way, "x-00000-of-00012.beton"), time.monotonic()
    if way not in FAILS:
        assert tables([one])[0].size == len(server.files["x-00000-of-00012.beton"])
        return
    with pytest.raises((OSError, ValueError), match=FAILS[way]) as error:
        tables([one])
    assert str(error.value).startswith(f"{one}: ") and "\n" not in str(error.value)
    left = {name for _, _, found in os.walk(os.environ["FASTMIX_CACHE"]) for name in found}
    assert all(name.endswith(".lock") for name in left) and time.monotonic() - began < 8


def test_a_server_that_is_gone_matters_only_when_a_step_needs_a_shard(made, server, monkeypatch):
    far = loader(names("good", server), cache_size=bound(6, server))
    wanted = copies(loader(str(made / "x-*.beton")).epoch(0))
    with closing(far.epoch(0)) as batches:
        seen = copies([next(batches)])
        until = time.monotonic() + 20
        while len(there(far.fetched.copies)) < 6 and time.monotonic() < until:
            time.sleep(0.01)
        files, server.files = server.files, {}
        with pytest.raises(OSError, match="404 Not Found"):
            seen += (copies([batch])[0] for batch in batches)
    assert len(seen) >= 4 * ROWS // BATCH and equal(seen, wanted[: len(seen)])
    server.files = files
    assert equal(copies(far.epoch(0)), wanted)


# ---- what cannot be ----


def test_what_cannot_be_is_one_line_that_says_what_to_set(made, server):
    source, most = names("good", server), bound(6, server)
    for how, words in {
        (
            None,
            most,
        ): "does not hold all shards of a machine, whose images are in random order: set data.locality=shard "
        "and data.window=3, or fewer, or data.cache_size=",
        (4, most): "does not hold data.window=4 and 3 more of up to .* set data.locality=shard and data.window=3",
        (2, bound(2, server)): "does not hold data.window=2 and 3 more .* on their way: set data.cache_size=",
    }.items():
        with pytest.raises(ValueError, match=words) as error:
            loader(source, window=how[0], cache_size=how[1])
        advised = size(str(error.value).rpartition("data.cache_size=")[2])
        loader(source, window=how[0], cache_size=advised)
        with pytest.raises(ValueError):
            loader(source, window=how[0], cache_size=advised - MORE)
    with pytest.raises(
        ValueError, match=r"data.cache_size is for shards elsewhere, and .*x-00000-of-00012.beton is none"
    ):
        loader(str(made / "x-*.beton"), cache_size=most)
    with pytest.raises(ValueError, match="data.bad=raise"):
        loader(source, cache_size=most, bad="skip")


def test_the_config_refuses_what_does_not_go_together():
    for words, says in {
        ("data.window=3",): "data.window is 3; it needs data.locality=shard",
        ("data.cache_size=1GiB", "data.split=0.1"): "data.cache_size is 1GiB; it needs data.split=0 and data.bad=raise",
        ("data.cache_size=1 apple",): "data.cache_size is '1 apple'; it must be text that is a size, such as 50GiB",
        ("data.cache_size=5",): "data.cache_size is 5; it must be text that is a size",
    }.items():
        with pytest.raises(ValueError, match=says):
            config.from_tree(config.over({}, list(words)), "x")


@pytest.mark.parametrize("count", [1, 1000, 1024, 123_456, 50 << 30, (1 << 40) + 1, 999 << 40])
def test_sizes_are_read_as_they_are_shown(count):
    assert count <= size(as_size(count)) <= max(count * 1.0011, count + 2)


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(few, monkeypatch):
    few.take(0, int).close()
    free = few.limit - few.sizes[0]  # besides the copy that is there
    for lacks in (0, 1):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, lacks=lacks: SimpleNamespace(free=free - lacks))
        with pytest.raises(ValueError, match="by data.cache_size, and the disk has") if lacks else nullcontext():
            Bounded(few.tables, few.betons, few.limit)


def test_without_locks_there_is_no_such_cache(few, monkeypatch):
    monkeypatch.setattr(system, "hold", lambda *_, **__: False)
    with pytest.raises(ValueError, match="data.cache_size needs file locks"):
        Bounded(few.tables, few.betons, few.limit)
    assert cache.folder() in few.folder.parents
