"""An HTTP server in a thread that misbehaves as its addresses say: http://127.0.0.1:PORT/WAY/NAME."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK = 512  # bytes of a chunk that is sent


class Request(BaseHTTPRequestHandler):
    """One request: what the ways below answer with."""

    server: Serving

    def do_GET(self) -> None:
        _, way, self.name = self.path.split("?")[0].split("/", 2)
        with self.server.counting:
            self.server.asked.append((way, self.name, self.headers.get("Range")))
            self.count = sum(self.path == path for path in self.server.paths)
            self.number = len(self.server.paths)
            self.server.paths.append(self.path)
        self.close_connection = True
        data = self.server.files.get(self.name)
        try:
            if data is None:
                self.send_error(404)
            else:
                WAYS[way](self, data)
        except OSError:  # the client has gone
            pass

    def log_message(self, *_) -> None:
        pass

    def start(self) -> int:
        """The first byte that is asked for."""
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])

    def stop(self, data: bytes) -> int:
        """Behind the last byte that is asked for."""
        last = self.headers.get("Range", "bytes=0-").rpartition("-")[2]
        return min(len(data), int(last) + 1) if last else len(data)

    def head(self, code: int = 200, **headers: str | int) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def whole(self, data: bytes, **headers: str | int) -> None:
        self.head(Content_Length=len(data), **headers)
        self.wfile.write(data)

    def part(self, data: bytes, send: int | None = None, tag: str | None = None) -> None:
        """What is asked for, as a server with ranges and versions answers; of it `send` bytes, then it ends."""
        start, tag = self.start(), tag or f'"{hashlib.sha256(data).hexdigest()[:8]}"'
        data, length = data[: self.stop(data)], len(data)
        if start >= len(data):
            self.head(416, Content_Range=f"bytes */{length}", Content_Length=0)
            return
        if start and self.headers.get("If-Range", tag) != tag:
            start = 0
        part = start > 0 or len(data) < length
        shown = {"Content_Range": f"bytes {start}-{len(data) - 1}/{length}"} if part else {}
        self.head(206 if part else 200, ETag=tag, Content_Length=len(data) - start, **shown)
        self.wfile.write(data[start:] if send is None else data[start : start + send])

    def drop(self) -> None:
        """Ends the connection as a crash does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(self.connection.detach())  # its files would keep it open


Way = Callable[[Request, bytes], None]
WAYS: dict[str, Way] = {}


def way(function: Way) -> Way:
    WAYS[function.__name__] = function
    return function


@way
def good(request, data):
    request.part(data)


