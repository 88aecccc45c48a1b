"""What one must know of a model besides its weights: model.json in a run folder, and metadata of exported weights."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

KEY = "fastmix_model"
"""Of the metadata that safetensors and ONNX files carry; the value is `text`."""


@dataclass(frozen=True)
class Info:
    """A trained model: what builds it, its classes, and how it sees images.

    args          further arguments of timm.create_model
    classes       names, in the order of the logits
    size          pixels a side
    resize        short side before the centre crop of `size`; None: the image is not resized
    mean, std     of each channel, of pixels in [0,1]
    """

    name: str
    classes: list[str]
    size: int
    resize: int | None
    interpolation: str
    mean: tuple[float, ...] | list[float]
    std: tuple[float, ...] | list[float]
    args: dict = field(default_factory=dict)

    @property
    def tree(self) -> dict:
        """What of a config it tells, as nested dicts."""
        args = {key: value for key, value in self.args.items() if key not in ("pretrained", "checkpoint_path")}
        view = {"size": self.size, "val_size": None, "val_resize": self.resize, "interpolation": self.interpolation}
        view |= {"mean": list(self.mean), "std": list(self.std)}
        return {"model": {"name": self.name, "args": args, "classes": len(self.classes)}, "data": view}

    @property
    def text(self) -> str:
        """JSON, on one line."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)


def from_text(text: str, where: object) -> Info:
    """The Info in that JSON; `where` begins the error. Raises ValueError."""
    try:
        return Info(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: no description of a model as fastmix writes it ({error})") from None
