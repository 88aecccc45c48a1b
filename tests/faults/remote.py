"""Data elsewhere: servers that drop, stall and lie, and what is kept of them in the cache."""

from __future__ import annotations

import atexit
import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np

from fastmix.pipelines.packing.format import RAW
from fastmix.pipelines.packing.writer import BetonWriter
from fastmix.pipelines.sources.resolve import resolve
from faults.harness import Fault, nothing
from helpers.serving import Serving

SERVER = Serving()
KEPT = tempfile.TemporaryDirectory()
atexit.register(KEPT.cleanup)


@cache
def served() -> dict[str, bytes]:
    """A packed file of 16 images of 32 pixels in 10 classes, served from now on."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.beton")
        with BetonWriter(path, 16, 4096) as writer:
            for k, image in enumerate(np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)):
                writer.add(RAW, 32, 32, image.tobytes(), k % 10)
            writer.finish()
            writer.publish([f"class {k}" for k in range(10)])
        SERVER.files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
    return SERVER.files


def digest() -> str:
    return hashlib.sha256(served()["data.beton"]).hexdigest()


def fault(
    name: str,
    way: str,
    *says: str,
    code: int = 2,
    ending: str = "",
    prepare: Callable[[Path], object] = nothing,
    after: Callable[[Path], object] = nothing,
    seconds: float = 3,
) -> Fault:
    """Training on a file of the server that serves it in this way. prepare, after: called with the case's own cache."""
    folder, url = Path(KEPT.name, name.replace(" ", "_").replace("/", "_")), SERVER.url(way)

    def prepared(_: Path) -> None:
        served()
        prepare(folder)

    def looked(_: Path, output: str) -> None:
        half = [path for path in folder.rglob("*.part") if "are kept" not in output]
        assert not half, f"half a file stays: {half}"
        after(folder)

    command = f"fastmix.train {{config}} 'data.train={url}{ending}' 'data.val={url}{ending}'" + " out=a" * (code == 0)
    env = {"FASTMIX_CACHE": str(folder), "FASTMIX_REMOTE_TIMEOUT": str(seconds)}
    return Fault(name, prepared, command, (url if code else "done:", *says), code, looked, env)


def copied(folder: Path) -> Path:
    """The cached file."""
    return next(folder.rglob("data.beton"))


def train_first(folder: Path) -> Path:
    """As an earlier run leaves the cache; returns the cached file."""
    with mock.patch.dict(os.environ, FASTMIX_CACHE=str(folder)):
        return Path(resolve(SERVER.url("good")))


def whole(folder: Path) -> None:
    """The cache has the server's bytes."""
    assert copied(folder).read_bytes() == served()["data.beton"]


def alter(folder: Path) -> None:
    path = train_first(folder)
    with open(path, "r+b") as file:
        file.seek(20_000)
        file.write(b"\xaa\x55\xaa\x55")


def note(content: bytes) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        path = train_first(folder)
        path.with_name("data.beton.source.json").write_bytes(content)

    return prepare


def arrives(name: str, way: str) -> Fault:
    return fault(name, way, code=0, after=whole)


