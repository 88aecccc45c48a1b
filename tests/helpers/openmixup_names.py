"""A timm model's tensors by the names that OpenMixup gives them: the way back, written apart from fastmix's rules."""

import torch

HEADS = {"resnet": "fc", "vit": "head", "swin": "head.fc", "convnext": "head.fc", "pvt": "head", "moganet": "head",
         "wide_resnet": "head", "efficientnet": "classifier", "mobilenet_v2": "classifier"}  # fmt: skip
VIT_HEADS = ("vit", "pvt")


def theirs(family: str, name: str) -> str:
    """The full name there of a parameter or buffer of timm's."""
    classifier = HEADS[family]
    if name.startswith(f"{classifier}.") and name.count(".") == classifier.count(".") + 1:
        return f"head.{'layers.head' if family in VIT_HEADS else 'fc'}.{name.rpartition('.')[2]}"
    return f"backbone.{BODY[family](name.split('.'))}"


def state(family: str, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's state dict as a checkpoint of OpenMixup has it."""
    out = {theirs(family, name): value.clone() for name, value in model.state_dict().items()}
    for name, value in out.items():
        if family == "swin" and ".downsample." in name:
            out[name] = unfolded(value)
        if family == "moganet" and name.endswith("sigma.scale"):
            out[name] = value.reshape(1, -1, 1, 1)
    return out


def unfolded(value: torch.Tensor) -> torch.Tensor:
    """Columns of 2 x 2 pixels and C channels, from timm's (w, h, C) to those of torch.nn.Unfold, (C, h, w)."""
    c = value.shape[-1] // 4
    order = torch.arange(4 * c).reshape(2, 2, c).permute(2, 1, 0).flatten()
    return value[..., order]


def _vit(p):
    if p[0] == "blocks":
        inside = {"norm1": "ln1", "norm2": "ln2"}.get(p[2])
        if inside:
            return ".".join(["layers", p[1], inside, *p[3:]])
        if p[2] == "mlp":
            return ".".join(["layers", p[1], "ffn.layers", {"fc1": "0.0", "fc2": "1"}[p[3]], p[4]])
        return ".".join(["layers", *p[1:]])
    return ".".join(p).replace("patch_embed.proj", "patch_embed.projection").replace("norm.", "ln1.")


def _swin(p):
    if p[0] == "layers" and p[2] == "downsample":
        return ".".join(["stages", str(int(p[1]) - 1), *p[2:]])
    if p[0] == "layers" and p[4] == "mlp":
        return ".".join(["stages", *p[1:4], "ffn.layers", {"fc1": "0.0", "fc2": "1"}[p[5]], p[6]])
    if p[0] == "layers" and p[4] == "attn":
        return ".".join(["stages", *p[1:5], "w_msa", *p[5:]])
    if p[0] == "layers":
        return ".".join(["stages", *p[1:]])
    return ".".join(["patch_embed", "projection", p[2]] if p[:2] == ["patch_embed", "proj"] else
                    ["norm3", p[1]] if p[0] == "norm" else p)  # fmt: skip


def _convnext(p):
    if p[0] == "stem":
        return ".".join(["downsample_layers", "0", *p[1:]])
    if p[:2] == ["head", "norm"]:
        return f"norm3.{p[2]}"
    if p[2] == "downsample":
        return ".".join(["downsample_layers", p[1], *p[3:]])
    last = ".".join(p[4:]).replace("conv_dw", "depthwise_conv").replace("mlp.fc", "pointwise_conv")
    return f"stages.{p[1]}.{p[3]}.{last}"


def _pvt(p):
    if p[0] == "norm":
        return f"norm3.{p[1]}"
    stage, rest = int(p[1]) + 1, ".".join(p[3:])
    if p[2] == "cls_token":
        return "cls_token"
    if p[2] == "blocks":
        return (
            f"blocks{stage}.{rest}".replace(".mlp.", ".ffn.")
            .replace("attn.reduce", "attn.sr")
            .replace(f"{p[3]}.norm", f"{p[3]}.ln")
        )
    return f"{p[2]}{stage}.{rest}".rstrip(".").replace("proj.", "projection.")


def _moganet(p):
    stage, rest = int(p[1]) + 1, ".".join(p[3:])
    if p[2] == "embed" and stage > 1:
        return f"patch_embed{stage}.{'projection' if p[3] == '0' else 'norm'}.{p[4]}"
    if p[2] == "embed":
        return f"patch_embed1.projection.{rest}"
    if p[2] == "norm":
        return f"norm{stage}.{rest}"
    words = {"spatial.inward": "attn.proj_1", "spatial.outward": "attn.proj_2", "spatial.gate": "attn.gate",
             "spatial.scale.gamma": "attn.sigma.scale", "spatial.value.low": "attn.value.DW_conv0",
             "spatial.value.middle": "attn.value.DW_conv1", "spatial.value.high": "attn.value.DW_conv2",
             "spatial.value.mix": "attn.value.PW_conv", "channel.scale.gamma": "mlp.sigma.scale",
             "channel.depthwise": "mlp.dwconv", "channel.gather": "mlp.decompose", "channel.fc": "mlp.fc",
             "ls1.gamma": "layer_scale_1", "ls2.gamma": "layer_scale_2"}  # fmt: skip
    for ours, there in words.items():
        rest = rest.replace(ours, there)
    return f"blocks{stage}.{rest}"


def _wide(p):
    if p[0] == "norm":
        return f"bn1.{p[1]}"
    if p[2] == "embed":
        return f"conv1.{p[3]}"
    last = ".".join(p[4:]).replace("norm", "bn").replace("shortcut", "convShortcut")
    return f"block{int(p[1]) + 1}.layer.{p[3]}.{last}"


LAYERS = {0: (1, 0), 1: (2, 0), 2: (3, 0), 3: (4, 0), 4: (4, 3), 5: (5, 0), 6: (5, 4)}
"""EfficientNet-B0's stages in timm: the layer that they are in there, and at which place of it they begin."""


def _efficient(p):
    ends = {"conv_stem": "layers.0.conv", "bn1": "layers.0.bn", "conv_head": "layers.6.conv", "bn2": "layers.6.bn"}
    if p[0] in ends:
        return f"{ends[p[0]]}.{p[1]}"
    layer, first = LAYERS[int(p[1])]
    names = {"conv_pw": "expand_conv.conv", "bn1": "expand_conv.bn", "conv_dw": "depthwise_conv.conv",
             "bn2": "depthwise_conv.bn", "conv_pwl": "linear_conv.conv", "bn3": "linear_conv.bn"}  # fmt: skip
    if p[1] == "0":
        names = {"conv_dw": "depthwise_conv.conv", "bn1": "depthwise_conv.bn", "conv_pw": "linear_conv.conv",
                 "bn2": "linear_conv.bn"}  # fmt: skip
    if p[3] == "se":
        inside = {"conv_reduce": "se.conv1.conv", "conv_expand": "se.conv2.conv"}[p[4]]
        return f"layers.{layer}.{first + int(p[2])}.{inside}.{p[5]}"
    return f"layers.{layer}.{first + int(p[2])}.{names[p[3]]}.{p[4]}"


def _mobile(p):
    ends = {"conv_stem": "conv1.conv", "bn1": "conv1.bn", "conv_head": "conv2.conv", "bn2": "conv2.bn"}
    if p[0] in ends:
        return f"{ends[p[0]]}.{p[1]}"
    names = (
        ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"] if p[1] != "0" else ["conv_dw", "bn1", "conv_pw", "bn2"]
    )
    place = names.index(p[3])
    return f"layer{int(p[1]) + 1}.{p[2]}.conv.{place // 2}.{'bn' if place % 2 else 'conv'}.{p[4]}"


BODY = {"resnet": ".".join, "vit": _vit, "swin": _swin, "convnext": _convnext, "pvt": _pvt, "moganet": _moganet,
        "wide_resnet": _wide, "efficientnet": _efficient, "mobilenet_v2": _mobile}  # fmt: skip
