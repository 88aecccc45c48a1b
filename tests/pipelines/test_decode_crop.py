"""The one call in which a chunk is read, decoded and resized: restart markers, faults, threads, the system's cache."""

import gc
import multiprocessing
import os
import shutil
import tarfile
import time
import tracemalloc
import warnings
import weakref

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from fastmix import system
from fastmix.pipelines import decode_crop
from fastmix.pipelines.beton import Beton
from fastmix.pipelines.folder import Folder
from fastmix.pipelines.jpeg import decode
from fastmix.pipelines.jpeg.restarts import insert
from fastmix.pipelines.jpeg.turbo import library
from fastmix.pipelines.packing.format import ALLOCATION, FIELD, HEADER, INT, RGB, record
from fastmix.pipelines.packing.format import Beton as File
from fastmix.pipelines.packing.layouts import scan
from fastmix.pipelines.packing.pack import pack
from fastmix.pipelines.sources import shapes
from fastmix.pipelines.view import View
from helpers.loading import beton_of, copies, encoded, equal, image_folder, joined

needs_turbo = pytest.mark.skipif(library() is None, reason="needs TurboJPEG 3: pip install turbojpeg")
N, SIZE = 103, 32
VIEW = View(SIZE, flip=0.5)
KINDS = ("444", "422", "420", "440", "411", "grey")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("images"), N)


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "data.beton"
    pack(scan(folder), path, workers=1)
    return path


def drawing(k: int, side: int = 120) -> np.ndarray:
    return np.asarray(shapes.draw(np.random.default_rng(k), list(shapes.SHAPES)[k % len(shapes.SHAPES)], side))


def jpeg_of(pixels: np.ndarray, kind: str) -> bytes:
    """A JPEG with this chroma subsampling, "grey" or "progressive"."""
    if kind in ("grey", "progressive"):
        return encoded(pixels[..., 0] if kind == "grey" else pixels, progressive=kind == "progressive")
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 90, "RGB", kind)


def alone(monkeypatch) -> None:
    """Nothing may need the way that goes step by step."""
    monkeypatch.setattr(decode_crop, "_one", None)


# ---- restart markers ----


@needs_turbo
@pytest.mark.parametrize(
    "view",
    [
        View(24, flip=0.5),
        View(24, decode="fast", scale=(0.6, 1)),
        View(12, decode="fast", scale=(0.3, 1), interpolation="bicubic"),
        View(24, crop="centre", resize=30),
        View(40, crop="pad", pad=8),
        View(40, crop="pad", pad=30, pad_mode="reflect"),
    ],
)
def test_seekable_files_give_the_pixels_of_plain_ones(tmp_path, view, monkeypatch):
    images = [jpeg_of(drawing(k)[: 90 + k % 31, : 120 - k % 29], KINDS[k % 6]) for k in range(60)]
    plain = beton_of(tmp_path / "plain.beton", images)
    seekable = beton_of(tmp_path / "seekable.beton", [insert(image, least=1) for image in images])
    alone(monkeypatch)
    epochs = [copies(Beton(path, 60, view=view, train=True).epoch(e)) for path in (plain, seekable) for e in range(3)]
    assert all(equal(a, b) for a, b in zip(epochs[:3], epochs[3:], strict=True))
    monkeypatch.undo()
    monkeypatch.setattr("fastmix.pipelines.jpeg.turbo.library", lambda: None)
    assert equal(epochs[0], copies(Beton(seekable, 60, view=view, train=True).epoch(0)))


@needs_turbo
def test_only_the_restart_intervals_of_the_crop_are_decoded(tmp_path):
    """Zeros in place of the first interval's data: an error where it is decoded, and unseen where it is not."""
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    whole = insert(jpeg_of(pixels, "444"), least=4)
    start = whole.index(b"\xff\xda") + 14
    end = whole.index(b"\xff\xd0", start)
    damaged = whole[:start] + bytes(range(1, 200)) * 40
    damaged = damaged[:end] + whole[end:]
    assert len(damaged) == len(whole)
    paths = [beton_of(tmp_path / f"{name}.beton", [data]) for name, data in (("a", whole), ("b", damaged))]
    seen = 0
    for epoch in range(40):
        loaders = [Beton(path, 1, view=View(32, scale=(0.1, 0.4)), train=True) for path in paths]
        ((top, left, _, _),), _ = loaders[0].view.windows(*np.array([[128], [128]]), 0, epoch, np.array([0]))
        expected = copies(loaders[0].epoch(epoch))
        if top > 8 or left > 32:  # a pixel beside the crop is needed too
            assert equal(expected, copies(loaders[1].epoch(epoch)))
        else:
            seen += 1
            try:
                assert not equal(expected, copies(loaders[1].epoch(epoch)))
            except ValueError as error:
                assert "b.beton: row 0" in str(error)
    assert 0 < seen < 30


