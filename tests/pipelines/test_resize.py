"""The resize kernel against Pillow, torchvision and the formula in float64."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from fastmix.pipelines.resize import place, sees

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
CASES = [  # image, window (y, x, h, w), output
    ((64, 80), (3, 5, 40, 50), (32, 32)),
    ((64, 80), (0, 0, 64, 80), (24, 56)),
    ((30, 20), (4, 2, 11, 9), (48, 33)),
    ((211, 307), (10, 100, 200, 150), (17, 19)),
    ((40, 40), (7, 7, 1, 1), (8, 8)),
    ((90, 90), (0, 0, 90, 31), (90, 31 * 2)),
    ((50, 400), (1, 1, 48, 390), (48, 16)),
]


def noise(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def smooth(shape: tuple[int, int]) -> np.ndarray:
    """Like a photograph: correlated, without steps from black to white."""
    field = ndimage.gaussian_filter(noise(shape).astype(float), (2, 2, 0), mode="reflect")
    field = (field - field.min()) / (field.max() - field.min())
    return (40 + 175 * field).astype(np.uint8)


def ours(image, window, out, interpolation, whole=False, flip=False):
    result = np.full((*out, 3), 77, np.uint8)
    place(image, np.array(window), flip, result, interpolation, whole)
    return result


def kernel(name: str, t: np.ndarray) -> np.ndarray:
    t = np.abs(t)
    if name == "bilinear":
        return np.clip(1 - t, 0, None)
    a = -0.5
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * (t**3 - 5 * t**2 + 8 * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def matrix(name: str, pixels: int, start: float, extent: float, out: int, low: int, high: int) -> np.ndarray:
    """Dense filter [out, pixels] in float64, from the formula."""
    scale = extent / out
    centre = start + (np.arange(out)[:, None] + 0.5) * scale
    at = np.arange(pixels)[None]
    weights = kernel(name, (at + 0.5 - centre) / max(scale, 1)) * ((at >= low) & (at < high))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("shape, window, out", CASES)
@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("whole", [False, True])
def test_is_the_formula_rounded(shape, window, out, name, whole):
    image = noise(shape)
    y, x, h, w = window
    rows = (0, shape[0]) if whole else (y, y + h)
    columns = (0, shape[1]) if whole else (x, x + w)
    down = matrix(name, shape[0], y, h, out[0], *rows)
    across = matrix(name, shape[1], x, w, out[1], *columns)
    exact = np.clip(np.einsum("iy,jx,yxc->ijc", down, across, image.astype(float)), 0, 255)
    assert np.abs(ours(image, window, out, name, whole) - exact).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("shape, window, out", CASES)
@pytest.mark.parametrize("name, image", [("bilinear", noise), ("bilinear", smooth), ("bicubic", smooth)])
def test_within_one_level_of_pillow(shape, window, out, name, image):
    image = image(shape)
    y, x, h, w = window
    theirs = Image.fromarray(image[y : y + h, x : x + w]).resize(out[::-1], FILTERS[name])
    assert np.abs(ours(image, window, out, name).astype(int) - np.asarray(theirs)).max() <= 1
    theirs = Image.fromarray(image).resize(out[::-1], FILTERS[name], box=(x, y, x + w, y + h))
    assert np.abs(ours(image, window, out, name, whole=True).astype(int) - np.asarray(theirs)).max() <= 1


@pytest.mark.parametrize("name", FILTERS)
def test_fractional_windows_within_one_level_of_pillow(name):
    image, (y, x, h, w) = noise((60, 70)), (3.3, 4.75, 41.1, 50.6)
    planes = [Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)]  # float: not rounded between passes
    theirs = [np.asarray(p.resize((32, 32), FILTERS[name], box=(x, y, x + w, y + h))) for p in planes]
    exact = np.clip(np.stack(theirs, -1), 0, 255)
    assert np.abs(ours(image, (y, x, h, w), (32, 32), name, whole=True) - exact).max() <= 0.5 + 1e-2


@pytest.mark.parametrize("name", FILTERS)
def test_within_one_level_of_torchvision(name):
    import fastmix.compat  # noqa: F401

    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    import torch

    image = smooth((100, 130))
    expected = functional.resized_crop(
        torch.from_numpy(image).permute(2, 0, 1), 10, 20, 70, 90, [48, 48], functional.InterpolationMode(name), True
    )
    result = torch.from_numpy(ours(image, (10, 20, 70, 90), (48, 48), name))
    assert (result.int() - expected.permute(1, 2, 0).int()).abs().max() <= 1


@pytest.mark.parametrize("shape, window, out", [*CASES, ((64, 80), (3.3, 5.5, 40.2, 41.9), (32, 32))])
@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("whole", [False, True])
def test_only_the_part_that_is_said_to_be_seen_counts(shape, window, out, name, whole):
    image, size = noise(shape), min(out)
    top, left, bottom, right = sees(window, size, name, whole)
    y, x = max(top, 0), max(left, 0)
    part = np.full((size, size, 3), 77, np.uint8)
    place(np.ascontiguousarray(image[y:bottom, x:right]), np.array(window), False, part, name, whole, (y, x))
    assert (part == ours(image, window, (size, size), name, whole)).all()


@pytest.mark.parametrize("shape, window, out", CASES)
def test_flip_mirrors_the_result(shape, window, out):
    image = noise(shape)
    assert (ours(image, window, out, "bilinear", flip=True) == ours(image, window, out, "bilinear")[:, ::-1]).all()


@pytest.mark.parametrize("y, x", [(0, 0), (-4, 3), (5, -2), (4, 4), (-40, 0)])
@pytest.mark.parametrize("flip", [False, True])
def test_window_of_the_output_size_is_copied_with_black_around(y, x, flip):
    image = noise((32, 36))
    border = 64
    padded = np.pad(image, ((border, border), (border, border), (0, 0)))
    expected = padded[border + y : border + y + 32, border + x : border + x + 32]
    result = ours(image, (y, x, 32, 32), (32, 32), "bicubic", flip=flip)
    assert (result == (expected[:, ::-1] if flip else expected)).all()


@pytest.mark.parametrize(
    "y, x, h, w", [(0, 0, 40, 30), (-9, 3, 8, 8), (2, -29, 20, 30), (-21, 29, 40, 30), (21, 8, 20, 24)]
)
@pytest.mark.parametrize("flip", [False, True])
def test_a_copied_window_shows_the_image_mirrored(y, x, h, w, flip):
    """numpy's reflection, from the pixels that `sees` tells alone."""
    image = noise((22, 30))
    padded = np.pad(image, ((21, 21), (29, 29), (0, 0)), "reflect")
    size = min(h, w)
    expected = padded[21 + y : 21 + y + size, 29 + x : 29 + x + size]
    window, mirrored, part = np.array([y, x, size, size], float), (22, 30), np.full((size, size, 3), 77, np.uint8)
    top, left, bottom, right = sees(window, size, "bilinear", False, mirrored)
    top, left = max(top, 0), max(left, 0)
    seen = np.ascontiguousarray(image[top:bottom, left:right])
    place(seen, window, flip, part, "bilinear", False, (top, left), mirrored)
    assert (part == (expected[:, ::-1] if flip else expected)).all()


def test_reads_read_only_pixels_and_nothing_outside_the_crop():
    image = noise((64, 80))
    other = image.copy()
    inside = np.zeros((64, 80), bool)
    inside[3:43, 5:55] = True
    other[~inside] = 255 - other[~inside]
    image.flags.writeable = False
    assert (ours(image, (3, 5, 40, 50), (32, 32), "bicubic") == ours(other, (3, 5, 40, 50), (32, 32), "bicubic")).all()
