"""The predict command: what validation counts, from every kind of file and source, in every kind of table."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fastmix import cli, convert, models, predict, validate
from fastmix.models.info import KEY, from_text
from helpers.trained_run import small_run


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with `run`, `pictures` and `packed.beton`, the same pictures."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("predict")
        patch.setenv("FASTMIX_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        small_run(folder)
        assert convert.main(["pictures", "packed.beton"]) == 0
        yield folder


@pytest.fixture(autouse=True)
def here(work, monkeypatch):
    monkeypatch.chdir(work)


def rows(*words: str) -> list[dict]:
    """Of the table that the command writes to a file."""
    assert predict.main([*words, "--out", "table.csv", "--overwrite"]) == 0
    return list(csv.DictReader(Path("table.csv").read_text().splitlines()))


def scores(table: list[dict], labels: list[str]) -> tuple[float, float]:
    """top1 in percent, and the mean negative log probability of the label."""
    k = range(1, sum(name.startswith("class_") for name in table[0]) + 1)
    shares = [{row[f"class_{j}"]: float(row[f"probability_{j}"]) for j in k} for row in table]
    top1 = np.mean([row["class_1"] == label for row, label in zip(table, labels, strict=True)])
    return 100 * top1, -np.mean([np.log(share[label]) for share, label in zip(shares, labels, strict=True)])


@pytest.mark.parametrize("kind", ["--ema", "--raw"])
@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_rows_are_what_validate_counts(kind, checkpoint):
    assert validate.main(["run", "--checkpoint", checkpoint, kind, "--json", "counted.json"]) == 0
    counted = json.loads(Path("counted.json").read_text())
    words = ["--checkpoint", checkpoint, *(["--raw"] if kind == "--raw" else [])]
    table = rows("run", "pictures", *words)
    labels = [Path(row["path"]).parent.name for row in table]
    assert len({row["class_1"] for row in table}) > 1, "the model tells images apart"
    assert scores(table, labels) == (pytest.approx(counted["top1"]), pytest.approx(counted["loss"], abs=1e-5))
    packed = rows("run", "packed.beton", *words)
    assert [row["row"] for row in packed] == [str(k) for k in range(30)] and packed[0]["path"] == "packed.beton"
    labels = [f"class{k}" for k in packed_labels()]
    assert scores(packed, labels) == (pytest.approx(counted["top1"]), pytest.approx(counted["loss"], abs=1e-5))


def packed_labels() -> list[int]:
    from fastmix.pipelines.packing.format import Beton

    with Beton("packed.beton") as file:
        return file.labels.tolist()


def test_a_file_alone_and_far_away_says_the_same(tmp_path, monkeypatch):
    first = rows("run", "pictures")
    assert rows("run/last.pt", "pictures") == rows("run/model.safetensors", "pictures") == first
    assert rows("run", "pictures", "--raw") != first, "the average is not the weights"
    shutil.copy("run/model.safetensors", tmp_path / "net.safetensors")
    pictures = Path("pictures").resolve()
    monkeypatch.chdir(tmp_path)
    table = rows("net.safetensors", str(pictures), "--precision", "fp32", "--device", "cpu")
    assert [row | {"path": ""} for row in table] == [row | {"path": ""} for row in first]
    words = ["data.loader=folder", f"data.val={pictures}", "precision=fp32", "device=cpu", "--json", "counted.json"]
    assert validate.main(["net.safetensors", *words]) == 0
    counted, labels = json.loads(Path("counted.json").read_text()), [Path(row["path"]).parent.name for row in table]
    assert scores(table, labels) == (pytest.approx(counted["top1"]), pytest.approx(counted["loss"], abs=1e-5))


def test_the_softmax_is_that_of_a_plain_model():
    """Built by timm from the run's model.json, given one image by Pillow and torchvision."""
    from PIL import Image
    from safetensors.torch import load_file
    from torchvision.transforms import v2

    info = from_text(Path("run/model.json").read_text(), "")
    net = models.load_timm().create_model(info.name, num_classes=3).eval()
    net.load_state_dict(load_file("run/model.safetensors"))
    mean, std = (torch.tensor(v)[:, None, None] for v in (info.mean, info.std))
    see = v2.Compose([v2.Resize(info.resize, v2.InterpolationMode.BICUBIC), v2.CenterCrop(info.size), v2.PILToTensor()])
    for row in rows("run", "pictures")[::7]:
        with torch.no_grad():
            share = net((see(Image.open(row["path"])) / 255 - mean)[None] / std).softmax(1)[0]
        best = share.argsort(descending=True).tolist()
        assert [row[f"class_{k}"] for k in (1, 2, 3)] == [info.classes[k] for k in best]
        assert float(row["probability_1"]) == pytest.approx(float(share.max()), abs=5e-3)  # resized in other roundings


