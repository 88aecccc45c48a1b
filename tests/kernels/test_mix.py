"""The mix pass: every implementation against the reference, the reference against a walk over the pixels."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastmix.kernels import plan as P
from fastmix.kernels.erase import LEVELS, Erase
from fastmix.kernels.mix import AOT, CASES, DTYPES, cases, mix, reference
from fastmix.kernels.mix.builds import program_shape
from fastmix.kernels.mix.cases import MEAN, PLANS, STD, Case
from fastmix.kernels.plan import Plan
from helpers.waiting import no_waits

ANY_TYPE = ("plain", "mixup", "cutmix", "blocks")  # reading and writing a type is the same in all kinds


def usual(case: Case, dtype: torch.dtype) -> bool:
    """Whether `make test` compiles the case for this output: each pair of types is a second for each kind, and erasing
    another."""
    if case.erase:
        return dtype == torch.float32
    if case.plan in ANY_TYPE:
        return case.source in (torch.uint8, dtype)
    return (case.source, dtype) in {(torch.uint8, torch.float32), (torch.uint8, torch.bfloat16), (torch.float32,) * 2}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_cpu_twin_equals_the_reference(case):
    for dtype in filter(partial(usual, case), DTYPES):
        arguments = case.arguments(dtype)
        assert torch.equal(mix(**arguments), reference(**arguments))


@pytest.mark.long
@pytest.mark.parametrize("plan", [*ANY_TYPE, "all kinds"])
def test_the_cpu_twin_equals_the_reference_in_other_types(plan):
    """Of every kind fp16 from bytes, of those of ANY_TYPE all."""
    for case in (case for case in CASES if case.plan == plan):
        for dtype in [dtype for dtype in DTYPES if not usual(case, dtype)]:
            if plan in ANY_TYPE or (case.source, dtype, case.erase) == (torch.uint8, torch.float16, False):
                arguments = case.arguments(dtype)
                assert torch.equal(mix(**arguments), reference(**arguments))


def test_a_reused_output_is_overwritten_and_returned():
    for dtype, plan in zip(DTYPES, ("all kinds", "mixup", "all kinds"), strict=True):
        case = Case(plan, 9, (13, 20))
        arguments = case.arguments(dtype)
        out = torch.full((9, 3, 13, 20), math.nan, dtype=dtype).to(memory_format=torch.channels_last)
        assert mix(**arguments, out=out) is out
        assert torch.equal(out, reference(**arguments))


def test_inputs_are_not_changed_and_need_not_be_contiguous():
    arguments = Case("all kinds", 9, (14, 24), erase=True).arguments()
    images, plan = arguments["images"], arguments["plan"]
    before = [t.clone() for t in (images, plan.table, plan.profiles, plan.bank, plan.blocks, plan.maps)]
    wanted = mix(**arguments)
    planar = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not planar.is_contiguous()
    assert torch.equal(mix(**arguments | {"images": planar}), wanted)
    after = (images, plan.table, plan.profiles, plan.bank, plan.blocks, plan.maps)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("plan", PLANS)
def test_mixing_commutes_with_normalising(plan, planar):
    """Floats are mixed as whole pixels are: equal to rounding, and where nothing is blended bit for bit."""
    whole = Case(plan, 11, (13, 20))
    wanted = mix(**whole.arguments())
    got = mix(**replace(whole, source=torch.float32, planar=planar).arguments())
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-6)
    for kind, unit in ((torch.float16, 2**-10), (torch.bfloat16, 2**-7)) if plan in ANY_TYPE else ():
        got = mix(**replace(whole, source=kind, planar=planar).arguments(kind))
        torch.testing.assert_close(got.float(), wanted, rtol=0, atol=2.7 * unit)


def test_a_batch_that_lies_channel_by_channel_gives_one_that_does():
    for case in (Case("mixup", 4, (13, 20), source=torch.float32, planar=True), Case("plain", 2, (4, 6))):
        got = mix(**case.arguments())
        assert got.is_contiguous(memory_format=torch.contiguous_format if case.planar else torch.channels_last)
    planar = Case("mixup", 4, (13, 20), source=torch.float32, planar=True).arguments()
    out = torch.full((4, 3, 13, 20), math.nan)
    assert mix(**planar, out=out) is out and torch.equal(out, reference(**planar))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_every_number_of_16_bits_is_read(kind):
    """Infinite ones and those that are none, too."""
    every = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    numbers = torch.cat([every, every.new_zeros(2)]).view(kind).view(1, 2, -1, 3)
    got = mix(numbers, None, MEAN, STD).permute(0, 2, 3, 1)
    torch.testing.assert_close(got, numbers.float(), rtol=0, atol=0, equal_nan=True)


def as_float(word: int) -> float:
    return struct.unpack("f", struct.pack("i", int(word)))[0]


def between(position: Fraction, last: int) -> list[tuple[int, Fraction]]:
    """The neighbours of a place rounded down to 1/128, each with its share."""
    place = min(max(Fraction(math.floor(position * 128), 128), Fraction(0)), Fraction(last))
    return [(math.floor(place), 1 - place % 1), (min(math.floor(place) + 1, last), place % 1)]


def sources(plan: Plan, i: int, y: int, x: int, height: int, width: int):
    """What the documentation of Plan says of one pixel: weight and place of the first source, then of the second one
    the places, each with its share."""
    row = [int(v) for v in plan.table[i]]
    own, other = (i, y, x), {(row[1], y, x): 1}
    inside = row[4] <= y < row[5] and row[6] <= x < row[7]
    if row[0] == P.PLAIN:
        return 1.0, own, other
    if row[0] == P.BLEND:
        return row[4] / 2**16, own, other
    if row[0] == P.BOX:
        return float(not inside), own, other
    if row[0] == P.WINDOW:
        from_y = row[8] + math.floor((y - row[4]) * as_float(row[10]))
        from_x = row[9] + math.floor((x - row[6]) * as_float(row[11]))
        place = row[1], min(max(from_y, 0), height - 1), min(max(from_x, 0), width - 1)
        return float(not inside), own, {place: 1}
    if row[0] == P.RESIZED:
        if not inside:
            return 1.0, own, other
        along_y = between(Fraction((y - row[4]) * (row[9] - row[8] - 1), max(row[5] - row[4] - 1, 1)), height)
        along_x = between(Fraction((x - row[6]) * (row[11] - row[10] - 1), max(row[7] - row[6] - 1, 1)), width)
        places = {}
        for (from_y, share_y), (from_x, share_x) in product(along_y, along_x):
            if share_y and share_x:
                places[row[1], row[8] + from_y, row[10] + from_x] = float(share_y * share_x)
        return 0.0, own, places
    if row[0] == P.PROFILE:
        return 1 - int(plan.profiles[row[4], y]) * int(plan.profiles[row[4], height + x]) / 2**16, own, other
    if row[0] == P.RANKS:
        bank = plan.bank[row[4]].numpy()
        bank = bank.view(np.uint16) if bank.dtype == np.int16 else bank
        bank = {0: bank, 1: np.fliplr(bank), 2: np.flipud(bank), 3: np.rot90(bank, 2)}[row[6]]
        return float(bank[y, x] < row[5]), own, other
    if row[0] == P.MAP:
        cells = plan.maps[row[4]]
        along = (
            between(Fraction(2 * pixel + 1, 2 * length) * count - Fraction(1, 2), count - 1)
            for pixel, length, count in ((y, height, cells.shape[0]), (x, width, cells.shape[1]))
        )
        value = sum(int(cells[cy, cx]) * share_y * share_x for (cy, share_y), (cx, share_x) in product(*along))
        return math.floor(value + Fraction(1, 2)) / 2**16, own, other
    rows, columns = row[4], row[5]
    edges_y, edges_x = P.cell_edges(height, rows), P.cell_edges(width, columns)
    cy, cx = np.searchsorted(edges_y, y, "right") - 1, np.searchsorted(edges_x, x, "right") - 1
    if row[0] == P.CELLS:
        bits = "".join(f"{word & 0xFFFFFFFF:032b}"[::-1] for word in row[6:])
        return float(bits[cy * columns + cx]), own, other
    first, second, weight = (int(v) for v in plan.blocks[i, cy * columns + cx])

    def place(source):
        image, cell = divmod(source, rows * columns)
        sy, sx = divmod(cell, columns)
        return image, min(edges_y[sy] + y - edges_y[cy], height - 1), min(edges_x[sx] + x - edges_x[cx], width - 1)

    return weight / 2**16, place(first), {place(second): 1}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("n,size", [(1, (5, 7)), (8, (9, 6))])
def test_the_reference_equals_a_walk_over_the_pixels(plan, n, size):
    arguments = Case(plan, n, size).arguments(seed=1)
    plan = arguments["plan"] if arguments["plan"] is not None else Plan.plain(n)
    pixels = arguments["images"].numpy().astype(np.float64)
    wanted = np.empty(pixels.shape)
    for i, y, x in np.ndindex(pixels.shape[:3]):
        weight, first, second = sources(plan, i, y, x, *size)
        value = weight * pixels[first] + (1 - weight) * sum(pixels[p] * share for p, share in second.items())
        wanted[i, y, x] = (value / 255 - MEAN) / STD
    got = reference(**arguments).permute(0, 2, 3, 1).double().numpy()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


def test_normalising_equals_the_usual_formula_for_every_value():
    images = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    wanted = (images.double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    got = mix(images, None, MEAN, STD).permute(0, 2, 3, 1)
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=1e-6)


def realised(plan: Plan, size: tuple[int, int]) -> torch.Tensor:
    """The weight of each image itself, read from mixed images: only it is white. float64 [B,H,W]"""
    n = len(plan)
    white = (torch.arange(n) == torch.arange(n)[:, None]).byte()[..., None, None, None].expand(n, n, *size, 3)
    return torch.stack([mix(white[i], plan, (0, 0, 0), (1 / 255,) * 3)[i, 0] for i in range(n)]).double()


@pytest.mark.parametrize("plan", ["fmix", "blocks", "cells", "stretched", "map", "map, full size", "all kinds"])
def test_the_label_weight_is_the_mean_of_the_mask(plan):
    plan = Case(plan, 9, (13, 20)).arguments()["plan"]
    plan.table[:, 1] = (torch.arange(9) + 1) % 9
    if plan.blocks is not None:  # labels of cells are those of unshuffled sources
        plan.blocks[..., 0] = torch.arange(9)[:, None] * 28 + torch.arange(28)
        plan.blocks[..., 1] = plan.partner[:, None] * 28 + torch.arange(28)
    own = realised(plan, (13, 20)).mean((1, 2))
    torch.testing.assert_close(own, plan.own.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (7, 7), (13, 20), (26, 40), (13, 3)])
def test_a_map_is_torchs_bilinear_upsampling_and_its_label_the_mean(grid):
    size = (13, 20)
    soft = torch.rand(9, *grid, generator=torch.Generator().manual_seed(0)).double()
    plan = Plan.map((np.arange(9) + 1) % 9, soft, size)
    got = realised(plan, size)
    halves = grid > size  # means of neighbours often end in 1/2, and halves are rounded up
    torch.testing.assert_close(plan.own.double(), got.mean((1, 2)), rtol=0, atol=2**-17 if halves else 1e-6)
    torch.testing.assert_close(plan.own + plan.other, torch.ones(9))
    steepest = 2 / 128  # both positions are rounded down to 1/128 cell, and neighbours differ by at most 1
    wanted = F.interpolate(soft[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(got, wanted, rtol=0, atol=steepest + 2**-16)


def test_a_stretched_window_is_torchs_bilinear_resizing():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (2, 30, 40, 3), dtype=np.uint8))
    for box, source in (
        ((3, 20, 5, 31), (10, 17, 2, 40)),
        ((0, 30, 0, 40), (0, 30, 0, 40)),
        ((5, 6, 7, 9), (1, 9, 1, 9)),
    ):
        plan = Plan.resized(np.array([1, 0]), box, source, (30, 40))
        got = mix(images, plan, (0, 0, 0), (1 / 255,) * 3).double()
        y0, y1, x0, x1 = source
        window = images[[1, 0], y0:y1, x0:x1].permute(0, 3, 1, 2).double()
        y0, y1, x0, x1 = box
        wanted = images.permute(0, 3, 1, 2).double().clone()
        wanted[:, :, y0:y1, x0:x1] = F.interpolate(window, (y1 - y0, x1 - x0), mode="bilinear", align_corners=True)
        torch.testing.assert_close(got, wanted, rtol=0, atol=2 * 255 / 128)
        if box == source:
            assert torch.equal(got, wanted)


def plans_of(to) -> dict[str, Plan]:
    """Plans whose every argument is given by `to`, from one generator."""
    rng, n, size = np.random.default_rng(5), 6, (13, 20)
    partner, share = (np.arange(n) + 2) % n, rng.random(n)
    y0, x0 = rng.integers(0, 6, n), rng.integers(0, 9, n)
    box = tuple(to(v) for v in (y0, y0 + rng.integers(1, 7, n), x0, x0 + rng.integers(1, 11, n)))
    first, second = to(rng.integers(0, n * 6, (n, 6))), to(rng.integers(0, n * 6, (n, 6)))
    corner, scales = (to(rng.integers(0, 3, n)), to(rng.integers(0, 3, n))), (to(rng.random(n)), to(rng.random(n)))
    return {
        "blend": Plan.blend(to(partner), to(share)),
        "box": Plan.box(to(partner), *box, size),
        "window": Plan.window(to(partner), *box, *corner, *scales, size),
        "resized": Plan.resized(to(partner), box, (to(y0), to(y0 + 2), 4, 11), size),
        "cells": Plan.cells(to(partner), to(rng.random((n, 13, 7)) < 0.5), size),
        "block": Plan.block(to(partner), first, second, to(rng.random((n, 6))), (2, 3), size),
        "map": Plan.map(to(partner), to(rng.random((n, 4, 5))), size),
        "labelled": Plan.map(to(partner), to(rng.random((n, 4, 5))), size).labelled(to(share), 0.5),
    }


def test_plans_of_tensors_are_those_of_arrays():
    arrays, tensors = plans_of(np.asarray), plans_of(torch.as_tensor)
    for name, plan in arrays.items():
        for key, value in vars(plan).items():
            other = getattr(tensors[name], key)
            same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
            assert same, f"{name}: {key}"


@pytest.mark.parametrize("to", [np.asarray, torch.as_tensor])
def test_each_sample_of_a_selection_follows_its_plan(to):
    plans = list(plans_of(to).values())
    images = torch.from_numpy(np.random.default_rng(6).integers(0, 256, (6, 13, 20, 3), dtype=np.uint8))
    alone = [mix(images, plan, MEAN, STD) for plan in plans]
    for shift in range(len(plans)):
        choice = (np.arange(6) + shift) % len(plans)
        chosen = Plan.select(to(choice), plans)
        got = mix(images, chosen, MEAN, STD)
        for i, k in enumerate(choice):
            assert torch.equal(got[i], alone[k][i])
            assert chosen.own[i] == plans[k].own[i] and chosen.other[i] == plans[k].other[i]


def test_plans_that_no_selection_can_hold_are_refused():
    partner = np.array([1, 0])
    maps = [Plan.map(partner, np.zeros((2, k, k)), (8, 8)) for k in (2, 3)]
    with pytest.raises(ValueError, match="maps of 2 x 2 and of 3 x 3 cells"):
        Plan.select(np.zeros(2, int), maps)
    shared = Plan.plain(2)
    shared.sources, shared.weights = torch.zeros(2, 3, dtype=torch.int32), torch.ones(2, 3)
    with pytest.raises(ValueError, match="more than two sources"):
        Plan.select(np.zeros(2, int), [Plan.plain(2), shared])


def refused(match: str, **changes) -> None:
    arguments = Case("all kinds", 9, (13, 20)).arguments() | changes
    with pytest.raises(ValueError, match=match) as error:
        mix(**arguments)
    assert "\n" not in str(error.value)


def test_arguments_that_do_not_fit_are_refused():
    arguments = Case("all kinds", 9, (13, 20)).arguments()
    images, plan = arguments["images"], arguments["plan"]
    refused("images must be uint8", images=images.double())
    refused("images must be uint8", images=images.permute(0, 3, 1, 2))
    refused("empty", images=images[:, :0], plan=None)
    refused("dtype is torch.float64", dtype=torch.float64)
    refused("std above 0", std=(0.2, 0, 0.2))
    refused("3 numbers", mean=(0.5,))
    refused(r"plan.table must be int32 \[9,12\]", plan=Plan.plain(8))
    refused("plan.profiles must be int16", plan=Plan(plan.table, plan.profiles[:, 1:], plan.bank, plan.blocks))
    refused("plan.bank must be", plan=Plan(plan.table, plan.profiles, plan.bank[:, 1:], plan.blocks))
    refused("plan.blocks must be int32", plan=Plan(plan.table, plan.profiles, plan.bank, plan.blocks[1:]))
    refused("plan.maps must be int32", plan=Plan(plan.table, maps=plan.maps[0]))
    refused("maps of 0 x 5 .* empty", plan=Plan(plan.table, maps=plan.maps[:, :0].clone()))
    refused("plan.table must be .* on cpu", plan=Plan(plan.table.to("meta")))
    refused("erase.boxes must be", erase=Erase(torch.zeros(8, 5, dtype=torch.int32), torch.zeros(3, LEVELS)))
    refused("erase.fill must be", erase=Erase(torch.zeros(9, 5, dtype=torch.int32), torch.zeros(3, 9)))
    refused(
        "cannot be erased", images=images.float(), erase=Case("plain", 9, (13, 20), erase=True).arguments()["erase"]
    )
    refused("out .* must be float32", out=torch.empty(9, 3, 13, 20))
    refused("out .* must be float32", out=torch.empty(9, 13, 20, 3, dtype=torch.bfloat16).permute(0, 3, 1, 2))


@pytest.mark.parametrize("column,value", [(0, 10), (0, -1), (1, 9), (1, -1)])
def test_a_plan_that_points_outside_the_batch_is_refused(column, value):
    plan = Case("all kinds", 9, (13, 20)).arguments()["plan"]
    plan.table[3, column] = value
    refused("row 3 of the plan", plan=plan)


@pytest.mark.parametrize("kind", [P.PROFILE, P.RANKS, P.BLOCKS, P.MAP])
def test_a_plan_that_points_outside_its_own_tables_is_refused(kind):
    plan = Case("all kinds", 12, (13, 20)).arguments()["plan"]
    row = int((plan.kind == kind).nonzero()[0])
    if kind == P.BLOCKS:
        plan.blocks[row, 0, 0] = 12 * 28
    else:
        plan.table[row, 4] = 1000
    refused(f"row {row} of the plan", plan=plan, images=torch.zeros(12, 13, 20, 3, dtype=torch.uint8))


@pytest.mark.parametrize("rows,columns", [(0, 4), (4, 0), (-2, -3), (14, 14)])
def test_a_grid_without_cells_or_with_too_many_is_refused(rows, columns):
    plan = Case("cells", 9, (13, 20)).arguments()["plan"]
    plan.table[5, 4], plan.table[5, 5] = rows, columns
    refused("row 5 of the plan", plan=plan)


@pytest.mark.parametrize("window", [(-1, 5, 0, 5), (0, 14, 0, 5), (0, 5, 0, 21), (3, 3, 0, 5), (0, 5, 6, 5)])
def test_a_stretched_window_outside_the_partner_or_empty_is_refused(window):
    plan = Plan.resized((np.arange(9) + 1) % 9, (2, 6, 2, 6), (0, 5, 0, 5), (13, 20))
    plan.table[4, 8:] = torch.tensor(window)
    refused("row 4 of the plan", plan=plan)
    plan.table[4, 5] = plan.table[4, 4]  # a box without pixels shows nothing
    mix(**Case("plain", 9, (13, 20)).arguments() | {"plan": plan})


def test_weights_outside_0_and_1_and_rows_of_an_unannounced_kind_are_refused():
    plan = Case("map", 9, (13, 20)).arguments()["plan"]
    plan.maps[7, 1, 2] = P.ONE + 1
    refused("row 7 of the plan", plan=plan)
    plan = Plan.resized((np.arange(9) + 1) % 9, (2, 6, 2, 6), (0, 5, 0, 5), (13, 20))
    plan.kinds = 1 << P.BOX | 1 << P.WINDOW
    refused("row 0 of the plan", plan=plan)


@pytest.mark.parametrize("name", [name for name in PLANS if name != "plain"])
def test_a_plan_announces_the_kinds_of_its_rows_and_no_other(name):
    plan = Case(name, 11, (13, 20)).arguments()["plan"]
    assert {kind for kind in range(P.KINDS) if plan.kinds >> kind & 1} == set(plan.kind.tolist())


@pytest.mark.parametrize(
    "width, itemsize, address", [(224, 2, 512), (224, 2, 4), (225, 2, 512), (160, 4, 8), (20, 2, 7)]
)
def test_groups_begin_where_their_bytes_may_be_read_at_once_and_end_with_the_row(width, itemsize, address):
    group, groups = program_shape(width, itemsize, 1 << P.BOX, False, address)
    assert 3 * width % group == 0 and address % group == 0 and group * itemsize <= 16
    assert 2 * group * itemsize > 16 or 3 * width % (2 * group) or address % (2 * group)  # as wide as may be
    assert groups.bit_count() == 1


@pytest.mark.cuda
@pytest.mark.parametrize(
    "case", [*CASES, Case("all kinds", 16, (224, 224)), Case("all kinds", 16, (97, 225), True)], ids=str
)
def test_the_gpu_equals_the_reference_without_a_sync_and_in_a_graph(case):
    for dtype in DTYPES:
        arguments = case.arguments(dtype)
        wanted = reference(**arguments)
        on_gpu = {k: v.to("cuda") if hasattr(v, "to") else v for k, v in arguments.items()}
        with no_waits():
            got = mix(**on_gpu)
        assert torch.equal(got.cpu(), wanted)
        out = torch.full_like(got, math.nan)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            mix(**on_gpu, out=out)
        graph.replay()
        assert torch.equal(out.cpu(), wanted)


def test_targets_cover_every_output_type():
    assert {target.types["out"] for target in AOT} >= {"*bf16", "*fp16", "*fp32"}
    assert {case.plan for case in cases.CASES} == set(PLANS)


def test_samples_spread_over_threads_are_those_of_one():
    before = torch.get_num_threads()
    case = Case("all kinds", 24, (96, 96))
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            arguments = case.arguments()
            assert torch.equal(mix(**arguments), reference(**arguments))
    finally:
        torch.set_num_threads(before)
