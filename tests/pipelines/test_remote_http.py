"""Servers that drop, stall, lie and change the file: the bytes arrive, or one line says why not."""

import hashlib
import json
import multiprocessing
import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from fastmix.pipelines.packing.format import RAW
from fastmix.pipelines.packing.writer import BetonWriter
from fastmix.pipelines.sources import download
from fastmix.pipelines.sources.resolve import resolve
from fastmix.pipelines.sources.streams import Failure, stream
from helpers.serving import Serving


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """A packed file of 8 images, with its classes and checksums."""
    path = tmp_path_factory.mktemp("files") / "data.beton"
    with BetonWriter(path, 8, 4096) as writer:
        for k, image in enumerate(np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)):
            writer.add(RAW, 16, 16, image.tobytes(), k)
        writer.finish()
        writer.publish(list("abcdefgh"))
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FASTMIX_REMOTE_TIMEOUT", "1")
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with Serving(dict(files)) as serving:
        yield serving


def left() -> set[str]:
    found = {name for _, _, names in os.walk(os.environ["FASTMIX_CACHE"]) for name in names}
    return {name for name in found if not name.endswith(".lock")}


ARRIVES = ["good", "dropped", "short", "crumbs", "no_range", "no_length", "chunked", "chunked_cut", "moved", "changing"]
ARRIVES += ["changing_rudely", "changing_date", "weak", "wrong_range", "busy", "unnamed"]


@pytest.mark.parametrize("way", ARRIVES)
def test_the_bytes_arrive(server, files, way):
    assert Path(resolve(server.url(way))).read_bytes() == files["data.beton"]
    assert left() == {*files, "data.beton.source.json"}


FAILS = {
    "always_dropped": "bytes arrived of",
    "stalled": "no byte for 1 s",
    "silent": "no byte for 1 s",
    "drip": r"less than \d+ bytes in 1 s",
    "dripping_head": "no byte for 1 s",
    "no_range_ever": "bytes arrived of",
    "no_length_cut": "truncated",
    "too_long": "bytes arrived of",
    "too_short": "truncated",
    "chunked_garbage": "the connection was dropped",
    "compressed": r"compresses what it sends \(gzip\)",
    "circle": "the server answers 302",
    "nowhere": "the server answers 302",
    "unasked_range": "a part of the file where all",
    "broken": "the server answers 500",
    "forbidden": "the server answers 403 Forbidden",
    "private": "the server answers 401 Unauthorized",
    "page": "not a .beton file",
    "empty": "0 bytes are shorter than its header",
    "no_http": "does not speak HTTP",
    "hung_up": "the connection was dropped",
}


@pytest.mark.parametrize("way", FAILS)
def test_what_cannot_arrive_is_one_line_with_the_address(server, way):
    began = time.monotonic()
    with pytest.raises((OSError, ValueError), match=FAILS[way]) as error:
        resolve(server.url(way))
    assert time.monotonic() - began < 8
    assert str(error.value).startswith(f"{server.url(way)}: ") and "\n" not in str(error.value)
    kept = {"data.beton.part", "data.beton.part.json"} if "bytes are kept" in str(error.value) else set()
    assert left() == kept and bool(kept) == (way in ("always_dropped", "stalled"))


def test_an_answer_that_comes_too_late_is_closed(server):
    with pytest.raises(Failure, match="no byte for 0.3 s") as error:
        stream(server.url("late"), 0, "", limit=0.3)
    assert server.left.wait(10)
    del error  # until here: its frames must not be what keeps the connection open


