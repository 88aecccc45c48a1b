"""Packs a data set into a `.beton` file: every image is decoded once and checked, in parallel, in listing order.

Beside OUT lie OUT.classes.json, the class names, OUT.sums, a checksum a row, and, where images were damaged,
OUT.bad.csv: file and reason. The bytes are a function of the images and the options, never of the number of workers.
"""

from __future__ import annotations

import csv
import os
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, fields
from functools import partial
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

from tqdm import tqdm

from fastmix import files, system
from fastmix.pipelines.jpeg.codec import need
from fastmix.pipelines.jpeg.limits import MAX_PIXELS
from fastmix.pipelines.packing.checksums import load as load_sums
from fastmix.pipelines.packing.entries import load
from fastmix.pipelines.packing.format import JPEG, RAW, Beton
from fastmix.pipelines.packing.images import Encoded, encode
from fastmix.pipelines.packing.journal import Row, key
from fastmix.pipelines.packing.layouts import Listing, with_jpegs
from fastmix.pipelines.packing.note import Note
from fastmix.pipelines.packing.note import load as load_note
from fastmix.pipelines.packing.writer import BetonWriter, check_page
from fastmix.reading import reason, shown

SILENT = 60  # seconds between lines on the progress, where there is no terminal
WAYS = ("kept", "seekable", "encoded", "raw", "odd")  # what of a `Packed` is noted beside a shard
AHEAD = 8  # images in work or waiting for their turn, per worker


