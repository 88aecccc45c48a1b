"""Packing images: layouts, what is kept and what is re-encoded, checksums, damaged files, full disks, the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from fastmix import convert
from fastmix.pipelines.packing.format import Beton, classes_path
from fastmix.pipelines.packing.layouts import load_classes, scan
from fastmix.pipelines.packing.pack import pack
from helpers import ROOT
from helpers.conversion import KEPT, fails, tree, two_classes


def test_mistakes_end_with_one_line_and_nothing_written(tmp_path, capsys):
    good = two_classes(tmp_path / "good")
    out = tmp_path / "a.beton"
    (tmp_path / "none").mkdir()
    hole = tree(tmp_path / "hole", {"a/1.heic": KEPT["colour"], "b/readme.txt": "x"})
    flat = tree(tmp_path / "flat", {"1.jpg": KEPT["colour"]})
    broken = tree(tmp_path / "lists", {"l.csv": "1.jpg,a\n2.jpg\n", "q.csv": '1.jpg,"a', "b.csv": b"\xff\xfe1"})
    tree(tmp_path / "names", {"twice.txt": "a\nb\na\n", "empty.txt": "\n", "few.txt": "a\n"})
    old = tree(tmp_path, {"old.beton": "x"}) / "old.beton"
    for argv, message in {
        (tmp_path / "gone", out): f"{tmp_path / 'gone'}: no such folder or list",
        (tmp_path / "none", out): f"{tmp_path / 'none'}: no class folders in it",
        (hole, out): f"{hole}: no images (.jpg .jpeg",
        (flat, out): f"{flat}: images but no class folders",
        (flat / "1.jpg", out): "neither a folder of images nor a list or archive (.csv .tsv .txt .json .tar .parquet)",
        (broken / "l.csv", out): f"{broken / 'l.csv'}: row 2: needs path and label, has '2.jpg'",
        (broken / "q.csv", out): "row 1: unexpected end of data",
        (broken / "b.csv", out): "not UTF-8 text",
        (good, tmp_path / "a.bin"): "give the packed file a name that ends in .beton",
        (good, tmp_path / "no" / "a.beton"): f"a.beton: there is no folder {tmp_path / 'no'} to write it to",
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
