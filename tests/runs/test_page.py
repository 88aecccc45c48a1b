"""The page about runs as a file: what it holds, that text stays text, when it is written and what is read for it."""

import base64
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import threading
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from fastmix import cli, config, report, sweep
from fastmix.engine import picture
from fastmix.runs import run_folder
from fastmix.runs.page import pictures, watch
from fastmix.runs.page.html import data, tag
from fastmix.runs.page.pictures import Album
from fastmix.runs.page.watch import Page
from helpers import made_runs

EPOCHS = 8
EVIL = "<script>evil=1</script>&amp;\"'"
NAMES = ("vanilla_s0", "vanilla_s1", "cutmix_s0", "cutmix_s1", "mixup_s0")


class Parsed(HTMLParser):
    """What a browser sees: elements with their attributes, and all text by the element that it stands in."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.whole = True
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        self.whole = True

    def handle_endtag(self, name):
        self.whole = True

    def handle_data(self, text):
        if not self.whole:  # the parser may hand over a text in parts
            text = self.texts.pop()[1] + text
        self.texts.append((self.elements[-1][0] if self.elements else "", text))
        self.whole = False

    def of(self, name: str) -> list[dict]:
        return [attributes for found, attributes in self.elements if found == name]

    def within(self, name: str) -> list[str]:
        return [text for found, text in self.texts if found == name]

    @property
    def facts(self) -> dict:
        return json.loads(next(text for text in self.within("script") if text.startswith("{")))


@pytest.fixture(scope="module")
def common():
    return config.load("cifar10_small", [f"epochs={EPOCHS}"])


@pytest.fixture
def runs(tmp_path, common, monkeypatch):
    """Vanilla and CutMix with two seeds each, and MixUp, of which half is trained."""
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(NAMES):
        cfg = dataclasses.replace(common, mix=name[:-3], seed=int(name[-1]))
        curves = made_runs.curves(k, EPOCHS if k < 4 else EPOCHS // 2)
        made_runs.write(tmp_path / "runs" / name, cfg, *curves, finished=k < 4)
    return tmp_path / "runs"


def written(*words: str) -> Parsed:
    assert cli.run(report.main, "report", [*words, "--html", "page.html"]) == 0
    with open("page.html", encoding="utf-8") as file:
        return Parsed(file.read())


def test_the_page_has_what_the_logs_have(runs):
    facts = written("--runs", "runs").facts
    drawn = {one["name"]: one for one in facts["runs"]}
    assert sorted(drawn) == sorted(name.replace("_", " ") for name in NAMES) and facts["watch"] is None
    for name, one in drawn.items():
        rows = [json.loads(line) for line in (runs / name.replace(" ", "_") / "log.jsonl").read_text().splitlines()]
        for kind, key, digits in (("val", "top1", 2), ("train", "loss", 4)):
            values = [row["top1" if kind == "val" else "loss"] for row in rows if row["kind"] == kind]
            assert one[key] == [list(range(1, len(values) + 1)), pytest.approx(values, abs=0.5000001 * 10**-digits)]
    ends = [one["top1"][1][-1] for one in facts["runs"]]
    assert ends == sorted(ends, reverse=True)


def test_a_mean_is_over_the_runs_with_their_last_epoch(runs):
    made = {one["name"]: one for one in written("--runs", "runs").facts["means"]}
    every = {one["name"]: one for one in written("--runs", "runs").facts["runs"]}
    for mix in ("vanilla", "cutmix"):
        both = np.array([every[f"{mix} s{seed}"]["top1"][1] for seed in (0, 1)])
        epochs, mean, std = made[mix]["top1"]
        np.testing.assert_allclose(mean, both.mean(0), atol=0.0051)
        np.testing.assert_allclose(std, both.std(0, ddof=1), atol=0.0101)
    (runs / "vanilla_s1" / "log.jsonl").write_text("")
    again = {one["name"]: one for one in written("--runs", "runs").facts["means"]}
    assert again["vanilla"]["top1"] == every["vanilla s0"]["top1"]
    assert again["mixup"]["top1"] == every["mixup s0"]["top1"], "of none, of those that are there"


def test_of_weights_and_their_average_the_average_shows(runs, common):
    average = [value + 5 for value in made_runs.curves(9, EPOCHS)[0]]
    cfg = dataclasses.replace(common, mix="fmix", ema=dataclasses.replace(common.ema, decay=0.9))
    made_runs.write(runs / "average", cfg, made_runs.curves(9, EPOCHS)[0], ema=average)
    page = written("runs/average", "runs/vanilla_s0")
    for kind in ("runs", "means"):
        (one,) = (one for one in page.facts[kind] if one["name"].startswith("fmix"))
        assert one["top1"][1] == pytest.approx(average, abs=0.0051)
    assert page.within("td").count(f"{average[-1]:.2f}") >= 2, "in both tables"


def test_it_asks_for_nothing_and_lets_in_its_own_script_alone(runs):
    page = written("--runs", "runs")
    asked = [one.get(key) for name, one in page.elements for key in ("src", "href") if name != "a" and key in one]
    assert asked and {address.partition(":")[0] for address in asked} == {"data"}
    assert not [name for name, _ in page.elements if name in ("iframe", "object", "embed", "base")]
    (policy,) = (one["content"] for one in page.of("meta") if one.get("http-equiv") == "Content-Security-Policy")
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed["default-src"] == "'none'" and allowed["img-src"] == "data:"
    script = next(text for text in page.within("script") if text.strip() and not text.startswith("{"))
    for kind, text in (("script-src", script), ("style-src", page.within("style")[0])):
        assert allowed[kind] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_links_lead_to_the_files_of_the_runs(runs, tmp_path, monkeypatch, common):
    """From wherever the page lies, also where names hold what means something in an address."""
    odd = made_runs.write(runs / "100% #1? ä&b", dataclasses.replace(common, seed=7), [50.0] * EPOCHS, [1.0] * EPOCHS)
    (odd / "train.log").write_text("")
    for place in ("page.html", "runs/page.html", "elsewhere/deep/page.html"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        assert report.main(["--runs", "runs", "--html", place]) == 0
        links = [one["href"] for one in Parsed((tmp_path / place).read_text()).of("a")]
        found = {os.path.realpath((tmp_path / place).parent / unquote(link)) for link in links}
        wanted = {str(path) for name in ("log.jsonl", "config.yaml", "train.log") for path in runs.glob(f"*/{name}")}
        assert found == wanted and not any("//" in link or "?" in link or "#" in link for link in links)


def test_what_names_hold_stays_text(runs, common):
    """A method, a value, a folder, an error and a broken line of the log that look like markup."""
    cfg = dataclasses.replace(common, mix=EVIL, mixers={EVIL: {"alpha": EVIL}})
    folder = made_runs.write(runs / EVIL.replace("/", "|"), cfg, [50.0], finished=False)
    (folder / "failed.txt").write_text(f"ValueError: {EVIL}\n")
    with open(folder / "log.jsonl", "a") as log:
        log.write(f"{EVIL}\n")
    page = written("--runs", "runs")
    assert len(page.of("script")) == 2 and not any(key.startswith("on") for _, one in page.elements for key in one)
    texts = [text for _, text in page.texts]
    assert f"{EVIL} s0" in texts and f"alpha {EVIL}" in texts and any(f"failed: ValueError: {EVIL}" in t for t in texts)
    assert any("is no log line" in text and "<script>" in text for text in texts)
    assert any(one.get("title", "").endswith(folder.name) for one in page.of("th"))
    assert f"{EVIL} s0" in [one["name"] for one in page.facts["runs"]]


@pytest.mark.parametrize("text", ["</script>", "<!--", "]]>", "&lt;", "\u2028", 'a"b\\', "<script"])
def test_no_text_ends_the_facts_or_an_element(text):
    assert json.loads(data({"a": text})) == {"a": text} and not set("<>&") & set(data([text]))
    page = Parsed(tag("p", tag("b", text, title=text), hidden=True, class_=None))
    assert page.elements == [("p", {"hidden": None}), ("b", {"title": text})] and "".join(page.within("b")) == text


def test_long_curves_are_thinned_to_points_of_the_log(runs, common):
    top1, loss = made_runs.curves(1, 1001)
    made_runs.write(runs / "long", dataclasses.replace(common, mix="fmix", epochs=1001), top1, loss)
    (one,) = (one for one in written("runs/long").facts["runs"])
    epochs, values = one["top1"]
    assert 200 < len(epochs) <= 400 and epochs[-1] == 1001
    assert values == [round(top1[epoch - 1], 2) for epoch in epochs]


def test_pictures_are_small_and_true_and_made_once(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (4 * 224, 8 * 224, 3), np.uint8)
    squares = np.kron(np.random.default_rng(1).integers(0, 256, (4, 8, 3)), np.ones((32, 32, 1))).astype(np.uint8)
    folders = [tmp_path / name for name in ("noise", "squares", "none", "half")]
    for folder in folders:
        folder.mkdir()
    picture.save(folders[0] / pictures.FILE, noise)
    picture.save(folders[1] / pictures.FILE, squares)
    whole = (folders[0] / pictures.FILE).read_bytes()
    (folders[3] / pictures.FILE).write_bytes(whole[: len(whole) // 2])
    album = Album()
    taken = album.take(folders)
    assert [one is None for one in taken] == [False, False, True, True]
    stored = [base64.b64decode(one.removeprefix("data:image/jpeg;base64,")) for one in taken[:2]]
    assert max(map(len, stored)) <= pictures.MOST
    back = np.asarray(Image.open(io.BytesIO(stored[1])), float)
    assert back.shape == squares.shape and np.abs(back - squares).mean() < 8
    shape = Image.open(io.BytesIO(stored[0])).size
    assert shape[0] == 2 * shape[1], "the picture's own form"
    monkeypatch.setattr(pictures, "small", None)
    assert album.take(folders) == taken


def test_a_look_reads_what_has_changed_and_nothing_else(runs, monkeypatch):
    read, count = run_folder.read, []
    monkeypatch.setattr(run_folder, "read", lambda folder: count.append(folder.name) or read(folder))
    page = Page(runs.parent / "page.html", below=runs)
    page.look()
    assert sorted(count) == sorted(NAMES)
    page.look()
    assert len(count) == len(NAMES)
    line = {"kind": "val", "time": 999.0, "step": 999, "epoch": 5, "top1": 12.5}
    with open(runs / "mixup_s0" / "log.jsonl", "a") as log:
        log.write(json.dumps(line) + "\n")
    page.look()
    assert count[len(NAMES) :] == ["mixup_s0"]
    (mixup,) = (seen for seen in page.found if seen.run.cfg.mix == "mixup")
    assert mixup.top1.values[-1] == 12.5
    (runs / "mixup_s0" / "model.safetensors").write_bytes(b"")
    page.look()
    assert count[len(NAMES) :] == ["mixup_s0"] * 2


@pytest.fixture
def clock(monkeypatch):
    """What happens while a page that is watched waits: a function for each wait, and the seconds of each."""
    happens, waits, real, own = [], [], watch.time.sleep, threading.current_thread()

    def sleep(seconds: float) -> None:
        if threading.current_thread() is not own:  # one that an earlier test left behind, which tries an address again
            return real(seconds)
        waits.append(seconds)
        happens.pop(0)()

    monkeypatch.setattr(watch.time, "sleep", sleep)
    return happens, waits


def test_a_watch_ends_when_all_runs_have_and_leaves_a_page_that_stays(runs, clock, common, capsys):
    """Not between two runs of a sweep, of which the next has its lock but no config yet."""
    happens, waits = clock
    said = []
    locks = [run_folder.lock(runs / "mixup_s0")]

    def note() -> None:
        page = Parsed((runs.parent / "page.html").read_text())
        states = [text for text in page.within("span") if text in ("finished", "running", "failed", "stopped")]
        said.append((page.facts["watch"], states.count("finished"), states.count("running")))

    def finish() -> None:
        note()
        made_runs.write(runs / "mixup_s0", dataclasses.replace(common, mix="mixup"), *made_runs.curves(4, EPOCHS))

    def close() -> None:  # a finished run's process takes its time to end
        note()
        locks.pop().release()

    def begin() -> None:
        note()
        locks.append(run_folder.lock(runs / "fmix_s0"))

    def train() -> None:
        note()
        made_runs.write(runs / "fmix_s0", dataclasses.replace(common, mix="fmix"), [50.0], finished=False)

    def fail() -> None:
        note()
        (runs / "fmix_s0" / "failed.txt").write_text("ValueError: no luck\n")
        locks.pop().release()

    happens += [note, finish, close, begin, train, fail, note]
    assert cli.run(report.main, "report", ["--runs", "runs", "--html", "page.html", "--watch", "5"]) == 0
    assert happens == [] and waits == [5, 5, 5, watch.SETTLE, 5, 5, watch.SETTLE]
    assert said == [(5, 4, 1), (5, 4, 1), (5, 5, 0), (5, 5, 0), (5, 5, 0), (5, 5, 1), (5, 5, 0)]
    page = Parsed((runs.parent / "page.html").read_text())
    assert page.facts["watch"] is None and not page.of("noscript") == [] and "failed" in page.within("span")
    assert any("no luck" in text for text in page.within("li"))
    assert not [one for one in page.of("meta") if one.get("http-equiv") == "refresh"]


def test_logs_kept_without_weights_are_whole_runs(runs, clock):
    happens, _ = clock
    for path in runs.glob("*/model.safetensors"):
        path.unlink()
    happens.append(lambda: None)
    folders = [f"runs/{name}" for name in NAMES[:4]]
    assert report.main([*folders, "--html", "page.html", "--watch"]) == 0
    page = Parsed((runs.parent / "page.html").read_text())
    assert page.within("span").count("without weights") == 4 and "4" in page.within("dd")


def test_a_watch_may_be_interrupted_and_outlives_a_broken_run(runs, clock, common):
    happens, _ = clock

    def spoil() -> None:
        (runs / "mixup_s0" / "config.yaml").write_text("mixx: a\n")

    def interrupt() -> None:
        page = Parsed((runs.parent / "page.html").read_text())
        assert page.facts["watch"] == 30 and any("unknown key 'mixx'" in text for text in page.within("li"))
        assert len([one for one in page.of("meta") if one.get("http-equiv") == "refresh"]) == 1
        raise KeyboardInterrupt

    happens += [spoil, interrupt]
    assert cli.run(report.main, "report", ["--runs", "runs", "--html", "page.html", "--watch"]) == 130
    assert Parsed((runs.parent / "page.html").read_text()).facts["watch"] is None


def test_the_command_that_a_sweep_tells_writes_the_page_beside_the_runs(runs, clock):
    happens, _ = clock
    shutil.rmtree(runs / "mixup_s0")
    happens.append(lambda: None)
    name, *words = sweep.page(runs)
    assert name == "fastmix.report" and report.main(words) == 0
    assert len(Parsed((runs.parent / "runs.html").read_text()).facts["runs"]) == 4


def test_a_watch_waits_for_the_first_run(tmp_path, clock, common, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    happens, _ = clock
    happens += [
        lambda: None,
        lambda: made_runs.write(tmp_path / "runs" / "a", common, *made_runs.curves(0, EPOCHS)),
        lambda: None,
    ]
    assert report.main(["--runs", "runs", "--html", "page.html", "--watch"]) == 0
    assert capsys.readouterr().out.count("runs: no run has begun yet") == 1 and (tmp_path / "page.html").is_file()


def test_a_page_is_written_whole_or_not_at_all(runs, monkeypatch, capsys):
    written("--runs", "runs")
    before = (runs.parent / "page.html").read_bytes()

    def full(path, content):
        path.write_text(content[:1000])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(os, "fsync", lambda file: full(runs.parent / "page.html.part", "x" * 2000))
    assert cli.run(report.main, "report", ["--runs", "runs", "--html", "page.html"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert (runs.parent / "page.html").read_bytes() == before
    assert not (runs.parent / "page.html.part").exists()


@pytest.mark.parametrize(
    "words, says",
    [
        (["--runs", "runs", "--html", "page.pdf"], "page.pdf: a page is written to .html"),
        (["--runs", "runs", "--html", "no/page.html"], "there is no folder no"),
        (["--runs", "runs", "--html", "page.html", "--table", "in1k_rsb"], "--html goes with run folders"),
        (["--runs", "runs", "--watch"], "--watch goes with --html"),
        (["--runs", "runs", "--html", "page.html", "--watch", "0"], "is not a number from 1"),
        (["--html", "page.html", "--runs", "runs", "--columns", "top2"], "no column 'top2'"),
        (["--html", "page.html", "--runs", "runs", "--column", "a/b/c"], "no column 'a/b/c'"),
        (["--html", "page.html"], "give run folders or --runs FOLDER"),
        (["--html", "page.html", "--runs", "runs", "runs/cutmix_s0"], "not both"),
        (["--html", "page.html", "--runs", "empty"], "empty: no runs below it"),
        (["--html", "page.html", "empty"], "empty: no run folder"),
        (["--html", "page.html", "--runs", "nowhere", "--watch"], "nowhere: no such folder"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(runs, capsys, words, says):
    (runs.parent / "empty").mkdir()
    before = sorted(runs.parent.iterdir())
    assert cli.run(report.main, "report", words) == 2
    err = capsys.readouterr().err
    assert err.startswith("fastmix report: error: ") and says in err and err.count("\n") == 1
    assert sorted(runs.parent.iterdir()) == before


@pytest.mark.long
def test_a_hundred_runs_make_a_page_that_is_not_large(tmp_path):
    """25 methods with four seeds, 300 epochs and pictures that no encoder makes small."""
    made_runs.many(tmp_path / "runs", [f"method{k}" for k in range(25)], 4, 300)
    page = Page(tmp_path / "page.html", below=tmp_path / "runs")
    page.look()
    page.write()
    assert len(page.found) == 100 and page.out.stat().st_size < 5e6
    assert len(re.findall("data:image/jpeg", page.out.read_text())) == 25
