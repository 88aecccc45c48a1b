"""The `ffcv` loader against ffcv's own, against OpenCV, and against `beton`."""

import subprocess
import sys

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from fastmix.pipelines import loader_class, sampling
from fastmix.pipelines.beton import Beton
from fastmix.pipelines.packing.layouts import scan
from fastmix.pipelines.packing.pack import pack
from fastmix.pipelines.view import View
from helpers.loading import beton_of, copies, encoded, image_folder, installed, joined

cv2 = pytest.importorskip("cv2")  # comes with ffcv
SIZE = 32


@pytest.fixture(scope="module")
def ffcv():
    if not installed("ffcv"):
        pytest.skip("needs ffcv")
    return loader_class("ffcv")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    root = tmp_path_factory.mktemp("ffcv")
    pack(scan(image_folder(root / "images", 60)), root / "data.beton", workers=1)
    return root / "data.beton"


def opened(path) -> list[np.ndarray]:
    """The images of a file by libjpeg-turbo's fast DCT, of another build than ffcv's."""
    (file,) = Beton(path, 1, view=View(SIZE), train=False).file.files
    return [simplejpeg.decode_jpeg(file.data(row), "RGB", fastdct=True) for row in range(len(file))]


def test_crops_are_those_of_the_table_by_inter_area(ffcv, packed):
    pixels, view = opened(packed), View(SIZE, flip=0.5)
    rows = sampling.order(60, 3, 2)
    heights, widths = np.array([image.shape[:2] for image in pixels])[rows].T
    windows, flips = view.windows(heights, widths, 3, 2, rows)
    images, _ = joined(ffcv(packed, 20, view=view, train=True, seed=3).epoch(2))
    assert 10 < flips.sum() < 50
    for image, row, window, flip in zip(images, rows, windows, flips, strict=True):
        y, x, h, w = window.astype(int)
        expected = cv2.resize(pixels[row][y : y + h, x : x + w], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        assert np.abs((expected[:, ::-1] if flip else expected).astype(int) - image).max() <= 2


def test_validation_resizes_then_crops(ffcv, packed):
    images, _ = joined(ffcv(packed, 20, view=View(SIZE, crop="centre", resize=40), train=False).epoch(0))
    for image, pixels in zip(images, opened(packed), strict=True):
        height, width = (side * 40 // min(pixels.shape[:2]) for side in pixels.shape[:2])
        small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        y, x = round((height - SIZE) / 2), round((width - SIZE) / 2)
        assert np.abs(small[y : y + SIZE, x : x + SIZE].astype(int) - image).max() <= 2


@pytest.mark.parametrize(
    "view",
    [
        View(44, crop="pad", pad=12, flip=0.5),
        View(44, crop="pad", pad=39, pad_mode="reflect", flip=0.5),
        View(38, crop="centre"),
    ],
)
def test_what_is_not_resized_is_copied(ffcv, tmp_path, view):
    pixels = list(np.random.default_rng(0).integers(0, 256, (9, 40, 44, 3), dtype=np.uint8))
    path = beton_of(tmp_path / "raw.beton", pixels)
    for ours, theirs in zip(*(kind(path, 3, view=view, train=True).epoch(0) for kind in (Beton, ffcv)), strict=True):
        assert (ours[0] == theirs[0]).all() and (ours[1] == theirs[1]).all()


THEIRS = """
import sys, numpy, torch, numba
from fastmix.pipelines import loader_class
from fastmix.pipelines.view import View
torch.set_num_threads(2)
before = torch.get_num_threads(), numba.get_num_threads()
kind = loader_class("ffcv")
numba.config.DISABLE_JIT = 1  # from here on, for ffcv: compiling takes it 10 s
ours = kind(sys.argv[1], 4, view=View(48, crop="centre"), train=False)
assert (torch.get_num_threads(), numba.get_num_threads()) == before, "ffcv's import leaves one thread"
from ffcv.loader import Loader, OrderOption
from ffcv.fields.decoders import SimpleRGBImageDecoder
from ffcv.transforms import ToTensor
theirs = Loader(sys.argv[1], 4, num_workers=1, order=OrderOption.SEQUENTIAL,
                pipelines={"image": [SimpleRGBImageDecoder(), ToTensor()], "label": None})
for (a, *_), (b, *_) in zip(ours.epoch(0), theirs):
    assert torch.equal(a, b)
print("equal", len(ours))
"""


def test_pixels_are_those_of_ffcvs_own_loader_and_threads_are_left_alone(ffcv, tmp_path):
    rng = np.random.default_rng(0)
    images = [encoded(cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (48, 48))) for _ in range(11)]
    path = beton_of(tmp_path / "square.beton", [*images, np.asarray(rng.integers(0, 256, (48, 48, 3)), np.uint8)])
    done = subprocess.run([sys.executable, "-c", THEIRS, path], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["equal", "3"], done.stderr[-2000:]


def test_on_photographs_it_is_close_to_the_native_loader(ffcv, data, tmp_path):
    pack(scan(data("imagenet_sample") / "train"), tmp_path / "photos.beton", workers=2)
    for view, train in ((View(224, flip=0.5), True), (View(224, crop="centre", resize=256), False)):
        ours, theirs = (
            joined(kind(tmp_path / "photos.beton", 50, view=view, train=train).epoch(0))[0].astype(np.int16)
            for kind in (Beton, ffcv)
        )
        off = np.abs(ours - theirs).mean((1, 2, 3))
        # The fast DCT rounds downwards: its images are darker.
        assert 0.5 < off.mean() < 2.5 and off.max() < 10 and 0 < (ours - theirs).mean() < 1.2


def test_it_refuses_every_damage_that_decoding_the_whole_image_finds(ffcv, tmp_path):
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
    images = []
    for k in range(60):
        data = bytearray(encoded(picture, quality=90))
        place = rng.integers(data.index(b"\xff\xda") + 14, len(data))  # behind the header
        if k % 3 == 1:
            data[place] ^= 1 << rng.integers(8)
        elif k % 3 == 2:
            data = data[:place]
        images.append(bytes(data))
    path = beton_of(tmp_path / "damaged.beton", images)
    view = View(48, crop="none")
    theirs, ours = (kind(path, 60, view=view, train=False, bad="skip") for kind in (ffcv, Beton))
    (a,), (b,) = copies(theirs.epoch(0)), copies(ours.epoch(0))
    assert theirs.skipped == ours.skipped and 20 <= len(ours.skipped) < 40 and (a[2] == b[2]).all()
    assert any("Premature end" in line for line in theirs.skipped)


def test_another_size_than_in_the_metadata_is_an_error(ffcv, tmp_path):
    images = [encoded(np.zeros((48, 48, 3), np.uint8))] * 3
    path = beton_of(tmp_path / "wrong.beton", images)
    loader = ffcv(path, 3, view=View(SIZE), train=False)
    loader._images = loader._images.copy()
    loader._images["height"][1] = 24  # the C function would scale the image to that, unasked
    with pytest.raises(ValueError, match=r"wrong\.beton: row 1: .* another size than the 48 x 24 pixels"):
        list(loader.epoch(0))


def test_what_it_cannot_do_is_refused(ffcv, packed, monkeypatch):
    with pytest.raises(ValueError, match="INTER_AREA alone, not by 'bicubic'.*beton"):
        ffcv(packed, 4, view=View(SIZE, interpolation="bicubic"), train=True)
    with pytest.raises(FileNotFoundError, match="nowhere.beton"):
        ffcv("nowhere.beton", 4, view=View(SIZE), train=True)


def test_a_missing_package_is_told_in_a_line_with_what_to_install(packed, monkeypatch):
    monkeypatch.setitem(sys.modules, "ffcv", None)
    monkeypatch.setitem(sys.modules, "ffcv.libffcv", None)
    with pytest.raises(ValueError, match=r"needs the ffcv package .*apt-get install .*libopencv-dev.*pip install") as e:
        loader_class("ffcv")(packed, 4, view=View(SIZE), train=True)
    assert "\n" not in str(e.value)


def test_grey_and_progressive_and_one_pixel(ffcv, tmp_path):
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8), (50, 41))
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    images = [encoded(picture, progressive=True), encoded(grey), encoded(picture[:1, :1]), picture]
    path = beton_of(tmp_path / "kinds.beton", images)
    view = View(20, crop="none")
    ((ours, *_),), ((theirs, *_),) = (copies(kind(path, 4, view=view, train=False).epoch(0)) for kind in (Beton, ffcv))
    assert (ours.int() - theirs.int()).abs().float().mean((1, 2, 3)).max() < 3
