"""Corruptions against scipy, Pillow, colorsys and loops, with the same random numbers in both; noise by its moments."""

import colorsys
import io
import math
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats

from fastmix.engine.robustness.corruptions import (
    CONSTANTS,
    CORRUPTIONS,
    SEVERITIES,
    SIZES,
    blur,
    corrupt,
    digital,
    frost,
    like,
    weather,
)
from fastmix.engine.robustness.corruptions import noise as noises
from helpers.fed import Fed

ALL = [(kind, severity) for kind in SIZES for severity in SEVERITIES]


def picture(size: int = 24, seed: int = 0) -> np.ndarray:
    """Smooth colours with sharp edges, uint8 [S,S,3]."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(size, size, 3)), (size / 8, size / 8, 0), mode="wrap")
    smooth = smooth / np.abs(smooth).max() * 100 + 128
    smooth[size // 4 : size // 2, size // 3 :] = rng.integers(0, 256, 3)
    smooth[-3:, :3], smooth[0, -4:] = 0, 255  # black, and greys
    return smooth.round().astype(np.uint8)


def ours(function, image: np.ndarray, constants, *arrays) -> np.ndarray:
    """float [S,S,3], clamped to levels and not rounded."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    return function(x, constants, Fed(*arrays)).clamp(0, 255)[0].permute(1, 2, 0).numpy()


def near(found: np.ndarray, wanted: np.ndarray, by: float = 0.01) -> None:
    wanted = np.clip(wanted, 0, 255)
    assert found.shape == wanted.shape and np.abs(found - wanted).max() < by and wanted.std() > 0


def smear(layer: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """Pixel by pixel in float64: the Gaussian-weighted mean of what lies in that direction."""
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    size, out = len(layer), np.zeros(layer.shape)
    for y in range(size):
        for x in range(size):
            for k, weight in enumerate(weights / weights.sum()):
                dy, dx = (math.ceil(k * f(math.radians(angle)) - 0.5) for f in (math.sin, math.cos))
                out[y, x] += weight * layer[np.clip(y + dy, 0, size - 1), np.clip(x + dx, 0, size - 1)]
    return out


def zoomed(layer: np.ndarray, factor: float) -> np.ndarray:
    size = len(layer)
    part = math.ceil(size / factor)
    first = (size - part) // 2
    large = ndimage.zoom(
        layer[first : first + part, first : first + part], (factor, factor, 1), order=1, mode="nearest"
    )
    first = (len(large) - size) // 2
    return large[first : first + size, first : first + size]


def test_gaussian_noise():
    image, n = picture(), np.random.default_rng(1).normal(size=(3, 24, 24))
    near(ours(noises.gaussian, image, 0.1, n), image + 25.5 * n.transpose(1, 2, 0))


@pytest.mark.parametrize("white", [3, 60, 500])
def test_photons_are_poissons(white):
    table = noises.photons(white).view(256, -1).numpy()
    middles = (np.arange(table.shape[1]) + 0.5) / table.shape[1]
    for level in (0, 1, 100, 255):
        np.testing.assert_array_equal(table[level], stats.poisson.ppf(middles, white * level / 255).clip(min=0))
        mean = pytest.approx(white * level / 255, rel=0.005, abs=1e-4)
        assert table[level].mean() == mean and table[level].var() == mean


def test_shot_noise_is_the_table_of_the_pixels_level():
    image, u = picture(), np.random.default_rng(2).uniform(size=(3, 24, 24)).astype(np.float32)
    k = noises.photons(12).view(256, -1).numpy()[image.transpose(2, 0, 1), (u * noises.QUANTILES).astype(int)]
    near(ours(noises.shot, image, 12, u), k.transpose(1, 2, 0) * 255 / 12)


def test_impulse_noise():
    grey = torch.full((50, 64, 64, 3), 77, dtype=torch.uint8)
    found = corrupt(grey, "impulse_noise", 4, np.arange(50)).numpy()
    share = CONSTANTS["impulse_noise"]["tiny"][3]
    for value, part in ((0, share / 2), (255, share / 2), (77, 1 - share)):
        count = int((found == value).sum())
        assert stats.binomtest(count, found.size, part).pvalue > 0.01


@pytest.mark.parametrize("kind, severity", ALL)
def test_defocus_blur(kind, severity):
    radius, softness = CONSTANTS["defocus_blur"][kind][severity - 1]
    reach, taps = (8, 1) if radius <= 8 else (radius, 2)
    across = np.arange(-reach, reach + 1)
    disk = np.array([[float(y * y + x * x <= radius * radius) for x in across] for y in across])
    kernel = ndimage.gaussian_filter(disk / disk.sum(), softness, mode="mirror", radius=taps)
    image = picture(32)
    wanted = ndimage.correlate(image.astype(float), kernel[:, :, None], mode="mirror")
    near(ours(blur.defocus, image, (radius, softness)), wanted)


@pytest.mark.parametrize("constants", [(0.7, 1, 2), (1.5, 4, 2), (0.05, 1, 1)])
def test_glass_blur_goes_through_the_pixels(constants):
    sigma, farthest, rounds = constants
    image, rng, size = picture(), np.random.default_rng(3), 24
    moves = [rng.integers(-farthest, farthest, (2, size, size)) for _ in range(rounds)]
    soft = ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="nearest")
    x = np.floor(soft + 1e-4)
    for down, right in moves:
        for h in range(size - farthest, farthest, -1):
            for w in range(size - farthest, farthest, -1):
                x[h, w] = x[h + down[h, w], w + right[h, w]]
    wanted = ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest")
    near(ours(blur.glass, image, constants, *moves), wanted, 1.01)


