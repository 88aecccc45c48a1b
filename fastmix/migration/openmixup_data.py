"""OpenMixup's data: where images come from and its two pipelines, as this project's `data`, `augment` and `erase`."""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath

from fastmix.migration.draft import Draft, Source

PILLOW = {2: "bilinear", 3: "bicubic", "bilinear": "bilinear", "bicubic": "bicubic"}
CIFAR = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}
NO_PARTS = ("ToTensor", "Normalize", "PILToTensor", "Compose")  # what a loader here does anyway
THREE = {"RandomGrayscale", "Solarization", "GaussianBlur"}
BORDER = 32  # pixels around EfficientNet's crop at validation
AREA = (0.02, 1 / 3)  # of an erased box


def put_data(root: Source, draft: Draft) -> None:
    """Everything below `data` of the config, and its sampler."""
    data = root.part("data")
    data.pass_over("workers_per_gpu", "drop_last", "test", "train_dataloader", "val_dataloader")
    _sources(data, draft)
    _training(data.part("train"), draft)
    _validation(data.part("val"), draft)
    _normalised(root, data, draft)
    if root.take("sampler", "DistributedSampler") == "RepeatAugSampler":
        draft.put("data.repeats", 3, "sampler")


def steps(part: Source) -> list[Source]:
    """The pipeline's steps; `part` is data.train or data.val."""
    found = part.take("pipeline", [], (list, tuple))
    part.parts |= {f"pipeline{n}": Source(step, f"{part.name}.pipeline[{n}]") for n, step in enumerate(found)}
    return [part.parts[f"pipeline{n}"] for n in range(len(found))]


def _sources(data: Source, draft: Draft) -> None:
    for name, key in (("train", "data.train"), ("val", "data.val")):
        part = data.part(name)
        part.pass_over("type", "prefetch")
        source = part.part("data_source")
        kind, root = source.take("type"), source.take("root", "", str)
        source.pass_over("split", "splitor")
        if kind in CIFAR:
            draft.put("data.loader", "folder")
            folder = PurePosixPath(root) / CIFAR[kind] / ("test" if name == "val" else name)
            draft.put(key, str(folder), source.path("root"))
        elif listed := source.take("list_file", "", str):
            stem = re.sub(r"[^a-z0-9]", "", PurePosixPath(root.rstrip("/")).parts[1:2][0].lower()) if root else "images"
            draft.put(key, f"{stem}_{name}.beton", source.path("list_file"))
            draft.note(f"{key}: copy {listed} into {root}, then: python -m fastmix.convert "
                       f"{PurePosixPath(root) / PurePosixPath(listed).name} {stem}_{name}.beton")  # fmt: skip
        elif kind is not None:
            draft.note(f"{source.name} is {kind}: name the images yourself, {key}=FILE")


def _training(part: Source, draft: Draft) -> None:
    draft.put("data.flip", 0.0)
    seen = {str(step.tree.get("type")) for step in steps(part)}
    if not seen & {"RandomResizedCrop", "RandomResizedCropForEfficient", "RandomCrop", "RandAugment_timm"}:
        draft.put("data.crop", "centre" if "CenterCrop" in seen else "none")
    for step in steps(part):
        kind = step.take("type")
        if kind in NO_PARTS:
            step.pass_over(*step.tree)
        elif kind in ("RandomResizedCrop", "RandomResizedCropForEfficient"):
            _resized_crop(step, draft)
        elif kind == "RandomCrop":
            _padded_crop(step, draft)
        elif kind == "CenterCrop":
            draft.put("data.size", step.take("size"), step.name)
        elif kind == "RandomHorizontalFlip":
            draft.put("data.flip", step.take("p", 0.5), step.name)
        elif kind == "RandAugment":
            _randaugment(step, draft)
        elif kind == "RandAugment_timm":
            _timm_pipeline(step, draft)
        elif kind == "RandomErasing_numpy":
            _erasing(step, draft)
        elif kind == "ColorJitter":
            draft.put(
                "augment.jitter", [step.take(key, 0) for key in ("brightness", "contrast", "saturation")], step.name
            )
        elif kind == "RandomChoiceTrans" and {t.get("type") for t in step.tree.get("transforms", [])} == THREE:
            step.pass_over("transforms")
            draft.put("augment.kind", "three")
        else:
            step.pass_over(*step.tree)
            extra = " (the crop is resized once here)" if kind == "Resize" else ""
            draft.note(f"{step.name} is {kind}: no equivalent{extra}")


def _resized_crop(step: Source, draft: Draft) -> None:
    draft.put("data.crop", "rrc")
    draft.put("data.size", step.take("size"), step.name)
    for key in ("scale", "ratio"):
        if (value := step.take(key)) is not None:
            draft.put(f"data.{key}", value, step.path(key))
    _interpolated(step, draft)
    if step.take("efficientnet_style"):
        draft.note(f"{step.name}: EfficientNet's way of drawing the crop has no equivalent; it is torchvision's here")


def _padded_crop(step: Source, draft: Draft) -> None:
    draft.put("data.crop", "pad")
    draft.put("data.size", step.take("size"), step.name)
    draft.put("data.pad", step.take("padding", 0), step.path("padding"))
    mode = step.take("padding_mode", "constant")
    draft.put("data.pad_mode", "zeros" if mode == "constant" else mode, step.path("padding_mode"))


