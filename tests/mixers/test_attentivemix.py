"""AttentiveMix+ against its definition, and the teacher that it asks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from fastmix import MIXERS, cli, config, files, train
from fastmix.engine import checkpoint
from fastmix.engine.task import Task
from fastmix.kernels.plan_rows.reference import top_cells
from fastmix.mixers import build
from fastmix.mixers.guided import pooled
from fastmix.models.teacher import Teacher
from fastmix.targets import CrossEntropy
from helpers.mixing import constants, masks, noise, shapes
from helpers.teaching import CLASSES, NAME, teacher_file, trained


@pytest.fixture(scope="module")
def model():
    return trained()


@pytest.fixture(scope="module")
def file(tmp_path_factory, model):
    return teacher_file(tmp_path_factory.mktemp("teacher"), model)


@pytest.fixture
def mixer(file):
    return lambda **options: MIXERS["attentivemix"](teacher=NAME, weights=file, **options)


def attention(n: int, cells: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n, 7, 7), np.float32))


# ---- cells ----


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_top_cells_are_the_largest_in_order_of_value_then_place(levels):
    rng = np.random.default_rng(levels)
    values = rng.random((200, 49), np.float32) if levels == 0 else rng.integers(levels, size=(200, 49)).astype("f")
    k = rng.integers(50, size=200)
    got = top_cells(torch.from_numpy(values), torch.from_numpy(k.astype(np.int32)))
    for row, count, chosen in zip(values, k, got, strict=True):
        order = sorted(range(49), key=lambda c: (-row[c], c))
        assert chosen.nonzero().flatten().tolist() == sorted(order[:count])


@pytest.mark.parametrize("size", [(56, 56), (64, 60), (33, 20)])
@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_the_most_attended_cells_stay_and_the_label_is_their_area(mixer, size, granularity):
    batch, seen = constants(6, size, seed=1), attention(6, 49)
    made = mixer(granularity=granularity)
    plan = made.plan(batch, seen)
    mask = masks(plan, batch)
    assert (mask - mask.round()).abs().max() < 1e-6
    mask = mask.round()
    cell = (np.arange(size[0]) * 7 // size[0])[:, None] * 7 + np.arange(size[1]) * 7 // size[1]
    counts = []
    for i in range(6):
        own = {c for c in range(49) if (mask[i][cell == c] == 1).all()}
        assert all((mask[i][cell == c] == 0).all() for c in range(49) if c not in own)
        values = seen[i].flatten().tolist()
        assert min(values[c] for c in own) > max([values[c] for c in range(49) if c not in own], default=-1)
        counts.append(len(own))
        assert abs(plan.own[i] - mask[i].mean()) < 1e-6
        assert size != (56, 56) or abs(plan.own[i] - len(own) / 49) < 1e-6
    assert (len(set(counts)) == 1) == (granularity == "batch")
    assert torch.equal(plan.own + plan.other, torch.ones(6))


def test_pixels_are_the_sources_bit_for_bit(mixer):
    batch = noise(5, (33, 20))
    plan = mixer().plan(batch, attention(5, 49))
    clean, mixed = batch.mix(), batch.mix(plan)
    assert ((mixed == clean) | (mixed == clean[plan.partner.long()])).all()
    assert not torch.equal(mixed, clean)


@pytest.mark.parametrize("k_dist, beta, mean", [("beta_alpha", 2, 24.0), ("beta_8", 8, 9.3)])
def test_k_follows_its_law(mixer, k_dist, beta, mean):
    made = mixer(k_dist=k_dist, granularity="sample")
    draws = (made.plan(shapes(5000, (7, 7), seed=4), attention(5000, 49)).own * 49).round().int().numpy()
    edges = stats.beta(2, beta).cdf(np.arange(50) / 49)
    expected = np.diff(edges)
    expected = np.concatenate([[expected[0] + expected[1]], expected[2:]])  # k = 0 becomes 1
    assert abs((expected * np.arange(1, 49)).sum() - mean) < 0.06  # what the docstring says
    most = int((expected * 5000 >= 5).sum())  # those above count as one: too rare to be compared one by one
    seen = np.bincount(draws, minlength=50)[1:49]
    merged = [np.append(v[: most - 1], v[most - 1 :].sum()) for v in (seen, 5000 * expected)]
    assert stats.chisquare(*merged).pvalue > 1e-3


def test_the_paper_keeps_six_cells(mixer):
    plan = mixer(top_k=6).plan(shapes(9, (49, 49)), attention(9, 49))
    assert (plan.own * 49).round().tolist() == [6.0] * 9


def test_scale_and_shift_of_the_features_change_nothing(mixer):
    seen = (attention(8, 49) * 1024).floor()
    one, two = (mixer().plan(shapes(8, (64, 64), seed=2), values) for values in (seen, 0.25 * seen + 3))
    assert torch.equal(one.table, two.table)


def test_openmixup_gives_all_samples_the_label_of_the_first(mixer):
    batch = constants(6, (64, 60), seed=1)
    plan = mixer(variant="openmixup").plan(batch, attention(6, 49))
    realised = masks(plan, batch).mean((1, 2))
    assert len(plan.own.unique()) == len(plan.other.unique()) == 1
    assert abs(realised[0] - plan.own[0]) < 1e-6 and abs(1 - realised[0] - plan.other[0]) < 1e-6
    assert (realised[realised.isfinite()] - plan.own[0]).abs().max() > 1e-3  # it is not that of the others


def test_large_maps_are_averaged_to_cells():
    values = torch.rand(2, 28, 14)
    by_hand = values.view(2, 7, 4, 7, 2).mean((2, 4))
    assert torch.allclose(pooled(values), by_hand)
    assert pooled(values[:, :13, :7]).shape == (2, 13, 7)


# ---- the teacher ----


def test_attention_is_the_channel_mean_of_the_last_map_of_the_resized_clean_batch(mixer, model):
    import timm
    from torchvision.transforms.v2.functional import resize

    batch = noise(3, (40, 48))
    found = mixer(size=96).guide(None, batch, None)
    pixels = batch.images.permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (batch.mean, batch.std))
    x = resize((pixels - mean) / std, [96, 96], antialias=False)
    last = timm.create_model(NAME, features_only=True, out_indices=(-1,), num_classes=CLASSES).eval()
    last.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        assert torch.allclose(found, last(x.float())[0].mean(1), atol=1e-5)


def test_a_teacher_is_no_part_of_the_method(mixer, file):
    made = mixer(size=32)
    assert not list(made.parameters()) and not list(made.buffers()) and not made.state_dict()
    before = {name: value.clone() for name, value in made.teacher.model.state_dict().items()}
    student = trained(seed=4)
    task = Task(student, made, config.Config(precision="fp32")).train()
    assert not any(module.training for module in made.teacher.model.modules())
    loss = made(student, noise(4, (32, 32)), task.criterion)
    loss.backward()
    after = made.teacher.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None and not p.requires_grad for p in made.teacher.model.parameters())
    assert all(p.grad is not None for p in student.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_is_finite_in_half_precision(mixer, dtype):
    batch = noise(3, (32, 32))
    batch.dtype = dtype
    with torch.autocast("cpu", dtype):
        assert mixer(size=32)(trained(seed=4), batch, CrossEntropy()).isfinite()


def test_the_file_says_how_many_classes_there_are_and_its_average_is_preferred(tmp_path, file, model):
    assert Teacher("M", NAME, file).classes == CLASSES
    raw, ema = (trained(classes=7, seed=seed).state_dict() for seed in (5, 6))
    torch.save({"state_dict": raw, "state_dict_ema": ema}, tmp_path / "timm.pth")
    teacher = Teacher("M", NAME, tmp_path / "timm.pth")
    x = torch.randn(2, 3, 64, 64)
    assert teacher.classes == 7 and torch.equal(teacher.logits(x), trained(classes=7, seed=6)(x))
    assert torch.equal(Teacher("M", NAME, file).logits(x), model(x))


@pytest.mark.parametrize("options, message", [
    ({"weights": None}, "AttentiveMix: weights is not given; name a file with the weights of its teacher test_resnet"),
    ({"weights": "no.safetensors"}, "no.safetensors: no such checkpoint"),
    ({"teacher": "resnt18"}, "unknown model 'resnt18'; did you mean resnet18"),
    ({"teacher": "test_vit"}, "the weights do not fit the model: there is no head.weight in it"),
    ({"teacher": "resnet18"}, "the weights do not fit the model"),
    ({"k_dist": "beta"}, "k_dist is 'beta'; choose one of beta_alpha, beta_8"),
    ({"size": 16}, "size is 16"),
    ({"top_k": 0}, "top_k is 0"),
])  # fmt: skip
def test_mistakes_are_one_line(file, options, message):
    with pytest.raises(ValueError) as error:
        build("a", {"a": {"mixer": "attentivemix", "teacher": NAME, "weights": file} | options})
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("mixers.a: AttentiveMix: ")


def test_more_cells_than_the_map_has_are_an_error(mixer):
    with pytest.raises(ValueError, match="top_k is 50; the map of teacher test_resnet has 49 cells"):
        mixer(top_k=50).plan(shapes(2, (8, 8)), attention(2, 49))


SMALL = """
epochs: 2
batch_total: 20
precision: fp32
data: {train: "shapes:train?n=60&size=32", val: "shapes:val?n=20&size=32", size: 32, val_resize: null, workers: 2}
model: {name: test_resnet}
mixers:
  attentivemix: {teacher: test_resnet, weights: TEACHER, size: 32}
  supermix: {teacher: test_resnet, weights: TEACHER, side: 8, sigma: 1, steps: 2}
  grafting: {}
"""


@pytest.mark.long
@pytest.mark.parametrize("mix", ["attentivemix", "supermix", "grafting"])
def test_a_run_with_a_teacher_is_resumed_exactly(tmp_path, monkeypatch, file, mix):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path / "cache"))
    Path("small.yaml").write_text(SMALL.replace("TEACHER", file))
    assert train.main(["small.yaml", f"mix={mix}", "out=whole"]) == 0
    record = checkpoint.State.record

    def stop_in_the_second_epoch(self, loss):
        record(self, loss)
        self.stop = self.stop or self.step == 4

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.State, "record", stop_in_the_second_epoch)
        assert train.main(["small.yaml", f"mix={mix}", "out=parts"]) == cli.TRY_AGAIN
    assert files.read_torch(Path("parts/last.pt"))["run"]["step"] == 5
    assert train.main(["small.yaml", f"mix={mix}", "out=parts", "--resume"]) == 0
    whole, parts = (files.read_torch(Path(name, "last.pt"))["task"] for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    assert all(name.startswith("model.") for name in whole)
