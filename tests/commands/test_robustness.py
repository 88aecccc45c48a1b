"""The robustness command on a small run: its file, its words, a user's mistakes; it and validation agree."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastmix import cli, report, robustness, validate
from fastmix.engine.robustness import measure
from fastmix.engine.robustness.corruptions import CORRUPTIONS
from fastmix.runs import each_image
from helpers import lite0
from helpers.forked import forked


@pytest.fixture(autouse=True)
def nothing_measured(work):
    for name in ("robustness.json", "each.csv"):
        Path("run", name).unlink(missing_ok=True)


def result(*words: str) -> dict:
    assert robustness.main([*words, "--again"]) == 0
    return written()


def written() -> dict:
    return json.loads(Path("run/robustness.json").read_text())


def test_all_tests_in_a_pass(work, capsys):
    found = result("run", "--steps", "3", "--linf", "2", "--l2", "0.1", "--restarts", "2")
    said = capsys.readouterr().out
    assert said.startswith("run/robustness.json: top1 ") and "FGSM 1/255" in said and "PGD-3 linf 2/255" in said
    assert validate.main(["run", "--ema", "--json", "plain.json"]) == 0
    plain = json.loads(Path("plain.json").read_text())
    clean = found["clean"]
    assert (clean["top1"], clean["top5"], clean["images"]) == (plain["top1"], plain["top5"], plain["images"])
    assert clean["loss"] == pytest.approx(plain["loss"], rel=1e-6) and found["ema"] and found["size"] == 48
    assert found["ece"]["all"]["nll"] == pytest.approx(plain["loss"], rel=1e-6)
    assert (found["fgsm"]["top1"][0], found["fgsm"]["eps_levels"]) == (clean["top1"], [*range(9)])
    assert found["fgsm"]["loss"][0] == pytest.approx(clean["loss"], rel=1e-5)
    assert max(found["pgd"]["top1"]) <= clean["top1"] and min(found["pgd"]["loss"]) > clean["loss"]
    assert [*found["corruptions"]["top1"]] == [*CORRUPTIONS] and "mce" not in found["corruptions"]
    assert found["corruptions"]["constants"] == "tiny" and found["shuffle"]["parts_a_side"] == [2, 4, 8]
    assert all(len(row) == 5 for row in found["occlusion"]["top1"].values())
    assert 100 * each_image.read(Path("run")).hits.mean() == pytest.approx(clean["top1"])
    capsys.readouterr()
    assert report.main(["run", "--robustness"]) == 0
    header, _, row = capsys.readouterr().out.splitlines()
    assert f"| {clean['top1']:.2f} " in row and "| ECE " in header and "| PGD-3x2 linf 2/255 " in header


def test_a_sweeps_folder_may_have_settings_in_its_name(work, capsys):
    shutil.copytree("run", "cutmix_s0_mixers.cutmix.alpha=1")
    assert robustness.main(["cutmix_s0_mixers.cutmix.alpha=1", "--tests", "ece", "--images", "20"]) == 0
    assert json.loads(Path("cutmix_s0_mixers.cutmix.alpha=1/robustness.json").read_text())["clean"]["images"] == 20


def test_a_run_compared_with_its_weights_without_their_average(work, capsys):
    shutil.copytree("run", "raw")
    assert robustness.main(["raw", "run", "--raw", "--tests", "ece"]) == 0
    result("run", "--tests", "ece")
    capsys.readouterr()
    assert report.main(["--compare", "run", "raw"]) == 0
    first, second, difference, test = capsys.readouterr().out.splitlines()
    shown = [json.loads(Path(name, "robustness.json").read_text())["clean"]["top1"] for name in ("run", "raw")]
    assert first == f"run: top-1 {shown[0]:.2f} % (1 run)" and second.startswith(f"raw: top-1 {shown[1]:.2f}")
    assert f"difference: {shown[0] - shown[1]:+.2f} points" in difference and "(mid-p)" in test


def test_some_tests_of_some_images_are_the_same_again(work):
    words = ["run", "run/last.pt", "--tests", "shuffle", "corruptions", "--corruptions", "shot_noise", "--images", "20"]
    one = result(*words, "--seed", "4")
    assert one["clean"]["images"] == 20 and "ece" not in one and [*one["corruptions"]["top1"]] == ["shot_noise"]
    two = result(*words, "--seed", "4", "batch_total=7")
    assert all(without_times(one)[key] == without_times(two)[key] for key in ("corruptions", "shuffle"))


def without_times(found: dict) -> dict:
    return {
        key: {k: v for k, v in value.items() if k != "seconds"} if isinstance(value, dict) else value
        for key, value in found.items()
    }


def test_tests_that_come_later_are_added(work, capsys):
    """All at once says the same; only what was asked for changes, and a part that is there is not measured again."""
    words = ["run", "--images", "12", "--corruptions", "contrast", "pixelate", "--linf", "2", "--l2", "0.1", "--steps"]
    whole = result(*words, "1", "--tests", "ece", "corruptions", "pgd", "shuffle")
    capsys.readouterr()
    one = result("run", "--images", "12", "--tests", "corruptions", "--corruptions", "contrast")
    assert without_times(one) == without_times(whole), "what was not measured again is kept"
    Path("run/robustness.json").unlink()
    Path("run/each.csv").unlink()
    robustness.main(["run", "--images", "12", "--tests", "corruptions", "--corruptions", "pixelate"])
    assert "ece" not in written() and Path("run/each.csv").is_file()
    capsys.readouterr()
    robustness.main([*words, "1", "--tests", "pgd", "corruptions"])
    assert "has" not in capsys.readouterr().err
    robustness.main([*words, "1", "--tests", "ece", "shuffle", "pgd"])
    assert capsys.readouterr().err == "run/robustness.json: has pgd; --again measures anew\n"
    assert without_times(written()) == without_times(whole)
    robustness.main([*words, "2", "--tests", "pgd"])
    later = written()
    assert later.pop("pgd")["steps"] == 2 and whole.pop("pgd")["steps"] == 1
    assert without_times(later) == without_times(whole)


def test_frost_by_pictures_stands_in_the_place_of_synthesised_frost(work, capsys):
    rng = np.random.default_rng(0)
    Path("frost").mkdir()
    for k in range(1, 6):
        Image.fromarray(rng.integers(0, 256, (170, 180, 3)).astype(np.uint8)).save(f"frost/frost{k}.png")
    words = ["run", "--images", "8", "--tests", "corruptions", "--corruptions", "contrast", "frost_synthesised"]
    result(*words)
    assert robustness.main([*words, "--frost", "frost"]) == 0
    assert [*written()["corruptions"]["top1"]] == ["contrast", "frost"]
    capsys.readouterr()
    assert robustness.main(words) == 0
    assert "has corruptions; --again" in capsys.readouterr().err, "the pictures are the better measure"
    assert [*result(*words)["corruptions"]["top1"]] == ["frost_synthesised", "contrast"]


def test_ctrl_c_loses_no_test_that_is_done(work, monkeypatch):
    """The second of three passes ends it; what comes again begins there."""
    rounds, made = [], measure.each_once

    def interrupted(*args):
        rounds.append(args)
        if len(rounds) == 3:
            raise KeyboardInterrupt
        return made(*args)

    words = ["run", "--images", "10", "--tests", "corruptions", "shuffle", "--corruptions", "contrast", "pixelate"]
    monkeypatch.setattr(measure, "each_once", interrupted)
    assert cli.run(robustness.main, "robustness", words) == 130
    found = written()
    assert [*found["corruptions"]["top1"]] == ["contrast"] and "shuffle" not in found and "clean" in found
    assert cli.run(robustness.main, "robustness", words) == 0 and len(rounds) == 5, "pixelate and shuffle"
    assert written()["corruptions"]["top1"].keys() == {"contrast", "pixelate"} and "shuffle" in written()


def test_other_weights_or_images_are_no_addition(work, capsys):
    result("run", "--images", "10", "--tests", "ece")
    before = Path("run/robustness.json").read_bytes()
    for more, says in (
        (["--images", "11"], "other data"),
        (["--images", "10", "--raw"], "other weights"),
        (["--images", "10", "--seed", "1"], "other data, seed 0, not 1"),
        (["--images", "10", "data.val_size=32"], "measured on size 48, not 32;"),
    ):
        assert cli.run(robustness.main, "robustness", ["run", "--tests", "shuffle", *more]) == 2
        err = capsys.readouterr().err
        assert says in err and "--again drops that, --json FILE writes elsewhere" in err and err.count("\n") == 1
        assert Path("run/robustness.json").read_bytes() == before
    assert robustness.main(["run/model.safetensors", "--images", "10", "--tests", "shuffle"]) == 0
    assert written().keys() > {"ece", "shuffle"}, "an export has the run's average"
    assert "ece" not in result("run", "--images", "11", "--tests", "shuffle")
    assert "measured on other data; what it has is dropped" in capsys.readouterr().err
    old = {key: value for key, value in json.loads(before).items() if key != "weights"}
    Path("run/robustness.json").write_text(json.dumps(old))
    assert cli.run(robustness.main, "robustness", ["run", "--tests", "shuffle", "--images", "10"]) == 2
    assert "measured on weights and images that it does not name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, says",
    [
        (["data.val=x"], "name a run folder"),
        (["nowhere"], "nowhere"),
        (["run", "--tests", "ecf"], "--tests: 'ecf' is none of ece, corruptions, fgsm"),
        (["run", "--corruptions", "rain"], "--corruptions: 'rain' is none of gaussian_noise"),
        (["run", "--corruptions", "frost"], "--corruptions frost needs the pictures: --frost FOLDER"),
        (["run", "--frost", "run"], "run: no frost1.png or frost1.jpg, of the five pictures of ImageNet-C"),
        (["run", "--json", "run/log.jsonl"], "run/log.jsonl: not a file of fastmix.robustness"),
        (["run", "run", "--json", "x.json"], "--json names one file, for 2 runs"),
        (["run", "--json", "no/x.json"], "there is no folder no"),
        (["run", "--linf", "300"], "argument --linf: '300' is not a number from 0 to 255"),
        (["run", "--tests", "shuffle", "data.val_size=47"], "images of 47 pixels have no equal parts"),
        (["run", "epochz=1"], "did you mean 'epochs'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(work, capsys, words, says):
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    assert cli.run(robustness.main, "robustness", words) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1 and err[0].startswith("fastmix robustness: error: ") and says in err[0]
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()} == before


@pytest.mark.long
def test_two_processes_equal_one(running, work):
    words = ["fastmix.robustness", "run", "--tests", "ece", "corruptions", "pgd", "--json", "two.json"]
    some = ["--corruptions", "snow", "--steps", "2", "--images", "21"]
    done = forked(running, *words, *some)
    assert done.code == 0, done.err[-3000:]
    assert done.out.count("top1") == 1
    one, two = result(*words[1:-2], *some), json.loads(Path("two.json").read_text())
    assert two["clean"]["images"] == 21 and two["corruptions"]["top1"] == one["corruptions"]["top1"]
    assert two["pgd"]["top1"] == one["pgd"]["top1"] and two["ece"]["all"]["ece"] == pytest.approx(
        one["ece"]["all"]["ece"]
    )


@pytest.mark.long
def test_a_trained_network_on_photographs(data, tmp_path, monkeypatch):
    """Corruption and attack cost accuracy, the stronger the more; salient patches cost most."""
    from timm.data import ImageNetInfo

    from fastmix.engine import validation
    from fastmix.engine.robustness.protocols import Options

    monkeypatch.chdir(tmp_path)
    synsets = ImageNetInfo().label_names()
    files = sorted(data("imagenet_sample").glob("train/*/*.JPEG"))[::10]
    lines = (f"{path},{synsets.index(path.parent.name)}\n" for path in files)
    Path("list.csv").write_text("".join(lines))
    words = ["data.loader=folder", "data.val=list.csv", "precision=fp32", "device=cpu", "batch_total=20"]
    subject = validation.of_timm(lite0.NAME, str(lite0.weights(tmp_path)), [*words, "model.classes=1000"])
    tests = ("ece", "corruptions", "fgsm", "occlusion", "shuffle")
    options, found = Options(tests, corruptions=("contrast",)), {}
    stand = measure.prepared(subject, options)
    for new, _ in measure.measure(stand, options, measure.missing(stand, options, {}), bar=False):
        found = measure.joined(stand, found, new)
    clean = found["clean"]["top1"]
    assert found["clean"]["images"] == 20 and clean > 75
    for top1 in found["corruptions"]["top1"].values():
        assert clean > top1[2] > top1[4]
    assert found["fgsm"]["top1"][1] < clean - 30 and found["fgsm"]["loss"][4] > found["fgsm"]["loss"][1] > 1
    gone = found["occlusion"]["top1"]
    assert gone["salient"][2] < gone["non_salient"][2] and gone["random"][0] > gone["random"][4]
    assert clean > found["shuffle"]["top1"][0] > found["shuffle"]["top1"][3]
    assert found["ece"]["after"]["nll"] < found["ece"]["before"]["nll"]
