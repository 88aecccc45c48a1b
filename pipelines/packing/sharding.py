"""A data set in shards: cut by the numbers of its list, converted here or on several machines, and looked over whole.

Each shard is a `.beton` of its own with class names, checksums, and a note on which part of which list it is, so that a
conversion goes on where it was killed, and that parts from several machines are known to be of one list.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing, suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastmix import files
from fastmix.pipelines.packing import note
from fastmix.pipelines.packing.entries import Member, Pixels, home, name_of
from fastmix.pipelines.packing.layouts import Listing
from fastmix.pipelines.packing.layouts.parquet import Cell
from fastmix.pipelines.packing.note import Note
from fastmix.pipelines.packing.pack import Packed, pack
from fastmix.pipelines.packing.series import shard
from fastmix.pipelines.packing.shards import Shards
from fastmix.reading import shown


class Whole(NamedTuple):
    """What shards are together: how many, their images, those that were left out as damaged, bytes, and classes."""

    shards: int
    images: int
    left_out: int
    bytes: int
    classes: int


def cut(images: int, n: int) -> list[range]:
    """The rows of each of n shards: as many in one as in another, or one more."""
    ends = [images * k // n for k in range(n + 1)]
    return [range(*pair) for pair in zip(ends, ends[1:], strict=False)]


def shuffled(listing: Listing, seed: int) -> Listing:
    """The images in a random order, a function of the seed and their number. Raises ValueError for parquet."""
    if listing.files and isinstance(listing.files[0], Cell):
        raise ValueError(f"{shown(home(listing.files[0]))}: parquet can be read in order only, so not be shuffled")
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(listing.files)).tolist()
    return listing._replace(files=[listing.files[k] for k in order], labels=[listing.labels[k] for k in order])


def wanted(listing: Listing, size: int) -> int:
    """How many shards of about `size` bytes hold the images of a listing, as large as they come."""
    total, counted = 0, set()
    for file in listing.files:
        if isinstance(file, Member):
            total += file.size
        elif isinstance(file, Pixels):
            total += file.stack[file.row].nbytes
        elif home(file) not in counted:
            counted.add(home(file))
            with suppress(OSError):  # it will be told as an image that cannot be read
                total += os.stat(home(file)).st_size
    return min(max(1, -(-total // size)), len(listing.files))


def pack_shards(
    listing: Listing, out: str | Path, n: int, part: tuple[int, int] = (1, 1), verify: bool = False, **options
) -> tuple[Packed, range]:
    """Writes shards of the n that `out` is cut into; returns what was written, and which rows of the listing.

    part: (i, m), the i-th, from 1, of m equal parts of the shards, as each of m machines writes its own; options as
    pack's. A shard that an earlier call with the same source and options has finished stays as it is.
    Raises ValueError for more shards than images, or parts than shards, and as pack, in whose case the shards before
    are finished.
    """
    images, (i, m) = len(listing.files), part
    if n > images:
        raise ValueError(f"{shown(out)}: {n} shards of {images} images: give at most as many")
    if m > n:
        raise ValueError(f"{shown(out)}: {m} parts of {n} shards: give --shards {m} or more")
    rows, listed, mine = cut(images, n), _listed(listing), cut(n, m)[i - 1]
    for k in mine:
        if not note.note_path(shard(out, k, n)).exists():
            files.check_free(shard(out, k, n), options.get("overwrite", False))
    packed = Packed()
    for k in mine:
        mark = Note(k, n, rows[k].start, rows[k].stop, images, listed)
        done = pack(listing, shard(out, k, n), rows=rows[k], note=mark, verify=verify, **options)
        if verify and done.taken_up == done.rows:
            from fastmix.pipelines.packing.check import check  # compiled code, which packing does without

            check(shard(out, k, n), options.get("workers"))
        packed += done
    return packed, range(rows[mine[0]].start, rows[mine[-1]].stop)


def join(paths: Iterable[str]) -> Whole:
    """What finished shards are together.

    Raises ValueError where one is missing or there twice, where they are not of one list with the same options and
    classes, and for what is no whole shard.
    """
    notes: dict[int, tuple[str, Note]] = {}
    for path in paths:
        found = note.load(path)
        if found is None:
            what = f"no {shown(note.note_path(path).name)} beside it, as convert --shards and --part write it"
            raise ValueError(f"{shown(path)}: {what}")
        _compare(*next(iter(notes.values()), (path, found)), path, found)
        if found.shard in notes:
            raise ValueError(f"{shown(path)}: shard {found.shard}, as {shown(notes[found.shard][0])} is")
        notes[found.shard] = path, found
    path, last = next(reversed(notes.values()))
    if lacks := sorted({*range(last.of)} - notes.keys()):
        more = f" and {len(lacks) - 8} more" if len(lacks) > 8 else ""
        raise ValueError(
            f"{shown(path)}: one of {last.of} shards, of which {len(notes)} are given; missing are "
            f"{', '.join(map(str, lacks[:8]))}{more}, counted from 0"
        )
    ordered = [notes[k] for k in range(last.of)]
    with closing(Shards([path for path, _ in ordered])) as shards:
        left_out = 0
        for file, (_, found), rows in zip(shards.files, ordered, cut(last.images, last.of), strict=True):
            if (found.first, found.last) != (rows.start, rows.stop) or len(file) > len(rows):
                raise ValueError(f"{file.name}: its rows are not those of shard {found.shard}; convert it again")
            left_out += len(rows) - len(file)
        classes = len(shards.classes) if shards.classes else int(shards.labels.max(initial=-1)) + 1
        return Whole(last.of, len(shards), left_out, shards.size, classes)


def _compare(path: str, first: Note, other: str, found: Note) -> None:
    if (found.of, found.images, found.listed) != (first.of, first.images, first.listed):
        what = f"shard {found.shard} of {found.of}, of {found.images} images"
        raise ValueError(
            f"{shown(other)}: {what}; {shown(path)} is one of {first.of}, of {first.images} images, and of another list"
        )
    names = sorted(first.options.keys() | found.options.keys())
    if differs := [name for name in names if first.options.get(name) != found.options.get(name)]:
        name, told = differs[0], f"--{differs[0].replace('_', '-')}"
        raise ValueError(
            f"{shown(other)}: converted with {told} {found.options.get(name)}, and {shown(path)} with "
            f"{first.options.get(name)}; convert one of them again"
        )


def _listed(listing: Listing) -> str:
    """The hash of a listing that is the same wherever its folder lies."""
    hashed = blake2b(repr(listing.classes).encode("utf-8", "surrogateescape"), digest_size=16)
    for file, label in zip(listing.files, listing.labels, strict=True):
        hashed.update(f"{name_of(file)}\0{label}\n".encode("utf-8", "surrogateescape"))
    return hashed.hexdigest()
