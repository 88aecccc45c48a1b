"""The draw command: the page, whom it asks, and what it refuses. What is drawn: tests/engine/test_mixtures.py."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fastmix import Batch, cli, config, draw, files, mixers, models, train
from fastmix.engine import contact_sheet, mixtures, picture
from fastmix.engine.method import step_rng
from fastmix.engine.mixtures import FixedLambda
from fastmix.targets import CrossEntropy
from helpers.drawing import LAMS, SIZE, SOURCE, N, batches, shares_of, teacher_in

SETTINGS = ["mixers.fmix.bank=4", "mixers.guidedmixup.mix_prob=1", "mixers.mixpro.cell=16"]


def run(out, *words, names=("cutmix",), lam=LAMS) -> int:
    size = [f"--size={SIZE}", f"--n={N}", "data.val_resize=null", "--seed=3", f"--out={out}"]
    lams = ["--lam", *map(str, lam)]
    return cli.run(draw.main, "draw", [SOURCE, "--mix", *names, *SETTINGS, *size, *lams, *map(str, words)])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return teacher_in(tmp_path_factory.mktemp("teacher"))


@pytest.mark.long
def test_all_methods_are_on_one_sheet(tmp_path, teacher, capsys):
    settings = [f"mixers.{name}.{key}" for name in ("attentivemix", "tokenmix", "supermix")
                for key in ("teacher=resnet10t", f"weights={teacher}", "size=32")]  # fmt: skip
    words = ["--untrained", "--model", "resnet10t", "test_vit", "--rows=1", "--across=3", *settings]
    assert run(tmp_path / "a.png", *words, names=["all"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.png'}: {', '.join(mixers.MIXERS)}\n"
    assert {*itertools.chain(*mixers.FAMILIES.values())} == {*mixers.MIXERS}
    assert sum(map(len, mixers.FAMILIES.values())) == len(mixers.MIXERS)


def test_the_gallerys_config_has_a_row_for_each_method():
    found = config.load(Path(__file__).parents[2] / "examples/gallery/gallery.yaml").mixers
    assert {row.get("mixer", name) for name, row in found.items()} == {*mixers.MIXERS}


# ---- whom methods ask ----


def test_a_run_lends_its_model_and_what_its_method_has_learned(tmp_path, monkeypatch, capsys):
    """The mask of a trained block, from its checkpoint, against the block with the weights of the file."""
    monkeypatch.chdir(tmp_path)
    row = {"alpha": 1.0, "mode": "bilinear", "momentum": [0.5, 0.5]}
    tree = {"mix": "automix", "epochs": 1, "batch_total": 8, "model": {"name": "resnet10t"}, "mixers": {"automix": row},
            "data": {"train": "shapes:train?n=16&size=32", "val": "shapes:val?n=10&size=32",
                     "size": SIZE, "val_resize": None, "crop": "centre", "mean": [0.4, 0.5, 0.6]}}  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    assert cli.run(train.main, "train", ["c.yaml", "out=run", "precision=fp32"]) == 0
    capsys.readouterr()
    path = tmp_path / "run/last.pt"
    content = torch.load(path, weights_only=True)["task"]
    content["mixer.block.value.bias"] += 3.0  # so that it is another than an untrained one
    mixer = mixers.build("automix", {"automix": row})
    model = models.build(config.Model("resnet10t"), 10)
    mixer.prepare(model)
    mixer.load_state_dict({k.removeprefix("mixer."): v for k, v in content.items() if k.startswith("mixer.")})

    whole = torch.load(path, weights_only=True)
    whole["task"] = content
    files.write_torch(path, whole)
    seen = []
    monkeypatch.setattr(
        contact_sheet, "page", lambda blocks, *rest: seen.extend(blocks) or np.zeros((4, 4, 3), np.uint8)
    )
    assert run(tmp_path / "a.png", "--weights", tmp_path / "run", names=["automix", "cutmix", "samix"]) == 0
    assert "samix draws by a mix block: give --weights RUN" in capsys.readouterr().err
    automix, cutmix, samix = seen
    assert "mix block trained in" in automix.note and cutmix.rows and not samix.rows
    batch = Batch(*batches()[0], FixedLambda(step_rng(3, 0, 0), LAMS[0]), mean=(0.4, 0.5, 0.6))
    shown = mixer.shown(model, batch, CrossEntropy())
    wanted = mixtures.masks_of(mixtures.whole(shown, batch).numpy())
    assert (automix.rows[0][0].upper == wanted[0]).all() or not mixtures.meets(shown, 2)
    assert shares_of(automix.rows[0][0]) < 0.2, "the bias of the file shows the partner"


def test_weights_and_hyper_parameters_are_those_given(tmp_path, teacher, monkeypatch):
    rows = {"four": {"mixer": "gridmix_cells", "cells": 2}, "puzzlemix": {"blocks": 8, "eta": 0}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"model": {"name": "resnet10t"}, "mixers": rows}))
    seen = []
    monkeypatch.setattr(
        contact_sheet, "page", lambda blocks, *rest: seen.extend(blocks) or np.zeros((4, 4, 3), np.uint8)
    )
    words = [tmp_path / "c.yaml", SOURCE, "--mix", "four", "puzzlemix", "--weights", teacher, "--model", "resnet10t"]
    words += [f"--size={SIZE}", f"--n={N}", "data.val_resize=null", "--seed=3", "--out", tmp_path / "a.png"]
    assert cli.run(draw.main, "draw", [str(word) for word in words]) == 0
    for cell in itertools.chain(*seen[0].rows):
        for y, x in itertools.product((slice(0, 16), slice(16, 32)), repeat=2):
            assert (cell.upper[y, x] == cell.upper[y, x][:1, :1]).all()
    assert {cell.head for cell in itertools.chain(*seen[0].rows)} == {f"λ {lam:g}" for lam in draw.LAMS}

    model = models.build(config.Model("resnet10t"), 10, 5).eval()  # whose weights are in the file
    batch = Batch(*batches()[0], FixedLambda(step_rng(3, 0, 0), 0.2))
    plan = mixers.build("puzzlemix", rows).decide(model, batch, CrossEntropy())
    own = [shares_of(row[0]) for row in seen[1].rows]
    np.testing.assert_allclose(own, plan.own[:2].numpy(), rtol=0, atol=0.502 / 255)


# ---- the page ----


def test_the_page_holds_every_cell_as_it_is(tmp_path, monkeypatch):
    """Each pixel as often as makes an image 96 wide, anywhere on the page."""
    seen, page = [], contact_sheet.page
    monkeypatch.setattr(contact_sheet, "page", lambda blocks, *rest: seen.extend(blocks) or page(blocks, *rest))
    assert run(tmp_path / "a.png", "--across=2", names=["cutmix", "vanilla", "mixup"]) == 0
    found = np.array(Image.open(tmp_path / "a.png"))
    assert (found[:4] == 255).all() and (found[:, :4] == 255).all(), "a white margin"
    for cell in itertools.chain(*[row for one in seen for row in one.rows]):
        for tile in (cell.upper, cell.pixels)[int((cell.upper == 255).all()) :]:  # a white mask is seen everywhere
            y, x = where(found, tile.repeat(3, 0).repeat(3, 1))
            frame = found[y - 1 : y + 97, x - 1 : x + 97]
            edges = np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]])
            colours = {tuple(colour) for colour in edges.tolist()}  # those of the batch have one of their own
            assert len(colours) == 1 and colours <= {picture.EDGE, *mixtures.COLOURS}


def where(page: np.ndarray, tile: np.ndarray) -> tuple[int, int]:
    """Where an image lies on a page."""
    line, (height, width, _) = np.ascontiguousarray(tile[0]).tobytes(), tile.shape
    for y, row in enumerate(page):
        at = row.tobytes().find(line)
        while at >= 0:
            x = at // 3
            if at % 3 == 0 and (page[y : y + height, x : x + width] == tile).all():
                return y, x
            at = row.tobytes().find(line, at + 1)
    raise AssertionError("it is not on the page")


def test_a_page_of_few_colours_is_smaller_and_looks_alike(tmp_path):
    assert run(tmp_path / "a.png") == 0 and run(tmp_path / "b.png", "--colours=64") == 0
    whole, few = (Image.open(tmp_path / name).convert("RGB") for name in ("a.png", "b.png"))
    assert len(few.getcolors()) <= 64 and (tmp_path / "b.png").stat().st_size < (tmp_path / "a.png").stat().st_size
    assert abs(np.array(whole, float) - np.array(few)).mean() < 4


# ---- what cannot be drawn ----


def test_a_method_that_cannot_be_drawn_leaves_its_cell_with_the_reason(tmp_path, capsys):
    assert run(tmp_path / "a.png", names=["cutmix", "puzzlemix", "attentivemix", "automix"]) == 0
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'a.png'}: cutmix\n"
    assert "puzzlemix: not drawn: puzzlemix asks a model: give --weights" in told.err
    assert "AttentiveMix: weights is not given" in told.err
    assert "automix: not drawn: automix asks a model" in told.err


@pytest.mark.parametrize(
    "line,words",
    [
        ("mixers.cutmx: no mixer 'cutmx'; did you mean 'cutmix'?", ["--mix", "cutmx"]),
        ("puzzlemix asks a model: give --weights RUN or FILE", ["--mix", "puzzlemix"]),
        ("snapmix asks a model: give --weights RUN or FILE", ["--mix", "snapmix"]),
        ("AttentiveMix: weights is not given", ["--mix", "attentivemix"]),
        ("it must be a number from", ["--mix", "mixup", "mixers.mixup.alpha=-1"]),
        (
            "gone.safetensors: no such checkpoint",
            ["--mix", "cutmix", "--model", "resnet18", "--weights", "gone.safetensors"],
        ),
        ("unknown model 'resnet19'", ["--mix", "cutmix", "--model", "resnet19", "--untrained"]),
        ("argument --n: '0' is not a whole number from 1 to", ["--mix", "cutmix", "--n", "0"]),
        ("argument --lam: '2' is not a number from 0 to 1", ["--mix", "cutmix", "--lam", "2"]),
        ("argument --across: '0' is not a whole number from 1 to", ["--mix", "cutmix", "--across", "0"]),
        ("larger than the data set of 60 images", ["--mix", "cutmix", "--n", "61"]),
        ("unknown key 'data.sizes'", ["--mix", "cutmix", "data.sizes=3"]),
        ("nothing.yaml: no such config file", ["--mix", "cutmix", "nothing.yaml"]),
        ("3 words are no settings", ["x", "y", "--mix", "cutmix"]),
        ("the following arguments are required: --mix", []),
        ("no folder", ["--mix", "cutmix", "--out", "no/folder/a.png"]),
        ("argument --size: '0' is not a whole number from 8 to 4,096", ["--mix", "cutmix", "--size", "0"]),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(line, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config_or_none = [word for word in words if word.endswith(".yaml")]
    words = [word for word in words if word not in config_or_none]
    assert cli.run(draw.main, "draw", [*config_or_none, SOURCE, *words]) == 2
    told = capsys.readouterr()
    errors = [text for text in told.err.splitlines() if not text.startswith("drawing ")]  # of a cold cache
    assert len(errors) == 1 and line in told.err
    assert not list(tmp_path.iterdir())


def test_missing_images_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(draw.main, "draw", ["gone.beton", "--mix", "cutmix"]) == 2
    assert "'gone.beton', which does not exist" in capsys.readouterr().err
