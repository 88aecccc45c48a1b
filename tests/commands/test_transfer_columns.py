"""A column of the transfer benchmark begins with trained weights, and that is worth something."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fastmix import train
from helpers import lite0

pytestmark = pytest.mark.long

CLASSES = ("n02002724", "n03977966", "n07579787", "n07734744", "n07749582")


def as_cub(source: Path, root: Path, train_images: int = 20, test_images: int = 10) -> Path:
    """Photographs of five classes in CUB-200-2011's form."""
    lists: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": [], "classes": []}
    for label, wnid in enumerate(CLASSES, 1):
        lists["classes"].append(f"{label} {label:03}.{wnid}")
        (root / "images" / f"{label:03}.{wnid}").mkdir(parents=True)
        found = sorted((source / "train" / wnid / "images").iterdir())[: train_images + test_images]
        for k, path in enumerate(found):
            number = len(lists["images"]) + 1
            shutil.copy(path, root / "images" / f"{label:03}.{wnid}")
            lists["images"].append(f"{number} {label:03}.{wnid}/{path.name}")
            lists["image_class_labels"].append(f"{number} {label}")
            lists["train_test_split"].append(f"{number} {int(k < train_images)}")
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def test_two_epochs_from_trained_weights_beat_two_from_none(data, tmp_path, monkeypatch):
    """EfficientNet-Lite0 in the place of torchvision's ResNet-18, whose weights are nowhere to be had offline."""
    monkeypatch.chdir(tmp_path)
    weights = lite0.weights(tmp_path)
    root = as_cub(data("tiny-imagenet-20"), tmp_path / "CUB_200_2011")
    words = ["cub200_r18_200ep", "mix=cutmix", f"data.train={root}/train", f"data.val={root}/test"]
    words += [
        "data.loader=folder",
        "model.name=tf_efficientnet_lite0",
        "epochs=2",
        "batch_total=10",
        "data.size=96",
        "data.val_resize=96",
    ]
    top1 = {}
    for name, value in (("trained", weights), ("scratch", "")):
        assert train.main([*words, f"model.weights={value}", f"out={name}", "optim.lr=0.01", "log_every=5"]) == 0
        lines = [json.loads(line) for line in Path(name, "log.jsonl").read_text().splitlines()]
        top1[name] = [line["top1"] for line in lines if line["kind"] == "val"][-1]
    assert top1["trained"] >= top1["scratch"] + 20, top1
