"""Whole runs on a small network: exact resume, accumulation, processes, failures, what is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fastmix import cli, config, files, mixers, models, train, validate
from fastmix.engine import checkpoint, optim
from fastmix.engine.loaders import resolution
from fastmix.engine.task import Task
from helpers import ROOT
from helpers.small_runs import SMALL, launch, rows, run, same, stop_at

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with the small config."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


def weights(path: Path) -> dict[str, torch.Tensor]:
    return files.read_torch(path)["task"]


@pytest.mark.parametrize("mix, step", [("cutmix", 3), ("mixup", 5), ("fmix", 8)])  # in an epoch, at its end, later
def test_interrupted_and_resumed_equals_uninterrupted(folder, monkeypatch, mix, step):
    words = (f"mix={mix}", "accum=2", "save_every=4", "model.args.drop_path_rate=0.2")
    words += ("ema.decay=0.9", "ema.ramp_steps=4")
    assert run(*words, "out=whole") == 0
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        assert run(*words, "out=parts") == cli.TRY_AGAIN
    assert files.read_torch(folder / "parts/last.pt")["run"]["step"] == step
    assert run(*words, "out=parts", resume=True) == 0
    same(folder / "whole/last.pt", folder / "parts/last.pt")
    assert [row["step"] for row in rows(folder / "parts", "val")] == [5, 10]


def test_progressive_resolution_and_repeats_reach_the_model(folder, monkeypatch):
    sizes, forward = [], Task.forward
    monkeypatch.setattr(Task, "forward", lambda *args: sizes.append(args[1].shape[1]) or forward(*args))
    data = ("data.size=96", "data.val_size=32", "data.ramp=[32,0,2]", "data.repeats=3")
    assert run(*data, "epochs=3", "val_every=3", "mix=cutmix") == 0
    assert sizes == [32] * 5 + [64] * 5 + [96] * 5


def test_the_ramp_is_that_of_ffcv_imagenet():
    cfg = config.Config(data=config.Data(size=192, ramp=(160, 65, 76)))
    for epoch in range(88):
        expected = int(np.round(np.interp([epoch], [65, 76], [160, 192])[0] / 32)) * 32
        assert resolution(cfg, epoch) == expected


def test_a_run_folder_holds_what_it_says(folder, capsys):
    assert run("mix=cutmix") == 0
    out = folder / "runs/small_cutmix_s0"
    assert {p.name for p in out.iterdir()} == {
        "config.yaml", "model.json", "data.json", "versions.json", "log.jsonl", "last.pt", "best.pt", "first_batch.png",
        "model.safetensors",
    }  # fmt: skip
    assert config.load(out / "config.yaml") == config.load("small.yaml", ["mix=cutmix", "model.classes=10"])
    assert [row["step"] for row in rows(out, "train")] == [3, 5, 6, 9, 10]
    assert all(row["images"] == 43 for row in rows(out, "val"))
    assert re.search(r"^done: top-1 .* % \(best .* %\) after 2 epochs", capsys.readouterr().out)
    assert run("mix=cutmix") == 0  # a second run takes a folder of its own
    same(out / "last.pt", folder / "runs/small_cutmix_s0-2/last.pt")


def test_without_a_terminal_a_line_tells_the_progress(folder, capsys, monkeypatch):
    monkeypatch.setattr("fastmix.engine.log.MINUTE", 0.001)
    assert run("mix=cutmix", "out=a") == 0
    (row,) = [row for row in rows(folder / "a", "train") if row["step"] == 9]
    (val, _) = rows(folder / "a", "val")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step 9 of 10, ")]
    says = f"epoch 1.8 of 2, loss {row['loss']:.3f}, top-1 {val['top1']:.2f} %, {row['images_per_s']:.0f} images/s"
    assert f", {says}, waiting {row['data_wait']:.0%}, " in line and line.endswith(" min left")


def test_validate_repeats_the_last_validation_and_timm_loads_the_export(folder, capsys):
    assert run("mix=vanilla", "out=a", "ema.decay=0.5") == 0
    assert validate.main(["a", "--json", "a.json"]) == 0
    got, last = json.loads((folder / "a.json").read_text()), rows(folder / "a", "val")[-1]
    scores = {"top1", "top5", "loss", "images", "ema_top1", "ema_top5", "ema_loss"}
    assert {key: got[key] for key in scores} == {key: last[key] for key in scores}

    import timm

    from fastmix.engine import loaders
    from fastmix.engine.evaluate import evaluate
    from fastmix.engine.task import Task
    from fastmix.mixers import MIXERS

    cfg = config.load("a/config.yaml")
    model = timm.create_model("test_resnet", num_classes=10, checkpoint_path="a/model.safetensors")
    result = evaluate(model, Task(model, MIXERS["vanilla"](), cfg), loaders.validation(cfg, torch.device("cpu")))
    assert result["top1"] == last["ema_top1"]


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(folder):
    words = ("mix=vanilla", "model.name=test_vit", "model.args.img_size=32", "epochs=1", "optim.momentum=0")
    assert run(*words, "out=one") == 0
    assert run(*words, "accum=4", "out=four") == 0
    for name, value in weights(folder / "one/last.pt").items():
        torch.testing.assert_close(weights(folder / "four/last.pt")[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_two_processes_equal_one(running, folder):
    """Without batch statistics and mixing, the gradient over two processes is that of the one big batch."""
    words = ("mix=vanilla", "model.name=test_vit", "model.args.img_size=32", "epochs=1")
    assert run(*words, "out=one", "save_every=1") == 0
    launch(running, *words, "out=two", "ema.decay=0.5")
    for name, value in weights(folder / "one/last.pt").items():
        torch.testing.assert_close(weights(folder / "two/last.pt")[name], value, rtol=1e-4, atol=1e-6)
    one, two = rows(folder / "one", "val")[-1], rows(folder / "two", "val")[-1]
    assert two["images"] == one["images"] == 43
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)


@pytest.mark.long
def test_two_processes_resume_within_an_epoch_bit_for_bit(running, folder):
    """Each process keeps batch statistics of its own until a validation: a checkpoint holds those of both."""
    words = ("mix=cutmix", "accum=2", "ema.decay=0.9", "log_every=1")
    launch(running, *words, "out=whole", "save_every=8")
    stop = ("faults.during", "SIGTERM", "8")
    launch(running, *words, "out=parts", before=stop, says="stopped at step 8 of 10, saved")
    parts = files.read_torch(folder / "parts/last.pt")
    one, two = (each["buffers"]["task"] for each in parts["processes"])
    means = [key for key in one if key.endswith("running_mean")]
    assert means and not any(torch.equal(one[key], two[key]) for key in means)
    assert all(torch.equal(one[key], parts["task"][key]) for key in one)
    launch(running, *words, "out=parts", "--resume")
    same(folder / "whole/last.pt", folder / "parts/last.pt")
    measured = dict.fromkeys(["time", "images_per_s", "data_wait", "memory_mb"], 0)
    strip = [[row | measured for row in rows(folder / name, "train")] for name in ("whole", "parts")]
    assert strip[0] == strip[1]


@pytest.mark.long
def test_a_checkpoint_of_two_processes_continues_on_one(running, folder):
    """With the mean of their batch statistics, as a validation takes it."""
    interrupt = ("faults.during", "SIGINT", "3")
    launch(running, "mix=vanilla", "out=a", "log_every=1", before=interrupt, says="stopped at step 3")
    saved = files.read_torch(folder / "a/last.pt")
    state = checkpoint.State(folder / "a", config.load("a/config.yaml"), {}, 10)
    model, opt, scaler = models.build(state.cfg.model, 10), None, torch.amp.GradScaler("cpu", enabled=False)
    task = Task(model, mixers.build("vanilla", state.cfg.mixers), state.cfg)
    opt = optim.build(state.cfg.optim, model)
    state.parts = {"task": task, "opt": opt, "scaler": scaler}
    assert state.restore() == "" and state.step == 3
    for key, value in task.named_buffers():
        if key in saved["task"] and value.is_floating_point():
            both = [each["buffers"]["task"][key] for each in saved["processes"]]
            torch.testing.assert_close(value, (both[0] + both[1]) / 2)
    assert run("mix=vanilla", "out=a", "log_every=1", resume=True) == 0


def test_plans_differ_by_process_step_and_part():
    from fastmix.engine.method import step_rng

    draws = {step_rng(0, *key).integers(2**63) for key in [(0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1)]}
    assert len(draws) == 4
    assert step_rng(3, 4, 5, 6).integers(2**63) == step_rng(3, 4, 5, 6).integers(2**63)


def test_sigterm_saves_and_leaves_cleanly(folder):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fastmix.train", "small.yaml", "mix=cutmix", "epochs=500", "out=a", "log_every=1"]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    log = folder / "a/log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == cli.TRY_AGAIN, err
    step = files.read_torch(folder / "a/last.pt")["run"]["step"]
    assert f"stopped at step {step} of 2500, saved; continue with --resume out=a" in err
    assert json.loads(log.read_text().splitlines()[-1])["step"] == step


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(folder, capsys, monkeypatch):
    from fastmix.engine import optim

    def explode(cfg, lr, step, *rest):
        return 1e30 if step >= 6 else 0.01

    monkeypatch.setattr(optim, "learning_rate", explode)
    assert run("mix=vanilla", "out=a") == 1
    error = capsys.readouterr().err
    found = re.search(r"the loss is not finite at step (\d+); the last good checkpoint is a/last.pt", error)
    assert found and 8 <= int(found[1]) <= 9  # the step after the one that blew the weights up
    assert files.read_torch(folder / "a/last.pt")["run"]["step"] == 5
    assert all(v.isfinite().all() for v in weights(folder / "a/last.pt").values())
    assert not (folder / "a/model.safetensors").exists()


@pytest.mark.parametrize(
    "words, says",
    [
        (["mix=cutmixx"], "did you mean 'cutmix'"),
        (["mix=cutmix", "mixers.cutmix.alpha=-1"], "alpha"),
        (["mix=cutmix", "mixers.cutmix.alfa=1"], "did you mean 'alpha'"),
        (["model.name=resnet5"], "unknown model 'resnet5'; did you mean"),
        (["model.args.depths=3"], "model test_resnet with model.args {'depths': 3}: "),
        (["data.loader=betonn"], "did you mean 'beton'"),
        (["data.train=nowhere.beton"], "data.train is 'nowhere.beton', which does not exist: give data.train=PATH"),
        (["data.loader=folder", "data.train=nowhere"], "data.train is 'nowhere', which does not exist"),
        (["data.train=shapes:test"], "shapes:test"),
        (["data.train="], "data.train is empty"),
        (["batch_total=101"], "101"),
        (["batch_total=21", "accum=2"], "batch_total"),
        (["model.classes=7"], "10 classes, but the model is to have 7"),
        (["model.classes=12"], "10 classes, but the model is to have 12"),
        (["epochz=1"], "did you mean 'epochs'"),
        (["device=cuda"], "no GPU"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(folder, capsys, words, says):
    if words == ["device=cuda"] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    before = sorted(folder.iterdir())
    assert cli.run(train.main, "train", ["small.yaml", "mix=cutmix", *words]) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if not line.startswith("drawing")]
    assert len(lines) == 1 and lines[0].startswith("fastmix train: error: ") and says in lines[0]
    assert sorted(folder.iterdir()) == before


def test_damaged_and_empty_data_name_the_place(folder, capsys):
    (folder / "data/a").mkdir(parents=True)
    for loader, source in [("folder", "data"), ("beton", "small.yaml")]:
        words = ["small.yaml", "mix=cutmix", f"data.loader={loader}", f"data.train={source}"]
        assert cli.run(train.main, "train", words) == 2
        assert source in capsys.readouterr().err


def test_resume_from_another_config_and_an_existing_folder_are_refused(folder, capsys):
    assert run("mix=cutmix", "out=a") == 0
    kept = (folder / "a/last.pt").read_bytes()
    capsys.readouterr()
    assert cli.run(train.main, "train", ["small.yaml", "mix=mixup", "optim.lr=1", "out=a", "--resume"]) == 2
    assert "these keys differ: mix, optim.lr" in capsys.readouterr().err
    assert cli.run(train.main, "train", ["small.yaml", "mix=cutmix", "out=a"]) == 2
    assert "continue that run with --resume, or choose another out=" in capsys.readouterr().err
    assert (folder / "a/last.pt").read_bytes() == kept


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    files.write_torch(path, {"x": torch.ones(1)})

    def full(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_torch(path, {"x": torch.zeros(1)})
    assert torch.equal(files.read_torch(path)["x"], torch.ones(1)) and list(tmp_path.iterdir()) == [path]


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "last.pt"
    files.write_torch(path, {"x": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="last.pt: damaged"):
        files.read_torch(path)


def test_erasing_changes_training_inputs_inside_its_rectangles_and_validation_not(folder):
    import numpy as np
    from torch import nn

    from fastmix.engine.task import Task
    from fastmix.mixers import MIXERS

    images, labels = torch.full((6, 20, 24, 3), 90, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64)
    plain = Task(nn.Identity(), MIXERS["vanilla"](), config.load("small.yaml")).batch(images, labels).mix().clone()
    for mode in ("pixel", "uint8", "constant"):
        cfg = config.load("small.yaml", ["erase.prob=1", f"erase.mode={mode}"])
        task = Task(nn.Identity(), MIXERS["vanilla"](), cfg)
        batch = task.batch(images, labels, np.random.default_rng(0))
        changed = (batch.mix() != plain).any(1)
        for i, (y0, y1, x0, x1, _) in enumerate(batch.erase.boxes.tolist()):
            assert changed[i, y0:y1, x0:x1].float().mean() > 0.9 and changed[i].sum() <= (y1 - y0) * (x1 - x0)
        assert torch.equal(task.batch(images, labels).mix(), plain)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns(folder, precision):
    assert run("mix=vanilla", f"precision={precision}", "epochs=6", "out=a", "optim.lr=0.2") == 0
    losses = [row["loss"] for row in rows(folder / "a", "train")]
    assert losses[-1] < losses[0]