@pytest.mark.parametrize("angle", [-45, -30.5, 0, 17, 45])
def test_motion_blur(angle):
    image = picture(16)
    found = ours(blur.motion, image, (6, 2.5), (angle + 45) / 90)
    wanted = np.floor(smear(image, 6, 2.5, angle) + 0.5 / 257)
    assert (np.abs(found - wanted) > 0).mean() < 0.002 and np.abs(found - wanted).max() <= 1


@pytest.mark.parametrize("kind, severity", ALL)
def test_zoom_blur(kind, severity):
    image = picture(SIZES[kind])
    factors = np.arange(1, *CONSTANTS["zoom_blur"][kind][severity - 1])
    mean = (image + sum(zoomed(image.astype(float), f) for f in factors)) / (len(factors) + 1)
    near(ours(blur.zoom, image, CONSTANTS["zoom_blur"][kind][severity - 1]), mean)


@pytest.mark.parametrize("constants", [CONSTANTS["snow"]["imagenet"][2], CONSTANTS["snow"]["cifar"][0]])
def test_snow(constants):
    mean, deviation, factor, least, radius, sigma, share = constants
    image, n = picture(), np.random.default_rng(4).normal(size=(1, 24, 24))
    flakes = zoomed(n[0][..., None] * deviation + mean, factor)[..., 0]
    flakes = np.floor(255 * np.where(flakes < least, 0, flakes).clip(0, 1))
    flakes = np.floor(smear(flakes, radius, sigma, -100) + 0.5 / 257)[..., None]
    grey = np.asarray(Image.fromarray(image).convert("F"))[..., None]  # 299, 587 and 114 thousandths
    white = np.maximum(image, grey * 1.5 + 127.5)
    wanted = share * image + (1 - share) * white + flakes + np.rot90(flakes, 2)
    found = ours(weather.snow, image, constants, n, 35 / 90)
    assert (np.abs(found - wanted.clip(0, 255)) > 0.01).mean() < 0.01  # a flake on the border of two levels
    near(found, wanted, 2.01)


def test_frost_has_the_colours_and_the_spread_that_it_names():
    black = torch.zeros(60, 64, 64, 3, dtype=torch.uint8)
    found = corrupt(black, "frost_synthesised", 5, np.arange(60)).double().numpy() / 0.55
    colours = np.array([mean for mean, _ in frost.FROSTS])
    nearest = np.abs(found.mean((1, 2))[:, None] - colours).sum(2)
    assert nearest.min(1).mean() < 60 and len(set(nearest.argmin(1))) >= 4  # of the five, two are alike
    layers = frost.ice(64, 1.0)
    white = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 1, 64, 64))).float()
    spread = torch.fft.irfft2(torch.fft.rfft2(white) * layers, s=(64, 64)).var((0, 2, 3), correction=0)
    assert spread.numpy() == pytest.approx(np.ones(len(layers)), rel=0.1)


