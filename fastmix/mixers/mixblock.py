"""Mix blocks: from features of two images, where the mixture shows which, as logits on the features' grid.

Projections are 1x1 convolutions, so they are made once of a batch and serve every pairing: a partner's are permuted,
and what depends on lambda is added or multiplied afterwards. `project` gives them, `forward` the logits of a pairing.
Lambdas are float64 scalars on the device, or numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Projected = tuple[torch.Size, list[Tensor]]  # (h, w) and projections [B,h*w,d]


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """sum_j softmax_j(q_i . k_j / sqrt(d)) v_j, in float32: query, key [B,L,d], value [B,L,1] -> [B,L]."""
    with torch.autocast(query.device.type, enabled=False):
        scores = query.float() @ key.float().mT / query.shape[-1] ** 0.5
        return (scores.softmax(-1) @ value.float()).squeeze(-1)


def start(block: nn.Module) -> None:
    """Weights N(0, 0.01), biases 0, as in the authors' code: the mask begins near 1/2 everywhere."""
    for module in block.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def tokens(z: Tensor) -> Tensor:
    """[B,C,h,w] -> [B,h*w,C], without a copy where the features are channels-last."""
    return z.permute(0, 2, 3, 1).flatten(1, 2)


def times(factor, x: Tensor) -> Tensor:
    """factor * x, rounded once: in half precision a scalar tensor would be rounded before."""
    return (factor * x.float()).to(x.dtype)


def rescaled(lam, k: float):
    """SAMix's lambda: a cubic that is odd about 1/2 and keeps 0 and 1, the nearer to lam the larger k; k < 0: lam."""
    return lam if k < 0 else (4 / 3 * lam**3 - 2 * lam**2 + (k + 1) * lam) / (k + 1 / 3)


class AutoMixBlock(nn.Module):
    """M_i = sum_j softmax_j(W a_i . W b_j / sqrt(d)) v b_j, a and b the features of an image and its partner, d = C/2.

    Liu et al., ECCV 2022. lam_concat: a and b have one channel more, which is lam and 1 - lam everywhere.
    33k parameters at C = 256, 74k at 384, 526k at 1024.
    """

    def __init__(self, channels: int, lam_concat: bool = True):
        super().__init__()
        self.channels, self.lam_concat = channels, lam_concat
        self.query = nn.Linear(channels + lam_concat, channels // 2)
        self.value = nn.Linear(channels + lam_concat, 1)
        start(self)

    def project(self, z: Tensor) -> Projected:
        x = tokens(z)
        return z.shape[2:], [F.linear(x, layer.weight[:, : self.channels]) for layer in self.children()]

    def offset(self, layer: nn.Linear, lam: Tensor) -> Tensor:
        """What the bias and the channel of lambda add to a projection."""
        return layer.bias + lam * layer.weight[:, -1] if self.lam_concat else layer.bias

    def forward(self, projected: Projected, partner: Tensor, lam: Tensor) -> Tensor:
        """Logits of the partner's mask, float32 [B,h,w]; partner int32 [B], lam the weight of the images themselves."""
        size, (query, value) = projected
        other = partner.long()
        own = query + self.offset(self.query, lam)
        key = query[other] + self.offset(self.query, 1 - lam)
        return attend(own, key, value[other] + self.offset(self.value, 1 - lam)).unflatten(1, size)


class SAMixBlock(nn.Module):
    """M_i = sum_j softmax_j(Q c_i . K c_j / sqrt(d)) v(b_j), c = [a; b], a = (1 + l) z_i, b = (2 - l) z_j, d = C/2.

    Li et al. 2021; z_i are the image's features, z_j its partner's. v is Linear - batch-norm - ELU - Linear - Dropout;
    l = lam where k < 0, else `rescaled`. As lam is that of the whole batch, b's factor is lost in the batch-norm:
    lambda changes the mask through Q and K alone.
    164k parameters at C = 256, 370k at 384, 2.62M at 1024.
    """

    def __init__(self, channels: int, k: float = -1.0, dropout: float = 0.1):
        super().__init__()
        self.channels, self.k = channels, k
        self.query = nn.Linear(2 * channels, channels // 2)
        self.key = nn.Linear(2 * channels, channels // 2)
        self.hidden = nn.Linear(channels, channels // 2, bias=False)
        self.norm = nn.BatchNorm1d(channels // 2)
        self.value = nn.Sequential(nn.ELU(), nn.Linear(channels // 2, 1, bias=False), nn.Dropout(dropout))
        start(self)

    def project(self, z: Tensor) -> Projected:
        halves = [half for layer in (self.query, self.key) for half in layer.weight.split(self.channels, 1)]
        weight = torch.cat([*halves, self.hidden.weight])
        return z.shape[2:], list(F.linear(tokens(z), weight).chunk(5, -1))

    def forward(self, projected: Projected, partner: Tensor, lam: Tensor) -> Tensor:
        """As that of AutoMixBlock."""
        size, (query_a, query_b, key_a, key_b, hidden) = projected
        a, b = 1 + rescaled(lam, self.k), 2 - rescaled(lam, self.k)
        other = partner.long()
        query = times(a, query_a) + times(b, query_b[other]) + self.query.bias
        key = times(a, key_a) + times(b, key_b[other]) + self.key.bias
        value = self.value(self.norm(times(b, hidden).flatten(0, 1))).unflatten(0, hidden.shape[:2])
        return attend(query, key, value[other]).unflatten(1, size)


class AdAutoMixBlock(AutoMixBlock):
    """M_n = softmax(sum_{m != n} q_n k_m' / sqrt(d)) v_n for each of K images, q = ReLU(Q z), k = ReLU(K z), d = C/2.

    Qin et al., ICLR 2024; the mask of image n is the softmax over n of the M_n at the size of the images. The values
    are those of image n itself, though the sum runs over places of the others, as in the authors' code.
    lam_concat: the features of image n have one channel more, which is its weight everywhere.
    """

    def __init__(self, channels: int, lam_concat: bool = True):
        super().__init__(channels, lam_concat)
        self.key = nn.Linear(channels + lam_concat, channels // 2)
        start(self)

    def forward(self, projected: Projected, partners: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
        """M float32 [B,K,h,w]; partners: K times int32 [B], weights: those of the K images."""
        size, (query, value, key) = projected
        chosen = [(partner.long(), weight) for partner, weight in zip(partners, weights, strict=True)]
        queries = [(query[at] + self.offset(self.query, w)).relu() for at, w in chosen]
        keys = [(key[at] + self.offset(self.key, w)).relu() for at, w in chosen]
        found = []
        for n, (at, w) in enumerate(chosen):
            others = torch.stack([k.float() for m, k in enumerate(keys) if m != n]).sum(0)
            found.append(attend(queries[n], others, value[at] + self.offset(self.value, w)))
        return torch.stack(found, 1).unflatten(2, size)
