"""OpenMixup's mixing methods as rows of `mixers`."""

from __future__ import annotations

from collections import Counter

from fastmix.migration.draft import Draft, Source, row

FIDELITY = "openmixup"
AREAS = ("stage1", "stage2", "stage3", "stage4")
MANIFOLD = ("input", "stage1", "stage2", "stage3")  # what its layers 0 to 3 are
NO_MEANING = {  # options that change memory, pictures or nothing at all
    "attentivemix": ("grid_size", "beta"),
    "fmix": ("size",),
    "mixpro": ("model_patch_size", "num_classes", "num_class", "smoothing"),
    "puzzlemix": ("t_batch_size", "mp"),
    "resizemix": ("interpolate_mode",),
    "smmix": ("side",),
    "tokenmix": ("minimum_tokens", "num_classes", "smoothing"),
    "guidedmix": ("size", "sigma"),
}
OTHERWISE = {
    "tokenmix": "its labels are those of the attention, with its swapped regions put right",
    "smmix": "the published method, of which that code has the first term of the loss alone",
    "mixpro": "the attention of the mixed image counts, there that of the clean one",
    "tla": "the published method; what that code has under this name aligns nothing",
    "mergemix": "no token is merged, and there is no second loss of a mixup",
    "guidedmix": "whichever pairing that code is asked for is a random permutation",
    "adautomix": "the mask is used, which that code leaves out for three images",
}
SCHEDULED = "CustomCosineAnnealingHook"


def put_method(model: Source, hooks: dict[str, Source], rules: Source, schedule: Source, draft: Draft) -> None:
    """mix and mixers of a model; `rules` and `schedule` are those of the mix block's optimiser group."""
    kind = model.tree.get("type")
    if kind in ("AutoMixup", "AdAutoMix"):
        make = _automix if kind == "AutoMixup" else _adautomix
        name, options = make(model, hooks, draft)
        options |= _shared(model, hooks, rules, schedule, draft)
        draft.method(name, row(name, FIDELITY, **options))
    elif kind == "MergeMix":
        model.pass_over("tome_in_mix", "merge_num", "mask_leaked", "lam_scale", "source_tracking_mode", "attn_based")
        model.pass_over("mixed_radio", "mixup_radio", "is_random", "lam_margin", "switch_off")
        draft.note(f"mergemix: {OTHERWISE['mergemix']}")
        draft.method("mergemix", row("mergemix", FIDELITY, alpha=model.take("alpha", 1.0)))
    elif kind == "MixUpClassification":
        name, options = _input(model, draft)
        draft.method(*_decoupled(name, options, model, draft))
    else:
        draft.method("vanilla", {})


def _input(model: Source, draft: Draft) -> tuple[str, dict]:
    """The row of one mode, or a choice of several."""
    modes, alphas = _listed(model.take("mix_mode", "mixup")), _listed(model.take("alpha", 1.0))
    probs = model.take("mix_prob")
    args = model.part("mix_args")
    args.pass_over(*args.tree)  # those of modes that are not drawn mean nothing
    if len(alphas) != len(modes):
        draft.note(f"model.alpha has {len(alphas)} values for {len(modes)} modes; the first counts for all")
        alphas = alphas[:1] * len(modes)
    if model.take("mix_repeat", 1) not in (0, 1, False):
        draft.note("model.mix_repeat: each batch is mixed once here")
    probs = (
        list(probs) if isinstance(probs, list | tuple) and len(probs) == len(modes) else [1 / len(modes)] * len(modes)
    )
    rows: dict = {}
    counts = Counter()
    for mode, alpha, prob in zip(modes, alphas, probs, strict=True):
        name, options = _mode(str(mode), alpha, args.part(str(mode)), model, draft)
        counts[name] += 1
        if counts[name] > 1:  # a mode drawn with two alphas
            options, name = {"mixer": name} | options, f"{name}_{counts[name]}"
        rows[name] = ({"prob": prob} if len(modes) > 1 else {}) | options
    if len(rows) == 1:
        return name, rows[name]
    return "_".join(rows), {"mixer": "choice", "of": rows}


