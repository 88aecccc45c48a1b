"""The recipes as numbers: learning rates, decay groups, batches, losses, averages, augmentations, crops, costs."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastmix import config, models
from fastmix.engine import loaders, optim
from fastmix.engine.augment import augmentation
from fastmix.engine.ema import Ema
from fastmix.engine.task import criterion, erasing_noise
from fastmix.kernels.randaugment import operations as O
from fastmix.runs import published, run_folder
from fastmix.runs.data_seen import PUBLISHED
from fastmix.targets import Targets
from helpers import ROOT

CONFIGS = ROOT / "configs"
COLUMNS = sorted(path.stem for path in CONFIGS.glob("*.yaml") if config.load(path).column.table)
COLUMN = ("column.table", "column.backbone", "column.setting")
SETS = {  # training images, classes
    "in1k": (1_281_167, 1000), "tiny": (100_000, 200), "cifar10": (50_000, 10), "cifar100": (50_000, 100),
    "cub200": (5_994, 200), "aircraft": (6_667, 100), "inat2017": (579_184, 5089), "inat2018": (437_513, 8142),
    "places205": (2_448_873, 205),
}  # fmt: skip


def column(name: str, *words: str) -> config.Config:
    return config.load(CONFIGS / f"{name}.yaml", words)


def rows(cfg: config.Config) -> int:
    return SETS[cfg.column.table.split("_")[0]][0]


def steps(cfg: config.Config) -> int:
    """Of an epoch."""
    return rows(cfg) // cfg.batch_total


def test_a_dry_run_knows_how_large_the_data_sets_are():
    assert {name: (data.train, data.classes) for name, data in PUBLISHED.items()} == SETS


# name, epoch (a fraction of it is that of its steps), learning rate worked out by hand from
# min + (lr - min) (1 + cos(pi p)) / 2, times 1 - (1 - t/T)(1 - factor) in the warm-up
RATES = [
    ("r50_100ep", 0, 0.1),
    ("r50_100ep", 99, 2.5e-5),
    ("r50_300ep", 299, 2.7e-6),
    ("rx101_100ep", 50, 0.05),
    ("tiny_r18_400ep", 0, 0.2),
    ("tiny_r18_400ep", 399, 3.0842e-6),
    ("cifar10_rx50_200ep", 100, 0.05),
    ("cifar100_r18_1200ep", 600, 0.05),
    ("cifar100_wrn28_8_400ep", 0, 0.03),
    ("cifar100_deit_s_600ep", 20, 9.97263e-4),  # 6 degrees
    ("cifar100_swin_t_200ep", 10, 0.5 * 4.96922e-4),  # half of the warm-up: 9 degrees
    ("cub200_r18_200ep", 100, 5e-4),
    ("inat2018_rx101_100ep", 50, 0.05),
    ("r50_rsb_a3", 0, 8e-8),
    ("r50_rsb_a3", 5, 7.9508e-3),  # 9 degrees
    ("r50_rsb_a2", 150, 2.5005e-3),
    ("deit_s", 0, 1e-8),
    ("deit_s", 2.5, 0.5 * 9.99830e-4),  # half of the warm-up: 1.5 degrees
    ("deit_s", 5, 9.99322e-4),  # 3 degrees
    ("deit_t", 150, 5.05e-4),
    ("deit_b", 299.9999, 1e-5),
    ("pvt_t", 0, 1e-9),
    ("swin_t", 20, 9.89183e-4),  # 12 degrees
    ("convnext_t", 10, 0.5 * 3.98905e-3),  # 6 degrees
    ("convnext_t", 20, 3.95631e-3),
    ("moganet_t", 300 / 2, 5.005e-4),
]


@pytest.mark.parametrize("name, epoch, expected", RATES)
def test_learning_rates(name, epoch, expected):
    cfg = column(name)
    step = math.floor(epoch * steps(cfg))
    got = optim.learning_rate(cfg.schedule, cfg.optim.lr, step, steps(cfg), cfg.epochs)
    assert got == pytest.approx(expected, rel=0.02 if epoch in (99, 299) else 1e-3)


def test_the_ramp_is_timms_scheduler():
    from timm.scheduler import CosineLRScheduler

    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.3)
    theirs = CosineLRScheduler(opt, 60, lr_min=0.01, warmup_t=12, warmup_lr_init=0.3 * 1e-3, t_in_epochs=False)
    ours = config.Schedule(per="step", min_lr=0.01, warmup="ramp", warmup_epochs=2, warmup_factor=1e-3)
    for step in range(60):
        theirs.step_update(step)
        got = optim.learning_rate(ours, 0.3, step, 6, 10)
        assert got == pytest.approx(opt.param_groups[0]["lr"], rel=1e-9), step


@pytest.fixture(scope="module")
def nets():
    """Models of the columns, without memory for their parameters."""
    built = {}

    def build(cfg: config.Config) -> nn.Module:
        classes = SETS[cfg.column.table.split("_")[0]][1]
        key = (cfg.model.name, classes)
        if key not in built:
            with torch.device("meta"):
                built[key] = models.build(cfg.model, classes, device="meta")
        return built[key]

    return build


def spared(cfg: config.Config, model: nn.Module) -> set[str]:
    """Names of the parameters that do not decay."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = optim.param_groups(cfg.optim, model)
    assert sorted(names[id(p)] for group in groups for p in group["params"]) == sorted(names.values()), "each once"
    return {names[id(p)] for group in groups for p in group["params"] if group.get("weight_decay") == 0}


