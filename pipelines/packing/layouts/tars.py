"""Images in tar files, which stay packed: where each member lies, and class folders or a tar a class in them.

A tar in a tar is looked into (ILSVRC2012_img_train.tar holds one a class, and so do ImageNet-21k's): its members count
as lying in a folder of its name. A compressed tar has no places to read from, and is refused.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from fastmix.pipelines.packing.entries import Member
from fastmix.pipelines.packing.labels import class_name
from fastmix.pipelines.packing.layouts.folders import perhaps_splits
from fastmix.pipelines.packing.layouts.listing import Listing, by_class, named
from fastmix.pipelines.packing.walk import HIDDEN, REPEATED, Passed, is_image
from fastmix.reading import open_regular, shown

ENDING = ".tar"
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


def members(archive: str | Path) -> list[Member]:
    """The regular files in a tar, in its order, of tars in it too.

    Raises ValueError for a compressed or damaged one, or one that ends too early; OSError.
    """
    archive = str(archive)
    with open(open_regular(archive), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(2)
        if head in COMPRESSED:
            raise ValueError(f"{shown(archive)}: compressed with {COMPRESSED[head]}; uncompress it to a .tar first")
        file.seek(0)
        return list(_members(file, archive, "", size))


def _members(file: BinaryIO, archive: str, folder: str, end: int) -> Iterator[Member]:
    """The files of the tar that begins where `file` stands and lies before byte `end`."""
    where = f"{shown(archive)}{f':{shown(folder)}' if folder else ''}"
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # it would keep every one
                if info.offset_data + info.size > end:
                    raise ValueError(f"{where}: cut short, in {shown(info.name)}; copy or download it again")
                if not info.isreg() or info.issparse():
                    continue
                name = folder + info.name.removeprefix("./")
                if not name.endswith(ENDING):
                    yield Member(archive, name, info.offset_data, info.size)
                    continue
                following = tar.offset
                file.seek(info.offset_data)
                yield from _members(file, archive, name.removesuffix(ENDING) + "/", info.offset_data + info.size)
                file.seek(following)
    except tarfile.TarError as error:
        raise ValueError(f"{where}: not a whole tar file ({error})") from None


def images(found: list[Member]) -> tuple[list[Member], list[Passed]]:
    """The image files among members, and what is passed over. Of several of one name the last counts, as in tar."""
    last, passed = {member.name: member for member in found}, []
    taken = []
    for member in found:
        path = PurePosixPath(member.name)
        if last[member.name] is not member:
            passed.append(Passed(str(member), REPEATED, "another of this name follows"))
        elif any(part.startswith(".") for part in path.parts):
            passed.append(Passed(str(member), HIDDEN))
        elif not is_image(path.name):
            passed.append(Passed(str(member), path.suffix.lower() or "without an ending"))
        else:
            taken.append(member)
    return taken, passed


def common_folder(found: list[Member]) -> str:
    """The folder that all members lie in, with its "/", or ""."""
    first, last = min(member.name for member in found), max(member.name for member in found)
    common = os.path.commonprefix([first, last])
    return common[: common.rfind("/") + 1]


def is_flat(found: list[Member]) -> bool:
    """Whether the images lie beside each other, not in folders of their classes."""
    folder = len(common_folder(found))
    return all("/" not in member.name[folder:] for member in found)


def in_folders(source: str, found: list[Member], passed: list[Passed], classes: list[str] | None) -> Listing:
    """Images in class folders, in the order of `folders.read`. Raises ValueError for a class that is not given."""
    folder = common_folder(found)
    if is_flat(found):  # one class
        folder = folder[: folder.rstrip("/").rfind("/") + 1]
    names = [class_name(member.name[len(folder) :].split("/", 1)[0]) for member in found]
    labels, classes = named(names, classes, lambda row: shown(str(found[row])))
    files, labels = by_class(found, labels, place)
    return Listing(files, labels, classes, passed, perhaps_splits(sorted(set(names))))


def place(member: Member) -> tuple[list[str], str]:
    """A member's place in the order of a walk through its folders: files before the folders beside them."""
    folder, _, name = member.name.rpartition("/")
    return folder.split("/"), name
