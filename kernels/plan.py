"""Plan: how each image of a batch is combined with a partner, as one small integer table.

A plan says, for every sample i of a batch of uint8 images [B,H,W,3],

    out_i(p) = m_i(p) * x_i(p) + (1 - m_i(p)) * x_partner(i)(p)

where m is the weight of the image *itself*, and how much each of the two labels counts. It holds no pixels and no
model, so it can be made, drawn, tested and logged on its own; `kernels.mix` evaluates m while it normalises, so no
mask tensor ever exists.

One row of 12 int32 (48 bytes) describes a sample, so a whole step's plan is one asynchronous copy to the device and
samples of one batch may differ in kind. Weights are multiples of 2**-16 (`ONE` = 65536): with uint8 pixels the blend
is then exact in fp32, whatever the order of operations or fused multiply-adds, and every implementation of the pass
gives the same bits. Labels are computed from the rounded mask, so they are exact too.

| column | content |
|---|---|
| 0 | kind (below) |
| 1 | partner: index of the other image |
| 2, 3 | own, other: label weights (fp32 bits) |
| 4.. | PLAIN: nothing. BLEND: weight of the image, in 2**-16. BOX: y0 y1 x0 x1, the partner's pixels (half open). |
| | WINDOW: y0 y1 x0 x1 of the box, source y and x of its corner, scale y and x (fp32 bits): the pixel (y,x) of the |
| | box shows the partner at (source + floor((pixel - corner) * scale)), clamped to the image (nearest neighbour). |
| | PROFILE: row of `profiles`. RANKS: row of `bank`, count, flip (1 = along x, 2 = along y): own where rank < count. |
| | BLOCKS: rows, columns of the cell grid: the weights and sources of `blocks`. |
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

PLAIN, BLEND, BOX, WINDOW, PROFILE, RANKS, BLOCKS = range(7)
COLUMNS = 12
ONE = 1 << 16  # weight 1.0 in the table's fixed point


def bits(values) -> np.ndarray:
    """fp32 values as the int32 that holds the same bits."""
    return np.ascontiguousarray(values, dtype=np.float32).view(np.int32)


@dataclass
class Plan:
    """How a batch is mixed. Build one with the class methods, one for each kind of area.

    table    int32 [B,12]    one row a sample, see the module's docstring
    profiles int16 [T,H+W]   PROFILE: the partner's weight is profile[y] * profile[H+x] / 2**16, entries 0..256
    bank     int16 or int32 [M,H,W]  RANKS: rank of each pixel (int16 holds the bits of a uint16)
    blocks   int32 [B,C,3]   BLOCKS: for each cell: first source, second source (image * cells + cell), weight of the
                             first in 2**-16
    """

    table: Tensor
    profiles: Tensor | None = None
    bank: Tensor | None = None
    blocks: Tensor | None = None

    @property
    def kind(self) -> Tensor:
        """int32 [B]"""
        return self.table[:, 0]

    @property
    def partner(self) -> Tensor:
        """int32 [B]: the image that sample i is mixed with."""
        return self.table[:, 1]

    @property
    def own(self) -> Tensor:
        """float32 [B]: weight of the sample's own label."""
        return self.table.view(torch.float32)[:, 2]

    @property
    def other(self) -> Tensor:
        """float32 [B]: weight of the partner's label."""
        return self.table.view(torch.float32)[:, 3]

    def __len__(self) -> int:
        return len(self.table)

    def to(self, device) -> Plan:
        """The plan on `device`; from the host one pinned, asynchronous copy a tensor, without a sync."""
        device = torch.device(device)

        def move(t):
            if t is None or t.device == device:
                return t
            if device.type == "cuda" and t.device.type == "cpu":
                t = t.pin_memory()
            return t.to(device, non_blocking=True)

        return Plan(move(self.table), move(self.profiles), move(self.bank), move(self.blocks))

    # ---- one constructor for each kind of area; arguments are numpy arrays or scalars, broadcast over the batch ----

    @classmethod
    def plain(cls, n: int) -> Plan:
        """Every image stays as it is."""
        return _rows(PLAIN, np.arange(n), 1.0)

    @classmethod
    def blend(cls, partner, own) -> Plan:
        """out = own * x + (1 - own) * x[partner]; `own` in [0, 1] is rounded to 2**-16."""
        weight = np.rint(np.broadcast_to(own, len(partner)) * ONE).astype(np.int32)
        return _rows(BLEND, partner, weight / ONE, weight)

    @classmethod
    def box(cls, partner, y0, y1, x0, x1, size: tuple[int, int]) -> Plan:
        """The partner's pixels inside the half-open box, the image's own outside; size = (H, W)."""
        return _rows(BOX, partner, _outside(y0, y1, x0, x1, size), y0, y1, x0, x1)

    @classmethod
    def window(cls, partner, y0, y1, x0, x1, source_y, source_x, scale_y, scale_x, size: tuple[int, int]) -> Plan:
        """Like `box`, but showing a scaled window of the partner (nearest neighbour)."""
        own = _outside(y0, y1, x0, x1, size)
        scales = [bits(np.broadcast_to(s, len(partner))) for s in (scale_y, scale_x)]
        return _rows(WINDOW, partner, own, y0, y1, x0, x1, source_y, source_x, *scales)

    @classmethod
    def profile(cls, partner, along_y, along_x) -> Plan:
        """Separable mask: the partner's weight is along_y * along_x; arrays [T,H] and [T,W] in [0,1], T = 1 or B.

        Each factor is rounded to 1/256, so that the mask is exact and its mean is the product of two means.
        """
        y, x = (np.rint(np.asarray(v) * 256).astype(np.int16) for v in (along_y, along_x))
        other = y.mean(1, dtype=np.float64) * x.mean(1, dtype=np.float64) / ONE
        plan = _rows(PROFILE, partner, 1 - np.broadcast_to(other, len(partner)), np.arange(len(partner)) % len(y))
        return replace(plan, profiles=torch.from_numpy(np.concatenate([y, x], 1)))

    @classmethod
    def ranks(cls, partner, bank: Tensor, index, count, flip=0) -> Plan:
        """The image's own pixel where the rank map `bank[index]`, flipped, is below `count`."""
        own = np.broadcast_to(count, len(partner)) / (bank.shape[1] * bank.shape[2])
        return replace(_rows(RANKS, partner, own, index, count, flip), bank=bank)

    @classmethod
    def cells(cls, partner, own, size: tuple[int, int]) -> Plan:
        """Cell-wise weights of the image itself: `own` [B,gh,gw] in [0,1], rounded to 2**-16; nearest upsampling."""
        n, gh, gw = own.shape
        weight = np.rint(own * ONE).astype(np.int32)
        area = np.outer(np.diff(cell_edges(size[0], gh)), np.diff(cell_edges(size[1], gw))) / (size[0] * size[1])
        cell, count = np.arange(gh * gw, dtype=np.int32), gh * gw
        first = np.arange(n, dtype=np.int32)[:, None] * count + cell
        second = np.asarray(partner, dtype=np.int32)[:, None] * count + cell
        blocks = np.stack([first, second, weight.reshape(n, -1)], -1).astype(np.int32)
        plan = _rows(BLOCKS, partner, (weight * area).sum((1, 2)) / ONE, gh, gw)
        return replace(plan, blocks=torch.from_numpy(blocks))

    @classmethod
    def select(cls, choice, plans: list[Plan]) -> Plan:
        """One plan whose sample i follows plans[choice[i]]; all on the CPU. Raises ValueError for two rank banks."""
        choice = torch.as_tensor(choice)
        banks = {id(p.bank): p.bank for p in plans if p.bank is not None}
        if len(banks) > 1:
            raise ValueError("a choice by sample has one fmix bank: list one fmix, or choose by batch")
        table = torch.stack([p.table for p in plans])[choice, torch.arange(len(choice))]
        profiles, first = [p.profiles for p in plans if p.profiles is not None], 0
        for k, p in enumerate(plans):
            if p.profiles is not None:  # its rows now begin at `first` of the joined profiles
                table[(choice == k) & (table[:, 0] == PROFILE), 4] += first
                first += len(p.profiles)
        cells = max((p.blocks.shape[1] for p in plans if p.blocks is not None), default=0)
        blocks = torch.zeros(len(choice), cells, 3, dtype=torch.int32) if cells else None
        for k, p in enumerate(plans):
            if p.blocks is not None:
                blocks[choice == k, : p.blocks.shape[1]] = p.blocks[choice == k]
        return cls(table, torch.cat(profiles) if profiles else None, next(iter(banks.values()), None), blocks)


def cell_edges(length: int, cells: int) -> np.ndarray:
    """First pixel of each cell, and the end, [cells+1]: pixel p lies in cell p * cells // length (nearest)."""
    return -(-np.arange(cells + 1) * length // cells)


def _rows(kind: int, partner, own, *params) -> Plan:
    n = len(partner)
    table = np.zeros((n, COLUMNS), np.int32)
    own = np.broadcast_to(np.asarray(own, np.float64), n)
    table[:, 0], table[:, 1], table[:, 2], table[:, 3] = kind, partner, bits(own), bits(1 - own)
    for k, value in enumerate(params):
        table[:, 4 + k] = value
    return Plan(torch.from_numpy(table))


def _outside(y0, y1, x0, x1, size) -> np.ndarray:
    area = (np.asarray(y1, np.int64) - y0) * (np.asarray(x1, np.int64) - x0)
    return 1 - area / (size[0] * size[1])
