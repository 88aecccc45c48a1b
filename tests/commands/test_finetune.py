"""Fine-tuning as a whole: what a run begins with, keeps, freezes, balances, holds out, and says of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from fastmix import cli, config, files, train, validate
from fastmix.engine.training import class_weights
from fastmix.models.info import KEY, from_text
from fastmix.models.seen import resolved
from helpers.loading import image_folder
from helpers.small_runs import launch, rows, run, same, stop_at

OWN = """
epochs: 3
batch_total: 8
precision: fp32
mix: cutmix
data: {loader: folder, train: pictures, split: 0.3, size: 32, val_resize: null, crop: none, workers: 2}
model: {name: test_resnet}
optim: {lr: 0.01}
mixers: {vanilla: {}, cutmix: {}, puzzlemix: {}, automix: {}}
"""


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with photographs of three classes, and a run named donor."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(OWN)
    image_folder(Path("pictures"), 40)
    assert run("out=donor", "epochs=1", "mix=vanilla") == 0
    return tmp_path


def tensors(path) -> dict[str, torch.Tensor]:
    return {name: value for name, value in files.read_torch(Path(path))["task"].items() if name.startswith("model.")}


def test_a_run_says_what_its_model_is(folder):
    info = from_text(Path("donor/model.json").read_text(), "it")
    assert (info.name, info.size, info.resize, info.interpolation) == ("test_resnet", 32, None, "bicubic")
    assert info.classes == sorted(p.name for p in Path("pictures").iterdir())
    with safe_open("donor/model.safetensors", "pt") as file:
        assert from_text(file.metadata()[KEY], "it") == info


@pytest.mark.parametrize("mix", ["cutmix", "puzzlemix", "automix"])
def test_a_linear_probe_moves_the_classifier_alone(folder, capsys, mix):
    assert run(f"mix={mix}", "out=probe", "model.weights=donor", "model.freeze=[backbone]", "precise_bn=16") == 0
    before, after = tensors("donor/last.pt"), tensors("probe/last.pt")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"model.fc.weight", "model.fc.bias"}
    said = capsys.readouterr().err
    assert f"weights: {len(before)} of {len(before)} tensors from donor" in said
    assert "frozen: " in said and "split: 28 images to train with and 12 held out" in said


def test_automix_goes_on_from_openmixups_file_with_average_classifiers_and_block(folder, capsys):
    assert run("mix=automix", "out=first", "epochs=1") == 0
    task = files.read_torch(Path("first/last.pt"))["task"]
    given = {}
    for ours, body, head in (
        ("model.", "backbone_q.", "head_mix_q."),
        ("mixer.teacher.", "backbone_k.", "head_mix_k."),
    ):
        for name in (name for name in task if name.startswith(ours)):
            inner = name.removeprefix(ours)
            given[(head if inner.startswith("fc.") else body) + inner] = task[name]
    for ours, theirs in (("head", "head_one_q"), ("teacher_head", "head_one_k")):
        given |= {f"{theirs}.fc.{part}": task[f"mixer.{ours}.{part}"] for part in ("weight", "bias")}
    for layer, name in (("query", "query.conv"), ("value", "value")):
        given[f"mix_block.{name}.weight"] = task[f"mixer.block.{layer}.weight"][..., None, None]
        given[f"mix_block.{name}.bias"] = task[f"mixer.block.{layer}.bias"]
    torch.save({"meta": {"epoch": 1}, "state_dict": given}, "latest.pth")
    capsys.readouterr()
    words = ["model.weights=latest.pth", "optim.lr=0", "epochs=1", "mixers.automix.momentum=[1, 1]"]
    assert run("mix=automix", "out=second", *words) == 0
    said = capsys.readouterr().err
    assert all(f"AutoMix's {part} as in the file" in said for part in ("teacher", "head", "teacher_head", "block"))
    after = files.read_torch(Path("second/last.pt"))["task"]
    for name, value in task.items():
        if torch.is_tensor(value) and "running" not in name and "num_batches" not in name:
            assert torch.equal(after[name], value), name


@pytest.mark.parametrize("step", [4, 7])  # before and after layers thaw and mixing ends
def test_interrupted_and_resumed_equals_uninterrupted(folder, monkeypatch, step):
    words = ("mix=automix", "model.weights=donor", "model.freeze=[layer1]", "model.unfreeze=2", "mix_off=0.34")
    words += ("data.balance=sqrt", "loss.class_weights=balanced")
    assert run(*words, "out=whole") == 0
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        run(*words, "out=parts")
    Path("donor").rename("gone")  # what a run began with is not needed again
    assert run(*words, "out=parts", resume=True) == 0
    same(Path("whole/last.pt"), Path("parts/last.pt"))


def test_the_newest_checkpoints_are_kept(folder):
    assert run("out=kept", "epochs=5", "keep=2") == 0
    assert sorted(p.name for p in Path("kept").glob("epoch*")) == ["epoch_0004.pt", "epoch_0005.pt"]
    same(Path("kept/epoch_0005.pt"), Path("kept/last.pt"))
    assert validate.main(["kept/epoch_0004.pt", "--json", "four.json"]) == 0
    assert json.loads(Path("four.json").read_text())["top1"] == rows(Path("kept"), "val")[3]["top1"]


def test_validation_sees_what_was_held_out(folder):
    assert run("out=a") == 0
    assert validate.main(["a", "--json", "a.json"]) == 0
    found = json.loads(Path("a.json").read_text())
    assert found["images"] == 12 and found["top1"] == rows(Path("a"), "val")[-1]["top1"]


def test_balanced_weights_have_the_mean_one_over_the_images():
    labels = np.repeat([0, 1, 3], [5, 1, 14])
    weights = class_weights("balanced", labels, 4)
    assert weights == pytest.approx([20 / 3 / 5, 20 / 3, 1.0, 20 / 3 / 14])
    assert np.mean(np.array(weights)[labels]) == pytest.approx(1)
    assert class_weights("none", labels, 4) == "none" and class_weights([1.0] * 4, labels, 4) == [1.0] * 4


def test_dry_run_tells_what_would_be_loaded(folder, capsys):
    assert train.main(["small.yaml", "model.weights=donor", "model.freeze=[layer1]", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "tensors from donor" in said and "frozen: layer1" in said and "data: 28 images" in said


def test_a_models_own_view(folder):
    words = [f"data.{key}=model" for key in ("size", "val_resize", "interpolation", "mean", "std")]
    own = config.load("small.yaml", [*words, "model.name=tf_efficientnet_lite0"])
    data = resolved(own).data
    assert (data.size, data.val_size, data.val_resize, data.interpolation) == (224, 224, 256, "bicubic")
    assert (data.mean, data.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert own.data.size == "model"


BAD = {
    "a wrong file": (["model.weights=small.yaml"], "small.yaml: not a checkpoint"),
    "no file": (["model.weights=none.pth"], "none.pth: no such checkpoint"),
    "another architecture": (["model.weights=donor", "model.name=resnet18"], "donor: not weights of this model"),
    "a pattern of nothing": (["model.freeze=[stem]"], "model.freeze: 'stem' names no parameter"),
    "all frozen": (["model.freeze=['*']"], "nothing is left to train"),
    "two sources": (["data.val=pictures"], "data.split keeps images of data.train for validation"),
    "weights of another number": (["loss.class_weights=[1,2]"], "loss.class_weights has 2 values; there are 3"),
    "copies twice": (["data.balance=equal", "data.repeats=2"], "data.balance is equal; it needs data.repeats=1"),
    "a word for a number": (["data.mean=models"], "data.mean is 'models'; it must be a list of 3 values, or model"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_mistakes_are_one_line_and_nothing_is_written(folder, capsys, what):
    words, said = BAD[what]
    before = sorted(p for p in Path().rglob("*"))
    capsys.readouterr()
    assert cli.run(train.main, "train", ["small.yaml", "out=new", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert sorted(p for p in Path().rglob("*")) == before


def test_a_class_of_one_image_cannot_be_split(folder, capsys):
    (Path("pictures") / "one").mkdir()
    next(Path("pictures").glob("*/*")).rename("pictures/one/x.jpg")
    assert cli.run(train.main, "train", ["small.yaml", "out=new"]) == 2
    assert "data.split: pictures: class 'one' has one image" in capsys.readouterr().err and not Path("new").exists()


@pytest.mark.long
def test_two_processes_go_through_the_phases(running, folder):
    """DDP has every parameter that trains in a phase, and no other: it would wait for ever or raise."""
    words = ("mix=automix", "model.weights=donor", "model.freeze=[layer1]", "model.unfreeze=1", "mix_off=0.34")
    launch(running, *words, "out=two")
    before, after = tensors("donor/last.pt"), tensors("two/last.pt")
    assert not torch.equal(before["model.layer1.0.conv1.weight"], after["model.layer1.0.conv1.weight"])
    assert "epoch 2: mixing is off" not in Path("two/log.jsonl").read_text()  # said to people, not in the log
    assert [row["epoch"] for row in rows(Path("two"), "val")] == [1, 2, 3]
