"""What the mix pass asks of its arguments: types and shapes on any device, rows of the plan only on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastmix.kernels import plan as P
from fastmix.kernels.erase import LEVELS, Erase
from fastmix.kernels.plan import Plan

SOURCES = (torch.uint8, torch.float32, torch.float16, torch.bfloat16)
MOST_STRETCHED = 4096  # pixels a side: positions in 1/128 pixel times a length stay below 2**31
MOST_BLOCKS = 1 << 20  # cells times images or pixels along a side: they are divided in fp32
MOST_MAPPED = 1 << 23  # cells times pixels along a side, likewise


def check(images: Tensor, plan: Plan | None, erase: Erase | None) -> None:
    """Raises ValueError for images, a plan and a choice of erased boxes that do not fit each other."""
    fits("images", images, SOURCES, (None, None, None, 3), images.device, contiguous=False)
    if erase is not None and images.dtype != torch.uint8:
        raise ValueError(f"mix: images of {images.dtype} cannot be erased, whose noise is in units of 8-bit pixels")
    n, height, width, _ = images.shape
    if not 0 < height * width * 3 < 2**31 or n == 0:
        raise ValueError(f"mix: images of shape {tuple(images.shape)}: empty, or more than 2**31 values in one image")
    where = images.device
    if plan is not None:
        fits("plan.table", plan.table, [torch.int32], (n, P.COLUMNS), where)
        if plan.profiles is not None:
            fits("plan.profiles", plan.profiles, [torch.int16], (None, height + width), where)
        if plan.bank is not None:
            fits("plan.bank", plan.bank, [torch.int16, torch.int32], (None, height, width), where)
        if plan.blocks is not None:
            fits("plan.blocks", plan.blocks, [torch.int32], (n, None, 3), where)
            if max(plan.blocks.shape[1] * side for side in (n, height, width)) > MOST_BLOCKS:
                raise ValueError(f"mix: {plan.blocks.shape[1]} cells in {n} images of {height} x {width}: too many")
        if plan.maps is not None:
            fits("plan.maps", plan.maps, [torch.int32], (None, None, None), where)
            rows, columns = plan.maps.shape[1:]
            if not (0 < rows * height < MOST_MAPPED and 0 < columns * width < MOST_MAPPED):
                raise ValueError(f"mix: maps of {rows} x {columns} for {height} x {width} pixels: empty, or too large")
        if plan.kinds >> P.RESIZED & 1 and max(height, width) > MOST_STRETCHED:
            raise ValueError(f"mix: {height} x {width} pixels; a plan that stretches takes {MOST_STRETCHED} a side")
    if erase is not None:
        fits("erase.boxes", erase.boxes, [torch.int32], (n, 5), where)
        fits("erase.fill", erase.fill, [torch.float32], (3, LEVELS), where)


def fits(
    name: str, tensor: Tensor, dtypes: Sequence[torch.dtype], shape: tuple, device, contiguous: bool = True
) -> None:
    """Raises ValueError unless the tensor has one of the types, the shape (None: any length) and the device."""
    same = tensor.ndim == len(shape) and all(s in (None, t) for s, t in zip(shape, tensor.shape, strict=True))
    if same and tensor.dtype in dtypes and tensor.device == device and (tensor.is_contiguous() or not contiguous):
        return
    kind = "/".join(str(d).removeprefix("torch.") for d in dtypes)
    wanted = ",".join("*" if s is None else str(s) for s in shape)
    found = f"{tensor.dtype} {list(tensor.shape)} with strides {list(tensor.stride())} on {tensor.device}"
    raise ValueError(f"mix: {name} must be {kind} [{wanted}]{', contiguous,' * contiguous} on {device}, not {found}")


def check_rows(plan: Plan | None, n: int, size: tuple[int, int]) -> None:
    """Raises ValueError for a plan that points outside the batch, its images or its own tables."""
    if plan is None:
        return
    table = plan.table.numpy()
    kind, partner, index = table[:, 0], table[:, 1], table[:, 4]
    wrong = (kind < 0) | (kind >= P.KINDS) | (partner < 0) | (partner >= n)
    wrong |= plan.kinds >> np.clip(kind, 0, P.KINDS) & 1 == 0
    for area, rows in ((P.PROFILE, plan.profiles), (P.RANKS, plan.bank), (P.MAP, plan.maps)):
        wrong |= (kind == area) & ((index < 0) | (index >= (0 if rows is None else len(rows))))
    cells, empty = table[:, 4].astype(np.int64) * table[:, 5], (table[:, 4:6] < 1).any(1)
    wrong |= (kind == P.CELLS) & (empty | (cells > P.MOST_CELLS))
    if plan.blocks is None:
        wrong |= kind == P.BLOCKS
    elif (kind == P.BLOCKS).any():
        source, weight = plan.blocks[..., :2].numpy(), plan.blocks[..., 2].numpy()
        outside = ((source < 0) | (source >= n * cells[:, None, None])).any(2) | (weight < 0) | (weight > P.ONE)
        used = np.arange(source.shape[1]) < cells[:, None]
        wrong |= (kind == P.BLOCKS) & (empty | (cells > source.shape[1]) | (outside & used).any(1))
    if plan.maps is not None and len(plan.maps):
        low, high = (v.numpy() for v in torch.aminmax(plan.maps.flatten(1), dim=1))
        outside = (low < 0) | (high > P.ONE)
        wrong |= (kind == P.MAP) & outside[np.clip(index, 0, len(outside) - 1)]
    stretched = kind == P.RESIZED
    if stretched.any():
        box, window = table[:, 4:8], table[:, 8:12]
        shown = (box[:, 0] < box[:, 1]) & (box[:, 2] < box[:, 3])
        outside = (window[:, ::2] < 0).any(1) | (window[:, 1::2] > size).any(1)
        wrong |= stretched & shown & (outside | (window[:, ::2] >= window[:, 1::2]).any(1))
    if wrong.any():
        sample = int(wrong.argmax())
        what = f"mix: row {sample} of the plan, {table[sample].tolist()}, points outside"
        raise ValueError(f"{what} the batch of {n} images, outside an image or outside the plan's own tables")
