"""A trained network on real photographs: validation sees and predicts what timm's own pipeline does."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fastmix import compat, validate  # noqa: F401  (compat before timm)
from helpers import lite0

pytestmark = pytest.mark.long


def test_validation_is_timms_pipeline(data, tmp_path, monkeypatch):
    import timm
    from timm.data import ImageNetInfo, create_transform, resolve_data_config

    monkeypatch.chdir(tmp_path)
    files = sorted(data("imagenet_sample").glob("train/*/*.JPEG"))
    synsets = ImageNetInfo().label_names()
    labels = [synsets.index(path.parent.name) for path in files]
    (tmp_path / "list.csv").write_text("".join(f"{path},{label}\n" for path, label in zip(files, labels, strict=True)))
    weights = lite0.weights(tmp_path)
    words = ["--model", lite0.NAME, "--weights", str(weights), "data.loader=folder", "data.val=list.csv"]
    words += ["precision=fp32", "device=cpu", "batch_total=20", "model.classes=1000"]
    assert validate.main([*words, "--json", "found.json"]) == 0
    found = json.loads((tmp_path / "found.json").read_text())

    model = timm.create_model(lite0.NAME, checkpoint_path=str(weights)).eval()
    see = create_transform(**resolve_data_config({}, model=model))
    with torch.inference_mode():
        logits = torch.cat([model(see(Image.open(path).convert("RGB"))[None]) for path in files])
    hits = (logits.topk(5).indices == torch.tensor(labels)[:, None]).numpy()
    theirs = np.array([hits[:, 0].mean(), hits.any(1).mean()]) * 100
    assert found["images"] == len(files) == 200 and theirs[0] > 85
    assert abs(found["top1"] - theirs[0]) <= 1 and abs(found["top5"] - theirs[1]) <= 1  # two images of 200
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()
    assert found["loss"] == pytest.approx(loss, rel=0.02)
