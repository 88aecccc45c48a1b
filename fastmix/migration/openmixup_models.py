"""OpenMixup's backbones by timm's names, and which of a backbone's parameters its lists of what decays miss."""

from __future__ import annotations

import re

from fastmix.migration.draft import Draft, Source

RESNETS = {
    "ResNet": "resnet{depth}",
    "ResNet_Mix": "resnet{depth}",
    "ResNet_CIFAR": "resnet{depth}_cifar",
    "ResNet_Mix_CIFAR": "resnet{depth}_cifar",
    "ResNetV1c": "resnet{depth}c",
    "ResNetV1d": "resnet{depth}d",
    "SEResNet": "seresnet{depth}",
    "ResNeXt": "resnext{depth}_{groups}x{width_per_group}d",
    "ResNeXt_Mix": "resnext{depth}_{groups}x{width_per_group}d",
    "ResNeXt_CIFAR": "resnext{depth}_{groups}x{width_per_group}d_cifar",
    "ResNeXt_CIFAR_Mix": "resnext{depth}_{groups}x{width_per_group}d_cifar",
}
OURS_CIFAR = ("resnet18_cifar", "resnext50_32x4d_cifar")
VITS = {
    "deit-tiny": "deit_tiny_patch16_224",
    "deit-small": "deit_small_patch16_224",
    "deit-base": "deit_base_patch16_224",
    "base": "vit_base_patch16_224",
    "large": "vit_large_patch16_224",
}
ARCHS = {
    "SwinTransformer": ("swin_{arch}_patch4_window7_224", ("tiny", "small", "base", "large")),
    "ConvNeXt": ("convnext_{arch}", ("tiny", "small", "base", "large", "xlarge")),
    "ConvNeXt_CIFAR": ("convnext_{arch}_cifar", ("tiny",)),
    "ConvNeXt_Mix_CIFAR": ("convnext_{arch}_cifar", ("tiny",)),
    "PyramidVisionTransformer": ("pvt_{arch}", ("tiny", "small")),
    "MogaNet": ("moganet_{arch}", ("tiny",)),
    "EfficientNet": ("tf_efficientnet_{arch}", tuple(f"b{n}" for n in range(9))),
}
NAMESAKES = {
    "CSPResNet": "cspresnet{depth}",
    "CSPResNeXt": "cspresnext{depth}",
    "CSPDarkNet": "cspdarknet{depth}",
    "DaViT": "davit_{arch}",
    "DenseNet": "densenet{arch}",
    "EdgeNeXt": "edgenext_{arch}",
    "EfficientFormer": "efficientformer_{arch}",
    "HRNet": "hrnet_{arch}",
    "LeViT": "levit_{arch}",
    "MetaFormer": "{arch}",
    "MobileOne": "mobileone_{arch}",
    "PCPVT": "twins_pcpvt_{arch}",
    "PoolFormer": "poolformer_{arch}",
    "RepVGG": "repvgg_{arch}",
    "StarNet": "starnet_{arch}",
    "SVT": "twins_svt_{arch}",
    "VGG": "vgg{depth}",
}
NORMS = {  # a parameter there, and the patterns of ours for all of its kind
    "resnet": {
        "layer1.0.bn1.weight": ["*bn?.weight"],
        "layer2.0.downsample.1.weight": ["*downsample.1.weight"],
    },
    "vit": {"layers.0.ln1.weight": ["norm"]},
    "swin": {"stages.0.blocks.0.norm1.weight": ["norm"]},
    "convnext": {
        "stages.0.0.norm.weight": ["*norm.weight"],
        "stages.0.0.gamma": ["gamma"],
        "downsample_layers.0.1.weight": ["stem.1.weight", "*downsample.0.weight"],
    },
    "pvt": {
        "patch_embed1.norm.weight": ["*patch_embed.norm.weight"],
        "blocks1.0.attn.norm.weight": ["*attn.norm.weight"],
        "norm3.weight": ["norm.weight"],
        "blocks1.0.ln1.weight": ["*blocks.*.norm?.weight"],
    },
    "moganet": {
        "blocks1.0.norm1.weight": ["*norm*.weight"],
        "patch_embed2.norm.weight": ["stages.[123].embed.1.weight"],
        "blocks1.0.layer_scale_1": ["gamma"],
        "patch_embed1.projection.1.weight": ["stages.0.embed.1.weight", "stages.0.embed.4.weight"],
    },
}
FAMILIES = {  # part of the type's name; the first counts
    "Pyramid": "pvt",
    "VisionTransformer": "vit",
    "Swin": "swin",
    "ConvNeXt": "convnext",
    "MogaNet": "moganet",
}
TOKENS = {  # and what has them
    "cls_token": "VisionTransformer",
    "pos_embed": "VisionTransformer",
    "relative_position_bias_table": "Swin",
}


