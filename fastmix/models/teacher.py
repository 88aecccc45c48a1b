"""Teacher: a trained network that a method asks, and that is not trained: frozen, in eval mode, beside the run's model."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmix import models, weights
from fastmix.config import Model


class Teacher:
    """A timm model with the weights of a local file: `Teacher("AttentiveMix", "resnet18", "resnet18.safetensors")`.

    It is no nn.Module, so the mixer that holds one has no parameters more: state dicts, optimisers, DDP, `train()` and
    `to()` pass it by, and a resumed run reads its file again. It follows the device of its input, channels-last, and
    computes in the autocast that it is called in.

    mixer    who asks, for messages
    weights  a file that fastmix/weights.py reads: safetensors, a timm checkpoint, one of a run; the moving average where
             there is one. It says how many classes there are.

    Raises ValueError of one line for weights that are not given, cannot be read or do not fit, or an unknown model.
    """

    def __init__(self, mixer: str, name: str, weights_file: str | Path | None):
        if weights_file is None:
            raise ValueError(
                f"{mixer}: weights is not given; name a file with weights of its teacher {name}, such as "
                f"weights={name}.safetensors (nothing is downloaded, and a teacher is never made up)"
            )
        where = f"{mixer}: weights {weights_file}"
        try:
            sets = weights.read(Path(weights_file)).sets
        except (ValueError, OSError) as error:
            raise ValueError(f"{mixer}: weights: {error}") from None
        values = sets.get("ema", sets["raw"])
        self.name = name
        try:
            self.classes = _classes(name, values)
            self.model = models.build(Model(name), self.classes)
        except ValueError as error:
            raise ValueError(f"{mixer}: teacher: {error}") from None
        weights.put(values, self.model, where)
        self.model.eval().requires_grad_(False)
        self.device = torch.device("cpu")

    def on(self, device: torch.device) -> nn.Module:
        """The network, in eval mode, on that device: copied there by the first call."""
        if self.device != device:
            self.model.to(device)
            self.device = device
        return self.model

    def logits(self, x: Tensor) -> Tensor:
        """float32 [B, classes] of images [B,3,H,W]; differentiable with respect to x."""
        return self.on(x.device)(x).float()

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """The last map before the pooling, float32 [B,C,h,w], of images [B,3,H,W]."""
        return self.on(x.device).forward_features(x).float()


def _classes(name: str, values: dict[str, Tensor]) -> int:
    """How many classes weights are for: the rows of the classifier's matrix."""
    with torch.device("meta"):
        model = models.build(Model(name), 1, device="meta")
    classifier = model.get_classifier()
    layers = classifier if isinstance(classifier, tuple) else (classifier,)  # two of them in a distilled DeiT
    key = next(f"{path}.weight" for path, module in model.named_modules() if module is layers[0])
    if key not in values:
        raise ValueError(f"the weights are not those of a {name}: there is no {key} among them")
    return len(values[key])


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [B,3,H,W] at another size (H, W), bilinear, channels-last; themselves where they have it."""
    if x.shape[2:] == torch.Size(size):
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False).contiguous(memory_format=torch.channels_last)
