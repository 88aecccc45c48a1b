"""The card: parts in their own processes and limits, what a failure of one does to the rest, and the summary."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fastmix import cli
from fastmix.bench import card, card_schedule, card_summary, limited, main, measure
from fastmix.bench.card_schedule import Part
from fastmix.mixers import MIXERS

WRITER = """
import sys, time, subprocess
from fastmix.bench import measure
path, wrong, *rest = sys.argv[1:]
measure.append_csv([measure.row("proof", "cutmix", "fastmix", "-", "-", "wrong", [float(wrong)])], path)
if rest:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open(rest[0], "w").write(str(child.pid))
    time.sleep(600)
"""


@pytest.fixture
def writer(tmp_path, monkeypatch):
    """A module `writer` that appends a row to a table, and with a further word hangs, with a child that hangs."""
    (tmp_path / "writer.py").write_text(WRITER)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "card" / "rows.csv")


def gone(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    for _ in range(50):
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def played(monkeypatch, schedule, minutes="1"):
    monkeypatch.setattr(card, "parts", lambda device: schedule)
    code = main(["card", "--device", "cpu", "--minutes", minutes])
    return code, Path("card/card.md").read_text()


def test_a_part_that_fails_hangs_or_is_missing_is_a_line_and_the_next_begins(writer, monkeypatch, tmp_path, capsys):
    schedule = [
        Part("absent", 1, (("no_such_module",),)),
        Part("hangs", 1, (("writer", writer, "0", "pid"),)),
        Part("lacks", 1, (("timeit",),), proof=True, needs="no_such_package"),
        Part("good", 1, (("timeit", "-n1", "-r1", "pass"),)),
    ]
    monkeypatch.setattr(card, "SLACK", 40.0)  # of the minute
    begun = time.monotonic()
    code, text = played(monkeypatch, schedule)
    assert time.monotonic() - begun < 40 and code == 0
    assert "- absent: failed: " in text and "No module named no_such_module" in text
    assert "- hangs: stopped at its limit of" in text
    assert "- lacks: left out: no_such_package is not installed" in text
    assert "- ok: good" in text
    assert [row["name"] for row in card_summary.read(tmp_path / "card/rows.csv")] == ["cutmix"]  # before it hung
    assert gone(int((tmp_path / "pid").read_text()))  # its child as well
    assert len([line for line in capsys.readouterr().err.splitlines() if line]) == len(schedule)


@pytest.mark.parametrize(
    "proof, words, code",
    [(True, "1", 1), (True, "0", 0), (False, "1", 0)],
)
def test_the_exit_code_is_that_of_the_proofs(proof, words, code, writer, monkeypatch):
    found, text = played(monkeypatch, [Part("part", 1, (("writer", writer, words),), proof)])
    assert found == code
    assert ("WRONG: cutmix" in text) == (words == "1")


def test_a_proof_that_crashes_is_a_failure(writer, monkeypatch):
    assert played(monkeypatch, [Part("part", 1, (("no_such_module",),), proof=True)])[0] == 1


def test_a_part_leaves_its_time_to_those_after_it_and_may_take_some_of_theirs(writer, monkeypatch):
    limits = []

    def run(words, limit, log, env):
        limits.append(limit)
        return limited.Outcome(0, 0.0, "")

    monkeypatch.setattr(limited, "run", run)
    played(monkeypatch, [Part("a", 1, (("x",),)), Part("b", 1, (("x",),)), Part("c", 2, (("x",),))])
    whole = 60 - card.SLACK
    kept = [0.6 * whole * 3 / 4, 0.6 * whole * 2 / 3, 0]  # of what would be left for those after it
    assert limits == pytest.approx([whole - later for later in kept], abs=4)  # seconds, on a busy machine


def test_a_part_takes_no_more_than_three_times_its_own():
    schedule = [Part("a", 1, ()), Part("b", 9, ())]
    assert card.limit(schedule, 60.0) == pytest.approx(3 * 6)
    assert card.limit(schedule[1:], 60.0) == pytest.approx(60)


def test_ctrl_c_leaves_what_is_there_and_no_process(writer, monkeypatch, tmp_path):
    started, popen = [], subprocess.Popen

    class Interrupted(popen):
        def wait(self, timeout=None):
            if timeout is not None and len(started) == 2:
                raise KeyboardInterrupt
            return super().wait(timeout)

    def start(*args, **kwargs):
        started.append(Interrupted(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(limited.subprocess, "Popen", start)
    sleep = ("timeit", "-n1", "-r1", "import time; time.sleep(60)")
    with pytest.raises(KeyboardInterrupt):
        played(monkeypatch, [Part("good", 1, (("timeit", "-n1", "pass"),)), Part("long", 1, (sleep,))])
    assert "- ok: good" in (tmp_path / "card/card.md").read_text()
    assert started[1].returncode is not None


def test_a_folder_with_a_card_is_not_written_into(tmp_path):
    (tmp_path / "rows.csv").touch()
    with pytest.raises(ValueError, match="holds a card already"):
        main(["card", "--device", "cpu", "--out", str(tmp_path)])


def test_dry_run_lists_all_parts_without_a_gpu(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["card", "--dry-run"]) == 0
    out = capsys.readouterr().out
    schedule = card_schedule.parts("cuda")
    assert all(f"  {part.name}" in out for part in schedule) and out.startswith("8 minutes at most")
    assert not list(tmp_path.iterdir())
    assert sum(part.minutes for part in schedule) == pytest.approx(card.MINUTES["cuda"])
    assert sum(part.minutes for part in card_schedule.parts("cpu")) == pytest.approx(card.MINUTES["cpu"])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_command_of_the_schedule_is_one_that_its_bench_knows(device):
    from importlib import import_module

    for words in (words for part in card_schedule.parts(device) for words in part.commands):
        if words[0] == "fastmix.bench":
            parser = cli.Parser()
            import_module(f"fastmix.bench.{words[1]}").add_arguments(parser)
            parser.parse_args(words[2:])


def test_wheels_beside_the_command_are_unpacked(tmp_path, monkeypatch):
    import zipfile

    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("simplejpeg-9-x.whl", "w") as wheel:
        wheel.writestr("simplejpeg/__init__.py", "")
    out = tmp_path / "out"
    env = card.environment(out, "cuda")
    assert card.find_in(env, "simplejpeg") and not card.find_in(env, "turbojpeg")
    assert str(out / "wheels") in env["PYTHONPATH"].split(os.pathsep)


def lines_of(**rows) -> list[dict]:
    """Rows of a whole card on a GPU of our table, made up."""
    made = []

    def add(bench, name, provider, shape, dtype, unit, value, bytes=None):
        row = measure.row(bench, name, provider, shape, dtype, unit, [value], bytes)
        made.append(row | {"hardware": "NVIDIA H200"})

    for name in MIXERS:
        add("proof", name, "fastmix, eager", "6 steps", "bf16", "wrong", 0.0)
    add("rates", "copy", "torch", "1024 MB", "uint8", "GB/s", 4000.0)
    add("rates", "matmul", "torch", "8192x8192", "bfloat16", "TFLOP/s", 700.0)
    for name in ("plain", "mixup", "cutmix", *"abcdefghi"):
        for k, provider in enumerate(card_summary.PASS):
            add("mix", name, provider, "256x224x224x3", "bf16", "ms", 0.03 * (k + 1), 115605504)
    for dtype in ("bf16", "bf16 graph", "bf16 compiled"):
        for provider in ("fastmix", "timm"):
            for name in ("vanilla", "mixup", "cutmix"):
                add("step", f"resnet50 {name}", provider, "256x224x224", dtype, "ms", 40.0)
                add("step", f"resnet50 {name}", provider, "256x224x224", dtype, "GB", 12.0)
    for bench in ("crop", "augment", "plan"):
        add(bench, "one", "fastmix", "256x224x224x3", "uint8", "ms", 1.0)
    for n in (1, 4, 8, 16):
        add("loader", f"rrc {n} threads", "fastmix beton, exact", "128x224x224x3", "uint8", "images/s", 900.0 * n)
    add("quickstart", "resnet18 cutmix", "fastmix", "14 epochs, 64 px", "bf16", "% top-1", 98.5)
    return made


def test_the_summary_is_a_screen_with_the_floors_beside_the_figures(tmp_path):
    measure.append_csv(lines_of(), tmp_path / "rows.csv")
    outcomes = {part.name: ("ok", 3.0) for part in card_schedule.parts("cuda")}
    text = card_summary.text(tmp_path / "rows.csv", outcomes, 7.5, 8)
    assert len(text.splitlines()) <= card_summary.LINES
    # 115,605,504 bytes at the 4.3 TB/s that the prediction assumes are 26.9 us, and 2.5 of the launch
    assert "| plain | 30 | 60 | 90 | 120 | 150 | 180 | 29.4 |" in text
    assert "| fastmix, bf16 graph | 6400 | 6400 | 6400 | 12 |" in text  # 256 images in 40 ms
    assert text.count("\n| timm |") == 1
    assert "16 threads 14400" in text and "98.50 % top-1" in text and "copy 4000 GB/s" in text


def test_a_row_that_was_cut_off_is_not_read(tmp_path):
    path = tmp_path / "rows.csv"
    measure.append_csv(lines_of()[:2], path)
    path.write_text(path.read_text() + "proof,samix,fastmix")
    assert [row["name"] for row in card_summary.read(path)] == list(MIXERS)[:2]


@pytest.mark.long
def test_the_card_on_a_cpu(tmp_path, monkeypatch):
    """A part of each kind, and some methods: benches have tests of their own, and test_every_mixer.py all methods."""
    some, kinds = ["cutmix", "puzzlemix", "automix"], ("doctor", "proof", "rates", "mix", "loader")
    schedule = [part for part in card_schedule.parts("cpu") if part.name in kinds]
    (proof,) = (part for part in schedule if part.name == "proof")
    schedule[schedule.index(proof)] = replace(proof, commands=((*proof.commands[0], "--only", *some),))
    monkeypatch.setattr(card, "parts", lambda device: schedule)
    words = ["card", "--device", "cpu", "--minutes", "10", "--out", str(tmp_path / "card")]
    assert cli.run(main, "bench", words) == 0
    names = {row["name"] for row in card_summary.read(tmp_path / "card/rows.csv") if row["bench"] == "proof"}
    assert names == set(some)
