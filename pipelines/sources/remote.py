"""A `.beton` file elsewhere (https://, s3://, gs://, ... whatever fsspec opens) is copied once to the local cache.

    CACHE/remote/<hash of the URL>/NAME.beton            its bytes
                                   NAME.beton.source.json  URL, size, SHA-256, the version that the server names, and
                                                           what the disk said of the copy when its SHA-256 was taken
                                   NAME.beton.classes.json, NAME.beton.sums   where they lie beside it there

A random order touches every page of the file, so reading it over the network would be slower than copying it. The copy
is used as long as size and version (ETag, time of change) are those of the server; where the server cannot be reached,
the copy is used, and that is said. A copy whose bytes are not those that arrived is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import sys
from pathlib import Path
from urllib.parse import urlunsplit

from fastmix import files
from fastmix.pipelines.packing import checksums
from fastmix.pipelines.packing.format import Beton, classes_path
from fastmix.pipelines.sources import cache
from fastmix.pipelines.sources.download import Download, drop, sha256
from fastmix.pipelines.sources.streams import Failure, is_http, shown, split

BESIDE = (classes_path, checksums.sums_path)


def is_url(source: str) -> bool:
    """Whether it is an address with a protocol, and not a path."""
    return "://" in source


def parse(source: str) -> tuple[str, str]:
    """The URL, and the SHA-256 in lower case that a #sha256=<hex> behind it asks for, or "". Raises ValueError."""
    asked = re.fullmatch(r"(.*)#([\w-]+)=(.*)", source, re.DOTALL)
    if not asked:
        return source, ""
    url, kind, digest = asked.groups()
    if kind.lower() != "sha256":
        raise ValueError(f"{shown(source)}: #{kind}= is not known; write #sha256= and 64 hexadecimal digits")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise ValueError(f"{shown(source)}: behind #sha256= must stand 64 hexadecimal digits")
    return url, digest.lower()


def fetch(source: str) -> str:
    """The path of the local copy of a URL, copied now if need be, with progress on standard error.

    It may end in #sha256=<hex>, which the copy must have; one that has it is used without asking the server. Raises
    ValueError for an address that cannot be one, a checksum that differs, and bytes that are no whole `.beton`;
    OSError for a copy that fails, in which case what arrived may be kept for the next try. Nothing but the cache is
    written.
    """
    url, digest = parse(source)
    path = place(url)
    with cache.alone(path) as locked:
        kept = kept_note(path)
        if kept and digest and kept["sha256"] == digest:
            return str(path)
        job = Download(url, _part(path, locked))
        try:
            there = job.begin()
        except Failure as failure:
            if not kept:
                raise OSError(f"{shown(url)}: {failure}") from None
            sys.stderr.write(f"{shown(url)}: cannot be reached ({failure}); using the copy {path}\n")
        else:
            if not kept or there.version != kept["version"] or there.size not in (None, kept["size"]):
                kept = _copy(job, path, digest)
        job.close()
        if digest and kept["sha256"] != digest:
            raise ValueError(f"{shown(url)}: has the SHA-256 {kept['sha256']}, not the {digest} that was asked for")
    return str(path)


def place(url: str, *below: str) -> Path:
    """Where what is kept of a URL lies."""
    name = (split(url).path if is_http(url) else url).rstrip("/").rsplit("/", 1)[-1]
    if name in ("", ".", "..") or name.endswith(".lock") or "\0" in name or len(name.encode()) > 200:
        name = "data.beton"
    return cache.kept("remote", hashlib.sha256(url.encode()).hexdigest()[:16], *below, name)


def _part(path: Path, locked: bool) -> Path:
    """Where the bytes go that are not yet all: to a name of this process's own where another may be at it."""
    return path.with_name(f"{path.name}.part" if locked else f"{path.name}.{socket.gethostname()}-{os.getpid()}.part")


def _copy(job: Download, path: Path, digest: str) -> dict:
    """Copies the file and what lies beside it, and looks whether they are whole; the file itself gets its name last."""
    part = job.part
    size, found = job.finish()
    try:
        if digest and found != digest:
            raise ValueError(f"{shown(job.url)}: has the SHA-256 {found}, not the {digest} that was asked for")
        for name in BESIDE:
            fetch_beside(job.url, name("").name, name(part))
        _check(part, job.url)
        for name in BESIDE:
            if name(part).exists():
                os.replace(name(part), name(path))
            else:
                name(path).unlink(missing_ok=True)
        os.replace(part, path)
    except (Failure, KeyboardInterrupt):
        job.keep()
        raise
    except (OSError, ValueError):
        job.drop()
        raise
    finally:
        for name in BESIDE:
            drop(name(part))
    return write_note(job, path, size, found)


def write_note(job: Download, path: Path, size: int, found: str) -> dict:
    """Writes, and returns, what is known of a copy: `found` is its SHA-256."""
    note = {"url": shown(job.url), "sha256": found, "version": job.version, "size": size, "disk": _disk(path)}
    files.write_text(job.part, json.dumps(note))  # the name that is this process's own
    os.replace(job.part, note_path(path))
    return note


def fetch_beside(url: str, ending: str, target: Path) -> None:
    """Copies a file that may not be there; some servers answer with a page then."""
    url = _beside(url, ending)
    job = Download(url, target, quiet=True)
    try:
        there = job.begin()
    except Failure as failure:
        if failure.absent:
            return
        raise Failure(f"{shown(url)}: {failure}", again=False) from None
    if there.page:
        job.close()
    else:
        job.finish()


def _beside(url: str, ending: str) -> str:
    if not is_http(url):
        return url + ending
    parts = split(url)
    return urlunsplit(parts._replace(path=parts.path + ending))


def _check(part: Path, url: str) -> None:
    """Raises ValueError where what arrived is no whole `.beton`, or what lies beside it belongs to another."""
    try:
        with Beton(part) as beton:
            checksums.load(beton)
    except ValueError as error:
        reason = str(error).replace(str(part), shown(url))
        raise ValueError(f"{reason} (this is what the server sends)") from None


def note_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.source.json")


def kept_note(path: Path) -> dict | None:
    """The note of a copy whose bytes are those that arrived, or None.

    They are read again only where the disk names another size, time or place than when that was last done.
    """
    try:
        note = json.loads(note_path(path).read_text(encoding="utf-8"))
        digest, size = note["sha256"], note["size"]
        if not isinstance(note["version"], str) or not path.is_file() or path.stat().st_size != size:
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # nothing, or nothing of ours
        return None
    disk = _disk(path)
    if note.get("disk") != disk:
        if sha256(path) != digest:
            return None
        note["disk"] = disk
        with contextlib.suppress(OSError):  # a cache that may only be read
            files.write_text(note_path(path), json.dumps(note))
    return note


def _disk(path: Path) -> list[int]:
    """What changes with a file's bytes; the last one with every change, and nobody can set it."""
    found = os.stat(path)
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
