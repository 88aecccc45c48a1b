"""The rows of a plan in plain torch: a function for each rule, by the constructors of `Plan`."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmix.kernels.host_to_device import constant
from fastmix.kernels.plan import Plan, box_around, cell_mean
from fastmix.kernels.plan_rows.percent import share
from fastmix.kernels.plan_rows.rules import (
    Around,
    Attended,
    Blocks,
    Grafted,
    Groups,
    Ratio,
    Rule,
    Squares,
    Stretched,
    Tokens,
    Top,
    Weights,
)
from fastmix.kernels.ratio import ratio

DTYPES = (torch.float32,)


def reference(rule: Rule, partner: Tensor, size: tuple[int, int]) -> Plan:
    """`plan_rows` in plain torch."""
    return _plan(rule, partner, size)


@singledispatch
def _plan(rule, partner: Tensor, size: tuple[int, int]) -> Plan:
    raise TypeError(f"{type(rule).__name__} is no rule of a plan")


@_plan.register
def _(rule: Around, partner: Tensor, size: tuple) -> Plan:
    centre = rule.peak[partner.long()].T
    return Plan.box(partner, *box_around(centre.unbind(), rule.sides.unbind(), size), size)


@_plan.register
def _(rule: Squares, partner: Tensor, size: tuple) -> Plan:
    (h, w), side = rule.attention.shape[1:], rule.side
    (y, x), source = squares(rule.attention, side)
    source_y, source_x = (v[partner.long()] for v in source)
    down, across = size[0] // h, size[1] // w
    box = (y * down, (y + side) * down, x * across, (x + side) * across)
    return Plan.window(partner, *box, source_y * down, source_x * across, 1, 1, size)


def squares(attention: Tensor, side: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """First row and column of the square of `side` cells with the least sum of attention [B,h,w], and with the largest.

    int64 [B] each; the first in order where several are alike.
    """
    sums = F.avg_pool2d(attention[:, None].double(), side, stride=1)[:, 0]
    columns = sums.shape[2]
    sums = sums.flatten(1)
    return tuple((at // columns, at % columns) for at in (sums.argmin(1), sums.argmax(1)))


@_plan.register
def _(rule: Stretched, partner: Tensor, size: tuple) -> Plan:
    box, source = (edges.unbind() for edges in rule.boxes)
    own = 1 - share(rule.activation, box, size)
    other = share(rule.activation[partner.long()], source, size)
    if rule.alike is not None:
        own, other = own + other * rule.alike, other + own * rule.alike
    return Plan.resized(partner, box, source, size).labelled(own, other)


@_plan.register
def _(rule: Top, partner: Tensor, size: tuple) -> Plan:
    n, h, w = rule.attention.shape
    k = (rule.share * rule.of).clamp(rule.least, h * w).int().expand(n)
    return Plan.cells(partner, top_cells(rule.attention.flatten(1), k).view(n, h, w), size)


def top_cells(attention: Tensor, k: Tensor) -> Tensor:
    """The k[i] cells of sample i that are attended most: bool [B,n] from attention float32 [B,n] and k int32 [B]."""
    order = attention.argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(attention.shape[1], device=attention.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, rank) < k[:, None]


@_plan.register
def _(rule: Grafted, partner: Tensor, size: tuple) -> Plan:
    saliency = rule.saliency.flatten(1)
    kept = graft_cells(saliency, rule.p, rule.uniform, rule.temperature)
    own = importance(saliency, kept)
    part = own / (own + importance(saliency[partner.long()], ~kept))
    return Plan.cells(partner, kept.view(rule.saliency.shape), size).labelled(part, 1 - part)


def graft_cells(saliency: Tensor, p: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """The cells of each sample that are kept, bool [B,n]; saliency and uniform float32 [B,n], p [B]."""
    candidate = candidates(saliency, temperature)
    least = uniform.where(candidate, 1.0).amin(1, keepdim=True)
    return candidate & ((uniform < p[:, None]) | (uniform <= least))


def candidates(saliency: Tensor, temperature: float) -> Tensor:
    """The cells of at least average softmax, bool [B,n]."""
    top = saliency.amax(1, keepdim=True)
    scaled = saliency / top.where(top > 0, 1.0)
    e = ((scaled - scaled.amax(1, keepdim=True)) * (1 / temperature)).exp()
    return e * saliency.shape[1] >= e.sum(1, keepdim=True)


def importance(saliency: Tensor, shown: Tensor) -> Tensor:
    """|S M| / |S|, float32 [B], of saliency S [B,n] in the cells M, bool [B,n]; S = 0 counts as S = 1."""
    top = saliency.amax(1, keepdim=True)
    power = (saliency / top).where(top > 0, 1.0).square()
    return ((power * shown).sum(1) / power.sum(1)).sqrt()


@_plan.register
def _(rule: Tokens, partner: Tensor, size: tuple) -> Plan:
    maps = rule.activation / (rule.activation.sum((1, 2), keepdim=True) + 1e-8)
    own, other = (maps * ~rule.pasted).sum((1, 2)), (maps[partner.long()] * rule.pasted).sum((1, 2))
    return Plan.cells(partner, ~rule.pasted, size).labelled(own, other)


@_plan.register
def _(rule: Blocks, partner: Tensor, size: tuple) -> Plan:
    samples, n = rule.weight.shape
    image = torch.arange(samples, dtype=torch.int32, device=partner.device)
    first, second = image[:, None] * n + rule.first, partner[:, None] * n + rule.second
    return Plan.block(partner, first, second, rule.weight, rule.grid, size)


@_plan.register
def _(rule: Groups, partner: Tensor, size: tuple) -> Plan:
    """`partner`, the images themselves, is not asked for."""
    own, first, count, device = rule.own, rule.first[:, None], len(rule.own), rule.shown.device
    _, m, n, _ = rule.shown.shape
    shown, members = rule.shown[rule.group, own], rule.sizes[rule.group, None]
    image, k = torch.arange(count, device=device)[:, None], torch.arange(m, device=device)
    sources = torch.where(k < members, first + (own[:, None] + k) % members, image)
    away = (shown - own[:, None, None]) % members[..., None]  # of the image itself 0, of the next in the group 1, ...
    values = (away[..., None] == k).double().mean(2).mT  # [B,m,n]
    weights = cell_mean(values.reshape(-1, *rule.grid), size).view(count, m)
    others = weights.clone()
    others[:, 0] = 0
    largest = others.argmax(1, keepdim=True)
    partner, other = sources.gather(1, largest)[:, 0], others.gather(1, largest)[:, 0]
    cells = (shown + first[..., None]) * n + torch.arange(n, device=device)[:, None]
    one, two = cells.unbind(2)
    plan = Plan.block(partner.int(), one, two, torch.where(one == two, 1.0, 0.5), rule.grid, size)
    return replace(plan.labelled(weights[:, 0], other), sources=sources.int(), weights=weights.float())


@_plan.register
def _(rule: Attended, partner: Tensor, size: tuple) -> Plan:
    plan, attention = rule.plan, rule.attention
    kept = outside(plan, tuple(attention.shape[1:]), size)
    own = rule.ratio * plan.own + (1 - rule.ratio) * attended(attention.flatten(1), kept, plan.own)
    return plan.labelled(own, 1 - own)


def outside(plan: Plan, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Which patches begin outside the box of a plan of boxes, bool [B,h*w]; grid = (h, w), size = (H, W)."""
    y0, y1, x0, x1 = plan.table[:, 4:8, None].unbind(1)
    y, x = (constant(first_pixels, *side, device=y0.device) for side in zip(grid, size, strict=True))
    inside = ((y >= y0) & (y < y1))[:, :, None] & ((x >= x0) & (x < x1))[:, None]
    return ~inside.flatten(1)


def first_pixels(cells: int, length: int) -> Tensor:
    """Of each patch along a side. int64 [cells]"""
    return torch.arange(cells) * length // cells


def attended(attention: Tensor, kept: Tensor, area: Tensor) -> Tensor:
    """The share of the attention [B,N] to patches that goes to the kept ones, [B,N]; `area` where there is none. [B]"""
    whole = attention.sum(1)
    return torch.where(whole > 0, (attention * kept).sum(1) / whole, area)


@_plan.register
def _(rule: Weights, partner: Tensor, size: tuple) -> Plan:
    return Plan.map(partner, rule.own, size).labelled(rule.label, 1 - rule.label)


@_plan.register
def _(rule: Ratio, partner: Tensor, size: tuple) -> Plan:
    own, total = ratio(rule.maps, rule.scale, partner, rule.out)
    return Plan.map(partner, own, size, total)