def test_a_missing_file_and_a_server_that_is_not_there(server):
    with pytest.raises(OSError, match=f"{server.url('good', 'other.beton')}: the server answers 404 Not Found$"):
        resolve(server.url("good", "other.beton"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(OSError, match=f"http://127.0.0.1:{port}/a.beton: Connection refused$"):
        resolve(f"http://127.0.0.1:{port}/a.beton")
    with pytest.raises(OSError, match="https://no.such.invalid/a.beton: the name of the server cannot be looked up"):
        resolve("https://no.such.invalid/a.beton")
    with pytest.raises(OSError, match=f"https://{server.address}/good/a.beton: .*SSL"):
        resolve(f"https://{server.address}/good/a.beton")
    assert left() == set()


@pytest.mark.parametrize("url", ["http:///a.beton", "http://host:port/a.beton", "http://a..b/a.beton", "http://[::/a"])
def test_what_is_no_address(url, server):
    with pytest.raises(ValueError, match="no address"):
        resolve(url)


def test_a_drop_is_taken_up_where_it_was(server, files):
    resolve(server.url("short"))
    half = len(files["data.beton"]) // 2
    assert [asked[2] for asked in server.asked if asked[1] == "data.beton"] == [None, f"bytes={half}-"]


def test_the_next_run_takes_up_what_the_last_one_left(server, files, monkeypatch):
    data = files["data.beton"]
    with pytest.raises(OSError, match=f"{len(data) // 2:,} bytes are kept, the same command goes on"):
        resolve(server.url("always_dropped"))
    monkeypatch.setattr("helpers.serving.WAYS", {"always_dropped": lambda request, data: request.part(data)})
    server.asked.clear()
    url = server.url("always_dropped")
    assert Path(resolve(f"{url}#sha256={hashlib.sha256(data).hexdigest()}")).read_bytes() == data
    assert server.asked[0][2] == f"bytes={len(data) // 2}-"
    assert left() == {*files, "data.beton.source.json"}


def test_what_was_left_of_another_file_is_not_taken_up(server, files, monkeypatch):
    with pytest.raises(OSError, match="bytes are kept"):
        resolve(server.url("always_dropped"))
    part = next(Path(os.environ["FASTMIX_CACHE"]).rglob("*.part"))
    part.write_bytes(part.read_bytes()[:-5])  # not as many as were on the disk
    monkeypatch.setattr("helpers.serving.WAYS", {"always_dropped": lambda request, data: request.part(data)})
    server.asked.clear()
    assert Path(resolve(server.url("always_dropped"))).read_bytes() == files["data.beton"]
    assert server.asked[0][2] is None


def test_all_of_a_file_whose_class_names_did_not_come(server, files, monkeypatch):
    ways = {"good": lambda request, data: request.part(data) if request.name == "data.beton" else request.drop()}
    monkeypatch.setattr("helpers.serving.WAYS", ways)
    with pytest.raises(OSError, match="data.beton.classes.json: the connection was dropped"):
        resolve(server.url("good"))
    assert left() == {"data.beton.part", "data.beton.part.json"}
    sent = []
    ways["good"] = lambda request, data: (sent.append(request.name), request.part(data))
    assert Path(resolve(server.url("good"))).read_bytes() == files["data.beton"]
    assert left() == {*files, "data.beton.source.json"}


def test_a_page_in_the_place_of_a_missing_file_is_none(server, files):
    del server.files["data.beton.classes.json"]
    server.files["data.beton.sums"] = b"<html>"
    with pytest.raises(ValueError, match=r"data.beton.sums: no checksums of version 1.*this is what the server sends"):
        resolve(server.url("good"))
    assert left() == set()


def test_other_class_names_than_the_file_has(server, files):
    server.files["data.beton.classes.json"] = b'["a"]'
    with pytest.raises(ValueError, match="data.beton: row 1: label 1; labels are whole numbers from 0 to 0, as"):
        resolve(server.url("good"))
    assert left() == set()


def test_the_copy_is_what_arrived(server, files):
    url = server.url("good")
    digest = hashlib.sha256(files["data.beton"]).hexdigest()
    path = Path(resolve(f"{url}#sha256={digest.upper()}"))
    times = path.stat()
    with open(path, "r+b") as file:  # four bytes, and the old times
        file.seek(-2000, os.SEEK_END)
        file.write(b"oops")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    resolve(f"{url}#sha256={digest}")
    assert path.read_bytes() == files["data.beton"]
    path.write_bytes(bytes(len(files["data.beton"])))
    resolve(url)
    assert path.read_bytes() == files["data.beton"]


def test_an_altered_copy_without_its_server_is_not_used(server):
    url = server.url("good")
    path = Path(resolve(url))
    path.write_bytes(bytes(path.stat().st_size))
    server.shutdown()
    server.server_close()
    with pytest.raises(OSError, match="Connection refused"):
        resolve(url)


def test_bytes_are_read_again_only_when_the_disk_says_so(server, monkeypatch):
    url = server.url("good")
    path = resolve(url)
    read = []
    monkeypatch.setattr(
        "fastmix.pipelines.sources.remote.sha256", lambda path: read.append(path) or download.sha256(path)
    )
    resolve(url)
    assert read == []
    os.utime(path)
    resolve(url)
    resolve(url)
    assert read == [Path(path)]


def test_a_copy_with_the_digest_needs_no_server(server, files):
    url = f"{server.url('good')}#sha256={hashlib.sha256(files['data.beton']).hexdigest()}"
    resolve(url)
    server.asked.clear()
    resolve(url)
    assert server.asked == []


NOTES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"sha256": 1, "size": "x", "version": null}',
    b"hello",
]


