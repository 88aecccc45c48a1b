"""Restart markers: putting them in changes no pixel, and a region that is cut out has the pixels of the whole image."""

import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from fastmix.pipelines.jpeg.markers import frame
from fastmix.pipelines.jpeg.restarts import cut, insert
from helpers import ROOT

MCU = {"444": (8, 8), "422": (8, 16), "420": (16, 16), "440": (16, 8), "411": (8, 32), "gray": (8, 8)}  # pixels
SIZES = [(1, 1), (15, 17), (8, 200), (200, 8), (100, 131), (375, 500)]


def decoded(data: bytes) -> np.ndarray:
    return simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Edges, slopes and noise: all sizes of coefficients."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(y / rng.uniform(2, 40) + x / rng.uniform(2, 40)) for _ in range(3)]
    pixels = 128 + 90 * np.stack(waves, -1) + 60 * ((y // 9 + x // 7) % 5 == 0)[..., None]
    noisy = pixels + rng.normal(0, 12, pixels.shape) * (x > width // 2)[..., None]
    return noisy.clip(0, 255).astype(np.uint8)


def saved(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def turbo(pixels: np.ndarray, sampling: str, quality: int = 90) -> bytes:
    if sampling == "gray":
        return saved(pixels[..., 0], quality=quality)
    return simplejpeg.encode_jpeg(pixels, quality, "RGB", sampling)


def same(data: bytes) -> bytes:
    """Inserts markers, which must not change a pixel, for three decoders; returns the new file."""
    new = insert(data)
    assert new is not None and np.array_equal(decoded(new), decoded(data))
    pillow = [np.asarray(Image.open(io.BytesIO(d))) for d in (data, new)]
    assert np.array_equal(*pillow)
    return new


def interval(data: bytes) -> int:
    """What the last DRI segment says; 0 without one."""
    found = re.findall(rb"\xff\xdd\x00\x04(..)", data, re.DOTALL)
    return int.from_bytes(found[-1], "big") if found else 0


def markers(data: bytes) -> list[int]:
    """Numbers of the restart markers, in order."""
    scan = data[data.rindex(b"\xff\xda") :]
    return [m[0][1] - 0xD0 for m in re.finditer(rb"\xff[\xd0-\xd7]", scan)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("sampling", MCU)
def test_no_pixel_changes(sampling, size):
    new = same(turbo(picture(*size), sampling))
    down, across = MCU[sampling]
    rows, columns = -(-size[0] // down), -(-size[1] // across)
    step = interval(new)
    assert step == next((k for k in range(4, columns) if columns % k == 0), columns)
    assert markers(new) == [k % 8 for k in range(rows * columns // step - 1)]
    assert insert(new) == new


@pytest.mark.parametrize(
    "options",
    [{"optimize": True}, {"restart_marker_rows": 1}, {"restart_marker_rows": 2}, {"restart_marker_blocks": 7}],
)
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 95])
def test_other_tables_and_markers(options, subsampling, quality):
    for seed, size in enumerate(SIZES):
        data = saved(picture(*size, seed), subsampling=subsampling, quality=quality, **options)
        assert len(same(data)) < 1.1 * len(data) + 100
        same(saved(picture(*size, seed)[..., 1], quality=quality, **options))


def test_the_standard_tables_replace_those_without_a_needed_code():
    ramp = np.repeat(np.linspace(128, 255, 200).astype(np.uint8)[None, :, None], 64, 0)  # from 0, in small steps
    data = saved(np.repeat(ramp, 3, -1), optimize=True, subsampling=0)
    new = same(data)
    assert new.count(b"\xff\xc4") == data.count(b"\xff\xc4") + 1
    assert insert(new) == new


@pytest.mark.parametrize("sampling", ["411", "420", "422", "440", "444"])
@pytest.mark.parametrize("interval", [0, 1, 5])
def test_files_of_opencv(sampling, interval):
    cv2 = pytest.importorskip("cv2")
    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}")
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor, cv2.IMWRITE_JPEG_RST_INTERVAL, interval]
    options += [cv2.IMWRITE_JPEG_OPTIMIZE, int(interval > 1)]
    data = cv2.imencode(".jpg", picture(131, 180), options)[1].tobytes()
    new = same(data)
    both = [cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_COLOR) for d in (data, new)]
    assert np.array_equal(*both)


def test_grey_with_sampling_factors_is_not_interleaved():
    """T.81, A.2.2: the scan of a single component has one block an MCU, in the order of the image's rows."""
    data = bytearray(saved(picture(40, 100)[..., 0]))
    at = data.index(b"\xff\xc0")
    assert data[at + 11] == 0x11
    data[at + 11] = 0x22
    new = same(bytes(data))
    assert interval(new) == 13 and markers(new) == [0, 1, 2, 3]


def test_segments_and_what_follows_are_kept():
    exif = Image.Exif()
    exif[0x010E] = "a dog"
    data = saved(picture(40, 200), exif=exif, icc_profile=b"profile" * 20000, comment=b"hello", dpi=(72, 72))
    new = same(data + b"more")
    assert new.endswith(b"\xff\xd9more")
    old, image = (Image.open(io.BytesIO(d)) for d in (data, new))
    assert image.info == old.info and image.info["comment"] == b"hello" and image.getexif() == old.getexif()


def planes(pixels: np.ndarray) -> bytes:
    """A JPEG of three scans, one a component, of the scans of three grey ones."""
    grey = [saved(np.ascontiguousarray(pixels[..., c]), keep_rgb=False) for c in range(3)]
    at = grey[0].index(b"\xff\xc0")
    end = at + 2 + int.from_bytes(grey[0][at + 2 : at + 4], "big")
    one = grey[0][at + 4 : end]
    parts = b"".join(bytes([c + 1]) + one[7:9] for c in range(3))
    data = grey[0][:at] + b"\xff\xc0\0\x11" + one[:5] + b"\3" + parts + grey[0][end : grey[0].index(b"\xff\xda")]
    for c, source in enumerate(grey):
        data += b"\xff\xda\0\x08\1" + bytes([c + 1]) + b"\0\0\x3f\0" + source[source.index(b"\xff\xda") + 10 : -2]
    return data + b"\xff\xd9"


def test_what_cannot_be_done():
    pixels = picture(40, 100)
    whole = turbo(pixels, "420")
    assert decoded(planes(pixels)).shape == pixels.shape
    cmyk = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(cmyk, "JPEG")
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    kinds = [planes(pixels), saved(pixels, progressive=True), cmyk.getvalue(), png.getvalue(), b"", b"\xff\xd8"]
    out = np.zeros(1 << 20, np.uint8)
    for data in kinds + [whole[:k] for k in range(0, len(whole), 9)]:
        assert insert(data) is None
        assert cut(np.frombuffer(data, np.uint8), 0, 0, 40, 100, out)[0] == 0
    at = whole.index(b"\xff\xc0")
    for offset, value in [(1, 0xC9), (4, 12), (4, 16)]:  # arithmetic coding, 12 and 16 bits
        assert insert(whole[: at + offset] + bytes([value]) + whole[at + offset + 1 :]) is None


# ---- cutting ----


def region(data: bytes, window: tuple[int, int, int, int]) -> tuple[int, int, np.ndarray]:
    """(y, x, pixels) of what is cut out; top, left, bottom, right must be inside."""
    out = np.full(len(data) + 64, 7, np.uint8)
    length, y, x, height, width = cut(np.frombuffer(data, np.uint8), *window, out[: len(data)])
    assert 0 < length <= len(data) and (out[len(data) :] == 7).all()
    pixels = decoded(out[:length].tobytes())
    assert pixels.shape == (height, width, 3)
    return y, x, pixels


def check_windows(data: bytes, whole: np.ndarray, rng: np.random.Generator, n: int) -> None:
    height, width = whole.shape[:2]
    grid = frame(np.frombuffer(data, np.uint8))
    for _ in range(n):
        (top, bottom), (left, right) = (np.sort(rng.choice(side + 1, 2, replace=False)) for side in (height, width))
        y, x, pixels = region(data, (top, left, bottom, right))
        assert np.array_equal(pixels[top - y : bottom - y, left - x : right - x], whole[top:bottom, left:right])
        wide = interval(data) * grid.across  # no more than the grid and a margin of a pixel ask for
        assert y == max(top - 1, 0) // grid.down * grid.down and x == max(left - 1, 0) // wide * wide
        assert y + len(pixels) == min(-(-min(bottom + 1, height) // grid.down) * grid.down, height)
        assert x + pixels.shape[1] == min(-(-min(right + 1, width) // wide) * wide, width)


@pytest.mark.parametrize("sampling", MCU)
def test_a_region_has_the_pixels_of_the_whole(sampling):
    rng = np.random.default_rng(0)
    for size in SIZES[1:]:
        data = insert(turbo(picture(*size), sampling))
        check_windows(data, decoded(data), rng, 25)
    assert decoded(insert(turbo(picture(1, 1), sampling))).shape == (1, 1, 3)


@pytest.mark.parametrize("options", [{"restart_marker_rows": 1}, {"restart_marker_blocks": 2}])
def test_regions_of_others_files(options):
    rng = np.random.default_rng(0)
    for subsampling in (0, 1, 2):
        exif = Image.Exif()
        exif[0x010E] = "long" * 5000
        data = saved(picture(130, 256), exif=exif, subsampling=subsampling, optimize=True, **options)
        check_windows(data, decoded(data), rng, 25)
        length = cut(np.frombuffer(data, np.uint8), 0, 0, 1, 1, np.empty(len(data), np.uint8))[0]
        assert length < 20000  # EXIF data are left out


def test_what_is_not_seekable():
    pixels = picture(64, 128)
    good = insert(turbo(pixels, "444"))  # 8 x 16 MCUs, 4 an interval: 31 markers

    def length(data, window=(0, 0, 64, 128), space=0):
        return cut(np.frombuffer(data, np.uint8), *window, np.empty(len(data) + space, np.uint8))[0]

    assert length(good) and length(good + b"tail") and length(good, (-5, -5, 1, 1)) and length(good, (63, 127, 99, 999))
    for window in [(5, 5, 5, 9), (5, 9, 9, 9), (9, 5, 5, 9), (64, 0, 65, 9), (0, 128, 9, 129), (-5, 0, -1, 9)]:
        assert not length(good, window)
    assert not length(good, space=-1)
    second = good.index(b"\xff\xd1")
    for data in [
        turbo(pixels, "444"),
        saved(pixels, subsampling=0, restart_marker_blocks=5),
        saved(pixels, subsampling=0, restart_marker_rows=2),
        good[:second] + good[second + 2 :],
        good[:second] + b"\xff\xd2" + good[second + 2 :],
        good[:second] + b"\xff\xd1" + good[second:],
        good[:-2],
        good[:-2] + b"\xff\xdc\0\4\0\1\xff\xd9",
        b"",
    ]:
        assert not length(data)


# ---- damage ----


def fuzz(cases: int) -> None:
    """Flips and drops bytes at random. Whatever still decodes without complaint must keep its pixels."""
    rng = np.random.default_rng(0)
    kinds = [turbo(picture(50, 70), kind) for kind in MCU] + [saved(picture(50, 70), optimize=True, subsampling=2)]
    kinds += [insert(kind) for kind in kinds]
    kept = 0
    for case in range(cases):
        data = bytearray(kinds[case % len(kinds)])
        header = data.index(b"\xff\xda") + 12
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(header if rng.random() < 0.5 else len(data)))
            if rng.random() < 0.7:
                data[at] = rng.choice([0, 255, rng.integers(256)])
            else:
                del data[at : at + int(rng.integers(1, 30))]
        if rng.random() < 0.2:
            del data[int(rng.integers(len(data))) :]
        data = bytes(data)
        cut(np.frombuffer(data, np.uint8), *rng.integers(-5, 80, 4), np.empty(len(data), np.uint8))
        new = insert(data)
        try:
            pixels = decoded(data)
        except ValueError:
            continue
        if new is not None:
            assert np.array_equal(decoded(new), pixels), case
            kept += 1
    assert kept > cases // 50


@pytest.mark.long
def test_damage_stays_in_bounds(tmp_path):
    """In a process of its own, where every index of an array is checked."""
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    code = "import sys; sys.path[:0] = ['tests', 'tests/pipelines']; import test_restarts; test_restarts.fuzz(800)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=300)


# ---- real data ----


def test_photographs(data):
    rng = np.random.default_rng(0)
    old = new = 0
    for path in sorted(data("imagenet_sample").glob("train/*/*"))[::5]:
        source = path.read_bytes()
        seekable = insert(source)
        if seekable is None:
            with Image.open(path) as image:
                assert image.info.get("progressive") or image.mode == "CMYK", path
            continue
        whole = decoded(source)
        assert np.array_equal(decoded(seekable), whole)
        check_windows(seekable, whole, rng, 4)
        old, new = old + len(source), new + len(seekable)
    assert old < new < 1.03 * old
