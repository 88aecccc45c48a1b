"""State dicts of OpenMixup, and of mmcls, from which it has its names: renamed to timm's, and nothing else changed.

Renamed are the benchmark's backbones: ResNet and ResNeXt (also with a small stem), ViT and DeiT, Swin, ConvNeXt, PVT,
MogaNet, Wide ResNet, EfficientNet, MobileNetV2. A file of AutoMix or SAMix gives the network that is trained
(backbone_q, with the classifier of mixed images); `parts` gives what else such a method trains.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

Rules = list[tuple[str, str | Callable[[re.Match], str]]]

BODIES = ("backbone_q.", "backbone.", "")  # what the network's names begin with; the first that is there
HEADS = ("head_mix_q.", "head.", "head_mix.", "head_one_q.")
CLASSIFIERS = ("fc", "layers.head", "fc_cls", "head")  # what they call it within the head


def _moved(by: int, text: str) -> Callable[[re.Match], str]:
    """`text` with the number of the match, moved by so many."""
    return lambda match: text.format(int(match[1]) + by)


FFN: Rules = [(r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."), (r"\.ffn\.layers\.1\.", ".mlp.fc2.")]
FAMILIES: dict[str, tuple[str, str, Rules]] = {  # a name that tells it, timm's classifier, and the rules
    "resnet": ("layer1.0.conv1.weight", "fc", []),
    "vit": (
        "layers.0.ln1.weight",
        "head",
        [
            (r"^patch_embed\.projection\.", "patch_embed.proj."),
            (r"^layers\.(\d+)\.ln([12])\.", r"blocks.\1.norm\2."),
            (r"^layers\.(\d+)\.", r"blocks.\1."),
            (r"^ln1\.", "norm."),
            *FFN,
        ],
    ),
    "swin": (
        "stages.0.blocks.0.attn.w_msa.qkv.weight",
        "head.fc",
        [
            (r"^patch_embed\.projection\.", "patch_embed.proj."),
            (r"^stages\.(\d+)\.downsample\.", _moved(1, "layers.{}.downsample.")),
            (r"^stages\.", "layers."),
            (r"\.w_msa\.", "."),
            (r"^norm3\.", "norm."),
            *FFN,
        ],
    ),
    "convnext": (
        "stages.0.0.depthwise_conv.weight",
        "head.fc",
        [
            (r"^downsample_layers\.0\.", "stem."),
            (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
            (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
            (r"\.depthwise_conv\.", ".conv_dw."),
            (r"\.pointwise_conv([12])\.", r".mlp.fc\1."),
            (r"^norm3\.", "head.norm."),
        ],
    ),
    "pvt": (
        "blocks1.0.attn.q.weight",
        "head",
        [
            (r"^patch_embed(\d)\.projection\.", _moved(-1, "stages.{}.patch_embed.proj.")),
            (r"^patch_embed(\d)\.", _moved(-1, "stages.{}.patch_embed.")),
            (r"^pos_embed(\d)$", _moved(-1, "stages.{}.pos_embed")),
            (r"^blocks(\d)\.", _moved(-1, "stages.{}.blocks.")),
            (r"\.ln([12])\.", r".norm\1."),
            (r"\.attn\.sr\.", ".attn.reduce."),
            (r"^cls_token$", "stages.3.cls_token"),
            (r"^norm3\.", "norm."),
            (r"\.ffn\.", ".mlp."),
        ],
    ),
    "moganet": (
        "blocks1.0.attn.proj_1.weight",
        "head",
        [
            (r"^patch_embed1\.projection\.", "stages.0.embed."),
            (r"^patch_embed(\d)\.projection\.", _moved(-1, "stages.{}.embed.0.")),
            (r"^patch_embed(\d)\.norm\.", _moved(-1, "stages.{}.embed.1.")),
            (r"^blocks(\d)\.", _moved(-1, "stages.{}.blocks.")),
            (r"^norm(\d)\.", _moved(-1, "stages.{}.norm.")),
            (r"\.attn\.sigma\.scale$", ".spatial.scale.gamma"),
            (r"\.attn\.proj_1\.", ".spatial.inward."),
            (r"\.attn\.proj_2\.", ".spatial.outward."),
            (r"\.value\.DW_conv0\.", ".value.low."),
            (r"\.value\.DW_conv1\.", ".value.middle."),
            (r"\.value\.DW_conv2\.", ".value.high."),
            (r"\.value\.PW_conv\.", ".value.mix."),
            (r"\.attn\.", ".spatial."),
            (r"\.mlp\.sigma\.scale$", ".channel.scale.gamma"),
            (r"\.mlp\.dwconv\.", ".channel.depthwise."),
            (r"\.mlp\.decompose\.", ".channel.gather."),
            (r"\.mlp\.", ".channel."),
            (r"\.layer_scale_([12])$", r".ls\1.gamma"),
        ],
    ),
    "wide_resnet": (
        "block1.layer.0.convShortcut.weight",
        "head",
        [
            (r"^conv1\.", "stages.0.embed."),
            (r"^bn1\.", "norm."),
            (r"^block(\d)\.layer\.", _moved(-1, "stages.{}.blocks.")),
            (r"\.bn([12])\.", r".norm\1."),
            (r"\.convShortcut\.", ".shortcut."),
        ],
    ),
    "efficientnet": ("layers.1.0.depthwise_conv.conv.weight", "classifier", []),
    "mobilenet_v2": ("layer1.0.conv.0.conv.weight", "classifier", []),
}
BUFFERS = re.compile(r"\.(relative_position_index|attn_mask)$")  # which timm's Swin computes


BLOCK: Rules = [  # of the mix blocks of AutoMix and SAMix
    (r"^(query|key)\.conv\.", r"\1."),
    (r"^value\.conv\.0\.conv\.", "hidden."),
    (r"^value\.conv\.0\.bn\.", "norm."),
    (r"^value\.conv\.1\.conv\.", "value.1."),
]


def renamed(
    given: dict[str, Tensor], bodies: tuple[str, ...] = BODIES, heads: tuple[str, ...] = HEADS
) -> dict[str, Tensor]:
    """The tensors by timm's names, where they are OpenMixup's of a backbone that is known; else as they are.

    Nothing but what belongs to the network is left: no mix block, no second network, no copies of weights from before
    they were averaged. bodies, heads: with what the names of the network, and of its classifier, may begin.
    """
    body = next((body for body in bodies if any(name.startswith(body) for name in given)), "")
    inner = {name.removeprefix(body): value for name, value in given.items() if name.startswith(body)}
    family = next((family for family, (told, _, _) in FAMILIES.items() if told in inner), None)
    head = next((head for head in heads if any(name.startswith(head) for name in given)), None)
    if family is None or (family == "resnet" and not (body and head)):  # ResNets of others have the same names
        return given
    _, classifier, rules = FAMILIES[family]
    if family in ("efficientnet", "mobilenet_v2"):
        out = _inverted(inner, family)
    else:
        out = {_by(rules, name): value for name, value in inner.items() if not BUFFERS.search(name)}
    if family == "swin":
        out = {name: _merged(name, value) for name, value in out.items()}
    if family == "moganet":  # scales are [1,C,1,1] there
        out = {name: value.flatten() if name.endswith(".gamma") else value for name, value in out.items()}
    for name, value in given.items():
        if head and name.startswith(head):
            within, part = name.removeprefix(head).rpartition(".")[::2]
            if within in CLASSIFIERS:
                out[f"{classifier}.{part}"] = value
            elif within == "layers.head_dist":
                out[f"head_dist.{part}"] = value
    return out


def parts(given: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint of AutoMix or SAMix holds besides the network, by the names in fastmix/mixers/momentum.py.

    `teacher`, the moving average; `head` and `teacher_head`, the second classifiers of both; `block`, whose
    convolutions are matrices here. Empty for other files.
    """
    if not any(name.startswith("mix_block.") for name in given):
        return {}
    found = {"teacher": renamed(given, ("backbone_k.",), ("head_mix_k.",))}
    for part, head in (("head", "head_one_q."), ("teacher_head", "head_one_k.")):
        found[part] = {n.rpartition(".")[2]: v for n, v in given.items() if n.startswith(head)}
    block = {n.removeprefix("mix_block."): v for n, v in given.items() if n.startswith("mix_block.")}
    found["block"] = {_by(BLOCK, n): v.flatten(1) if v.ndim == 4 else v for n, v in block.items()}
    return found


