"""The picture of the first batch: labels and weights against the plan, and that it changes nothing of a run."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fastmix import Batch, cli, config, mixers, models, train
from fastmix.engine import picture, training
from fastmix.engine.method import step_rng
from fastmix.engine.task import Task
from fastmix.targets import Targets

OF = ["circle", "square", "猫", "", "\U00016a40", "a long name of many words", "six", "7", "eight", "nine"]


class Loader:
    class_names = OF

    def __init__(self, n: int):
        rng = np.random.default_rng(1)
        self.images = torch.from_numpy(rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8))
        self.labels = torch.from_numpy(rng.integers(0, 10, n))

    def epoch(self, epoch: int):
        yield self.images, self.labels, None


def task_of(name: str, **options) -> Task:
    cfg = config.Config(precision="fp32", mix=name)
    return Task(models.build(config.Model("resnet10t"), 10), mixers.build(name, {name: options}), cfg).train()


@pytest.mark.parametrize("name", ["cutmix", "comixup", "vanilla"])
def test_labels_and_weights_are_those_of_the_plan(name, monkeypatch):
    task, loader, told = task_of(name), Loader(9), []
    told_lines = picture.lines_of
    monkeypatch.setattr(picture, "lines_of", lambda labels, names: told.append(labels) or told_lines(labels, names))
    image, note = picture.first_batch(task, loader, most=7)
    batch = Batch(loader.images, loader.labels, step_rng(task.cfg.seed, 0, 0))
    plan = task.mixer.decide(task.model, batch, task.criterion)
    wanted = Targets.of(loader.labels, plan).dense(10)
    assert ("no installed font" in note or not note) and len(told) == 7 and image.dtype == np.uint8
    for labels, dense in zip(told, wanted, strict=False):
        found = torch.zeros(10)
        for label in labels:
            found[label.number] += label.weight
        torch.testing.assert_close(found, dense, rtol=0, atol=1e-6)


def test_a_class_has_its_name_if_a_font_has_its_letters_else_its_number():
    labels = [picture.Label(k, 0.25) for k in (0, 3, 4, 7)]
    assert picture.lines_of(labels, OF) == ["0.25 circle", "0.25 class 3", "and 2 more"]
    assert [picture.name_of(OF, k) for k in (4, 7, 12)] == ["class 4", "class 7", "class 12"]


def test_images_stand_in_frames_above_what_is_said_of_them():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (10, 32, 48, 3), dtype=np.uint8)
    page = picture.labelled(pixels, [[picture.Label(k % 10, 1.0)] for k in range(10)], OF, "a method", columns=4)
    across, down = 96 + picture.GAP, 64 + picture.LINE + 2 * picture.GAP
    for k, image in enumerate(pixels):
        x, y = picture.MARGIN + k % 4 * across, picture.MARGIN + picture.HEAD + k // 4 * down
        assert (page[y : y + 64, x : x + 96] == image.repeat(2, 0).repeat(2, 1)).all()
        assert (page[y - 1, x - 1 : x + 97] == picture.EDGE).all()
        under = page[y + 65 : y + 65 + picture.LINE, x : x + 96]
        assert 5 < (under < 128).any(2).sum() < under[..., 0].size / 2, "dark words on white"
        assert (page[y + 64 + picture.LINE + 4 : y + down - 2, x : x + 96] == 255).all()


TREE = {
    "epochs": 1, "batch_total": 10, "log_every": 1, "precision": "fp32", "model": {"name": "resnet10t"},
    "data": {"train": "shapes:train?n=30&size=32", "val": "shapes:val?n=10&size=32", "size": 32, "val_resize": None},
    "mixers": {"cutmix": {}, "automix": {}, "recursivemix": {}},
}  # fmt: skip


@pytest.fixture
def losses(tmp_path, monkeypatch, capsys):
    """Trains a run of a row, and tells the losses of its steps and what was said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(TREE))

    def run(row: str, out: str) -> tuple[list[float], str]:
        assert cli.run(train.main, "train", ["c.yaml", f"mix={row}", f"out={out}"]) == 0
        lines = map(json.loads, (tmp_path / out / "log.jsonl").read_text().splitlines())
        told = capsys.readouterr()
        return [line["loss"] for line in lines if line["kind"] == "train"], told.out + told.err

    return run


LONG = pytest.mark.long


@pytest.mark.parametrize(
    "row", [pytest.param("cutmix", marks=LONG), "automix", pytest.param("recursivemix", marks=LONG)]
)
def test_a_run_has_the_same_losses_with_and_without_the_picture(row, losses, tmp_path, monkeypatch):
    shown, told = losses(row, "with")
    with Image.open(tmp_path / "with/first_batch.png") as found:
        assert found.width > 8 * 96 and "no picture" not in told
    monkeypatch.setattr(training.picture, "first_batch", lambda *_: (None, ""))
    assert losses(row, "without")[0] == shown and len(shown) == 3
    assert not (tmp_path / "without/first_batch.png").exists()


@pytest.mark.parametrize("place", ["labelled", *(pytest.param(k, marks=LONG) for k in ("labels_of", "unnormalise"))])
def test_a_drawing_that_fails_does_not_stop_a_run(place, losses, tmp_path, monkeypatch):
    def fails(*given):
        raise OSError("no\nfont")

    shown, _ = losses("cutmix", "with")
    monkeypatch.setattr(picture, place, fails)
    found, told = losses("cutmix", "without")
    assert found == shown and "warning: no picture of the first batch (OSError: no font)" in told
    assert not (tmp_path / "without/first_batch.png").exists() and (tmp_path / "without/model.safetensors").exists()


def test_a_lack_of_memory_does_not_stop_a_run_and_a_mistake_does(monkeypatch):
    task, loader = task_of("cutmix"), Loader(4)

    def fails(kind):
        def shown(*given):
            raise kind("too much")

        monkeypatch.setattr(task.mixer, "shown", shown)

    fails(torch.OutOfMemoryError)
    assert picture.first_batch(task, loader) == (None, "warning: no picture of the first batch "
                                                       "(OutOfMemoryError: too much)")  # fmt: skip
    fails(ValueError)
    with pytest.raises(ValueError, match="too much"):
        picture.first_batch(task, loader)