served()
FAULTS = [
    arrives("a good server", "good"),
    arrives("two drops", "dropped"),
    arrives("a connection that ends early", "short"),
    arrives("no ranges and two drops", "no_range"),
    arrives("no length", "no_length"),
    arrives("chunks", "chunked"),
    arrives("chunks that end early", "chunked_cut"),
    arrives("a redirection", "moved"),
    arrives("another file after a drop", "changing"),
    arrives("another file after a drop and no If-Range", "changing_rudely"),
    arrives("another date after a drop", "changing_date"),
    arrives("another range than was asked for", "wrong_range"),
    arrives("503 twice", "busy"),
    fault("drops for ever", "always_dropped", "bytes arrived of", "goes on from there"),
    fault("a stall", "stalled", "no byte for 1 s", seconds=1),
    fault("no answer", "silent", "no byte for 1 s", seconds=1),
    fault("a byte now and then", "drip", "bytes in 1 s", seconds=1),
    fault("a head without end", "dripping_head", "no byte for 1 s", seconds=1),
    fault("no ranges and drops for ever", "no_range_ever", "bytes arrived of"),
    fault("no length and cut", "no_length_cut", "truncated"),
    fault("a length too long", "too_long", "bytes arrived of"),
    fault("a length too short", "too_short", "truncated"),
    fault("chunks that are none", "chunked_garbage", "dropped"),
    fault("compressed on the way", "compressed", "gzip"),
    fault("redirections without end", "circle", "302"),
    fault("a redirection to a local file", "nowhere", "302"),
    fault("500 for ever", "broken", "500"),
    fault("403", "forbidden", "403 Forbidden"),
    fault("a page to log in", "page", "not a .beton file"),
    fault("an empty file", "empty", "0 bytes"),
    fault("no HTTP", "no_http", "does not speak HTTP"),
    fault("a server that hangs up", "hung_up", "dropped"),
    fault("a digest", "good", code=0, ending=f"#sha256={digest()}", after=whole),
    fault("a digest in capitals", "good", code=0, ending=f"#sha256={digest().upper()}", after=whole),
    fault("a digest of other bytes", "good", digest(), "0" * 64, ending="#sha256=" + "0" * 64),
    fault("a digest too short", "good", "64 hexadecimal digits", ending="#sha256=abc"),
    fault("an empty digest", "good", "64 hexadecimal digits", ending="#sha256="),
    fault("a digest that is no number", "good", "64 hexadecimal digits", ending="#sha256=" + "x" * 64),
    fault("another kind of digest", "good", "#md5=", ending="#md5=" + "0" * 32),
    fault("four bytes of the copy altered", "good", code=0, prepare=alter, after=whole),
    fault("altered with a digest", "good", code=0, ending=f"#sha256={digest()}", prepare=alter, after=whole),
    fault("an empty note", "good", code=0, prepare=note(b""), after=whole),
    fault("a note of text", "good", code=0, prepare=note(b"hello"), after=whole),
    fault("a note of another program", "good", code=0, prepare=note(b'{"version": 3, "sources": []}'), after=whole),
    fault("a note that is deep", "good", code=0, prepare=note(b"[" * 100_000), after=whole),
    Fault(
        "404",
        nothing,
        f"fastmix.train {{config}} data.train={SERVER.url('good', 'x.beton')}",
        ("x.beton", "404"),
        env={"FASTMIX_CACHE": KEPT.name},
    ),  # fmt: skip
    Fault(
        "refused",
        nothing,
        "fastmix.train {config} data.train=http://127.0.0.1:9/a.beton",
        ("Connection refused",),
        env={"FASTMIX_CACHE": KEPT.name},
    ),  # fmt: skip
    Fault(
        "no such server",
        nothing,
        "fastmix.train {config} data.train=https://no.such.invalid/a.beton",
        ("looked up",),
        env={"FASTMIX_CACHE": KEPT.name},
    ),  # fmt: skip
    Fault(
        "no TLS",
        nothing,
        f"fastmix.train {{config}} data.train=https://{SERVER.address}/good/a.beton",
        ("SSL",),
        env={"FASTMIX_CACHE": KEPT.name},
    ),  # fmt: skip
    Fault(
        "a time limit that is none",
        nothing,
        f"fastmix.train {{config}} data.train={SERVER.url('good')}",
        ("FASTMIX_REMOTE_TIMEOUT is 'soon'",),
        env={"FASTMIX_CACHE": KEPT.name, "FASTMIX_REMOTE_TIMEOUT": "soon"},
    ),  # fmt: skip
    Fault(
        "a malformed digest in a dry run",
        nothing,
        f"fastmix.train {{config}} --dry-run data.train={SERVER.url('good')}#sha256=1",
        ("64 hexadecimal digits",),
    ),  # fmt: skip
]
