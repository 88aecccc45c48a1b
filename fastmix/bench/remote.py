"""python -m fastmix.bench remote: what it costs to fetch a shard into the bounded cache, beside a plain copy.

A packed file of random bytes is served by Python's HTTP server in another process on this machine. Measured is the CPU
time of the process that fetches it, for a GB: all of `Bounded.take` (read, SHA-256, write, checksum of each row), and
reading the same bytes alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

SERVER = """
import http.server, os, sys

class Parts(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = sys.argv[1] + self.path
        if not os.path.exists(path):
            return self.send_error(404)
        size = os.path.getsize(path)
        first, last = (self.headers.get("Range", "bytes=0-")[6:]).split("-")
        first, stop = int(first), min(size, int(last or size - 1) + 1)
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", stop - first)
        self.send_header("Content-Range", f"bytes {first}-{stop - 1}/{size}")
        self.end_headers()
        with open(path, "rb") as file:
            while first < stop:
                first += os.sendfile(self.connection.fileno(), file.fileno(), first, stop - first)
    def log_message(self, *_): pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Parts)
print(server.server_port, flush=True)
server.serve_forever()
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=128, help="MB of the shard")
    parser.add_argument("--image", type=int, default=115, help="kB of an image")
    parser.add_argument("--repeats", type=int, default=5)


def run(args: argparse.Namespace) -> Iterator[dict]:
    """Two rows, of medians."""
    from fastmix.bench.measure import row
    from fastmix.pipelines.packing.shards import Shards
    from fastmix.pipelines.sources.bounded import Bounded
    from fastmix.pipelines.sources.resolve import tables

    turns: dict[str, list[float]] = {"reading": [], "fetching and checking": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FASTMIX_CACHE"] = f"{folder}/cache"
        (Path(folder) / "there").mkdir()
        _write(Path(folder) / "there/a.beton", args)
        server = subprocess.Popen([sys.executable, "-c", SERVER, f"{folder}/there"], stdout=subprocess.PIPE, text=True)
        try:
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}/a.beton"
            found = tables([url])
            copies = Bounded(found, Shards([str(found[0].path)]).files, 2 * found[0].size)
            for _ in range(args.repeats):
                turns["reading"].append(_cost(lambda: _read(url), found[0].size))
                turns["fetching and checking"].append(_cost(lambda: copies.take(0, float).close(), found[0].size))
                copies.paths[0].unlink()
        finally:
            server.kill()
            server.wait()
            server.stdout.close()
    for name, values in turns.items():
        yield row("remote", name, "Python's HTTP", f"{args.size} MB", f"{args.image} kB images", "CPU s/GB", values)


def _write(path: Path, args: argparse.Namespace) -> None:
    from fastmix.pipelines.packing.format import JPEG
    from fastmix.pipelines.packing.writer import BetonWriter

    count, sums = max(1, args.size * 1000 // args.image), []
    with BetonWriter(path, count) as writer:
        for _ in range(count):
            image = os.urandom(args.image * 1000)
            sums.append(crc32(image))
            writer.add(JPEG, 8, 8, image, 0)
        writer.finish()
        writer.publish(["one"], sums)


def _cost(work, size: int) -> float:
    """CPU seconds a GB, of this process."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / size * 1e9


def _read(url: str) -> None:
    with urllib.request.urlopen(url) as answer:
        while answer.read1(8 << 20):
            pass