def _listed(value) -> list:
    return list(value) if isinstance(value, list | tuple) else [value]


def _mode(mode: str, alpha, args: Source, model: Source, draft: Draft) -> tuple[str, dict]:
    """A mode's method here, and its options."""
    args.pass_over(*NO_MEANING.get(mode, ()))
    if mode in OTHERWISE:
        draft.note(f"{mode}: {OTHERWISE[mode]}")
    make = METHODS.get(mode)
    if make is None:
        draft.note(f"model.mix_mode={mode}: no equivalent; images stay as they are")
        return "vanilla", {}
    name, options = make(args, alpha, model, draft)
    return name, row(name, FIDELITY, **options)


def _plain(name: str):
    return lambda args, alpha, model, draft: (name, {"alpha": alpha})


def _gridmix(args: Source, alpha, model: Source, draft: Draft) -> tuple[str, dict]:
    if args.take("hole_aspect_ratio", 1.0) != 1:
        draft.note("model.mix_args.gridmix.hole_aspect_ratio: holes are square here")
    options = {"holes": args.take("n_holes", (2, 6)), "area": args.take("cut_area_ratio", (0.5, 1))}
    return "gridmix", {"alpha": alpha, **options, "aspect": args.take("cut_aspect_ratio", (0.5, 2))}


def _fmix(args: Source, alpha, model: Source, draft: Draft) -> tuple[str, dict]:
    if args.take("max_soft", 0) or args.take("reformulate", False):
        draft.note("model.mix_args.fmix: masks are hard and as drawn here (max_soft 0, reformulate False)")
    return "fmix", {"alpha": alpha, "decay": args.take("decay_power", 3)}


def _resizemix(args: Source, alpha, model: Source, draft: Draft) -> tuple[str, dict]:
    drawn = args.take("use_alpha", False)
    return "resizemix", ({"alpha": alpha} if drawn else {}) | {"scope": args.take("scope", (0.1, 0.8))}


def _manifoldmix(args: Source, alpha, model: Source, draft: Draft) -> tuple[str, dict]:
    low, high = args.take("layer", (0, 3))
    sites = None if (low, high) == (0, 3) else list(MANIFOLD[low:high])
    return "manifoldmix", {"alpha": alpha, "sites": sites}


def _alignmix(args: Source, alpha, model: Source, draft: Draft) -> tuple[str, dict]:
    return "alignmix", {"alpha": alpha, "eps": args.take("eps", 0.1), "iterations": args.take("max_iter", 100)}


def _puzzlemix(args: Source, alpha, model: Source, draft: Draft) -> tuple[str, dict]:
    ends = args.take("block_num", 4)
    low, high = (1, ends) if isinstance(ends, int) else ends
    blocks = [2**n for n in range(low, high)]
    side = args.take("t_size", -1)
    near = args.take("neigh_size", 4)
    options = {key: args.take(key, default) for key, default in (("beta", 1.2), ("gamma", 0.5), ("eta", 0.2))}
    options |= {"transport": args.take("transport", True), "t_eps": args.take("t_eps", 0.8)}
    options |= {"labels": args.take("n_labels", 3), "t_size": side if side and side > 0 else None}
    options |= {"blocks": None if blocks == [2, 4, 8] else blocks, "neighbours": None if near == 4 else near}
    return "puzzlemix", {"alpha": alpha, **options}


def _attentivemix(args: Source, alpha, model: Source, draft: Draft) -> tuple[str, dict]:
    teacher = model.part("backbone_k")
    name = f"resnet{teacher.take('depth', 18)}" if teacher.take("type", "ResNet") == "ResNet" else "resnet18"
    teacher.pass_over(*teacher.tree)
    weights = model.take("pretrained_k", "", str)
    options = {"alpha": alpha, "teacher": name, "top_k": args.take("top_k")}
    if weights and "://" not in weights:
        options["weights"] = weights
    return "attentivemix", options