@way
def dropped(request, data):
    """In the middle, whatever is asked for, but for the third time."""
    request.part(data, (len(data) - request.start()) // 2 if request.count < 2 else None)
    request.drop()


@way
def short(request, data):
    """The first connection is closed in the middle, without a fault."""
    request.part(data, len(data) // 2 if request.count == 0 else None)


@way
def crumbs(request, data):
    """No connection carries more than 1500 bytes."""
    request.part(data, 1500)


@way
def tenth(request, data):
    """Each tenth request, whatever it is for, ends in the middle."""
    request.part(data, (request.stop(data) - request.start()) // 2 if request.number % 10 == 9 else None)
    if request.number % 10 == 9:
        request.drop()


@way
def flipped(request, data):
    """With one wrong bit in the middle, but for the third time that all of it is asked for."""
    whole = request.headers.get("Range") is None and request.name.endswith(".beton")
    wrong = whole and request.server.asked.count(("flipped", request.name, None)) < 3
    place = len(data) // 2
    request.part(data[:place] + bytes([data[place] ^ wrong]) + data[place + 1 :], tag='"a"')


@way
def always_dropped(request, data):
    """At the middle of the file, for ever."""
    request.part(data, max(0, len(data) // 2 - request.start()))


@way
def stalled(request, data):
    request.part(data, 2000)
    time.sleep(30)


@way
def silent(request, data):
    time.sleep(30)


@way
def late(request, data):
    """Its head takes most of a second; then it waits for the client to go."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for k in range(8):
        time.sleep(0.1)
        request.wfile.write(b"X-%d: a\r\n" % k)
    request.wfile.write(b"Content-Length: 9\r\n\r\n")
    request.connection.settimeout(5)
    if request.connection.recv(1) == b"":
        request.server.left.set()


@way
def drip(request, data):
    request.head(Content_Length=len(data))
    for k in range(300):
        request.wfile.write(data[k : k + 1])
        time.sleep(0.1)


@way
def dripping_head(request, data):
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    for _ in range(300):
        request.wfile.write(b"a")
        time.sleep(0.1)


@way
def no_range(request, data):
    """Dropped twice by a server that begins at the beginning each time."""
    request.head(Content_Length=len(data))
    request.wfile.write(data[: len(data) * (request.count + 1) // 3])


@way
def no_range_ever(request, data):
    request.head(Content_Length=len(data))
    request.wfile.write(data[: len(data) // 2])


@way
def no_length(request, data):
    request.head()
    request.wfile.write(data)


@way
def no_length_cut(request, data):
    request.head()
    request.wfile.write(data[: len(data) // 2])


@way
def chunked(request, data):
    send_chunks(request, data)
    request.wfile.write(b"0\r\n\r\n")


@way
def chunked_cut(request, data):
    """The first time."""
    send_chunks(request, data if request.count else data[: len(data) // 2])
    if request.count:
        request.wfile.write(b"0\r\n\r\n")


@way
def chunked_garbage(request, data):
    send_chunks(request, data[: len(data) // 2])
    request.wfile.write(b"zz\r\nnonsense\r\n")


def send_chunks(request, data):
    request.protocol_version = "HTTP/1.1"
    request.head(Transfer_Encoding="chunked")
    for k in range(0, len(data), CHUNK):
        block = data[k : k + CHUNK]
        request.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))


@way
def too_long(request, data):
    """It promises more than it has."""
    request.head(Content_Length=len(data) + 1000)
    request.wfile.write(data)


@way
def too_short(request, data):
    """It promises less than it has."""
    request.head(Content_Length=len(data) - 1000)
    request.wfile.write(data)


@way
def compressed(request, data):
    request.whole(data, Content_Encoding="gzip")


@way
def moved(request, data):
    request.head(302, Location=f"/good/{request.name}")


@way
def circle(request, data):
    request.head(302, Location=request.path)


@way
def nowhere(request, data):
    request.head(302, Location="file:///etc/passwd")


@way
def changing(request, data):
    """Another file of the same size after the first connection, with an ETag of its own; If-Range is obeyed."""
    if request.count == 0:
        request.part(bytes(len(data)), len(data) // 2)
    else:
        request.part(data)


@way
def changing_rudely(request, data):
    """Likewise, but If-Range is not looked at."""
    del request.headers["If-Range"]
    changing(request, data)


@way
def changing_date(request, data):
    """Likewise, with a time of change and no ETag."""
    old, start = request.count == 0, request.start()
    date = f"Mon, 01 Jan 2024 00:00:0{0 if old else 1} GMT"
    shown = {"Content_Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
    request.head(206 if start else 200, Last_Modified=date, Content_Length=len(data) - start, **shown)
    request.wfile.write(bytes(len(data) // 2) if old else data[start:])


@way
def weak(request, data):
    request.part(data, len(data) // 2 if request.count == 0 else None, 'W/"same"')


@way
def wrong_range(request, data):
    """A range of another place than was asked for, after a drop."""
    if request.count == 0 or not request.start():
        request.part(data, len(data) // 2 if request.count == 0 else None)
    else:
        shown = {"Content_Range": f"bytes 10-{len(data) - 1}/{len(data)}"}
        request.head(206, Content_Length=len(data) - 10, **shown)
        request.wfile.write(data[10:])


@way
def unasked_range(request, data):
    request.head(206, Content_Length=100, Content_Range=f"bytes 0-99/{len(data)}")
    request.wfile.write(data[:100])


@way
def busy(request, data):
    """503 twice, then the file."""
    if request.count < 2:
        request.send_error(503)
    else:
        request.part(data)


@way
def broken(request, data):
    request.send_error(500)


@way
def forbidden(request, data):
    request.send_error(403)


@way
def private(request, data):
    """For name:word only, and not for whoever was sent here."""
    if request.headers.get("Authorization") == "Basic bmFtZTp3b3Jk":  # name:word
        request.part(data)
    else:
        request.send_error(401)


@way
def page(request, data):
    request.whole(b"<!DOCTYPE html><title>Please log in</title>" * 40, Content_Type="text/html")


@way
def empty(request, data):
    request.whole(b"")


@way
def no_http(request, data):
    request.wfile.write(b"220 mail.example ESMTP ready\r\n" * 3)


@way
def hung_up(request, data):
    request.drop()


@way
def unnamed(request, data):
    """Ranges, but no version."""
    start = request.start()
    shown = {"Content_Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
    request.head(206 if start else 200, Content_Length=len(data) - start, **shown)
    request.wfile.write(data[start:] if request.count else data[: len(data) // 2])


class Serving(ThreadingHTTPServer):
    """Serves `files`, bytes by name, and remembers in `asked` (way, name, the Range header) of each request.

    left: set when a client of the way `late` has gone.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, files: dict[str, bytes] | None = None):
        super().__init__(("127.0.0.1", 0), Request)
        self.files = files or {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.paths: list[str] = []
        self.counting, self.left = threading.Lock(), threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def url(self, way: str, name: str = "data.beton") -> str:
        return f"http://{self.address}/{way}/{name}"

    def handle_error(self, *_) -> None:
        """Clients that go away are no news."""
