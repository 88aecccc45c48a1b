"""Decoding on the GPU: all but nvJPEG itself, in whose place libjpeg-turbo stands; and, on a GPU, the real one."""

import sys
import threading

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from fastmix.pipelines import nvjpeg
from fastmix.pipelines.beton import Beton
from fastmix.pipelines.folder import Folder
from fastmix.pipelines.packing.layouts import scan
from fastmix.pipelines.packing.pack import pack
from fastmix.pipelines.view import View
from helpers.loading import beton_of, copies, encoded, equal, image_folder, joined

N, SIZE = 103, 32
TRAIN = View(SIZE, flip=0.5)
VAL = View(SIZE, crop="centre", resize=40, interpolation="bicubic")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("nvjpeg")
    folder = image_folder(root / "images", N)
    pack(scan(folder), root / "data.beton", workers=1, jpeg_share=0.7)
    return {Folder: str(folder), Beton: str(root / "data.beton")}


class Stand:
    """Decodes as nvJPEG does through torchvision: all of a batch or RuntimeError; progressive files are refused."""

    def __init__(self):
        self.asked = []

    def __call__(self, jpegs: list[torch.Tensor]) -> list[torch.Tensor]:
        self.asked += [bytes(data.numpy()) for data in jpegs]
        if any(b"\xff\xc2" in bytes(data.numpy()[:1000]) for data in jpegs):
            raise RuntimeError("Failed to decode")
        try:
            pixels = [torch.from_numpy(simplejpeg.decode_jpeg(data.numpy(), "RGB")) for data in jpegs]
        except ValueError as error:
            raise RuntimeError("Failed to decode") from error
        return [image.permute(2, 0, 1).contiguous() for image in pixels]


@pytest.fixture
def stand(monkeypatch):
    stand = Stand()
    monkeypatch.setattr(nvjpeg, "decoder", lambda device: stand)
    return stand


def on_gpu(view: View) -> View:
    return View(**vars(view) | {"decode": "gpu"})


def near(ours: list[tuple], theirs: list[tuple]) -> bool:
    """Whether labels and valid are equal, and images a level apart at most."""
    same = equal([rest for _, *rest in ours], [rest for _, *rest in theirs])
    pairs = zip(ours, theirs, strict=True)
    return same and all(a.shape == b.shape and (a.int() - b.int()).abs().max() <= 1 for (a, *_), (b, *_) in pairs)


def no_thread() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith("fastmix-loader")]


@pytest.mark.parametrize("kind", [Beton, Folder])
@pytest.mark.parametrize(
    "view, train",
    [
        (TRAIN, True),
        (VAL, False),
        (View(24, crop="pad", flip=0.5), True),
        (View(24, crop="pad", pad=30, pad_mode="reflect", flip=0.5), True),
    ],
)
def test_the_images_of_the_cpu_within_a_level(sources, stand, kind, view, train):
    for rank in (0, 1):
        options = dict(train=train, seed=3, rank=rank, world=2)
        ours, theirs = (
            kind(sources[kind], 20, view=on_gpu(view), **options),
            kind(sources[kind], 20, view=view, **options),
        )
        expected = copies(theirs.epoch(1))
        assert near(copies(ours.epoch(1)), expected)
        assert near(copies(ours.epoch(1, 1)), expected[1:])
    raw = sum(theirs.record(row).raw for row in range(N))
    assert (raw > 10 if kind is Beton else raw == 0) and stand.asked and no_thread()
    if view is TRAIN:
        assert near(copies(ours.epoch(1, res=24)), copies(theirs.epoch(1, res=24)))