def _transmix(args: Source, alpha, model: Source, draft: Draft) -> tuple[str, dict]:
    if (inner := args.take("mix_mode", "cutmix")) != "cutmix":
        draft.note(f"model.mix_args.transmix.mix_mode={inner}: TransMix is on CutMix here")
    return "transmix", {"alpha": alpha}


def _tokenmix(args: Source, alpha, model: Source, draft: Draft) -> tuple[str, dict]:
    if (kind := args.take("mask_type", "block")) != "block":
        draft.note(f"model.mix_args.tokenmix.mask_type={kind}: masks are unions of rectangles (block) here")
    return "tokenmix_attn", {"alpha": alpha}


def _smmix(args: Source, alpha, model: Source, draft: Draft) -> tuple[str, dict]:
    return "smmix", {"scope": (args.take("min_side_ratio", 0.25), args.take("max_side_ratio", 0.75))}


def _mixpro(args: Source, alpha, model: Source, draft: Draft) -> tuple[str, dict]:
    options = {"cell": args.take("mask_patch_size", 64), "pal": args.take("pal_attn", True)}
    return "mixpro", {"alpha": alpha, **options}


def _guidedmix(args: Source, alpha, model: Source, draft: Draft) -> tuple[str, dict]:
    args.pass_over("condition", "distance_metric")
    return "guidedmixup", {"saliency": args.take("guided_type", "ap")}


METHODS = {name: _plain(name) for name in ("mixup", "cutmix", "saliencymix", "snapmix")} | {
    "vanilla": lambda *_: ("vanilla", {}),
    "smoothmix": lambda *_: ("smoothmix", {}),
    "tla": _plain("tlalign"),
    "gridmix": _gridmix,
    "fmix": _fmix,
    "resizemix": _resizemix,
    "manifoldmix": _manifoldmix,
    "alignmix": _alignmix,
    "puzzlemix": _puzzlemix,
    "attentivemix": _attentivemix,
    "transmix": _transmix,
    "tokenmix": _tokenmix,
    "smmix": _smmix,
    "mixpro": _mixpro,
    "guidedmix": _guidedmix,
}


def _decoupled(name: str, options: dict, model: Source, draft: Draft) -> tuple[str, dict]:
    """The row in a DecoupledMix where the head's loss is decoupled."""
    head = model.part("head")
    if not head.part("loss").take("use_mix_decouple", False):
        return name, options
    weight = head.part("eta_weight")
    eta, side = weight.take("eta", 0.1), weight.take("mode", "both")
    weight.pass_over("thr")
    if side != "both":
        draft.note(f"model.head.eta_weight.mode={side}: both terms count here")
    if head.take("lam_scale_mode", "none") == "none":
        draft.note("model.head.lam_scale_mode=none: lam counts as p=1 here")
    power, _ = head.take("lam_idx", 1), head.take("lam_thr", 1)
    of = options["of"] if options.get("mixer") == "choice" else {name: options}
    return f"decoupled_{name}", {"mixer": "decoupledmix", "of": of} | row("decoupledmix", FIDELITY, eta=eta, p=power)


def _automix(model: Source, hooks: dict[str, Source], draft: Draft) -> tuple[str, dict]:
    """automix, or samix where its block compares both images with both."""
    block = model.part("mix_block")
    samix = bool(block.take("x_qk_concat", False))
    modes = _listed(block.take("unsampling_mode", "bilinear"))
    if len(modes) > 1:
        draft.note(f"model.mix_block.unsampling_mode={modes}: one of them for each step there; here {modes[0]}")
    options = {
        "alpha": model.take("alpha", 1.0),
        "lam_margin": max(0, model.take("lam_margin", -1)),
        "mode": modes[0],
        "mask_weight": model.take("mask_loss", 0.0),
        "mask_adjust": model.take("mask_adjust", 0.0),
        "mask_schedule": "cosine"
        if hooks.get(SCHEDULED, Source({})).tree.get("attr_name") == "mask_loss"
        else "constant",
    }
    off = model.take("switch_off", 0.0)
    options["block_prob"] = off if 0 < off < 1 else 1.0
    neck = block.part("value_neck_cfg")
    if samix:
        options |= {"k": block.take("lam_mul_k", -1), "dropout": neck.take("with_last_dropout", 0.0)}
        block.pass_over("lam_concat")
    else:
        options["lam_concat"] = block.take("lam_concat", False)
    neck.pass_over(*neck.tree)
    block.pass_over("lam_mul", "lam_mul_k", "lam_residual", "x_v_concat", "lam_concat_v", "mask_loss_margin")
    rewarded = "Variance" in str(block.take("mask_loss_mode", "L1"))
    if rewarded != samix:
        here = "automix has no such reward here" if rewarded else "samix is rewarded for masks of 0 and 1 here"
        draft.note(f"model.mix_block.mask_loss_mode={block.tree.get('mask_loss_mode')}: {here}")
    if block.take("att_norm_cfg"):
        draft.note("model.mix_block.att_norm_cfg: the block does not normalise its queries and keys here")
    return ("samix" if samix else "automix"), options