# ---- faults ----


@needs_turbo
@pytest.mark.parametrize("workers", [1, 8])
def test_each_failure_in_a_chunk_has_its_own_reason(tmp_path, workers):
    images = [jpeg_of(drawing(k), KINDS[k % 6]) for k in range(40)]
    good = beton_of(tmp_path / "good.beton", images)
    images[7], images[9], images[30] = images[7][:-900], b"\xff\xd8" + bytes(500), jpeg_of(drawing(30)[:50], "444")
    with pytest.raises(OSError):
        beton_of(tmp_path / "none.beton", images)  # Pillow does not know row 9
    bad = beton_of(tmp_path / "bad.beton", [images[0] if k in (9, 30) else image for k, image in enumerate(images)])
    with File(bad) as file, open(bad, "r+b") as out:
        for k in (9, 30):
            out.seek(file.offsets[k])
            out.write(images[k][: file.sizes[k]].ljust(file.sizes[k], b"\0"))
    loaders = [Beton(path, 40, view=VIEW, train=True, bad="skip", workers=workers) for path in (good, bad)]
    (a, label_a), (b, label_b) = (joined(copies(loader.epoch(0))) for loader in loaders)
    keep = ~np.isin(label_a, (7, 9, 30))
    assert (label_a[keep] == label_b[keep]).all() and (a[keep] == b[keep]).all()
    assert len(label_b) == 40 and not np.isin(label_b, (7, 9, 30)).any()
    reasons = {line.split("row ")[1].split(":")[0]: line for line in loaders[1].skipped}
    assert set(reasons) == {"7", "9", "30"}
    assert "Premature end" in reasons["7"] and "another size" in reasons["30"]
    assert len(set(line.split(": ", 2)[2] for line in reasons.values())) == 3


@pytest.mark.parametrize("raw", [False, True])
def test_a_file_cut_short_while_it_is_read_is_an_error(tmp_path, raw):
    """Under a memory map it would be the end of the process (SIGBUS)."""
    images = [np.ascontiguousarray(drawing(k)) if raw else jpeg_of(drawing(k), "420") for k in range(40)]
    path = beton_of(tmp_path / "a.beton", images)
    loader = Beton(path, 8, view=View(SIZE, crop="centre", resize=40), train=False)
    os.truncate(path, loader.file.offsets[20] + 10)
    taken = []
    with pytest.raises(ValueError, match=r"a\.beton: row 20: truncated: the file ends \d+ bytes before"):
        taken.extend(loader.epoch(0))
    assert len(taken) == 2


def test_a_file_replaced_while_it_is_read_stays_what_it_was(tmp_path):
    path = beton_of(tmp_path / "a.beton", [jpeg_of(drawing(k), "420") for k in range(16)])
    loader = Beton(path, 8, view=VIEW, train=True)
    expected = copies(loader.epoch(1))
    os.remove(path)
    beton_of(path, [jpeg_of(255 - drawing(k), "420") for k in range(16)])
    assert equal(expected, copies(loader.epoch(1)))
    assert not equal(expected, copies(Beton(path, 8, view=VIEW, train=True).epoch(1)))