@dataclass
class Packed:
    """What was written: rows and bytes of the file; damaged images: file and reason.

    Of the rows `kept` hold their source's own bytes, `seekable` the same coefficients with restart markers, `encoded`
    new JPEGs and `raw` pixels. odd: how many of `encoded` were of which kind, other than plain JPEGs. taken_up: rows
    that an earlier conversion, which was killed, had written. labels: of how many rows each. Two of these add up.
    """

    rows: int = 0
    kept: int = 0
    seekable: int = 0
    encoded: int = 0
    raw: int = 0
    bytes: int = 0
    taken_up: int = 0
    odd: Counter = field(default_factory=Counter)
    labels: Counter = field(default_factory=Counter)
    bad: list[tuple[str, str]] = field(default_factory=list)

    def __add__(self, other: Packed) -> Packed:
        return Packed(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def emptied(self, listing: Listing, rows: range) -> list[str]:
        """Classes all of whose images among these rows of the listing were damaged."""
        lost = {*listing.labels[rows.start : rows.stop]} - self.labels.keys()
        return [listing.classes[k] if listing.classes else str(k) for k in sorted(lost)]


def bad_path(out: str | Path) -> Path:
    """Where the damaged images of a conversion are listed."""
    return Path(f"{out}.bad.csv")


def pack(
    listing: Listing,
    out: str | Path,
    *,
    rows: range | None = None,
    note: Note | None = None,
    max_resolution: int | None = None,
    max_pixels: int = MAX_PIXELS,
    quality: int = 90,
    recompress: bool = False,
    jpeg_share: float = 1.0,
    seekable: bool = False,
    workers: int | None = None,
    skip_bad: bool = False,
    verify: bool = False,
    overwrite: bool = False,
) -> Packed:
    """Writes the images of a listing to the `.beton` file `out`.

    rows: those of the listing that are written, without gaps; None: all. note: what is noted beside a shard, which
    stays as it is where it is finished. max_resolution, max_pixels, quality, recompress: as in `images.encode`.
    jpeg_share: share of the rows stored as JPEG, chosen by a hash of the row; the rest are raw pixels. seekable: put
    restart markers into JPEGs where `restarts.insert` can. workers: threads, default one a core. verify: read the
    finished file back and compare every row with its source before it gets its name.

    Raises ValueError if an image is damaged (unless skip_bad: it is left out), if `out` exists and overwrite is not
    set, or if the verification fails; OSError if writing fails. In all these cases no `.beton` is left. What a killed
    process leaves is taken up by the next call for the same file from the same source with the same options.
    """
    out, rows = Path(out), range(len(listing.files)) if rows is None else rows
    options = {"max_resolution": max_resolution, "max_pixels": max_pixels, "quality": quality, "recompress": recompress}
    asked, own = options | {"jpeg_share": jpeg_share, "seekable": seekable}, slice(rows.start, rows.stop)
    unique = key(listing.files[own], listing.labels[own], listing.classes, asked | {"first": rows.start})
    if note and (done := _finished(out, unique, skip_bad)):
        return done
    files.check_free(out, overwrite)
    need(shown(out), jpeg_share > 0 or with_jpegs(listing.files))
    workers = workers or system.cores()
    make = partial(_row, listing.files, partial(encode, **options), jpeg_share, seekable)
    packed, good, sums, total = Packed(), [], [], len(rows)

    def count(row: Row) -> None:
        if row.bad:
            packed.bad.append((shown(str(listing.files[row.source])), row.bad))
            return
        good.append(row.source)
        sums.append(row.crc)
        packed.labels[row.label] += 1
        setattr(packed, row.way, getattr(packed, row.way) + 1)
        if row.why:
            packed.odd[row.why] += 1

    with warnings.catch_warnings(), BetonWriter(out, total, key=unique) as writer:
        warnings.simplefilter("ignore", category=UserWarning)  # Pillow on odd EXIF blocks, which are passed over
        for row in writer.done:
            count(row)
        first, new = len(writer.done), []
        packed.taken_up = writer.rows
        with closing(ordered(make, rows[first:], workers)) as results:
            for source, result in progress(
                results, total, f"pack {note.shard + 1}/{note.of}" if note else "pack", first
            ):
                if isinstance(result, str):
                    new.append(Row(source, bad=result))
                    count(new[-1])
                elif skip_bad or not packed.bad:
                    image, way, crc = result
                    at = writer.add(image.mode, image.height, image.width, image.data, listing.labels[source])
                    new.append(
                        Row(source, way, image.why, crc, *image[:3], at, len(image.data), listing.labels[source])
                    )
                    count(new[-1])
                    if writer.note(new):
                        new = []
        _report(out, packed.bad)
        if packed.bad and (not skip_bad or not good):
            file, why = packed.bad[0]
            raise ValueError(
                f"{len(packed.bad)} of {total} images are damaged, first {file}: {why}; all are listed "
                f"in {shown(bad_path(out))}; {shown(out)} was not written"
                + ("" if skip_bad else " (--skip-bad leaves them out)")
            )
        part = writer.finish()
        if verify:
            with closing(ordered(make, good, workers)) as results:
                _verify(part, listing, good, results)
        packed.rows, packed.bytes = len(good), os.path.getsize(part)
        ways = {way: getattr(packed, way) for way in WAYS}
        writer.publish(listing.classes, sums, note and note._replace(options=asked, ways=ways, key=unique))
    return packed


def is_jpeg(row: int, share: float) -> bool:
    """Whether a row is among the share that is stored as JPEG: a hash of the row number in [0, 1) against the share."""
    return int.from_bytes(blake2b(b"%d" % row, digest_size=7).digest(), "big") / 2**56 < share


def _finished(out: Path, unique: str, skip_bad: bool) -> Packed | None:
    """What a finished shard holds that is to have these bytes; None where there is none."""
    found = load_note(out) if out.exists() else None
    if found is None or found.key != unique:
        return None
    try:
        with Beton(out) as beton:
            load_sums(beton)
    except ValueError:  # damaged: it is made again where it may be replaced
        return None
    n = len(beton)
    if n < found.last - found.first and not skip_bad:
        return None
    ways = {way: found.ways[way] for way in WAYS}
    ways["odd"] = Counter(ways["odd"])
    return Packed(n, bytes=beton.size, taken_up=n, labels=Counter(beton.labels.tolist()), **ways)


def _row(
    files: list, encoder: Callable[..., Encoded], share: float, seekable: bool, row: int
) -> tuple[Encoded, str, int] | str:
    """A row's content, which of the ways of `Packed` it went, and its checksum; or the reason why there is none."""
    try:
        image = encoder(load(files[row]), as_jpeg=is_jpeg(row, share))
        way = "raw" if image.mode == RAW else "kept" if image.kept else "encoded"
        if seekable and image.mode == JPEG:
            from fastmix.pipelines.jpeg.restarts import insert

            if marked := insert(image.data):
                image = image._replace(data=marked, kept=False)
                way = "encoded" if way == "encoded" else "seekable"
        check_page(len(image.data))
        return image, way, crc32(image.data)
    except (OSError, ValueError) as error:
        return reason(error)
    except MemoryError:
        return "not enough memory for its pixels; see --max-pixels and --workers"


def ordered(function: Callable, rows: Iterable[int], workers: int) -> Iterator[tuple[int, object]]:
    """(row, function(row)) in order, a bounded number of rows ahead on threads: the decoders release the GIL."""
    with ThreadPoolExecutor(workers) as pool:
        pending = deque()
        try:
            for row in rows:
                pending.append((row, pool.submit(function, row)))
                if len(pending) == workers * AHEAD:
                    row, future = pending.popleft()
                    yield row, future.result()
            while pending:
                row, future = pending.popleft()
                yield row, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def progress(rows: Iterator, total: int, what: str, first: int = 0) -> Iterator:
    """The rows, counted with images/s and the time that is left: on a terminal all the time, else a line a minute."""
    if sys.stderr.isatty():
        yield from tqdm(rows, what, total, unit="img", leave=False, initial=first)
        return
    start = told = time.monotonic()
    for k, row in enumerate(rows, 1):
        yield row
        if (now := time.monotonic()) - told >= SILENT:
            told, rate = now, k / (now - start)
            left = tqdm.format_interval((total - first - k) / rate)
            sys.stderr.write(f"{what}: {first + k:,} of {total:,} images, {rate:,.0f}/s, {left} left\n")


def _report(out: Path, bad: list[tuple[str, str]]) -> None:
    path = bad_path(out)
    path.unlink(missing_ok=True)
    if bad:
        with files.whole(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([("file", "reason"), *bad])


def _verify(part: Path, listing: Listing, rows: list[int], sources: Iterator[tuple[int, object]]) -> None:
    with Beton(part) as beton:
        if len(beton) != len(rows):
            raise ValueError(f"{beton.name}: verification failed: {len(beton)} rows instead of {len(rows)}")
        for k, (row, want) in enumerate(progress(sources, len(rows), "verify")):
            same = not isinstance(want, str) and beton.labels[k] == listing.labels[row]
            same = same and (beton.modes[k], beton.heights[k], beton.widths[k]) == want[0][:3]
            if not same or beton.data(k).tobytes() != want[0].data:
                source = shown(str(listing.files[row]))
                raise ValueError(f"{beton.name}: verification failed: row {k} is not what {source} gives")
