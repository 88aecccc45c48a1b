"""The contract of the loaders: pixels, order, ranks, resume, exact validation, errors, threads, memory."""

import io
import threading

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from fastmix.pipelines import LOADERS, decode_crop, loader_class, sampling
from fastmix.pipelines.beton import Beton
from fastmix.pipelines.chunk import Record
from fastmix.pipelines.folder import Folder
from fastmix.pipelines.jpeg.decode import jpeg, plain_size
from fastmix.pipelines.jpeg.turbo import library
from fastmix.pipelines.loader import Loader
from fastmix.pipelines.packing.format import JPEG, classes_path
from fastmix.pipelines.packing.layouts import scan
from fastmix.pipelines.packing.pack import pack
from fastmix.pipelines.packing.writer import BetonWriter
from fastmix.pipelines.sources import shapes
from fastmix.pipelines.synthetic import Synthetic
from fastmix.pipelines.view import View
from helpers.loading import beton_of, copies, encoded, equal, every_kind, image_folder, installed, joined

N, SIZE = 103, 32
TRAIN = View(SIZE, flip=0.5)
VAL = View(SIZE, crop="centre", resize=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("images"), N)


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "data.beton"
    pack(scan(folder), path, workers=1)
    return path


# ---- what a batch holds ----


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_training_images_are_the_crops_of_the_table_resized_by_pillow(folder, interpolation):
    view = View(SIZE, flip=0.5, interpolation=interpolation)
    loader = Folder(folder, 25, view=view, train=True, seed=3, workers=1)
    files, classes = scan(folder).files, scan(folder).labels
    rows = sampling.order(N, 3, 2)[:100]
    images, labels = joined(loader.epoch(2))
    assert (labels == np.array(classes)[rows]).all()
    off = []
    for image, row in zip(images, rows, strict=True):
        picture = Image.open(files[row]).convert("RGB")
        (window,), (flip,) = view.windows(*np.array([picture.size[::-1]]).T, 3, 2, np.array([row]))
        y, x, h, w = (int(v) for v in window)
        method = Image.Resampling[interpolation.upper()]
        expected = np.asarray(picture.crop((x, y, x + w, y + h)).resize((SIZE, SIZE), method)).astype(int)
        off.append(np.abs((expected[:, ::-1] if flip else expected) - image).max())
    # Pillow clips a bicubic overshoot between its two passes, which shows at the hard edges of the drawings.
    assert np.median(off) <= 1 and max(off) <= (1 if interpolation == "bilinear" else 12)


def test_validation_images_are_torchvisions_resize_and_centre_crop(folder):
    import fastmix.compat  # noqa: F401

    transforms = pytest.importorskip("torchvision.transforms")
    theirs = transforms.Compose([transforms.Resize(40), transforms.CenterCrop(SIZE)])
    images, _ = joined(Folder(folder, 20, view=VAL, train=False, workers=1).epoch(0))
    expected = np.stack([np.asarray(theirs(Image.open(file).convert("RGB"))) for file in scan(folder).files])
    assert np.abs(images.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("mode, name", [("zeros", "constant"), ("reflect", "reflect")])
def test_cifar_recipe_is_torchvisions_pad_crop_flip(tmp_path, mode, name, monkeypatch):
    transforms = pytest.importorskip("torchvision.transforms")
    theirs = transforms.RandomCrop(32, padding=4, padding_mode=name)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    view = View(32, crop="pad", pad=4, pad_mode=mode, flip=0.5)
    loader = Beton(beton_of(tmp_path / "cifar.beton", list(pixels)), 40, view=view, train=True, seed=1, workers=2)
    ((images, labels, _),) = copies(loader.epoch(7))
    sides = np.full(40, 32)
    windows, flips = view.windows(sides, sides, 1, 7, labels.numpy())
    assert 5 < flips.sum() < 35 and len(np.unique(windows[:, 0])) > 5
    for image, row, (y, x, _, _), flip in zip(images.numpy(), labels, windows.astype(int), flips, strict=True):
        monkeypatch.setattr(theirs, "get_params", lambda *_, at=(y + 4, x + 4, 32, 32): at)
        expected = np.asarray(theirs(Image.fromarray(pixels[row])))
        assert (image == (expected[:, ::-1] if flip else expected)).all()


def test_plain_validation_is_the_image_itself(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 36, 3), dtype=np.uint8)
    path = beton_of(tmp_path / "raw.beton", list(pixels))
    images, _ = joined(Beton(path, 4, view=View(32, crop="centre"), train=False).epoch(0))
    assert (images == pixels[:, :, 2:34]).all()
    ((stretched, _, _),) = Beton(path, 5, view=View(36, crop="none"), train=False).epoch(0)
    expected = np.asarray(Image.fromarray(pixels[3]).resize((36, 36), Image.Resampling.BILINEAR))
    assert np.abs(stretched[3].numpy().astype(int) - expected).max() <= 1


