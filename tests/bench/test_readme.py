"""What the README shows runs, and what it names exists."""

import copy
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from fastmix import MIXERS, Batch
from helpers import ROOT
from helpers.tasks import network

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_of(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.S)


def test_examples_run():
    images, labels = torch.randint(256, (8, 64, 64, 3), dtype=torch.uint8), torch.arange(8)
    model = network("automix")
    names: dict = {"model": model, "loader": [(images, labels)] * 2}
    before = copy.deepcopy(model.state_dict())
    for block in python_of(TEXT):
        exec(block, names)
    assert names["loss"].isfinite() and names["method"].step == 2
    assert not torch.equal(model.get_classifier().weight, before["fc.weight"])


def test_the_mixer_that_is_added_works():
    (block,) = [
        block for block in python_of((ROOT / "docs/mixers.md").read_text(encoding="utf-8")) if "Halves" in block
    ]
    names: dict = {}
    exec(block, names)
    images, labels = torch.randint(256, (8, 64, 64, 3), dtype=torch.uint8), torch.arange(8)
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
    assert files and [f for f in files if not (ROOT / f).is_file()] == []
    told = (ROOT / "docs/train.md").read_text(encoding="utf-8")
    tables = set(re.findall(r"`(\w+\.yaml)`", told))
    assert tables and tables <= {path.name for path in (ROOT / "configs").glob("*.yaml")}


def test_it_is_short_and_names_every_method():
    assert TEXT.count("\n") <= 200
    assert set(MIXERS) == set(re.findall(r"\[(\w+)\]\(fastmix/mixers/\w+\.py\)", TEXT))


def test_links_lead_to_files():
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        links = re.findall(r"\]\(([^)\s]+)\)", text)
        lost = [link for link in links if not link.startswith(("http", "#")) and not exists(page.parent / link)]
        lost += [name for name in re.findall(r"`(docs/\w+\.md)`", text) if not (ROOT / name).is_file()]
        assert lost == [], page.name


def exists(link: Path) -> bool:
    """A file, and in it a heading of that name where the link has one."""
    path, _, heading = str(link).partition("#")
    heads = re.findall(r"^#+ (.+)", Path(path).read_text(encoding="utf-8"), re.M) if heading else ()
    return Path(path).is_file() and (
        not heading or heading in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads}
    )


def test_every_page_of_the_site_is_two_clicks_away():
    """The navigation has groups of pages, and each page is in it once."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = re.findall(r"[\w/]+\.md", text[text.index("\nnav:") :])
    assert len(pages) == len(set(pages))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= set(pages)


def test_the_walk_shows_what_was_said():
    """Of docs/own_data.md; lines of dots stand for some that are left out."""
    walk = (ROOT / "docs/own_data.md").read_text(encoding="utf-8")
    log = (ROOT / "results/own_data/commands.txt").read_text(encoding="utf-8").splitlines()
    shown = [line for block in re.findall(r"```\n(\$ .*?)```", walk, re.S) for line in block.splitlines()]
    assert sum(line.startswith("$ python -m fastmix.") for line in shown) == 4
    assert [line for line in shown if line not in (*log, "...")] == []
