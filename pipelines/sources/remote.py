"""A `.beton` file elsewhere (s3://, gs://, https://, ... whatever fsspec opens) is copied once to the local cache.

    CACHE/remote/<hash of the URL>/NAME.beton            its bytes
                                   NAME.beton.source.json  URL, size, SHA-256, and the version that the server names
                                   NAME.beton.classes.json, NAME.beton.sums   where they lie beside it there

A random order touches every page of the file, so reading it over the network would be slower than copying it. The copy
is used as long as size and version (ETag, time of change) are those of the server; where the server cannot be reached,
the copy is used, and that is said.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from tqdm import tqdm

from fastmix.pipelines.packing.format import classes_path
from fastmix.pipelines.sources import cache

BLOCK = 8 << 20  # bytes a read
VERSIONS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")  # what servers name
DIGEST = "#sha256="


def is_url(source: str) -> bool:
    """Whether it is an address with a protocol, and not a path."""
    return "://" in source


def fetch(url: str) -> str:
    """The path of the local copy of a URL, copied now if need be, with progress on standard error.

    url may end in #sha256=<hex>, which the copy must have. Raises ValueError for an unknown protocol or a checksum that
    differs, OSError for a copy that fails; nothing but the cache is written, and no half copy stays.
    """
    url, _, digest = url.partition(DIGEST)
    path = cache.folder() / "remote" / hashlib.sha256(url.encode()).hexdigest()[:16] / url.rstrip("/").rsplit("/", 1)[1]
    note = path.with_name(f"{path.name}.source.json")
    with cache.alone(path):
        kept = json.loads(note.read_text()) if note.is_file() and path.is_file() else None
        if kept and path.stat().st_size != kept["size"]:
            kept = None
        try:
            fs, place = _open(url)
            there = _state(fs, place)
        except ValueError:
            raise
        except Exception as error:  # each protocol has its own
            if not kept:
                raise OSError(f"{url}: {error}") from error
            sys.stderr.write(f"{url}: cannot be reached ({error}); using the copy {path}\n")
            there = kept
        if not kept or there["version"] != kept["version"] or there["size"] not in (None, kept["size"]):
            kept = _copy(fs, place, url, path, there, digest)
            note.write_text(json.dumps(kept))
        if digest and kept["sha256"] != digest:
            raise ValueError(f"{url}: has the SHA-256 {kept['sha256']}, not the {digest} that was asked for")
    return str(path)


def _open(url: str):
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # a protocol that needs another package, or none that is known
        raise ValueError(f"{url}: {error}") from None


def _state(fs, place: str) -> dict:
    info = fs.info(place)
    if info.get("type") == "directory":
        raise ValueError(f"{place}: a folder; pack it with `fastmix convert`, one file travels better")
    return {"size": info["size"], "version": next((str(info[key]) for key in VERSIONS if info.get(key)), "")}


def _copy(fs, place: str, url: str, path: Path, there: dict, digest: str) -> dict:
    """Copies the file and what lies beside it; the file itself gets its name last."""
    free = shutil.disk_usage(path.parent).free
    if there["size"] and there["size"] > free:
        raise OSError(f"{url}: {there['size'] / 1e9:.1f} GB, but {path.parent} has {free / 1e9:.1f} GB free")
    part = path.with_name(f"{path.name}.part")
    seen, size = hashlib.sha256(), 0
    try:
        bar = tqdm(desc=f"copying {path.name}", total=there["size"], unit="B", unit_scale=True, disable=None)
        with bar, fs.open(place, "rb") as source, open(part, "wb") as target:
            while block := source.read(BLOCK):
                target.write(block)
                seen.update(block)
                size += len(block)
                bar.update(len(block))
            target.flush()
            os.fsync(target.fileno())
        if there["size"] not in (None, size):
            raise OSError(f"{url}: {size} bytes arrived of {there['size']}; try again")
        if digest and seen.hexdigest() != digest:
            raise ValueError(f"{url}: has the SHA-256 {seen.hexdigest()}, not the {digest} that was asked for")
        for beside in (classes_path(path).name, f"{path.name}.sums"):
            path.with_name(beside).unlink(missing_ok=True)
            away = place[: -len(path.name)] + beside
            if fs.exists(away):
                fs.get_file(away, str(path.with_name(beside)))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return {"url": url, "sha256": seen.hexdigest(), **there, "size": size}
