"""What is drawn of each method, against its training step: lambdas, masks, pixels and weights."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from fastmix import Batch, config, draw, mix, mixers, models
from fastmix.engine import asked, mixtures, picture
from fastmix.engine.method import step_rng
from fastmix.engine.mixtures import FixedLambda, Scene
from fastmix.kernels.mix.cases import PLANS
from fastmix.targets import CrossEntropy
from helpers.drawing import LAMS, SIZE, N, batches, shares_of, teacher_in
from helpers.mixing import NO_NORM


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return teacher_in(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def rows(teacher):
    """A row for each method, cheap ones."""
    asks = {"teacher": "resnet10t", "weights": str(teacher)}
    some = {"fmix": {"bank": 4}, "mixpro": {"cell": 16}, "supermix": asks | {"steps": 2}} | dict(draw.STAND_ON)
    some |= {name: asks | {"size": 32} for name in ("attentivemix", "tokenmix")} | {"guidedmixup": {"mix_prob": 1}}
    more = {"three": {"mixer": "adautomix", "samples": 3}, "sized": {"mixer": "resizemix", "alpha": 1.0}}
    more |= {"taught": some["supermix"] | {"mixer": "supermix", "labels": "teacher"}, "sumix": {"of": {"mixup": {}}}}
    return {name: some.get(name, {}) for name in mixers.MIXERS} | more


@pytest.fixture(scope="module")
def networks():
    """Two that nobody trained: a ResNet, and a ViT with a class token."""
    args = {"img_size": SIZE, "patch_size": 16}
    made = [models.build(config.Model("resnet10t"), 10, 3), models.build(config.Model("test_vit", args=args), 10, 3)]
    return [asked.Network(model.eval(), f"number {k}") for k, model in enumerate(made)]


@pytest.fixture
def scene():
    return Scene(*(Batch(*given, None) for given in batches()), CrossEntropy(), 3, 10, LAMS, 2, True)


def block(name: str, rows: dict, networks: list, scene: Scene) -> mixtures.Block:
    found = mixtures.block(name, rows, "paper", networks, scene)
    assert not found.reason, found.reason
    return found


def columns(name: str, rows: dict, networks: list, scene: Scene):
    """The mixer, the network that it works with, and its draws."""
    for network in networks:
        mixer = mixers.build(name, rows)
        try:
            asked.prepared(mixer, name, network, 10, True)
            if mixer.looks_back:
                with torch.no_grad():
                    mixer(network.model, replace(scene.before, rng=step_rng(3, 0, 0)), scene.criterion)
                mixer.after_step(network.model)
            return mixer, network.model, list(mixtures.draws(mixer, network.model, scene))
        except ValueError as error:
            reason = error
    raise reason


# ---- each method ----


every_row = pytest.mark.parametrize("name", [*mixers.MIXERS, "three", "sized", "taught"])


@every_row
def test_the_weights_are_those_that_the_training_step_asks_for(name, rows, networks, scene):
    """The step itself, whose criterion is overheard, with what the picture's generator drew."""
    mixer, model, drawn = columns(name, rows, networks, scene)
    for rng, shown in drawn:
        heard, given = [], []

        class Overheard(CrossEntropy):
            def forward(self, logits, targets, heard=heard):
                heard.append(targets.dense(logits.shape[1]))
                return super().forward(logits, targets)

        part = next(k for k in itertools.count() if _same(rng, step_rng(3, 0, 0, k), mixer, model, scene, shown))
        hook = model.register_forward_pre_hook(lambda _, x, given=given: given.append(x[0].detach().clone()))
        mixer.eval()
        batch = replace(scene.batch, rng=FixedLambda(step_rng(3, 0, 0, part), rng.lam))
        mixer(model, batch, Overheard())
        hook.remove()
        wanted = shown.targets.dense(10)
        assert any(torch.allclose(dense, wanted, rtol=0, atol=2e-5) for dense in heard), (heard, wanted)
        assert any(
            torch.allclose(x, shown.images, rtol=0, atol=2e-5) for y in given for x in y.split(N) if len(x) == N
        ), name


def _same(rng, fresh, mixer, model, scene, shown) -> bool:
    """Whether this generator makes what is shown."""
    again = mixer.shown(model, replace(scene.batch, rng=FixedLambda(fresh, rng.lam)), scene.criterion)
    return torch.equal(again.images, shown.images) and torch.equal(again.targets.weights, shown.targets.weights)


