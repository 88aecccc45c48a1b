"""Checksums beside a packed file, and what is found with them."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest

from fastmix import cli, convert
from fastmix.pipelines.packing.check import check
from fastmix.pipelines.packing.checksums import load, sums_path
from fastmix.pipelines.packing.format import JPEG, Beton
from fastmix.pipelines.packing.writer import BetonWriter
from helpers.conversion import KEPT, fails, tree, two_classes


def packed(folder: Path, *options: str) -> Path:
    out = folder / "a.beton"
    convert.main([str(two_classes(folder / "in")), str(out), *options])
    return out


def change(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("share", ["0.5", "1"])
def test_the_sums_file_is_what_it_is_documented_to_be(tmp_path, share):
    out = packed(tmp_path, "--jpeg-share", share)
    data = out.read_bytes()
    with Beton(out) as beton:
        rows = [data[at : at + size] for at, size in zip(beton.offsets, beton.sizes, strict=True)]
        ends = int(beton.offsets[0]), int(beton.offsets[-1] + beton.sizes[-1])
    index = zlib.crc32(data[: ends[0]] + data[ends[1] :])
    want = struct.pack("<8sQQII12I", b"FASTMIXS", 12, len(data), index, 1, *map(zlib.crc32, rows))
    assert sums_path(out).read_bytes() == want


def test_a_finished_file_is_verified(tmp_path, capsys):
    out = packed(tmp_path)
    capsys.readouterr()
    assert convert.main(["--verify", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 12 images, all as they were written; they decode whole\n"
    with Beton(out) as beton:
        offsets, sizes = beton.offsets.tolist(), beton.sizes.tolist()
    whole = out.read_bytes()
    for row in (0, 5, 11):
        for at in (offsets[row], offsets[row] + sizes[row] // 2, offsets[row] + sizes[row] - 1):
            change(out, at)
            line = f"{out}: row {row}: its bytes are not those that were written (checksum); convert again"
            assert fails(["--verify", out], capsys) == line
            out.write_bytes(whole)
    for row in (3, 7, 8):
        change(out, offsets[row])
    assert "row 3: its bytes" in (line := fails(["--verify", out], capsys))
    assert "; 3 of 12 rows are damaged; " in line
    out.write_bytes(whole)
    change(out, 24 + 2 * 1041 + 24 + 16)  # the label of row 1
    assert "its labels, sizes or offsets are not those that were written" in fails(["--verify", out], capsys)
    out.write_bytes(whole + whole[-24:])  # an entry of the allocation table twice
    assert f"{sums_path(out)}: belongs to another file than {out}" in fails(["--verify", out], capsys)


def test_a_file_without_sums_is_decoded(tmp_path, capsys):
    out = packed(tmp_path)
    sums_path(out).unlink()
    capsys.readouterr()
    assert convert.main([str(out), "--verify"]) == 0
    assert f"12 images, not compared, as there is no {sums_path(out)}; they decode whole\n" in capsys.readouterr().out
    with Beton(out) as beton:
        end = int(beton.offsets[4] + beton.sizes[4])
    change(out, end - 1)  # the end marker
    assert f"{out}: row 4: " in (line := fails([out, "--verify"], capsys)) and "rows are damaged" not in line
    change(out, end - 1)
    record = 24 + 2 * 1041 + 24 * 6
    with Beton(out) as beton:
        width = beton.widths[6]
    assert out.read_bytes()[record + 1 : record + 3] == struct.pack("<H", width)
    change(out, record + 1)
    assert f"{out}: row 6: the JPEG has another size than" in fails([out, "--verify"], capsys)


@pytest.mark.parametrize("damage", ["short", "other", "empty", "magic"])
def test_damaged_sums(tmp_path, capsys, damage):
    out = packed(tmp_path)
    data = sums_path(out).read_bytes()
    sums_path(out).write_bytes(
        {"short": data[:-1], "other": data[:8] + b"\7" + data[9:], "empty": b"", "magic": b"x" + data[1:]}[damage]
    )
    capsys.readouterr()
    assert f"{sums_path(out)}: no checksums of version 1, or cut short" in fails([out, "--verify"], capsys)


def test_a_new_file_never_has_old_sums(tmp_path, monkeypatch, capsys):
    out = packed(tmp_path)
    replace = os.replace

    def killed(source, target):
        replace(source, target)
        if str(target) == str(out):
            raise KeyboardInterrupt

    monkeypatch.setattr("fastmix.pipelines.packing.writer.os.replace", killed)
    command = [str(tree(tmp_path / "2", {"q/1.jpg": KEPT["grey"]})), str(out), "--overwrite"]
    assert cli.run(convert.main, "convert", command) == 130
    with Beton(out) as beton:
        assert beton.data(0).tobytes() == KEPT["grey"] and beton.classes is None
    assert sorted(os.listdir(tmp_path)) == ["2", "a.beton", "in"]


def test_only_a_finished_file_can_be_verified_alone(tmp_path, capsys):
    source = two_classes(tmp_path / "in")
    assert "the following arguments are required: out" in fails([source, "--verify"], capsys)
    assert "the following arguments are required: out" in fails([tmp_path / "a.beton"], capsys)
    assert fails([tmp_path / "a.beton", "--verify"], capsys) == f"{tmp_path / 'a.beton'}: no such file"


@pytest.mark.parametrize("share", [0.0, 0.4, 0.999])
def test_a_file_that_shrinks_while_it_is_verified_is_damaged(tmp_path, monkeypatch, share):
    """Under a memory map it would be the end of the process (SIGBUS)."""
    out = packed(tmp_path)

    def shrunk(beton):
        sums = load(beton)
        os.truncate(out, int(out.stat().st_size * share))
        return sums

    monkeypatch.setattr("fastmix.pipelines.packing.check.load", shrunk)
    with pytest.raises(
        ValueError, match=r"a\.beton: (row \d+: truncated: the file ends \d+ bytes before|its length ch)"
    ):
        check(out, workers=2)


@pytest.mark.parametrize("label", [-1, 2, 2**40])
def test_a_label_that_is_none_is_not_written(tmp_path, label):
    with pytest.raises(ValueError, match=rf"a\.beton: row 1: label {label}; .* from 0 to 1, as 2 classes are named"):
        with BetonWriter(tmp_path / "a.beton", 2) as writer:
            for value in (0, label):
                writer.add(JPEG, 20, 32, KEPT["colour"], value)
            writer.finish()
            writer.publish(["a", "b"])
    assert not os.listdir(tmp_path)
