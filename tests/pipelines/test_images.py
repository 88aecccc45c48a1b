"""What an image becomes: kept bytes, conversions, reductions, and the reason of a damage."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fastmix.pipelines.jpeg.limits import DENSEST
from fastmix.pipelines.packing.format import JPEG, RAW
from fastmix.pipelines.packing.images import encode, rgb
from helpers.conversion import CONVERTED, DAMAGED, KEPT, saved, smooth


@pytest.mark.parametrize("kind", KEPT)
def test_a_plain_jpeg_is_kept_byte_for_byte(kind):
    data = KEPT[kind]
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    got = encode(data, max_resolution=32)
    assert got == (JPEG, *pixels.shape[:2], data, True, "")
    assert np.abs(rgb(data).astype(int) - pixels).max() <= 1  # two builds of libjpeg-turbo
    assert encode(data, as_jpeg=False).data == rgb(data).tobytes()


@pytest.mark.parametrize("kind", CONVERTED)
def test_other_images_are_converted(kind):
    data, want, bound = CONVERTED[kind]
    raw = encode(data, as_jpeg=False)
    assert (raw.mode, raw.height, raw.width, raw.kept) == (RAW, *want.shape[:2], False)
    pixels = np.frombuffer(raw.data, np.uint8).reshape(want.shape)
    assert np.abs(pixels - want.astype(np.float64)).max() <= bound
    jpeg = encode(data, quality=95)
    assert (jpeg.mode, jpeg.height, jpeg.width, jpeg.kept) == (JPEG, *want.shape[:2], False)
    by_pillow = saved(pixels, quality=95)  # an independent encoder of the same quality is as far from the pixels
    loss = [np.abs(np.asarray(Image.open(io.BytesIO(d)), int) - pixels).mean() for d in (jpeg.data, by_pillow)]
    assert loss[0] <= loss[1] + 0.5


@pytest.mark.parametrize("size", [(100, 37), (37, 100), (64, 64), (300, 2), (50, 50)])
def test_reduction(size):
    pixels = smooth(*size)
    for data in (saved(pixels, "PNG"), saved(pixels)):
        got = encode(data, max_resolution=50, as_jpeg=False)
        source = Image.open(io.BytesIO(data))
        longest = max(size)
        want = (max(1, round(size[1] * 50 / longest)), max(1, round(size[0] * 50 / longest)))
        assert (got.width, got.height) == want and max(want) == 50
        reduced = np.asarray(source.resize(want, Image.Resampling.LANCZOS), int)
        assert np.abs(np.frombuffer(got.data, np.uint8).reshape(reduced.shape) - reduced).max() <= 1


def test_an_image_is_never_enlarged():
    data = saved(smooth(40, 50))
    assert encode(data, max_resolution=51).data is data
    assert not encode(data, max_resolution=49).kept


@pytest.mark.parametrize("options", [{"optimize": True}, {"progressive": True}])
def test_the_densest_of_jpegs_is_no_false_header(options):
    """A blank image has the most pixels a byte that an encoder reaches; a header may claim twice as many."""
    data = saved(Image.new("L", (2000, 2000)), quality=1, **options)
    assert encode(data).kept and 2000 * 2000 > DENSEST / 2.1 * len(data)


def test_quality_sets_the_size():
    data = saved(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), "PNG")
    sizes = [len(encode(data, quality=q).data) for q in (1, 30, 60, 90, 100)]
    assert sizes == sorted(sizes) and sizes[-1] > 4 * sizes[0]


@pytest.mark.parametrize("name", DAMAGED)
def test_the_reason_of_a_damaged_image(name):
    data, reason = DAMAGED[name]
    with pytest.raises(ValueError, match=reason) as caught:
        encode(data)
    assert "\n" not in str(caught.value) and " at 0x" not in str(caught.value)
