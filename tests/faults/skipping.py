"""Damaged images that are skipped: a training step keeps its size, and what was replaced is counted and listed."""

from __future__ import annotations

import re
from pathlib import Path

from fastmix.pipelines.packing.format import Beton
from faults.harness import Fault
from helpers.sources import beton, folders, put

TRAIN = "fastmix.train {config} data.train=x.beton data.val=good.beton data.bad=skip out=run"


def damaged(*rows: int):
    """x.beton with these rows damaged, and good.beton."""

    def prepare(folder: Path) -> None:
        beton(folder, "good.beton")
        path = beton(folder)
        with Beton(path) as file:
            for row in rows:
                put(path, int(file.offsets[row]) + int(file.sizes[row]) - 2, b"xx")

    return prepare


def listed(*rows: int, epochs: int = 1):
    def after(folder: Path, said: str) -> None:
        lines = (folder / "run" / "skipped.txt").read_text().splitlines()
        found = [tuple(map(int, re.match(r"epoch (\d): x\.beton: row (\d+): \S", line).groups())) for line in lines]
        assert {(epoch, row) for epoch in range(epochs) for row in rows} == {*found}, lines
        assert all(re.search(r'"loss": \d', line) for line in (folder / "run/log.jsonl").read_text().splitlines())

    return after


def in_all(count: int):
    """So many lines, and the sum of what was told."""

    def after(folder: Path, said: str) -> None:
        lines = (folder / "run" / "skipped.txt").read_text().splitlines()
        told = sum(map(int, re.findall(r"epoch \d: (\d+) damaged images replaced", said)))
        assert len(lines) == told == count

    return after


def none_listed(folder: Path, said: str) -> None:
    assert not (folder / "run" / "skipped.txt").exists()


def validated(folder: Path, said: str) -> None:
    assert '"images": 14' in (folder / "run/log.jsonl").read_text()


def in_folder(*names: str):
    def prepare(folder: Path) -> None:
        for name in names:
            path = folders(folder) / name
            path.write_bytes(path.read_bytes()[:-9])

    return prepare


EVERY = range(16)
FAULTS = [
    Fault("nothing damaged", damaged(), TRAIN, ("done:",), 0, none_listed),
    Fault("one image", damaged(5), TRAIN, ("done:", "epoch 0: ", "listed in run/skipped.txt"), 0, listed(5)),
    Fault("each once an epoch", damaged(*EVERY[:9]), TRAIN + " epochs=3 precise_bn=16", ("done:",), 0, in_all(27)),
    Fault("one image, two epochs", damaged(5), TRAIN + " epochs=2", ("done:",), 0, listed(5, epochs=2)),
    Fault("batches of two, half of them damaged", damaged(*EVERY[::2]), TRAIN + " batch_total=2", ("done:",), 0,
          listed(*EVERY[::2])),
    Fault("batches of two, mixed", damaged(*EVERY[:8]), TRAIN + " batch_total=2 mix=cutmix", ("done:",), 0,
          listed(*EVERY[:8])),
    Fault("all but one", damaged(*EVERY[1:]), TRAIN + " batch_total=4 mix=mixup", ("done:",), 0, listed(*EVERY[1:])),
    Fault("all but one, resident", damaged(*EVERY[1:]), TRAIN + " data.loader=resident", ("done:",), 0,
          listed(*EVERY[1:])),
    Fault("all of them, resident", damaged(*EVERY), TRAIN + " data.loader=resident",
          ("x.beton: row 0: ", "nor can any other of the 16 images be read")),
    Fault("image files", in_folder("a/1.jpg", "b/3.jpg"),
          "fastmix.train {config} data.loader=folder data.train=in data.val=in data.bad=skip out=run",
          ("done:", "damaged images replaced"), 0),
    Fault("in validation", damaged(1, 2), TRAIN.replace("good.beton", "x.beton"), ("done:",), 0,
          validated),
    Fault("not skipped", damaged(5), TRAIN.replace("skip", "raise") + " data.loader=resident", ("x.beton: row 5: ",)),
    Fault("converted", in_folder("a/1.jpg"), "fastmix.convert in y.beton --skip-bad",
          ("15 images", "1 damaged images left out, listed in y.beton.bad.csv"), 0),
]  # fmt: skip
