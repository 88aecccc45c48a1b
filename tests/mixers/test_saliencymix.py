"""SaliencyMix and fine-grained saliency: against OpenCV, the formula in fp64, and what must move with the content."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from fastmix import MIXERS, Batch, mix
from fastmix.kernels.finegrained import CASES, finegrained, reference
from fastmix.kernels.finegrained.cases import Case
from fastmix.kernels.finegrained.reference import NEIGHBOURHOODS, luminance, neighbourhoods, saliency, usual_factor
from helpers.mixing import NO_NORM, FixedLam, clipped_length, constants, noise, within
from helpers.waiting import no_waits

LARGER = [Case(6, (97, 225)), Case(4, (65, 64), 1), Case(3, (128, 90), 1), Case(2, (224, 224))]


def photographs(n: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth random pictures with edges, uint8 [n,H,W,3]."""
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.standard_normal((n, *size, 3)), (0, size[0] / 20, size[1] / 20, 0.4))
    fields += 0.5 * fields.std() * (ndimage.gaussian_filter(rng.standard_normal((n, *size, 1)), (0, 5, 5, 0)) > 0)
    fields = (fields - fields.min()) / (fields.max() - fields.min())
    return (255 * fields).astype(np.uint8)


def spot(y: int, x: int, size: tuple[int, int] = (64, 64), side: int = 6) -> np.ndarray:
    image = np.zeros((*size, 3), np.uint8)
    image[y : y + side, x : x + side] = 255
    return image


