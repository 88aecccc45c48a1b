"""Validation images of ImageNet that lie beside each other, in a folder or a tar: their classes are told elsewhere.

They are told by the first of these beside the images, or in a folder above:

- LOC_val_solution.csv of Kaggle (`ImageId,PredictionString`), with LOC_synset_mapping.txt for all classes;
- ILSVRC2012_devkit_t12.tar.gz, or its folder: data/ILSVRC2012_validation_ground_truth.txt numbers the classes in
  another order, data/meta.mat has their wnids (read by scipy);
- meta.bin of torchvision's ImageNet.
"""

from __future__ import annotations

import csv
import io
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

from fastmix import optional
from fastmix.pipelines.packing.entries import name_of
from fastmix.pipelines.packing.layouts.listing import Listing, by_class, named
from fastmix.pipelines.packing.layouts.rows import text
from fastmix.pipelines.packing.walk import Passed, Walk, is_image
from fastmix.reading import shown

KAGGLE, SYNSETS = "LOC_val_solution.csv", "LOC_synset_mapping.txt"
DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH, META = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
META_BIN = "meta.bin"
ABOVE = 4  # folders that are looked into, from the images' own upward: Kaggle's lie four deep


def beside_each_other(folder: Path, classes: list[str] | None) -> Listing | None:
    """The images in a folder without class folders, where their classes are told elsewhere; else None."""
    walk, files = Walk(folder), []
    for entry in walk.entries(folder):
        if entry.is_dir():
            return None
        if is_image(entry.name):
            files.append(entry.path)
        else:
            walk.leave(entry)
    return flat(folder, files, walk.passed, classes) if files else None


def flat(folder: Path, files: list, passed: Sequence[Passed], classes: list[str] | None) -> Listing | None:
    """Validation images that lie in `folder` or in a tar there, in the order of class folders; None without a truth.

    Raises ValueError where the truth is not one for these images, or needs a package; OSError.
    """
    files = sorted(files, key=name_of)
    for place in [folder, *folder.resolve().parents[:ABOVE]]:
        if (place / KAGGLE).is_file():
            wnids, every = _kaggle(place, files)
        elif (place / f"{DEVKIT}.tar.gz").is_file() or (place / DEVKIT).is_dir():
            wnids, every = _devkit(place, files)
        elif (place / META_BIN).is_file():
            wnids, every = _meta_bin(place / META_BIN, files)
        else:
            continue
        labels, classes = named(wnids, classes or sorted(every), lambda row: shown(str(files[row])))
        return Listing(*by_class(files, labels, name_of), classes, passed)
    return None


def _kaggle(place: Path, files: list) -> tuple[list[str], list[str]]:
    rows = csv.DictReader(io.StringIO(text(place / KAGGLE)))
    told = {row["ImageId"]: row["PredictionString"].split(" ", 1)[0] for row in rows}
    names = [name_of(file).partition(".")[0] for file in files]
    if missing := next((name for name in names if name not in told), None):
        raise ValueError(f"{shown(place / KAGGLE)}: has no {shown(missing)}")
    every = told.values()
    if (place / SYNSETS).is_file():
        every = [line.split(" ", 1)[0] for line in text(place / SYNSETS).splitlines() if line.strip()]
    return [told[name] for name in names], sorted(set(every))


def _devkit(place: Path, files: list) -> tuple[list[str], list[str]]:
    archive, folder = place / f"{DEVKIT}.tar.gz", place / DEVKIT
    source = folder if folder.is_dir() else archive
    optional.need(f"{shown(source)}: meta.mat", "scipy")
    from scipy.io import loadmat

    if folder.is_dir():
        truth, meta = ((folder / name).read_bytes() for name in (GROUND_TRUTH, META))
    else:
        try:
            with tarfile.open(archive) as tar:
                truth, meta = (tar.extractfile(f"{DEVKIT}/{name}").read() for name in (GROUND_TRUTH, META))
        except (tarfile.TarError, KeyError, EOFError) as error:
            raise ValueError(f"{shown(archive)}: not the development kit ({error})") from None
    synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
    wnids = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in synsets if int(s["num_children"]) == 0}
    return _in_order(source, files, [wnids[int(line)] for line in truth.split()]), list(wnids.values())


def _meta_bin(path: Path, files: list) -> tuple[list[str], list[str]]:
    import torch

    try:
        classes, val = torch.load(path, weights_only=True)
    except Exception as error:  # torch.load raises whatever a file of another kind leads it to
        raise ValueError(f"{shown(path)}: not torchvision's meta.bin ({error})") from None
    return _in_order(path, files, list(val)), list(classes)


def _in_order(source: Path, files: list, wnids: list[str]) -> list[str]:
    """The wnids of files in the order of their names, which are numbers."""
    numbers = [int(found[1]) for file in files if (found := re.search(r"_(\d+)\.\w+$", name_of(file)))]
    if len(numbers) != len(files) or max(numbers) > len(wnids) or min(numbers) < 1:
        raise ValueError(
            f"{shown(source)}: tells the classes of {len(wnids)} images, ILSVRC2012_val_00000001 to {len(wnids)}, "
            f"and {shown(str(files[0]))} is among others"
        )
    return [wnids[k - 1] for k in numbers]
