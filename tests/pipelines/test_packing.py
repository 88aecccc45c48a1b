"""Packing: order, workers, damaged images, disks that are full; seekable and recompressed files."""

from __future__ import annotations

import csv
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastmix import cli, convert
from fastmix.pipelines.packing import pack as packing
from fastmix.pipelines.packing.format import JPEG, Beton
from fastmix.pipelines.packing.images import encode, rgb
from fastmix.pipelines.packing.layouts import scan
from fastmix.pipelines.packing.pack import bad_path, is_jpeg, pack
from fastmix.pipelines.packing.writer import BetonWriter
from helpers import ROOT
from helpers.conversion import CONVERTED, DAMAGED, KEPT, fails, saved, smooth, tree, two_classes


def test_rows_follow_the_listing(tmp_path):
    source = two_classes(tmp_path / "in")
    listing = scan(source)
    packed = pack(listing, tmp_path / "a.beton", verify=True)
    with Beton(tmp_path / "a.beton") as beton:
        assert beton.classes == ["a", "b"] and beton.labels.tolist() == [0] * 6 + [1] * 6
        for k, file in enumerate(listing.files):
            assert beton.data(k).tobytes() == Path(file).read_bytes()
    assert packed.rows == packed.kept == 12 and packed.bytes == (tmp_path / "a.beton").stat().st_size
    assert sorted(os.listdir(tmp_path)) == ["a.beton", "a.beton.classes.json", "a.beton.sums", "in"]


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    files = {f"a/{k:03}.jpg": saved(smooth(20 + k, 40, seed=k)) for k in range(50)}
    files |= {f"b/{k}.png": value[0] for k, value in enumerate(CONVERTED.values())}
    listing = scan(tree(tmp_path / "in", files))
    written = []
    for workers in (1, 2, 7):
        out = tmp_path / f"{workers}.beton"
        pack(listing, out, max_resolution=45, jpeg_share=0.5, workers=workers)
        written.append(out.read_bytes())
    assert written[0] == written[1] == written[2]


def test_jpeg_share(tmp_path):
    n, share = 4000, 0.3
    chosen = np.array([is_jpeg(k, share) for k in range(n)])
    assert abs(chosen.mean() - share) < 4 * (share * (1 - share) / n) ** 0.5
    runs = np.count_nonzero(np.diff(chosen))  # neighbours are independent
    assert abs(runs / n - 2 * share * (1 - share)) < 4 * (0.25 / n) ** 0.5
    assert all(is_jpeg(k, 0.6) for k in np.flatnonzero(chosen))
    assert all(is_jpeg(k, 1.0) and not is_jpeg(k, 0.0) for k in range(100))
    listing = scan(two_classes(tmp_path / "in", 20))
    pack(listing, tmp_path / "a.beton", jpeg_share=share)
    with Beton(tmp_path / "a.beton") as beton:
        assert [mode == JPEG for mode in beton.modes] == chosen[:40].tolist()
        for k, file in enumerate(listing.files):
            data = Path(file).read_bytes()
            assert beton.data(k).tobytes() == (data if chosen[k] else rgb(data).tobytes())


@pytest.fixture
def half_bad(tmp_path) -> Path:
    files = {f"bad/{name}": data for name, (data, _) in DAMAGED.items()}
    return tree(two_classes(tmp_path / "in"), files)


def read_bad(out: Path) -> dict[str, str]:
    with open(bad_path(out), newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file", "reason"]
    return {os.path.basename(name): reason for name, reason in rows[1:]}


def test_damaged_images_stop_the_conversion(half_bad, tmp_path, capsys):
    out = tmp_path / "a.beton"
    line = fails([half_bad, out], capsys)
    first = half_bad / "bad" / sorted(DAMAGED)[0]
    assert line.startswith(f"{len(DAMAGED)} of {12 + len(DAMAGED)} images are damaged, first {first}: empty file; ")
    assert str(bad_path(out)) in line
    assert sorted(os.listdir(tmp_path)) == ["a.beton.bad.csv", "in"]
    assert set(read_bad(out)) == set(DAMAGED)


def test_skip_bad_leaves_them_out_and_lists_them(half_bad, tmp_path, capsys):
    out = tmp_path / "a.beton"
    (half_bad / "b" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    assert convert.main([str(half_bad), str(out), "--skip-bad", "--verify", "--workers", "2"]) == 0
    assert f"{len(DAMAGED) + 1} damaged images left out, listed in {out}.bad.csv" in capsys.readouterr().out
    bad = read_bad(out)
    assert bad.pop("gone.jpg") == "No such file or directory"
    assert list(bad) == sorted(DAMAGED)
    with Beton(out) as beton:
        assert beton.classes == ["a", "b", "bad"] and beton.labels.tolist() == [0] * 6 + [1] * 6
    for path in (half_bad / "bad").iterdir():
        path.unlink()
    (half_bad / "b" / "gone.jpg").unlink()
    tree(half_bad, {"bad/good.jpg": KEPT["colour"]})
    convert.main([str(half_bad), str(out), "--overwrite"])
    assert not bad_path(out).exists()  # a list of an earlier conversion would mislead


def test_nothing_but_damaged_images(tmp_path, capsys):
    source = tree(tmp_path / "in", {"a/1.jpg": b"", "a/2.jpg": b"x"})
    assert "2 of 2 images are damaged" in fails([source, tmp_path / "a.beton", "--skip-bad"], capsys)
    assert not (tmp_path / "a.beton").exists()


def test_a_raw_image_longer_than_a_page_is_a_bad_row(tmp_path, capsys):
    source = tree(tmp_path / "in", {"a/1.jpg": saved(smooth(1700, 1700)), "a/2.jpg": saved(smooth())})
    line = fails([source, tmp_path / "a.beton", "--jpeg-share", "0"], capsys)
    assert "8670000 bytes do not fit into a page of 8388608; see --max-resolution" in line
    assert convert.main([str(source), str(tmp_path / "a.beton"), "--jpeg-share", "0", "--max-resolution", "99"]) == 0


def test_verify_notices_a_changed_byte(tmp_path, monkeypatch):
    finish = BetonWriter.finish

    def damaging(self):
        part = finish(self)
        with open(part, "r+b") as file:
            file.seek(int(self.meta[7]["f0"]["ptr"]) + 300)
            file.write(b"?")
        return part

    monkeypatch.setattr(BetonWriter, "finish", damaging)
    listing = scan(two_classes(tmp_path / "in"))
    with pytest.raises(ValueError, match="verification failed: row 7 is not what .*in/b/1.jpg gives"):
        pack(listing, tmp_path / "a.beton", verify=True)
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("stage", ["add", "finish", "classes"])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, capsys, stage):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*_):
        raise full

    where = {"add": "BetonWriter.add", "finish": "os.fsync", "classes": "write_durably"}[stage]
    monkeypatch.setattr(f"fastmix.pipelines.packing.writer.{where}", refuse)
    source = two_classes(tmp_path / "in")
    assert fails([source, tmp_path / "a.beton"], capsys) == f"{tmp_path / 'a.beton'}: No space left on device"
    assert os.listdir(tmp_path) == ["in"]


