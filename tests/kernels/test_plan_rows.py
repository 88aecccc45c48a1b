"""The rows of plans that are made on the device; the mixers' tests hold each rule against its method's definition."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from fastmix.kernels import mask_energy as energy_file
from fastmix.kernels import plan_rows as rows_file
from fastmix.kernels.plan import BLOCKS, CELLS, MOST_CELLS, Plan
from fastmix.kernels.plan_rows import plan_rows
from fastmix.kernels.plan_rows.launch import MOST_CELLS as MOST_HELD
from fastmix.kernels.plan_rows.launch import asked, program_shape
from fastmix.kernels.plan_rows.rules import Ratio, Tokens, Top
from helpers.waiting import no_waits


def moved(value, device: str):
    """A tensor, a plan or a rule, on a device."""
    if isinstance(value, (torch.Tensor, Plan)):
        return value.to(device)
    if hasattr(value, "__dataclass_fields__"):
        return replace(value, **{f.name: moved(getattr(value, f.name), device) for f in fields(value)})
    return value


@pytest.mark.parametrize("grid", [(12, 16), (14, 14)], ids=["bits", "blocks"])
def test_cells_that_are_too_many_for_bits_become_blocks(grid):
    n, cells = 3, grid[0] * grid[1]
    rng = np.random.default_rng(0)
    attention, share = rng.random((n, *grid), np.float32), rng.random(n)
    partner = torch.tensor([2, 0, 1], dtype=torch.int32)
    plan = plan_rows(Top(torch.from_numpy(attention), torch.from_numpy(share), cells), partner, (grid[0], 2 * grid[1]))
    assert (plan.kind == (CELLS if cells <= MOST_CELLS else BLOCKS)).all()
    for i, values in enumerate(attention.reshape(n, -1)):
        k = int(share[i] * cells)
        own = np.zeros(cells, bool)
        own[np.argsort(-values, kind="stable")[:k]] = True
        assert plan.own[i] == np.float32(k / cells) and plan.other[i] == np.float32(1 - k / cells)
        if plan.blocks is None:
            words = plan.table[i, 6:].numpy().view(np.uint32)
            assert [(int(words[c // 32]) >> (c % 32)) & 1 for c in range(cells)] == own.tolist()
        else:
            places = np.arange(cells)
            wanted = [i * cells + places, int(partner[i]) * cells + places, 65536 * own]
            assert np.array_equal(plan.blocks[i].numpy(), np.stack(wanted, 1))


def test_the_ratio_of_maps_in_float64():
    maps = torch.rand(3, 9, 11, generator=torch.Generator().manual_seed(0)) ** 4
    maps[:, 0] = 0
    before, partner = maps.clone(), torch.tensor([1, 2, 0], dtype=torch.int32)
    scale = torch.tensor([0.5, 3.0, 1.0])
    plan = plan_rows(Ratio(maps, scale), partner, (9, 11))
    scaled = maps.double() * scale[:, None, None]
    both = scaled + scaled[partner.long()]
    wanted = torch.where(both > 0, scaled / both, 0.5)
    assert (plan.maps / 65536 - wanted).abs().max() <= 0.51 / 65536 and (plan.maps[:, 0] == 32768).all()
    assert (plan.own - wanted.mean((1, 2))).abs().max() < 1e-5
    assert torch.equal(maps, before)


def test_only_what_a_program_holds_is_launched():
    def given(side):
        return Tokens(torch.zeros(1, side, side), torch.zeros(1, side, side, dtype=torch.bool))

    held, more = (asked(given(side), (128, 128)) for side in (64, 65))
    assert held.fits and not more.fits and 64**2 == MOST_HELD
    assert program_shape(held, 0)["num_warps"] <= 16
    with pytest.raises(TypeError, match="Tensor is no rule of a plan"):
        plan_rows(torch.zeros(1), torch.zeros(1, dtype=torch.int32), (8, 8))


@pytest.mark.cuda
def test_the_gpu_equals_the_reference_without_a_sync():
    for case in rows_file.CASES:
        arguments = case.arguments()
        wanted, given = rows_file.reference(**arguments), {k: moved(v, "cuda") for k, v in arguments.items()}
        plan_rows(**given)  # compiles
        with no_waits():
            got = plan_rows(**given)
        got = got.to("cpu")
        for column in (0, 1, *range(4, 12)):
            assert torch.equal(got.table[:, column], wanted.table[:, column])
        torch.testing.assert_close(got.table.view(torch.float32)[:, 2:4], wanted.table.view(torch.float32)[:, 2:4])
        for name in ("blocks", "maps", "sources"):
            one, other = getattr(got, name), getattr(wanted, name)
            assert one is other or torch.equal(one, other)
    for case in energy_file.CASES:
        arguments = case.arguments()
        got = energy_file.mask_energy(**{k: moved(v, "cuda") for k, v in arguments.items()})
        for one, other in zip(got, energy_file.reference(**arguments), strict=True):
            torch.testing.assert_close(one.cpu(), other)
