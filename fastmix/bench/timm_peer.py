"""timm's way of training, for comparison: its loader, its mixing, and the step of its train script."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

ALPHAS = {"vanilla": (0.0, 0.0), "mixup": (0.2, 0.0), "cutmix": (0.0, 1.0)}  # of what timm has: mixup's and cutmix's


def step(cfg, name: str, device, mode: str, classes: int) -> Callable:
    """A function of a batch on the device: x float [B,3,H,W], normalised, with labels [B] or [B,classes], as the loader
    below gives it; or images uint8 [B,3,H,W] and labels int64 [B], which it normalises and mixes there.

    mode: of torch.compile, or "off". Model, optimiser, precision and memory format are those of the config.
    """
    import torch

    from fastmix import models
    from fastmix.engine import optim
    from fastmix.engine.task import DTYPES

    model = models.build(cfg.model, classes, 0, device).train()
    opt = optim.build(cfg.optim, model)
    if mode != "off":
        model.compile(mode=mode)
    from timm.data import Mixup
    from timm.loss import SoftTargetCrossEntropy

    mixed = any(ALPHAS[name])
    mixup = Mixup(**_mixing(name, classes)) if mixed else None
    loss_of = SoftTargetCrossEntropy() if mixed else torch.nn.CrossEntropyLoss()
    mean, std = (torch.tensor(v, device=device)[:, None, None] * 255 for v in (cfg.data.mean, cfg.data.std))
    scaler = torch.amp.GradScaler(device.type, enabled=cfg.precision == "fp16")

    def take(x, y) -> None:
        if x.dtype == torch.uint8:
            x = x.float().sub_(mean).div_(std)
            x, y = mixup(x, y) if mixup else (x, y)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, DTYPES[cfg.precision], enabled=cfg.precision != "fp32"):
            loss = loss_of(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        opt.zero_grad(set_to_none=True)

    return take


def loader(cfg, name: str, source: str, workers: int, device, classes: int):
    """timm's training loader of image files, with its prefetcher; what timm mixes, its collate function mixes.

    Crops, mirror images and filter are those of the config, and there is no colour jitter. Its processes end with each
    epoch, so that they do not work in another's turn.
    """
    import_module("fastmix.compat")  # before torchvision, which timm imports
    from timm.data import FastCollateMixup, ImageDataset, create_loader
    from timm.data.readers.reader import Reader

    from fastmix.pipelines.packing.layouts import scan

    class Listed(Reader):
        """The files of a listing, in any layout that fastmix knows."""

        def __init__(self, files: list[str], labels: list[int]):
            super().__init__()
            self.files, self.labels = files, labels

        def __len__(self) -> int:
            return len(self.files)

        def __getitem__(self, row: int):
            return open(self.files[row], "rb"), self.labels[row]

        def _filename(self, row: int, basename: bool = False, absolute: bool = False) -> str:
            return self.files[row]

    data, listing = cfg.data, scan(source)
    return create_loader(
        ImageDataset(source, reader=Listed(listing.paths(), [int(label) for label in listing.labels])),
        input_size=(3, data.size, data.size),
        batch_size=cfg.batch_total,
        is_training=True,
        scale=data.scale,
        ratio=data.ratio,
        hflip=data.flip,
        color_jitter=0.0,
        interpolation=data.interpolation,
        mean=data.mean,
        std=data.std,
        num_workers=workers,
        collate_fn=FastCollateMixup(**_mixing(name, classes)) if any(ALPHAS[name]) else None,
        pin_memory=device.type == "cuda",
        device=device,
        persistent_workers=False,
    )


def _mixing(name: str, classes: int) -> dict:
    mixup, cutmix = ALPHAS[name]
    return {"mixup_alpha": mixup, "cutmix_alpha": cutmix, "label_smoothing": 0.0, "num_classes": classes}
