"""The walk of docs/own_data.md, shorter: photographs in a folder, pretrained weights, four commands."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastmix import export, predict, train, validate
from fastmix.pipelines.folder import Folder
from fastmix.pipelines.view import View
from helpers import lite0

pytestmark = pytest.mark.long

CLASSES = {"n02002724": "black stork", "n03977966": "police van", "n07579787": "plate", "n07734744": "mushroom"}
CLASSES |= {"n07749582": "lemon"}
KINDS = (".jpg", ".png", ".webp")


def photographs(source: Path, count: int) -> None:
    """So many of each class, a third each as JPEG, PNG and WebP."""
    for wnid, name in CLASSES.items():
        folder = Path("photographs", name)
        folder.mkdir(parents=True)
        for k, path in enumerate(sorted((source / "train" / wnid / "images").iterdir())[:count]):
            Image.open(path).save((folder / path.name).with_suffix(KINDS[k % 3]))


def test_four_commands(data, tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    weights = lite0.weights(tmp_path)
    photographs(data("tiny-imagenet-20"), 30)

    words = ["finetune", f"model.weights={weights}", "out=run", "epochs=4", "model.unfreeze=3", "batch_total=10"]
    assert train.main([*words, "precision=fp32", "optim.lr=6e-4"]) == 0
    assert validate.main(["run", "--json", "found.json"]) == 0
    found = json.loads(Path("found.json").read_text())
    assert found["images"] == 30 and found["top1"] >= 90

    assert predict.main(["run", "photographs", "--top", "5", "--out", "found.csv"]) == 0
    assert export.main(["run", "--to", "onnx", "--with-preprocessing"]) == 0
    rows = list(csv.DictReader(Path("found.csv").read_text().splitlines()))
    assert len(rows) == 150 and not any(row["reason"] for row in rows)

    session = onnxruntime.InferenceSession("run/model.onnx")
    told = json.loads(session.get_modelmeta().custom_metadata_map["fastmix_model"])
    size, resize = told["size"], told["resize"]
    view = View(size=size, crop="centre", resize=resize, flip=0.0, interpolation="bicubic", decode="exact")
    loader = Folder("photographs", 30, view=view, train=False)
    logits = np.concatenate([session.run(None, {"images": x.numpy()})[0] for x, _, _ in loader.epoch(0)])
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    by_path = {row["path"]: row for row in rows}
    for file, chance in zip(loader.files, chances, strict=True):
        row = by_path[str(file)]
        assert row["class_1"] == told["classes"][chance.argmax()]
        for k in range(1, 6):
            expected = chance[told["classes"].index(row[f"class_{k}"])]
            assert float(row[f"probability_{k}"]) == pytest.approx(expected, abs=1e-4)
