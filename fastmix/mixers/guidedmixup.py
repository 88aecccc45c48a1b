"""GuidedMixup: each pixel shared in the ratio of the two saliencies, among images that are salient at other places."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.farthest import farthest
from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows import plan_rows
from fastmix.kernels.plan_rows.rules import Ratio
from fastmix.kernels.spectral import blur, spectral_residual
from fastmix.mixers.base import check, positive
from fastmix.mixers.gradient import GradientMixer

SALIENCIES = ("sr", "ap")
PAIRINGS = ("greedy", "random")
PROBS = {"sr": 0.5, "ap": 0.8}
GREY = (0.2989, 0.587, 0.114)  # torchvision's
POOLED = 28  # cells a side of the maps whose distances pair the images


@dataclass
class Drawn:
    """The partner of each image, int32 [B], where it is drawn."""

    partner: Tensor | None


class GuidedMixup(GradientMixer):
    """out = m x_i + (1 - m) x_j, m = s_i / (s_i + s_j) at each pixel; label weight of y_i = mean(m).

    s is the saliency, blurred (Gaussian, 7x7 taps, standard deviation 3) and divided by its sum; where both are 0, m is
    1/2. There is no lambda. Kang, Kim, "GuidedMixup: An Efficient Mixup Strategy Guided by Saliency Maps", AAAI 2023.

    saliency       "sr": the spectral residual of the grey, normalised image, without the model; "ap": the root mean
                   square over channels of the loss's gradient with respect to the pixels (GradientMixer)
    pairing        "greedy" (default): from the two images with the most distant maps on, always the farthest one left,
                   in one cycle through the batch. "random": a cyclic shift
    mix_prob       chance that a batch is mixed and not clean; default 0.5 (sr), 0.8 (ap)
    clean_lam, saliency_size: of GradientMixer, for ap

    Cost: each image is read twice and written once, and a weight of 4 bytes a pixel. sr: a pass that normalises, an FFT
    and an inverse one of 128 x 128 an image, two blurs; ap: that of GradientMixer. Pairing: a product of the maps,
    28 x 28, and B steps on one processor of the GPU.
    Departs from the authors' code: greedy pairing takes place (their CIFAR and Tiny-ImageNet script asks for it by a
    misspelt name and falls through to a random permutation), by distances of maps of 28 x 28 cells instead of all
    pixels; ap asks the model in eval mode unless clean_lam is given (theirs: train mode); images are resized with
    antialiasing before the spectral residual; one of a single colour has the same saliency everywhere.
    variant openmixup: pairing by a random permutation and mix_prob 1, unless they are given.
    """

    drawn = ""

    def __init__(
        self,
        saliency: str = "sr",
        pairing: str | None = None,
        mix_prob: float | None = None,
        clean_lam: float = 0.0,
        saliency_size: int | None = None,
        variant: str = "paper",
    ):
        super().__init__(clean_lam, saliency_size, "sample", variant)
        check(self.name, "saliency", saliency, SALIENCIES)
        if saliency == "sr" and (clean_lam or saliency_size is not None):
            raise ValueError(f"{self.name}: clean_lam and saliency_size belong to saliency ap; leave them out with sr")
        paper = variant == "paper"
        if pairing is None:
            pairing = "greedy" if paper else "random"
        check(self.name, "pairing", pairing, PAIRINGS)
        if mix_prob is None:
            mix_prob = PROBS[saliency] if paper else 1.0
        self.saliency, self.pairing = saliency, pairing
        self.mix_prob = positive(self.name, "mix_prob", mix_prob, most=1)

    def guide(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Tensor:
        """float [B,C,h,w], whose root mean square over C is the saliency: the gradient, or the saliency itself."""
        if self.saliency == "ap":
            return super().guide(model, batch, criterion)
        return spectral_residual(replace(batch, dtype=torch.float32).mix(), GREY)[:, None]

    def draw(self, batch: Batch, grid: tuple[int, int] | None) -> Drawn:
        return Drawn(None if self.pairing == "greedy" else torch.from_numpy(self.pair(batch)))

    def put(self, batch: Batch, guide: Tensor, drawn: Drawn) -> Plan:
        (saliency, *others), size = guide.float().unbind(1), batch.size
        if self.saliency == "ap":
            saliency = saliency.square()
            for channel in others:  # a mean over channels, which lie side by side, takes twice as long on the CPU
                saliency.addcmul_(channel, channel)
            saliency.div_(guide.shape[1]).sqrt_()
        mean = blur(saliency, size, (1, 1)).flatten()
        scale = 1 / mean.clamp(min=torch.finfo(torch.float32).tiny)
        if self.pairing == "greedy":
            cells = blur(saliency, size, tuple(min(length, POOLED) for length in size))
            partner = farthest(distances(cells * scale[:, None, None]))
        else:
            partner = drawn.partner
        maps = blur(saliency, size, out=memory(batch, torch.float32))
        return plan_rows(Ratio(maps, scale, memory(batch, torch.int32)), partner, size)

    def mixes(self, batch: Batch) -> bool:
        return batch.rng.random() < self.mix_prob


def memory(batch: Batch, dtype: torch.dtype) -> Tensor | None:
    """Reused memory for a map of each image, [B,H,W], on the CPU; None: fresh memory, which takes longer."""
    if batch.buffers is None or batch.images.device.type != "cpu":
        return None
    return batch.buffers.next((len(batch), 1, *batch.size), dtype, True)[:, 0]


def distances(maps: Tensor) -> Tensor:
    """Euclidean distances, float32 [B,B], of maps float32 [B,h,w]."""
    flat = maps.flatten(1)
    flat = flat - flat.mean(0)  # of what all have in common a product would keep the rounding only
    return torch.cdist(flat, flat, compute_mode="use_mm_for_euclid_dist")