def _by(rules: Rules, name: str) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


def _merged(name: str, value: Tensor) -> Tensor:
    """Swin's PatchMerging: its four pixels lie innermost and by rows there, outermost and by columns in timm."""
    if not re.search(r"\.downsample\.(norm|reduction)\.", name):
        return value
    channels = value.shape[-1] // 4
    return value.unflatten(-1, (channels, 4)).transpose(-1, -2)[..., [0, 2, 1, 3], :].flatten(-2)


def _inverted(inner: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    """EfficientNet and MobileNetV2: a row of inverted residual blocks, in stages of one width."""
    if family == "efficientnet":
        last = max(int(match[1]) for name in inner if (match := re.match(r"layers\.(\d+)\.conv\.", name)))
        ends = {"layers.0.": ("conv_stem", "bn1"), f"layers.{last}.": ("conv_head", "bn2")}
        block = re.compile(r"^(layers\.\d+\.\d+)\.(.+)$")
    else:
        ends = {"conv1.": ("conv_stem", "bn1"), "conv2.": ("conv_head", "bn2")}
        block = re.compile(r"^(layer\d+\.\d+)\.(.+)$")
    blocks: dict[str, dict[str, Tensor]] = {}
    out = {}
    for name, value in inner.items():
        if match := block.match(name):
            blocks.setdefault(match[1], {})[match[2]] = value
            continue
        for start, (conv, norm) in ends.items():
            if name.startswith(start):
                out[name.replace(f"{start}conv", conv).replace(f"{start}bn", norm)] = value
    stage, index, width = -1, 0, 0
    for key in sorted(blocks, key=lambda key: [int(n) for n in re.findall(r"\d+", key)]):
        names = _block(blocks[key], family)
        wide = len(names["conv_pwl.weight" if "conv_pwl.weight" in names else "conv_pw.weight"])
        stage, index, width = (stage, index + 1, wide) if wide == width else (stage + 1, 0, wide)
        out |= {f"blocks.{stage}.{index}.{name}": value for name, value in names.items()}
    return out


def _block(block: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    """A block's tensors by timm's names: one that is widened first, or a depthwise one."""
    steps = (
        ["conv.0", "conv.1", "conv.2"] if family == "mobilenet_v2" else ["expand_conv", "depthwise_conv", "linear_conv"]
    )
    there = [step for step in steps if any(name.startswith(f"{step}.") for name in block)]
    rules = [(r"^se\.conv1\.conv\.", "se.conv_reduce."), (r"^se\.conv2\.conv\.", "se.conv_expand.")]
    convs = ["conv_pw", "conv_dw", "conv_pwl"] if len(there) == 3 else ["conv_dw", "conv_pw"]
    for n, (step, conv) in enumerate(zip(there, convs, strict=True), 1):
        rules += [(rf"^{re.escape(step)}\.conv\.", f"{conv}."), (rf"^{re.escape(step)}\.bn\.", f"bn{n}.")]
    return {_by(rules, name): value for name, value in block.items()}
