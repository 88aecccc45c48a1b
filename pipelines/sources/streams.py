"""The bytes of a file elsewhere, from any of them on: http(s) with Python's own library, all else with fsspec's.

http(s) is asked with GET alone, as addresses are signed for GET and some servers know no HEAD. A stream says where it
begins: at the byte that was asked for, or at 0 where the server cannot do that or has another file by now.
"""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, wait
from dataclasses import dataclass
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

BLOCK = 8 << 20  # bytes a read, at most
VERSIONS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")  # as fsspec's servers say
LATER = (408, 425, 429, 500, 502, 503, 504)  # answers of a server that may give another one soon


class Failure(OSError):
    """Why nothing more comes, as a reason without the address.

    again   whether another try may help
    absent  the server answers, and has no such file, or none for us
    """

    def __init__(self, reason: str, again: bool, absent: bool = False):
        super().__init__(reason)
        self.again, self.absent = again, absent


@dataclass(frozen=True)
class Stream:
    """An open file elsewhere.

    size     bytes of the whole file, or None where the server does not say
    version  what the server names it by (ETag, time of change), or ""
    start    the first byte that `read` returns
    read     some bytes, b"" at the end; raises Failure
    close    ends it
    page     whether it calls itself a web page
    """

    size: int | None
    version: str
    start: int
    read: Callable[[], bytes]
    close: Callable[[], None]
    page: bool = False