def _interpolated(step: Source, draft: Draft) -> None:
    """The one interpolation that training and validation have here."""
    given = step.take("interpolation", 2)
    mode = PILLOW.get(given) if isinstance(given, int | str) else None
    if mode is None:
        draft.note(f"{step.path('interpolation')}={given}: neither bilinear (2) nor bicubic (3); the default stays")
        return
    chosen = draft.tree.get("data", {}).get("interpolation")
    if chosen and chosen != mode:
        draft.note(f"{step.name} is {mode} and training {chosen}: here both are {chosen}")
    else:
        draft.put("data.interpolation", mode)


def _randaugment(step: Source, draft: Draft) -> None:
    policies = step.take("policies", [], (list, tuple))
    names = [policy.get("type") for policy in policies if isinstance(policy, dict)]
    draft.put("augment.kind", "randaugment")
    draft.put("augment.n", step.take("num_policies", 2), step.path("num_policies"))
    level, std = step.take("magnitude_level", 9), step.take("magnitude_std", 0.0)
    draft.put("augment.magnitude", level, step.path("magnitude_level"))
    draft.put("augment.std", math.inf if std == "inf" else std, step.path("magnitude_std"))
    draft.put("augment.variant", "fixmatch" if "Identity" in names else "mmcls")
    if len(names) != (14 if "Identity" in names else 15):
        draft.note(f"{step.path('policies')}: {len(names)} operations; here the set has 15, or FixMatch's 14")
    if (total := step.take("total_level", 10)) != 10:
        draft.note(f"{step.path('total_level')}={total}: magnitudes here go to 10")
    hparams = step.part("hparams")
    if (fill := hparams.take("pad_val")) is not None:
        draft.put("augment.fill", fill, hparams.path("pad_val"))
    draft.put("augment.interpolation", hparams.take("interpolation", "nearest"), hparams.path("interpolation"))


def _timm_pipeline(step: Source, draft: Draft) -> None:
    from fastmix.migration.timm_data import put_auto_augment, put_erasing

    draft.put("data.crop", "rrc")
    draft.put("data.size", step.take("input_size"), step.path("input_size"))
    draft.put("data.flip", step.take("hflip", 0.5), step.path("hflip"))
    _interpolated(step, draft)
    put_auto_augment(draft, step.take("auto_augment"), step.take("color_jitter"), step.path("auto_augment"))
    interpolation = step.take("interpolation", "bicubic")
    draft.put("augment.interpolation", interpolation, step.path("interpolation"))
    put_erasing(draft, step.take("re_prob", 0.0), step.take("re_mode", "const"), step.take("re_count", 1), step.name)
    step.pass_over("mean", "std", "no_aug")


def _erasing(step: Source, draft: Draft) -> None:
    draft.put("erase.prob", step.take("erase_prob", 0.5), step.path("erase_prob"))
    draft.put("erase.mode", "uint8")
    draft.put("erase.mean", step.take("fill_color", [128, 128, 128]), step.path("fill_color"))
    constant = step.take("mode", "const") == "const"
    draft.put("erase.std", [0, 0, 0] if constant else step.take("fill_std"), step.path("fill_std"))
    step.pass_over("fill_std")
    area = step.take("min_area_ratio", AREA[0]), step.take("max_area_ratio", 0.4)
    if not all(
        isinstance(a, int | float) and math.isclose(a, b, abs_tol=1e-3) for a, b in zip(area, AREA, strict=True)
    ):
        draft.note(f"{step.name}: boxes of {area[0]} to {area[1]} of the image; here they are of 0.02 to 1/3")


def _validation(part: Source, draft: Draft) -> None:
    resize, crop = None, None
    for step in steps(part):
        kind = step.take("type")
        if kind == "Resize":
            resize = step.take("size")
            _interpolated(step, draft)
        elif kind == "CenterCrop":
            crop = step.take("size")
        elif kind == "CenterCropForEfficientNet":
            crop = step.take("size")
            resize = crop + BORDER if isinstance(crop, int) else None
            _interpolated(step, draft)
            step.pass_over("efficientnet_style")
        elif kind in NO_PARTS:
            step.pass_over(*step.tree)
        else:
            step.pass_over(*step.tree)
            draft.note(f"{step.name} is {kind}: no equivalent")
    if part.tree:
        size = draft.tree.get("data", {}).get("size", 224)
        if crop is None and isinstance(resize, int):
            crop = resize
        draft.put("data.val_resize", resize, part.name)
        if crop is not None and crop != size:
            draft.put("data.val_size", crop, part.name)


def _normalised(root: Source, data: Source, draft: Draft) -> None:
    """Mean and deviation: of the pipelines, or those that a prefetching loader takes from img_norm_cfg."""
    root.pass_over("img_norm_cfg")
    found = [step.tree for name in ("val", "train") for step in data.part(name).parts.values() if step.tree.get("std")]
    shared = root.tree.get("img_norm_cfg")
    for norm in [*found, *([shared] if isinstance(shared, dict) else [])][:1]:
        draft.put("data.mean", norm.get("mean"), "img_norm_cfg.mean")
        draft.put("data.std", norm.get("std"), "img_norm_cfg.std")
