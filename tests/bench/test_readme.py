"""What the README shows runs, and what it names exists."""

import copy
import re
from importlib.util import find_spec

import numpy as np
import torch

from fastmix import Batch
from helpers import ROOT
from helpers.tasks import network

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_examples_run():
    images, labels = torch.randint(256, (8, 64, 64, 3), dtype=torch.uint8), torch.arange(8)
    model = network("automix")
    names: dict = {"model": model, "loader": [(images, labels)] * 2}
    before = copy.deepcopy(model.state_dict())
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.S):
        exec(block, names)
    assert names["loss"].isfinite() and names["method"].step == 2
    assert not torch.equal(model.get_classifier().weight, before["fc.weight"])
    batch = Batch(images, labels, np.random.default_rng(0))
    plan = names["Halves"]().plan(batch)
    middle = batch.size[1] // 2
    plain = batch.mix()
    expected = torch.cat([plain[..., :middle], plain[plan.partner.long()][..., middle:]], -1)
    assert torch.equal(batch.mix(plan), expected)
    assert plan.own.tolist() == [0.5] * 8


def test_commands_targets_and_files_exist():
    commands = set(re.findall(r"-m (fastmix\.\w+)", TEXT))
    assert commands and [c for c in commands if not find_spec(c)] == []
    targets = set(re.findall(r"(?:^|`)make (\w+)", TEXT, re.M))
    assert targets and targets <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    files = set(re.findall(r"(?:configs|fastmix|kernels|pipelines|tests)/[\w/]+\.\w+", TEXT))
    files.remove("fastmix/mixers/halves.py")  # the example that adds it
    assert files and [f for f in files if not (ROOT / f).is_file()] == []
    tables = set(re.findall(r"`(\w+\.yaml)`", TEXT)) - {"config.yaml"}
    assert tables and tables <= {path.name for path in (ROOT / "configs").glob("*.yaml")}


def test_the_walk_shows_what_was_said():
    """Of docs/own_data.md; lines of dots stand for some that are left out."""
    walk = (ROOT / "docs/own_data.md").read_text(encoding="utf-8")
    log = (ROOT / "results/own_data/commands.txt").read_text(encoding="utf-8").splitlines()
    shown = [line for block in re.findall(r"```\n(\$ .*?)```", walk, re.S) for line in block.splitlines()]
    assert sum(line.startswith("$ python -m fastmix.") for line in shown) == 4
    assert [line for line in shown if line not in (*log, "...")] == []
