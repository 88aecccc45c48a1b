"""Border differences on a GPU: the Triton kernel."""

from __future__ import annotations

from fastmix.kernels._triton import Target, jit, tl


@jit(numbers=("height", "width", "step_y", "step_x", "border_step", "block_step", "blocks", "deep", "along"))
def borders_kernel(
    images, partner, out, height, width, step_y, step_x, border_step, block_step, blocks, deep, along,
    CELLS: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """One program: one border across the image, between rows of blocks (or columns, with y and x exchanged).

    CELLS >= blocks rows of lanes, one a block along the border; M >= 3 x bins of a block, a lane a bin and channel.
    """
    sample = tl.program_id(0) // (blocks - 1)
    border = tl.program_id(0) % (blocks - 1)
    own = images + sample.to(tl.int64) * (height * width * 3)
    other = images + tl.load(partner + sample).to(tl.int64) * (height * width * 3)
    edge = ((border + 1) * height + blocks - 1) // blocks
    cell, lane = tl.arange(0, CELLS)[:, None], tl.arange(0, M)[None, :]
    first, last = (cell * width + blocks - 1) // blocks, ((cell + 1) * width + blocks - 1) // blocks
    x, c = first + lane // 3 * along, lane % 3
    before1, before0 = tl.zeros([CELLS, M], tl.int32), tl.zeros([CELLS, M], tl.int32)
    behind1, behind0 = tl.zeros([CELLS, M], tl.int32), tl.zeros([CELLS, M], tl.int32)
    for dy in range(deep):
        for dx in range(along):
            shown = (cell < blocks) & (x + dx < last)
            place = (x + dx) * step_x + c
            upper, lower = place + (edge - 1 - dy) * step_y, place + (edge + dy) * step_y
            before1 += tl.load(own + upper, mask=shown, other=0).to(tl.int32)
            before0 += tl.load(other + upper, mask=shown, other=0).to(tl.int32)
            behind1 += tl.load(own + lower, mask=shown, other=0).to(tl.int32)
            behind0 += tl.load(other + lower, mask=shown, other=0).to(tl.int32)
    levels = (765 * deep * tl.maximum(last - first, 1)).to(tl.float32)
    pairs = blocks * (blocks - 1)
    target = out + sample.to(tl.int64) * (4 * pairs) + border * border_step + cell * block_step
    inside = cell < blocks
    sum00 = tl.sum(tl.abs(before0 - behind0), 1, keep_dims=True).to(tl.float32)
    sum01 = tl.sum(tl.abs(before0 - behind1), 1, keep_dims=True).to(tl.float32)
    sum10 = tl.sum(tl.abs(before1 - behind0), 1, keep_dims=True).to(tl.float32)
    sum11 = tl.sum(tl.abs(before1 - behind1), 1, keep_dims=True).to(tl.float32)
    tl.store(target, tl.div_rn(sum00, levels), mask=inside)
    tl.store(target + pairs, tl.div_rn(sum01, levels), mask=inside)
    tl.store(target + 2 * pairs, tl.div_rn(sum10, levels), mask=inside)
    tl.store(target + 3 * pairs, tl.div_rn(sum11, levels), mask=inside)


def lanes(width: int, blocks: int, along: int) -> dict[str, int]:
    bins = -(-int(-(-width // blocks)) // along)
    return dict(CELLS=1 << (blocks - 1).bit_length(), M=1 << (3 * bins - 1).bit_length())


def _target(size: int, blocks: int, registers: int) -> Target:
    along = min(4, size // blocks)
    numbers = ("height", "width", "step_y", "step_x", "border_step", "block_step", "blocks", "deep", "along")
    types = dict(images="*u8", partner="*i32", out="*fp32") | dict.fromkeys(numbers, "i32")
    return Target(f"borders {blocks}x{blocks}", borders_kernel, types, lanes(size, blocks, along), registers, 1, 4)


AOT = [_target(224, 2, 64), _target(224, 16, 64)]
