"""Teacher: a trained network that a method asks and does not train: frozen, in eval mode, beside the run's model."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmix import models
from fastmix.config import Model
from fastmix.models import weights
from fastmix.models.sites import read, sites


class Teacher:
    """A timm model with the weights of a local file: `Teacher("AttentiveMix", "resnet18", "resnet18.safetensors")`.

    It is no nn.Module, so the mixer that holds one has no parameters more: state dicts, optimisers, DDP, `train()` and
    `to()` pass it by, and a resumed run reads its file again. It follows the device of its input, channels-last, and
    computes in the autocast that it is called in.

    mixer  who asks, for messages
    file   what models/weights.py reads: safetensors, a timm checkpoint, one of a run; the moving average where there
           is one. It says how many classes there are: `classes`.

    Raises ValueError of one line for a file that is not given, cannot be read or does not fit, or an unknown model.
    """

    def __init__(self, mixer: str, name: str, file: str | Path | None):
        if file is None:
            raise ValueError(
                f"{mixer}: weights is not given; name a file with the weights of its teacher {name}, such as "
                f"weights={name}.safetensors (nothing is downloaded, and an untrained teacher teaches nothing)"
            )
        self.name, self.device = name, torch.device("cpu")
        try:
            found = weights.read(Path(file)).sets
            values = found.get("ema", found["raw"])
            self.classes = _classes(name, values, file)
            self.model = models.build(Model(name), self.classes)
            weights.put(values, self.model, file)
        except ValueError as error:
            raise ValueError(f"{mixer}: teacher {name}: {error}") from None
        self.model.eval().requires_grad_(False)

    def on(self, device: torch.device) -> nn.Module:
        """The network, in eval mode, on that device; the first call copies it there."""
        if self.device != device:
            self.model.to(device)
            self.device = device
        return self.model

    def logits(self, x: Tensor) -> Tensor:
        """float32 [B, classes] of images [B,3,H,W]; differentiable with respect to x."""
        return self.on(x.device)(x).float()

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """The last stage's map, float32 [B,C,h,w], of images [B,3,H,W]; of a ViT the patches without its tokens."""
        model = self.on(x.device)
        with read(model, [*sites(model)][-1]) as last:
            model.forward_features(x)
        return last.value.float()


def _classes(name: str, values: dict[str, Tensor], file: str | Path) -> int:
    """How many classes weights are for: the rows of the classifier's matrix."""
    with torch.device("meta"):
        model = models.build(Model(name), 1, device="meta")
    classifier = model.get_classifier()
    layers = classifier if isinstance(classifier, tuple) else (classifier,)  # two of them in a distilled DeiT
    key = next(f"{path}.weight" for path, module in model.named_modules() if module is layers[0])
    if key not in values:
        raise ValueError(f"{file}: the weights do not fit the model: there is no {key} in it")
    return len(values[key])


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [B,3,H,W] at another size (H, W), bilinear, channels-last; themselves where they have it."""
    if x.shape[2:] == torch.Size(size):
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False).contiguous(memory_format=torch.channels_last)