NORMS = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
SPECIAL = ("cls_token", "pos_embed", "relative_position_bias_table", "gamma")  # gamma: layer scale


@pytest.mark.parametrize("name", COLUMNS)
def test_what_decays(nets, name):
    cfg = column(name)
    model = nets(cfg)
    expected = set()
    if cfg.optim.name != "sgd":
        for path, module in model.named_modules():
            for parameter, _ in module.named_parameters(path, recurse=False):
                leaf = parameter.split(".")[-1]
                if isinstance(module, NORMS) or leaf == "bias" or leaf in SPECIAL:
                    expected.add(parameter)
    assert spared(cfg, model) == expected
    strong = 0.02 if "rsb" in name else 0.04 if "moga" in name else 0.05
    weak = {"cub200": 5e-4, "aircraft": 5e-4, "cifar100_wrn28": 1e-3}
    weak = next((decay for start, decay in weak.items() if name.startswith(start)), 1e-4)
    assert column(name, "mix=vanilla" if "vanilla" in cfg.mixers else "mix=rsb").optim.weight_decay == (
        strong if expected else weak
    )


def test_methods_that_cut_decay_more_with_resnext_on_cifar100():
    cfg = column("cifar100_rx50_800ep")
    cutting = {mix for mix in cfg.mixers if column("cifar100_rx50_800ep", f"mix={mix}").optim.weight_decay == 5e-4}
    assert cutting == {"cutmix", "fmix", "resizemix", "saliencymix", "attentivemix"}


QUIRKS = {  # the benchmark's lists, in our names (docs/recipes.md), and what they leave to decay
    "r50_rsb_a3": ("['*bn?.weight', bias]", r"layer\d\.0\.downsample\.1\.weight"),
    "pvt_t": (
        "[bias, cls_token, pos_embed, '*attn.norm.weight', '*patch_embed.norm.weight', norm.weight]",
        r"stages\.\d\.blocks\.\d\.norm[12]\.weight",
    ),
    "moganet_t": ("[bias, gamma, '*norm*.weight', 'stages.[123].embed.1.weight']", r"stages\.0\.embed\.[14]\.weight"),
}


@pytest.mark.parametrize("name", QUIRKS)
def test_the_benchmarks_lists_decay_some_normalisations(nets, name):
    rules, names = QUIRKS[name]
    cfg = column(name, f"optim.no_decay={rules}")
    model = nets(cfg)
    missing = spared(column(name), model) - spared(cfg, model)
    expected = {n for n, p in model.named_parameters() if re.fullmatch(names, n) and p.ndim == 1}
    assert missing == expected and expected