def test_tables_of_all_kinds_hold_the_same(capsys, monkeypatch):
    Path("broken.jpg").write_bytes(Path("pictures/class0/000.jpg").read_bytes()[:200])
    words = ["run", "packed.beton", "-", "pictures/class2/*.jpg", "--top", "2", "--batch", "7"]
    tables = {}
    for suffix in ("csv", "json", "parquet"):
        if suffix == "parquet":
            pytest.importorskip("pyarrow")
        monkeypatch.setattr("sys.stdin", io.StringIO("pictures/class1\ngone.jpg\nbroken.jpg\n"))
        capsys.readouterr()
        assert predict.main([*words, "--out", f"all.{suffix}", "--overwrite"]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"all.{suffix}: 52 images, 2 of them could not be read, ")
        assert " images/s, test_resnet of run/last.pt (average), 48 px, fp32" in said
        path = Path(f"all.{suffix}")
        if suffix == "csv":
            tables[suffix] = list(csv.DictReader(path.read_text().splitlines()))
        elif suffix == "json":
            tables[suffix] = json.loads(path.read_text())
        else:
            from pyarrow import parquet

            tables[suffix] = parquet.read_table(path).to_pylist()
    assert tables["json"] == tables["parquet"]
    text = [{key: "" if value is None else str(value) for key, value in row.items()} for row in tables["json"]]
    number = ("probability_1", "probability_2")
    for a, b in zip(text, tables["csv"], strict=True):
        assert all(float(a[key] or 0) == float(b[key] or 0) for key in number)
        assert {**a, **dict.fromkeys(number)} == {**b, **dict.fromkeys(number)}
    assert list(tables["csv"][0]) == ["path", "row", "class_1", "probability_1", "class_2", "probability_2", "reason"]
    monkeypatch.setattr("sys.stdin", io.StringIO("pictures/class1\ngone.jpg\nbroken.jpg\n"))
    assert predict.main(words) == 0
    said = capsys.readouterr()
    assert said.out == Path("all.csv").read_text() and said.err.startswith("predicted: 52 images, 2 of them ")
    reasons = {row["path"]: row["reason"] for row in tables["csv"] if row["reason"]}
    assert list(reasons) == ["gone.jpg", "broken.jpg"] and reasons["gone.jpg"] == "No such file or directory"


def test_temperature():
    plain, warm = rows("run", "pictures"), rows("run", "pictures", "--temperature", "2.5")
    for a, b in zip(plain, warm, strict=True):
        one, two = ({row[f"class_{k}"]: float(row[f"probability_{k}"]) for k in (1, 2, 3)} for row in (a, b))
        power = {name: share ** (1 / 2.5) for name, share in one.items()}
        assert two == pytest.approx({name: share / sum(power.values()) for name, share in power.items()}, abs=1e-4)
        assert a["class_1"] == b["class_1"]


@pytest.mark.parametrize("on", [[], ["--temperature-on", "packed.beton"]])
def test_fitted_temperature_is_that_of_the_least_loss(capsys, on):
    table = rows("run", "pictures", "--temperature", "fit", *on)
    said = capsys.readouterr().out.splitlines()[0]
    source = on[-1] if on else "pictures"
    assert f"fitted on 30 images of {source}: negative log likelihood " in said and "calibration error " in said
    fitted = float(said.split()[1].rstrip(","))
    labels = [Path(row["path"]).parent.name for row in table]

    def loss(temperature: float) -> float:
        return scores(rows("run", "pictures", "--temperature", str(temperature)), labels)[1]

    best = scores(table, labels)[1]
    assert best == pytest.approx(loss(fitted), abs=1e-5) and best < min(loss(fitted * 1.2), loss(fitted / 1.2))
    told = [float(word) for word in said.split("likelihood ")[1].split(",")[0].split(" -> ")]
    assert told == pytest.approx([loss(1), best], rel=1e-3)


def test_older_runs_take_class_names_from_their_data(tmp_path, monkeypatch, capsys):
    first = rows("run", "pictures")
    shutil.copytree("run", tmp_path / "old")
    (tmp_path / "old/model.json").unlink()
    assert rows(str(tmp_path / "old"), "pictures") == first
    pictures = Path("pictures").resolve()
    monkeypatch.chdir(tmp_path)  # the data are not here
    assert cli.run(predict.main, "predict", ["old", str(pictures)]) == 2
    err = capsys.readouterr().err
    assert "old/last.pt: there is no model.json beside it" in err and err.rstrip().endswith("give --classes FROM")
    Path("names.txt").write_text("x\ny\nz\n")
    named = [row["class_1"] for row in rows("old", str(pictures), "--classes", "names.txt")]
    assert named == ["xyz"[int(row["class_1"][-1])] for row in first]


