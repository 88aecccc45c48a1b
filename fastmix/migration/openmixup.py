"""A config of OpenMixup as one of this project, with `fidelity: openmixup`."""

from __future__ import annotations

import re
from pathlib import Path

from fastmix.config import Config
from fastmix.migration import mmcv_config
from fastmix.migration.draft import Draft, Source
from fastmix.migration.openmixup_data import put_data
from fastmix.migration.openmixup_methods import put_method
from fastmix.migration.openmixup_models import put_model, put_no_decay

KINDS = ("Classification", "MixUpClassification", "AutoMixup", "AdAutoMix", "MergeMix")
HEADS = ("head", "head_mix", "head_one", "head_mix_k", "head_one_k")
READ = (  # names that mean something; others are of logs and machines, or only what the file itself refers to
    "model", "data", "sampler", "optimizer", "optimizer_config", "use_fp16", "lr_config", "addtional_scheduler", "seed",
    "custom_hooks", "runner", "evaluation", "load_from", "resume_from", "img_norm_cfg", "total_epochs",
)  # fmt: skip
SILENT_HOOKS = ("SAVEHook", "CosineScheduleHook", "CustomCosineAnnealingHook")
GPUS = re.compile(r"(?<![a-z0-9])(\d+)x(?:bs?)?(\d+)(?![0-9d])")
"""What a file's name says of its batch: 4xb64, 4xbs64, 8x128; the 32x4d of a ResNeXt is none."""


def migrated(path: Path, gpus: int | None = None) -> tuple[Config, list[str]]:
    """The config, and a line for each thing that has no equivalent. Raises ValueError of one line."""
    tree, notes, files = mmcv_config.read(path)
    kind = tree["model"].get("type") if isinstance(tree.get("model"), dict) else None
    if kind is None:
        raise ValueError(
            f"{path}: no config of OpenMixup: no model=dict(type=...) in it; a part in _base_ is none alone"
        )
    if kind not in KINDS:
        raise ValueError(f"{path}: model.type is {kind}; what can be migrated is one of {', '.join(KINDS)}")
    draft, root = Draft(), Source(tree)
    draft.notes += notes
    root.pass_over(*(name for name in tree if name not in READ))
    draft.put("fidelity", "openmixup")
    model = root.part("model")
    model.pass_over("type", "init_cfg", "debug", "save", "save_name", "debug_mode", "save_by_sample", "head_weights")
    hooks: dict[str, Source] = {}
    rules = root.part("optimizer").part("paramwise_options")
    with draft.reading("model.backbone"):
        put_model(model.part("backbone"), draft)
        _start(model, draft)
    with draft.reading("data"):
        put_data(root, draft)
    with draft.reading("model.head"):
        _loss(model, draft)
    with draft.reading("custom_hooks"):
        hooks = _hooks(root, draft)
    with draft.reading("data.imgs_per_gpu"):
        _batch(root, draft, files, gpus)
    with draft.reading("optimizer"):
        _optimizer(root, draft)
        put_no_decay(rules, str(model.part("backbone").tree.get("type")), draft)
    with draft.reading("lr_config"):
        _schedule(root, draft)
    with draft.reading("model"):
        put_method(model, hooks, rules, root.part("addtional_scheduler"), draft)
    with draft.reading("custom_hooks"):
        _averages(hooks, draft)
    draft.notes += [f"{line}: no equivalent" for line in root.left()]
    draft.notes += [f"{line}: no equivalent" for hook in hooks.values() for line in hook.left()]
    return draft.finished(str(path)), draft.notes


def _start(model: Source, draft: Draft) -> None:
    """model.weights of `pretrained`; torchvision's are timm's tv_in1k."""
    weights = model.take("pretrained")
    if not weights:
        return
    name = draft.tree["model"]["name"]
    if str(weights) == f"torchvision://{name}":
        draft.put("model.name", f"{name}.tv_in1k")
        draft.put("model.weights", "timm")
    elif "://" in str(weights):
        draft.note(f"model.pretrained={weights}: name a file, model.weights=FILE")
    else:
        draft.put("model.weights", weights, "model.pretrained")


