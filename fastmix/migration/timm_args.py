"""The arguments that timm's train.py saved (args.yaml) as a config of this project."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from fastmix.config import Config
from fastmix.errors import words
from fastmix.migration.draft import Draft, Source, row
from fastmix.migration.timm_data import put_auto_augment, put_erasing
from fastmix.models import load_timm
from fastmix.reading import read
from fastmix.yaml12 import parse

MOST = 1 << 20  # bytes of the file
NEEDED = ("model", "opt", "sched", "epochs", "batch_size")
NO_MEANING = (  # of the machine, of logs, of what only another option makes use of
    "workers", "pin_mem", "no_prefetcher", "use_multi_epochs_loader", "log_wandb", "wandb_project", "wandb_tags",
    "wandb_resume_id", "output", "experiment", "eval_metric", "checkpoint_hist", "recovery_interval", "save_images",
    "local_rank", "rank", "distributed", "device", "device_modules", "no_ddp_bb", "synchronize_step", "fuser",
    "worker_seeding", "validation_batch_size", "dist_bn", "model_ema_force_cpu", "dataset_download", "no_resume_opt",
    "grad_checkpointing", "amp_impl", "world_size", "train_num_samples", "val_num_samples", "input_key", "target_key",
    "dataset_trust_remote_code", "train_split", "val_split", "class_map", "bce_target_thresh", "color_jitter", "config",
    "lr_base", "lr_base_size", "lr_base_scale", "lr_noise_pct", "lr_noise_std", "lr_cycle_mul", "lr_cycle_decay",
    "decay_milestones", "decay_epochs", "decay_rate", "patience_epochs", "warmup_lr", "recount", "remode",
    "cutmix", "mixup", "mixup_prob", "mixup_switch_prob", "mixup_mode", "mixup_off_epoch", "amp_dtype", "bce_sum",
    "train_size_schedule", "train_size_schedule_spread", "train_size_random_mix", "variable_batch_loss_scale",
    "kd_distill_type", "kd_loss_type", "kd_temperature", "kd_token_distill_type", "layer_decay_min_scale",
    "naflex_train_seq_lens", "naflex_max_seq_len", "naflex_loss_scale", "naflex_patchify_channels_first", "clip_mode",
    "fast_norm", "torchcompile_mode", "model_ema_decay", "train_interpolation", "interpolation", "hflip", "opt_foreach",
)  # fmt: skip
DEFAULTS = {  # train.py's own, of options that have no equivalent
    "lr_k_decay": 1.0, "lr_cycle_limit": 1, "epoch_repeats": 0.0, "cooldown_epochs": 0, "vflip": 0.0, "aug_splits": 0,
    "input_img_mode": "RGB",
}  # fmt: skip
SGD = {"sgd": True, "nesterov": True, "momentum": False}  # timm's sgd is Nesterov's
EPS = {"lamb": 1e-6, "adamw": 1e-8}


def migrated(path: Path, gpus: int | None = None) -> tuple[Config, list[str]]:
    """The config, and a line for each thing that has no equivalent. Raises ValueError of one line."""
    try:
        text = read(path, MOST).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8 (byte {error.start})") from None
    tree = parse(text, str(path))
    if not isinstance(tree, dict) or not all(key in tree for key in NEEDED) or not isinstance(tree["model"], str):
        raise ValueError(f"{path}: not what timm's train.py saves: it has {', '.join(NEEDED)} in its args.yaml")
    draft, args = Draft(), Source(tree)
    args.pass_over(*NO_MEANING, *(key for key, value in DEFAULTS.items() if tree.get(key) == value))
    model = None
    with draft.reading("model"):
        model = _model(args, draft)
    with draft.reading("what is said of the data"):
        _data(args, model, draft)
    with draft.reading("what is said of the optimiser"):
        _optimizer(args, model, _batch(args, gpus, draft), draft)
    with draft.reading("what is said of the schedule"):
        _schedule(args, draft)
    with draft.reading("what is said of the loss"):
        _loss(args, draft)
    with draft.reading("what is said of mixing"):
        _mixing(args, draft)
    with draft.reading("the rest"):
        _rest(args, draft)
    empty = (None, False, 0, "", [], {})
    draft.notes += [f"{line}: no equivalent" for key, line in _left(args) if tree[key] not in empty]
    return draft.finished(str(path)), draft.notes


def _left(args: Source) -> list[tuple[str, str]]:
    return [(key, f"{key}={value}") for key, value in args.tree.items() if key not in args.asked]


def _model(args: Source, draft: Draft):
    """model.*; returns timm's model without memory for its weights, or None."""
    name = args.take("model")
    more = args.take("model_kwargs") or {}
    found = dict(more) if isinstance(more, dict) else {}
    for theirs, ours in (("drop", "drop_rate"), ("drop_path", "drop_path_rate"), ("drop_block", "drop_block_rate"),
                         ("gp", "global_pool")):  # fmt: skip
        if value := args.take(theirs):
            found[ours] = value
    draft.put("model.name", name, "model")
    if found:
        draft.put("model.args", found, "model_kwargs")
    if (classes := args.take("num_classes")) is not None:
        draft.put("model.classes", classes, "num_classes")
    file = args.take("initial_checkpoint") or args.take("pretrained_path")
    if file or args.take("pretrained"):
        draft.put("model.weights", file or "timm", "pretrained")
    args.pass_over("initial_checkpoint", "pretrained_path", "pretrained")
    draft.put("model.channels_last", bool(args.take("channels_last", False)))
    draft.put("model.sync_bn", bool(args.take("sync_bn", False)))
    if args.take("torchcompile"):
        draft.put("model.compile", args.tree.get("torchcompile_mode") or "default", "torchcompile_mode")
    try:
        with torch.device("meta"):
            return load_timm().create_model(name, **found)
    except Exception as error:  # of a name that is none, or arguments of another version
        draft.note(f"model={name}: {words(error)[:200]}")
        return None