@pytest.mark.parametrize("note", NOTES, ids=range(len(NOTES)))
def test_a_note_that_is_none_is_written_anew(server, files, note):
    path = resolve(server.url("good"))
    Path(f"{path}.source.json").write_bytes(note)
    assert resolve(server.url("good")) == path
    assert json.loads(Path(f"{path}.source.json").read_text())["size"] == len(files["data.beton"])
    assert left() == {*files, "data.beton.source.json"}


@pytest.mark.parametrize("ending", ["#sha256=", "#sha256=abc", "#sha256=" + "g" * 64, "#sha256=" + "0" * 63, "#md5=00"])
def test_a_malformed_digest(server, ending):
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        resolve(server.url("good") + ending)
    assert server.asked == []


def test_a_full_disk_while_it_is_copied(server, files, monkeypatch):
    write = download._write

    def full(target, block):
        write(target, block[: len(block) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_write", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        resolve(server.url("good"))
    assert error.value.filename.endswith("data.beton.part") and left() == set()


def test_name_and_password_stay_secret(server, files, tmp_path):
    url = f"http://name:word@{server.address}/private/data.beton"
    path = resolve(url)
    assert Path(path).read_bytes() == files["data.beton"]
    assert b"word" not in Path(f"{path}.source.json").read_bytes()
    with pytest.raises(OSError, match="401") as error:
        resolve(url.replace("word", "secret"))
    assert "secret" not in str(error.value)


def test_addresses_with_queries_spaces_and_long_names(server, files):
    for name in ("data.beton?token=" + "a" * 300, "data.beton?x=1/2", "data.beton#part"):
        assert Path(resolve(server.url("good", name))).name == "data.beton" or "#" in name
    server.files["a%20b%C3%A9.beton"] = files["data.beton"]
    assert Path(resolve(server.url("good", "a bé.beton"))).read_bytes() == files["data.beton"]


@pytest.mark.parametrize("text", ["abc", "0", "-1", "nan", "inf"])
def test_a_time_limit_that_is_none(server, monkeypatch, text):
    monkeypatch.setenv("FASTMIX_REMOTE_TIMEOUT", text)
    with pytest.raises(ValueError, match=f"FASTMIX_REMOTE_TIMEOUT is '{text}'"):
        resolve(server.url("good"))


def test_of_many_processes_one_copies(server, files):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        paths = set(pool.map(resolve, [server.url("good")] * 8))
    assert len(paths) == 1 and Path(paths.pop()).read_bytes() == files["data.beton"]
    assert sum(name != "data.beton" for _, name, _ in server.asked) == 2, "class names and checksums once"


def test_without_locks_two_copies_are_harmless(server, files, monkeypatch):
    monkeypatch.setattr("fastmix.system.fcntl", None)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(resolve, [server.url("good")] * 8)
    assert left() == {*files, "data.beton.source.json"}
    assert Path(resolve(server.url("good"))).read_bytes() == files["data.beton"]
