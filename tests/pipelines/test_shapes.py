"""The built-in shapes: the same bytes for the same seed, classes that only the shape tells, made once for all."""

import io
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fastmix.pipelines.packing.format import Beton
from fastmix.pipelines.sources import shapes
from helpers import ROOT

SMALL = "shapes:train?n=40&size=32"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_same_seed_gives_the_same_bytes(tmp_path, monkeypatch):
    first = Path(shapes.resolve(SMALL)).read_bytes()
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path / "again"))
    assert Path(shapes.resolve(SMALL)).read_bytes() == first
    distinct = {shapes.jpeg(split, 3, 32, seed) for split in shapes.SPLITS for seed in range(5)}
    assert len(distinct) == 10 and shapes.jpeg("train", 3, 32) in distinct


def test_the_packed_rows_are_the_drawings():
    with Beton(shapes.resolve(SMALL)) as beton:
        assert beton.classes == sorted(shapes.SHAPES)
        assert np.bincount(beton.labels).tolist() == [4] * 10
        rows = {beton.data(k).tobytes(): int(beton.labels[k]) for k in range(len(beton))}
    assert rows == {shapes.jpeg("train", k, 32): k % 10 for k in range(40)}
    for data in rows:
        assert np.asarray(Image.open(io.BytesIO(data))).shape == (32, 32, 3)


def silhouette(name: str, turn: float, mirror: int, size: int = 64) -> np.ndarray:
    """Covered pixels of a shape of unit area, centred on its centroid."""

    def filled(scale: float, centre: np.ndarray) -> np.ndarray:
        image = Image.new("L", (size, size))
        spin = np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))])
        for k, outline in enumerate(shapes.SHAPES[name]):
            points = (outline * (1, mirror)) @ spin * scale + centre
            ImageDraw.Draw(image).polygon([tuple(p) for p in points.tolist()], fill=0 if k else 1)
        return np.asarray(image, bool)

    middle = np.full(2, size / 2)
    rough = filled(size / 4, middle)
    scale = (0.12 * size**2 / rough.sum()) ** 0.5
    return filled(size / 4 * scale, middle - (np.argwhere(rough).mean(0)[::-1] - middle) * scale)


def test_no_two_shapes_are_alike_under_turns_mirroring_and_scale():
    turns = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    fixed = {name: silhouette(name, 0, 1) for name in shapes.SHAPES}
    moved = {name: np.stack([silhouette(name, t, m) for t in turns for m in (1, -1)]) for name in shapes.SHAPES}
    for one, other in combinations(shapes.SHAPES, 2):
        overlap = (moved[other] & fixed[one]).sum((1, 2)) / (moved[other] | fixed[one]).sum((1, 2))
        assert overlap.max() < 0.9, (one, other)
    for name in shapes.SHAPES:  # the measure finds a shape again
        assert (moved[name] & fixed[name]).sum((1, 2)).max() > 0.95 * fixed[name].sum()


def test_only_the_shape_tells_the_class():
    """With the same draws, each pixel has one of two colours or, at an edge, a blend, in every class."""
    size = 48
    for seed in range(12):
        ten = np.stack([shapes.draw(np.random.default_rng(seed), name, size).astype(float) for name in shapes.SHAPES])
        ten = ten.reshape(10, -1, 3)
        pixels = np.arange(size * size)
        order = ten.mean(-1).argsort(0)  # by brightness, in which shape and background differ
        dark, light = ten[order[0], pixels], ten[order[-1], pixels]
        span = light - dark
        along = ((ten - dark) * span).sum(-1) / np.maximum((span**2).sum(-1), 1e-9)
        off = np.abs(ten - dark - along[..., None] * span).max((0, 2))
        inside = (ten > 0).all((0, 2)) & (ten < 255).all((0, 2))  # a clipped channel leaves the line
        assert inside.mean() > 0.3 and off[inside].max() <= 1.5  # rounded three times
        pure = np.minimum(along, 1 - along) < 0.05
        assert pure.mean() > 0.8  # edges are thin: most values are one of the two colours
        assert (ten != ten[0]).any((0, 2)).mean() > 0.1  # and the classes do differ


def test_a_shape_stands_out_from_its_background():
    size = 48
    for k in range(30):
        name = list(shapes.SHAPES)[k % 10]
        pixels = shapes.draw(np.random.default_rng(k), name, size).astype(float).mean(-1)
        corner = np.concatenate([pixels[:2].ravel(), pixels[-2:].ravel()])
        assert np.abs(np.percentile(pixels, [3, 97]) - np.median(corner)).max() > 40, (k, name)


def test_made_once(cache, capsys):
    path = shapes.resolve(SMALL)
    assert path == str(cache / "shapes-train-n40-size32-seed0-v1.beton")
    before = os.stat(path)
    assert shapes.resolve(SMALL) == path and os.stat(path) == before
    assert capsys.readouterr().err == f"drawing 40 shapes once, kept as {path}\n"
    names = {Path(path).name, f"{Path(path).name}.classes.json", f"{Path(path).stem}.lock"}
    assert set(os.listdir(cache)) == names


def test_two_processes_at_once(cache):
    code = f"from fastmix.pipelines.sources.shapes import resolve; print(resolve({SMALL!r}))"
    root = ROOT
    options = {"cwd": root, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", code], **options) for _ in range(2)]
    results = [(*process.communicate(), process.returncode) for process in both]
    path = shapes.resolve(SMALL)
    assert [(out, code) for out, _, code in results] == [(path + "\n", 0)] * 2
    assert sum("drawing" in err for _, err, _ in results) == 1
    with Beton(path) as beton:
        assert len(beton) == 40


def test_a_failure_leaves_nothing_half_made(cache, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(
            "fastmix.pipelines.packing.writer.os.fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
        )
        with pytest.raises(OSError, match="full"):
            shapes.resolve(SMALL)
    assert os.listdir(cache) == ["shapes-train-n40-size32-seed0-v1.lock"]
    with Beton(shapes.resolve(SMALL)) as beton:
        assert len(beton) == 40


def test_where_the_cache_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMIX_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Path(shapes.resolve(SMALL)).parent == tmp_path / "xdg" / "fastmix"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Path(shapes.resolve(SMALL)).parent == tmp_path / "home" / ".cache" / "fastmix"


def test_other_sources_pass_through_and_mistakes_are_named():
    assert shapes.resolve("some/shapes.beton") == "some/shapes.beton"
    for source, message in {
        "shapes:test": "'shapes:test': no such built-in data; there are shapes:train, shapes:val",
        "shapes:val?m=3": "'shapes:val\\?m=3': unknown option 'm'; there are n, size, seed",
        "shapes:val?n=3": "n must be a whole number from 10",
        "shapes:val?size=x": "size must be a whole number from 16",
    }.items():
        with pytest.raises(ValueError, match=message):
            shapes.resolve(source)