def _data(args: Source, model, draft: Draft) -> None:
    """data.*, augment.* and erase.*."""
    folder, kind = args.take("data_dir") or args.take("data"), args.take("dataset")
    args.pass_over("data", "data_dir")
    if kind and kind not in ("folder", "torch/imagenet", "imagefolder"):
        draft.note(f"dataset={kind}: name the images yourself, data.train=FILE (docs/data.md says what is read)")
    elif folder:
        draft.put("data.loader", "folder")
        draft.put("data.train", str(Path(folder) / "train"), "data_dir")
        draft.put("data.val", str(Path(folder) / "val"), "data_dir")
    _size(args, draft)
    for key in ("mean", "std"):
        draft.put(f"data.{key}", args.take(key) or "model", key)
    for key in ("scale", "ratio"):
        if value := args.take(key):
            draft.put(f"data.{key}", value, key)
    draft.put("data.flip", args.tree.get("hflip", 0.5), "hflip")
    if repeats := args.take("aug_repeats"):
        draft.put("data.repeats", int(repeats), "aug_repeats")
    _interpolated(args, model, draft)
    if args.take("no_aug"):
        draft.put("data.crop", "centre")
        draft.put("data.flip", 0.0)
        args.pass_over("aa", "reprob", "scale", "ratio")
        return
    put_auto_augment(draft, args.take("aa"), args.tree.get("color_jitter", 0.4), "aa")
    recount, remode = args.tree.get("recount", 1), args.tree.get("remode", "pixel")
    put_erasing(draft, args.take("reprob", 0.0), remode, recount, "reprob")


def _size(args: Source, draft: Draft) -> None:
    side = args.take("img_size") or (args.take("input_size") or [None])[-1]
    args.pass_over("input_size")
    draft.put("data.size", side or "model", "img_size")
    share = args.take("crop_pct")
    if share and side:
        draft.put("data.val_resize", math.floor(side / share), "crop_pct")
        return
    draft.put("data.val_resize", "model")
    if share:
        draft.note(f"crop_pct={share}: with the size of the model, data.val_resize is its own too; set both")
    elif side:
        draft.put("data.val_size", side)
        draft.note(
            f"img_size={side} without crop_pct: data.val_resize is the model's, which is of its own size; set it"
        )


def _interpolated(args: Source, model, draft: Draft) -> None:
    """Training's, which validation has here too; RandAugment's is the same in timm."""
    training, own = args.tree.get("train_interpolation", "random"), (model.pretrained_cfg if model else {})
    testing = args.tree.get("interpolation") or own.get("interpolation", "bicubic")
    if training in ("bilinear", "bicubic"):
        draft.put("data.interpolation", training)
        draft.put("augment.interpolation", training)
        if testing != training:
            draft.note(f"interpolation is {testing} at validation; here it is {training}, as in training")
    else:
        draft.put("data.interpolation", testing, "interpolation")
        draft.note(f"train_interpolation={training}: bilinear or bicubic by chance; here always {testing}")


def _batch(args: Source, gpus: int | None, draft: Draft) -> int:
    each, parts = args.take("batch_size", 128), args.take("grad_accum_steps", 1)
    count = gpus or args.tree.get("world_size") or 1
    total = each * parts * count
    draft.put("batch_total", total, "batch_size")
    draft.put("accum", parts, "grad_accum_steps")
    if gpus is None and not args.tree.get("world_size"):
        draft.note(f"batch_total={total}: as of one process, as the file does not say how many; else --gpus N")
    return total


