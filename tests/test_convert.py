"""Packing images: layouts, what is kept and what is re-encoded, checksums, damaged files, full disks, the command."""

import csv
import errno
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from fastmix import cli, convert
from fastmix.pipelines.packing import pack as packing
from fastmix.pipelines.packing.checksums import sums_path
from fastmix.pipelines.packing.format import JPEG, RAW, Beton, classes_path
from fastmix.pipelines.packing.images import encode, rgb
from fastmix.pipelines.packing.layouts import Listing, load_classes, scan
from fastmix.pipelines.packing.pack import bad_path, is_jpeg, pack
from fastmix.pipelines.packing.writer import BetonWriter

ROOT = Path(__file__).resolve().parent.parent


def smooth(height: int = 20, width: int = 32, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Pixels that a JPEG keeps well."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, channels), dtype=np.uint8)
    bands = [
        Image.fromarray(corners[..., c]).resize((width, height), Image.Resampling.BILINEAR) for c in range(channels)
    ]
    return np.stack([np.asarray(band) for band in bands], -1)


def saved(image: Image.Image | np.ndarray, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def turned(data: np.ndarray, orientation: int, kind: str = "JPEG", **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(data, kind, exif=exif, **options)


def tree(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def two_classes(folder: Path, n: int = 6) -> Path:
    return tree(folder, {f"{c}/{k}.jpg": saved(smooth(seed=10 * k + i)) for i, c in enumerate("ab") for k in range(n)})


def fails(argv: list, capsys: pytest.CaptureFixture) -> str:
    """Runs the command, which must end with exit code 2 and one line; returns the line."""
    assert cli.run(convert.main, "convert", [str(a) for a in argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fastmix convert: error: ") and err.count("\n") == 1
    return err.strip().removeprefix("fastmix convert: error: ")


# ---- what an image becomes ----

KEPT = {
    "colour": saved(smooth(), quality=80),
    "4:4:4": saved(smooth(), subsampling=0),
    "grey": saved(smooth()[..., 0]),
    "progressive": saved(smooth(), progressive=True),
    "RGB inside": saved(smooth(), keep_rgb=True),
    "upright tag": turned(smooth(), 1),
    "invalid tag": turned(smooth(), 0),
    "odd size": saved(smooth(17, 13)),
}


@pytest.mark.parametrize("kind", KEPT)
def test_a_plain_jpeg_is_kept_byte_for_byte(kind):
    data = KEPT[kind]
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    got = encode(data, max_resolution=32)
    assert got == (JPEG, *pixels.shape[:2], data, True)
    assert np.abs(rgb(data).astype(int) - pixels).max() <= 1  # two builds of libjpeg-turbo
    assert encode(data, as_jpeg=False).data == rgb(data).tobytes()


PIXELS = smooth(20, 32, seed=4)
ALPHA = smooth(20, 32, seed=5, channels=1)
ON_WHITE = (PIXELS * (ALPHA / 255) + 255 * (1 - ALPHA / 255)).astype(np.float64)
WIDE = np.linspace(0, 65535, 640).reshape(20, 32).astype(np.uint16)
PALETTE = Image.fromarray(PIXELS).quantize(17)
CLEAR = Image.fromarray(np.where(PIXELS[..., 0] > 128, 255, 0).astype(np.uint8)).convert("1")
CONVERTED = {  # file, pixels that are expected, bound on the difference
    "png": (saved(PIXELS, "PNG"), PIXELS, 0),
    "bmp": (saved(PIXELS, "BMP"), PIXELS, 0),
    "tiff": (saved(PIXELS, "TIFF"), PIXELS, 0),
    "webp": (saved(PIXELS, "WEBP", lossless=True), PIXELS, 0),
    "ppm": (saved(PIXELS, "PPM"), PIXELS, 0),
    "grey png": (saved(PIXELS[..., 1], "PNG"), PIXELS[..., [1, 1, 1]], 0),
    "palette": (saved(PALETTE, "PNG"), np.array(PALETTE.getpalette()[:51]).reshape(-1, 3)[np.asarray(PALETTE)], 0),
    "one bit": (saved(CLEAR, "PNG"), np.repeat(np.asarray(CLEAR)[..., None] * 255, 3, -1), 0),
    "16-bit grey": (saved(WIDE, "PNG"), np.repeat(WIDE[..., None] / 257, 3, -1), 0.5),
    "alpha": (saved(np.concatenate([PIXELS, ALPHA], -1), "PNG"), ON_WHITE, 1),
    "grey alpha": (saved(np.concatenate([PIXELS[..., :1], ALPHA], -1), "PNG"), ON_WHITE[..., [0, 0, 0]], 1),
    "colour key": (
        saved(Image.new("RGB", (4, 3), (9, 8, 7)), "PNG", transparency=(9, 8, 7)),
        np.full((3, 4, 3), 255),
        0,
    ),
    "cmyk": (saved(Image.fromarray(PIXELS).convert("CMYK"), quality=100), PIXELS, 4),
}
TURNS = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x),
}
CONVERTED |= {
    f"turned {k} {kind}": (turned(PIXELS, k, kind, **options), turn(PIXELS), bound)
    for k, turn in TURNS.items()
    for kind, options, bound in [("PNG", {}, 0), ("JPEG", {"quality": 100, "subsampling": 0}, 4)]
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_other_images_are_converted(kind):
    data, want, bound = CONVERTED[kind]
    raw = encode(data, as_jpeg=False)
    assert (raw.mode, raw.height, raw.width, raw.kept) == (RAW, *want.shape[:2], False)
    pixels = np.frombuffer(raw.data, np.uint8).reshape(want.shape)
    assert np.abs(pixels - want.astype(np.float64)).max() <= bound
    jpeg = encode(data, quality=95)
    assert (jpeg.mode, jpeg.height, jpeg.width, jpeg.kept) == (JPEG, *want.shape[:2], False)
    by_pillow = saved(pixels, quality=95)  # an independent encoder of the same quality is as far from the pixels
    loss = [np.abs(np.asarray(Image.open(io.BytesIO(d)), int) - pixels).mean() for d in (jpeg.data, by_pillow)]
    assert loss[0] <= loss[1] + 0.5


@pytest.mark.parametrize("size", [(100, 37), (37, 100), (64, 64), (300, 2), (50, 50)])
def test_reduction(size):
    pixels = smooth(*size)
    for data in (saved(pixels, "PNG"), saved(pixels)):
        got = encode(data, max_resolution=50, as_jpeg=False)
        source = Image.open(io.BytesIO(data))
        longest = max(size)
        want = (max(1, round(size[1] * 50 / longest)), max(1, round(size[0] * 50 / longest)))
        assert (got.width, got.height) == want and max(want) == 50
        reduced = np.asarray(source.resize(want, Image.Resampling.LANCZOS), int)
        assert np.abs(np.frombuffer(got.data, np.uint8).reshape(reduced.shape) - reduced).max() <= 1


def test_an_image_is_never_enlarged():
    data = saved(smooth(40, 50))
    assert encode(data, max_resolution=51).data is data
    assert not encode(data, max_resolution=49).kept


def test_quality_sets_the_size():
    data = saved(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), "PNG")
    sizes = [len(encode(data, quality=q).data) for q in (1, 30, 60, 90, 100)]
    assert sizes == sorted(sizes) and sizes[-1] > 4 * sizes[0]


WHOLE = saved(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
DAMAGED = {
    "empty.jpg": (b"", "empty file"),
    "text.jpg": (b"<html>404</html>", "not an image file"),
    "half.jpg": (WHOLE[: len(WHOLE) // 2], "Premature end of JPEG file"),
    "no_end.jpg": (WHOLE[:-2], "Premature end of JPEG file"),
    "head.jpg": (WHOLE[:200], "Truncated|truncated|cannot|Could not|broken|file"),
    "zeroed.jpg": (WHOLE[:1000] + bytes(300) + WHOLE[1300:], "Corrupt JPEG data"),
    "half.png": (saved(PIXELS, "PNG")[:-40], "truncated"),
    "half_turned.jpg": (turned(PIXELS, 6)[:-40], "truncated"),
    "float.tiff": (saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "mode F have no known range"),
    "long.png": (saved(Image.new("L", (70000, 1)), "PNG"), "70000 x 1 pixels; a side can have 65535 at most"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_the_reason_of_a_damaged_image(name):
    data, reason = DAMAGED[name]
    with pytest.raises(ValueError, match=reason) as caught:
        encode(data)
    assert "\n" not in str(caught.value) and " at 0x" not in str(caught.value)


# ---- packing ----


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

    def counting(data, *options):
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return encode(data, *options)._replace(data=Counted(data))

    monkeypatch.setattr(packing, "encode", counting)
    pack(scan(two_classes(tmp_path / "in", 60)), tmp_path / "a.beton", workers=2)
    assert 2 <= most <= 2 * packing.AHEAD + 2 and alive <= 1


# ---- seekable and recompressed ----


def kinds(folder: Path) -> Path:
    """Eight JPEGs of which all but the progressive one can get restart markers, and a PNG."""
    return tree(folder, {f"a/{k}.jpg": data for k, data in enumerate(KEPT.values())} | {"b/1.png": CONVERTED["png"][0]})


def test_seekable_files_keep_their_pixels(tmp_path, capsys):
    listing, out = scan(kinds(tmp_path / "in")), tmp_path / "a.beton"
    assert convert.main([str(tmp_path / "in"), str(out), "--seekable", "--verify"]) == 0
    ways = "7 JPEGs made seekable, 1 kept untouched (progressive and the like), 1 encoded anew, "
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
        assert ", 0 JPEGs kept untouched, 9 encoded anew, " in capsys.readouterr().out
        with Beton(out) as beton:
            for k, file in enumerate(listing.files):
                pixels = rgb(Path(file).read_bytes())
                loss = np.abs(rgb(beton.data(k).tobytes()).astype(int) - pixels).mean()
                by_pillow = np.asarray(Image.open(io.BytesIO(saved(pixels, quality=quality))), int)
                assert loss <= np.abs(by_pillow - pixels).mean() + 0.5 <= bound
    assert out.stat().st_size == (tmp_path / "95.beton").stat().st_size  # pages
    with Beton(out) as small, Beton(tmp_path / "95.beton") as large:
        assert (small.sizes < large.sizes).all()


# ---- checksums ----


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


# ---- the benchmark ----


def test_bench_compares_with_ffcv(tmp_path, monkeypatch):
    pytest.importorskip("ffcv")
    from fastmix.bench import convert as bench
    from fastmix.bench import main

    monkeypatch.setattr(bench, "PLANS", {plan: work for plan, work in bench.PLANS.items() if plan[0] == "raw"})
    main(["convert", str(two_classes(tmp_path / "in")), "--rows", "20", "--rounds", "1", "--json", f"{tmp_path}/a"])
    rows = {(row["provider"], row["unit"]): row for row in json.loads((tmp_path / "a").read_text())}
    assert len(rows) == 8 and {row["shape"] for row in rows.values()} == {"24 images, 500 px, q90"}
    ours, theirs = (rows[name, "MB"]["p50"] for name in ("fastmix", "ffcv"))
    assert ours == theirs  # the same pixels in the same pages
    for unit, ratio in (("CPU ms/image", "x CPU time"), ("images/s", "x time")):
        ours, theirs = (rows[name, unit]["p50"] for name in ("fastmix", "ffcv"))
        times = theirs / ours if ratio == "x CPU time" else ours / theirs
        assert rows["ffcv / fastmix", ratio]["p50"] == pytest.approx(times)


# ---- layouts ----


def test_class_folders(tmp_path):
    x = KEPT["odd size"]
    names = [
        "b/2.JPEG",
        "b/10.jpg",
        "b/images/1.png",
        "a/x/y/z.webp",
        "a/notes.txt",
        "a/.hidden.jpg",
        ".git/1.jpg",
        "c/k.BMP",
    ]
    source = tree(tmp_path / "in", dict.fromkeys(names, x))
    files = [str(source / name) for name in ("a/x/y/z.webp", "b/10.jpg", "b/2.JPEG", "b/images/1.png", "c/k.BMP")]
    assert scan(source) == Listing(files, [0, 1, 1, 1, 2], ["a", "b", "c"])
    assert scan(source, ["c", "z", "b", "a"]) == Listing(files, [3, 2, 2, 2, 0], ["c", "z", "b", "a"])
    with pytest.raises(ValueError, match="in/c: not one of the 2 given classes"):
        scan(source, ["a", "b"])


def test_class_folders_agree_with_image_folder(tmp_path):
    import_module("fastmix.compat")  # lets torchvision import
    from torchvision.datasets import ImageFolder

    rng = np.random.default_rng(0)
    names = {
        f"{rng.integers(4)}/{rng.integers(3)}/{rng.integers(99)}.{e}" for e in ("jpg", "PNG", "tif") for _ in range(20)
    }
    source = tree(tmp_path / "in", dict.fromkeys([*names, *(f"{k}/1.jpeg" for k in range(12))], b"x"))
    folder, ours = ImageFolder(str(source)), scan(source)
    assert list(zip(ours.files, ours.labels, strict=True)) == folder.samples and ours.classes == folder.classes


ANNOTATIONS = "val_1.JPEG\tn03\t0\t0\t9\t9\nval_0.JPEG\tn01\t1\t2\t3\t4\nval_2.JPEG\tn03\t0\t0\t9\t9\n"


def test_tiny_imagenet_val_takes_the_classes_of_train(tmp_path):
    val = tree(tmp_path / "val", {"val_annotations.txt": ANNOTATIONS, "images/val_0.JPEG": KEPT["colour"]})
    files = [str(val / "images" / f"val_{k}.JPEG") for k in (1, 0, 2)]
    assert scan(val) == Listing(files, [1, 0, 1], ["n01", "n03"])
    tree(tmp_path, {"wnids.txt": "n03\nn02\nn01\n"})
    assert scan(val) == Listing(files, [2, 0, 2], ["n01", "n02", "n03"])
    tree(tmp_path, {f"train/n0{k}/images/1.JPEG": KEPT["colour"] for k in (0, 1, 2, 3)})
    assert (
        scan(val)
        == Listing(files, [3, 1, 3], ["n00", "n01", "n02", "n03"])
        == scan(val, scan(tmp_path / "train").classes)
    )
    assert scan(val, ["n03", "n01"]).labels == [0, 1, 0]
    with pytest.raises(ValueError, match=r"val_annotations.txt: row 1: 'n03' is not one of the 1 classes"):
        scan(val, ["n01"])
    tree(val, {"val_annotations.txt": ANNOTATIONS + "val_7.JPEG\n"})
    with pytest.raises(ValueError, match=r"val_annotations.txt: row 4: needs file, class"):
        scan(val)


@pytest.mark.parametrize("head", ["", "path,label\n", "Image , Label\n"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_lists(tmp_path, head, suffix):
    def listed(text: str, **options) -> Listing:
        text = head + text
        return scan(
            tree(tmp_path, {f"l.{suffix}": text.replace(",", "\t") if suffix == "tsv" else text}) / f"l.{suffix}",
            **options,
        )

    files = [str(tmp_path / "x/1.jpg"), str(tmp_path / "2.jpg"), "/abs/3.jpg"]
    rows = "x/1.jpg,{}\n\n2.jpg , {}\n/abs/3.jpg,{}\n"
    assert listed(rows.format("dog", "cat", "dog")) == Listing(files, [1, 0, 1], ["cat", "dog"])
    assert listed(rows.format("10", "2", "0")) == Listing(files, [10, 2, 0], None)
    assert listed(rows.format("1", "2", "b")) == Listing(files, [0, 1, 2], ["1", "2", "b"])
    assert listed(rows.format("dog", "cat", "dog"), classes=["dog", "cow", "cat"]).labels == [0, 2, 0]
    assert listed(rows.format("1", "2", "0"), classes=["x", "y", "z"]) == Listing(files, [1, 2, 0], ["x", "y", "z"])
    assert listed(rows.format("1", "10", "2"), classes=["1", "10", "2"]).labels == [0, 1, 2]
    row = len(head.splitlines())
    with pytest.raises(ValueError, match=f"row {row + 4}: label 3, but 3 classes are given"):
        listed(rows.format("1", "2", "3"), classes=["x", "y", "z"])
    with pytest.raises(ValueError, match=f"row {row + 3}: 'cat' is not one of the 1 given classes"):
        listed(rows.format("dog", "cat", "dog"), classes=["dog"])
    for broken in ("1.jpg\n", "1.jpg,\n", ",dog\n", "1.jpg,dog,3\n"):
        with pytest.raises(ValueError, match=f"l.{suffix}: row {row + 2}: needs path and label"):
            listed("0.jpg,cat\n" + broken)
    with pytest.raises(ValueError, match="lists no images"):
        listed("")


def test_a_list_is_packed(tmp_path):
    two_classes(tmp_path, 2)
    (tmp_path / "l.csv").write_text("path,label\nb/1.jpg,7\na/0.jpg,0\n")
    assert convert.main([str(tmp_path / "l.csv"), str(tmp_path / "a.beton")]) == 0
    with Beton(tmp_path / "a.beton") as beton:
        assert beton.labels.tolist() == [7, 0] and beton.classes is None
        assert beton.data(0).tobytes() == (tmp_path / "b/1.jpg").read_bytes()


# ---- the command ----


def test_mistakes_end_with_one_line_and_nothing_written(tmp_path, capsys):
    good = two_classes(tmp_path / "good")
    out = tmp_path / "a.beton"
    (tmp_path / "none").mkdir()
    hole = tree(tmp_path / "hole", {"a/1.jpg": KEPT["colour"], "b/readme.txt": "x"})
    flat = tree(tmp_path / "flat", {"1.jpg": KEPT["colour"]})
    broken = tree(tmp_path / "lists", {"l.csv": "1.jpg,a\n2.jpg\n", "q.csv": '1.jpg,"a', "b.csv": b"\xff\xfe1"})
    tree(tmp_path / "names", {"twice.txt": "a\nb\na\n", "empty.txt": "\n", "few.txt": "a\n"})
    old = tree(tmp_path, {"old.beton": "x"}) / "old.beton"
    for argv, message in {
        (tmp_path / "gone", out): f"{tmp_path / 'gone'}: no such folder or list",
        (tmp_path / "none", out): f"{tmp_path / 'none'}: no class folders in it",
        (hole, out): f"{hole / 'b'}: class folder without images",
        (flat, out): f"{flat}: images but no class folders",
        (flat / "1.jpg", out): "neither a folder of images nor a .csv or .tsv list",
        (broken / "l.csv", out): f"{broken / 'l.csv'}: row 2: needs path and label, has '2.jpg'",
        (broken / "q.csv", out): "row 1: unexpected end of data",
        (broken / "b.csv", out): "not UTF-8 text",
        (good, tmp_path / "a.bin"): "give the packed file a name that ends in .beton",
        (good, tmp_path / "no" / "a.beton"): f"{tmp_path / 'no'}: no such folder to write a.beton into",
        (good, old): f"{old}: exists already; remove it or give --overwrite",
        (good, out, "--quality", "0"): "argument --quality: '0' is not a whole number from 1 to 100",
        (good, out, "--jpeg-share", "1.5"): "argument --jpeg-share: '1.5' is not a number from 0 to 1",
        (good, out, "--jpeg-share", "nan"): "argument --jpeg-share: 'nan' is not a number from 0 to 1",
        (good, out, "--max-resolution", "0"): "argument --max-resolution: '0' is not a whole number from 1",
        (good, out, "--workers", "two"): "argument --workers: 'two' is not a whole number from 1",
        (good, out, "--what"): "unrecognized arguments: --what",
        (good,): "the following arguments are required: out",
        (good, out, "--classes", tmp_path / "names/twice.txt"): "names the class 'a' twice",
        (good, out, "--classes", tmp_path / "names/empty.txt"): "has no class names",
        (good, out, "--classes", tmp_path / "names/few.txt"): f"{good / 'b'}: not one of the 1 given classes",
        (good, out, "--classes", tmp_path / "names/gone.txt"): "no such file to take the classes from",
        (good, out, "--classes", old): f"{old}: has no class names",
    }.items():
        assert message in fails(argv, capsys)
        assert not out.exists() and not any("part" in name for name in os.listdir(tmp_path))
    assert old.read_text() == "x"


def test_classes_of_another_file(tmp_path):
    train, val = two_classes(tmp_path / "train"), tree(tmp_path / "val", {"b/1.jpg": KEPT["colour"]})
    convert.main([str(train), str(tmp_path / "train.beton")])
    for k, source in enumerate(
        [tmp_path / "train.beton", train, tree(tmp_path, {"names.txt": "a\nb\n"}) / "names.txt"]
    ):
        assert load_classes(source) == ["a", "b"]
        out = tmp_path / f"{k}.beton"
        convert.main([str(val), str(out), "--classes", str(source)])
        with Beton(out) as beton:
            assert beton.labels.tolist() == [1] and beton.classes == ["a", "b"]


def test_overwrite(tmp_path):
    out = tmp_path / "a.beton"
    convert.main([str(two_classes(tmp_path / "1")), str(out)])
    convert.main([str(tree(tmp_path / "2", {"q/1.jpg": KEPT["grey"]})), str(out), "--overwrite"])
    assert json.loads(classes_path(out).read_text()) == ["q"]
    with Beton(out) as beton:
        assert beton.data(0).tobytes() == KEPT["grey"]


def test_from_the_shell(tmp_path):
    """Help answers without loading anything; packing never imports torch; a mistake is one line and exit code 2."""
    probe = "import sys; from fastmix import cli, convert; code = cli.run(convert.main, 'convert', sys.argv[2:])\n"
    probe += "heavy = sys.argv[1].split(',') ; assert not [m for m in heavy if m in sys.modules]; sys.exit(code)"
    light = [sys.executable, "-c", probe, "torch,torchvision,timm,numba,cv2,ffcv,triton"]
    source, out = two_classes(tmp_path / "in"), tmp_path / "a.beton"
    done = subprocess.run([*light, source, out], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{out}: 12 images in 2 classes, 16.8 MB, 12 JPEGs kept untouched, ")
    script = "import runpy, sys; sys.argv[0] = 'x'\ntry: runpy.run_module('fastmix.convert', run_name='__main__')\n"
    script += (
        "except SystemExit as e: assert not {'numpy', 'PIL', 'torch', 'tqdm'} & set(sys.modules); sys.exit(e.code)"
    )
    done = subprocess.run([sys.executable, "-c", script, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--max-resolution" in done.stdout
    command = [sys.executable, "-m", "fastmix.convert", tmp_path / "gone", tmp_path / "b.beton"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"fastmix convert: error: {tmp_path / 'gone'}: no such folder or list\n"


# ---- cli ----


def test_the_fastmix_script(capsys, tmp_path):
    assert cli.main(["--help"]) == 0 and cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {verb} " in out for verb in cli.VERBS)
    assert cli.main(["convrt"]) == 2
    line = "fastmix: error: unknown verb 'convrt'; did you mean 'convert'? (see fastmix --help)\n"
    assert capsys.readouterr().err == line
    assert cli.main(["convert", str(tmp_path / "gone"), "a.beton"]) == 2
    assert capsys.readouterr().err == f"fastmix convert: error: {tmp_path / 'gone'}: no such folder or list\n"
    assert cli.main(["convert", str(two_classes(tmp_path / "in")), str(tmp_path / "a.beton")]) == 0


def test_what_run_makes_of_errors(capsys, monkeypatch):
    def raising(error):
        def main(argv):
            raise error

        return main

    assert cli.run(raising(ValueError("two\n  lines")), "train") == 2
    assert capsys.readouterr().err == "fastmix train: error: two lines\n"
    assert cli.run(raising(FileNotFoundError(2, "No such file or directory", "a.yaml")), "train") == 2
    assert capsys.readouterr().err == "fastmix train: error: a.yaml: No such file or directory\n"
    assert cli.run(raising(FileNotFoundError("a.beton: no such file")), "train") == 2
    assert capsys.readouterr().err == "fastmix train: error: a.beton: no such file\n"
    assert cli.run(raising(KeyboardInterrupt()), "train") == 130
    assert cli.run(lambda argv: None, "train") == 0 and cli.run(lambda argv: 7, "train") == 7
    with pytest.raises(RuntimeError):  # a defect of ours keeps its traceback
        cli.run(raising(RuntimeError("x")), "train")
    monkeypatch.setenv("FASTMIX_TRACEBACK", "1")
    with pytest.raises(ValueError, match="two"):
        cli.run(raising(ValueError("two")), "train")


# ---- real data ----


def test_real_images(data, tmp_path):
    source = data("imagenet_sample") / "train"
    listing = scan(source)
    packed = pack(listing, tmp_path / "a.beton", verify=True)
    kept = 0
    with Beton(tmp_path / "a.beton") as beton:
        for k, file in enumerate(listing.files):
            with Image.open(file) as image:
                plain = image.getexif().get(0x0112, 1) in (0, 1) and image.mode in ("RGB", "L")
            if plain:
                assert beton.data(k).tobytes() == Path(file).read_bytes()
                assert (beton.widths[k], beton.heights[k]) == image.size
                kept += 1
            else:
                assert simplejpeg.decode_jpeg_header(beton.data(k))[:2] == (beton.heights[k], beton.widths[k])
    assert packed.kept == kept and packed.rows == len(listing.files)


def test_real_tiny_imagenet(data, tmp_path):
    root = data("tiny-imagenet-20")
    train, val = scan(root / "train"), scan(root / "val")
    assert train.classes == val.classes == sorted((root / "wnids.txt").read_text().split())
    pack(val, tmp_path / "val.beton")
    annotated = dict(line.split("\t")[:2] for line in (root / "val/val_annotations.txt").read_text().splitlines())
    with Beton(tmp_path / "val.beton") as beton:
        assert np.bincount(beton.labels).tolist() == [50] * 20
        for k, file in enumerate(val.files):
            assert beton.classes[beton.labels[k]] == annotated[Path(file).name]
            assert beton.data(k).tobytes() == Path(file).read_bytes()