@pytest.mark.parametrize(
    "words, says",
    [
        (["run"], "required: SOURCE"),
        (["nowhere", "pictures"], "nowhere: no such run folder or checkpoint"),
        (["pictures", "pictures"], "pictures: no run folder"),
        (["small.yaml", "pictures"], "small.yaml: not a checkpoint, or a damaged one"),
        (["bad.safetensors", "pictures"], "bad.safetensors: not a readable safetensors file"),
        (
            ["plain.safetensors", "pictures"],
            "plain.safetensors: neither it nor a config.yaml beside it says what model it is",
        ),
        (["other.safetensors", "pictures"], "other.safetensors: the weights do not fit the model"),
        (["strange.safetensors", "pictures"], "strange.safetensors: no description of a model"),
        (["unknown.safetensors", "pictures"], "unknown model 'test_resnett'; did you mean test_resnet"),
        (["run/model.safetensors", "pictures", "--raw"], "only ema weights are in it, no raw ones"),
        (["run", "gone.jpg"], "gone.jpg: no such image, folder or .beton file"),
        (["run", "small.yaml"], "none of 1 images could be read; the first is small.yaml: not an image file"),
        (["run", "cut.beton"], "cut.beton: "),
        (["run", "pictures", "--top", "0"], "--top: '0' is not a whole number from 1"),
        (["run", "pictures", "--batch", "0"], "--batch: '0' is not a whole number from 1"),
        (["run", "pictures", "--out", "nowhere/x.csv"], "there is no folder nowhere"),
        (["run", "pictures", "--out", "small.yaml"], "small.yaml: exists already; remove it or give --overwrite"),
        (["run", "pictures", "--out", "run", "--overwrite"], "run: exists already"),
        (["run", "pictures", "--out", "x.txt"], "x.txt: the name must end in one of .csv, .json, .parquet"),
        (["run", "pictures", "--temperature", "-1"], "'-1' is not a number from 0.001 to 1,000"),
        (["run", "pictures", "--temperature", "nan"], "'nan' is not a number"),
        (["run", "pictures", "--temperature-on", "pictures"], "--temperature-on needs --temperature fit"),
        (["run", "pictures", "--temperature", "fit", "--temperature-on", "gone"], "--temperature-on gone: no such"),
        (["run", "pictures", "--temperature", "fit", "--temperature-on", "renamed"], "renamed does not have the class"),
        (["alone.safetensors", "pictures", "--temperature", "fit"], "alone.safetensors: no run beside it"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(work, capsys, words, says):
    from safetensors.torch import load_file, save_file

    if not Path("bad.safetensors").exists():
        info, values = Path("run/model.json").read_text(), load_file("run/model.safetensors")
        Path("bad.safetensors").write_bytes(b"x" * 100)
        save_file(values, "plain.safetensors")
        told = {"alone": info, "strange": "{}", "unknown": info.replace("test_resnet", "test_resnett")}
        told["other"] = info.replace("test_resnet", "test_vit")
        for name, text in told.items():
            save_file(values, f"{name}.safetensors", {KEY: text})
        Path("cut.beton").write_bytes(Path("packed.beton").read_bytes()[:5000])
        for k in range(3):
            shutil.copytree(f"pictures/class{k}", f"renamed/other{k}")
    before = sorted(work.iterdir())
    capsys.readouterr()
    assert cli.run(predict.main, "predict", words) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and err[0].startswith("fastmix predict: error: ") and says in err[0]
    assert sorted(work.iterdir()) == before


def test_a_table_is_written_whole_or_not_at_all(capsys, monkeypatch):
    from fastmix.engine import prediction

    Path("kept.csv").write_text("old")
    assert cli.run(predict.main, "predict", ["run", "small.yaml", "--out", "kept.csv", "--overwrite"]) == 2
    assert Path("kept.csv").read_text() == "old" and not Path("kept.csv.part").exists()
    monkeypatch.setattr(prediction, "logits", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict.main(["run", "pictures", "--out", "new.parquet"])
    assert not list(Path().glob("new.parquet*"))


def test_a_missing_package_is_named(capsys, monkeypatch):
    monkeypatch.setattr("fastmix.optional.find_spec", lambda name: None)
    assert cli.run(predict.main, "predict", ["run", "pictures", "--out", "x.parquet"]) == 2
    assert capsys.readouterr().err.endswith("x.parquet needs packages that are not installed: pip install pyarrow\n")
