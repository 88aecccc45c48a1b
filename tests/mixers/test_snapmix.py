"""SnapMix against the explicit maps of its paper in float64, resized by torch and summed pixel by pixel."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from fastmix import MIXERS, Batch, mix
from fastmix.kernels.plan import RESIZED
from fastmix.kernels.plan_rows.percent import resizing, share
from fastmix.mixers.cutmix import CutMix
from fastmix.models import load_timm
from helpers.mixing import NO_NORM, noise

SnapMix = MIXERS["snapmix"]
SIZES = [
    ((32, 32), (4, 4)),
    ((33, 20), (7, 5)),
    ((21, 64), (3, 7)),
    ((8, 8), (8, 8)),
    ((5, 6), (8, 3)),
    ((9, 7), (1, 1)),
]


def percent(activation: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The authors' percent maps, [B,H,W], float64."""
    maps = F.interpolate(activation.double()[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / maps.sum((1, 2), keepdim=True)


def boxes(n: int, size: tuple[int, int], seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    edges = [np.sort(rng.integers(0, length + 1, (2, n)), 0) for length in size]
    return (*edges[0], *edges[1])


def random_maps(n: int, cells: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(n, *cells, generator=torch.Generator().manual_seed(seed))


def network(name: str = "test_resnet", **args) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return load_timm().create_model(name, num_classes=3, **args)


@pytest.mark.parametrize("size, cells", SIZES[:-1])
def test_shares_are_sums_over_the_resized_map(size, cells):
    maps, box = random_maps(40, cells), boxes(40, size)
    found, explicit = share(maps, box, size), percent(maps, size)
    for k, (y0, y1, x0, x1) in enumerate(np.stack(box, 1).tolist()):
        assert found[k].item() == pytest.approx(explicit[k, y0:y1, x0:x1].sum().item(), abs=1e-12)


@pytest.mark.parametrize("size, cells", SIZES)
def test_a_map_that_says_nothing_counts_by_area(size, cells):
    box = boxes(4, size, seed=1)
    area = torch.from_numpy((box[1] - box[0]) * (box[3] - box[2]) / (size[0] * size[1]))
    for value in (0.0, 3.7, -1e30, torch.nan, torch.inf, -torch.inf):
        assert torch.equal(share(torch.full((4, *cells), value), box, size), area)
    maps = random_maps(4, cells)
    maps[torch.arange(4), 0, 0] = torch.tensor([torch.nan, torch.inf, -torch.inf, torch.nan])
    assert torch.equal(share(maps, box, size), area)


@pytest.mark.parametrize("size, cells", SIZES[:4])
def test_shares_add_up_and_do_not_know_offset_and_scale(size, cells):
    (h, w), maps, one = size, random_maps(9, cells), np.ones(1, int)
    whole = share(maps, (0 * one, h * one, 0 * one, w * one), size)
    assert (whole - 1).abs().max() < 1e-12
    y, x = h // 3, w // 2
    quarters = [(a * one, b * one, c * one, d * one) for a, b in ((0, y), (y, h)) for c, d in ((0, x), (x, w))]
    assert (sum(share(maps, q, size) for q in quarters) - 1).abs().max() < 1e-12
    assert (share(2.5 * maps + 1000, quarters[0], size) - share(maps, quarters[0], size)).abs().max() < 1e-3
    assert share(maps, (0 * one,) * 4, size).tolist() == [0] * 9


@pytest.mark.parametrize("length, cells", [(224, 7), (33, 7), (7, 7), (5, 8), (9, 1), (64, 2)])
def test_resizing_is_torchs(length, cells):
    _, sums = resizing(length, cells)
    eye = torch.eye(cells, dtype=torch.float64)[None]
    matrix = F.interpolate(eye, length, mode="linear", align_corners=False)[0].T.numpy()
    assert np.abs(np.diff(sums, axis=0) - matrix).max() < 1e-12


def test_the_guide_is_the_activation_map_of_the_label():
    model = network().train()
    model.fc.bias.data.normal_(generator=torch.Generator().manual_seed(0))
    batch, copied = noise(5, (64, 48)), copy.deepcopy(model).eval()
    found = SnapMix().guide(model, batch, None)
    with torch.no_grad():
        features = copied.forward_features(batch.mix())
        maps = F.conv2d(features.relu(), copied.fc.weight[:, :, None, None], copied.fc.bias)
        logits = copied(batch.mix())
    assert (maps.mean((2, 3)) - logits).abs().max() < 1e-4, "the classifier is linear in the map"
    own = maps[torch.arange(5), batch.labels]
    assert (percent(found, batch.size) - percent(own, batch.size)).abs().max() < 1e-6


@pytest.mark.parametrize("granularity", ["batch", "sample"])
@pytest.mark.parametrize("size", [(32, 32), (33, 20)])
def test_labels_and_pixels_follow_from_the_boxes(granularity, size):
    batch, maps = noise(12, size), random_maps(12, (4, 3))
    plan = SnapMix(granularity=granularity).plan(batch, maps)
    mixed, explicit = mix(batch.images, plan, **NO_NORM) * 255, percent(maps, size)
    images = batch.images.permute(0, 3, 1, 2).float()
    table = plan.table[:, 4:].tolist()
    assert (plan.kind == RESIZED).all() and len({tuple(row) for row in table}) == (1 if granularity == "batch" else 12)
    for i, (y0, y1, x0, x1, v0, v1, u0, u1) in enumerate(table):
        j, expected = plan.partner[i], images[i].clone()
        if (y1 - y0) * (x1 - x0):
            window = images[None, j, :, v0:v1, u0:u1]
            shown = F.interpolate(window, (y1 - y0, x1 - x0), mode="bilinear", align_corners=True)
            expected[:, y0:y1, x0:x1] = shown[0]
        assert (mixed[i] - expected).abs().max() <= 2 * 255 / 128 + 1e-3  # positions are rounded to 1/128 pixel
        assert plan.own[i].item() == pytest.approx(1 - explicit[i, y0:y1, x0:x1].sum().item(), abs=1e-6)
        assert plan.other[i].item() == pytest.approx(explicit[j, v0:v1, u0:u1].sum().item(), abs=1e-6)
    assert (plan.own + plan.other - 1).abs().max() > 0.01, "they do not sum to one"


class Boxes(SnapMix):
    """Draws the given boxes, first those that are filled, then those that are taken."""

    def __init__(self, *given, **options):
        super().__init__(**options)
        self.given = given

    def draw(self, batch, grid):
        self.left = iter(self.given)
        return super().draw(batch, grid)

    def box(self, batch, n):
        return tuple(np.full(n, edge) for edge in next(self.left))


def test_whole_boxes_show_the_partner_and_nothing_else():
    batch, whole = noise(4, (16, 12)), (0, 16, 0, 12)
    plan = Boxes(whole, whole).plan(batch, random_maps(4, (2, 2)))
    assert (plan.own.abs() < 1e-6).all() and ((plan.other - 1).abs() < 1e-6).all()
    assert torch.equal(batch.mix(plan), batch.mix()[plan.partner.long()])


def test_uniform_maps_count_by_area():
    plan = Boxes((0, 8, 2, 8), (4, 12, 0, 12)).plan(noise(4, (16, 12)), torch.ones(4, 2, 2))
    assert torch.allclose(plan.own, torch.tensor(1 - 48 / 192)) and torch.allclose(plan.other, torch.tensor(96 / 192))


@pytest.mark.parametrize("empty", [0, 1])
def test_an_empty_box_leaves_the_image_as_it_is(empty):
    given = [(2, 8, 2, 8), (2, 8, 2, 8)]
    given[empty] = (3, 3, 2, 8)
    batch = noise(4, (16, 12))
    plan = Boxes(*given, variant="openmixup").plan(batch, random_maps(4, (2, 2)))
    assert plan.own.tolist() == [1] * 4 and plan.other.tolist() == [0] * 4
    assert torch.equal(batch.mix(plan), batch.mix())


def test_a_pair_of_one_class_counts_once_and_in_openmixup_twice():
    given, maps = [(2, 8, 2, 8), (1, 9, 0, 7)], random_maps(8, (3, 3))
    for seed in range(5):
        batches = [noise(8, (16, 12), seed) for _ in range(2)]
        plain, doubled = (
            Boxes(*given, variant=v).plan(b, maps) for v, b in zip(("paper", "openmixup"), batches, strict=True)
        )
        labels = batches[0].labels
        for i in range(8):
            y, v = percent(maps, (16, 12))[i, 2:8, 2:8].sum(), percent(maps, (16, 12))[:, 1:9, 0:7].sum((1, 2))
            for plan, twice in ((plain, False), (doubled, True)):
                j = plan.partner[i]
                own, other = 1 - y.item(), v[j].item()
                if twice and labels[i] == labels[j]:
                    own = other = own + other
                assert plan.own[i].item() == pytest.approx(own, abs=1e-6)
                assert plan.other[i].item() == pytest.approx(other, abs=1e-6)


def test_both_boxes_have_cutmixs_law_and_know_nothing_of_each_other():
    mixer, batch = SnapMix(alpha=1.0, granularity="sample"), noise(1, (32, 32), seed=5)
    areas = []
    for _ in range(2):
        y0, y1, x0, x1 = mixer.box(batch, 4000)
        areas.append((y1 - y0) * (x1 - x0))
    shapes = Batch(torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(4000, 32, 32, 3), torch.zeros(4000), batch.rng)
    cut = CutMix(1.0, granularity="sample").plan(shapes).other.double().numpy() * 1024
    for area in areas:
        assert stats.ks_2samp(area, cut.round()).pvalue > 1e-3
    assert stats.spearmanr(*areas).pvalue > 1e-3


def test_prob_is_that_of_mixing():
    model, mixer = network(), SnapMix(mix_prob=0.3)
    mixer.guide = lambda *args: random_maps(2, (2, 2))
    plans = [mixer.decide(model, noise(2, (8, 8), seed), None) for seed in range(300)]
    assert stats.binomtest(sum(p is not None for p in plans), 300, 0.3).pvalue > 1e-3
    shapes = Batch(
        torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(2000, 32, 32, 3), torch.zeros(2000), noise(1, (1, 1)).rng
    )
    plan = SnapMix(mix_prob=0.3, granularity="sample").plan(shapes, random_maps(1, (2, 2)).expand(2000, 2, 2))
    assert stats.binomtest(int((plan.own < 1).sum()), 2000, 0.3).pvalue > 1e-3


@pytest.mark.parametrize("name, args", [("deit_tiny_patch16_224", {"img_size": 32}), ("pvt_tiny", {"img_size": 32})])
def test_a_model_that_does_not_pool_a_map_is_refused(name, args):
    with pytest.raises(ValueError, match=f"^{name} classifies from a class token"):
        SnapMix().decide(network(name, **args), noise(2, (32, 32)), None)


@pytest.mark.parametrize(
    "options, words",
    [({"mix_prob": 0}, "mix_prob is 0"), ({"mix_prob": 1.5}, "mix_prob is 1.5"), ({"alpha": -1}, "alpha")],
)
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        SnapMix(**options)