def _adautomix(model: Source, hooks: dict[str, Source], draft: Draft) -> tuple[str, dict]:
    block = model.part("mix_block")
    model.pass_over("co_mix", "is_random", "switch_off", "mixup_radio")
    block.pass_over("lam_mul_k", "scale_factor", "in_channel", "value_neck_cfg", "att_norm_cfg")
    if (every := model.take("adv_interval", 2)) != 2:
        draft.note(f"model.adv_interval={every}: the block works against the average on every other step here")
    samples = model.take("mix_samples", 3)
    if samples == 3:
        draft.note(f"adautomix: {OTHERWISE['adautomix']}")
    options = {
        "alpha": model.take("alpha", 1.0),
        "samples": samples,
        "beta": model.take("beta_radio", 0.3),
        "lam_margin": max(0, model.take("lam_margin", -1)),
        "lam_concat": block.take("lam_concat", False),
        "mode": _listed(block.take("unsampling_mode", "bilinear"))[0],
    }
    return "adautomix", options


def _shared(model: Source, hooks: dict[str, Source], rules: Source, schedule: Source, draft: Draft) -> dict:
    """site, momentum, momentum_start and block of the AutoMix family."""
    block = model.part("mix_block")
    block.pass_over("type", "in_channels", "reduction", "use_scale", "frozen")
    model.pass_over("mask_layer", "mask_up_override", "backbone_k")
    hook = hooks.get("CosineScheduleHook", Source({}))
    first = model.take("momentum", 0.999)
    options = {"momentum": [first, hook.take("end_momentum", first)], "site": _site(model.part("backbone"))}
    options["momentum_start"] = (hook.take("adjust_scope") or [0.0])[0]
    hook.pass_over("warming_up", "update_interval", "interval")
    group = rules.part("mix_block")
    own = {key: group.take(key) for key in ("momentum", "weight_decay") if key in group.tree}
    rate, lowest = group.take("lr"), schedule.take("min_lr", draft.tree["schedule"]["min_lr"])
    if rate is not None and (rate, lowest) != (draft.tree["optim"].get("lr"), draft.tree["schedule"]["min_lr"]):
        own = {"lr": rate, "min_lr": lowest} | own
    if schedule.tree:
        schedule.pass_over("policy", "by_epoch", "paramwise_options", "warmup", "warmup_by_epoch", "warmup_ratio")
        if schedule.take("warmup_iters") and "lr" in own:
            draft.note("addtional_scheduler: the mix block's rate has no warm-up here")
    return options | {"block": own or None}


def _site(backbone: Source) -> str | None:
    """Where the block reads features; None: the default, stride 16 or a ViT's middle."""
    outs = backbone.tree.get("out_indices")
    if not isinstance(outs, list | tuple) or not outs or not isinstance(outs[0], int):
        return None
    kind = str(backbone.tree.get("type"))
    if kind.endswith("VisionTransformer") and not kind.startswith("Pyramid"):
        return None if outs[0] == 5 else f"block{outs[0]}"
    return None if outs[0] == 2 else AREAS[outs[0]] if 0 <= outs[0] < 4 else None
