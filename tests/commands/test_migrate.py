"""The command: a config on standard output or in a file, a line for each thing without an equivalent, exit code 2."""

import re

import pytest

from fastmix import cli, config, migrate, train

OPENMIXUP = """
model = dict(type='MixUpClassification', alpha=1.0, mix_mode='cutmix', brand_new=1,
    backbone=dict(type='ResNet', depth=18, style='pytorch'),
    head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss', loss_weight=1.0), in_channels=512, num_classes=10))
norm = dict(mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
data = dict(imgs_per_gpu=8,
    train=dict(pipeline=[dict(type='RandomResizedCrop', size=32), dict(type='RandomHorizontalFlip')]),
    val=dict(pipeline=[dict(type='Resize', size=32), dict(type='ToTensor'), dict(type='Normalize', **norm)]))
optimizer = dict(type='SGD', lr=1e-6, momentum=0.9, weight_decay=1e-4)
lr_config = dict(policy='CosineAnnealing', min_lr=0.)
runner = dict(type='EpochBasedRunner', max_epochs=2)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r18_2xb8.py").write_text(OPENMIXUP)
    return tmp_path


def run(*words):
    return cli.run(migrate.main, "migrate", list(words))


def test_to_standard_output_and_to_a_file(folder, capsys):
    assert run("r18_2xb8.py") == 0
    out, err = capsys.readouterr()
    notes = err.splitlines()
    assert notes[0].startswith("batch_total=16") and notes[1:] == ["model.brand_new=1: no equivalent"]
    comments = [line[2:] for line in out.splitlines() if line.startswith("# ")]
    assert comments == ["From r18_2xb8.py, by python -m fastmix.migrate.", *notes]
    assert run("r18_2xb8.py", "--out", "own.yaml") == 0
    assert capsys.readouterr().out == "" and (folder / "own.yaml").read_text() == out
    cfg = config.load("own.yaml")
    assert (cfg.optim.lr, cfg.batch_total, cfg.data.mean) == (1e-6, 16, (0.5, 0.5, 0.5))
    assert "base:" not in out and "val_every" not in out and len(out.splitlines()) < 25


def test_a_migrated_config_trains(folder, capsys):
    assert run("r18_2xb8.py", "--out", "own.yaml", "--gpus", "1") == 0
    words = ["data.loader=beton", "data.train=shapes:train", "data.val=shapes:val", "--dry-run"]
    assert cli.run(train.main, "train", ["own.yaml", *words]) == 0
    assert "cutmix" in capsys.readouterr().out


@pytest.mark.parametrize("name, text, words", [
    ("bad.py", "model = dict(", r"bad.py: not a Python file \(line 1\)"),
    ("bad.py", "_base_ = 'gone.py'", "bad.py: its _base_ gone.py does not exist"),
    ("bad.py", "_base_ = 'bad.py'", "leads back to itself"),
    ("bad.py", "x = 1", "bad.py: no config of OpenMixup"),
    ("bad.yaml", "epochs: 3", "bad.yaml: not what timm's train.py saves"),
    ("bad.py", "x = 1\n" + "x = dict(a=x)\n" * 3000 + "model = dict(type='Classification', x=x)", "nested too deeply"),
    ("bad.json", "{}", "bad.json: neither a config of OpenMixup"),
    ("none.py", None, "none.py: No such file or directory"),
])  # fmt: skip
def test_bad_input_is_a_line_and_nothing_is_written(folder, capsys, name, text, words):
    if text is not None:
        (folder / name).write_text(text)
    assert run(name, "--out", "own.yaml") == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith("fastmix migrate: error: ")

    assert re.search(words, err) and not (folder / "own.yaml").exists()


def test_a_file_that_is_there_stays(folder, capsys):
    (folder / "own.yaml").write_text("mine")
    assert run("r18_2xb8.py", "--out", "own.yaml") == 2 and "--overwrite" in capsys.readouterr().err
    assert (folder / "own.yaml").read_text() == "mine"
    assert run("r18_2xb8.py", "--out", "own.yaml", "--overwrite") == 0 and "cutmix" in (folder / "own.yaml").read_text()
    assert run("r18_2xb8.py", "--out", "gone/own.yaml") == 2 and run("r18_2xb8.py", "--gpus", "0") == 2
