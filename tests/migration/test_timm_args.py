"""timm's saved arguments: rates, decayed parameters, operations and methods as timm itself makes them of the same."""

import math
from argparse import Namespace
from collections import Counter

import numpy as np
import pytest
import torch
import yaml

from fastmix import config
from fastmix.engine import optim
from fastmix.migration.timm_args import migrated
from fastmix.mixers import build
from fastmix.models import load_timm

load_timm()
from timm.data import Mixup  # noqa: E402
from timm.data.auto_augment import rand_augment_transform  # noqa: E402
from timm.optim import create_optimizer_v2  # noqa: E402
from timm.scheduler import create_scheduler_v2  # noqa: E402
from timm.scheduler.scheduler_factory import scheduler_kwargs  # noqa: E402

ARGS = {"model": "resnet18", "opt": "sgd", "sched": "cosine", "epochs": 10, "batch_size": 8, "lr": 0.4, "momentum": 0.9,
        "weight_decay": 1e-4, "warmup_epochs": 2, "warmup_lr": 1e-3, "min_lr": 1e-4, "smoothing": 0.1, "mixup": 0.0,
        "cutmix": 0.0, "aa": None, "reprob": 0.0, "amp": False, "channels_last": True, "train_interpolation": "bicubic",
        "sched_on_updates": True, "grad_accum_steps": 1, "seed": 42}  # fmt: skip


@pytest.fixture
def made(tmp_path):
    """The config of ARGS with changes, and the notes."""

    def make(gpus=1, **changes):
        path = tmp_path / "args.yaml"
        path.write_text(yaml.safe_dump(ARGS | changes))
        return migrated(path, gpus)

    return make


def test_the_learning_rate_is_that_of_timms_scheduler(made):
    cfg, notes = made(opt="adamw", lr=2e-3)
    assert notes == []
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim.lr)
    args = Namespace(**ARGS)
    theirs, _ = create_scheduler_v2(opt, **scheduler_kwargs(args), updates_per_epoch=7)
    for step in range(70):
        theirs.step_update(step)
        ours = optim.learning_rate(cfg.schedule, cfg.optim.lr, step, 7, cfg.epochs)
        assert math.isclose(ours, opt.param_groups[0]["lr"], rel_tol=1e-9), step


def test_by_epoch_the_rate_is_timms_after_the_warm_up(made):
    cfg, notes = made(sched_on_updates=False)
    assert notes == ["warmup_epochs=2: the rate climbs with every step here, there with every epoch"]
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim.lr)
    theirs, _ = create_scheduler_v2(opt, **scheduler_kwargs(Namespace(**ARGS | {"sched_on_updates": False})))
    for epoch in range(10):
        theirs.step(epoch)
        if epoch >= 2:
            ours = optim.learning_rate(cfg.schedule, cfg.optim.lr, 7 * epoch + 3, 7, cfg.epochs)
            assert math.isclose(ours, opt.param_groups[0]["lr"], rel_tol=1e-9), epoch


@pytest.mark.parametrize("opt, batch, base, rate", [("sgd", 64, 0.1, 0.1), ("lamb", 64, 5e-3, 5e-3)])
def test_without_a_rate_it_follows_the_batch(made, opt, batch, base, rate):
    cfg, _ = made(4, opt=opt, lr=None, lr_base=base, lr_base_size=256, batch_size=batch)
    assert cfg.batch_total == 256 and math.isclose(cfg.optim.lr, rate)
    cfg, _ = made(4, opt=opt, lr=None, lr_base=base, lr_base_size=256, batch_size=batch, grad_accum_steps=4)
    assert (cfg.batch_total, cfg.accum) == (1024, 4)
    assert math.isclose(cfg.optim.lr, rate * (2 if opt == "lamb" else 4))


NETWORKS = [("resnet18", "sgd"), ("resnet18", "lamb"), ("deit_tiny_patch16_224", "adamw"),
            ("swin_tiny_patch4_window7_224", "adamw"), ("convnext_atto", "momentum")]  # fmt: skip