@pytest.mark.parametrize("name", ["deit_t", "swin_t", "convnext_t", "r50_rsb_a3"])
def test_layer_decay_is_timms(nets, name):
    from timm.optim import param_groups_layer_decay

    cfg = column(name, "optim.layer_decay=0.65")
    model = nets(cfg)
    names = {id(p): n for n, p in model.named_parameters()}

    def table(groups: list[dict]) -> dict[str, tuple[float, bool]]:
        return {names[id(p)]: (g["lr_scale"], g.get("weight_decay") == 0) for g in groups for p in g["params"]}

    ours = table(optim.param_groups(cfg.optim, model))
    theirs = table(param_groups_layer_decay(model, 0.05, ["*" + s for s in SPECIAL], layer_decay=0.65))
    assert ours.keys() == theirs.keys()
    assert {n: v[1] for n, v in ours.items()} == {n: v[1] for n, v in theirs.items()}
    assert [ours[n][0] for n in ours] == pytest.approx([theirs[n][0] for n in ours], rel=1e-12)
    assert max(v[0] for v in ours.values()) == 1


def test_layer_decay_needs_a_model_that_knows_its_layers():
    with pytest.raises(ValueError, match="optim.layer_decay: Linear does not say"):
        optim.build(config.Optim(layer_decay=0.9), nn.Linear(2, 2))


def lamb(weights: list, gradients: list, decays: list[float], lr: float, betas, eps: float) -> list:
    """The weights after a step for each row of gradients, in float64, by the formulas alone."""
    w = [x.astype(np.float64) for x in weights]
    m, v = [np.zeros_like(x) for x in w], [np.zeros_like(x) for x in w]
    for t, g in enumerate(gradients, 1):
        norm = max(math.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in g)), 1.0)  # clipped to 1
        for k, decay in enumerate(decays):
            x = g[k].astype(np.float64) / norm
            m[k] = betas[0] * m[k] + (1 - betas[0]) * x
            v[k] = betas[1] * v[k] + (1 - betas[1]) * x * x
            update = m[k] / (1 - betas[0] ** t) / (np.sqrt(v[k] / (1 - betas[1] ** t)) + eps) + decay * w[k]
            trust = np.linalg.norm(w[k]) / np.linalg.norm(update) if decay else 1.0
            w[k] = w[k] - lr * trust * update
    return w


@pytest.mark.parametrize("size", [3.0, 0.01], ids=["clipped", "not clipped"])
def test_lamb_is_the_formula_in_float64(size):
    rng = np.random.default_rng(0)
    model = nn.Linear(7, 5)
    cfg = column("r50_rsb_a3").optim
    opt = optim.build(cfg, model)
    start = [p.detach().numpy().copy() for p in model.parameters()]
    gradients = [[(size * rng.normal(size=p.shape)).astype(np.float32) for p in start] for _ in range(6)]
    for row in gradients:
        for p, g in zip(model.parameters(), row, strict=True):
            p.grad = torch.from_numpy(g)
        opt.step()
    expected = lamb(start, gradients, [0.02, 0.0], 8e-3, (0.9, 0.999), 1e-6)
    for p, before, after in zip(model.parameters(), start, expected, strict=True):
        np.testing.assert_allclose(p.detach().numpy() - before, after - before, rtol=2e-4, atol=1e-7)


