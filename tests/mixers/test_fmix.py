"""FMix: its fields, its rank maps and its counts against their formulas."""

import numpy as np
import pytest
import torch
from scipy import stats

from fastmix import MIXERS
from fastmix.mixers.fmix import FMix, official_fields, paper_fields, rank_maps
from helpers.mixing import FixedLam, constants, masks, shapes


def read(bank: torch.Tensor) -> np.ndarray:
    return bank.numpy().view(np.uint16).astype(int) if bank.dtype == torch.int16 else bank.numpy()


@pytest.mark.parametrize("size", [(33, 20), (256, 256), (300, 257)])
def test_rank_maps_order_the_pixels(size):
    fields = np.random.default_rng(19).standard_normal((2, *size))
    ranks = rank_maps(fields)
    assert (ranks.dtype == torch.int16) == (size[0] * size[1] <= 65536)
    for field, rank in zip(fields, read(ranks), strict=True):
        assert np.array_equal(rank, size[0] * size[1] - stats.rankdata(field, "ordinal").reshape(size))


@pytest.mark.parametrize("spectrum", ["paper", "official"])
def test_fmix_count_is_lambda_rounded_up_or_down(spectrum):
    batch = shapes(4000, (33, 20))
    batch.rng = FixedLam(0.37, seed=20)
    plan = MIXERS["fmix"](bank=4, spectrum=spectrum, granularity="sample").plan(batch)
    count = plan.table[:, 5].numpy()
    assert set(count.tolist()) == {244, 245}  # 0.37 * 660 = 244.2
    assert stats.binomtest(int((count == 245).sum()), 4000, 0.5).pvalue > 1e-3
    few = constants(6, (33, 20))
    few.rng = FixedLam(0.37, seed=20)
    plan = MIXERS["fmix"](bank=4, spectrum=spectrum, granularity="sample").plan(few)
    assert masks(plan, few).round().sum((1, 2)).tolist() == plan.table[:, 5].tolist()


def test_fmix_shows_the_ranks_below_the_count():
    batch = constants(8, (33, 20), seed=21)
    mixer = FMix(bank=4, granularity="sample")
    plan = mixer.plan(batch)
    maps = read(mixer.bank((33, 20), batch.images.device))
    flips = set()
    for i, mask in enumerate(masks(plan, batch).round().numpy()):
        index, count, flip = plan.table[i, 4:7].tolist()
        rank = maps[index][:, ::-1] if flip & 1 else maps[index]
        assert np.array_equal(mask, (rank[::-1] if flip & 2 else rank) < count)
        flips.add(flip)
    assert len(flips) > 1


def test_fmix_bank_is_made_once_and_is_a_function_of_its_seed():
    one, two, other = FMix(bank=70), FMix(bank=70), FMix(bank=70, seed=1)
    at = ((12, 10), torch.device("cpu"))
    assert one.bank(*at) is one.bank(*at)
    assert torch.equal(one.bank(*at), two.bank(*at)) and not torch.equal(one.bank(*at), other.bank(*at))
    assert len(np.unique(read(one.bank(*at)).reshape(70, -1), axis=0)) == 70
    assert not one.state_dict()


def test_fmix_masks_cover_every_pixel_equally():
    fields = paper_fields(np.random.default_rng(22), 3000, (16, 16), 3.0)
    share = (read(rank_maps(fields)) < 77).mean(0)
    error = np.sqrt(77 / 256 * 179 / 256 / 3000)
    assert np.abs(share - 77 / 256).max() < 4.5 * error


@pytest.mark.parametrize("decay", [2.0, 3.0])
def test_fmix_paper_spectrum_falls_as_its_power_in_every_direction(decay):
    n, side = 200, 64
    fields = paper_fields(np.random.default_rng(23), n, (side, side), decay).astype(np.float64)
    power = (np.abs(np.fft.fft2(fields)) ** 2).mean(0)
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    band = (f >= 2 / side) & (f < 0.3)
    assert stats.linregress(np.log(f[band]), np.log(power[band])).slope == pytest.approx(-2 * decay, abs=0.05)
    along_y, along_x = power[2:20, 0] / f[2:20, 0] ** (-2 * decay), power[0, 2:20] / f[0, 2:20] ** (-2 * decay)
    assert along_y.mean() == pytest.approx(along_x.mean(), rel=4 * np.sqrt(2 / (18 * n)))


def test_fmix_official_field_is_the_authors():
    n, side = 4000, 16
    fields = official_fields(np.random.default_rng(24), n, (side, side), 3.0).astype(np.float64)
    angle = 2 * np.pi * np.arange(side) / side
    waves = np.stack([np.ones(side), np.cos(angle), np.sin(angle)])
    parts = np.linalg.lstsq(waves.T, fields.transpose(2, 0, 1).reshape(side, -1), rcond=None)[0]
    again = (waves.T @ parts).reshape(side, n, side).transpose(1, 2, 0)
    assert np.abs(fields - again).max() < 1e-5 * np.abs(fields).max()  # a(y) + b(y) cos + c(y) sin, and nothing else
    b, c = parts[1:].reshape(2, n, side)
    vertical = np.fft.fft((b - 1j * c) / 2 * side, axis=1)  # the scaled normals of the horizontal frequency 1
    k = np.arange(side // 2 + 1)
    assert np.abs(vertical[:, side // 2 + 1 :]).max() < 1e-4 * np.abs(vertical).max()
    real = np.maximum(k / side, 1 / side) ** -3.0
    imaginary = np.maximum(np.sqrt((k / side) ** 2 + 1 / side**2), 1 / side) ** -3.0
    for drawn, amplitude in ((vertical.real, real), (vertical.imag, imaginary)):
        ratio = drawn[:, : side // 2 + 1].std(0) / amplitude
        assert np.abs(ratio - 1).max() < 4 / np.sqrt(2 * n)


def test_only_the_paper_field_looks_the_same_in_a_mirror():
    n, side = 4000, 16
    wave = np.exp(2j * np.pi * np.arange(side) / side)

    def turns(fields):  # which way the horizontal lobe moves from one row to the next; a mirror turns it round
        lobe = fields.astype(np.float64) @ wave
        turn = (lobe[:, 1:] * lobe[:, :-1].conj()).imag.mean(1)
        return turn.mean() / (turn.std() / np.sqrt(n))

    assert abs(turns(paper_fields(np.random.default_rng(25), n, (side, side), 3.0))) < 4
    assert abs(turns(official_fields(np.random.default_rng(26), n, (side, side), 3.0))) > 10
