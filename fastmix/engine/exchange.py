"""A trained model as a file for other programs, compared with the model on real images before it gets its name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fastmix import files, optional
from fastmix.engine import loaders, prediction
from fastmix.engine.evaluate import logits
from fastmix.engine.exchange_formats import FORMATS, TEXTS, Format, quietly
from fastmix.engine.trained import Trained
from fastmix.errors import foreign
from fastmix.kernels.mix.reference import constants
from fastmix.models.info import KEY
from fastmix.pipelines.unlabelled import unlabelled

COUNT = 8  # images that are compared,
DRAWINGS = 10  # or one of each shape, where there are none,
BATCHES = (1, 5)  # in batches of these sizes; the one that is traced has two
TOLERANCE = 1e-4  # of logits, and of their largest where that is above 1


@dataclass
class Exported:
    """What was written: the input of the graph, bytes, and how far the file's logits were from the model's."""

    path: Path
    input: str
    size: int
    difference: float
    images: str


class Preprocessed(nn.Module):
    """A model with its normalisation before it: pixels uint8 [B,H,W,3] -> logits."""

    def __init__(self, model: nn.Module, mean, std):
        super().__init__()
        self.model = model
        for name, value in zip(("shift", "scale"), constants(mean, std), strict=True):
            self.register_buffer(name, torch.from_numpy(value).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model((pixels.permute(0, 3, 1, 2).float() - self.shift) * self.scale)


def check(to: str, preprocessing: bool) -> Format:
    """The format of that name. Raises ValueError where a package is missing, or where it holds no preprocessing."""
    kind = FORMATS[to]
    if preprocessing and not kind.graph:
        raise ValueError(f"--with-preprocessing: {to} holds weights and no graph that could preprocess")
    optional.need(f"--to {to}", *kind.packages)
    return kind


def export(trained: Trained, kind: Format, out: Path, preprocessing: bool) -> Exported:
    """Writes a model, loaded on the CPU in fp32, to `out`.

    The graph takes any number of images float32 [B,3,S,S], normalised, or with preprocessing uint8 [B,S,S,3], of the
    model's size. Raises ValueError where it cannot be written, or differs from the model; then nothing is left.
    """
    size, info = trained.info.size, trained.info
    pixels, source = _images(trained)
    blank = torch.zeros(len(pixels), dtype=torch.long)
    expected = logits(trained.model, trained.task, pixels, blank)
    model, given = trained.model, trained.task.batch(pixels, blank).mix().contiguous()
    takes = f"float32 [batch,3,{size},{size}], normalised"
    if preprocessing:
        model, given = Preprocessed(model, info.mean, info.std).eval(), pixels
        takes = f"uint8 [batch,{size},{size},3]"
    told = dict(zip(TEXTS, (info.text, takes), strict=True))
    with files.whole(out) as part:
        with foreign(f"{out}: {info.name} cannot be written as {kind.suffix}"):
            kind.write(model, given[:2].clone(), part, told)
            run, found = kind.read(part, model)
            difference = max(_difference(quietly(run), given, expected, batch) for batch in BATCHES)
        assert found[KEY] == info.text
        if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise ValueError(f"{out}: not written, its logits differ by {difference:.2g} from the model's on {source}")
        return Exported(out, takes, part.stat().st_size, difference, source)


def _difference(run, given: Tensor, expected: Tensor, batch: int) -> float:
    """The largest one of a batch of that size, taken from the end."""
    return float((run(given[-batch:].clone()) - expected[-batch:]).abs().max())


def _images(trained: Trained) -> tuple[Tensor, str]:
    """Pixels uint8 [n,S,S,3] of validation images as the model sees them, or of drawings; and where they are from."""
    cfg = trained.cfg
    cfg = replace(cfg, batch_total=COUNT, accum=1, data=replace(cfg.data, bad="skip"))
    try:
        loader = loaders.validation(cfg, trained.device)
        images, _, valid = next(iter(loader.epoch(0)))
        if valid.sum() >= max(BATCHES):
            return images[valid], f"{int(valid.sum())} images of {loader.source}"
    except (OSError, ValueError):  # the data are not here
        pass
    view = prediction.view(trained.info)
    side = max(view.size, view.resize or 0)
    loader = unlabelled(f"shapes:val?n={DRAWINGS}&size={side}", DRAWINGS, view=view)
    return next(iter(loader.epoch(0)))[0], f"{DRAWINGS} drawings"
