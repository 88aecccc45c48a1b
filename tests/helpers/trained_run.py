"""A small run on pictures in class folders, for the tests of what is done with a trained model."""

import os
from pathlib import Path

from fastmix import train
from helpers.loading import image_folder

SMALL = """
epochs: 6
precise_bn: 30
batch_total: 15
precision: fp32
device: cpu
data: {loader: folder, train: pictures, val: pictures, size: 32, val_size: 48, val_resize: 52, workers: 2}
model: {name: test_resnet}
optim: {name: sgd, lr: 0.1, momentum: 0.9, weight_decay: 1e-4}
mixers: {vanilla: {}}
ema: {decay: 0.5}
"""


def small_run(folder: Path) -> Path:
    """Trains `run` in a folder, and makes it the working directory; pictures of three classes lie in `pictures`."""
    os.chdir(folder)
    image_folder(folder / "pictures", 30)
    (folder / "small.yaml").write_text(SMALL)
    assert train.main(["small.yaml", "out=run"]) == 0
    return folder
