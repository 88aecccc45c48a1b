"""The export command: each kind of file, run by its own runtime, on real images; what it tells; what it refuses."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fastmix import cli, config, export, models, predict
from fastmix.engine.exchange_formats import FORMATS, quietly
from fastmix.engine.export import save
from fastmix.engine.prediction import view
from fastmix.models.info import KEY, Info, from_text
from fastmix.pipelines.unlabelled import unlabelled
from helpers.trained_run import small_run

KINDS = [(kind, preprocessing) for kind in ("onnx", "torchscript", "torch-export") for preprocessing in (True, False)]
SLOW = {("onnx", False), ("torch-export", False)}


def onnxruntime():
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    return pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("export")
        patch.setenv("FASTMIX_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        yield small_run(folder)


@pytest.fixture(autouse=True)
def here(work, monkeypatch):
    monkeypatch.chdir(work)


def predicted(*words: str) -> list[dict]:
    assert predict.main([*words, "--precision", "fp32", "--out", "table.csv", "--overwrite"]) == 0
    return list(csv.DictReader(Path("table.csv").read_text().splitlines()))


@quietly
def scores(kind: str, path: Path, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, str]]:
    """Logits and metadata, with the runtime that the file is meant for and none of our code."""
    if kind == "onnx":
        session = onnxruntime().InferenceSession(str(path))
        (given,) = session.get_inputs()
        (logits,) = session.run(None, {given.name: images.numpy()})
        return torch.from_numpy(logits), session.get_modelmeta().custom_metadata_map
    told = {KEY: "", "input": ""}
    if kind == "torchscript":
        run = torch.jit.load(path, _extra_files=told)
        return run(images), {key: text.decode() for key, text in told.items()}
    run = torch.export.load(path, extra_files=told).module()
    return run(images), told


def pixels(info: Info, files: list[str]) -> torch.Tensor:
    """uint8 [n,S,S,3], as validation sees them."""
    loader = unlabelled(files, len(files), view=view(info))
    return next(iter(loader.epoch(0)))[0].clone()


def normalised(info: Info, images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (info.mean, info.std))
    return ((images.permute(0, 3, 1, 2) / 255 - mean) / std).float().contiguous()


@pytest.mark.parametrize(
    "kind, preprocessing", [pytest.param(*k, marks=pytest.mark.long if k in SLOW else ()) for k in KINDS]
)
def test_every_kind_agrees_with_predict(kind, preprocessing, capsys):
    if kind == "onnx":
        onnxruntime()
    out = f"net{preprocessing:d}{FORMATS[kind].suffix}"
    words = ["--with-preprocessing"] if preprocessing else []
    assert export.main(["run", "--to", kind, "--out", out, *words]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: test_resnet of run/last.pt (average), 3 classes, ") and said.count("\n") == 1
    assert said.rstrip().endswith("from the model on 8 images of pictures")
    table = predicted("run", "pictures")
    info = from_text(Path("run/model.json").read_text(), "")
    images = pixels(info, [row["path"] for row in table])
    given = images if preprocessing else normalised(info, images)
    logits, told = scores(kind, Path(out), given)
    assert logits.argmax(1).tolist() == [info.classes.index(row["class_1"]) for row in table]
    best = logits.softmax(1).max(1).values
    torch.testing.assert_close(best, torch.tensor([float(row["probability_1"]) for row in table]), atol=1e-5, rtol=0)
    for n in (1, 3, 7):  # any batch
        torch.testing.assert_close(scores(kind, Path(out), given[:n].clone())[0], logits[:n], atol=1e-4, rtol=0)
    assert from_text(told[KEY], "") == info
    assert told["input"] == ("uint8 [batch,48,48,3]" if preprocessing else "float32 [batch,3,48,48], normalised")


def test_the_command_names_every_format():
    assert export.FORMATS == tuple(FORMATS)


def test_safetensors_are_timms(capsys):
    assert export.main(["run", "--to", "safetensors", "--out", "net.safetensors", "--raw"]) == 0
    net = models.load_timm().create_model("test_resnet", num_classes=3, checkpoint_path="net.safetensors").eval()
    with safe_open("net.safetensors", "pt") as file:
        info = from_text(file.metadata()[KEY], "")
    table = predicted("run", "pictures", "--raw")
    with torch.no_grad():
        logits = net(normalised(info, pixels(info, [row["path"] for row in table])))
    assert logits.argmax(1).tolist() == [info.classes.index(row["class_1"]) for row in table]
    assert predicted("net.safetensors", "pictures") == table, "a file that predict takes"


def test_without_the_data_drawings_are_compared(tmp_path, monkeypatch, capsys):
    shutil.copytree("run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert export.main(["run", "--to", "torchscript"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("from the model on 10 drawings")
    shutil.move("run/model.safetensors", "net.safetensors")
    assert export.main(["net.safetensors", "--to", "torchscript"]) == 0 and Path("model.torchscript").is_file()


@pytest.mark.parametrize(
    "words, says",
    [
        (["run"], "required: --to"),
        (["run", "--to", "caffe"], "invalid choice: 'caffe'"),
        (["nowhere", "--to", "torchscript"], "nowhere: no such run folder or checkpoint"),
        (["gone/last.pt", "--to", "torchscript"], "there is no folder gone to write it to"),
        (["pictures", "--to", "torchscript"], "pictures: no run folder"),
        (["run", "--to", "safetensors"], "run/model.safetensors: exists already; remove it or give --overwrite"),
        (["run", "--to", "safetensors", "--with-preprocessing"], "safetensors holds weights and no graph"),
        (["run", "--to", "torchscript", "--out", "no/x.ts"], "no/x.ts: there is no folder no to write it to"),
        (["run/model.safetensors", "--to", "torchscript", "--raw"], "only ema weights are in it, no raw ones"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(work, capsys, words, says):
    before = sorted(work.rglob("*"))
    assert cli.run(export.main, "export", words) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and err[0].startswith("fastmix export: error: ") and says in err[0]
    assert sorted(work.rglob("*")) == before


def test_a_missing_package_is_named(capsys, monkeypatch):
    monkeypatch.setattr("fastmix.optional.find_spec", lambda name: None)
    assert cli.run(export.main, "export", ["run", "--to", "onnx"]) == 2
    said = "--to onnx needs packages that are not installed: pip install onnx onnxruntime onnxscript\n"
    assert capsys.readouterr().err == f"fastmix export: error: {said}"


@pytest.mark.parametrize("fault", ["differs", "raises"])
def test_a_file_that_is_not_the_model_is_not_kept(work, capsys, monkeypatch, fault):
    kind = FORMATS["torchscript"]

    def write(model, example, path, told):
        if fault == "raises":
            raise RuntimeError("no such operator\nin this opset")
        with torch.no_grad():
            model.fc.bias.add_(1e-3)
        kind.write(model, example, path, told)

    monkeypatch.setitem(FORMATS, "torchscript", kind._replace(write=write))
    before = sorted(work.rglob("*"))
    assert cli.run(export.main, "export", ["run", "--to", "torchscript", "--out", "bad.ts"]) == 2
    err = capsys.readouterr().err
    says = {"differs": "bad.ts: not written, its logits differ by 0.001 from the model's on 8 images of pictures"}
    says["raises"] = "bad.ts: test_resnet cannot be written as .torchscript: no such operator in this opset"
    assert err.count("\n") == 1 and says[fault] in err and sorted(work.rglob("*")) == before


@pytest.mark.long
def test_predict_and_onnx_agree_on_every_photograph(data, tmp_path, monkeypatch):
    onnxruntime()
    monkeypatch.chdir(tmp_path)
    cfg = config.load("r18_100ep")
    model = models.build(cfg.model, 10, 3)
    with torch.no_grad():
        model.fc.weight.mul_(50)  # a new classifier tells little apart
    info = Info("resnet18", [f"class {k}" for k in range(10)], 96, 110, "bicubic", cfg.data.mean, cfg.data.std)
    save(Path("net.safetensors"), model.eval(), info)
    photographs = str(data("imagenet_sample"))
    assert export.main(["net.safetensors", "--to", "onnx", "--with-preprocessing"]) == 0
    table = [row for row in predicted("net.safetensors", photographs) if not row["reason"]]
    assert len(table) >= 100 and len({row["class_1"] for row in table}) > 1
    logits, _ = scores("onnx", Path("model.onnx"), pixels(info, [row["path"] for row in table]))
    assert [info.classes[k] for k in logits.argmax(1)] == [row["class_1"] for row in table]
    best = logits.softmax(1).max(1).values
    torch.testing.assert_close(best, torch.tensor([float(row["probability_1"]) for row in table]), atol=1e-4, rtol=0)


BACKBONES = {  # with one block a stage where their builders have words for it: the time goes by operations
    "resnet18_cifar": {}, "resnext50_32x4d_cifar": {"layers": [1, 1, 1, 1]}, "resnet50": {"layers": [1, 1, 1, 1]},
    "mobilenetv2_100": {}, "tf_efficientnet_b0": {}, "convnext_tiny": {"depths": [1, 1, 1, 1]}, "moganet_tiny": {},
    "deit_tiny_patch16_224": {"depth": 2}, "pvt_tiny": {}, "swin_tiny_patch4_window7_224": {"depths": [1, 1, 2, 1]},
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", BACKBONES)
def test_every_kind_of_backbone_becomes_onnx(name, tmp_path, monkeypatch):
    """The command itself compares what the file says with what the model says, and fails where they differ."""
    onnxruntime()
    monkeypatch.chdir(tmp_path)
    size = 32 if name.endswith("_cifar") else 64
    sized = {"img_size": size} if name.split("_")[0] in ("deit", "pvt", "swin", "moganet") else {}
    args = BACKBONES[name] | sized
    info = Info(name, list("abcde"), size, size, "bicubic", [0.5] * 3, [0.25] * 3, args)
    save(Path("net.safetensors"), models.build(config.Model(name, args=args), 5).eval(), info)
    assert export.main(["net.safetensors", "--to", "onnx"]) == 0 and Path("model.onnx").is_file()
