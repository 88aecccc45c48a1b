"""The draw command: every tile of the picture against the mix pass, every mask against the plan's labels."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from fastmix import Batch, cli, config, draw, mix, mixers, models
from fastmix.engine import contact_sheet, loaders
from fastmix.engine.method import step_rng
from fastmix.kernels.mix.cases import PLANS
from fastmix.kernels.plan import Plan
from fastmix.targets import CrossEntropy, Targets
from helpers.mixing import NO_NORM

SIZE, N, SCALE = 32, 5, 3  # 3 x 32 pixels is the least that is drawn
SOURCE = f"shapes:train?n=60&size={SIZE}"
AREAS = ("mixup", "cutmix", "smoothmix", "gridmix_cells", "fmix", "resizemix", "saliencymix", "puzzlemix")
OPTIONS = {
    "fmix": {"bank": 4},
    "mixup": {"granularity": "sample"},
    "guidedmixup": {"mix_prob": 1},
}
SETTINGS = [f"mixers.{name}.{key}={value}" for name, options in OPTIONS.items() for key, value in options.items()]
NAMES = ("vanilla", *AREAS, "snapmix", "guidedmixup")


def run(tmp_path, *words, names=NAMES, untrained=True) -> int:
    size = [f"--size={SIZE}", f"--n={N}", "data.val_resize=null", "--seed=3", f"--out={tmp_path / 'a.png'}"]
    asked = ["--model", "resnet18", "--untrained"] if untrained else []
    return cli.run(draw.main, "draw", [SOURCE, "--mix", *names, *SETTINGS, *size, *asked, *map(str, words)])


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """What the loader gives: images uint8 [N,32,32,3] and labels."""
    tree = {"data": {"train": SOURCE, "size": SIZE, "crop": "centre", "val_resize": None, "flip": 0, "decode": "exact"}}
    cfg = config.from_tree(tree | {"batch_total": N, "seed": 3}, "test")
    found, labels, _ = next(iter(batches := loaders.training(cfg, torch.device("cpu")).epoch(0)))
    batches.close()
    return found, labels


def tiles(picture: np.ndarray, top: int, rows: int, left: int = 0) -> np.ndarray:
    """The images of a block, uint8 [rows,N,32,32,3]; each pixel must be drawn SCALE x SCALE times."""
    out = np.empty((rows, N, SIZE, SIZE, 3), np.uint8)
    step = SIZE * SCALE + contact_sheet.GAP
    for row, column in np.ndindex(rows, N):
        y, x = top + contact_sheet.LINE + row * step, left + contact_sheet.LEFT + column * step
        tile = picture[y : y + SIZE * SCALE, x : x + SIZE * SCALE]
        out[row, column] = tile[::SCALE, ::SCALE]
        assert (tile == out[row, column].repeat(SCALE, 0).repeat(SCALE, 1)).all()
    return out


def decided(name: str) -> tuple[Batch, object]:
    """The batch and the plan of a method, as training makes them."""
    found, labels = images()
    batch = Batch(found, labels, step_rng(3, 0, 0))
    model = models.build(config.Model("resnet18"), 10, 3).eval()
    return batch, mixers.build(name, {name: OPTIONS.get(name)}).decide(model, batch, CrossEntropy())


def test_every_tile_is_what_training_shows(tmp_path, capsys):
    assert run(tmp_path) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.png'}: {', '.join(NAMES)}\n"
    picture = np.array(Image.open(tmp_path / "a.png"))
    height = picture.shape[0] // len(NAMES)  # four rows and two labels in each block
    assert picture.shape[:2] == (len(NAMES) * height, contact_sheet.LEFT + N * (SIZE * SCALE + contact_sheet.GAP))
    for k, name in enumerate(NAMES):
        batch, plan = decided(name)
        image, partner, mask, mixed = tiles(picture, k * height, 4)
        assert (image == batch.images.numpy()).all()
        others = np.arange(N) if plan is None else plan.partner.numpy()
        assert (partner == batch.images.numpy()[others]).all()
        wanted = mix(batch.images, plan, **NO_NORM).permute(0, 2, 3, 1).double().numpy() * 255
        assert abs(mixed - wanted).max() <= 0.501, name  # rounded; normalised and back in fp32
        assert (mask == mask[..., :1]).all()
        own = np.ones(N) if plan is None else plan.own.numpy()
        if name in ("vanilla", "guidedmixup", *AREAS):
            np.testing.assert_allclose(mask.mean((1, 2, 3)) / 255, own, rtol=0, atol=0.502 / 255)
        else:  # the label weights are no areas
            y0, y1, x0, x1 = plan.table[:, 4:8].numpy().T
            np.testing.assert_allclose((mask == 0).mean((1, 2, 3)), (y1 - y0) * (x1 - x0) / SIZE**2)


class Joint(mixers.Mixer):
    """Sample i shows blocks of the images i, i + 1, ... up to i + 4, fewer the larger i is."""

    def plan(self, batch):
        n, cells, size = len(batch), 16, batch.size
        number, cell = np.arange(n)[:, None], np.arange(cells)
        first, second = ((number + cell * step % (n - number)) % n for step in (1, 3))
        weight = batch.rng.integers(0, 3, (n, cells)) / 2
        plan = Plan.block((number[:, 0] + 1) % n, first * cells + cell, second * cells + cell, weight, (4, 4), size)
        shares = np.zeros((n, n))
        for part, image in ((weight, first), (1 - weight, second)):
            np.add.at(shares, (np.broadcast_to(number, image.shape), image), part / cells)
        sources = torch.from_numpy((number + np.arange(n)) % n).int()
        return replace(plan, sources=sources, weights=torch.from_numpy(shares).gather(1, sources.long()).float())


@pytest.fixture
def joint(monkeypatch):
    monkeypatch.setitem(mixers.MIXERS, "joint", Joint)


def test_comixup_is_drawn_with_the_labels_that_it_trains(tmp_path):
    assert run(tmp_path, names=["comixup"]) == 0
    batch, plan = decided("comixup")
    shares = contact_sheet.provenance(plan, (SIZE, SIZE)).mean((2, 3))
    by_label = torch.zeros(N, N).scatter_add_(1, plan.sources.long(), plan.weights)
    torch.testing.assert_close(shares, by_label, rtol=0, atol=1e-6)
    mixed = tiles(np.array(Image.open(tmp_path / "a.png")), 0, 3 + len(contact_sheet.others_of(plan)[0]))[-1]
    wanted = mix(batch.images, plan, **NO_NORM).permute(0, 2, 3, 1).double().numpy() * 255
    assert abs(mixed - wanted).max() <= 0.501


def test_sources_of_a_joint_mixture_have_their_rows_and_colours(tmp_path, joint):
    assert run(tmp_path, names=["joint"]) == 0
    picture = np.array(Image.open(tmp_path / "a.png"))
    batch, plan = decided("joint")
    shares = contact_sheet.provenance(plan, (SIZE, SIZE)).mean((2, 3))
    by_label = torch.zeros(N, N).scatter_add_(1, plan.sources.long(), plan.weights)
    torch.testing.assert_close(shares, by_label, rtol=0, atol=1e-6)

    others = [[k for k in plan.sources[i].tolist() if k != i and by_label[i, k] > 0] for i in range(N)]
    most = max(map(len, others))
    assert most > 2
    found = tiles(picture, 0, most + 3)
    assert (found[0] == batch.images.numpy()).all()
    whole = contact_sheet.provenance(plan, (SIZE, SIZE)).numpy()
    for i in range(N):
        colours = {i: contact_sheet.WHITE, **dict(zip(others[i], contact_sheet.COLOURS, strict=False))}
        for row in range(most):
            wanted = batch.images[others[i][row]].numpy() if row < len(others[i]) else 0
            assert (found[1 + row, i] == wanted).all()
        wanted = sum(whole[i, k][..., None] * np.array(colour) for k, colour in colours.items())
        assert abs(found[most + 1, i] - wanted).max() <= 0.5
        lines = contact_sheet.caption(i, Targets.of(batch.labels, plan), plan, others[i], list("abcdefghij"))
        told = {k: float(by_label[i, k]) for k in colours if by_label[i, k] > 0}
        letters = [f"{share:.2f} {'abcdefghij'[batch.labels[k]]}" for k, share in told.items()]
        assert sorted(lines) == sorted(zip(letters, (colours[k] for k in told), strict=True))


@pytest.mark.parametrize("name", ["blocks", "stretched", "map", "all kinds"])
def test_the_provenance_mixes_constant_images_as_the_pass_does(name):
    n, size = 11, (12, 16)
    plan = PLANS[name](np.random.default_rng(0), n, size)
    share = contact_sheet.provenance(plan, size)
    torch.testing.assert_close(share.sum(1), torch.ones(n, *size), rtol=0, atol=1e-6)
    values = 5 + 20 * torch.arange(n)
    flat = values.byte()[:, None, None, None].expand(n, *size, 3)
    mixed = mix(flat, plan, **NO_NORM)[:, 0] * 255
    torch.testing.assert_close(torch.einsum("ikhw,k->ihw", share, values.float()), mixed, rtol=0, atol=1e-3)


def test_a_label_of_two_is_told_with_its_weight():
    batch, plan = decided("cutmix")
    plan = plan.labelled(torch.linspace(0, 1, N), 0.25)
    for i in range(N):
        lines = contact_sheet.caption(i, Targets.of(batch.labels, plan), plan, [0], [f"class{k}" for k in range(10)])
        other = batch.labels[plan.partner[i]]
        wanted = f"own {i / (N - 1):.2f} class{batch.labels[i]}", f"other 0.25 class{other}"
        assert [text for text, _ in lines] == [*wanted]


def test_blocks_stand_side_by_side_and_small_ones_end_early(tmp_path, joint):
    assert run(tmp_path, names=["cutmix", "joint", "mixup"]) == 0
    alone = np.array(Image.open(tmp_path / "a.png"))
    assert run(tmp_path, "--across=2", names=["cutmix", "joint", "mixup"]) == 0
    both = np.array(Image.open(tmp_path / "a.png"))
    width = alone.shape[1]
    cutmix = 4 * contact_sheet.LINE + 4 * (SIZE * SCALE + contact_sheet.GAP)  # a title, two labels, a line of space
    tall = len(alone) - 2 * cutmix
    assert tall > cutmix and both.shape == (tall + cutmix, 2 * width, 3)
    assert (both[:cutmix, :width] == alone[:cutmix]).all() and not both[cutmix:tall, :width].any()
    assert (both[:tall, width:] == alone[cutmix : cutmix + tall]).all()
    assert (both[tall:, :width] == alone[-cutmix:]).all() and not both[tall:, width:].any()


def test_weights_and_hyper_parameters_are_those_given(tmp_path):
    model = models.build(config.Model("resnet18"), 10, 7)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "m.safetensors")
    rows = {"four": {"mixer": "gridmix_cells", "cells": 2}, "puzzlemix": {"blocks": 8, "eta": 0}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"model": {"name": "resnet18"}, "mixers": rows}))
    given = [tmp_path / "c.yaml", "--weights", tmp_path / "m.safetensors"]
    size = [f"--size={SIZE}", f"--n={N}", "data.val_resize=null", "--seed=3", "--out", tmp_path / "a.png"]
    words = [given[0], SOURCE, "--mix", "four", "puzzlemix", *given[1:], *size]
    assert cli.run(draw.main, "draw", [str(word) for word in words]) == 0
    picture = np.array(Image.open(tmp_path / "a.png"))
    mask = tiles(picture, 0, 4)[2]
    for y, x in itertools.product((slice(0, 16), slice(16, 32)), repeat=2):
        assert (mask[:, y, x] == mask[:, y, x][:, :1, :1]).all()
    assert {*np.unique(mask)} <= {0, 255}

    found, labels = images()
    batch = Batch(found, labels, step_rng(3, 0, 0))
    plan = mixers.build("puzzlemix", rows).decide(model.eval(), batch, CrossEntropy())
    own = tiles(picture, len(picture) // 2, 4)[2].mean((1, 2, 3)) / 255
    np.testing.assert_allclose(own, plan.own.numpy(), rtol=0, atol=0.502 / 255)
    batch.rng = step_rng(3, 0, 0)
    untrained = models.build(config.Model("resnet18"), 10, 3).eval()
    plan = mixers.build("puzzlemix", rows).decide(untrained, batch, CrossEntropy())
    assert abs(own - plan.own.numpy()).max() > 0.01, "other weights, another mask"


@pytest.mark.parametrize(
    "line,words",
    [
        ("mixers.cutmx: no mixer 'cutmx'; did you mean 'cutmix'?", ["--mix", "cutmx"]),
        ("puzzlemix asks the model: give --weights FILE with weights of resnet50", ["--mix", "cutmix", "puzzlemix"]),
        ("snapmix asks the model: give --weights FILE", ["--mix", "snapmix"]),
        ("grafting asks the model: give --weights FILE", ["--mix", "grafting"]),
        ("AttentiveMix: weights is not given", ["--mix", "attentivemix"]),
        ("choice.of: expected rows", ["--mix", "choice"]),
        ("gone.safetensors: no such checkpoint", ["--mix", "cutmix", "--weights", "gone.safetensors"]),
        ("not allowed with argument", ["--mix", "cutmix", "--untrained", "--weights", "a"]),
        ("unknown model 'resnet19'", ["--mix", "cutmix", "--model", "resnet19", "--untrained"]),
        ("argument --n: '0' is not a whole number from 1 to", ["--mix", "cutmix", "--n", "0"]),
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
    assert len(errors) == 1 and any(part in told.err for part in line.split("|"))
    assert not list(tmp_path.iterdir())


def test_missing_images_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(draw.main, "draw", ["gone.beton", "--mix", "cutmix"]) == 2
    assert "'gone.beton', which does not exist" in capsys.readouterr().err


def test_a_method_inside_the_network_is_refused(tmp_path, monkeypatch, capsys):
    class Inside(mixers.Mixer):
        def forward(self, model, batch, criterion):
            return criterion(model(batch.mix()), Targets.of(batch.labels))

    monkeypatch.setitem(mixers.MIXERS, "inside", Inside)
    for name in ("inside", "recursivemix"):
        assert run(tmp_path, names=[name]) == 2
        assert f"{name} has no plan that could be drawn" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
