"""The examples train two epochs: the loss falls, and the score is above chance. Skipped by name without a framework."""

import importlib
import random
from importlib.util import find_spec

import pytest

import fastmix.compat  # noqa: F401  (before torchvision, which the frameworks import)
from helpers import ROOT

FRAMEWORKS = {
    "plain_pytorch": "torch",
    "timm_train": "timm",
    "torchvision_collate": "torchvision",
    "lightning_module": "pytorch_lightning",
    "accelerate_loop": "accelerate",
    "transformers_trainer": "transformers",
}
CHANCE = 10.0  # percent of ten classes, with a standard deviation of 1.4 over 500 images


def test_each_example_is_tried_and_short():
    found = {path.stem: len(path.read_text().splitlines()) for path in (ROOT / "examples").glob("*.py")}
    assert found.keys() == {"drawings", *FRAMEWORKS} and max(found.values()) <= 60


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of the frameworks
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_an_example_trains(name, monkeypatch):
    if not find_spec(FRAMEWORKS[name]):
        pytest.skip(f"{FRAMEWORKS[name]} is not installed: pip install fastmix[frameworks]")
    monkeypatch.syspath_prepend(ROOT / "examples")
    random.seed(0)  # which crops timm's loader draws; torch is seeded by the examples
    losses, score = importlib.import_module(name).main()
    assert len(losses) == 3 and losses == sorted(losses, reverse=True)
    assert score > CHANCE + 3 * 1.4
