"""ImageNet (ILSVRC 2012) in a folder as it is handed out: with its two tars, or Kaggle's tree."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fastmix.pipelines.packing.layouts import folders, shards
from fastmix.pipelines.packing.layouts.listing import Reader
from fastmix.pipelines.packing.layouts.told_elsewhere import beside_each_other

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")


def splits(folder: Path) -> dict[str, Reader]:
    """The parts of such a folder."""
    found = {
        part: partial(shards.read, [folder / name])
        for part, name in (("train", TRAIN), ("val", VAL))
        if (folder / name).is_file()
    }
    for below in KAGGLE:
        if (folder / below / "train").is_dir():
            found |= {"train": partial(folders.read, folder / below / "train")}
        if (folder / below / "val").is_dir():
            found |= {"val": partial(beside_each_other, folder / below / "val")}
    return found
