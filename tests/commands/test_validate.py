"""The validate command: scores against numpy, views against torchvision, every kind of checkpoint, processes."""

import argparse
import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastmix import MIXERS, cli, config, convert, distributed, files, models, train, validate
from fastmix.engine import imagenet_real
from fastmix.engine.evaluate import Predictions, evaluate, predict
from fastmix.engine.per_class import as_csv, confusion, per_class
from fastmix.engine.task import Task
from fastmix.models import weights
from fastmix.pipelines.synthetic import Synthetic
from fastmix.pipelines.view import View
from fastmix.runs.confusion import read as read_confusion
from helpers.forked import forked
from helpers.loading import image_folder

SMALL = """
epochs: 1
batch_total: 20
precision: fp32
data: {train: "shapes:train?n=100&size=32", val: "shapes:val?n=43&size=32", size: 32, val_resize: null, workers: 2}
model: {name: test_vit, args: {img_size: 32}}
optim: {name: sgd, lr: 0.05, momentum: 0.9, weight_decay: 1e-4}
mixers: {vanilla: {}}
ema: {decay: 0.5}
"""
N, CLASSES = 700, 11


class Numbered(Synthetic):
    """Random labels, and images in whose first pixel stands their row; the other side of the image is told from it."""

    def open(self) -> None:
        super().open()
        self.labels = np.random.default_rng(5).integers(0, CLASSES - 1, len(self.labels))  # no image of the last class

    def epoch(self, epoch, first=0, res=None):
        for entries, valid in zip(*self.entries(epoch), strict=True):
            images = np.zeros((len(entries), 8, 8, 3), np.uint8)
            images[:, :, :, 0], images[:, :, :, 1] = (entries // 256)[:, None, None], (entries % 256)[:, None, None]
            images[:, :, 4:, 2] = 255
            yield (
                torch.from_numpy(images),
                torch.from_numpy(np.where(valid, self.labels[entries], 0)),
                torch.from_numpy(valid),
            )


class Oracle(nn.Module):
    """Logits out of a table float32 [2,N,classes], by the row that it reads in the image, and by its side."""

    def __init__(self, table: np.ndarray):
        super().__init__()
        self.table = torch.from_numpy(table)

    def forward(self, x):
        high, low, side = (x[:, :, 0, 0] * 255).round().long().T
        return self.table[(side > 0).long(), high * 256 + low]


def logits(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, N, CLASSES)).astype(np.float32)


def numbered(batch: int = 64, **options) -> Numbered:
    return Numbered(f"n={N}&classes={CLASSES}", batch, view=View(8), train=False, **options)


def plain_task(model: nn.Module) -> Task:
    data = config.Data(mean=(0, 0, 0), std=(1, 1, 1))
    return Task(model, MIXERS["vanilla"](), config.Config(precision="fp32", data=data))


