"""python -m fastmix.supermix: what it writes, and that nothing is left of what it does not finish."""

import numpy as np
import pytest
import torch

from fastmix import cli, supermix
from fastmix.engine import supermix_offline
from fastmix.engine.method import step_rng
from fastmix.mixers.supermix_online import recognised
from fastmix.models.teacher import Teacher
from fastmix.pipelines import loader_class
from fastmix.pipelines.packing.format import Beton
from fastmix.pipelines.view import View
from helpers.mixing import noise
from helpers.teaching import NAME, teacher_file, trained

SOURCE = "shapes:val?n=30&size=32"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTMIX_CACHE", str(folder))
        yield teacher_file(folder, trained())


@pytest.fixture
def words(file, tmp_path):
    """The command's words for a file OUT.beton with some options."""

    def words(out: str = "out", *more: str) -> list[str]:
        fixed = ["--size", "32", "--batch", "10", "--steps", "6", "--side", "8", "--sigma", "1", "--count", "12"]
        return [SOURCE, str(tmp_path / f"{out}.beton"), "--teacher", NAME, "--weights", file, *fixed, *more]

    return words


def normalised(pixels: np.ndarray) -> torch.Tensor:
    """By ImageNet's mean and std, [n,3,H,W]."""
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std


def test_the_label_is_the_first_class_that_the_teacher_sees_in_the_stored_pixels(words, tmp_path, capsys):
    assert supermix.main(words("out", "--raw")) == 0
    assert "12 mixed images, " in capsys.readouterr().out
    with Beton(tmp_path / "out.beton") as packed:
        pixels = np.stack([packed.data(row).reshape(32, 32, 3) for row in range(12)])
        labels = packed.labels.tolist()
        with torch.no_grad():
            assert labels == trained()(normalised(pixels)).argmax(1).tolist()
        assert len(packed) == 12 and packed.classes[0] == "arrow" and len(packed.classes) == 10
    loader = loader_class("beton")(tmp_path / "out.beton", 4, view=View(32, crop="centre"), train=False)
    shown = torch.cat([images[valid].clone() for images, _, valid in loader.epoch(0)])
    assert (shown.numpy() == pixels).all()


def test_equal_seeds_give_equal_files_and_quality_is_that_of_the_jpegs(words, tmp_path):
    for name, more in (("a", []), ("b", []), ("c", ["--seed", "1"]), ("d", ["--quality", "50"])):
        assert supermix.main(words(name, *more)) == 0
    a, b, c, d = ((tmp_path / f"{name}.beton").read_bytes() for name in "abcd")
    assert a == b and a != c
    with Beton(tmp_path / "a.beton") as fine, Beton(tmp_path / "d.beton") as coarse:
        assert fine.sizes.sum() > 1.5 * coarse.sizes.sum() and (fine.labels == coarse.labels).all()


def test_the_originals_come_first_untouched(words, tmp_path):
    assert supermix.main(words("both", "--originals", "--labels", "dominant")) == 0
    source = loader_class("beton")(SOURCE, 10, view=View(32), train=False)
    with Beton(tmp_path / "both.beton") as packed:
        assert len(packed) == 42
        for row in range(30):
            assert packed.data(row).tobytes() == bytes(source.record(row).data)
        assert (packed.labels[:30] == source.labels).all()


def test_finished_mixtures_show_the_teacher_both_classes_and_dominant_labels_follow_lam(words, file):
    args = supermix.parser().parse_args(words("x", "--labels", "dominant"))
    images, labels = noise(40, (32, 32)).images, torch.arange(40)
    teacher = Teacher("t", NAME, file)
    with torch.no_grad():
        pixels, chosen, finished = supermix_offline.mixed(images, labels, step_rng(0, 0, 0), teacher, args)
        rng = step_rng(0, 0, 0)
        partner = (np.arange(40) + rng.integers(1, 40)) % 40
        lam = rng.beta(3, 3, 40)
        classes = trained()(normalised(images.numpy())).argmax(1)
        logits = trained()(normalised(pixels.numpy()))
    assert chosen.tolist() == np.where(lam >= 0.5, np.arange(40), partner).tolist()
    pairs = torch.stack([classes, classes[partner]], 1)
    assert finished.tolist() == recognised(logits, pairs).tolist()
    low, high = (f(images.numpy(), images.numpy()[partner]) for f in (np.minimum, np.maximum))
    assert (pixels.numpy() >= low).all() and (pixels.numpy() <= high).all()


@pytest.mark.parametrize("tol, rounds", [("0", 2), ("0.99", 1)])
def test_finished_samples_are_left_out_of_later_rounds(words, file, monkeypatch, tol, rounds):
    sizes, optimise = [], supermix_offline.optimise

    def noting(*args):
        raw, done = optimise(*args)
        sizes.append((len(done), int(done.sum())))
        return raw, done

    monkeypatch.setattr(supermix_offline, "optimise", noting)
    args = supermix.parser().parse_args(words("x", "--tol", tol))
    with torch.no_grad():
        supermix_offline.mixed(
            noise(40, (32, 32)).images, torch.arange(40), step_rng(0, 0, 0), Teacher("t", NAME, file), args
        )
    assert len(sizes) == rounds and sizes[0][0] == 40 and 0 < sizes[0][1] < 40
    assert rounds == 1 or sizes[1][0] == 40 - sizes[0][1]


def test_an_interrupted_run_leaves_nothing(words, tmp_path, monkeypatch):
    mixed, calls = supermix_offline.mixed, []

    def second_fails(*args):
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return mixed(*args)

    monkeypatch.setattr(supermix_offline, "mixed", second_fails)
    assert cli.run(supermix.main, "supermix", words("out", "--count", "500")) == 130
    assert list(tmp_path.iterdir()) == []


def errors(said: str) -> list[str]:
    """What was said, but for the line on drawings that a cold cache lacks."""
    return [line for line in said.splitlines() if not line.startswith("drawing ")]


def test_an_epoch_without_a_finished_pair_is_an_error(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(supermix_offline, "recognised", lambda logits, pairs: torch.zeros(len(pairs), dtype=torch.bool))
    assert cli.run(supermix.main, "supermix", words()) == 2
    error = capsys.readouterr().err
    assert "in none of its 30 images, mixed with another, did the teacher see both classes" in error
    assert len(errors(error)) == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change, message", [
    (("--weights", "no.pth"), "no.pth: no such checkpoint"),
    (("--teacher", "resnt18"), "unknown model 'resnt18'"),
    (("--steps", "0"), "argument --steps: '0' is not a whole number from 1"),
    (("--sigma", "0"), "argument --sigma: '0' is not a number from 1e-06"),
    (("--quality", "0"), "argument --quality: '0' is not a whole number from 1 to 100"),
    (("--labels", "both"), "invalid choice: 'both'"),
])  # fmt: skip
def test_mistakes_are_one_line(words, tmp_path, capsys, change, message):
    assert cli.run(supermix.main, "supermix", words("out", *change)) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_and_a_teacher_of_other_classes_are_errors(words, tmp_path, capsys):
    (tmp_path / "out.beton").write_bytes(b"mine")
    assert cli.run(supermix.main, "supermix", words()) == 2
    other = teacher_file(tmp_path, trained(classes=7))
    assert cli.run(supermix.main, "supermix", words("new", "--weights", other)) == 2
    exists, classes = errors(capsys.readouterr().err)
    assert "out.beton: exists already; remove it or give --overwrite" in exists
    assert "a teacher of 7 classes, but shapes:val?n=30&size=32 has 10" in classes
    assert (tmp_path / "out.beton").read_bytes() == b"mine"
