"""What the mixer tests share: batches without pixels or of constant images, and masks read back from the output."""

import inspect

import numpy as np
import torch

from fastmix import MIXERS, Batch, mix
from fastmix.mixers import build
from fastmix.mixers.base import GRANULARITIES, VARIANTS, Mixer
from fastmix.mixers.judged import JudgedMixer

NO_NORM = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
SIDE = 224  # of square images in the tests of expected areas
SOFT = ("mixup", "regmixup", "smoothmix")  # methods whose mask has values between 0 and 1


def only_mixes_input(cls: type[Mixer]) -> bool:
    """Whether a plan, which asks no model, is all that is between the batch and the model."""
    plans = cls.settle is Mixer.settle or cls is MIXERS["saliencymix"]
    return plans and cls.decide is Mixer.decide and cls.forward is Mixer.forward and not issubclass(cls, JudgedMixer)


def rows() -> dict:
    """A config block with every input mixer in every granularity, variant and spectrum."""
    found = {}
    for name, cls in MIXERS.items():
        known = inspect.signature(cls).parameters
        if not only_mixes_input(cls):
            continue
        options = {"alpha": 0.6} if "alpha" in known else {}
        if name == "fmix":
            options["bank"] = 8
        for granularity in GRANULARITIES if "granularity" in known else [None]:
            for variant in VARIANTS if "variant" in known else [None]:
                chosen = {"granularity": granularity, "variant": variant}
                chosen = {key: value for key, value in chosen.items() if value}
                found["-".join([name, *chosen.values()])] = {"mixer": name, **options, **chosen}
    found["fmix-official"] = {"mixer": "fmix", "bank": 8, "spectrum": "official", "granularity": "sample"}
    found["resizemix-uniform"] = {"mixer": "resizemix", "granularity": "sample"}
    children = {
        name: row for name, row in found.items() if "sample" in name and not name.startswith(("fmix", "regmixup"))
    }
    # regmixup has a loss of its own, which a choice by sample does not know
    children.pop("smoothmix-sample-openmixup")  # its labels are not the mask's
    children |= {"fmix": {"bank": 8, "granularity": "sample"}, "vanilla": None}  # one bank a batch
    for granularity in GRANULARITIES:
        found[f"choice-{granularity}"] = {"mixer": "choice", "granularity": granularity, "of": children}
    return found


ROWS = rows()


def mixer_of(row: str) -> Mixer:
    return build(row, ROWS)


def shapes(n: int, size: tuple[int, int], seed: int = 0) -> Batch:
    """A batch of n images without memory of their own, for plans alone."""
    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(n, *size, 3)
    return Batch(images, torch.zeros(n, dtype=torch.int64), np.random.default_rng(seed))


def constants(n: int, size: tuple[int, int], seed: int = 0) -> Batch:
    """Image i has the value 5 + 30 i everywhere and the label i."""
    images = (5 + 30 * torch.arange(n, dtype=torch.uint8))[:, None, None, None].expand(n, *size, 3).contiguous()
    return Batch(images, torch.arange(n), np.random.default_rng(seed))


def noise(n: int, size: tuple[int, int], seed: int = 0) -> Batch:
    images = torch.from_numpy(np.random.default_rng([seed, 1]).integers(0, 256, (n, *size, 3), np.uint8))
    return Batch(images, torch.arange(n) % 3, np.random.default_rng(seed))


def masks(plan, batch: Batch) -> torch.Tensor:
    """The weight of the image itself, read back from mixed constant images; NaN where an image meets itself. [B,H,W]"""
    mixed = mix(batch.images, plan, **NO_NORM)[:, 0].double() * 255
    own = batch.images[:, :1, :1, 0].double()
    other = own[plan.partner.long()]
    return (mixed - other) / (own - other)


class FixedLam(np.random.Generator):
    """A generator whose Beta draws are all `lam`."""

    def __init__(self, lam: float, seed: int = 0):
        super().__init__(np.random.Philox(seed))
        self.lam = lam

    def beta(self, a, b, size):
        return np.full(size, self.lam)


def within(sample: np.ndarray, expected: float, errors: float = 3) -> bool:
    """Whether the mean of the sample is the expected one to that many standard errors."""
    return abs(sample.mean() - expected) <= errors * sample.std(ddof=1) / np.sqrt(len(sample))


def others(name: str, n: int, seed: int = 0, side: int = SIDE, **options) -> np.ndarray:
    """The partner's label weight in n independent draws."""
    return MIXERS[name](granularity="sample", **options).plan(shapes(n, (side, side), seed)).other.double().numpy()


def clipped_length(side: int, length: int) -> float:
    """Expected length of a side of CutMix's box, over its centres, by going through them."""
    return np.mean([min(c + side // 2, length) - max(c - side // 2, 0) for c in range(length)])