def test_folder_and_beton_give_the_same_pixels(folder, packed):
    for view, train in ((TRAIN, True), (VAL, False), (View(SIZE, decode="fast", scale=(0.9, 1)), True)):
        a, b = (copies(kind(source, 20, view=view, train=train, seed=5).epoch(1))
                for kind, source in ((Folder, folder), (Beton, packed)))  # fmt: skip
        assert equal(a, b)
    a, b = Folder(folder, 20, view=VAL, train=False), Beton(packed, 20, view=VAL, train=False)
    assert a.class_names == b.class_names == ["class0", "class1", "class2"] and a.classes == 3 and a.n == b.n == N


def test_folder_turns_every_kind_of_file_upright_and_rgb(tmp_path):
    """The same picture in every kind of file gives the same input, within what its compression loses."""
    files = every_kind(tmp_path / "x")
    images, _ = joined(Folder(tmp_path, 9, view=View(32, crop="centre", resize=36), train=False).epoch(0))
    images = dict(zip(files, images.astype(int), strict=True))
    for name, image in images.items():
        expected = images["h_grey.png" if "grey" in name else "a.png"]
        assert np.abs(image - expected).mean() < (0.1 if name.endswith("png") and "palette" not in name else 4), name
    assert np.abs(images["a.png"] - images["h_grey.png"]).mean() > 10


# ---- order, ranks, resume ----