def unusual() -> bytes:
    """A flat grey JPEG of 3 x 1 luma blocks an MCU, which TurboJPEG has no name for."""

    def segment(marker: int, *content: int) -> bytes:
        return bytes((0xFF, marker, 0, len(content) + 2, *content))

    # DC: 4 bits a category, 0 to 11. AC: one code, "0", the end of the block.
    tables = (0x00, 0, 0, 0, 12, *[0] * 12, *range(12)), (0x10, 1, *[0] * 15, 0)
    components = (1, 0x31, 0, 2, 0x11, 0, 3, 0x11, 0)
    head = segment(0xDB, 0, *[8] * 64) + segment(0xC0, 8, 0, 16, 0, 48, 3, *components)
    scan = segment(0xDA, 3, 1, 0, 2, 0, 3, 0, 0, 63, 0)
    first = "0101" + "10100" + "0"  # luma: difference 20, in 5 bits; 20 * 8 / 8 = 20 levels
    zero = "0000" + "0"
    bits = first + zero * 4 + zero * 5 * 3
    data = int(bits + "1" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big")
    return b"\xff\xd8" + head + b"".join(segment(0xC4, *t) for t in tables) + scan + data + b"\xff\xd9"


def test_unusual_subsampling_is_refused_by_a_beton_and_read_from_a_folder(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.jpg").write_bytes(unusual())
    images, _ = joined(Folder(tmp_path, 1, view=View(16), train=False).epoch(0))
    assert (images == 148).all()
    with pytest.raises(ValueError, match=r"a\.beton: row 0: .*subsampling"):
        list(Beton(beton_of(tmp_path / "a.beton", [unusual()]), 1, view=View(16), train=False).epoch(0))


def test_the_smallest_images(tmp_path):
    dot = np.array([[[10, 200, 60]]], np.uint8)
    images = [jpeg_of(drawing(0), "progressive"), encoded(dot, quality=100, subsampling=0), dot, encoded(dot[..., 0])]
    path = beton_of(tmp_path / "a.beton", images)
    for view in (View(16), View(16, crop="centre", resize=20, decode="fast")):
        out, _ = joined(Beton(path, 4, view=view, train=False).epoch(0))
        assert np.abs(out[1].astype(int) - dot).max() <= 2 and (out[2] == dot).all() and (out[3] == 10).all()


# ---- threads and processes ----


@needs_turbo
def test_decoders_go_with_their_threads(packed, monkeypatch):
    made, ended = weakref.WeakSet(), []
    destroy = library().tj3Destroy
    monkeypatch.setattr(library(), "tj3Destroy", lambda handle: (ended.append(handle), destroy(handle)))

    class Counted(decode.Workspace):
        def __init__(self):
            super().__init__()
            made.add(self)

    monkeypatch.setattr(decode, "Workspace", Counted)
    for epoch in range(3):
        for _ in Beton(packed, 20, view=VIEW, train=True, workers=3).epoch(epoch):
            pass
    gc.collect()
    assert not made and 3 <= len(set(ended)) <= len(ended) <= 9


def test_more_threads_than_cores(packed):
    few, many = (copies(Beton(packed, 50, view=VIEW, train=True, workers=w).epoch(0)) for w in (1, 16))
    assert equal(few, many)


def _epoch(path, pipe) -> None:
    batches = Beton(path, 20, view=VIEW, train=True, workers=2).epoch(0)
    pipe.send(b"".join(images.numpy().tobytes() for images, _, _ in batches))


def test_a_process_forked_after_use_decodes_too(packed):
    expected = joined(copies(Beton(packed, 20, view=VIEW, train=True, workers=2).epoch(0)))[0].tobytes()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: that is the point
        child = context.Process(target=_epoch, args=(packed, theirs), daemon=True)
        child.start()
    assert ours.poll(60) and ours.recv() == expected
    child.join(10)
    assert child.exitcode == 0


# ---- data larger than memory ----


def test_announced_records_are_asked_for_once_and_whole(packed, monkeypatch):
    asked = []
    advise = os.posix_fadvise
    monkeypatch.setattr(os, "posix_fadvise", lambda *call: (asked.append(call), advise(*call)))
    kept = Beton(packed, 20, view=VIEW, train=True, seed=1, os_cache="memory")
    expected = copies(kept.epoch(0))
    assert not asked
    loader = Beton(packed, 20, view=VIEW, train=True, seed=1, os_cache="disk")
    assert asked == [(loader.file.files[0].file, 0, 0, os.POSIX_FADV_RANDOM)]
    assert equal(expected, copies(loader.epoch(0)))
    wanted = np.zeros(loader.file.size, np.int64)
    for _, start, length, advice in asked[1:]:
        assert advice == os.POSIX_FADV_WILLNEED and length > 0
        wanted[start : start + length] += 1
    rows = np.concatenate([labels.numpy() for _, labels, _ in expected])
    assert len(rows) == 100 and len(asked) - 1 < 100, "neighbours are asked for as one"
    for row in loader.entries(0)[0].reshape(-1):
        start = loader.file.offsets[row]
        assert (wanted[start : start + loader.file.sizes[row]] == 1).all()
    assert wanted.sum() == loader.file.sizes[loader.entries(0)[0]].sum()


def test_auto_looks_at_the_memory(packed, monkeypatch):
    assert Beton(packed, 20, view=VIEW, train=True).os_cache == "memory"
    size = os.path.getsize(packed)
    for memory, choice in ((size, "disk"), (2 * size, "memory")):
        monkeypatch.setattr(system, "available_memory", lambda memory=memory: memory)
        assert Beton(packed, 20, view=VIEW, train=True).os_cache == choice
    with pytest.raises(ValueError, match="os_cache is 'ram'; choose one of auto, memory, disk"):
        Beton(packed, 20, view=VIEW, train=True, os_cache="ram")


@pytest.mark.parametrize("ordered", [True, False])
def test_a_million_rows_open_at_once(tmp_path, ordered):
    n, page, size = 1_281_167, 1 << 23, 110_000
    header, fields, meta = np.zeros(1, HEADER), np.zeros(2, FIELD), np.zeros(n, record([RGB, INT]))
    fields["type"], fields["name"] = (RGB, INT), (b"image", b"label")
    start = -(-(HEADER.itemsize + fields.nbytes + meta.nbytes) // page) * page
    table = np.zeros(n, ALLOCATION)
    table["sample"], table["size"] = np.arange(n), size + np.arange(n) % 100
    table["ptr"] = start + np.arange(n) // 70 * page + np.arange(n) % 70 * (size + 100)
    meta["f0"]["width"], meta["f0"]["height"], meta["f0"]["ptr"] = 500, 375, table["ptr"]
    meta["f1"] = np.arange(n) % 1000
    end = int(table["ptr"][-1]) // page * page + page
    header[0] = 2, 2, page, n, end
    if not ordered:
        table = table[np.random.default_rng(0).permutation(n)]
    path = tmp_path / "big.beton"
    with open(path, "wb") as out:
        out.write(header.tobytes() + fields.tobytes() + meta.tobytes())
        out.seek(end)
        out.write(table.tobytes())
    seconds = []
    for _ in range(3):
        began = time.process_time()
        File(path).close()
        seconds.append(time.process_time() - began)
    tracemalloc.start()
    with File(path) as file:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (file.sizes == size + np.arange(n) % 100).all() and (file.offsets == meta["f0"]["ptr"]).all()
        assert (file.labels == np.arange(n) % 1000).all() and file.widths[-1] == 500 and file.heights[0] == 375
    assert peak < 100e6 and min(seconds) < (0.5 if ordered else 1.5)
    os.remove(path)


# ---- decode: fast ----


def test_fast_decoding_of_drawings_is_close_and_unbiased(tmp_path):
    """Flat areas and hard edges; the photographs' bound stands in test_loaders.py."""
    path = beton_of(tmp_path / "a.beton", [jpeg_of(drawing(k, 400), "420") for k in range(40)])
    exact, fast = (
        joined(Beton(path, 40, view=View(96, decode=d, scale=(0.3, 1)), train=True).epoch(0))[0].astype(int)
        for d in ("exact", "fast")
    )
    off = fast - exact
    assert off.any() and np.abs(off).mean() < 1.5 and np.abs(off).mean((1, 2, 3)).max() < 3 and abs(off.mean()) < 0.2


@needs_turbo
@pytest.mark.parametrize("source", ["folder", "tar"])
def test_files_are_opened_in_the_one_call_too(folder, packed, source, tmp_path, monkeypatch):
    """Python is asked for none of them, and all are the images that a packed file has."""
    if source == "tar":
        with tarfile.open(tmp_path / "images.tar", "w") as archive:
            archive.add(folder, "images")
    monkeypatch.setattr(Folder, "record", None)
    given = folder if source == "folder" else tmp_path / "images.tar"
    assert equal(
        *(copies(kind(path, 20, view=VIEW, train=True).epoch(0)) for kind, path in ((Beton, packed), (Folder, given)))
    )


@needs_turbo
def test_only_images_that_compiled_code_cannot_do_are_python(folder, tmp_path, monkeypatch):
    """A turned JPEG, a PNG, one cut short and one too large for a thread's first memory, among plain ones."""
    shutil.copytree(folder, tmp_path / "images")
    own = tmp_path / "images" / "class0"
    exif = Image.Exif()
    exif[0x0112] = 6
    (own / "900.jpg").write_bytes(encoded(drawing(0), exif=exif))
    (own / "901.png").write_bytes(encoded(drawing(1), "PNG"))
    (own / "902.jpg").write_bytes(jpeg_of(drawing(2), "444")[:-9])
    (own / "903.jpg").write_bytes(jpeg_of(np.tile(drawing(3), (25, 25, 1)), "420"))
    asked, record = [], Folder.record
    monkeypatch.setattr(
        Folder, "record", lambda self, row: (asked.append(self.files[row][-7:-4]), record(self, row))[1]
    )
    loader = Folder(tmp_path / "images", 107, view=VIEW, train=False, bad="skip", workers=1)
    ((images, _, valid),) = loader.epoch(0)
    assert sorted(asked) == ["900", "901", "902", "903"]
    names = [os.path.basename(file)[:3] for file in loader.files]
    assert [name for name, good in zip(names, valid.tolist(), strict=True) if not good] == ["902"]
    monkeypatch.setattr("fastmix.pipelines.jpeg.turbo.library", lambda: None)
    assert equal([(images.clone(), valid)], [(b[0], b[2]) for b in copies(loader.epoch(0))])