def _loss(model: Source, draft: Draft) -> None:
    """loss, model.classes and the head's dropout."""
    parts = [model.part(name) for name in HEADS if name in model.tree]
    for head in parts:
        loss = head.part("loss")
        kind = loss.take("type", "CrossEntropyLoss")
        smooth, mode = loss.take("label_smooth_val", 0.0), loss.take("mode", "classy_vision")
        loss.pass_over("num_classes", "use_soft")
        head.pass_over(
            "type", "in_channels", "with_avg_pool", "multi_label", "init_cfg", "num_classes", "two_hot_scale"
        )
        if head is not parts[0]:
            loss.pass_over("use_sigmoid", "loss_weight")
            head.pass_over("neg_weight", "two_hot")  # weights of labels that are zero
            continue
        if (classes := head.tree.get("num_classes")) is not None:
            draft.put("model.classes", classes, head.path("num_classes"))
        if loss.take("use_sigmoid", False):
            draft.put("loss.kind", "bce")
        if loss.take("loss_weight", 1.0) != 1:
            draft.note(f"{loss.path('loss_weight')}={loss.tree['loss_weight']}: a loss counts once here")
        if head.take("two_hot", False):
            draft.note(f"{head.path('two_hot')}: labels sum to one here")
        for key in ("drop_rate", "head_dropout", "dropout_rate"):
            if rate := head.take(key):
                args = draft.tree["model"].get("args", {})
                draft.put("model.args", args | {"drop_rate": rate}, head.path(key))
        if kind == "LabelSmoothLoss" and mode == "multi_label":
            draft.note(f"{loss.path('mode')}=multi_label: no equivalent; smoothing is that of one label")
        if kind == "LabelSmoothLoss":
            # ClassyVision's (onehot + e/K) / (1 + e) is the usual form with e / (1 + e)
            share = smooth / (1 + smooth) if mode == "classy_vision" and isinstance(smooth, float) else smooth
            draft.put("loss.smoothing", share, loss.path("label_smooth_val"))
        elif kind != "CrossEntropyLoss":
            loss.pass_over(*loss.tree)
            draft.note(f"{loss.name} is {kind}: no equivalent; cross-entropy stands here")


def _hooks(root: Source, draft: Draft) -> dict[str, Source]:
    """custom_hooks by type; those without an equivalent get a note."""
    known = (*SILENT_HOOKS, "EMAHook", "PreciseBNHook")
    found: dict[str, Source] = {}
    for hook in root.take("custom_hooks", [], (list, tuple)):
        kind = hook.get("type") if isinstance(hook, dict) else hook
        if kind in known:
            found[kind] = Source(hook, f"custom_hooks.{kind}")
            found[kind].pass_over("type", *(hook if kind in SILENT_HOOKS else ()))
        else:
            draft.note(f"custom_hooks holds {kind}: no equivalent")
    if cosine := found.get("CustomCosineAnnealingHook"):
        name, low = cosine.tree.get("attr_name"), cosine.tree.get("min_attr", 0)
        if name != "mask_loss" or low:
            draft.note(f"custom_hooks.CustomCosineAnnealingHook of {name} to {low}: no equivalent")
    return found


def _batch(root: Source, draft: Draft, files: list[Path], gpus: int | None) -> None:
    """batch_total, accum and column.gpu_batch. Names tell how many GPUs there were."""
    data, settings = root.part("data"), root.part("optimizer_config")
    each, accum = data.take("imgs_per_gpu", None, int), settings.take("update_interval", 1, int)
    if not each:
        draft.note(f"data.imgs_per_gpu is not given: batch_total={Config().batch_total} is a guess")
        return
    said = next((match for file in files for match in [GPUS.search(file.stem)] if match), None)
    total = int(said[1]) * int(said[2]) if said and not gpus else each * (gpus or 1)
    draft.put("batch_total", total * accum, data.path("imgs_per_gpu"))
    draft.put("accum", accum, settings.path("update_interval"))
    draft.put("column.gpu_batch", min(each, total), data.path("imgs_per_gpu"))
    parts = f" in {accum} parts" if accum > 1 else ""
    if gpus is None:
        why = f"as the name {said[0]} says" if said else "as no name says more"
        count = f"{total / each:g} GPU{'s' * (total != each)}"
        draft.note(f"batch_total={total * accum}: {each} images on each of {count}{parts}, {why}; else --gpus N")