@pytest.mark.parametrize("name, opt", NETWORKS)
def test_the_optimiser_is_that_which_timm_makes(made, name, opt):
    cfg, _ = made(model=name, opt=opt, lr=1e-3, weight_decay=0.05)
    with torch.device("meta"):
        model = load_timm().create_model(name)
    theirs = create_optimizer_v2(model, opt, lr=1e-3, weight_decay=0.05, momentum=0.9)
    names = {id(p): key for key, p in model.named_parameters()}
    spared = {names[id(p)] for group in theirs.param_groups if not group["weight_decay"] for p in group["params"]}
    ours = {names[id(p)] for g in optim.param_groups(cfg.optim, model) if "weight_decay" in g for p in g["params"]}
    assert spared == ours
    for key in ("nesterov", "eps"):
        if key in theirs.defaults and (opt, key) != ("lamb", "nesterov"):
            assert getattr(cfg.optim, key) == theirs.defaults[key], key


@pytest.mark.parametrize(
    "text", ["rand-m9-mstd0.5-inc1", "rand-m7-n3-mstd101-inc1", "rand-n1-p0.7-inc1", "rand-m6-mstd1.5-n2-inc1"]
)
def test_randaugment_is_what_timm_reads(made, text):
    cfg, notes = made(aa=text)
    theirs = rand_augment_transform(text, {})
    first, ours = theirs.ops[0], cfg.augment
    assert notes == [] and (ours.kind, ours.variant, ours.interpolation) == ("randaugment", "timm", "bicubic")
    assert (ours.n, ours.magnitude, ours.prob) == (theirs.num_layers, first.magnitude, first.prob)
    assert ours.std == first.magnitude_std and ours.jitter == (0, 0, 0) and ours.fill is None


MIXES = [
    {"mixup": 0.8, "cutmix": 1.0},
    {"mixup": 0.2},
    {"cutmix": 1.0, "mixup_prob": 0.25},
    {"mixup": 0.1, "cutmix": 1.0, "mixup_prob": 0.5, "mixup_switch_prob": 0.2, "mixup_mode": "elem"},
    {},
]


@pytest.mark.parametrize("changes", MIXES, ids=str)
def test_methods_are_drawn_as_often_as_timm_draws_them(made, changes):
    cfg, notes = made(**changes)
    assert notes == []
    n, mixup = 4000, changes.get("mixup", 0.0)
    counts = Counter()
    if changes:
        np.random.seed(0)
        options = {"mixup_alpha": mixup, "cutmix_alpha": changes.get("cutmix", 0.0)}
        options |= {"prob": changes.get("mixup_prob", 1.0), "switch_prob": changes.get("mixup_switch_prob", 0.5)}
        theirs = Mixup(**options, label_smoothing=0, num_classes=2)
        for _ in range(n):
            lam, cut = theirs._params_per_batch()
            counts["vanilla" if lam == 1.0 else "cutmix" if cut else "mixup"] += 1
    else:
        counts["vanilla"] = n
    row = cfg.mixers[cfg.mix]
    shares = {name: of["prob"] for name, of in row["of"].items()} if row.get("mixer") == "choice" else {cfg.mix: 1.0}
    assert set(shares) == set(counts)
    for name, share in shares.items():
        assert abs(counts[name] / n - share) < 4 * math.sqrt(0.25 / n)
    mixer = build(cfg.mix, cfg.mixers)
    inner = {type(m).__name__.lower(): m for m in getattr(mixer, "mixers", [mixer])}
    for name in {"mixup", "cutmix"} & set(changes):
        assert inner[name].alpha == changes[name]
        assert inner[name].granularity == ("sample" if "mixup_mode" in changes else "batch")
    assert getattr(mixer, "granularity", "batch") == ("sample" if "mixup_mode" in changes else "batch")


