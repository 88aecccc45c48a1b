"""From the bytes of any image file to upright RGB pixels, and to what a `.beton` row holds.

A plain JPEG is kept byte for byte: grey or colour, upright by its EXIF tag, decoded by libjpeg-turbo without complaint.
Everything else is converted by Pillow:

- EXIF orientation is applied, then dropped;
- transparent pixels are laid on white;
- 16-bit grey is scaled to 8 bits by 1/257, rounded; palettes, CMYK and the like follow Pillow's conversion to RGB;
- of an animation the first picture counts.

Every image is decoded whole before it is accepted, and libjpeg's warnings (data cut short, extraneous bytes) count as
damage: half a picture is no picture.
"""

from __future__ import annotations

import io
from threading import Lock
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fastmix.pipelines.jpeg.codec import codec
from fastmix.pipelines.jpeg.limits import MAX_PIXELS, check_jpeg, check_pixels
from fastmix.pipelines.packing.format import JPEG, RAW
from fastmix.reading import reason

ORIENTATION, TURNED = 0x0112, range(2, 9)  # EXIF tag, and its values that ask for a turn
LONGEST = 65535  # pixels a side, in the .beton's metadata


class Encoded(NamedTuple):
    """What a `.beton` row holds: mode JPEG or RAW, size in pixels, bytes; kept: they are the source's own.

    why: what the source was, where it could not be kept ("PNG", "CMYK JPEG", "turned", "reduced").
    """

    mode: int
    height: int
    width: int
    data: bytes | memoryview
    kept: bool
    why: str = ""


def rgb(data: bytes) -> np.ndarray:
    """Upright pixels uint8 [H,W,3] of an image file's bytes.

    Raises ValueError with the reason for a damaged one, or one of more than MAX_PIXELS.
    """
    return _read(data, MAX_PIXELS)[0]


def encode(
    data: bytes | np.ndarray,
    max_resolution: int | None = None,
    quality: int = 90,
    as_jpeg: bool = True,
    recompress: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Encoded:
    """An image file's bytes as a `.beton` row: the same JPEG bytes where that can be, else a new JPEG or raw pixels.

    Pixels, uint8 [H,W,3], become a JPEG only with recompress, and stay pixels otherwise.

    max_resolution: longest side in pixels; a longer image is reduced with Pillow's antialiased Lanczos filter, never
    enlarged. quality: of a new JPEG (4:2:0), 1..100. recompress: make a new JPEG of every one.
    max_pixels: of the image as it comes. Raises ValueError with the reason for a damaged image, or one of more pixels.
    """
    bare = isinstance(data, np.ndarray)
    pixels, why = (data, "pixels") if bare else _read(data, max_pixels)
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if max_resolution and longest > max_resolution:
        size = tuple(max(1, round(side * max_resolution / longest)) for side in (width, height))
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
        why = why or "reduced"
        height, width = pixels.shape[:2]
    if max(height, width) > LONGEST:
        raise ValueError(f"{width} x {height} pixels; a side can have {LONGEST} at most, see --max-resolution")
    if not as_jpeg or (bare and not recompress):
        return Encoded(RAW, height, width, np.ascontiguousarray(pixels).reshape(-1).data, False)
    if recompress or why:
        pixels = np.ascontiguousarray(pixels)
        data = codec().encode_jpeg(pixels, quality, "RGB", "420", fastdct=False)
        return Encoded(JPEG, height, width, data, False, why)
    return Encoded(JPEG, height, width, data, True)


def _read(data: bytes, most: int) -> tuple[np.ndarray, str]:
    """Pixels, of which there may be `most`, and what the data is, if it is no plain JPEG."""
    if not data:
        raise ValueError("empty file")
    try:
        with _unlimited:
            image = Image.open(io.BytesIO(data))
        width, height = image.size
        if image.format in ("JPEG", "MPO"):
            check_jpeg(height, width, len(data), most)
        check_pixels(height, width, most)
        why = _why(image, data)
        if not why:
            return codec().decode_jpeg(data, fastdct=False, fastupsample=False), ""
        return np.asarray(_convert(ImageOps.exif_transpose(image))), why
    except UnidentifiedImageError:
        raise ValueError("not an image file, or of a kind that Pillow does not know") from None
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
        raise ValueError(reason(error)) from error


class _Unlimited:
    """Pillow without its own limit on pixels, which knows nothing of a later reduction, while a header is read."""

    def __init__(self):
        self.lock = Lock()

    def __enter__(self) -> None:
        self.lock.acquire()
        self.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None

    def __exit__(self, *_) -> None:
        Image.MAX_IMAGE_PIXELS = self.limit
        self.lock.release()


_unlimited = _Unlimited()


def _why(image: Image.Image, data: bytes) -> str:
    """What an image is that is no plain JPEG; "" for one that is."""
    if image.format != "JPEG":
        return str(image.format)
    if image.mode not in ("RGB", "L"):
        return f"{image.mode} JPEG"
    if image.getexif().get(ORIENTATION) in TURNED:
        return "turned"
    header = codec().decode_jpeg_header
    try:
        height, width, *_ = header(data)
    except ValueError:  # which TurboJPEG refuses and Pillow reads
        return "unusual subsampling"
    return "" if (width, height) == image.size else "two sizes"


def _convert(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range; convert the file to 8 bits first")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