def is_http(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def shown(url: str) -> str:
    """The address without name and password."""
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def split(url: str) -> SplitResult:
    """The parts of an http(s) address. Raises ValueError."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # looks whether it is a number
        if not (parts.hostname or "").encode("idna"):
            raise ValueError("it names no server")
    except ValueError as error:  # UnicodeError too
        raise ValueError(f"{shown(url)}: no address ({error})") from None
    return parts


def stream(url: str, start: int, version: str, limit: float, stop: int | None = None) -> Stream:
    """Opens a file elsewhere, if possible at the byte `start` of this version.

    limit: seconds without a byte that are too many. stop: where no more bytes are needed; more may come. Raises
    Failure; ValueError for an address that cannot be one.
    """
    return (_http if is_http(url) else _fsspec)(url, start, version, limit, stop)


def _http(url: str, start: int, version: str, limit: float, stop: int | None) -> Stream:
    request, part = _request(url), start > 0 or stop is not None
    if part:
        request.add_header("Range", f"bytes={start}-{'' if stop is None else stop - 1}")
        if version and version.isascii() and not version.startswith("W/"):  # a weak ETag names no bytes
            request.add_header("If-Range", version)
    try:
        answer = _within(limit, urllib.request.urlopen, request, timeout=limit)
    except Failure:
        raise
    except HTTPError as error:
        error.close()
        if error.code == 416 and part:  # shorter than it was
            return _http(url, 0, "", limit, None)
        said = f"the server answers {error.code} {str(error.reason).splitlines()[0] if error.reason else ''}".strip()
        later = error.code in LATER
        raise Failure(said, later, absent=error.code < 500 and not later) from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: it sends us to no address
        raise _why(error, limit, start) from None
    head, length = answer.headers, answer.length  # None of what comes in chunks
    named = head.get("ETag") or head.get("Last-Modified") or ""
    if answer.status == 206 and not part:
        answer.close()
        raise Failure("the server sends a part of the file where all of it was asked for", again=False)
    if answer.status == 206:
        sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", head.get("Content-Range", "").strip())
        if not sent or int(sent[1]) != start or (start and named and named != version):
            answer.close()
            return _http(url, 0, "", limit, None)
        size = int(sent[2]) if sent[2] != "*" else None if length is None or stop is not None else start + length
        named = version if start else named
    else:
        start, size = 0, length
    if (coding := head.get("Content-Encoding", "identity").lower()) != "identity":
        answer.close()
        raise Failure(f"the server compresses what it sends ({coding}); have it send the file as it is", again=False)

    def read() -> bytes:
        try:
            return answer.read1(BLOCK)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _why(error, limit, 1) from None

    return Stream(size, named, start, read, answer.close, head.get_content_type() == "text/html")


def _request(url: str) -> urllib.request.Request:
    """With name and password as a header, which does not go to where the server may send us; and all else escaped."""
    parts = split(url)
    host = parts.hostname.encode("idna").decode()
    port = f":{parts.port}" if parts.port is not None else ""
    place = f"[{host}]" if ":" in host else host
    path, query = (quote(text, safe="/%:@!$&'()*+,;=~?") for text in (parts.path, parts.query))
    request = urllib.request.Request(urlunsplit((parts.scheme, place + port, path, query, "")))
    request.add_header("User-Agent", "fastmix")
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
    return request


def _why(error: Exception, limit: float, start: int) -> Failure:
    """What a failed connection means. A server that was there is worth another try, one that never was is not."""
    error = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
    if isinstance(error, TimeoutError):
        return Failure(f"no byte for {limit:g} s", again=True)
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate cannot be verified: {error.verify_message} (SSL_CERT_FILE names authorities to trust)"
        return Failure(why, again=False)
    if isinstance(error, http.client.IncompleteRead):
        return Failure("the connection was dropped", again=True)
    text = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    if isinstance(error, socket.gaierror):
        return Failure(f"the name of the server cannot be looked up ({text})", again=start > 0)
    if isinstance(error, ssl.SSLEOFError | ConnectionResetError | BrokenPipeError):
        return Failure(f"the connection was dropped ({text})", again=True)
    if isinstance(error, http.client.HTTPException):
        return Failure(f"the server does not speak HTTP ({type(error).__name__}: {text[:80]})", again=True)
    return Failure(text, again=start > 0)


def _fsspec(url: str, start: int, version: str, limit: float, stop: int | None) -> Stream:
    import fsspec

    try:
        try:
            fs, place = _within(limit, fsspec.core.url_to_fs, url)
        except (ImportError, ValueError) as error:  # a protocol that needs another package, or none that is known
            raise ValueError(f"{shown(url)}: {error}") from None
        info = _within(limit, fs.info, place)
        kind = info.get("type", "file")
        if kind == "directory":
            raise ValueError(f"{place}: a folder; pack it with `fastmix convert`, one file travels better")
        if kind != "file":
            raise Failure("no regular file", again=False)
        named = next((str(info[key]) for key in VERSIONS if info.get(key)), "")
        start = start if named == version else 0
        block = BLOCK if stop is None else stop - start
        file = _within(limit, fs.open, place, "rb", block_size=block)
        if start:
            _within(limit, file.seek, start)
    except (ValueError, Failure):
        raise
    except Exception as error:  # each protocol has its own, and tries by itself for a while
        raise Failure(_text(error), again=start > 0, absent=isinstance(error, FileNotFoundError)) from None

    def read() -> bytes:
        try:
            return _within(limit, file.read, block)
        except Failure:
            raise
        except Exception as error:
            raise Failure(_text(error), again=True) from None

    return Stream(info.get("size"), named, start, read, file.close)


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _within(limit: float, function: Callable, *args, **options):
    """function(*args, **options) in a thread that is left behind where it takes longer.

    Not every protocol has a limit, and that of a socket is one for each byte of an answer's head.
    """
    future: Future = Future()

    def call() -> None:
        try:
            result, tell = function(*args, **options), future.set_result
        except BaseException as error:
            result, tell = error, future.set_exception
        try:
            tell(result)
        except InvalidStateError:  # cancelled: nobody waits for this connection any more
            if hasattr(result, "close"):
                result.close()

    threading.Thread(target=call, daemon=True).start()
    wait([future], limit)
    if future.cancel():
        raise Failure(f"no byte for {limit:g} s", again=True)
    return future.result()
