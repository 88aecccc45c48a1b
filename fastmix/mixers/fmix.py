"""FMix: binary masks from low-frequency noise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.mixers.base import InputMixer, check, positive, whole

SPECTRA = ("paper", "official")
CHUNK = 64  # fields transformed at once: bounds the memory of building a bank


def paper_fields(rng: np.random.Generator, n: int, size: tuple[int, int], decay: float) -> np.ndarray:
    """Isotropic Gaussian noise whose amplitude falls as 1 / f**decay. float32 [n,H,W]

    White noise is filtered, so that the field is exactly stationary and symmetric: any flip of it has the same law.
    """
    h, w = size
    frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w))
    amplitude = (np.maximum(frequency, 1 / max(size)) ** -decay).astype(np.float32)
    return np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, h, w), np.float32)) * amplitude, size)


def official_fields(rng: np.random.Generator, n: int, size: tuple[int, int], decay: float) -> np.ndarray:
    """What the authors' code draws: a(y) + b(y) cos(2 pi x / W) + c(y) sin(2 pi x / W), of rank 3. float32 [n,H,W]

    Its array of scaled normals, (H, W/2+1, real or imaginary), is indexed on the first axis instead of the last: the
    rows of vertical frequency 0 and 1/H serve as real and imaginary parts, and the last axis as two horizontal
    frequencies.
    """
    h, w = size
    along = np.fft.fftfreq(w)[: w // 2 + 1 + w % 2]
    frequency = np.hypot(np.fft.fftfreq(h)[: min(h, 2), None], along)
    amplitude = np.maximum(frequency, 1 / max(size)) ** -decay
    parts = rng.standard_normal((n, 2, len(along), 2)) * np.broadcast_to(amplitude, (2, len(along)))[..., None]
    return np.fft.irfft2((parts[:, 0] + 1j * parts[:, 1]).astype(np.complex64), size)


def rank_maps(fields: np.ndarray) -> Tensor:
    """The rank of each pixel in its field [n,H,W], the highest first, so that `rank < k` marks the k highest. [n,H,W]

    int16 with the bits of a uint16 up to 65,536 pixels, above int32.
    """
    n, h, w = fields.shape
    kind = np.uint16 if h * w <= 1 << 16 else np.int32
    order = (-fields).reshape(n, h * w).argsort(1)
    ranks = np.empty((n, h * w), kind)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(h * w, dtype=kind), (n, h * w)), 1)
    return torch.from_numpy(ranks.reshape(n, h, w).view(np.int16 if kind is np.uint16 else kind))


class FMix(InputMixer):
    """out = x_i where a low-frequency random field is among its lam * H * W highest values, x_j elsewhere.

    lam ~ Beta(alpha, alpha); the count is rounded up or down with probability 1/2 each; label weight of y_i =
    count / HW. The field's amplitude is 1 / max(f, 1/max(H,W))**decay at frequency f.
    Harris et al., "FMix: Enhancing Mixed Sample Data Augmentation", arXiv:2002.12047, 2020.

    Cost: one image is read and one written, and 2 bytes a pixel of a rank map. Instead of a new field every step,
    `bank` maps are made on first use of an image size, a function of `seed` alone, and stay on the device (51 MB for
    512 maps of 224 x 224); one map serves every lam. They are never saved: a resumed run makes the same ones.
    spectrum paper: the isotropic field of the paper, flipped along either axis at random (its law allows it).
    spectrum official: the field that the authors' code and OpenMixup draw by mistake, of rank 3 with at most one
    horizontal lobe. All published FMix numbers have it. It has no symmetry, so its maps are never flipped.
    Departs from the authors' code: the bank; partners by a cyclic shift; the label is the mask's mean instead of lam
    (they differ by less than one pixel). Soft masks (max_soft) and the reformulated loss, off in every published
    number, are left out.
    variant openmixup: a random permutation, drawn again up to 10 times while an image meets itself; choose `spectrum:
    official` with it.
    """

    redraws = 10
    openmixup = {"variant": "openmixup", "spectrum": "official"}

    def __init__(
        self,
        alpha: float = 1.0,
        decay: float = 3.0,
        spectrum: str = "paper",
        bank: int = 512,
        seed: int = 0,
        granularity: str = "batch",
        variant: str = "paper",
    ):
        super().__init__(granularity, variant)
        check(self.name, "spectrum", spectrum, SPECTRA)
        self.alpha = positive(self.name, "alpha", alpha)
        self.decay = positive(self.name, "decay", decay, most=10)
        self.maps = whole(self.name, "bank", bank, most=65_536)
        self.seed = whole(self.name, "seed", seed, least=0)
        self.spectrum = spectrum
        self.banks: dict[tuple, Tensor] = {}

    def bank(self, size: tuple[int, int], device: torch.device) -> Tensor:
        """The rank maps of that image size on that device, made on first use. int16 or int32 [bank,H,W]"""
        if (size, device) not in self.banks:
            rng = np.random.default_rng(self.seed)
            fields = paper_fields if self.spectrum == "paper" else official_fields
            chunks = [min(CHUNK, self.maps - k) for k in range(0, self.maps, CHUNK)]
            maps = [rank_maps(fields(rng, n, size, self.decay)) for n in chunks]
            self.banks[size, device] = torch.cat(maps).to(device)
        return self.banks[size, device]

    def plan(self, batch: Batch) -> Plan:
        (h, w), n, rng = batch.size, self.draws(batch), batch.rng
        share = rng.beta(self.alpha, self.alpha, n) * (h * w)
        count = np.where(rng.random(n) < 0.5, np.ceil(share), np.floor(share))
        index = rng.integers(0, self.maps, n)
        flip = rng.integers(0, 4, n) if self.spectrum == "paper" else 0
        return Plan.ranks(self.pair(batch), self.bank(batch.size, batch.images.device), index, count, flip)