@every_row
def test_a_lambda_is_the_one_that_was_asked_for_and_else_what_was_drawn_is_told(name, rows, networks, scene):
    mixer, _, drawn = columns(name, rows, networks, scene)
    heads = [mixtures.head_of(mixer, rng, 0) for rng, _ in drawn]
    if mixer.drawn == "λ":
        assert heads == [f"λ {lam:g}" for lam in LAMS] and all(rng.fixed for rng, _ in drawn)
    else:
        assert not any(rng.fixed for rng, _ in drawn) and not any("λ" in head for head in heads)
    for lam, (rng, shown) in zip(LAMS, drawn, strict=False):
        table, own = None if shown.plan is None else shown.plan.table[:2], shown.targets.weights[:2, 0]
        if name in ("mixup", "regmixup", "manifoldmix", "alignmix", "automix", "samix", "adautomix", "supermix"):
            assert own.tolist() == pytest.approx([lam, lam], abs=2**-16)
        elif name in ("fmix", "gridmix_cells", "mergemix"):  # as near as pixels, or cells, allow
            assert own.tolist() == pytest.approx([lam, lam], abs=1 / {"fmix": SIZE**2}.get(name, 4))
        elif name == "cutmix":  # 2 (side // 2) around a pixel, clipped
            side = 2 * (int(SIZE * np.sqrt(1 - lam)) // 2)
            y0, y1, x0, x1 = table[:, 4:8].T
            assert ((y1 - y0 <= side) & (x1 - x0 <= side)).all() and (y1 - y0 == side).any() | (y0 == 0).any()
        elif name == "resizemix":
            side = int(SIZE * float(rng.first[0]))
            assert (table[:, 5] - table[:, 4]).tolist() == [side, side] and f"τ {rng.first[0]:.2f}" in heads
        elif name == "smmix":
            assert (table[:, 5] - table[:, 4] == 16 * int(rng.first[0])).all() and f"side {rng.first[0]}" in heads
    if name == "vanilla":
        assert heads == [""]


@every_row
def test_a_mask_is_how_much_of_each_image_the_network_is_given(name, rows, networks, scene):
    """Of constant images, which mix as numbers do. Methods inside the network change no pixel, and say where."""
    _, _, drawn = columns(name, rows, networks, scene)
    both = torch.cat([scene.batch.images, scene.before.images]).permute(0, 3, 1, 2).double() / 255
    for _, shown in drawn:
        assert bool(shown.inside) == (name in ("manifoldmix", "alignmix") and "drawn: the input" not in shown.note)
        weights = mixtures.whole(shown, scene.batch).double()
        torch.testing.assert_close(weights.sum(1), torch.ones(N, SIZE, SIZE).double(), rtol=0, atol=1e-5)
        if shown.plan is not None and (shown.plan.kind.unique() > 3).any() and name not in ("fmix", "mixpro"):
            continue  # boxes of stretched images, and blocks that move: the pixels are not where they were
        if name in ("resizemix", "sized", "smmix", "recursivemix", "snapmix"):
            continue
        mean, std = (torch.tensor(v).double()[:, None, None] for v in (scene.batch.mean, scene.batch.std))
        wanted = torch.einsum("ikhw,kchw->ichw", weights, both[: weights.shape[1]])
        torch.testing.assert_close(shown.images.double() * std + mean, wanted, rtol=0, atol=2e-4)


# ---- single cells ----


@pytest.mark.parametrize("name", ["mixup", "cutmix", "smoothmix", "gridmix", "fmix", "resizemix", "saliencymix"])
def test_the_area_of_the_mask_is_the_weight_of_the_label(name, rows, networks, scene):
    for cell in block(name, rows, networks, scene).rows[1]:
        assert cell.labels[0].source == 1 and (cell.upper == cell.upper[..., :1]).all()
        assert shares_of(cell) == pytest.approx(cell.labels[0].weight, abs=0.502 / 255)
        assert sum(label.weight for label in cell.labels) == pytest.approx(1)


def test_recursivemix_shows_the_step_before(rows, networks, scene):
    """The history is what the step before was given, unmixed, as it was the first; resized to the nearest pixel."""
    before = scene.before.images.numpy()
    for cell in block("recursivemix", rows, networks, scene).rows[0]:
        ys, xs = np.nonzero((cell.upper == 0).all(2))
        (y0, x0), (y1, x1) = (ys.min(), xs.min()), (ys.max() + 1, xs.max() + 1)
        rows_of, columns_of = (np.arange(n) * SIZE // n for n in (y1 - y0, x1 - x0))
        assert (cell.pixels[y0:y1, x0:x1] == before[0][rows_of][:, columns_of]).all()
        share = (y1 - y0) * (x1 - x0) / SIZE**2
        own, past = int(scene.batch.labels[0]), int(scene.before.labels[0])
        told = {label.number: label.weight for label in cell.labels}
        assert told == pytest.approx({own: 1 - share, past: share} if own != past else {own: 1})
        assert cell.sources == [0, N] and 0 < share <= float(cell.head.split()[1]) + 0.005


def test_regmixup_shows_the_clean_images_beside_the_mixed_ones(rows, networks, scene):
    found = block("regmixup", rows, networks, scene)
    assert "beside: the clean images" in found.note
    for cell in found.rows[1]:
        assert (cell.upper == scene.batch.images[1].numpy()).all() and len(cell.labels) == 2


def test_methods_on_top_of_others_say_on_what_they_stand(rows, networks, scene):
    assert "on cutmix" in block("decoupledmix", rows, networks, scene).note
    assert "on mixup" in block("sumix", rows, networks, scene).note
    wide = replace(scene, lams=[0.3] * 8)
    drawn = [cell.note for cell in block("choice", rows, networks, wide).rows[0]]
    assert {*drawn} == {"drawn: mixup", "drawn: cutmix"}


@pytest.mark.parametrize("name,words", [("manifoldmix", "the features that stage"), ("alignmix", "the last features")])
def test_methods_inside_the_network_say_where(name, words, rows, networks, scene):
    mixer = {"manifoldmix": {"sites": ["stage1", "stage2"]}}.get(name, {})
    for cell in block(name, {name: mixer}, networks, scene).rows[0]:
        assert words in cell.upper and (cell.pixels == scene.batch.images[0].numpy()).all()
        assert cell.labels[0].weight == pytest.approx(float(cell.head.split()[1]), abs=1e-5)


def test_no_drawn_image_meets_itself_in_a_random_permutation(networks, scene):
    rows = {"mixup": {"variant": "openmixup"}}
    for seed in range(12):
        found = block("mixup", rows, networks, replace(scene, seed=seed, drawn=N))
        assert all(len({label.source for label in cell.labels}) == 2 for row in found.rows for cell in row)


def test_without_a_lambda_no_two_neighbours_are_alike(rows, networks, scene):
    wide = replace(scene, lams=[0.5] * 5)
    counts = {name: len(block(name, rows, networks, wide).rows[0]) for name in ("smoothmix", "vanilla", "guidedmixup")}
    assert counts == {"smoothmix": 5, "vanilla": 1, "guidedmixup": 1}, "one pairing, by the images alone"
    cells = block("smoothmix", rows, networks, wide).rows[0]
    assert len({cell.pixels.tobytes() for cell in cells}) == 5 and len({cell.head for cell in cells}) > 1


def test_a_lambda_replaces_the_law_of_lambda_alone():
    """The other draws are those of the generator; a law of something else, which is not symmetric, is not replaced."""
    for law, given in (((2.0, 2.0), True), ((2.0, 8.0), True)):
        one, two = FixedLambda(step_rng(0, 0, 0), 0.3), step_rng(0, 0, 0)
        two.beta(*law, 5)
        assert (one.beta(*law, 5) == 0.3).all() and one.fixed == given
        assert (one.integers(0, 9, 20) == two.integers(0, 9, 20)).all()
        assert (one.beta(3.0, 1.0, 4) == two.beta(3.0, 1.0, 4)).all()
    free = FixedLambda(step_rng(0, 0, 0), None)
    assert free.beta(2.0, 2.0) == step_rng(0, 0, 0).beta(2.0, 2.0) and not free.fixed


def test_a_method_of_three_images_has_a_colour_for_each(rows, networks, scene):
    _, _, drawn = columns("three", rows, networks, scene)
    for _, shown in drawn:
        weights = mixtures.whole(shown, scene.batch).numpy()
        for i, mask in enumerate(mixtures.masks_of(weights)):
            seen = [k for k in range(N) if k != i and weights[i, k].any()]
            colours = {k: mixtures.colour_of(k) if len(seen) > 1 else (0, 0, 0) for k in seen} | {i: picture.WHITE}
            wanted = sum(weights[i, k][..., None] * np.array(colour) for k, colour in colours.items())
            assert abs(mask - wanted).max() <= 0.51


@pytest.mark.parametrize("name", ["blocks", "stretched", "map", "all kinds"])
def test_the_provenance_mixes_constant_images_as_the_pass_does(name):
    n, size = 11, (12, 16)
    plan = PLANS[name](np.random.default_rng(0), n, size)
    share = mixtures.provenance(plan, size)
    torch.testing.assert_close(share.sum(1), torch.ones(n, *size), rtol=0, atol=1e-6)
    values = 5 + 20 * torch.arange(n)
    flat = values.byte()[:, None, None, None].expand(n, *size, 3)
    mixed = mix(flat, plan, **NO_NORM)[:, 0] * 255
    torch.testing.assert_close(torch.einsum("ikhw,k->ihw", share, values.float()), mixed, rtol=0, atol=1e-3)


def test_the_first_network_that_a_method_works_with_is_asked(rows, networks, scene):
    assert "asks number 0" in block("puzzlemix", rows, networks, scene).note
    assert "asks number 1" in block("transmix", rows, networks, scene).note
    assert "asks" not in block("cutmix", rows, networks, scene).note
    assert "untrained mix block" in block("samix", rows, networks, scene).note


def test_a_network_of_fewer_classes_is_refused_by_name(networks, rows, scene):
    found = mixtures.block("snapmix", rows, "paper", networks[:1], replace(scene, classes=11))
    assert found.reason == "number 0 knows 10 classes, the images are of 11"