def test_fog():
    """The landscape point by point: each new one is the mean of four on a torus, moved."""
    side, decay, rng, image = 16, 1.75, np.random.default_rng(5), picture(13)
    land, given, step, height = np.zeros((side, side)), [], side, 100.0
    while step >= 2:
        half, places = step // 2, range(0, side, step)
        u = rng.uniform(size=(3, side // step, side // step))
        for which, (down, right) in enumerate([(half, half), (0, half), (half, 0)]):
            for i, y in enumerate(places):
                for j, x in enumerate(places):
                    y0, x0 = y + down, x + right
                    ways = [(half, half), (half, -half), (-half, half), (-half, -half)]
                    ways = ways if which == 0 else [(half, 0), (-half, 0), (0, half), (0, -half)]
                    four = sum(land[(y0 + dy) % side, (x0 + dx) % side] for dy, dx in ways) / 4
                    land[y0, x0] = four + height**2 * (2 * u[which, i, j] - 1)
        given += list(u)
        step, height = half, height / decay
    land = (land - land.min()) / np.ptp(land)
    most = image.max() / 255
    wanted = (image / 255 + 2 * land[:13, :13, None]) * most / (most + 2) * 255
    near(ours(weather.fog, image, (2, decay), *given), wanted)


@pytest.mark.parametrize("added", [0.1, 0.5])
def test_brightness(added):
    image = picture(12)
    wanted = np.zeros(image.shape)
    for y, x in np.ndindex(12, 12):
        h, s, v = colorsys.rgb_to_hsv(*(image[y, x] / 255))
        wanted[y, x] = 255 * np.array(colorsys.hsv_to_rgb(h, s, min(v + added, 1)))
    near(ours(digital.brightness, image, added), wanted)


def test_contrast():
    image = picture()
    means = image.astype(float).mean((0, 1))
    near(ours(digital.contrast, image, 0.3), (image - means) * 0.3 + means)


@pytest.mark.parametrize("constants", [(48.8, 17.08, 2.44), (4, 1.2, 1), (0, 0, 3)])
def test_elastic_transform(constants):
    height, sigma, reach = constants
    image, rng, size = picture(), np.random.default_rng(6), 24
    u, shifts = rng.uniform(size=(3, 2)), rng.uniform(size=(2, size, size))
    centre, arm = size // 2, size // 3
    old = np.array([[centre + arm] * 2, [centre + arm, centre - arm], [centre - arm] * 2], float)
    new = old + reach * (2 * u - 1)
    back = np.linalg.lstsq(np.c_[new, np.ones(3)], old, rcond=None)[0]
    y, x = np.mgrid[:size, :size].astype(float)
    from_x, from_y = np.moveaxis(np.dstack([x, y, np.ones_like(x)]) @ back, 2, 0)

    def sampled(channel, down, right, mode):
        return ndimage.map_coordinates(channel, [down, right], order=1, mode=mode)

    moved = np.dstack([sampled(image[..., k].astype(float), from_y, from_x, "mirror") for k in range(3)])
    if height:
        dx, dy = (ndimage.gaussian_filter(2 * s - 1, sigma, mode="reflect", truncate=3) * height for s in shifts)
        moved = np.dstack([sampled(moved[..., k], y + dy, x + dx, "reflect") for k in range(3)])
    near(ours(digital.elastic, image, constants, u, shifts), moved)


@pytest.mark.parametrize("kind, severity", ALL)
def test_pixelate_and_jpeg_are_pillows(kind, severity):
    image = picture(SIZES[kind])
    share, quality = (CONSTANTS[name][kind][severity - 1] for name in ("pixelate", "jpeg_compression"))
    small = Image.fromarray(image).resize([int(len(image) * share)] * 2, Image.Resampling.BOX)
    wanted = np.asarray(small.resize([len(image)] * 2, Image.Resampling.BOX))
    np.testing.assert_array_equal(ours(digital.pixelate, image, share), wanted)
    Image.fromarray(image).save(file := io.BytesIO(), "JPEG", quality=quality)
    np.testing.assert_array_equal(ours(digital.jpeg, image, quality), np.asarray(Image.open(file)))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_corrupted_alike_in_any_batch_and_more_at_higher_severity(name):
    images = torch.from_numpy(np.stack([picture(32, k) for k in range(6)]))
    change = []
    for severity in SEVERITIES:
        whole = corrupt(images, name, severity, np.arange(6))
        assert whole.dtype == torch.uint8 and whole.shape == images.shape
        part = corrupt(images[[4, 1]], name, severity, np.array([4, 1])).int()
        assert (part - whole[[4, 1]].int()).abs().max() <= 1  # sums in another order
        change.append((whole.double() - images.double()).square().mean().sqrt())
    assert change[0] > 0
    assert change[-1] > change[0] or name in ("elastic_transform", "pixelate")  # these move edges, which tells little
    assert (images.numpy() == np.stack([picture(32, k) for k in range(6)])).all()


def test_a_seed_changes_what_is_random_alone():
    images = torch.from_numpy(picture(32)[None])
    fixed = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    for name in CORRUPTIONS:
        same = torch.equal(*(corrupt(images, name, 3, np.array([0]), seed) for seed in (0, 1)))
        assert same == (name in fixed), name


def test_sizes_have_their_constants_and_names_are_told():
    assert [like(size) for size in (32, 28, 64, 96, 128, 224, 384)] == ["cifar"] * 2 + ["tiny"] * 2 + ["imagenet"] * 3
    with pytest.raises(ValueError, match="'rain' is no corruption; there are gaussian_noise"):
        corrupt(torch.zeros(1, 32, 32, 3, dtype=torch.uint8), "rain", 1, np.array([0]))


def test_frost_of_pictures_is_a_crop_of_one_of_them(tmp_path):
    rng = np.random.default_rng(5)
    made = [rng.integers(0, 256, (40 + k, 50 - k, 3)).astype(np.uint8) for k in range(5)]
    for k, pixels in enumerate(made):
        Image.fromarray(pixels).save(tmp_path / f"frost{k + 1}.png")
    pictures = frost.scaled(frost.read(tmp_path), 24, 1)
    image, (a, b, _) = picture(), CONSTANTS["frost"]["imagenet"][1]
    for which, corner in ((0, (0.0, 0.0)), (3, (0.99, 0.4)), (4, (0.5, 0.999))):
        tall, wide = made[which].shape[:2]
        top, left = math.floor(corner[0] * (tall - 24)), math.floor(corner[1] * (wide - 24))
        wanted = a * image.astype(float) + b * made[which][top : top + 24, left : left + 24]
        found = ours(partial(frost.photographed, pictures=pictures), image, (a, b, 1), which, corner)
        near(found, wanted)
    (smaller,) = frost.scaled([torch.from_numpy(made[0]).permute(2, 0, 1).float()], 5, 0.3)
    places = ((np.arange(length) + 0.5) / 0.3 - 0.5 for length in (12, 15))
    grid = np.meshgrid(*places, indexing="ij")
    linear = np.stack([ndimage.map_coordinates(made[0][..., c].astype(float), grid, order=1) for c in range(3)])
    assert np.abs(smaller.numpy() - linear).max() <= 0.51, "rounded to levels"
    drawn = corrupt(torch.zeros(9, 24, 24, 3, dtype=torch.uint8), "frost", 1, np.arange(9), 0, pictures)
    assert len({image.tobytes() for image in drawn.numpy()}) == 9
    with pytest.raises(ValueError, match="frost1 has 15 x 12 pixels, too few for images of 13"):
        frost.scaled([torch.zeros(3, 40, 50)], 13, 0.3)
    (tmp_path / "frost2.png").write_text("none")
    with pytest.raises(ValueError, match=r"frost2.png: no picture"):
        frost.read(tmp_path)