def test_a_file_size_limit_leaves_nothing(tmp_path):
    source = two_classes(tmp_path / "in")
    limit = "import resource, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9000000, 9000000))\n"
    limit += "from fastmix import cli, convert; sys.exit(cli.run(convert.main, 'convert'))"
    command = [sys.executable, "-B", "-c", limit, source, tmp_path / "a.beton"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"fastmix convert: error: {tmp_path / 'a.beton'}: File too large\n"
    assert os.listdir(tmp_path) == ["in"]


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(BetonWriter, "add", interrupted)
    source = two_classes(tmp_path / "in", 100)
    assert cli.run(convert.main, "convert", [str(source), str(tmp_path / "a.beton")]) == 130
    assert os.listdir(tmp_path) == ["in"]


def test_memory_is_bounded_by_the_workers(tmp_path, monkeypatch):
    alive, most = 0, 0

    class Counted(bytes):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def counting(data, **options):
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return encode(data, **options)._replace(data=Counted(data))

    monkeypatch.setattr(packing, "encode", counting)
    pack(scan(two_classes(tmp_path / "in", 60)), tmp_path / "a.beton", workers=2)
    assert 2 <= most <= 2 * packing.AHEAD + 2 and alive <= 1


def kinds(folder: Path) -> Path:
    """Eight JPEGs of which all but the progressive one can get restart markers, and a PNG."""
    return tree(folder, {f"a/{k}.jpg": data for k, data in enumerate(KEPT.values())} | {"b/1.png": CONVERTED["png"][0]})


def test_seekable_files_keep_their_pixels(tmp_path, capsys):
    listing, out = scan(kinds(tmp_path / "in")), tmp_path / "a.beton"
    assert convert.main([str(tmp_path / "in"), str(out), "--seekable", "--verify"]) == 0
    ways = "7 JPEGs made seekable, 1 kept untouched (progressive and the like), 1 encoded anew (1 PNG), "
    assert ways in capsys.readouterr().out
    with Beton(out) as beton:
        for k, file in enumerate(listing.files[:-1]):
            source, data = Path(file).read_bytes(), beton.data(k).tobytes()
            assert (data == source) == (k == list(KEPT).index("progressive"))
            assert (b"\xff\xdd" in data) == (data != source)
            assert np.array_equal(rgb(data), rgb(source))
        png = beton.data(8).tobytes()
        assert b"\xff\xdd" in png and np.array_equal(rgb(png), rgb(encode(CONVERTED["png"][0]).data))


def test_recompressed_files_are_encoded_anew(tmp_path, capsys):
    listing = scan(kinds(tmp_path / "in"))
    for quality, bound in (95, 2.5), (30, 9):
        out = tmp_path / f"{quality}.beton"
        assert convert.main([str(tmp_path / "in"), str(out), "--recompress", "--quality", str(quality)]) == 0
        assert ", 0 JPEGs kept untouched, 9 encoded anew (1 PNG), " in capsys.readouterr().out
        with Beton(out) as beton:
            for k, file in enumerate(listing.files):
                pixels = rgb(Path(file).read_bytes())
                loss = np.abs(rgb(beton.data(k).tobytes()).astype(int) - pixels).mean()
                by_pillow = np.asarray(Image.open(io.BytesIO(saved(pixels, quality=quality))), int)
                assert loss <= np.abs(by_pillow - pixels).mean() + 0.5 <= bound
    assert out.stat().st_size == (tmp_path / "95.beton").stat().st_size  # pages
    with Beton(out) as small, Beton(tmp_path / "95.beton") as large:
        assert (small.sizes < large.sizes).all()