@pytest.mark.cuda
def test_apexs_lamb_is_timms():
    optimizers = pytest.importorskip("apex.optimizers")
    torch.manual_seed(0)
    results = []
    for fused in ("auto", "torch"):
        torch.manual_seed(1)
        model = nn.Linear(64, 32).cuda()
        cfg = column("r50_rsb_a3", f"optim.fused={fused}").optim
        opt = optim.build(cfg, model)
        assert isinstance(opt, optimizers.FusedLAMB) == (fused == "auto")
        for _ in range(5):
            for p in model.parameters():
                p.grad = torch.randn(p.shape, device="cuda")
            opt.step()
        results.append([p.detach().clone() for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("world", [1, 2, 4, 8])
@pytest.mark.parametrize("name", ["r50_300ep", "r50_rsb_a2", "r50_rsb_a3", "deit_b", "convnext_t"])
def test_batches_are_the_stated_ones_at_any_number_of_gpus(monkeypatch, name, world):
    cfg = column(name, "data.loader=synthetic", "data.train=n=1281167&classes=1000")
    monkeypatch.setattr(loaders, "world", lambda: world)
    loader = loaders.training(cfg, torch.device("cpu"))
    assert loader.batch * world == cfg.batch_total and loader.batch % cfg.accum == 0
    assert len(loader) == {256: 5004, 1024: 1251, 2048: 625, 4096: 312}[cfg.batch_total]


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr(loaders, "world", lambda: 3)
    with pytest.raises(ValueError, match="batch_total is 2048, which 3 processes with accum 2 cannot share equally"):
        loaders.training(column("r50_rsb_a2", "data.loader=synthetic"), torch.device("cpu"))


def test_binary_cross_entropy_of_a_worked_example():
    """One image, 3/4 of class 1 and 1/4 of class 2, whose classifiers say 1/2, 3/4 and 1/4."""
    logits = torch.tensor([[0.0, math.log(3), -math.log(3)]])
    targets = Targets(torch.tensor([[1, 2]]), torch.tensor([[0.75, 0.25]]))
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    benchmark = criterion(column("r50_rsb_a3"))(logits, targets)
    assert benchmark.item() == pytest.approx(math.log(2) + 2 * entropy, rel=1e-6)
    papers = criterion(column("r50_rsb_a3", "loss.threshold=0.2", "loss.reduction=mean"))(logits, targets)
    assert papers.item() == pytest.approx((math.log(2) - math.log(0.75) - math.log(0.25)) / 3, rel=1e-6)


@pytest.mark.parametrize("name, decay, ramp", [("convnext_t", 0.9999, 20 * 313), ("deit_b", 0.99996, 20 * 1252)])
def test_the_average_reaches_its_decay_after_twenty_epochs(name, decay, ramp):
    cfg = column(name).ema
    for step, share in [(0, 0.9), (ramp // 2, 0.95), (ramp, 1.0), (3 * ramp, 1.0)]:
        model = nn.Linear(1, 1).double()
        nn.init.zeros_(model.weight)
        ema = Ema(model, cfg.decay, cfg.ramp_steps)
        nn.init.ones_(model.weight)
        ema.update(model, step + 1)
        assert 1 - ema.module.weight.item() == pytest.approx(decay * share, rel=1e-9)


AUGMENTED = {"r50_rsb_a3": 6, "mbv2_rsb_a2": 7, "deit_t": 9, "deit_s": 9, "moganet_t": 7}


@pytest.mark.parametrize("name, magnitude", AUGMENTED.items())
def test_randaugment_has_the_recipes_strength(name, magnitude):
    cfg = column(name)
    augment = augmentation(cfg)
    table = augment.draw(np.random.default_rng(0), 20_000, (224, 224)).numpy()
    assert len(table) == 2 and augment.interpolation == "bicubic"
    assert np.mean(table[..., 0] == O.COPY) == pytest.approx(0.5, abs=0.01)
    bright = table[table[..., 0] == O.BRIGHTNESS].view(np.float32)[:, 1]
    strength = np.abs(bright - 1) / 0.09
    assert np.median(strength) == pytest.approx(magnitude, abs=0.1)
    assert np.mean(bright > 1) == pytest.approx(0.5, abs=0.05)
    assert strength[strength < 9.9].std() == pytest.approx(0.5, abs=0.06) and strength.max() <= 10.001
    bits = np.array([bin(v).count("1") for v in table[table[..., 0] == O.POSTERIZE][:, 1]])
    assert np.median(bits) == math.ceil(4 - 0.4 * magnitude)
    assert np.mean(bits == 0) == pytest.approx(0.0228 if magnitude == 9 else 0, abs=0.012)  # magnitudes above 10
    assert augment.fill == ((124, 116, 104) if name == "deit_s" else (104, 116, 124))


def test_the_benchmarks_posterize_blackens_one_image_in_fifteen():
    augment = augmentation(column("deit_t", "augment.variant=mmcls"))
    table = augment.draw(np.random.default_rng(0), 20_000, (224, 224)).numpy()
    black = ((table[..., 0] == O.POSTERIZE) & (table[..., 1] == 0)).any(0)
    assert black.mean() == pytest.approx(1 - (1 - 0.5 / 15) ** 2, rel=0.05)


@pytest.mark.parametrize("name, std", [("deit_t", (58, 57, 58)), ("moganet_t", (58, 57, 57)), ("deit_s", None)])
def test_erased_rectangles_show_the_recipes_noise(name, std):
    """In pixel units: the benchmark's Gaussian, or N(0,1) after normalising."""
    cfg = column(name)
    fill = erasing_noise(cfg).double()
    mean = (104, 116, 124) if std else [255 * v for v in cfg.data.mean]
    deviation = std or [255 * v for v in cfg.data.std]
    assert cfg.erase.prob == 0.25
    assert fill.median(1).values.tolist() == pytest.approx(list(mean), abs=1)
    inner = fill.quantile(torch.tensor([0.1587, 0.8413], dtype=torch.float64), 1)  # one deviation to each side
    assert ((inner[1] - inner[0]) / 2).tolist() == pytest.approx(list(deviation), rel=0.03)


@pytest.mark.parametrize(
    "name, size, resize",
    [("r50_100ep", 224, 256), ("r50_rsb_a3", 224, 236), ("moganet_t", 224, 248), ("tiny_r18_400ep", 64, None)],
)
def test_crops_at_the_test(name, size, resize):
    """The centre square; its share of the short side is that of the crop ratio."""
    cfg = column(name, "data.loader=synthetic", "data.val=n=10", "data.train=n=10000")
    view = loaders.validation(cfg, torch.device("cpu")).view
    assert (view.size, view.resize, view.interpolation, view.flip) == (size, resize, "bicubic", 0.0)
    height, width = (375, 500) if resize else (64, 64)
    windows, mirrored = view.windows(np.array([height]), np.array([width]), 0, 0, np.array([0]))
    side = 375 * size / resize if resize else 64
    y, x, h, w = windows[0]
    assert (h, w) == pytest.approx((side, side), abs=1.5) and not mirrored.any()
    assert (y + h / 2, x + w / 2) == pytest.approx((height / 2, width / 2), abs=1.5)
    assert loaders.training(cfg, torch.device("cpu")).view.size == (160 if "a3" in name else size)


def test_cifar100_alone_is_padded_by_reflection():
    """The benchmark's files of 32 pixels have padding=4, those of CIFAR-100 padding_mode="reflect" too."""
    for name in (name for name in COLUMNS if column(name).data.size == 32):
        view = loaders.training(column(name, "data.loader=synthetic", "data.train="), torch.device("cpu")).view
        assert (view.crop, view.pad, view.reflects) == ("pad", 4, "cifar100_" in name), name


@pytest.mark.long
@pytest.mark.parametrize("name", COLUMNS)
def test_a_columns_file_is_short_and_its_comments_are_right(nets, name):
    text = (CONFIGS / f"{name}.yaml").read_text()
    cfg, lines = column(name), text.splitlines()
    assert len(lines) <= 40 and lines[0] == f"# python -m fastmix.train configs/{name}.yaml mix={cfg.mix}"
    given = re.search(r"(\d+) epochs of ([\d,]+) steps: (\S+) images, (\S+) multiply-adds, counted", text)
    epochs, per_epoch, images, multiplications = (float(v.replace(",", "")) for v in given.groups())
    assert (epochs, per_epoch) == (cfg.epochs, steps(cfg))
    shown = epochs * per_epoch * cfg.batch_total
    assert images == pytest.approx(shown, rel=0.05)

    with FlopCounterMode(display=False) as counter:
        nets(cfg)(torch.empty(1, 3, cfg.data.size, cfg.data.size, device="meta"))
    assert multiplications == pytest.approx(3 * shown * counter.get_total_flops() / 2, rel=0.08)
    here = cfg.column.table, cfg.column.backbone, cfg.column.setting
    cells = {c.method: c.top1 for c in published.cells() if (c.table, c.backbone, c.setting) == here}
    first, low, best, method = re.search(r"Published: (\w+) ([\d.]+), best ([\d.]+) \((\w+)\)", text).groups()
    assert cells[published.METHODS[first]] == float(low)
    assert cells[published.METHODS[method]] == float(best) == max(v for v in cells.values() if v is not None)


def test_the_quarter_is_its_columns_recipe_with_less_work():
    """Of each method; runs.departures compares the row of the method too."""
    shown = {}
    for name, images in (("cifar10_r18_200ep", SETS["cifar10"][0]), ("cifar10_quarter", 10 * 500)):
        cfg = column(name)
        with FlopCounterMode(display=False) as counter, torch.device("meta"):
            models.build(cfg.model, 10, device="meta")(torch.empty(1, 3, cfg.data.size, cfg.data.size))
        shown[name] = cfg.epochs * images, counter.get_total_flops()
    (images, cost), (fewer, less) = shown.values()
    assert images == 80 * fewer and cost == pytest.approx(16 * less, rel=0.02)
    changed = {"epochs", "val_every", "data.loader", "data.train", "model.name"}
    own = {
        "attentivemix": {"mixers.attentivemix.teacher", "mixers.attentivemix.size"},
        "automix": {"mixers.automix.momentum"},
        "samix": {"mixers.samix.momentum"},
    }
    for mix in set(column("cifar10_r18_200ep").mixers) - {
        "alignmix"
    }:  # which it trains without the mixup of half of the steps
        pair = [column(name, f"mix={mix}") for name in shown]
        assert set(run_folder.departures(*pair, COLUMN)) == changed | own.get(mix, set()), mix


def test_a_row_changes_the_recipe_under_the_words():
    row = ["mix=transmix"]
    assert config.differences(column("deit_s"), column("deit_s", *row), ("mix",)) == [
        "column.gpu_batch", "ema.decay", "ema.ramp_steps", "schedule.min_lr",
    ]  # fmt: skip
    cfg = column("deit_s", *row, "schedule.min_lr=2e-4")
    assert (cfg.schedule.min_lr, cfg.ema.decay, cfg.ema.ramp_steps) == (2e-4, 0.99996, 20 * 1252)
    assert column("tiny_r18_400ep", "mix=samix").schedule.min_lr == 0.05


@pytest.mark.parametrize("name", ["deit_t", "deit_s", "deit_b"])
def test_tokenmix_trains_as_its_authors(name):
    """Their script: timm's erasing and fill, drop path 0.1, no bound of the gradient, an average without a ramp."""
    cfg = column(name, "mix=tokenmix")
    assert cfg.optim.clip is None and cfg.model.args["drop_path_rate"] == 0.1
    assert (cfg.ema.decay, cfg.ema.ramp_steps) == (0.99996, 0)
    assert (cfg.erase.mode, cfg.augment.fill, cfg.augment.variant) == ("pixel", None, "timm")
    model = nn.Linear(1, 1)
    ema = Ema(model, cfg.ema.decay, cfg.ema.ramp_steps)
    nn.init.constant_(model.weight, 5.0)
    before = ema.module.weight.item()
    ema.update(model, 1)
    assert ema.module.weight.item() - before == pytest.approx(4e-5 * (5 - before), rel=0.02), (
        "of the whole decay at once"
    )


@pytest.mark.parametrize("name", ["swin_t", "convnext_t"])
def test_learned_masks_warm_up_from_their_own_rate(name):
    for mix, factor in (("deit", 1e-6), ("automix", 1e-5), ("samix", 1e-5)):
        cfg = column(name, f"mix={mix}")
        first = optim.learning_rate(cfg.schedule, cfg.optim.lr, 0, steps(cfg), cfg.epochs)
        assert first == pytest.approx(cfg.optim.lr * factor, rel=1e-3)


@pytest.mark.parametrize(
    "document, said",
    [
        ("configs/base/cifar10.yaml", "Of automix and samix ours"),
        ("docs/recipes.md", "DeiT-S, and AutoMix on DeiT-S, PVT, Swin and ConvNeXt, are fp32"),
        ("docs/recipes.md", "With PVT and Swin it normalises the features once more before the mix block"),
        ("docs/mixers.md", "of `saliencymix` nearly: a fitted law"),
    ],
)
def test_departures_that_stay_are_said(document, said):
    assert said in (ROOT / document).read_text()