def by_the_formula(image: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """S of one image uint8 [H,W,3] and on + off in fp64, cell by cell."""
    height, width, _ = image.shape
    grey = image.astype(np.float64) @ (306, 601, 117) / 1024
    rows, columns = -(-height // factor), -(-width // factor)
    y = np.empty((rows, columns))
    for i, j in np.ndindex(rows, columns):
        y[i, j] = np.floor(grey[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor].mean() + 0.5)
    for _ in range(2):
        for axis in (0, 1):
            y = ndimage.correlate1d(y, [0.25, 0.5, 0.25], axis, mode="mirror")
        y = np.floor(y + 0.5)
    on, off = np.zeros_like(y), np.zeros_like(y)
    for n in (max(int(n / factor + 0.5), 1) for n in NEIGHBOURHOODS):
        for i, j in np.ndindex(rows, columns):
            around = y[max(i - n + 1, 0) : i + n + 1, max(j - n + 1, 0) : j + n + 1]
            mean = (around.sum() - y[i, j]) / (around.size - 1)
            on[i, j] += np.floor(max(y[i, j] - mean + 1e-9, 0))
            off[i, j] += np.floor(max(mean - y[i, j] + 1e-9, 0))
    return sum(np.floor(255 * part / part.max() + 1e-9) for part in (on, off) if part.max() > 0), on + off


@pytest.mark.parametrize("case", [*CASES, *LARGER], ids=str)
def test_the_cpu_twin_equals_the_reference(case):
    for seed in range(3):
        arguments = case.arguments(seed=seed)
        assert torch.equal(finegrained(**arguments), reference(**arguments))


@pytest.mark.parametrize("size, factor", [((40, 33), 1), ((90, 50), 2), ((120, 161), 4), ((70, 70), 3)])
def test_saliency_is_the_formula(size, factor):
    for image in photographs(2, size, seed=factor):
        images = torch.from_numpy(image)[None]
        wanted, difference = by_the_formula(image, factor)
        got = saliency(luminance(images, factor), factor)
        assert np.array_equal(got[0][0], wanted) and np.array_equal(got[1][0], difference)
        assert (wanted == wanted.max()).sum() > 1, "the brightest and the darkest are equal, so the second rule counts"
        largest = np.where(wanted == wanted.max(), difference, -1)
        cell = np.unravel_index(largest.argmax(), wanted.shape)
        place = [min(c * factor + factor // 2, length - 1) for c, length in zip(cell, size, strict=True)]
        assert finegrained(images, factor)[0].tolist() == place


@pytest.mark.parametrize("size", [(224, 224), (97, 150), (32, 32)])
def test_at_full_resolution_it_is_opencvs(size):
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "saliency"):
        pytest.skip("needs opencv-contrib-python-headless")
    detector = cv2.saliency.StaticSaliencyFineGrained_create()
    for image in photographs(3, size, seed=5):
        grey = luminance(torch.from_numpy(image)[None], 1)
        theirs = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        assert np.abs(grey[0].numpy() - theirs).max() <= 1  # other roundings of the weights
        ours = saliency(torch.from_numpy(theirs)[None], 1)[0][0].numpy()
        wanted = np.rint(255 * detector.computeSaliency(theirs)[1]).astype(int)
        difference = np.abs(ours % 256 - wanted)  # its bytes run over
        assert (np.minimum(difference, 256 - difference) <= 1).all() and (difference == 0).mean() > 0.9


def test_neighbourhoods_follow_the_cells():
    assert neighbourhoods(1) == list(NEIGHBOURHOODS) and neighbourhoods(4) == [3, 6, 7, 12, 14, 28]
    assert [usual_factor((s, s)) for s in (1, 32, 64, 65, 160, 224, 288)] == [1, 1, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("size", [(64, 64), (224, 160)])
def test_the_point_lies_in_a_bright_spot_and_moves_with_it(size):
    step = usual_factor(size)
    y, x = size[0] // 2 // step * step, size[1] // 3 // step * step
    moves = [(0, 0), (step, 0), (0, 3 * step), (-5 * step, 2 * step)]
    side = 6 * step
    images = np.stack([spot(y + dy, x + dx, size, side) for dy, dx in moves])
    points = finegrained(torch.from_numpy(images))
    for point, (dy, dx) in zip(points.tolist(), moves, strict=True):
        assert y + dy <= point[0] < y + dy + side and x + dx <= point[1] < x + dx + side
    assert torch.equal(finegrained(torch.from_numpy(255 - images)), points), "a dark spot on white is as salient"


def test_an_image_without_differences_is_most_salient_in_its_middle():
    for value in (0, 7, 255):
        images = torch.full((2, 50, 31, 3), value, dtype=torch.uint8)
        assert finegrained(images).tolist() == [[25, 15]] * 2


def test_arguments_that_do_not_fit_are_refused():
    images = torch.zeros(1, 300, 40, 3, dtype=torch.uint8)
    for wrong, match in ((images.float(), "uint8"), (images[..., :2], r"\[B,H,W,3\]"), (images[:0], "uint8")):
        with pytest.raises(ValueError, match=match):
            finegrained(wrong)
    for factor in (0, 2, 91):
        with pytest.raises(ValueError, match="need 3 to 90"):
            finegrained(images, factor)


# ---- the mixer ----


def pictures(n: int, size: tuple[int, int], seed: int = 0) -> Batch:
    images = torch.from_numpy(photographs(n, size, seed))
    return Batch(images, torch.arange(n), np.random.default_rng(seed))


@pytest.mark.parametrize("size", [(64, 48), (33, 20)])
@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_boxes_are_cutmixs_around_the_partners_salient_pixel(size, granularity):
    n = 12
    batch, again = pictures(n, size, seed=3), np.random.default_rng(3)
    plan = MIXERS["saliencymix"](alpha=0.8, granularity=granularity).plan(batch)
    lam = np.broadcast_to(again.beta(0.8, 0.8, 1 if granularity == "batch" else n), n)
    mixed, clean = mix(batch.images, plan, **NO_NORM), mix(batch.images, None, **NO_NORM)
    for i, j in enumerate(plan.partner.tolist()):
        point, edges = finegrained(batch.images[j : j + 1])[0].tolist(), []
        for length, centre in zip(size, point, strict=True):
            half = int(length * float(np.sqrt(1 - lam[i]))) // 2
            edges += [max(centre - half, 0), min(centre + half, length)]
        assert plan.table[i, 4:8].tolist() == edges
        y0, y1, x0, x1 = edges
        wanted = clean[i].clone()
        wanted[:, y0:y1, x0:x1] = clean[j, :, y0:y1, x0:x1]
        assert torch.equal(mixed[i], wanted)
        assert plan.other[i].item() == pytest.approx((y1 - y0) * (x1 - x0) / (size[0] * size[1]), abs=1e-7)
    assert len({tuple(row) for row in plan.table[:, 4:8].tolist()}) > n // 2


def test_boxes_show_the_spot_and_follow_it():
    places = [(20, 30), (24, 30), (20, 37), (31, 22)]  # spots whose blur has one highest pixel
    images = torch.from_numpy(np.stack([spot(*place, side=5) for place in places]))
    batch = Batch(images, torch.arange(4), FixedLam(0.84))
    plan = MIXERS["saliencymix"]().plan(batch)
    assert (plan.other == (2 * (int(64 * 0.4) // 2) / 64) ** 2).all()
    boxes = plan.table[plan.partner.long().argsort(), 4:8]  # in the order of the pasted images
    for (y, x), (y0, y1, x0, x1) in zip(places, boxes.tolist(), strict=True):
        assert y0 <= y and y + 5 <= y1 and x0 <= x and x + 5 <= x1
        assert (y0 - boxes[0, 0] - y + 20, x0 - boxes[0, 2] - x + 30) == (0, 0)


def test_mean_and_std_do_not_matter():
    one, two = pictures(6, (48, 48)), pictures(6, (48, 48))
    two.mean, two.std, two.dtype = (0.1, 0.9, 0.5), (2.0, 0.01, 1.0), torch.bfloat16
    assert torch.equal(*(MIXERS["saliencymix"]().plan(batch).table for batch in (one, two)))


def test_flat_images_give_boxes_in_the_middle():
    plan = MIXERS["saliencymix"](granularity="sample").plan(constants(8, (40, 40)))
    y0, y1, x0, x1 = plan.table[:, 4:8].T
    assert (y0 + y1 == 40).all() and (x0 + x1 == 40).all() and (plan.own + plan.other == 1).all()


@pytest.mark.parametrize("side, mean", [(64, 0.25), (225, 2 / 15)])
def test_the_box_of_openmixup_is_shared_and_unrelated_to_the_content(side, mean):
    mixer = MIXERS["saliencymix"](variant="openmixup")
    plan = mixer.plan(noise(5, (side, side), seed=1))
    assert len(plan.table[:, 4:8].unique(dim=0)) == 1
    columns, shares = [], []
    for seed in range(1200):
        batch = constants(2, (side, 16))
        batch.rng = np.random.default_rng(seed)
        y0, y1, x0, x1 = MIXERS["saliencymix"](alpha=5000, variant="openmixup").plan(batch).table[0, 4:8].tolist()
        if x0 > 0 and x1 < 16:
            columns.append((x0 + x1) // 2)
        shares.append((y1 - y0) / side)
    assert stats.chisquare(np.bincount(columns)[min(columns) :]).pvalue > 1e-3
    assert np.mean(shares) < clipped_length(int(side * np.sqrt(0.5)), side) / side, "shorter than CutMix's"
    law = stats.beta(2.5 * mean, 2.5 * (1 - mean))
    halves = stats.beta(5000, 5000).rvs(4000, random_state=0)
    half = (side * np.sqrt(1 - halves)).astype(int) // 2
    centre = np.minimum(side * law.rvs(4000, random_state=1), side - 1).astype(int)
    expected = (np.minimum(centre + half, side) - np.maximum(centre - half, 0)) / side
    assert stats.ks_2samp(shares, expected).pvalue > 1e-3


def test_partners_of_openmixup_may_be_the_image_itself():
    fixed = []
    for seed in range(400):
        batch = constants(4, (8, 8), seed)
        fixed.append((MIXERS["saliencymix"](variant="openmixup").plan(batch).partner == torch.arange(4)).sum())
    assert within(np.array(fixed), 1.0)


@pytest.mark.cuda
def test_on_a_gpu_the_point_and_the_plan_are_the_same_without_a_sync():
    for case in (*CASES, *LARGER):
        arguments = case.arguments()
        images = arguments["images"].cuda()
        finegrained(images, case.factor)
        with no_waits():
            got = finegrained(images, case.factor)
        assert torch.equal(got.cpu(), reference(**arguments))
    for variant in ("paper", "openmixup"):
        mixer = MIXERS["saliencymix"](granularity="sample", variant=variant)
        host, device = pictures(8, (64, 48)), pictures(8, (64, 48))
        device.images = device.images.cuda()
        with no_waits():
            plan = mixer.plan(device).to("cuda")
        assert torch.equal(plan.table.cpu(), mixer.plan(host).table)
