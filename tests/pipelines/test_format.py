"""The .beton reader and writer: against the layout written out with struct, and against the ffcv package both ways."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from fastmix.pipelines.packing.format import JPEG, RAW, Beton, classes_path, read_classes
from fastmix.pipelines.packing.writer import BetonWriter
from helpers import ROOT

PAGE = 4096
NAMES = {0: "float", 1: "int", 2: "image"}


def pictures(n: int, seed: int = 0, size: tuple[int, int] | None = None) -> list[tuple]:
    """Rows (mode, height, width, bytes, label), JPEG and raw in turn."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(n):
        height, width = size or rng.integers(8, 34, 2).tolist()
        smooth = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)).resize((width, height))
        pixels = np.asarray(smooth)
        data = pixels.tobytes() if k % 3 == 2 else simplejpeg.encode_jpeg(pixels, 90, "RGB", "420")
        rows.append((RAW if k % 3 == 2 else JPEG, height, width, data, int(rng.integers(0, 5))))
    return rows


def layout(rows: list[tuple], page: int = PAGE) -> bytes:
    """The whole file, byte by byte, as the format's description says it."""
    fields = b"".join(struct.pack("<B16s1024x", kind, name) for kind, name in [(2, b"image"), (1, b"label")])
    at = -(-(24 + len(fields) + 24 * len(rows)) // page) * page
    meta, table, pages = b"", b"", b""
    start = at
    for k, (mode, height, width, data, label) in enumerate(rows):
        if at // page != (at + len(data) - 1) // page:
            at = -(-at // page) * page
        meta += struct.pack("<BHHQ3xq", mode, width, height, at, label)
        table += struct.pack("<QQQ", k, at, len(data))
        pages = pages.ljust(at - start, b"\0") + data
        at += len(data)
    end = -(-at // page) * page
    head = struct.pack("<HHIQQ", 2, 2, page, len(rows), end) + fields + meta
    return head.ljust(start, b"\0") + pages.ljust(end - start, b"\0") + table


def write(path: Path, rows: list[tuple], page: int = PAGE, classes: list[str] | None = None) -> Path:
    with BetonWriter(path, len(rows), page) as writer:
        for row in rows:
            writer.add(*row)
        writer.finish()
        writer.publish(classes)
    return path


def same(beton: Beton, rows: list[tuple]) -> None:
    assert len(beton) == len(rows)
    for k, row in enumerate(rows):
        got = beton.modes[k], beton.heights[k], beton.widths[k], beton.data(k).tobytes(), beton.labels[k]
        assert got == row


# ---- the writer ----


@pytest.mark.parametrize("n", [1, 2, 60, 400])  # 400: the metadata reach into a further page
def test_the_file_equals_the_described_layout(tmp_path, n):
    rows = pictures(n)
    path = write(tmp_path / "a.beton", rows)
    assert path.read_bytes() == layout(rows)
    assert sorted(os.listdir(tmp_path)) == ["a.beton"]
    with Beton(path) as beton:
        same(beton, rows)
        crossing = beton.offsets // PAGE != (beton.offsets + beton.sizes - 1) // PAGE
        assert not crossing.any()


def test_an_image_that_ends_exactly_at_a_page_stays_in_it(tmp_path):
    pixels = [(RAW, 8, w, bytes(range(24)) * w, 0) for w in (100, 70, 66, 1)]  # 24 bytes a column, PAGE = 4096
    exact = [(JPEG, 1, 1, b"x" * size, 0) for size in (4000, 96, 4096, 1)]
    for rows in (pixels, exact):
        assert write(tmp_path / "a.beton", rows).read_bytes() == layout(rows)
    with Beton(tmp_path / "a.beton") as beton:
        assert np.diff(beton.offsets).tolist() == [4000, 96, 4096]


def test_fewer_rows_than_announced(tmp_path):
    rows = pictures(7)
    with BetonWriter(tmp_path / "a.beton", 500, PAGE) as writer:
        for row in rows:
            writer.add(*row)
        writer.finish()
        writer.publish(None)
    with Beton(tmp_path / "a.beton") as beton:
        same(beton, rows)


def test_an_image_longer_than_a_page_is_refused(tmp_path):
    with pytest.raises(ValueError, match="4097 bytes do not fit into a page of 4096"):
        write(tmp_path / "a.beton", [(JPEG, 1, 1, b"x" * 4097, 0)])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, None])
def test_leaving_early_leaves_nothing_and_keeps_the_old_file(tmp_path, error):
    old = write(tmp_path / "a.beton", pictures(2), classes=list("abcde")).read_bytes()

    def leave():
        with BetonWriter(tmp_path / "a.beton", 3, PAGE) as writer:
            writer.add(*pictures(1)[0])
            writer.finish()
            if error:
                raise error

    if error:
        with pytest.raises(error):
            leave()
    else:
        leave()
    assert sorted(os.listdir(tmp_path)) == ["a.beton", "a.beton.classes.json"]
    assert (tmp_path / "a.beton").read_bytes() == old


def test_two_writers_of_one_file(tmp_path):
    rows = pictures(3)
    with BetonWriter(tmp_path / "a.beton", 3, PAGE) as first:
        with pytest.raises(ValueError, match=r"a\.beton\.part: another process is writing it"):
            BetonWriter(tmp_path / "a.beton", 3, PAGE)
        for row in rows:
            first.add(*row)
        first.finish()
        first.publish(None)
    assert (tmp_path / "a.beton").read_bytes() == layout(rows)


def test_what_a_killed_writer_left_is_refused_by_the_reader_and_taken_over_by_the_next_writer(tmp_path):
    script = (
        "import os, sys\nfrom fastmix.pipelines.packing.writer import BetonWriter\n"
        "with BetonWriter(sys.argv[1], 9, 4096) as w:\n"
        "    [w.add(0, 1, 1, b'x' * 3000, 0) for _ in range(9)]\n"
        "    w._file.flush()\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "a.beton"], cwd=ROOT)
    assert os.listdir(tmp_path) == ["a.beton.part"]
    with pytest.raises(ValueError, match=r"a\.beton\.part: its writer was interrupted"):
        Beton(tmp_path / "a.beton.part")
    rows = pictures(2)
    assert write(tmp_path / "a.beton", rows).read_bytes() == layout(rows)
    assert os.listdir(tmp_path) == ["a.beton"]


def test_class_names_beside_the_file(tmp_path):
    rows = pictures(20)
    names = ["crane", "crâne", "0", "b,c", "e"]
    path = write(tmp_path / "a.beton", rows, classes=names)
    with Beton(path) as beton:
        assert beton.classes == names
    assert json.loads(classes_path(path).read_text(encoding="utf-8")) == names
    write(path, rows)  # the old names must not stay beside new rows
    assert read_classes(path) is None


# ---- the reader's errors ----


def patched(rows: list[tuple], at: int, code: str, value: int) -> bytes:
    data = bytearray(layout(rows))
    struct.pack_into(f"<{code}", data, at if at >= 0 else len(data) + at, value)
    return bytes(data)


ROWS = pictures(12)
META = 24 + 2 * 1041
FAULTS = {
    "empty": (b"", "not a .beton file: 0 bytes"),
    "short": (b"\2\0", "not a .beton file: 2 bytes"),
    "text": (b"path,label\n" * 400, "not a .beton file of version 2"),
    "jpeg": (ROWS[0][3], "not a .beton file"),
    "version": (patched(ROWS, 0, "H", 3), "not a .beton file of version 2"),
    "page size": (patched(ROWS, 4, "I", 1000), "not a .beton file of version 2"),
    "no page size": (patched(ROWS, 4, "I", 0), "not a .beton file of version 2"),
    "no fields": (patched(ROWS, 2, "H", 0), "not a .beton file of version 2"),
    "interrupted": (patched(ROWS, 16, "Q", 0), "its writer was interrupted"),
    "fields": (patched(ROWS, 2, "H", 60000), "truncated: its field descriptors reach past the end"),
    "rows": (patched(ROWS, 8, "Q", 1 << 60), "truncated: its metadata reach past the end"),
    "table behind the end": (patched(ROWS, 16, "Q", 1 << 63), "truncated: no whole allocation table"),
    "table in the metadata": (patched(ROWS, 16, "Q", META), "truncated: no whole allocation table"),
    "custom field": (patched(ROWS, 24, "B", 255), "field 'image' has the custom type 255"),
    "no image": (patched(ROWS, 24, "B", 0), "needs one RGB image field, or one called 'image'; has image, label"),
    "no label": (patched(ROWS, 24 + 1041, "B", 0), "needs one integer field, or one called 'label'"),
    "mode": (patched(ROWS, META + 24 * 5, "B", 2), "row 5: an image mode that is neither"),
    "width": (patched(ROWS, META + 24 * 4 + 1, "H", 0), "row 4: an empty image"),
    "raw length": (patched(ROWS, META + 24 * 2 + 3, "H", 500), "row 2: raw pixels of another length"),
    "pointer": (patched(ROWS, META + 24 * 7 + 5, "Q", 1 << 40), "row 7: pointer 1099511627776 is not in the alloc"),
    "pointer before": (patched(ROWS, META + 24 * 6 + 5, "Q", 8), "row 6: pointer 8 is not in the allocation table"),
    "outside": (patched(ROWS, -24 * 3 + 8, "Q", 1 << 40), r"row 9: pointer 1099511627776 \(.*\) lies outside the data"),
    "in the header": (patched(ROWS, -24 * 3 + 8, "Q", 100), "row 9: pointer 100 .* lies outside the data pages"),
    "length": (patched(ROWS, -24 * 2 + 16, "Q", 1 << 20), "row 10: pointer .* lies outside the data pages"),
    "negative length": (patched(ROWS, -24 * 2 + 16, "q", -8), "row 10: pointer .* lies outside the data pages"),
    "no length": (patched(ROWS, -24 * 1 + 16, "Q", 0), "row 11: "),
    "appended": (layout(ROWS) + b"\0" * 8, "truncated: no whole allocation table"),
    "appended entry": (layout(ROWS) + b"\0" * 24, "row 0: pointer 0 .* lies outside the data pages"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_file_is_refused_in_one_line_that_names_it(tmp_path, fault):
    data, message = FAULTS[fault]
    path = tmp_path / "a.beton"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        Beton(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_every_cut_is_noticed(tmp_path):
    whole = layout(ROWS)
    path = tmp_path / "a.beton"
    for end in [*range(0, len(whole), 97), *range(len(whole) - 300, len(whole))]:
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="truncated|not a .beton|not in the allocation table"):
            Beton(path)
    path.write_bytes(whole)
    with Beton(path) as beton:
        same(beton, ROWS)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        Beton(tmp_path / "a.beton")
    assert str(caught.value) == f"{tmp_path / 'a.beton'}: no such file"
    with pytest.raises(ValueError, match="a folder, not a .beton file; pack it with: fastmix convert"):
        Beton(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "not a list of distinct class names"),
        ('["a", "a"]', "not a list of distinct class names"),
        ('{"a": 0}', "not a list of distinct class names"),
        ('["a"', "not JSON"),
    ],
)
def test_class_names_that_cannot_be_right(tmp_path, text, message):
    path = write(tmp_path / "a.beton", pictures(20))
    classes_path(path).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        Beton(path)
    assert str(caught.value).startswith(f"{path}.classes.json: ")
    classes_path(path).write_text('["a", "b"]')
    with pytest.raises(ValueError, match=r"a.beton: row \d+: label [2-4]; .* from 0 to 1, as 2 classes are named"):
        Beton(path)


def test_views_outlive_close(tmp_path):
    rows = pictures(3)
    with Beton(write(tmp_path / "a.beton", rows)) as beton:
        view = beton.data(2)
    assert view.tobytes() == rows[2][3]
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1


# ---- the ffcv package ----

FFCV_WRITES = """
import sys, numpy as np, pickle
from ffcv.writer import DatasetWriter
from ffcv.fields import RGBImageField, IntField, FloatField, JSONField, NDArrayField
folder, rows = sys.argv[1], pickle.load(open(sys.argv[2], "rb"))

class Rows:
    def __init__(self, make): self.make = make
    def __len__(self): return len(rows)
    def __getitem__(self, k): return self.make(*rows[k])

def write(name, fields, make):
    DatasetWriter(f"{folder}/{name}.beton", fields, num_workers=1).from_indexed_dataset(Rows(make))

for mode in ("jpg", "raw", "proportion"):
    options = {"compress_probability": 0.5} if mode == "proportion" else {}
    image = RGBImageField(write_mode=mode, jpeg_quality=90, **options)
    write(mode, {"image": image, "label": IntField()}, lambda x, y: (x, y))
write("swapped", {"target": IntField(), "picture": RGBImageField(write_mode="jpg")}, lambda x, y: (y, x))
write("extra", {"weight": FloatField(), "note": JSONField(), "index": IntField(), "label": IntField(),
                "image": RGBImageField(write_mode="raw"), "vector": NDArrayField(np.dtype("f4"), (3,))},
      lambda x, y: (0.5, {"y": y}, 7, y, x, np.ones(3, "f4")))
write("two", {"image": RGBImageField(write_mode="raw"), "a": IntField(), "b": IntField()}, lambda x, y: (x, y, y))
"""

FFCV_READS = """
import sys, numpy as np
from ffcv.loader import Loader, OrderOption
from ffcv.fields.decoders import SimpleRGBImageDecoder, IntDecoder
from ffcv.transforms import ToTensor
images, labels = [], []
for x, y in Loader(sys.argv[1], batch_size=4, num_workers=1, order=OrderOption.SEQUENTIAL, drop_last=False,
                   pipelines={"image": [SimpleRGBImageDecoder(), ToTensor()], "label": [IntDecoder(), ToTensor()]}):
    images.append(x.numpy().copy()), labels.append(y.numpy().copy())
np.savez(sys.argv[2], images=np.concatenate(images), labels=np.concatenate(labels)[:, 0])
"""


def run_ffcv(script: str, *arguments: Path) -> None:
    """In a process of its own: importing ffcv sets torch's thread count. Without numba's compiler it starts at once."""
    pytest.importorskip("ffcv", exc_type=ImportError)
    env = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def ffcv_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ffcv")
    rng = np.random.default_rng(3)
    rows = [(rng.integers(0, 256, (*rng.integers(5, 40, 2), 3), dtype=np.uint8), k % 7) for k in range(40)]
    (folder / "rows.pickle").write_bytes(pickle.dumps(rows))
    run_ffcv(FFCV_WRITES, folder, folder / "rows.pickle")
    return folder, rows


@pytest.mark.parametrize("name", ["jpg", "raw", "proportion", "swapped", "extra"])
def test_we_read_what_ffcv_writes(ffcv_files, name):
    folder, rows = ffcv_files
    with Beton(folder / f"{name}.beton") as beton:
        assert beton.labels.tolist() == [y for _, y in rows]
        assert list(zip(beton.heights, beton.widths, strict=True)) == [x.shape[:2] for x, _ in rows]
        kinds = {"jpg": {JPEG}, "raw": {RAW}, "proportion": {JPEG, RAW}, "swapped": {JPEG}, "extra": {RAW}}
        assert set(beton.modes.tolist()) == kinds[name]
        for k, (pixels, _) in enumerate(rows):
            if beton.modes[k] == RAW:
                assert beton.data(k).tobytes() == pixels.tobytes()
            else:  # noise loses much in a JPEG; the decoded size and rough content show that it is the right one
                decoded = simplejpeg.decode_jpeg(beton.data(k))
                assert decoded.shape == pixels.shape
                others = [np.corrcoef(decoded.ravel(), x.ravel())[0, 1] for x, _ in rows if x.shape == pixels.shape]
                assert np.corrcoef(decoded.ravel(), pixels.ravel())[0, 1] == max(others) > 0.5


@pytest.mark.parametrize("name", ["jpg", "raw", "proportion"])
def test_our_writer_and_ffcvs_give_the_same_bytes(ffcv_files, tmp_path, name):
    source = ffcv_files[0] / f"{name}.beton"
    with Beton(source) as beton:
        columns = (beton.modes, beton.heights, beton.widths, map(beton.data, range(len(beton))), beton.labels)
        rows = [(m, h, w, data.tobytes(), y) for m, h, w, data, y in zip(*columns, strict=True)]
    assert write(tmp_path / "a.beton", rows, 1 << 23).read_bytes() == source.read_bytes()


def test_an_ambiguous_label_is_an_error(ffcv_files):
    with pytest.raises(ValueError, match="needs one integer field, or one called 'label'; has image, a, b"):
        Beton(ffcv_files[0] / "two.beton")


def test_ffcv_reads_what_we_write(tmp_path):
    rows = pictures(13, seed=5, size=(24, 40))
    path = write(tmp_path / "a.beton", rows, 1 << 23, classes=list("abcde"))
    run_ffcv(FFCV_READS, path, tmp_path / "a.npz")
    got = np.load(tmp_path / "a.npz")
    assert got["labels"].tolist() == [row[4] for row in rows]
    for pixels, (mode, height, width, data, _) in zip(got["images"], rows, strict=True):
        if mode == RAW:
            want = np.frombuffer(data, np.uint8).reshape(height, width, 3)
        else:
            want = simplejpeg.decode_jpeg(data, fastdct=True)  # as ffcv sets it
            assert np.abs(want - np.asarray(Image.open(io.BytesIO(data)), int)).mean() < 2
        assert np.array_equal(pixels, want)