def test_everything_else_is_where_it_belongs(made):
    cfg, notes = made(
        2, img_size=160, crop_pct=0.95, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25], num_classes=10, drop=0.1,
        drop_path=0.05, model_ema=True, model_ema_decay=0.9999, clip_grad=1.0, bce_loss=True, bce_target_thresh=0.2,
        reprob=0.25, remode="const", recount=1, aug_repeats=3.0, layer_decay=0.75, amp=True, amp_dtype="bfloat16",
        mixup=0.1, mixup_off_epoch=8, data_dir="/images", pretrained=True, scale=[0.2, 1.0], hflip=0.0, sync_bn=True,
        aa="3a", color_jitter=0.3, opt_betas=[0.9, 0.95], opt="lamb", log_interval=10,
        model_kwargs={"output_stride": 16},
    )  # fmt: skip
    assert notes == []
    expected = config.from_tree(
        {
            "mix": "mixup", "mixers": {"mixup": {"alpha": 0.1}}, "epochs": 10, "batch_total": 16, "precision": "bf16",
            "seed": 42, "log_every": 10, "mix_off": 0.2,
            "data": {"loader": "folder", "train": "/images/train", "val": "/images/val", "size": 160, "val_resize": 168,
                     "mean": [0.5] * 3, "std": [0.25] * 3, "repeats": 3, "scale": [0.2, 1.0], "flip": 0.0},
            "augment": {"kind": "three", "jitter": [0.3] * 3},
            "erase": {"prob": 0.25, "mode": "constant"},
            "model": {"name": "resnet18", "classes": 10, "weights": "timm", "sync_bn": True,
                      "args": {"output_stride": 16, "drop_rate": 0.1, "drop_path_rate": 0.05}},
            "optim": {"name": "lamb", "lr": 0.4, "eps": 1e-6, "betas": [0.9, 0.95], "clip": 1.0, "layer_decay": 0.75,
                      "no_decay": ["norm", "bias"]},
            "schedule": {"per": "step", "warmup": "ramp", "warmup_epochs": 2, "warmup_factor": 1e-3 / 0.4,
                         "min_lr": 1e-4},
            "loss": {"kind": "bce", "reduction": "mean", "threshold": 0.2, "smoothing": 0.1},
            "ema": {"decay": 0.9999},
        },
        "expected",
    )  # fmt: skip
    assert config.differences(cfg, expected) == []


def test_what_has_no_equivalent_gets_a_line_each(made):
    _, notes = made(
        None, sched="step", opt="rmsproptf", aa="original", cutmix_minmax=[0.2, 0.8], mixup_mode="pair", recount=3,
        clip_mode="agc", clip_grad=0.1, jsd_loss=True, aug_splits=3, vflip=0.5, lr_noise=[0.4], sched_on_updates=False,
        train_interpolation="random", model_ema=True, model_ema_warmup=True, a_new_flag=7, dataset="hfds/cats",
        model="none", reprob=0.1,
    )  # fmt: skip
    starts = ["model=none", "dataset=hfds/cats", "train_interpolation=random", "aa=original", "reprob: 3 boxes",
              "batch_total=8: as of one process", "opt=rmsproptf", "clip_mode=agc", "sched=step", "warmup_epochs=2",
              "cutmix_minmax", "mixup_mode=pair", "model_ema_warmup", "a_new_flag=7", "aug_splits=3", "jsd_loss=True",
              "lr_noise=[0.4]", "vflip=0.5"]  # fmt: skip
    assert sorted(starts) == sorted(start for start in starts if any(note.startswith(start) for note in notes))
    assert len(notes) == len(starts)


@pytest.mark.parametrize(
    "text", ["", "- a\n", "model: {name: resnet50}\n", "epochs: 3\nmodel: resnet50\n", "a: [1\n", "\xff"]
)
def test_other_files_are_refused_in_a_line(tmp_path, text):
    path = tmp_path / "args.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="args.yaml: not ") as error:
        migrated(path)
    assert "\n" not in str(error.value)
