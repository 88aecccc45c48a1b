"""Plan: how each image of a batch is combined with a partner, as one small integer table.

A plan says, for every sample i of a batch of uint8 images [B,H,W,3],

    out_i(p) = m_i(p) * x_i(p) + (1 - m_i(p)) * x_partner(i)(p)

where m is the weight of the image *itself*, and how much each of the two labels counts. It holds no pixels and no
model, so it can be made, drawn, tested and logged on its own; `kernels.mix` evaluates m while it normalises, so no
mask tensor ever exists.

One row of 12 int32 (48 bytes) describes a sample, so a whole step's plan is one asynchronous copy to the device and
samples of one batch may differ in kind. Weights are multiples of 2**-16 (`ONE` = 65536): with uint8 pixels the blend
is then exact in fp32, whatever the order of operations or fused multiply-adds, and every implementation of the pass
gives the same bits. Labels are computed from the rounded mask, so they are exact too (those of MAP to 2**-17).

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
| | CELLS: rows, columns of the cell grid, then one bit a cell, row by row: bit k % 32 of column 6 + k // 32 is set |
| | where the pixels are the image's own; at most 192 cells. |
| | RESIZED: y0 y1 x0 x1 of the box, then y0 y1 x0 x1 of a window of the partner, which the box shows stretched by |
| | bilinear interpolation between corners (align_corners; positions in 1/128 pixel, rounded down). |
| | MAP: row of `maps`: the weight, by bilinear interpolation between the centres of the map's cells (clamped at the |
| | border; positions in 1/128 cell, rounded down), rounded to 2**-16. A map of the image's size is taken as it is. |

The row may be made on the host from a generator, or on the device from what a method saw in the pixels or in the model:
the constructors take numpy arrays, numbers and tensors alike, and what they build lies where `partner` lies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastmix.kernels.host_to_device import constant, send

PLAIN, BLEND, BOX, WINDOW, PROFILE, RANKS, BLOCKS, CELLS, RESIZED, MAP = range(10)
KINDS = 10
COLUMNS = 12
ONE = 1 << 16  # weight 1.0 in the table's fixed point
STEPS = 128  # positions between two pixels or cells, in RESIZED and MAP
MOST_CELLS = 32 * (COLUMNS - 6)  # of a grid of kind CELLS


@dataclass
class Plan:
    """How a batch is mixed. Build one with the class methods, one for each kind of area.

    table    int32 [B,12]    one row a sample, see the module's docstring
    profiles int16 [T,H+W]   PROFILE: the partner's weight is profile[y] * profile[H+x] / 2**16, entries 0..256
    bank     int16 or int32 [M,H,W]  RANKS: rank of each pixel (int16 holds the bits of a uint16)
    blocks   int32 [B,C,3]   BLOCKS: for each cell: first source, second source (image * cells + cell), weight of the
                             first in 2**-16
    maps     int32 [M,h,w]   MAP: weights of the image itself in 2**-16
    sources  int32 [B,K], weights float32 [B,K]   labels of samples with more than two sources (Co-Mixup): sample i has
                             the label of image sources[i,k] to the degree weights[i,k]; they replace partner, own and
                             other
    """

    table: Tensor
    profiles: Tensor | None = None
    bank: Tensor | None = None
    blocks: Tensor | None = None
    maps: Tensor | None = None
    sources: Tensor | None = None
    weights: Tensor | None = None
    kinds: int = (1 << KINDS) - 1  # which kinds the rows may have, a bit each: the pass is built for these alone

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
        return Plan(**{k: send(v, device) if isinstance(v, Tensor) else v for k, v in vars(self).items()})

    def labelled(self, own, other) -> Plan:
        """The same pixels with other label weights: numbers, or one a sample. They need not sum to one."""
        table = self.table.clone()
        floats = table.view(torch.float32)
        floats[:, 2], floats[:, 3] = send(own, table.device), send(other, table.device)
        return replace(self, table=table)

    # ---- one constructor for each kind of area; arguments: arrays, tensors or numbers, broadcast over the batch ----

    @classmethod
    def plain(cls, n: int) -> Plan:
        """Every image stays as it is."""
        return _rows(PLAIN, torch.arange(n, dtype=torch.int32), 1.0)

    @classmethod
    def blend(cls, partner, own) -> Plan:
        """out = own * x + (1 - own) * x[partner]; `own` in [0, 1] is rounded to 2**-16."""
        weight = _fixed(own)
        return _rows(BLEND, partner, weight.double() / ONE, weight)

    @classmethod
    def box(cls, partner, y0, y1, x0, x1, size: tuple[int, int]) -> Plan:
        """The partner's pixels inside the half-open box, the image's own outside; size = (H, W)."""
        return _rows(BOX, partner, _outside(y0, y1, x0, x1, size), y0, y1, x0, x1)

    @classmethod
    def window(cls, partner, y0, y1, x0, x1, source_y, source_x, scale_y, scale_x, size: tuple[int, int]) -> Plan:
        """Like `box`, but showing a scaled window of the partner (nearest neighbour)."""
        own = _outside(y0, y1, x0, x1, size)
        scales = (torch.as_tensor(s).float().view(torch.int32) for s in (scale_y, scale_x))
        return _rows(WINDOW, partner, own, y0, y1, x0, x1, source_y, source_x, *scales)

    @classmethod
    def resized(cls, partner, box: tuple, source: tuple, size: tuple[int, int]) -> Plan:
        """Inside the half-open box (y0, y1, x0, x1) the window `source` of the partner, likewise, stretched bilinearly.

        A window has at least one pixel where its box has one.
        """
        return _rows(RESIZED, partner, _outside(*box, size), *box, *source)

    @classmethod
    def profile(cls, partner, along_y, along_x) -> Plan:
        """Separable mask: the partner's weight is along_y * along_x; arrays [T,H] and [T,W] in [0,1], T = 1 or B.

        Each factor is rounded to 1/256, so that the mask is exact and its mean is the product of two means.
        """
        y, x = (np.rint(np.asarray(v) * 256).astype(np.int16) for v in (along_y, along_x))
        other = y.mean(1, dtype=np.float64) * x.mean(1, dtype=np.float64) / ONE
        plan = _rows(PROFILE, partner, 1 - other, np.arange(len(partner)) % len(y))
        return replace(plan, profiles=torch.from_numpy(np.concatenate([y, x], 1)))

    @classmethod
    def ranks(cls, partner, bank: Tensor, index, count, flip=0) -> Plan:
        """The image's own pixel where the rank map `bank[index]`, flipped, is below `count`."""
        own = np.asarray(count) / (bank.shape[1] * bank.shape[2])
        return replace(_rows(RANKS, partner, own, index, count, flip), bank=bank)

    @classmethod
    def cells(cls, partner, own, size: tuple[int, int]) -> Plan:
        """The image's own pixels in the cells where `own`, bool [B,gh,gw] or [1,gh,gw], is set.

        Pixel p lies in cell p * cells // length: nearest upsampling. A grid of more than 192 cells makes kind BLOCKS.
        """
        own = torch.as_tensor(own)
        n, gh, gw = own.shape
        if gh * gw > MOST_CELLS:
            partner = torch.as_tensor(partner)
            device = own.device if partner.device.type == "cpu" else partner.device
            partner, weight = send(partner, device), send(own, device).flatten(1).expand(len(partner), -1)
            image, cell = torch.arange(len(partner), device=device), torch.arange(gh * gw, device=device)
            places = gh * gw * torch.stack([image, partner.long()])[:, :, None] + cell
            return cls.block(partner, *places, weight, (gh, gw), size)
        flat = F.pad(own.flatten(1).int(), (0, -gh * gw % 32)).view(n, -1, 32)
        words = (flat << torch.arange(32, dtype=torch.int32, device=own.device)).sum(2, dtype=torch.int32)
        return _rows(CELLS, partner, cell_mean(own, size), gh, gw, *words.unbind(1))

    @classmethod
    def block(cls, partner, first, second, weight, grid: tuple[int, int], size: tuple[int, int]) -> Plan:
        """Cell c of sample i shows weight[i,c] of cell first[i,c] and the rest of cell second[i,c].

        first, second: integers [B,C], image * C + cell; weight [B,C] in [0,1], rounded to 2**-16; C = gh * gw, the
        grid. The labels are those of the image itself and of the partner, by the mean of `weight`.
        """
        weight = _fixed(weight)
        table = torch.stack([torch.as_tensor(v).to(weight.device, torch.int32) for v in (first, second, weight)], 2)
        own = cell_mean(weight.view(-1, *grid), size) / ONE
        return replace(_rows(BLOCKS, partner, own, *grid), blocks=table)

    @classmethod
    def map(cls, partner, own, size: tuple[int, int], total: Tensor | None = None) -> Plan:
        """Soft mask: `own` float [B,h,w] in [0,1] on a grid of any size, interpolated bilinearly, rounded to 2**-16.

        Or int32 [B,H,W], in 2**-16 already, with its sums as `total`, int64 [B].
        """
        maps = _fixed(own) if total is None else own
        if maps.shape[1:] == tuple(size):  # whole numbers, whose sum is exact
            mean = (maps.sum((1, 2)) if total is None else total).double() / (ONE * size[0] * size[1])
        else:
            sides = zip(size, maps.shape[1:], strict=True)
            y, x = (constant(map_share, length, cells, device=maps.device) for length, cells in sides)
            mean = torch.einsum("bhw,h,w->b", maps.double(), y, x) / ONE
        row = torch.arange(len(maps), dtype=torch.int32, device=maps.device)
        return replace(_rows(MAP, partner, mean, row), maps=maps)

    @classmethod
    def select(cls, choice, plans: list[Plan]) -> Plan:
        """One plan whose sample i follows plans[choice[i]], on the device if one of them is there.

        A bank stays where it lies. Raises ValueError for two rank banks, for maps of several sizes and for samples of
        more than two sources.
        """
        device = next((p.table.device for p in plans if p.table.device.type != "cpu"), "cpu")
        banks = {id(p.bank): p.bank for p in plans if p.bank is not None}
        choice, plans = send(choice, device), [replace(p, bank=None).to(device) for p in plans]
        if len(banks) > 1:
            raise ValueError("a choice by sample has one fmix bank: list one fmix, or choose by batch")
        grids = {f"{p.maps.shape[1]} x {p.maps.shape[2]}": 0 for p in plans if p.maps is not None}
        if len(grids) > 1:
            raise ValueError(f"a choice by sample has maps of {' and of '.join(grids)} cells: choose by batch")
        if any(p.sources is not None for p in plans):
            raise ValueError("a choice by sample cannot hold samples of more than two sources: choose by batch")
        table = torch.stack([p.table for p in plans])[choice, torch.arange(len(choice), device=device)]
        joined = {}
        for kind, name in ((PROFILE, "profiles"), (MAP, "maps")):
            parts, first = [], 0
            for k, part in enumerate(getattr(p, name) for p in plans):
                if part is not None:  # its rows now begin at `first` of the joined ones
                    table[:, 4] += first * ((choice == k) & (table[:, 0] == kind))
                    first += len(part)
                    parts.append(part)
            joined[name] = torch.cat(parts) if parts else None
        cells = max((p.blocks.shape[1] for p in plans if p.blocks is not None), default=0)
        blocks = torch.zeros(len(choice), cells, 3, dtype=torch.int32, device=device) if cells else None
        for k, p in enumerate(plans):
            if p.blocks is not None:
                part = F.pad(p.blocks, (0, 0, 0, cells - p.blocks.shape[1]))
                blocks = torch.where((choice == k)[:, None, None], part, blocks)
        kinds = reduce(or_, (p.kinds for p in plans))
        return cls(table, bank=next(iter(banks.values()), None), blocks=blocks, kinds=kinds, **joined)


