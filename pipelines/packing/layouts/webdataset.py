"""WebDataset's tars: files of one sample share a name up to the first dot; .cls holds its class, or .json does.

.cls is a class number, or a name. Of .json the first of these fields counts: label, cls, class, class_id, class_name.
Rows are in the order of class folders. Where every name begins with a wnid ("n01440764_10026"), as ImageNet's files
do, these are the class names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from fastmix.pipelines.packing import labels as rules
from fastmix.pipelines.packing.entries import Member
from fastmix.pipelines.packing.labels import class_name
from fastmix.pipelines.packing.layouts.listing import Listing, by_class, named, numbered
from fastmix.pipelines.packing.layouts.tars import images
from fastmix.pipelines.packing.walk import Passed
from fastmix.reading import shown

CLASS, META = ".cls", ".json"
FIELDS = ("label", "cls", "class", "class_id", "class_name")
WNID = re.compile(r"(?:.*/)?(n\d{8})_[^/]*")


def is_webdataset(found: list[Member]) -> bool:
    """Whether members are samples of WebDataset: an image has a .cls or .json of its name."""
    keys = {key(member) for member in found if _ending(member) in (CLASS, META)}
    return any(key(member) in keys for member in images(found)[0])


def key(member: Member) -> str:
    """A sample's name: its path up to the first dot of the file's name."""
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.partition(".")[0]


def read(source: str, found: list[Member], classes: list[str] | None) -> Listing:
    """The images of one or several tars. Raises ValueError, of one line, for one without a class; OSError."""
    told: dict[tuple[str, str], Member] = {}
    for member in found:
        if (ending := _ending(member)) == CLASS or (ending == META and (member.archive, key(member)) not in told):
            told[member.archive, key(member)] = member
    taken, passed = images(found)
    _check_twice(taken)
    given = []
    for member in taken:
        teller = told.get((member.archive, key(member)))
        if teller is None:
            raise ValueError(f"{shown(str(member))}: there is no {CLASS} and no {META} of its name, to tell its class")
        given.append(_told(teller))
    passed = [file for file in passed if file.kind not in (CLASS, META, ".txt")]
    return _listing(source, taken, given, passed, classes)


def _listing(
    source: str, taken: list[Member], given: list[str], passed: list[Passed], classes: list[str] | None
) -> Listing:
    def where(row: int) -> str:
        return shown(str(taken[row]))

    if not rules.are_numbers(sorted(set(given))) or (classes and set(given) <= set(classes)):
        labels, classes = named([class_name(name) for name in given], classes, where)
    else:
        numbers = rules.numbers(given, where)
        labels, classes = numbered(numbers, classes, by_wnid(numbers, lambda row: taken[row].name), where)
    files, labels = by_class(taken, labels, lambda member: member.name.rpartition("/")[2])
    return Listing(files, labels, classes, passed)


def by_wnid(numbers: list[int], name: Callable[[int], str]) -> list[str] | None:
    """The wnids of the labels, where all files' names begin with one and each label has one of its own; else None."""
    own: dict[int, str] = {}
    for row, label in enumerate(numbers):
        found = WNID.fullmatch(name(row))
        if not found or own.setdefault(label, found[1]) != found[1]:
            return None
    if sorted(own) != list(range(len(own))) or len(set(own.values())) != len(own):
        return None
    return [own[label] for label in range(len(own))]


def _told(member: Member) -> str:
    """The class that a .cls or .json tells, as text."""
    try:
        text = member.load().decode("utf-8").strip()
        if _ending(member) == CLASS:
            return text
        fields = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{shown(str(member))}: {error}") from None
    found = next((fields[name] for name in FIELDS if name in fields), None) if isinstance(fields, dict) else None
    if not isinstance(found, (int, str)) or isinstance(found, bool):
        raise ValueError(f"{shown(str(member))}: has no class in {', '.join(FIELDS)}")
    return str(found)


def _check_twice(taken: list[Member]) -> None:
    first: dict[tuple[str, str], Member] = {}
    for member in taken:
        other = first.setdefault((member.archive, key(member)), member)
        if other is not member:
            raise ValueError(f"{shown(str(member))}: {shown(str(other))} is a sample of the same name")


def _ending(member: Member) -> str:
    return member.name[member.name.rfind(".") :].lower()