def test_repeats_are_crops_of_their_own_and_of_any_number_of_ranks(packed):
    loader = Beton(packed, 12, view=TRAIN, train=True, seed=2, repeats=3)
    whole = copies(loader.epoch(1))
    first, labels, _ = whole[0]
    rows = loader.entries(1)[0][0] % N
    assert len(set(rows)) == 4 and (labels.numpy() == loader.labels[rows]).all()
    once = {row: (image, k) for k, (image, row) in enumerate(zip(first, rows, strict=True))}
    assert all((image != once[row][0]).any() for k, (image, row) in enumerate(zip(first, rows, strict=True))
               if once[row][1] != k)  # fmt: skip
    for world in (2, 3):
        parts = [
            copies(Beton(packed, 12 // world, view=TRAIN, train=True, seed=2, repeats=3, rank=r, world=world).epoch(1))
            for r in range(world)
        ]
        for step, batch in enumerate(whole):
            shares = [part[step][0] for part in parts]
            assert torch.equal(torch.stack(shares, 1).flatten(0, 1), batch[0])
    assert equal(copies(loader.epoch(1, first=5)), whole[5:])
    with pytest.raises(ValueError, match="repeats is 2; it must be at least 1, and 1 without training"):
        Beton(packed, 12, view=VAL, train=False, repeats=2)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch", [8, 40, 200])
def test_validation_has_every_image_exactly_once(packed, folder, world, batch):
    loaders = [Beton(packed, batch, view=VAL, train=False, rank=r, world=world) for r in range(world)]
    parts = [copies(loader.epoch(0)) for loader in loaders]
    assert {len(part) for part in parts} == {len(loaders[0])}
    assert {images.shape for part in parts for images, _, _ in part} == {(batch, SIZE, SIZE, 3)}
    images, labels = joined([batch for part in parts for batch in part])
    one, ordered = joined(Beton(packed, N, view=VAL, train=False).epoch(0))
    assert sorted(map(bytes, images)) == sorted(map(bytes, one))
    assert len(set(map(bytes, one))) == N and sorted(labels) == sorted(ordered) == sorted(scan(folder).labels)
    for images, labels, valid in (batch for part in parts for batch in part):
        assert not images[~valid].any() and not labels[~valid].any()


def test_training_drops_the_incomplete_batch(packed):
    loader = Beton(packed, 20, view=TRAIN, train=True)
    assert len(loader) == len(copies(loader.epoch(0))) == N // 20


def test_other_resolution(packed):
    small = copies(Beton(packed, 20, view=View(24, flip=0.5), train=True).epoch(0))
    assert equal(small, copies(Beton(packed, 20, view=TRAIN, train=True).epoch(0, res=24)))
    half = copies(Beton(packed, 20, view=View(16, crop="centre", resize=20), train=False).epoch(0))
    assert equal(half, copies(Beton(packed, 20, view=VAL, train=False).epoch(0, res=16)))
    with pytest.raises(ValueError, match="no other resolution"):
        Beton(packed, 20, view=View(32, crop="pad"), train=True).epoch(0, res=24)


# ---- decoding ----


@pytest.mark.long
def test_fast_decoding_is_close_to_exact_and_only_where_the_crop_is_large(data):
    source = data("imagenet_sample") / "train"
    for size, scale, bound in ((96, (0.5, 1.0), 2), (224, (0.08, 1.0), 0.2)):
        exact, fast = (
            joined(Folder(source, 50, view=View(size, decode=d, scale=scale), train=True).epoch(0))[0].astype(int)
            for d in ("exact", "fast")
        )
        off = np.abs(exact - fast).mean((1, 2, 3))
        assert off.mean() < bound and off.max() < 8
        assert (off > 0).any(), "no image of the sample was scaled"
        if size == 224:
            assert (off == 0).mean() > 0.5


def test_scaled_decoding_keeps_the_pixel_grid():
    """A ramp keeps its place, also where the size is odd: pixel centres of the small image are those of its blocks."""
    ramp = np.repeat(np.arange(24, 231, dtype=np.uint8)[None, :, None], 203, 0).repeat(3, 2)
    data = encoded(ramp, quality=100, subsampling=0)
    for factor in (1, 2, 4, 8):
        pixels, _ = jpeg(data, 203, 207, factor)
        assert pixels.shape == (-(-203 // factor), -(-207 // factor), 3)
        expected = (np.arange(207 // factor) + 0.5) * factor - 0.5 + 24
        assert np.abs(pixels[5, : 207 // factor, 0] - expected).max() <= 1.5


@pytest.mark.parametrize("kind", ["444", "422", "420", "440", "411", "grey", "progressive"])
def test_a_decoded_part_has_the_pixels_of_the_whole(kind):
    if library() is None:
        pytest.skip("needs TurboJPEG 3: pip install turbojpeg")
    rng = np.random.default_rng(0)
    for _ in range(30):
        height, width = (int(n) for n in rng.integers(17, 200, 2))
        pixels = np.kron(rng.integers(0, 256, (25, 25, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))[
            :height, :width
        ]
        if kind in ("grey", "progressive"):
            data = encoded(pixels[..., 0] if kind == "grey" else pixels, progressive=kind == "progressive")
        else:
            data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 90, "RGB", kind)
        for scale in (1, 2, 4, 8):
            whole = jpeg(data, height, width, scale)[0].copy()
            (top, bottom), (left, right) = (sorted(rng.choice(side + 1, 2, replace=False)) for side in whole.shape[:2])
            part, (y, x) = jpeg(data, height, width, scale, (top, left, bottom, right))
            assert (part[top - y : bottom - y, left - x : right - x] == whole[top:bottom, left:right]).all()


def test_a_file_cut_short_is_damaged_even_where_the_crop_is_whole():
    data = encoded(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    assert jpeg(data, 200, 200, 1, (0, 0, 20, 20))[0].shape[0] in (20, 200)
    for cut in (1, 2, 1000):
        with pytest.raises(ValueError, match="Premature end"):
            jpeg(data[:-cut], 200, 200, 1, (0, 0, 20, 20))


@pytest.mark.parametrize(
    "view",
    [
        View(SIZE, flip=0.5),
        View(24, decode="fast", scale=(0.5, 1), interpolation="bicubic"),
        View(16, crop="centre", resize=18, interpolation="bicubic", decode="fast"),
        View(100, crop="centre", resize=160),
        View(40, crop="pad", pad=20),
        View(40, crop="pad", pad=20, pad_mode="reflect"),
        View(40, crop="centre"),
        View(48, crop="none"),
    ],
)
def test_same_pixels_in_one_call_and_step_by_step(packed, view, monkeypatch):
    """With TurboJPEG 3 all images take the one call; without it none."""
    taken = []
    one = decode_crop._one
    monkeypatch.setattr(decode_crop, "_one", lambda chunk, k, *rest: (taken.append(k), one(chunk, k, *rest)))
    parts = copies(Beton(packed, 20, view=view, train=True).epoch(0))
    assert len(taken) == (0 if library() else 100)
    monkeypatch.setattr("fastmix.pipelines.jpeg.turbo.library", lambda: None)
    assert equal(parts, copies(Beton(packed, 20, view=view, train=True).epoch(0)))
    assert len(taken) >= 100


def test_plain_size_sends_turned_and_foreign_files_to_pillow():
    pixels = np.zeros((20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert plain_size(encoded(pixels)) == plain_size(encoded(pixels[..., 0])) == (20, 30)
    cmyk = io.BytesIO()
    Image.new("CMYK", (30, 20)).save(cmyk, "JPEG")
    for data in (encoded(pixels, exif=exif), encoded(pixels, "PNG"), cmyk.getvalue(), b"", b"\xff\xd8\xff"):
        assert plain_size(data) is None


# ---- errors ----


@pytest.fixture
def damaged(tmp_path):
    """40 rows, of which row 23 is a JPEG cut short."""
    rng = np.random.default_rng(0)
    images = [encoded(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)) for _ in range(40)]
    images[23] = images[23][: len(images[23]) * 2 // 3]
    return beton_of(tmp_path / "damaged.beton", images)


@pytest.mark.parametrize("workers", [1, 2])
def test_damaged_image_is_an_error_with_file_row_and_reason(damaged, workers):
    loader = Beton(damaged, 8, view=VAL, train=False, workers=workers)
    taken = []
    with pytest.raises(ValueError, match=r"damaged\.beton: row 23: .*Premature end") as error:
        for batch in loader.epoch(0):
            taken.append(batch)
    assert len(taken) == 2, "row 23 is in the third batch"
    assert "\n" not in str(error.value)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastmix-loader")]


def test_skipped_images_are_replaced_in_training_and_masked_in_validation(damaged):
    loader = Beton(damaged, 8, view=TRAIN, train=True, bad="skip")
    batches = copies(loader.epoch(0))
    order = sampling.order(40, 0, 0).tolist()  # labels are rows
    order[order.index(23)] = order[(order.index(23) + 1) % 40]
    assert joined(batches)[1].tolist() == order
    assert all(valid.all() and len(valid) == len(images) == len(labels) == 8 for images, labels, valid in batches)
    assert len(loader.skipped) == 1 and "row 23" in loader.skipped[0]
    loader = Beton(damaged, 8, view=VAL, train=False, bad="skip")
    batches = copies(loader.epoch(0))
    assert {len(images) for images, _, _ in batches} == {8} and not batches[2][2][7] and not batches[2][0][7].any()
    assert sorted(joined(batches)[1]) == [k for k in range(40) if k != 23] and len(loader.skipped) == 1


def test_folder_names_the_damaged_and_the_vanished_file(tmp_path):
    (tmp_path / "a").mkdir()
    for k in range(3):
        (tmp_path / "a" / f"{k}.jpg").write_bytes(encoded(np.zeros((48, 48, 3), np.uint8)))
    loader = Folder(tmp_path, 3, view=VAL, train=False)
    data = (tmp_path / "a" / "1.jpg").read_bytes()
    for content in (data[: len(data) // 2], data[:100], b"", b"text"):
        (tmp_path / "a" / "1.jpg").write_bytes(content)
        with pytest.raises(ValueError, match=r"a/1\.jpg \(row 1\): \w"):
            list(loader.epoch(0))
    (tmp_path / "a" / "1.jpg").unlink()
    with pytest.raises(ValueError, match=r"1\.jpg \(row 1\): .*No such file"):
        list(loader.epoch(0))


def test_wrong_size_in_the_metadata_is_an_error(tmp_path):
    path = tmp_path / "wrong.beton"
    with BetonWriter(path, 1) as writer:
        writer.add(JPEG, 50, 48, encoded(np.zeros((48, 48, 3), np.uint8)), 0)
        writer.finish()
        writer.publish(None)
    with pytest.raises(ValueError, match=r"wrong\.beton: row 0: .*48 x 50|wrong\.beton: row 0: .*buffer"):
        list(Beton(path, 1, view=VAL, train=False).epoch(0))


class Failing(Loader):
    """Rows of zeros; reading row `bad_row` fails with something nobody expects."""

    bad_row = 30

    def open(self):
        self.labels, self.class_names = np.zeros(64, np.int64), ["a"]

    def record(self, row):
        if row == self.bad_row:
            raise RuntimeError("the disk is on fire")
        return Record(40, 40, np.zeros(40 * 40 * 3, np.uint8), True)

    def where(self, row):
        return f"row {row}"


def test_any_error_in_a_worker_reaches_the_caller():
    loader = Failing("", 8, view=VAL, train=False, workers=2)
    taken = 0
    with pytest.raises(RuntimeError, match="on fire"):
        for _ in loader.epoch(0):
            taken += 1
    assert taken == 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 0}, "size is 0"),
        ({"crop": "random"}, "crop is 'random'; choose one of rrc, pad, centre, none"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (0.5, 1.5)}, "scale"),
        ({"ratio": (2.0, 1.0)}, "ratio"),
        ({"flip": 2}, "flip is 2"),
        ({"interpolation": "nearest"}, "interpolation is 'nearest'"),
        ({"decode": "rough"}, "decode is 'rough'"),
        ({"crop": "centre", "resize": 20}, "resize is 20"),
        ({"pad": -1}, "pad is -1"),
        ({"pad_mode": "edge"}, "pad_mode is 'edge'; choose one of zeros, reflect"),
    ],
)
def test_view_refuses_what_makes_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        View(**{"size": 32, **options})


def test_loader_refuses_what_cannot_work(packed, tmp_path):
    with pytest.raises(ValueError, match="batch of 104 is larger than the data set of 103"):
        Beton(packed, 104, view=TRAIN, train=True)
    with pytest.raises(ValueError, match="batch of 52 on each of 2 ranks is larger"):
        Beton(packed, 52, view=TRAIN, train=True, world=2)
    with pytest.raises(ValueError, match="batch is 0"):
        Beton(packed, 0, view=TRAIN, train=True)
    with pytest.raises(ValueError, match="bad is 'ignore'"):
        Beton(packed, 4, view=TRAIN, train=True, bad="ignore")
    with pytest.raises(ValueError, match="row 0: 120 x 30 pixels, too small for crop 'pad' of 64"):
        small = beton_of(tmp_path / "s.beton", [np.zeros((30, 120, 3), np.uint8)])
        list(Beton(small, 1, view=View(64, crop="pad"), train=True).epoch(0))
    with pytest.raises(
        ValueError, match="row 0: 40 x 4 pixels, .*'pad' of 8 with 4 pixels reflected: .* at least 5"
    ) as error:
        small = beton_of(tmp_path / "s.beton", [np.zeros((4, 40, 3), np.uint8)])
        list(Beton(small, 1, view=View(8, crop="pad", pad_mode="reflect"), train=True).epoch(0))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no loader is called 'tape'; .* beton, .*folder, .*synthetic"):
        loader_class("tape")


# ---- the loaders by name ----


def test_every_loader_has_the_contract(packed, folder):
    sources = dict.fromkeys(("beton", "dali", "ffcv", "resident"), packed)
    sources |= {"folder": folder, "synthetic": "n=103&classes=3"}
    assert set(LOADERS) == set(sources)
    for name, source in sources.items():
        if not installed(name):
            continue
        train = loader_class(name)(source, 10, view=TRAIN, train=True, seed=2)
        assert (train.n, train.classes, len(train), len(train.labels)) == (N, 3, 10, N), name
        batches = copies(train.epoch(1))
        rows = sampling.order(N, 2, 1)[:100]
        assert equal(batches[4:], copies(train.epoch(1, 4))), name
        assert (joined(batches)[1] == train.labels[rows]).all(), name
        for images, labels, valid in batches:
            assert (images.dtype, labels.dtype, valid.dtype) == (torch.uint8, torch.int64, torch.bool)
            assert images.shape == (10, SIZE, SIZE, 3) and images.is_contiguous() and valid.all()
        val = loader_class(name)(source, 10, view=VAL, train=False, rank=1, world=2)
        assert sum(int(valid.sum()) for _, _, valid in val.epoch(0)) == 50, name  # 103 = 5 * 20 + 3, all 3 on rank 0


def test_synthetic_images_are_noise():
    images, _, _ = next(Synthetic("", 8, view=View(64), train=True).epoch(0))
    assert abs(images.float().mean() - 127.5) < 1 and abs(images.float().std() - 73.9) < 1
    with pytest.raises(ValueError, match="'rows=3'"):
        Synthetic("rows=3", 8, view=View(64), train=True)


def test_built_in_data_and_files_without_class_names(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path))
    loader = Beton("shapes:val?n=20&size=32", 20, view=View(32, crop="centre"), train=False)
    assert loader.class_names == sorted(shapes.SHAPES) and loader.n == 20
    path = beton_of(tmp_path / "unnamed.beton", [np.zeros((40, 40, 3), np.uint8)] * 7)
    assert not classes_path(path).exists()
    assert Beton(path, 1, view=VAL, train=False).class_names == list("0123456")


@pytest.mark.cuda
def test_cuda_batches_are_the_cpu_ones(packed):
    a, b = (copies(Beton(packed, 10, view=TRAIN, train=True, device=d).epoch(0)) for d in ("cpu", "cuda"))
    assert b[0][0].is_cuda and equal(a, [tuple(t.cpu() for t in batch) for batch in b])