def put_model(backbone: Source, draft: Draft) -> None:
    """model.name and model.args of a backbone."""
    kind = str(backbone.take("type"))
    arch = str(backbone.take("arch", "")).lower()
    backbone.pass_over("num_stages", "style", "out_indices", "init_cfg", "act_cfg", "return_attn", "in_channels")
    name, args = _named(kind, arch, backbone, draft)
    if name is None:
        what = f"{kind} {arch or backbone.take('depth', '')}".strip()
        name = re.sub(r"\W+", "_", what.lower())
        draft.note(f"model.backbone is {what}: no model here is known to be that; set model.name")
    norm = backbone.part("norm_cfg")
    if norm.take("type") == "SyncBN":
        draft.put("model.sync_bn", True)
    norm.pass_over("eps", "momentum", "requires_grad")
    for theirs, ours in (("drop_path_rate", "drop_path_rate"), ("drop_rate", "drop_rate")):
        if rate := backbone.take(theirs):
            args[ours] = rate
    if unused := backbone.take("drop_path"):
        draft.note(
            f"model.backbone.drop_path={unused} has no effect there (the option is drop_path_rate), and none here"
        )
    side = backbone.take("img_size", 224)
    if "_224" in name and side != 224:
        args["img_size"] = side
    frozen = backbone.take("frozen_stages", -1, int)
    if frozen >= 0:
        stages = [f"layer{n}" for n in range(1, frozen + 1)]
        draft.put("model.freeze", ["conv1", "bn1", *stages], "model.backbone.frozen_stages")
    draft.put("model.name", name)
    if args:
        draft.put("model.args", args, "model.backbone")


def _named(kind: str, arch: str, backbone: Source, draft: Draft) -> tuple[str | None, dict]:
    """timm's name, None where there is none, and arguments."""
    if kind == "TIMMBackbone":
        backbone.pass_over("features_only", "pretrained", "checkpoint_path")
        return str(backbone.take("model_name")), {}
    if kind in RESNETS:
        words = {"depth": 50, "groups": 32, "width_per_group": 4}
        name = RESNETS[kind].format(**{key: backbone.take(key, default) for key, default in words.items()})
        return (name, {}) if "cifar" not in name or name in OURS_CIFAR else (None, {})
    if kind in ("WideResNet", "WideResNet_Mix"):
        shape = backbone.take("depth"), backbone.take("widen_factor")
        backbone.pass_over("first_stride")
        return ("wrn28_8_cifar", {"benchmark": True}) if shape == (28, 8) else (None, {})
    if kind in ("VisionTransformer", "ToMeVisionTransformer", "DistilledVisionTransformer"):
        name = VITS.get(arch) if backbone.take("patch_size", 16) == 16 else None
        if kind.startswith("Distilled") and name:
            name = name.replace("_patch16", "_distilled_patch16")
            backbone.pass_over("with_dis_token")
        return name, {}
    if kind == "MobileNetV2":
        return ("mobilenetv2_100" if backbone.take("widen_factor", 1.0) == 1.0 else None), {}
    if kind in ARCHS and not backbone.tree.get("use_grn"):
        backbone.pass_over("gap_before_final_norm")
        template, archs = ARCHS[kind]
        args = {}
        if kind == "MogaNet":
            backbone.pass_over("init_value", "stem_norm_cfg", "conv_norm_cfg")
            args = {"double_silu": True} if backbone.take("attn_force_fp32", False) else {}
        return (template.format(arch=arch), args) if arch in archs else (None, {})
    if kind in NAMESAKES:
        draft.note(f"model.backbone is {kind}: timm's network of that name stands here; the two were not compared")
        return NAMESAKES[kind].format(arch=arch, depth=backbone.take("depth", "")), {}
    return None, {}


def put_no_decay(rules: Source, kind: str, draft: Draft) -> None:
    """optim.no_decay of regular expressions that set the weight decay of what they find to 0."""
    spared = []
    for pattern in rules.tree:
        rule = rules.part(pattern)
        if rule.tree.get("weight_decay") == 0 and rule.take("weight_decay") == 0:
            spared.append(pattern)
    if not spared:
        return
    try:
        hit = [re.compile(pattern) for pattern in spared]
    except re.error as error:
        draft.note(f"{rules.name}: {error} in a pattern; optim.no_decay is left empty")
        return

    def spares(name: str) -> bool:
        return any(pattern.search(name) for pattern in hit)

    family = "resnet" if kind in RESNETS else next((f for part, f in FAMILIES.items() if part in kind), "")
    norms = NORMS.get(family, {"norm.bn1.weight": ["norm"]})  # others' norms are called by one of these names
    found = [pattern for name, patterns in norms.items() if spares(name) for pattern in patterns]
    out = ["norm"] if all(map(spares, norms)) else found
    out += ["bias"] if spares("fc.bias") else []
    out += [name for name, part in TOKENS.items() if spares(name) and part in kind]
    draft.put("optim.no_decay", out, rules.name)
    if out[:1] != ["norm"]:
        missed = [name for name in norms if not spares(name)]
        draft.note(f"optim.no_decay: as there, {', '.join(missed)} and their like decay; [norm, bias, ...] spares all")
