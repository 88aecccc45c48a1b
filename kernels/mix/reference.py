"""The mixing pass in plain torch, as its equation stands in kernels/mix: what every implementation must equal."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastmix.kernels import plan as P
from fastmix.kernels.erase import LEVELS, Erase
from fastmix.kernels.plan import Plan


def constants(mean, std) -> tuple[np.ndarray, np.ndarray]:
    """float32 [3] each: 255 mean_c, which is subtracted, and 1 / (255 std_c), by which is multiplied."""
    mean, std = (np.asarray(v, np.float64) for v in (mean, std))
    if mean.shape != (3,) or std.shape != (3,) or not (std > 0).all():
        raise ValueError(f"mix: mean and std must be 3 numbers each, std above 0, not {mean} and {std}")
    return (mean * 255).astype(np.float32), (1 / (std * 255)).astype(np.float32)


def normalising(images: Tensor, mean, std) -> tuple[np.ndarray, np.ndarray]:
    """The constants for these images: floats are normalised already, and stay as they are."""
    if images.dtype == torch.uint8:
        return constants(mean, std)
    return np.zeros(3, np.float32), np.ones(3, np.float32)


def reference(
    images: Tensor, plan: Plan | None, mean, std, dtype: torch.dtype = torch.float32, *, erase: Erase | None = None
) -> Tensor:
    """`mix` in plain torch: builds every mask and, for every pixel, the places of its two sources."""
    n, height, width, _ = images.shape
    pixels = erased_pixels(images, erase).reshape(-1, 3)
    sample, y, x = (torch.arange(k, device=images.device) for k in (n, height, width))
    place = (sample[:, None, None] * height + y[:, None]) * width + x  # [B,H,W] own pixel
    weight, first, second = torch.full_like(place, P.ONE), place.clone(), place.clone()
    for kind, area in _AREAS.items():
        rows = torch.nonzero(plan.kind == kind).flatten() if plan is not None else []
        if len(rows):
            table = plan.table[rows]
            other = (table[:, 1, None, None].long() * height + y[:, None]) * width + x
            weight[rows], first[rows], second[rows] = area(plan, rows, table, place[rows], other, y[:, None], x)
    a, b = pixels[first], pixels[second]
    rows = torch.nonzero(plan.kind == P.RESIZED).flatten() if plan is not None else []
    if len(rows):
        b[rows] = _stretched(plan.table[rows].long(), pixels.view(n, height, width, 3), y[:, None], x)
    weight = (weight * 2.0**-16).float()[..., None]
    mixed = torch.where(weight == 1, a, b + weight * (a - b))
    shift, scale = (torch.from_numpy(v).to(images.device) for v in normalising(images, mean, std))
    return ((mixed - shift) * scale).to(dtype).permute(0, 3, 1, 2)


def erased_pixels(images: Tensor, erase: Erase | None) -> Tensor:
    n, height, width, _ = images.shape
    pixels = images.float()
    if erase is None:
        return pixels
    y0, y1, x0, x1, seed = erase.boxes.long()[:, :, None, None, None].unbind(1)
    y, x, c = (torch.arange(k, device=images.device) for k in (height, width, 3))
    y, x = y[:, None, None], x[:, None]
    h = ((y * width + x) * 3 + c) ^ (seed & 0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):  # a wrapped int64 product has the right low half
        h = (h ^ (h >> shift)) * factor & 0xFFFFFFFF
    noise = erase.fill[c.expand(h.shape), (h ^ (h >> 16)) & (LEVELS - 1)]
    return torch.where((y >= y0) & (y < y1) & (x >= x0) & (x < x1), noise, pixels)


# Each of these gives, for rows [n] of the plan: the own weight in 2**-16, and the places of both sources, [n,H,W].


def _plain(plan, rows, table, own, other, y, x):
    return P.ONE, own, own


def _blend(plan, rows, table, own, other, y, x):
    return table[:, 4, None, None].long(), own, other


def _box(plan, rows, table, own, other, y, x):
    y0, y1, x0, x1 = table[:, 4:8, None, None].unbind(1)
    return P.ONE * (1 - ((y >= y0) & (y < y1) & (x >= x0) & (x < x1)).long()), own, other


def _window(plan, rows, table, own, other, y, x):
    y0, _, x0, _, source_y, source_x = table[:, 4:10, None, None].unbind(1)
    scale_y, scale_x = table.view(torch.float32)[:, 10:, None, None].unbind(1)
    height, width = own.shape[1:]
    from_y = (source_y + ((y - y0) * scale_y).floor().long()).clamp(0, height - 1)
    from_x = (source_x + ((x - x0) * scale_x).floor().long()).clamp(0, width - 1)
    partner = table[:, 1, None, None].long()
    return _box(plan, rows, table, own, other, y, x)[0], own, (partner * height + from_y) * width + from_x


def _profile(plan, rows, table, own, other, y, x):
    height = own.shape[1]
    profile = plan.profiles[table[:, 4].long()].long()
    return P.ONE - profile[:, :height, None] * profile[:, None, height:], own, other


def _ranks(plan, rows, table, own, other, y, x):
    rank = plan.bank[table[:, 4].long()].long()
    if plan.bank.dtype == torch.int16:
        rank = rank & 0xFFFF
    flip = table[:, 6, None, None]
    rank = torch.where((flip & 1) > 0, rank.flip(2), rank)
    rank = torch.where((flip & 2) > 0, rank.flip(1), rank)
    return P.ONE * (rank < table[:, 5, None, None]).long(), own, other


def _blocks(plan, rows, table, own, other, y, x):
    height, width = own.shape[1:]
    gh, gw = table[:, 4:6, None, None].long().unbind(1)
    cy, cx = y * gh // height, x * gw // width
    cell = (cy * gw + cx).flatten(1)
    entry = plan.blocks[rows].long().gather(1, cell[..., None].expand(-1, -1, 3)).view(len(rows), height, width, 3)

    def source(index):
        image, source_cell = index // (gh * gw), index % (gh * gw)
        sy, sx = source_cell // gw, source_cell % gw
        from_y = (y + _start(sy, height, gh) - _start(cy, height, gh)).clamp(max=height - 1)
        from_x = (x + _start(sx, width, gw) - _start(cx, width, gw)).clamp(max=width - 1)
        return (image * height + from_y) * width + from_x

    return entry[..., 2], source(entry[..., 0]), source(entry[..., 1])


def _cells(plan, rows, table, own, other, y, x):
    height, width = own.shape[1:]
    gh, gw = table[:, 4:6, None, None].long().unbind(1)
    cell = (y * gh // height * gw + x * gw // width).flatten(1)
    word = table.gather(1, 6 + cell // 32).view(own.shape)
    return P.ONE * (word >> (cell % 32).view(own.shape) & 1).long(), own, other


def _map(plan, rows, table, own, other, y, x):
    maps = plan.maps[table[:, 4].long()].long()
    sides = (P.map_places(length, cells) for length, cells in zip(own.shape[1:], maps.shape[1:], strict=True))
    (top, bottom, down), (left, right, across) = ([torch.from_numpy(v).to(own.device) for v in side] for side in sides)
    rows = maps[:, top] * (P.STEPS - down)[:, None] + maps[:, bottom] * down[:, None]
    weight = rows[:, :, left] * (P.STEPS - across) + rows[:, :, right] * across
    return (weight + P.STEPS**2 // 2) // P.STEPS**2, own, other


def _stretched(table, images, y, x):
    """What the boxes of RESIZED rows show, float [n,H,W,3]: outside of the boxes nothing that is used."""
    n, height, width, _ = images.shape
    partner, edges = table[:, 1, None, None], table[:, 4:, None, None].unbind(1)

    def place(pixel, low, high, first, last, length):
        step = (pixel - low).clamp(min=0) * (last - first - 1) * P.STEPS // (high - low - 1).clamp(min=1)
        cell = first + step // P.STEPS
        return cell.clamp(0, length - 1), (cell + 1).clamp(0, length - 1), (step % P.STEPS)[..., None].float()

    top, bottom, down = place(y, *edges[:2], *edges[4:6], height)
    left, right, across = place(x, *edges[2:4], *edges[6:8], width)
    over, under = (
        images[partner, y, left] * (P.STEPS - across) + images[partner, y, right] * across for y in (top, bottom)
    )
    return (over * (P.STEPS - down) + under * down) * (1 / P.STEPS**2)


def _start(cell, length, cells):
    return (cell * length + cells - 1) // cells


_AREAS = {
    P.PLAIN: _plain,
    P.BLEND: _blend,
    P.BOX: _box,
    P.WINDOW: _window,
    P.PROFILE: _profile,
    P.RANKS: _ranks,
    P.BLOCKS: _blocks,
    P.CELLS: _cells,
    P.RESIZED: _box,
    P.MAP: _map,
}