def _optimizer(root: Source, draft: Draft) -> None:
    """optim and precision."""
    found = root.part("optimizer")
    kind = str(found.take("type", "SGD"))
    name = kind.lower()
    if name not in ("sgd", "adamw", "lamb"):
        draft.note(f"optimizer.type is {kind}: no equivalent; adamw stands here, with the same rate")
        name = "adamw"
    draft.put("optim.name", name)
    if name == "lamb":
        draft.put("optim.eps", 1e-6)
    draft.put("optim.weight_decay", 0.0 if name != "adamw" else 0.01)
    draft.put("optim.momentum", 0.0 if name == "sgd" else 0.9)
    for key in ("lr", "momentum", "weight_decay", "eps", "nesterov"):
        if found.tree.get(key) is not None:
            draft.put(f"optim.{key}", found.take(key), found.path(key))
    if found.tree.get("betas") is not None:
        draft.put("optim.betas", found.take("betas"), found.path("betas"))
    found.pass_over("betas")
    settings = root.part("optimizer_config")
    settings.pass_over("type", "use_fp16")
    clip = settings.part("grad_clip")
    if (norm := clip.take("max_norm")) is not None:
        draft.put("optim.clip", norm, clip.path("max_norm"))
    draft.put("precision", "fp16" if root.take("use_fp16", False) is True else "fp32")


def _schedule(root: Source, draft: Draft) -> None:
    """epochs, schedule and val_every."""
    runner = root.part("runner")
    runner.pass_over("type")
    draft.put("epochs", runner.take("max_epochs", root.take("total_epochs", 300)), runner.path("max_epochs"))
    found = root.part("lr_config")
    if (policy := found.take("policy", "CosineAnnealing")) != "CosineAnnealing":
        found.pass_over(*found.tree)
        draft.note(f"lr_config.policy={policy}: no equivalent; the rate follows a cosine here")
    by_epoch = found.take("by_epoch", True)
    draft.put("schedule.per", "epoch" if by_epoch else "step")
    ratio = found.take("min_lr_ratio")
    low = found.take("min_lr", 0.0)
    draft.put(
        "schedule.min_lr", low if ratio is None else ratio * draft.tree["optim"].get("lr", 0.1), found.path("min_lr")
    )
    if found.take("warmup") in ("linear", "constant"):
        _warmup(found, draft)
    found.pass_over("warmup_iters", "warmup_by_epoch", "warmup_ratio")
    evaluation = root.part("evaluation")
    draft.put("val_every", evaluation.take("interval", 1), evaluation.path("interval"))
    evaluation.pass_over(*evaluation.tree)
    for key in ("load_from", "resume_from"):
        if path := root.take(key):
            draft.note(f"{key}={path}: name it when training, model.weights={path} or --resume")
    if (seed := root.take("seed")) is not None:
        draft.put("seed", seed, "seed")


def _warmup(found: Source, draft: Draft) -> None:
    length = found.take("warmup_iters", 0)
    if found.tree["warmup"] == "constant":
        draft.note("lr_config.warmup=constant: it climbs linearly here")
    if found.take("warmup_by_epoch", False):
        draft.put("schedule.warmup_epochs", length, found.path("warmup_iters"))
    else:
        draft.note(f"lr_config.warmup_iters={length} loader batches: schedule.warmup_epochs counts epochs; set it")
    draft.put("schedule.warmup_factor", found.take("warmup_ratio", 0.1), found.path("warmup_ratio"))


def _averages(hooks: dict[str, Source], draft: Draft) -> None:
    """ema and precise_bn; the hooks count the loader's batches, of which a step has `accum`."""
    accum = draft.tree.get("accum", 1)
    if hook := hooks.get("EMAHook"):
        draft.put("ema.decay", hook.take("momentum", 0.9999), hook.path("momentum"))
        every = hook.take("update_interval", 1, int)
        draft.put("ema.every", max(1, every // accum), hook.path("update_interval"))
        if hook.take("warmup") == "linear":
            draft.put("ema.ramp_steps", hook.take("warmup_iters", 0, int) // accum, hook.path("warmup_iters"))
            if (ratio := hook.take("warmup_ratio", 0.9)) != 0.9:
                draft.note(f"custom_hooks.EMAHook.warmup_ratio={ratio}: it is 0.9 here")
        hook.pass_over("warmup_iters", "warmup_ratio", "evaluate_on_ema", "evaluate_on_nonema")
    if hook := hooks.get("PreciseBNHook"):
        draft.put("precise_bn", hook.take("num_samples", 8192), hook.path("num_samples"))
        hook.pass_over("interval", "update_all_stats")