def expected(table: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Percent of images whose label has fewer than k classes above it."""
    own = table[np.arange(N), labels]
    return 100 * float(((table > own[:, None]).sum(1) < k).mean())


def cross_entropy(table: np.ndarray, labels: np.ndarray) -> float:
    table = table.astype(np.float64)
    return float((np.log(np.exp(table).sum(1)) - table[np.arange(N), labels]).mean())


def test_scores_are_numpys():
    table, loader = logits(), numbered()
    result = evaluate(Oracle(table), plain_task(nn.Identity()), loader)
    assert result["images"] == N and result["top1"] == pytest.approx(expected(table[0], loader.labels, 1), abs=1e-9)
    assert result["top5"] == pytest.approx(expected(table[0], loader.labels, 5), abs=1e-9)
    assert result["loss"] == pytest.approx(cross_entropy(table[0], loader.labels), rel=1e-6)


def test_mirrored_average_is_the_mean_of_two_runs_logits():
    table, loader = logits(), numbered()
    both = predict(Oracle(table), plain_task(nn.Identity()), loader, flip=True)
    mean = (table[0] + table[1]) / 2
    np.testing.assert_array_equal(both.top, np.argsort(-mean, 1, kind="stable")[:, :5])
    assert both.scores()["loss"] == pytest.approx(cross_entropy(mean, loader.labels), rel=1e-6)
    assert both.scores()["top1"] != evaluate(Oracle(table), plain_task(nn.Identity()), loader)["top1"]


@pytest.mark.parametrize("world, batch", [(2, 64), (3, 50), (8, 100)])
def test_shares_of_several_processes_make_up_the_whole(monkeypatch, world, batch):
    table, parts = logits(), []
    whole = predict(Oracle(table), plain_task(nn.Identity()), numbered())
    monkeypatch.setattr("fastmix.engine.evaluate.total", lambda values: parts.append(values) or sum(parts))
    for rank in range(world):
        loader = numbered(batch, rank=rank, world=world)
        if any(numbered(batch, rank=k, world=world).entries(0)[1].any() for k in range(rank + 1, world)):
            with pytest.raises(RuntimeError, match=f"images of {N}"):  # not all are there yet
                predict(Oracle(table), plain_task(nn.Identity()), loader)
        else:
            found = predict(Oracle(table), plain_task(nn.Identity()), loader)
    np.testing.assert_array_equal(found.top, whole.top)
    np.testing.assert_array_equal(found.loss, whole.loss)


def test_few_classes_have_a_top_5_of_all():
    loader = numbered()
    loader.labels %= 3
    found = predict(Oracle(logits()[:, :, :3]), plain_task(nn.Identity()), loader)
    assert found.top.shape == (N, 3) and (np.sort(found.top, 1) == [0, 1, 2]).all()
    assert found.scores()["top5"] == 100 and found.scores()["top1"] == pytest.approx(
        expected(logits()[0, :, :3], loader.labels, 1)
    )


def test_classes_one_by_one():
    loader = numbered()
    found = predict(Oracle(logits()), plain_task(nn.Identity()), loader)
    found.valid[::7] = False
    names = [f"name, {k}" for k in range(CLASSES)]
    rows = list(csv.DictReader(as_csv(per_class(found, names)).splitlines()))
    assert [row["class"] for row in rows] == names
    for label, row in enumerate(rows):
        mine = [found.top[k].tolist() for k in range(N) if found.valid[k] and loader.labels[k] == label]
        assert int(row["images"]) == len(mine)
        if not mine:
            assert label == CLASSES - 1 and row["top1"] == row["top5"] == row["confused_with"] == ""
            continue
        assert float(row["top1"]) == pytest.approx(100 * sum(top[0] == label for top in mine) / len(mine))
        assert float(row["top5"]) == pytest.approx(100 * sum(label in top for top in mine) / len(mine))
        wrong = Counter(names[top[0]] for top in mine if top[0] != label)
        assert int(row["mistaken"]) == max(wrong.values()) == wrong[row["confused_with"]]
    total = sum(float(row["top1"] or 0) * int(row["images"]) for row in rows) / found.valid.sum()
    assert total == pytest.approx(found.scores()["top1"])
    told, counts = confusion(found, names[:4])
    assert told == [*names[:4], *map(str, range(4, CLASSES))]
    taken = Counter((loader.labels[k], found.top[k, 0]) for k in range(N) if found.valid[k])
    assert {pair: n for pair, n in np.ndenumerate(counts) if n} == taken


def test_real_labels_worked_by_hand(tmp_path):
    """Five images. 0 is right in a way, 1 is right in the second guess, 2 has no label, 3 is wrong, 4 is damaged."""
    new = [[3, 1], [0], [], [2, 4], [1]]
    (tmp_path / "real.json").write_text(json.dumps(new))
    labels = np.array([1, 0, 3, 2, 1])
    top = np.array([[3, 0], [2, 0], [3, 1], [0, 1], [1, 0]])
    found = Predictions(top, np.zeros(5), labels, np.array([True, True, True, True, False]))
    got = imagenet_real.scores(found, imagenet_real.read(tmp_path / "real.json", labels, "packed.beton"))
    assert got == {"real_top1": pytest.approx(100 / 3), "real_top5": pytest.approx(200 / 3), "real_images": 3}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a run `a` of a small model, with its average; pictures of three classes; random weights."""
    folder = tmp_path_factory.mktemp("validate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTMIX_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        Path("small.yaml").write_text(SMALL)
        assert train.main(["small.yaml", "out=a"]) == 0
        image_folder(folder / "pictures", 30)
        net = models.build(config.Model("test_resnet"), 3)
        with torch.no_grad():
            net.fc.weight.mul_(1000)  # so that it matters what it sees
            for module in net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.ones_(module.weight)
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "net.safetensors")
        yield folder


NET = ["--model", "test_resnet", "--weights", "net.safetensors", "data.loader=folder", "data.val=pictures"]
NET += ["model.classes=3", "precision=fp32", "device=cpu"]


def result(*words: str) -> dict:
    assert validate.main([*words, "--json", "result.json"]) == 0
    return json.loads(Path("result.json").read_text())


@pytest.mark.parametrize(
    "words, size, resize, interpolation",
    [
        ([], 160, 168, "bilinear"),  # as timm says of the model: a share of 0.95
        (["--size", "48", "--crop-pct", "0.75", "--interpolation", "bicubic"], 48, 64, "bicubic"),
        (["--size", "64", "--resize", "70"], 64, 70, "bilinear"),
        (["--size", "80"], 80, 84, "bilinear"),
        (["data.val_size=40", "data.val_resize=40"], 40, 40, "bilinear"),
    ],
)
def test_views_are_torchvisions(work, words, size, resize, interpolation):
    from PIL import Image
    from torchvision.transforms import v2

    steps = [v2.Resize(resize, v2.InterpolationMode(interpolation)), v2.CenterCrop(size), v2.PILToTensor()]
    net = models.build(config.Model("test_resnet"), 3).eval()
    weights.put(weights.read(work / "net.safetensors").sets["raw"], net, "")
    mean, std = (torch.tensor(net.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))

    def loss(transform) -> float:
        files = sorted((work / "pictures").glob("*/*.jpg"))
        x = torch.stack([(transform(Image.open(file)) / 255 - mean) / std for file in files])
        labels = torch.tensor([int(file.parent.name[-1]) for file in files])
        with torch.no_grad():
            return nn.functional.cross_entropy(net(x), labels).item()

    got = result(*NET, *words)
    assert (got["size"], got["resize"], got["interpolation"]) == (size, resize, interpolation)
    theirs, other = loss(v2.Compose(steps)), loss(v2.Compose([v2.Resize(resize + 10), *steps[1:]]))
    assert got["loss"] == pytest.approx(theirs, rel=1e-3)
    assert abs(got["loss"] - theirs) < abs(other - theirs) / 5, "another view would have been noticed"


def test_the_command_takes_flip(work):
    one, both = result(*NET, "--size", "64"), result(*NET, "--size", "64", "--flip")
    assert (one["flip"], both["flip"]) == (False, True) and one["loss"] != both["loss"]


def test_the_json_says_what_was_measured(work):
    got = result("a", "--size", "48", "--resize", "50")
    log = [json.loads(line) for line in Path("a/log.jsonl").read_text().splitlines()][-1]
    assert got["images"] == log["images"] == 43 and got["ema"] is False and "ema_top1" in got
    assert {key: got[key] for key in ("checkpoint", "model", "size", "resize", "flip", "processes")} == {
        "checkpoint": "a/last.pt", "model": "test_vit", "size": 48, "resize": 50, "flip": False, "processes": 1,
    }  # fmt: skip
    assert got["versions"] == json.loads(Path("a/versions.json").read_text())
    assert got["images_per_s"] == pytest.approx(2 * 43 / got["seconds"], rel=0.1)


def test_every_kind_of_file_gives_the_same(work):
    both = result("a")
    raw, average = (result("a", kind) for kind in ("--raw", "--ema"))
    scores = ("top1", "top5", "loss")
    assert [both[key] for key in scores] == [raw[key] for key in scores] and not raw["ema"]
    assert [both[f"ema_{key}"] for key in scores] == [average[key] for key in scores] and average["ema"]
    assert raw["loss"] != average["loss"] and not any(key.startswith("ema_") for key in raw | average)
    content = files.read_torch(Path("a/last.pt"))
    stripped = {k.removeprefix("model."): v for k, v in content["task"].items() if k.startswith("model.")}
    timms = {"state_dict": {f"module.{k}": v for k, v in stripped.items()}, "state_dict_ema": content["ema"]}
    torch.save(timms | {"args": argparse.Namespace(lr=1), "epoch": 1}, "timm.pth")
    torch.save(stripped, "plain.pth")
    named = ["--model", "test_vit", "model.args.img_size=32", "data.val=shapes:val?n=43&size=32", "data.val_size=32"]
    named += ["data.val_resize=null", "data.mean=[0.485,0.456,0.406]", "data.std=[0.229,0.224,0.225]", "precision=fp32"]
    for words, one in [
        (["a/last.pt", "--raw"], raw),
        (["a/last.pt", "--ema"], average),
        (["a/model.safetensors"], average),
        ([*named, "--weights", "timm.pth", "--raw"], raw),
        ([*named, "--weights", "timm.pth", "--ema"], average),
        ([*named, "--weights", "plain.pth"], raw),
        ([*named, "--weights", "a/last.pt", "--ema"], average),
    ]:
        got = result(*words)
        assert got["loss"] == pytest.approx(one["loss"], rel=1e-6) and got["ema"] == one["ema"], words


def test_a_vit_at_another_size_is_timms(work):
    """Against a model that timm makes for any size, which resizes the embeddings when it is called."""
    cfg = config.load("a/config.yaml", ["data.val_size=48", "data.val_resize=48", "model.args.dynamic_img_size=true"])
    model = models.build(cfg.model, 10)
    weights.put(files.read_torch(Path("a/last.pt"))["ema"], model, "")
    from fastmix.engine import loaders

    theirs = evaluate(model, Task(model, MIXERS["vanilla"](), cfg), loaders.validation(cfg, torch.device("cpu")))
    assert result("a", "--ema", "--size", "48", "--resize", "48")["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_real_labels_find_their_images(work):
    """The names' order is not the rows' order: one of the new labels is that of the row, the other is wrong."""
    files = sorted((work / "pictures").glob("*/*.jpg"), key=lambda file: file.name)
    Path("real.json").write_text(json.dumps([[int(file.parent.name[-1]), 7] for file in files]))
    got = result(*NET, "--real", "real.json")
    assert (got["real_top1"], got["real_top5"], got["real_images"]) == (got["top1"], got["top5"], 30)
    assert convert.main(["pictures", "pictures.beton"]) == 0
    packed = [*NET, "data.loader=beton", "data.val=pictures.beton", "--real", "real.json"]
    assert cli.run(validate.main, "validate", packed) == 2
    assert result(*packed, "--names", "pictures")["real_top1"] == got["top1"]


@pytest.mark.long
def test_two_processes_equal_one(running, work):
    words = ["fastmix.validate", "a", "--ema", "batch_total=12", "--per-class", "two.csv", "--json", "two.json"]
    done = forked(running, *words)
    assert done.code == 0, done.err[-3000:]
    assert done.out.count("top1") == 1
    one, two = result("a", "--ema", "--per-class", "one.csv"), json.loads(Path("two.json").read_text())
    assert Path("two.csv").read_text() == Path("one.csv").read_text()
    assert two["processes"] == 2 and two["images"] == 43
    assert (two["top1"], two["top5"]) == (one["top1"], one["top5"])
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_what_classes_are_taken_for_agrees_with_their_scores(work):
    got = result("a", "--ema", "--per-class", "classes.csv", "--confusion", "confusion.csv")
    names, counts = read_confusion(work)
    rows = list(csv.DictReader(Path("classes.csv").read_text().splitlines()))
    assert names == [row["class"] for row in rows]
    assert [sum(row) for row in counts] == [int(row["images"]) for row in rows]
    right = sum(counts[k][k] for k in range(len(names)))
    assert 100 * right / sum(map(sum, counts)) == pytest.approx(got["top1"])


def test_damaged_images_are_left_out_where_asked(work):
    path = work / "broken/class0/000.jpg"
    image_folder(work / "broken", 12)
    path.write_bytes(path.read_bytes()[:200])
    words = [*NET, "--size", "32", "data.val=broken"]
    assert cli.run(validate.main, "validate", words) == 2
    assert result(*words, "data.bad=skip")["images"] == 11


MANY = ["data.loader=synthetic", "data.val=n=20&classes=1000"]
BAD = "no such run folder or checkpoint"


@pytest.mark.parametrize(
    "words, says",
    [
        ([], "name a run folder or a checkpoint, or give --model"),
        (["nowhere"], f"nowhere: {BAD}"),
        (["a/first.pt"], f"a/first.pt: {BAD}"),
        (["pictures"], "pictures: no run folder"),
        (["net.safetensors"], "neither it nor a config.yaml beside it says what model it is; validate it with"),
        (["a", "--weights", "net.safetensors"], "--weights needs --model NAME"),
        (["--model", "test_resnet"], "needs --weights FILE, or --weights timm"),
        (["--model", "test_resnet5", "--weights", "x.pth"], "did you mean test_resnet"),
        ([*NET, "--weights", "x.pth"], "x.pth: no such checkpoint"),
        ([*NET, "--weights", "small.yaml"], "small.yaml: not a checkpoint"),
        ([*NET, "--weights", "bad.safetensors"], "bad.safetensors: not a readable safetensors file"),
        ([*NET, "--weights", "empty.pth"], "empty.pth: no weights in it"),
        ([*NET, "--weights", "a/model.safetensors"], "the weights do not fit the model"),
        ([*NET, "--ema"], "only raw weights are in it, no ema ones"),
        (["a", "--per-class", "x.csv"], "tables of classes need --ema or --raw"),
        (["a", "--ema", "--raw"], "not allowed with argument"),
        ([*NET, "--resize", "50", "--crop-pct", "0.5"], "not allowed with argument"),
        ([*NET, "--crop-pct", "1.5"], "argument --crop-pct: '1.5' is not a number from 0.01 to 1"),
        ([*NET, "--size", "64", "--resize", "32"], "resize is 32, smaller than the crop of 64 pixels"),
        (["a", "--size", "64"], "too small for crop 'centre' of 64"),
        (["a", "--size", "47", "--resize", "64"], "test_vit cannot see images of 47 pixels"),
        (["a", "--json", "nowhere/x.json"], "there is no folder nowhere"),
        (["a", "epochz=1"], "did you mean 'epochs'"),
        ([*NET, "--real", "small.yaml"], "small.yaml: not JSON"),
        ([*NET, "--real", "dict.json"], "expected a list of lists"),
        ([*NET, "--real", "text.json"], "entry 1 is ['x']; labels are whole numbers"),
        ([*NET, "--real", "short.json"], "short.json is for 2 images, but pictures has 30; it must be one for each"),
        ([*NET, "--real", "none.json"], "no image in it has a label"),
        ([*NET, "--real", "wrong.json"], "only 0.0% of the images of pictures have their own label in it"),
        ([*NET, "--real", "wrong.json", "--names", "a"], "a: "),
        (["--model", "pvt_tiny", "--weights", "timm", *MANY], "pvt_tiny has no published weights"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(work, capsys, words, says):
    (work / "bad.safetensors").write_bytes(b"x" * 100)
    torch.save({"state_dict": {"a": 1}}, "empty.pth")
    files = {"dict": {}, "text": [[1], ["x"]], "short": [[1], []], "none": [[]] * 30, "wrong": [[9]] * 30}
    for name, content in files.items():
        (work / f"{name}.json").write_text(json.dumps(content))
    before = sorted(work.iterdir())
    capsys.readouterr()
    assert cli.run(validate.main, "validate", words) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("drawing")]
    assert len(err) == 1 and err[0].startswith("fastmix validate: error: ") and says in err[0]
    assert sorted(work.iterdir()) == before


def test_weights_that_cannot_be_fetched_are_one_line(work, capsys, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(work / "hub"))
    words = ["--model", "resnet18.a1_in1k", "--weights", "timm", *MANY]
    assert cli.run(validate.main, "validate", words) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert "the weights of resnet18.a1_in1k cannot be had (" in err[-1] and "give --weights FILE" in err[-1]


def test_no_group_of_processes_is_left(work):
    result("a", "--raw")
    assert distributed.world() == 1
