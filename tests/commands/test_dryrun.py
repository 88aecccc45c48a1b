"""What --dry-run says, against closed forms and a real forward pass; it needs no data and leaves nothing behind."""

import math
import re

import pytest
import torch
from torch import nn

from fastmix import cli, config, models, train
from fastmix.engine import dryrun, optim
from fastmix.engine.method import step_rng
from fastmix.engine.task import DTYPES, Task
from helpers import ROOT

CONFIGS = ROOT / "configs"
COLUMNS = sorted(path.stem for path in CONFIGS.glob("*.yaml") if config.load(path).column.table)


def describe(name: str, *words: str) -> dict:
    return dryrun.describe(config.load(CONFIGS / f"{name}.yaml", words))


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    """A working folder and a cache in which nothing is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path / "cache"))
    return tmp_path


FLOAT = 4  # bytes


def resnet18(classes: int) -> int:
    """Its parameters: each stage has 4 convolutions of 3x3 (and a shortcut), each with a batch-norm of 2 a channel."""
    conv = lambda i, o, k: i * o * k * k + 2 * o  # noqa: E731
    stages = [conv(w if s == 0 else w // 2, w, 3) + 3 * conv(w, w, 3) for s, w in enumerate((64, 128, 256, 512))]
    shortcuts = [conv(w // 2, w, 1) for w in (128, 256, 512)]
    return conv(3, 64, 7) + sum(stages) + sum(shortcuts) + 512 * classes + classes


def test_numbers_of_resnet18():
    found = describe("r18_100ep", "precision=fp32", "device=cpu")
    n = resnet18(1000)
    assert found["model"]["parameters"] == n == 11_689_512
    assert found["data"] == {"images": 1_281_167, "classes": 1000, "found": False}
    assert found["steps"] == {"epoch": 1_281_167 // 256, "run": 100 * 5004, "images": 100 * 5004 * 256}
    assert found["groups"] == [{"weight_decay": 1e-4, "lr_scale": 1.0, "tensors": 62, "parameters": n}]
    statistics = 2 * FLOAT * 4800 + 20 * 8  # mean and variance of 4800 channels, and a counter of each batch-norm
    kept = {key: value for key, value in found["memory"].items() if key != "activations"}
    assert kept == {"weights": 4 * n + statistics, "gradients": 4 * n, "optimiser": 4 * n, "average": 0}
    assert found["resolved"]["optimiser"] == "torch SGD (fused)" and found["resolved"]["device"] == "cpu"


def test_schedule_points():
    found = describe("deit_s")
    steps = 1_281_167 // 1024
    rates = {row["at"]: row["lr"] for row in found["schedule"]}
    places = {row["at"]: (row["epoch"], row["step"]) for row in found["schedule"]}
    assert places["end of warm-up"] == (5, 5 * steps) and places["half"] == (150, 150 * steps)
    assert places["last step"][1] == 300 * steps - 1 and [*places] == sorted(places, key=lambda k: places[k][1])

    def cosine(p: float) -> float:
        return 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * p)) / 2

    assert rates["start"] == pytest.approx(1e-5 * 1e-3)
    assert rates["end of warm-up"] == pytest.approx(cosine(5 / 300))
    assert rates["quarter"] == pytest.approx(cosine(1 / 4)) and rates["half"] == pytest.approx((1e-3 + 1e-5) / 2)
    assert rates["last epoch"] == pytest.approx(cosine(299 / 300))


def test_groups_and_memory_of_adamw_with_layers_and_an_average():
    found = describe("deit_t", "optim.layer_decay=0.5", "ema.decay=0.9", "device=cpu")
    scales = [row["lr_scale"] for row in found["groups"]]
    assert sorted(set(scales), reverse=True) == [0.5**k for k in range(14)]  # head, 12 blocks, embedding
    assert {row["weight_decay"] for row in found["groups"]} == {0.0, 0.05}
    n = found["model"]["parameters"]
    assert sum(row["parameters"] for row in found["groups"]) == n
    assert (
        found["memory"]["optimiser"] == 2 * 4 * n and found["memory"]["average"] == found["memory"]["weights"] == 4 * n
    )


@pytest.mark.parametrize("processes, part", [(1, 1024), (2, 512), (4, 256), (8, 128)])
def test_batch_arithmetic(monkeypatch, processes, part):
    for module in (dryrun, dryrun.loaders):
        monkeypatch.setattr(module, "world", lambda: processes)
    monkeypatch.setattr(dryrun, "_activations", lambda *_: 0)
    found = describe("r50_rsb_a2")
    assert found["batch"] == {"total": 2048, "processes": processes, "parts": 2, "part": part}
    assert found["steps"]["epoch"] == 1_281_167 // 2048


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "resnet18_cifar"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_those_of_a_real_pass(name, precision):
    """The bytes that autograd holds after a forward pass on the CPU, each address once, and no weights."""
    size = 32 if "cifar" in name else 160
    words = [f"model.name={name}", f"precision={precision}", "batch_total=6", f"data.size={size}", "device=cpu"]
    cfg = config.load(CONFIGS / "r18_100ep.yaml", words)
    model = models.build(cfg.model, 1000).train()
    own = {value.untyped_storage().data_ptr() for value in [*model.parameters(), *model.buffers()]}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    x = torch.randn(6, 3, size, size, dtype=DTYPES[cfg.precision])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = nn.functional.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), torch.arange(6))
    expected = sum(storage.nbytes() for address, storage in kept.items() if address not in own)
    assert loss.isfinite()
    assert dryrun.describe(cfg)["memory"]["activations"] == pytest.approx(expected, rel=0.02)


@pytest.fixture(scope="module")
def seen():
    return set()


@pytest.mark.long
@pytest.mark.parametrize("name", COLUMNS)
def test_every_column(empty, monkeypatch, capsys, seen, name):
    cfg = config.load(CONFIGS / f"{name}.yaml")
    if cfg.model.name in seen:
        monkeypatch.setattr(dryrun, "_activations", lambda *_: 2**30)
    seen.add(cfg.model.name)
    assert train.main([str(CONFIGS / f"{name}.yaml"), "--dry-run", "seed=3"]) == 0
    out = capsys.readouterr().out
    assert list(empty.iterdir()) == []
    table = dict(re.findall(r"^\| (\w+) +\| ([\d.]+) +\|$", out, re.MULTILINE))
    parts = [float(table[key]) for key in ("weights", "gradients", "optimiser", "average", "activations")]
    assert float(table["together"]) == pytest.approx(sum(parts), abs=0.003) and parts[0] > 0 and parts[-1] > 0
    (empty / "again.yaml").write_text(out.split("\ndata: ")[0])
    again = config.load(empty / "again.yaml")
    assert {*config.differences(again, cfg)} <= {"seed", "model.classes", "precision"} and again.seed == 3
    assert f"\nmodel: {cfg.model.name}, " in out


def test_data_that_is_there_is_used(empty):
    from fastmix.pipelines.sources import shapes

    packed = shapes.resolve("shapes:train?n=70&size=32")
    words = [f"data.train={packed}", "batch_total=20", "data.size=32"]
    found = describe("cifar10_r18_200ep", *words, "data.loader=beton")
    assert found["data"] == {"images": 70, "classes": 10, "found": True} and found["steps"]["epoch"] == 3


def test_the_optimiser_keeps_what_it_is_said_to():
    """Counted on a real step of the whole model."""
    for name, slots in (("sgd", 1), ("adamw", 2), ("lamb", 2)):
        cfg = config.load(CONFIGS / "r18_100ep.yaml", [f"optim.name={name}", "model.name=test_resnet", "device=cpu"])
        model = models.build(cfg.model, 10)
        opt = optim.build(cfg.optim, model)
        task = Task(model, dryrun.mixers.build("vanilla", {"vanilla": {}}), config.Config(precision="fp32"))
        task(torch.zeros(2, 64, 64, 3, dtype=torch.uint8), torch.arange(2), step_rng(0, 0, 0)).backward()
        opt.step()
        kept = sum(v.numel() for state in opt.state.values() for v in state.values() if torch.is_tensor(v) and v.ndim)
        assert kept == slots * sum(p.numel() for p in model.parameters() if p.ndim)
        assert dryrun._optimiser(cfg, torch.device("cpu"))[1] == slots


@pytest.mark.parametrize(
    "words, says",
    [
        (["column.table="], "no column of the tables says how large it is: give data.loader=synthetic"),
        (["mix=supermix", "mixers.supermix.alpha=2"], "weights is not given"),
        (["model.name=resnet5"], "unknown model 'resnet5'"),
        (["batch_total=255", "accum=2"], "accum is 2; it must divide batch_total, which is 255"),
        (["augment.kind=randaugment", "augment.magnitude=11"], "magnitude"),
    ],
)
def test_mistakes_are_found_as_by_the_run(empty, capsys, words, says):
    assert cli.run(train.main, "train", [str(CONFIGS / "r50_300ep.yaml"), "--dry-run", *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and says in err and list(empty.iterdir()) == []
