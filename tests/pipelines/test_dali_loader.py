"""The `dali` loader against `beton` and `folder`, which share its tables and none of its code."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fastmix.pipelines import dali_graph, loader_class, sampling
from fastmix.pipelines.beton import Beton
from fastmix.pipelines.folder import Folder
from fastmix.pipelines.jpeg.decode import jpeg
from fastmix.pipelines.packing.layouts import scan
from fastmix.pipelines.packing.pack import pack
from fastmix.pipelines.resize import place
from fastmix.pipelines.view import View
from helpers.loading import beton_of, copies, encoded, equal, every_kind, image_folder, installed, joined

N, SIZE = 60, 32
TRAIN = View(SIZE, flip=0.5)
VAL = View(SIZE, crop="centre", resize=40)


@pytest.fixture(scope="module")
def dali():
    if not installed("dali"):
        pytest.skip("needs NVIDIA DALI")
    return loader_class("dali")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("dali") / "images", N)


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    pack(scan(folder), folder.parent / "data.beton", workers=1)
    return folder.parent / "data.beton"


def difference(a, b, first: int = 0) -> np.ndarray:
    """|a - b| of all valid images from a step on, int [n,S,S,3], of loaders whose labels must agree."""
    (x, labels), (y, expected) = (joined(loader.epoch(1, first)) for loader in (a, b))
    assert (labels == expected).all() and len(x) > 0
    return np.abs(x.astype(int) - y)


# ---- pixels ----


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_filter_is_ours_on_an_image_that_goes_on_with_its_edge(dali, packed, interpolation):
    """What DALI does at the edges, as one sentence: it repeats the last pixel."""
    view = View(SIZE, flip=0.5, interpolation=interpolation)
    loader = dali(packed, 20, view=view, train=True, seed=3)
    rows = sampling.order(N, 3, 2)
    (file,) = loader.files.file.files
    windows, flips = view.windows(file.heights[rows], file.widths[rows], 3, 2, rows)
    images, _ = joined(loader.epoch(2))
    expected, margin = np.empty_like(images), 16
    for k, row in enumerate(rows):
        pixels, _ = jpeg(file.data(row), file.heights[row], file.widths[row])
        y, x, h, w = windows[k].astype(int)
        wide = np.pad(pixels[y : y + h, x : x + w], ((margin, margin), (margin, margin), (0, 0)), "edge")
        place(wide, np.array([margin, margin, h, w], float), flips[k], expected[k], interpolation, whole=True)
    assert 10 < flips.sum() < 50
    off = np.abs(images.astype(int) - expected).max((1, 2, 3))
    assert off.max() <= (1 if interpolation == "bilinear" else 2), off


@pytest.mark.parametrize(
    "view, mean, most",
    [
        (TRAIN, 0.2, 40),
        (View(24, flip=0.5, interpolation="bicubic"), 0.2, 40),
        (VAL, 0.05, 40),
        (View(28, crop="centre", resize=40, interpolation="bicubic"), 0.05, 2),
        (View(SIZE, crop="none"), 0.2, 40),
        (View(40, crop="pad", pad=12, flip=0.5), 0, 0),
        (View(40, crop="pad", pad=39, pad_mode="reflect", flip=0.5), 0, 0),
        (View(40, crop="centre"), 0, 0),
    ],
)
def test_close_to_the_native_loaders(dali, packed, folder, view, mean, most):
    for kind, source in ((Beton, packed), (Folder, folder)):
        off = difference(dali(source, 20, view=view, train=True), kind(source, 20, view=view, train=True))
        assert off.mean() <= mean and off.max() <= most
        if view.crop in ("rrc", "none"):
            assert off[:, 8:-8, 8:-8].max() <= (1 if view.interpolation == "bilinear" else 2), "only edges differ"


def test_bound_on_photographs(dali, data):
    source = data("imagenet_sample") / "train"
    for view, mean, most in (
        (View(224, flip=0.5), 0.02, 40),
        (View(224, flip=0.5, interpolation="bicubic"), 0.03, 40),
        (View(224, crop="centre", resize=256), 0.01, 3),
        (View(224, crop="centre", resize=256, interpolation="bicubic"), 0.02, 3),
    ):
        off = difference(*(kind(source, 40, view=view, train=True) for kind in (dali, Folder)), first=3)
        assert off.mean() < mean and off.max() <= most and off[:, 8:-8, 8:-8].max() <= 2


def test_every_kind_of_file(dali, tmp_path):
    """Folders mix what DALI decodes with what arrives as pixels: turned, CMYK, PNG, palette, transparent, one pixel."""
    every_kind(tmp_path / "x")
    picture = Image.open(tmp_path / "x" / "a.png")
    picture.crop((0, 0, 1, 1)).save(tmp_path / "x" / "j_one.jpg")
    picture.crop((0, 0, 1, 1)).save(tmp_path / "x" / "k_one.png")
    picture.save(tmp_path / "x" / "l_422.jpg", quality=95, subsampling=1)
    for view in (View(32, crop="none"), View(16, flip=0.5), View(40, crop="centre", resize=44)):
        for batch in (12, 5, 1):  # 1: batches of one kind
            a, b = (kind(tmp_path, batch, view=view, train=False, seed=4) for kind in (dali, Folder))
            off = difference(a, b)
            assert len(off) == 12 and off.mean((1, 2, 3)).max() < 1, off.mean((1, 2, 3))


def test_raw_rows_and_mixed_files(dali, tmp_path):
    pixels = list(np.random.default_rng(0).integers(0, 256, (9, 40, 44, 3), dtype=np.uint8))
    smooth = [np.asarray(Image.fromarray(p[:4, :4]).resize((44, 40), Image.Resampling.BICUBIC)) for p in pixels]
    for name, images in (("raw", pixels), ("mixed", [encoded(s) if k % 2 else s for k, s in enumerate(smooth)])):
        path = beton_of(tmp_path / f"{name}.beton", images)
        off = difference(*(kind(path, 4, view=View(36, crop="centre"), train=False) for kind in (dali, Beton)))
        assert len(off) == 9 and not off.any()
        for border in ({"pad": 44}, {"pad": 39, "pad_mode": "reflect"}):  # windows wholly outside the image too
            view = View(20, crop="pad", flip=0.5, **border)
            off = difference(*(kind(path, 4, view=view, train=True) for kind in (dali, Beton)))
            assert not off.any()


# ---- damage ----


def broken(data: bytes) -> bytes:
    """A JPEG that looks whole from either end, but uses a quantisation table that it does not have."""
    table = data.index(b"\xff\xdb\x00\x43\x01") + 4
    return data[:table] + b"\x03" + data[table + 1 :]


@pytest.fixture
def damaged(tmp_path):
    """40 rows, of which 9 lacks a table and 23 is cut short; and the file as it was."""
    rng = np.random.default_rng(0)
    images = [encoded(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)) for _ in range(40)]
    whole = beton_of(tmp_path / "whole.beton", images)
    images[9], images[23] = broken(images[9]), images[23][: len(images[23]) * 2 // 3]
    return beton_of(tmp_path / "damaged.beton", images), whole


@pytest.mark.parametrize("first, row, reason", [(0, 9, "Quantization table"), (2, 23, "Premature end")])
def test_a_damaged_image_is_an_error_in_its_turn(dali, damaged, first, row, reason):
    taken = []
    with pytest.raises(ValueError, match=rf"damaged\.beton: row {row}: .*({reason})") as error:
        for batch in dali(damaged[0], 8, view=View(SIZE, crop="none"), train=False).epoch(0, first):
            taken.append(batch)
    assert len(taken) == row // 8 - first and "\n" not in str(error.value)


def test_damaged_images_are_skipped_and_the_others_are_right(dali, damaged):
    view = View(20, crop="centre", resize=20)
    loader = dali(damaged[0], 8, view=view, train=False, bad="skip")
    batches = copies(loader.epoch(0))
    whole = copies(dali(damaged[1], 8, view=view, train=False).epoch(0))
    assert [int(valid.sum()) for _, _, valid in batches] == [8, 7, 7, 8, 8]
    for k, ((images, labels, valid), (expected, numbers, _)) in enumerate(zip(batches, whole, strict=True)):
        assert not images[~valid].any() and not labels[~valid].any()
        assert torch.equal(images[valid], expected[valid]) and torch.equal(labels[valid], numbers[valid]), k
    assert ["row 9" in loader.skipped[0], "row 23" in loader.skipped[1], len(loader.skipped)] == [True, True, 2]
    loader = dali(damaged[0], 8, view=TRAIN, train=True, bad="skip")
    batches = copies(loader.epoch(0))
    assert {*joined(batches)[1].tolist()} == {*range(40)} - {9, 23} and len(loader.skipped) == 2
    assert all(len(images) == 8 == len(labels) == len(valid) == int(valid.sum()) for images, labels, valid in batches)


def test_a_batch_without_a_single_good_image(dali, tmp_path):
    good = encoded(np.full((40, 40, 3), 77, np.uint8), quality=100)
    path = beton_of(tmp_path / "bad.beton", [broken(encoded(p)) for p in noise(4)] + [good] * 4)
    loader = dali(path, 4, view=View(SIZE, crop="none"), train=False, bad="skip")
    (none, _, invalid), (some, _, valid) = copies(loader.epoch(0))
    assert not none.any() and not invalid.any() and (some == 77).all() and valid.all() and len(loader.skipped) == 4
    loader = dali(path, 4, view=View(SIZE, crop="none"), train=True, bad="skip")
    assert all(len(images) == 4 and (images == 77).all() for images, _, _ in loader.epoch(0))


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 48, 48, 3), dtype=np.uint8)


def test_what_dali_alone_refuses_is_told_with_the_rows(dali, packed, monkeypatch):
    def refuse(self, chunk):
        raise RuntimeError("Critical error in pipeline:\nencountered:\nnot today\nCurrent pipeline object is invalid")

    monkeypatch.setattr(dali_graph.Graph, "take", refuse)
    with pytest.raises(ValueError, match=r"data\.beton: DALI failed on rows \[0, 1, 2\]: not today$"):
        list(dali(packed, 3, view=VAL, train=False).epoch(0))


def test_a_size_that_is_not_the_images_own_is_an_error(dali, tmp_path):
    path = beton_of(tmp_path / "wrong.beton", [encoded(pixels) for pixels in noise(3)])
    loader = dali(path, 3, view=VAL, train=False)
    loader.files.file.heights = loader.files.file.heights - np.array([0, 8, 0])
    with pytest.raises(ValueError, match=r"wrong\.beton: row 1: .* another size than the 48 x 40 pixels"):
        list(loader.epoch(0))


# ---- memory and packages ----


def test_batches_own_their_memory(dali, packed):
    kept = list(dali(packed, 10, view=TRAIN, train=True).epoch(0))
    assert equal(kept, copies(dali(packed, 10, view=TRAIN, train=True).epoch(0)))


def test_a_missing_package_is_told_in_a_line(packed, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(ValueError, match="needs NVIDIA DALI .*nvidia-dali-cuda130, or nvidia-dali-cuda120") as error:
        loader_class("dali")(packed, 4, view=TRAIN, train=True)
    assert "\n" not in str(error.value)


def test_decoding_on_the_gpu_needs_one(dali, packed):
    for device in ("cpu",) if torch.cuda.is_available() else ("cpu", "cuda"):
        with pytest.raises(ValueError, match="decode gpu needs an NVIDIA GPU .*say decode exact"):
            dali(packed, 4, view=View(SIZE, decode="gpu"), train=True, device=device)


@pytest.mark.parametrize("view", [TRAIN, VAL, View(40, crop="pad"), View(40, crop="pad", pad_mode="reflect")])
@pytest.mark.parametrize("device, decoder", [("cuda", "mixed"), ("cpu", "cpu")])
def test_the_graph_for_the_gpu_decodes_by_nvjpeg_and_stays_there(dali, view, device, decoder, monkeypatch):
    """As far as it goes without a driver: on what devices the decoder and the crops are."""
    from nvidia.dali import fn

    define, decode, found = dali_graph._define, fn.decoders.image_slice, []

    def watched_decode(*arguments, **options):
        found.append(options["device"])
        return decode(*arguments, **options)

    def watched(*arguments):
        crops = define(*arguments)
        found.append(crops.device)
        return crops

    monkeypatch.setattr(fn.decoders, "image_slice", watched_decode)
    monkeypatch.setattr(dali_graph, "_define", watched)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    dali_graph.Graph(view, 4, 1, torch.device("cuda") if device == "cuda" else None)
    assert found == [decoder, "gpu" if device == "cuda" else "cpu"]


@pytest.mark.cuda
@pytest.mark.parametrize("view", [TRAIN, VAL, View(224, flip=0.5), View(40, crop="pad", flip=0.5)])
def test_gpu_decoding_is_close_to_the_cpu(dali, packed, view):
    options = {"train": True, "device": "cuda", "seed": 3}
    gpu = copies(dali(packed, 20, view=View(**{**vars(view), "decode": "gpu"}), **options).epoch(0))
    cpu = copies(dali(packed, 20, view=view, **options).epoch(0))
    for (a, labels, valid), (b, expected, _) in zip(gpu, cpu, strict=True):
        assert a.is_cuda and torch.equal(labels, expected) and valid.all()
        assert (a.int() - b.int()).abs().float().mean() < 2


@pytest.mark.cuda
def test_cuda_batches_are_the_cpu_ones(dali, packed):
    a, b = (copies(dali(packed, 10, view=TRAIN, train=True, device=d).epoch(0)) for d in ("cpu", "cuda"))
    assert b[0][0].is_cuda and equal(a, [tuple(t.cpu() for t in batch) for batch in b])


@pytest.mark.cuda
def test_batches_on_the_gpu_are_whole_while_the_stream_is_busy(dali, packed):
    """Work queued on the caller's stream reads a batch long after the loader has gone on."""
    view = View(SIZE, flip=0.5, decode="gpu")
    expected = [images.sum().item() for images, _, _ in dali(packed, 10, view=view, train=True, device="cuda").epoch(0)]
    sums, big = [], torch.randn(4096, 4096, device="cuda")
    for images, _, _ in dali(packed, 10, view=view, train=True, device="cuda").epoch(0):
        for _ in range(10):
            big = torch.tanh(big @ big)
        sums.append(images.sum())
    assert [total.item() for total in sums] == expected
