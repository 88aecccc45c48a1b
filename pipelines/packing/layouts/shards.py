"""A data set in several files, tars or parquet: `train-00000-of-00294.parquet`, `imagenet1k-train-0000.tar`.

They are named by a pattern (packing/series.py), or by their folder, which holds shards alone. The files of a folder are
parts of the data set, told apart by what stands before their numbers.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from fastmix.pipelines.packing import series
from fastmix.pipelines.packing.layouts import parquet, tars, webdataset
from fastmix.pipelines.packing.layouts.listing import Listing, Reader, split_of
from fastmix.pipelines.packing.layouts.told_elsewhere import flat
from fastmix.reading import shown

ENDINGS = (tars.ENDING, parquet.ENDING)
_NUMBER = re.compile(r"[-_.]?\d+(-of-\d+)?$")


def matching(pattern: str) -> list[Path]:
    """The shards that a pattern names, sorted; none where it names nothing, or not shards alone, or one is missing."""
    found = [Path(path) for path in series.paths(pattern)]
    return found if all(path.suffix in ENDINGS and path.exists() for path in found) else []


def splits(folder: Path) -> dict[str, Reader]:
    """The parts of a folder of shards, or of its `data`; "" is the only one whose name tells nothing."""
    for place in (folder, folder / "data"):
        found = sorted(path for ending in ENDINGS for path in place.glob(f"*{ending}")) if place.is_dir() else []
        numbered = [path for path in found if _NUMBER.search(path.stem)]
        if found and _one_a_class(found):
            return {"": partial(read, found)}
        if numbered and len(numbered) == len(found):
            parts: dict[str, list[Path]] = {}
            for path in found:
                parts.setdefault(split_of(_NUMBER.sub("", path.stem)), []).append(path)
            return {name: partial(read, files) for name, files in parts.items()}
    return {}


def read(files: list[Path], classes: list[str] | None) -> Listing:
    """The images of shards, all of one kind. Raises ValueError, of one line, or OSError."""
    if all(path.suffix == parquet.ENDING for path in files):
        return parquet.read(files, classes)
    if other := next((path for path in files if path.suffix != tars.ENDING), None):
        raise ValueError(f"{shown(other)}: parquet and tar files together; give either")
    found = [member for path in files for member in tars.members(path)]
    source = str(files[0])
    if webdataset.is_webdataset(found):
        return webdataset.read(source, found, classes)
    if len(files) > 1:
        found = [member._replace(name=f"{Path(member.archive).stem}/{member.name}") for member in found]
    taken, passed = tars.images(found)
    if not taken:
        raise ValueError(f"{shown(source)}: no images in it")
    if tars.is_flat(taken) and (listing := flat(Path(source).parent, taken, passed, classes)):
        return listing
    return tars.in_folders(source, taken, passed, classes)


def _one_a_class(files: list[Path]) -> bool:
    """Whether tars are called by wnids, which are numbers too."""
    return all(re.fullmatch(r"n\d{8}", path.stem) for path in files)
