"""Config files: strict keys and types, base files, key=value words."""

import re
from pathlib import Path

import pytest
import yaml

from fastmix import config
from helpers import ROOT

CONFIGS = ROOT / "configs"


def write(folder: Path, text: str, name: str = "a.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    "text, key, value",
    [
        ("optim: {lr: 5e-5}", "optim.lr", 5e-5),  # PyYAML alone reads the text '5e-5'
        ("optim: {lr: 1}", "optim.lr", 1.0),
        ("optim: {lr: .5}", "optim.lr", 0.5),
        ("model: {compile: off}", "model.compile", "off"),  # PyYAML alone reads false
        ("optim: {nesterov: true}", "optim.nesterov", True),
        ("data: {val_size: null}", "data.val_size", None),
        ("data: {val_size: 256}", "data.val_size", 256),
        ("data: {scale: [0.25, 1]}", "data.scale", (0.25, 1.0)),
        ("optim: {no_decay: [norm, bias]}", "optim.no_decay", ["norm", "bias"]),
        ("seed: 3", "seed", 3),
    ],
)
def test_values(tmp_path, text, key, value):
    got = config.get(config.load(write(tmp_path, text)), key)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    "text, words, says",
    [
        ("optim: {lrr: 1}", [], "unknown key 'optim.lrr'; did you mean 'optim.lr'?"),
        ("epoch: 3", [], "unknown key 'epoch'; did you mean 'epochs'?"),
        ("", ["data.trian=x"], "unknown key 'data.trian'; did you mean 'data.train'?"),
        ("epochs: three", [], "epochs is 'three'; it must be a whole number"),
        ("epochs: 1.5", [], "epochs is 1.5; it must be a whole number"),
        ("epochs: true", [], "epochs is True; it must be a whole number"),
        ("optim: {lr: fast}", [], "optim.lr is 'fast'; it must be a number"),
        ("optim: 3", [], "optim is 3; it must be a mapping"),
        ("data: {scale: [0.1]}", [], "data.scale is [0.1]; it must hold 2 values"),
        ("data: {mean: [a, b, c]}", [], "data.mean is 'a'; it must be a number"),
        ("epochs: 0", [], "epochs is 0; it must be a whole number from 1 to 100,000"),
        ("precision: bf8", [], "precision is 'bf8'; choose one of auto, fp32, fp16, bf16"),
        ("", ["epochs"], "'epochs' is no setting: write key=value"),
        ("", ["epochs=1", "epochs.x=3"], "'epochs.x=3': 'epochs' is a single value"),
        ("base: nowhere.yaml", [], "nowhere.yaml does not exist"),
        ("mixers: {mixup: {}}\nrows: {mixupp: {}}", [], "rows.mixupp must be settings of a row, which is one of mixup"),
        ("mixers: {mixup: {}}\nrows: {mixup: {epoch: 3}}", ["mix=mixup"], "unknown key 'epoch'"),
        ("base: a.yaml", [], "leads back to itself"),
        ("a: [", [], "not valid YAML"),
        ("- 1", [], "a config is a mapping"),
    ],
)
def test_errors_are_one_line_with_the_place(tmp_path, text, words, says):
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        config.load(write(tmp_path, text), words)
    assert "\n" not in str(error.value)


def test_missing_file_names_the_nearest_config():
    with pytest.raises(ValueError, match="did you mean .*r50_300ep.yaml"):
        config.load("configs/r50_300epp.yaml")


def test_later_files_and_words_win_key_by_key(tmp_path):
    low = "epochs: 5\noptim: {lr: 0.1, momentum: 0.8}\nmixers: {cutmix: {alpha: 1.0, granularity: sample}}"
    write(tmp_path, low, "b.yaml")
    path = write(tmp_path, "base: b.yaml\noptim: {lr: 0.2}\nmixers: {cutmix: {alpha: 0.5}, mixup: {}}")
    cfg = config.load(path, ["optim.lr=0.3", "mixers.mixup.alpha=2e-1"])
    assert (cfg.epochs, cfg.optim.lr, cfg.optim.momentum) == (5, 0.3, 0.8)
    assert cfg.mixers == {"cutmix": {"alpha": 0.5, "granularity": "sample"}, "mixup": {"alpha": 0.2}}


def test_a_dumped_config_reads_back_equal(tmp_path):
    cfg = config.load(CONFIGS / "quickstart.yaml", ["optim.lr=5e-5", "model.compile=off"])
    assert config.load(write(tmp_path, config.dump(cfg))) == cfg
    assert config.from_tree(config.to_tree(cfg), "") == cfg


def test_differences_names_the_keys_that_differ():
    a = config.load(CONFIGS / "quickstart.yaml")
    b = config.load(CONFIGS / "quickstart.yaml", ["optim.lr=9", "out=x", "mixers.cutmix.alpha=0.1"])
    assert config.differences(a, b, ("out",)) == ["mixers.cutmix.alpha", "optim.lr"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_loads_and_its_mix_is_one_of_its_mixers(path):
    cfg = config.load(path)
    assert cfg.mix in cfg.mixers
    first = path.read_text().splitlines()[0]
    assert first.startswith(f"# python -m fastmix.train configs/{path.name}")
    assert yaml.safe_load(path.read_text())