def _optimizer(args: Source, model, total: int, draft: Draft) -> None:
    name = str(args.take("opt", "sgd")).lower()
    draft.put("optim.name", "sgd" if name in SGD else name if name in EPS else "adamw")
    if name in SGD:
        draft.put("optim.nesterov", SGD[name])
    elif name in EPS:
        draft.put("optim.eps", args.tree.get("opt_eps") or EPS[name], "opt_eps")
    else:
        draft.note(f"opt={name}: no equivalent; adamw stands here, with the same rate")
    draft.put("optim.momentum", args.take("momentum", 0.9), "momentum")
    args.pass_over("opt_eps", *(("opt_kwargs",) if not args.tree.get("opt_kwargs") else ()))
    if betas := args.take("opt_betas"):
        draft.put("optim.betas", betas, "opt_betas")
    rate = args.take("lr")
    if not rate:
        scale = args.tree.get("lr_base_scale") or ("sqrt" if "ada" in name or "lamb" in name else "linear")
        ratio = total / args.tree.get("lr_base_size", 256)
        rate = args.tree.get("lr_base", 0.1) * (ratio**0.5 if scale == "sqrt" else ratio)
    draft.put("optim.lr", rate, "lr")
    decay = args.take("weight_decay", 2e-5)
    draft.put("optim.weight_decay", decay, "weight_decay")
    if decay:  # timm spares what has one dimension, biases, and what the model names
        named = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
        own = {name.rsplit(".", 1)[-1] for name, _ in model.named_parameters()} if named else set()
        draft.put("optim.no_decay", ["norm", "bias", *sorted(own & {name.rsplit(".", 1)[-1] for name in named})])
    if clip := args.take("clip_grad"):
        if args.tree.get("clip_mode", "norm") == "norm":
            draft.put("optim.clip", clip, "clip_grad")
        else:
            draft.note(f"clip_mode={args.tree['clip_mode']}: no equivalent; gradients are not bounded")
    if layers := args.take("layer_decay"):
        draft.put("optim.layer_decay", layers, "layer_decay")


def _schedule(args: Source, draft: Draft) -> None:
    draft.put("epochs", args.take("epochs"), "epochs")
    if (kind := args.take("sched")) != "cosine":
        draft.note(f"sched={kind}: no equivalent; the rate follows a cosine here")
    by_step = bool(args.take("sched_on_updates", False))
    draft.put("schedule.per", "step" if by_step else "epoch")
    draft.put("schedule.min_lr", args.take("min_lr", 0), "min_lr")
    if length := args.take("warmup_epochs", 5):
        draft.put("schedule.warmup", "ramp")
        draft.put("schedule.warmup_epochs", length, "warmup_epochs")
        rate = draft.tree["optim"].get("lr", 0.1)
        draft.put("schedule.warmup_factor", args.tree.get("warmup_lr", 1e-5) / rate if rate else 0.0, "warmup_lr")
        if not by_step:
            draft.note(f"warmup_epochs={length}: the rate climbs with every step here, there with every epoch")


def _loss(args: Source, draft: Draft) -> None:
    draft.put("loss.smoothing", args.take("smoothing", 0.1), "smoothing")
    if args.take("bce_loss"):
        draft.put("loss.kind", "bce")
        draft.put("loss.reduction", "sum" if args.tree.get("bce_sum") else "mean")
        draft.put("loss.threshold", args.tree.get("bce_target_thresh"), "bce_target_thresh")


def _mixing(args: Source, draft: Draft) -> None:
    """mix and mixers of mixup, cutmix and what is said of both; partners are the batch in reverse order there."""
    tree = args.tree
    alphas = {"mixup": tree.get("mixup") or 0, "cutmix": tree.get("cutmix") or 0}
    if ratios := args.take("cutmix_minmax"):
        alphas["cutmix"] = 1.0
        draft.note(f"cutmix_minmax={ratios}: boxes of such sides have no equivalent; they follow alpha 1 here")
    share, switch = tree.get("mixup_prob", 1.0), tree.get("mixup_switch_prob", 0.5)
    probs = {"mixup": share, "cutmix": share}
    if all(alphas.values()):
        probs = {"mixup": share * (1 - switch), "cutmix": share * switch}
    mode = tree.get("mixup_mode", "batch")
    each = {} if mode == "batch" else {"granularity": "sample"}
    if mode == "pair":
        draft.note("mixup_mode=pair: both images of a pair share a draw there; here each has its own")
    rows = {name: row(name, alpha=alpha, **each) for name, alpha in alphas.items() if alpha and probs[name]}
    if not rows:
        draft.method("vanilla", {})
        return
    if len(rows) > 1 or share < 1:
        of = {name: {"prob": probs[name]} | options for name, options in rows.items()}
        if share < 1:
            of["vanilla"] = {"prob": round(1 - share, 6)}
        draft.method("_".join(rows), {"mixer": "choice", "of": of} | each)
    else:
        draft.method(*next(iter(rows.items())))
    if off := tree.get("mixup_off_epoch"):
        epochs = draft.tree.get("epochs", 300)
        draft.put("mix_off", max(0, epochs - off) / epochs, "mixup_off_epoch")


def _rest(args: Source, draft: Draft) -> None:
    """ema, precision, seed, logging."""
    if args.take("model_ema"):
        draft.put("ema.decay", args.tree.get("model_ema_decay", 0.9998), "model_ema_decay")
        if args.take("model_ema_warmup"):
            draft.note("model_ema_warmup: no equivalent; the average has its decay from the first step on")
    half = {"bfloat16": "bf16"}.get(args.tree.get("amp_dtype", "float16"), "fp16")
    draft.put("precision", half if args.take("amp", False) else "fp32", "amp_dtype")
    draft.put("seed", args.take("seed", 42), "seed")
    draft.put("log_every", args.take("log_interval", 50), "log_interval")
    draft.put("val_every", args.take("val_interval", 1), "val_interval")