def box_around(centre: tuple, sides: tuple, size: tuple[int, int]) -> tuple:
    """Boxes of 2*(height//2) x 2*(width//2) around pixels (y, x), clipped to the image: y0, y1, x0, x1.

    centre and sides: a pair each of integer arrays, or of tensors on one device, that broadcast.
    """
    edges = []
    for middle, side, length in zip(centre, sides, size, strict=True):
        edges += [(middle - side // 2).clip(0, length), (middle + side // 2).clip(0, length)]
    return tuple(edges)


def cell_edges(length: int, cells: int) -> np.ndarray:
    """First pixel of each cell, and the end, [cells+1]: pixel p lies in cell p * cells // length (nearest)."""
    return -(-np.arange(cells + 1) * length // cells)


def cell_pixels(size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """How many pixels each cell of a grid has. int64 [gh,gw]"""
    return np.outer(*(np.diff(cell_edges(length, cells)) for length, cells in zip(size, grid, strict=True)))


def cell_mean(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean over the pixels of an image of a value a cell, [B,gh,gw] -> float64 [B]."""
    pixels = constant(cell_pixels, tuple(size), tuple(values.shape[1:]), device=values.device)
    return (values * pixels).sum((1, 2)).double() / (size[0] * size[1])  # whole numbers until here: all set is 1


def map_places(length: int, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel along a side: the two cells of a map between whose centres it lies, 128 x the second's share."""
    pixel = np.arange(length, dtype=np.int64)
    if cells == length:
        return pixel, pixel, 0 * pixel
    place = np.clip((2 * pixel + 1) * cells * STEPS // (2 * length) - STEPS // 2, 0, (cells - 1) * STEPS)
    first = place // STEPS
    return first, np.minimum(first + 1, cells - 1), place % STEPS


def map_share(length: int, cells: int) -> np.ndarray:
    """How much each cell of a map counts in the mean over the pixels along a side. float64 [cells]"""
    first, second, step = map_places(length, cells)
    return (np.bincount(first, 1 - step / STEPS, cells) + np.bincount(second, step / STEPS, cells)) / length


def _fixed(weight) -> Tensor:
    weight = torch.as_tensor(weight)
    weight = weight if weight.dtype == torch.float64 else weight.float()  # times a power of two is exact in either
    return (weight * ONE).round_().int()


def _rows(kind: int, partner, own, *params) -> Plan:
    given = [torch.as_tensor(v) for v in (partner, own, *params)]
    device = next((v.device for v in given if v.device.type != "cpu"), given[0].device)
    partner, own, *params = (send(v, device) for v in given)
    table = torch.zeros(len(partner), COLUMNS, dtype=torch.int32, device=device)
    floats = table.view(torch.float32)
    table[:, 0], table[:, 1], floats[:, 2], floats[:, 3] = kind, partner, own, 1 - own
    for k, value in enumerate(params):
        table[:, 4 + k] = value
    return Plan(table, kinds=1 << kind)


def _outside(y0, y1, x0, x1, size) -> Tensor:
    y0, y1, x0, x1 = (torch.as_tensor(v).double() for v in (y0, y1, x0, x1))
    return 1 - (y1 - y0) * (x1 - x0) / (size[0] * size[1])
