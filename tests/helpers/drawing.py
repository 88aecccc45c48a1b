"""What tests of pictures share: the images that are drawn, and a small teacher."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from fastmix import config, models
from fastmix.engine import loaders, mixtures

SIZE, N, LAMS = 32, 4, [0.25, 0.75]
SOURCE = f"shapes:train?n=60&size={SIZE}"


def teacher_in(folder: Path) -> Path:
    """A file of weights of a resnet10t of ten classes."""
    path = folder / "resnet10t.safetensors"
    model = models.build(config.Model("resnet10t"), 10, 5)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return path


def batches() -> list[tuple]:
    """What the loader gives first, images uint8 [N,32,32,3] and labels; then what it gives next."""
    tree = {"data": {"train": SOURCE, "size": SIZE, "crop": "centre", "val_resize": None, "flip": 0, "decode": "exact"}}
    loader = loaders.training(config.from_tree(tree | {"batch_total": N, "seed": 3}, "test"), torch.device("cpu"))
    given = loader.epoch(0)
    found = [tuple(part.clone() for part in next(given)[:2]) for _ in range(2)]
    given.close()
    return found


def shares_of(cell: mixtures.Cell) -> float:
    """The share of the image itself in a mask of two images."""
    return float(cell.upper.mean()) / 255
