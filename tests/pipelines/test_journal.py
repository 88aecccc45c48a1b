"""A conversion that was killed goes on where it was, into the same bytes; and begins anew where it must."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastmix import convert
from fastmix.pipelines.packing import writer
from fastmix.pipelines.packing.format import Beton, classes_path
from fastmix.pipelines.packing.journal import Journal, Row, key
from helpers import ROOT
from helpers.conversion import DAMAGED, saved, smooth, tree
from helpers.dying import SMALL, killed
from helpers.handed_out import tar


def pictures(n: int = 40) -> dict[str, bytes]:
    return {f"{'ab'[k % 2]}/{k}.jpg": saved(smooth(24, 24, seed=k)) for k in range(n)}


@pytest.fixture(autouse=True)
def noted_often(monkeypatch):
    monkeypatch.setattr(writer, "NOTED", 3000)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("x.beton")}


@pytest.mark.parametrize("form", ["folder", "tar", "skip-bad"])
def test_a_killed_conversion_goes_on(tmp_path, capsys, form):
    images = pictures() | ({"a/5x.jpg": DAMAGED["half.jpg"][0]} if form == "skip-bad" else {})
    source = tree(tmp_path / "in", images)
    if form == "tar":
        source = tree(tmp_path, {"in.tar": tar(images)}) / "in.tar"
    options = ["--skip-bad"] if form == "skip-bad" else []
    (tmp_path / "whole").mkdir(), (tmp_path / "cut").mkdir()
    assert convert.main([str(source), str(tmp_path / "whole" / "x.beton"), *options]) == 0
    out = tmp_path / "cut" / "x.beton"
    killed(12, source, out, *options)
    killed(20, source, out, *options)
    assert set(files_of(out.parent)) == {"x.beton.part", "x.beton.part.rows"}
    capsys.readouterr()
    assert convert.main([str(source), str(out), "--verify", *options]) == 0
    told = capsys.readouterr().out
    assert " images had been written before it was killed, and were taken up\n" in told
    assert int(told.splitlines()[1].split()[0]) >= 20
    assert files_of(out.parent) == files_of(tmp_path / "whole")


@pytest.mark.parametrize("change", ["another image", "another option", "another list", "lost bytes", "a torn journal"])
def test_what_changed_meanwhile_begins_anew(tmp_path, capsys, change):
    source, out, options = tree(tmp_path / "in", pictures()), tmp_path / "x.beton", []
    killed(20, source, out)
    part, journal = tmp_path / "x.beton.part", tmp_path / "x.beton.part.rows"
    if change == "another image":
        (source / "a" / "0.jpg").write_bytes(saved(smooth(25, 25)))
    elif change == "another option":
        options = ["--recompress"]
    elif change == "another list":
        (source / "a" / "0.jpg").unlink()
    elif change == "lost bytes":
        os.truncate(part, writer.PAGE)
    else:
        journal.write_bytes(journal.read_bytes()[:100])
    assert convert.main([str(source), str(out), *options]) == 0
    assert "taken up" not in capsys.readouterr().out
    found = files_of(tmp_path)
    assert convert.main([str(source), str(out), "--overwrite", *options]) == 0
    assert files_of(tmp_path) == found and set(found) == {
        f"x.beton{ending}" for ending in ("", ".sums", ".classes.json")
    }


def test_a_journals_last_line_may_be_torn(tmp_path):
    rows = [Row(k, "kept", "", k, 0, 1, 2, 3, 4, 5) for k in range(6)]

    def opened(key: str, *blocks: list[Row]) -> list[Row]:
        """What is in it; the blocks are added, and the process ends."""
        journal = Journal(tmp_path / "j", key)
        for block in blocks:
            journal.add(block)
        journal._file.close()
        return journal.rows

    assert opened("k", rows[:2], rows[2:4]) == []
    os.truncate(tmp_path / "j", os.path.getsize(tmp_path / "j") - 1)
    assert opened("k", rows[4:]) == rows[:2]
    assert opened("k") == rows[:2] + rows[4:]
    assert opened("other") == [] == opened("k")


def test_the_key_tells_sources_apart(tmp_path):
    a, b = (str(tree(tmp_path, {name: b"x"}) / name) for name in "ab")
    keys = [key([a, b], [0, 1], None, {}), key([b, a], [0, 1], None, {}), key([a, b], [1, 0], None, {}),
            key([a, b], [0, 1], ["x", "y"], {}), key([a, b], [0, 1], None, {"quality": 9})]  # fmt: skip
    os.utime(a, (0, 0))
    assert len({*keys, key([a, b], [0, 1], None, {})}) == 6


def test_progress_without_a_terminal_is_a_line_now_and_then(tmp_path, capsys, monkeypatch):
    from fastmix.pipelines.packing import pack

    monkeypatch.setattr(pack, "SILENT", 0.0)
    rows = list(pack.progress(iter(range(3)), 5, "pack", 2))
    assert rows == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" images, ")[0] for line in lines] == ["pack: 3 of 5", "pack: 4 of 5", "pack: 5 of 5"]
    assert lines[-1].endswith("/s, 00:00 left")


def test_ctrl_c_leaves_nothing(tmp_path):
    source = tree(tmp_path / "in", pictures(200))
    slow = SMALL + "from fastmix import cli, convert\n"
    slow += "row = pack._row\npack._row = lambda *a: (time.sleep(.05), row(*a))[1]\n"
    slow += "sys.exit(cli.run(convert.main, 'convert', sys.argv[1:]))"
    run = subprocess.Popen(
        [sys.executable, "-c", slow, source, tmp_path / "x.beton"], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    while run.poll() is None and not (tmp_path / "x.beton.part.rows").exists():
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    assert run.wait(20) != 0 and files_of(tmp_path) == {}


def test_the_file_is_read_by_the_reader(tmp_path):
    source, out = tree(tmp_path / "in", pictures()), tmp_path / "x.beton"
    killed(30, source, out)
    assert convert.main([str(source), str(out)]) == 0
    with Beton(out) as beton:
        assert beton.data(39).tobytes() == (source / "b" / "9.jpg").read_bytes() and classes_path(out).exists()