def test_only_whole_colour_jpegs_are_asked_for(tmp_path, stand):
    """What nvJPEG does not do, or not as libjpeg, comes from the CPU: grey, CMYK, turned, other kinds, refused ones."""
    picture = Image.fromarray(np.random.default_rng(1).integers(40, 216, (5, 6, 3), dtype=np.uint8)).resize((48, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "a_plain.jpg": (picture, {"quality": 95}),
        "b_grey.jpg": (picture.convert("L"), {}),
        "c_cmyk.jpg": (picture.convert("CMYK"), {}),
        "d_turned.jpg": (picture, {"exif": exif}),
        "e.png": (picture, {}),
        "f_progressive.jpg": (picture, {"progressive": True}),
        "g_plain.jpg": (picture.rotate(90), {}),
    }
    (tmp_path / "x").mkdir()
    for name, (image, options) in files.items():
        image.save(tmp_path / "x" / name, **options)
    ours, theirs = (Folder(tmp_path, 7, view=v, train=False) for v in (on_gpu(VAL), VAL))
    assert near(copies(ours.epoch(0)), copies(theirs.epoch(0)))
    asked = {name for name in files for data in stand.asked if data == (tmp_path / "x" / name).read_bytes()}
    assert asked == {"a_plain.jpg", "f_progressive.jpg", "g_plain.jpg"}
    stand.asked.clear()
    (tmp_path / "x" / "f_progressive.jpg").unlink()
    list(Folder(tmp_path, 6, view=on_gpu(VAL), train=False).epoch(0))
    assert len(stand.asked) == 2, "one call, no image twice"


def broken(data: bytes) -> bytes:
    """A JPEG whose scan ends too early: a marker in the middle, the end as it was."""
    middle = len(data) * 2 // 3
    return data[:middle] + b"\xff\xd9" + data[middle + 2 :]


@pytest.fixture(params=["cut short", "broken inside"])
def damaged(request, tmp_path):
    """40 rows, of which row 23 is a damaged JPEG."""
    rng = np.random.default_rng(0)
    images = [encoded(rng.integers(0, 256, (48, 50, 3), dtype=np.uint8)) for _ in range(40)]
    images[23] = images[23][: len(images[23]) * 2 // 3] if request.param == "cut short" else broken(images[23])
    return beton_of(tmp_path / "damaged.beton", images)


def test_a_damaged_image_is_an_error_in_its_turn(damaged, stand):
    taken = []
    with pytest.raises(ValueError, match=r"damaged\.beton: row 23: ") as error:
        for batch in Beton(damaged, 8, view=on_gpu(VAL), train=False).epoch(0):
            taken.append(batch)
    assert len(taken) == 2 and "\n" not in str(error.value) and no_thread()


@pytest.mark.parametrize("view, train", [(TRAIN, True), (VAL, False)])
def test_damaged_images_are_skipped_as_everywhere(damaged, stand, view, train):
    theirs, ours = (Beton(damaged, 8, view=v, train=train, bad="skip") for v in (view, on_gpu(view)))
    expected = copies(theirs.epoch(1))
    assert near(copies(ours.epoch(1)), expected)
    assert len(ours.skipped) == 1 and "row 23" in ours.skipped[0]
    assert {*joined(expected)[1].tolist()} == {*range(40)} - {23}


def test_another_size_than_stored_is_an_error(tmp_path, stand, monkeypatch):
    path = beton_of(tmp_path / "wrong.beton", [encoded(np.zeros((48, 40, 3), np.uint8))])
    loader = Beton(path, 1, view=on_gpu(VAL), train=False)
    loader.file.heights = loader.file.heights + 2
    with pytest.raises(ValueError, match=r"wrong\.beton: row 0: the JPEG has another size than the 40 x 50 pixels"):
        list(loader.epoch(0))


def test_leaving_early_and_any_error_end_the_threads(sources, stand):
    loader = Beton(sources[Beton], 10, view=on_gpu(TRAIN), train=True, workers=2)
    for _ in range(5):
        for _ in loader.epoch(0):
            break
        assert no_thread()
    loader.decode = lambda jpegs: 1 // 0
    with pytest.raises(ZeroDivisionError):
        list(loader.epoch(0))
    assert no_thread()


def test_without_a_gpu_or_its_decoder_it_is_told_in_a_line(sources, monkeypatch):
    for kind in (Beton, Folder):
        with pytest.raises(ValueError, match="batches are for the device 'cpu': take a GPU, or say decode: exact"):
            kind(sources[kind], 4, view=on_gpu(TRAIN), train=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "torchvision.io", None)
    with pytest.raises(ValueError, match="torchvision cannot use nvJPEG here .*: install the CUDA build") as error:
        Beton(sources[Beton], 4, view=on_gpu(TRAIN), train=True, device="cuda")
    assert "\n" not in str(error.value)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", [Beton, Folder])
@pytest.mark.parametrize("view, train", [(TRAIN, True), (VAL, False), (View(224, flip=0.5), True)])
def test_nvjpeg_is_close_to_the_cpu(sources, kind, view, train):
    """nvJPEG repeats chroma samples, so only the average is close."""
    options = dict(train=train, seed=3, device="cuda")
    ours, theirs = (copies(kind(sources[kind], 20, view=v, **options).epoch(1)) for v in (on_gpu(view), view))
    assert equal([rest for _, *rest in ours], [rest for _, *rest in theirs])
    for (a, *_), (b, *_) in zip(ours, theirs, strict=True):
        assert a.is_cuda and (a.int() - b.int()).abs().float().mean() < 3


@pytest.mark.cuda
def test_batches_on_the_gpu_are_whole_while_the_stream_is_busy(sources):
    loader = Beton(sources[Beton], 10, view=on_gpu(TRAIN), train=True, device="cuda")
    expected = [images.sum().item() for images, _, _ in loader.epoch(0)]
    sums, big = [], torch.randn(4096, 4096, device="cuda")
    for images, _, _ in loader.epoch(0):
        for _ in range(10):
            big = torch.tanh(big @ big)
        sums.append(images.sum())
    assert [total.item() for total in sums] == expected
