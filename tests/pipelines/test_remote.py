"""A file elsewhere is copied once, checked, and used again; what goes wrong leaves nothing behind."""

import hashlib
import json
import multiprocessing
import os
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest

from fastmix.pipelines.beton import Beton
from fastmix.pipelines.packing.format import JPEG, RAW
from fastmix.pipelines.packing.writer import BetonWriter
from fastmix.pipelines.sources import download
from fastmix.pipelines.sources.resolve import exists, resolve
from fastmix.pipelines.view import View

OTHER = "00ff" * 16
VIEW = View(8, crop="pad", pad=1)


@pytest.fixture
def away(tmp_path, monkeypatch):
    """A folder elsewhere with data.beton, of four images in classes a to d; returns its path."""
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "away").mkdir()
    pack(tmp_path / "away" / "data.beton", 0)
    return tmp_path / "away"


def pack(path, seed: int) -> None:
    with BetonWriter(path, 4) as writer:
        for k, image in enumerate(np.random.default_rng(seed).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)):
            writer.add(RAW, 8, 8, image.tobytes(), k)
        writer.finish()
        writer.publish(list("abcd"))


def url(away, name: str = "data.beton") -> str:
    return f"file://{away / name}"


def test_a_copy_is_the_file_and_serves_the_loader(away):
    path = resolve(url(away))
    assert Path(path).read_bytes() == (away / "data.beton").read_bytes()
    ours, theirs = (Beton(source, 4, view=VIEW, train=True) for source in (url(away), str(away / "data.beton")))
    assert ours.class_names == list("abcd") and JPEG not in ours.file.modes
    for (a, la, _), (b, lb, _) in zip(ours.epoch(0), theirs.epoch(0), strict=True):
        assert (a == b).all() and (la == lb).all()


def test_it_is_copied_once_and_again_when_it_has_changed(away):
    path = resolve(url(away))
    before = os.stat(path).st_mtime_ns
    assert resolve(url(away)) == path and os.stat(path).st_mtime_ns == before
    pack(away / "data.beton", 1)
    assert resolve(url(away)) == path
    assert Path(path).read_bytes() == (away / "data.beton").read_bytes()


def test_a_copy_that_was_cut_short_is_made_again(away):
    path = resolve(url(away))
    os.truncate(path, 100)
    resolve(url(away))
    assert Path(path).read_bytes() == (away / "data.beton").read_bytes()


def test_without_the_server_the_copy_is_used_and_said(away, capfd):
    path = resolve(url(away))
    shutil.rmtree(away)
    assert resolve(url(away)) == path
    assert "cannot be reached" in capfd.readouterr().err


def test_the_checksum_that_was_asked_for(away):
    digest = hashlib.sha256((away / "data.beton").read_bytes()).hexdigest()
    path = resolve(f"{url(away)}#sha256={digest}")
    assert json.loads(Path(f"{path}.source.json").read_text())["sha256"] == digest
    with pytest.raises(ValueError, match=f"SHA-256 {digest}, not the 00ff"):
        resolve(f"{url(away)}#sha256={OTHER}")  # of a copy that is there already
    shutil.rmtree(os.path.dirname(path))
    with pytest.raises(ValueError, match=f"SHA-256 {digest}, not the 00ff"):
        resolve(f"{url(away)}#sha256={OTHER}")
    assert [name for name in os.listdir(os.path.dirname(path)) if not name.endswith(".lock")] == []


def test_a_copy_that_breaks_off_leaves_nothing(away, monkeypatch):
    def broken(self, length=-1):
        raise OSError("connection reset")

    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setattr(fsspec.implementations.local.LocalFileOpener, "read", broken, raising=False)
    with pytest.raises(OSError, match="connection reset"):
        resolve(url(away))
    left = [name for _, _, names in os.walk(os.environ["FASTMIX_CACHE"]) for name in names]
    assert [name for name in left if not name.endswith(".lock")] == []


def test_a_server_without_size_or_version_will_do(away):
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/data.beton", (away / "data.beton").read_bytes())
    path = resolve("memory://bucket/data.beton")
    assert Path(path).read_bytes() == (away / "data.beton").read_bytes()
    assert not os.path.exists(f"{path}.classes.json"), "there is none there"


@pytest.mark.parametrize(
    "source, message",
    [
        ("nowhere://a/b.beton", "nowhere://a/b.beton: Protocol not known"),
        ("file:///no/such.beton", "file:///no/such.beton: .*No such file"),
        ("file:///tmp", "a folder; pack it"),
    ],
)
def test_errors_say_what_and_where(source, message, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path))
    with pytest.raises((ValueError, OSError), match=message):
        resolve(source)


def test_a_full_disk_is_said_before_the_copy(away, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match="GB free"):
        resolve(url(away))


def test_paths_are_left_alone():
    assert resolve("some/data.beton") == "some/data.beton" and not exists("some/data.beton") and not exists("")
    assert exists("s3://bucket/data.beton") and exists("shapes:train")


def _resolve(source: str, queue) -> None:
    queue.put(resolve(source))


def test_of_two_processes_one_copies(away):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_resolve, args=(url(away), queue)) for _ in range(3)]
    for process in processes:
        process.start()
    paths = {queue.get(timeout=30) for _ in processes}
    for process in processes:
        process.join()
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == (away / "data.beton").read_bytes()
