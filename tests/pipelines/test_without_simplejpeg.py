"""Without simplejpeg, and TurboJPEG with it: all imports, whatever has no JPEG works, a JPEG is one line and code 2."""

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from test_imports import modules

from helpers import ROOT
from helpers.loading import beton_of, encoded
from helpers.small_runs import SMALL

HIDDEN = """
import ctypes.util, sys
from importlib.machinery import PathFinder

class Hidden(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in ("simplejpeg", "turbojpeg")
        return None if hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Hidden
ctypes.util.find_library = lambda name: None  # the system's
"""
NEEDS = "JPEGs need the package simplejpeg (No module named 'simplejpeg'): pip install simplejpeg\n"


@pytest.fixture
def without(tmp_path):
    """Runs a script or, where words are given, a command's main, in a process without the packages."""

    def run(script: str, *words: str) -> subprocess.CompletedProcess:
        env = os.environ | {"PYTHONPATH": str(ROOT), "FASTMIX_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-c", HIDDEN + script, *words]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    return run


@pytest.fixture
def stored(tmp_path):
    """Twelve pictures as raw.beton, jpeg.beton and in the folder images/a; the config small.yaml."""
    pixels = list(np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3), dtype=np.uint8))
    beton_of(tmp_path / "raw.beton", pixels)
    beton_of(tmp_path / "jpeg.beton", [pixels[0], *(encoded(image) for image in pixels[1:])])
    (tmp_path / "images/a").mkdir(parents=True)
    for k, image in enumerate(pixels):
        (tmp_path / f"images/a/{k:02}.jpg").write_bytes(encoded(image))
    (tmp_path / "small.yaml").write_text(SMALL)


@pytest.mark.long
def test_every_module_imports(without):
    extras = {"fastmix.runs.asha"} if find_spec("ray") is None else set()  # its classes are made of Ray's
    names = sorted(name for name in modules().keys() - extras if not name.endswith("__main__"))
    script = f"from importlib import import_module\nfor name in {names}: import_module(name)\n"
    done = without(script + "print('simplejpeg' in sys.modules, 'turbojpeg' in sys.modules)")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False False\n" and len(names) > 100


@pytest.mark.long
def test_a_synthetic_run_trains(without, stored):
    data = ["data.loader=synthetic", "data.train=n=40&classes=10", "data.val=n=20&classes=10"]
    main = "from fastmix.train import main; sys.exit(main(sys.argv[1:]))"
    done = without(main, "small.yaml", "mix=cutmix", "epochs=1", "device=cpu", "out=run", *data)
    assert done.returncode == 0, done.stderr
    assert "done: top-1" in done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.parametrize("kind", ["beton", "resident"])
def test_raw_pixels_are_read(kind, without, stored):
    done = without(f"""
from fastmix.pipelines import loader_class
from fastmix.pipelines.view import View
loader = loader_class("{kind}")("raw.beton", 4, view=View(32), train=True)
print([tuple(images.shape) for images, _, _ in loader.epoch(0)])
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{[(4, 32, 32, 3)] * 3}\n"


@pytest.mark.long
@pytest.mark.parametrize(
    "main, source, words",
    [
        ("train", "jpeg.beton", "small.yaml data.train=jpeg.beton data.bad=skip batch_total=4"),
        ("train", "images", "small.yaml data.loader=folder data.train=images data.bad=skip batch_total=4"),
        ("train", "shapes:train?n=100&size=32", "small.yaml"),
        ("convert", "out.beton", "images out.beton --skip-bad"),
        ("convert", "jpeg.beton", "--verify jpeg.beton"),
    ],
)
def test_jpegs_are_refused_in_one_line_before_any_is_called_damaged(main, source, words, without, stored, tmp_path):
    script = (
        f"from fastmix import {main}; from fastmix.cli import run; sys.exit(run({main}.main, {main!r}, sys.argv[1:]))"
    )
    done = without(script, *words.split(), *(["device=cpu"] if main == "train" else []))
    assert done.returncode == 2 and done.stderr == f"fastmix {main}: error: {source}: {NEEDS}"
    assert not (tmp_path / "out.beton").exists() and not list(tmp_path.glob("*.bad.csv"))
