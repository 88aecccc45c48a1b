"""Every cell of the published tables: its column's config, its row, its model, a step of each method that exists."""

import json
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fastmix import config, mixers, models
from fastmix.engine import optim
from fastmix.engine.method import step_rng
from fastmix.engine.task import Task
from fastmix.runs import published
from helpers import ROOT

CONFIGS = ROOT / "configs"
BATCH = 2
SMALLER = ("CutMix", "FMix", "ResizeMix", "SaliencyMix")  # whose alpha is 0.2 on ResNet-18, the tables' footnote
SECOND = {"AlignMix": "alignmix", "TransMix": "transmix", "TokenMix": "tokenmix"}  # of a choice whose first is mixup
TOKENLESS = ("swin_t", "convnext_t", "moganet_t", "cifar100_swin_t_200ep", "cifar100_swin_t_600ep")
REFUSED = {("transmix", name) for name in TOKENLESS}  # they have no class token
FIXED_SIZE = ("deit", "swin", "pvt", "moganet")  # models that are told the size of an image

FILES = {}
for path in sorted(CONFIGS.glob("*.yaml")):
    cfg = config.load(path)
    if cfg.column.table:
        FILES[(cfg.column.table, cfg.column.backbone, cfg.column.setting)] = path

CELLS = defaultdict(list)
for cell in published.cells():
    CELLS[(cell.table, cell.backbone, cell.setting)].append(cell)
ROWS = {method: mix for mix, method in published.METHODS.items()}


def test_each_column_has_one_file_and_each_file_a_column():
    named = [path for path in sorted(CONFIGS.glob("*.yaml")) if config.load(path).column.table]
    assert len(named) == len(FILES), "two files stand for the same column"
    assert set(CELLS) == set(FILES)


@pytest.mark.parametrize("key", CELLS, ids=lambda key: FILES[key].stem)
def test_a_columns_rows_are_the_tables_with_its_alphas(key):
    cfg = config.load(FILES[key])
    assert sorted(cfg.mixers) == sorted(ROWS[cell.method] for cell in CELLS[key])
    for cell in CELLS[key]:
        row = cfg.mixers.get(ROWS[cell.method])
        if row is None or not cell.alpha:
            continue
        if "of" in row:
            first, second = row["of"].values()
            assert list(row["of"]) == ["mixup", SECOND.get(cell.method, "cutmix")]
            assert first["prob"] + second["prob"] == 1
            assert first["prob"] == (0.2 if cell.method == "TransMix" else 0.5)
            alphas = [first["alpha"], second.get("alpha", 1.0)]  # TokenMix's is printed and not used
        elif ROWS[cell.method] == "smoothmix":
            continue  # has no alpha
        else:
            alphas = [row["alpha"]]
        expected = [float(a) for a in cell.alpha.split(",")]
        if cell.backbone == "ResNet-18" and "pytorch" in key[0] and cell.method in SMALLER:
            expected = [0.2]
        if cell.method == "AlignMix":
            expected = 2 * expected  # of mixup too
        if cell.backbone == "DeiT-T" and cell.method == "TransMix":
            expected = [0.1, 1.0]  # of the config that was trained
        if cell.backbone == "MogaNet-T" and cell.method == "DeiT":
            expected = [0.1, 1.0]  # of the config that was trained
        assert alphas == expected, cell


@pytest.mark.parametrize("path", FILES.values(), ids=lambda path: path.stem)
def test_every_row_resolves(path):
    for row in config.load(path).mixers:
        assert config.load(path, [f"mix={row}"]).mix == row


@pytest.mark.parametrize("table", published.tables())
def test_every_cell_of_a_table_has_a_row(table):
    rows = sum(len(config.load(path).mixers) for key, path in FILES.items() if key[0] == table)
    assert rows == len(published.table(table))


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """A function from a teacher's name to a file with weights for it."""
    folder = tmp_path_factory.mktemp("teachers")

    @cache
    def weights(name: str) -> str:
        torch.save(models.build(config.Model(name), 1000).state_dict(), folder / name)
        return str(folder / name)

    return weights


def steps() -> dict[Path, list[str]]:
    """Of each file, the rows that none before it has with the same backbone, options and loss; at least one a file.

    An alpha is no other option: it changes what is drawn, not what is done.
    """
    seen, found = set(), {}
    for path in FILES.values():
        cfg = config.load(path)
        options = {name: {key: v for key, v in row.items() if key != "alpha"} for name, row in cfg.mixers.items()}
        rows = {name: json.dumps([cfg.model.name, cfg.loss.kind, name, row]) for name, row in options.items()}
        found[path] = [name for name, key in rows.items() if key not in seen] or [cfg.mix]
        seen.update(rows.values())
    return found


STEPS = steps()


QUICK = ("cifar10_r18_200ep", "mbv2_rsb_a3", "deit_t", "cub200_r18_200ep")


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=[pytest.mark.long] * (p.stem not in QUICK)) for p in STEPS]
)
def test_a_step_of_every_method_is_finite(path, teachers):
    """The column's own model, loss and augmentation, on small images, every method with a finite gradient.

    Its optimiser moves the model for one of them, and for those with parameters of their own.
    """
    cfg = config.load(path)
    size = 16 if cfg.data.size <= 64 else 32  # maps of 2 px or 1 px at the end, of WRN 4
    words = [f"model.args.img_size={size}"] if cfg.model.name.startswith(FIXED_SIZE) else []
    shallow = {"deit_base_patch16_224": 6, "wrn28_8_cifar": 10}.get(cfg.model.name)  # the blocks are alike
    words += [f"model.args.depth={shallow}"] if shallow else []
    cfg = config.load(path, ["precision=fp32", f"data.size={size}", *words])
    model = models.build(cfg.model, 1000 if cfg.data.val_resize else 200).train()
    rng = np.random.default_rng(0)
    moved = False
    for step, name in enumerate(STEPS[path]):
        row = cfg.mixers[name]
        for child in (row, *row.get("of", {}).values()):
            if "teacher" in child or child is row.get("of", {}).get("tokenmix"):
                child["weights"] = teachers(child.get("teacher", "resnet50"))
        if (name, path.stem) in REFUSED:
            with pytest.raises(ValueError, match="class token"):
                Task(model, mixers.build(name, cfg.mixers), cfg)
            continue
        task = Task(model, mixers.build(name, cfg.mixers), cfg)
        images = torch.from_numpy(rng.integers(0, 256, (BATCH, size, size, 3), np.uint8))
        torch.manual_seed(step)  # drop path could leave out the first block of both images
        loss = task(images, torch.arange(BATCH), step_rng(0, step, 0))
        loss.backward()
        norm = nn.utils.get_total_norm(p.grad for p in model.parameters() if p.grad is not None)
        assert loss.isfinite() and norm.isfinite() and norm > 0, name
        if not moved or task.mixer.param_groups():
            before = next(model.parameters()).detach().clone()
            optim.build(cfg.optim, model, task.mixer.param_groups()).step()
            assert not torch.equal(before, next(model.parameters())), name
            moved = True
        task.zero_grad(set_to_none=True)
    assert moved and all(p.isfinite().all() for p in task.parameters())
