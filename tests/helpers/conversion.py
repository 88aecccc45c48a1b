"""Image files of every kind in class folders, to be packed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastmix import cli, convert


def smooth(height: int = 20, width: int = 32, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Pixels that a JPEG keeps well."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, channels), dtype=np.uint8)
    bands = [
        Image.fromarray(corners[..., c]).resize((width, height), Image.Resampling.BILINEAR) for c in range(channels)
    ]
    return np.stack([np.asarray(band) for band in bands], -1)


def saved(image: Image.Image | np.ndarray, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def turned(data: np.ndarray, orientation: int, kind: str = "JPEG", **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(data, kind, exif=exif, **options)


def tree(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def two_classes(folder: Path, n: int = 6) -> Path:
    return tree(folder, {f"{c}/{k}.jpg": saved(smooth(seed=10 * k + i)) for i, c in enumerate("ab") for k in range(n)})


def fails(argv: list, capsys: pytest.CaptureFixture) -> str:
    """Runs the command, which must end with exit code 2 and one line; returns the line."""
    assert cli.run(convert.main, "convert", [str(a) for a in argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fastmix convert: error: ") and err.count("\n") == 1
    return err.strip().removeprefix("fastmix convert: error: ")


KEPT = {
    "colour": saved(smooth(), quality=80),
    "4:4:4": saved(smooth(), subsampling=0),
    "grey": saved(smooth()[..., 0]),
    "progressive": saved(smooth(), progressive=True),
    "RGB inside": saved(smooth(), keep_rgb=True),
    "upright tag": turned(smooth(), 1),
    "invalid tag": turned(smooth(), 0),
    "odd size": saved(smooth(17, 13)),
}
PIXELS = smooth(20, 32, seed=4)
ALPHA = smooth(20, 32, seed=5, channels=1)
ON_WHITE = (PIXELS * (ALPHA / 255) + 255 * (1 - ALPHA / 255)).astype(np.float64)
WIDE = np.linspace(0, 65535, 640).reshape(20, 32).astype(np.uint16)
PALETTE = Image.fromarray(PIXELS).quantize(17)
CLEAR = Image.fromarray(np.where(PIXELS[..., 0] > 128, 255, 0).astype(np.uint8)).convert("1")
CONVERTED = {  # file, pixels that are expected, bound on the difference
    "png": (saved(PIXELS, "PNG"), PIXELS, 0),
    "bmp": (saved(PIXELS, "BMP"), PIXELS, 0),
    "tiff": (saved(PIXELS, "TIFF"), PIXELS, 0),
    "webp": (saved(PIXELS, "WEBP", lossless=True), PIXELS, 0),
    "ppm": (saved(PIXELS, "PPM"), PIXELS, 0),
    "grey png": (saved(PIXELS[..., 1], "PNG"), PIXELS[..., [1, 1, 1]], 0),
    "palette": (saved(PALETTE, "PNG"), np.array(PALETTE.getpalette()[:51]).reshape(-1, 3)[np.asarray(PALETTE)], 0),
    "one bit": (saved(CLEAR, "PNG"), np.repeat(np.asarray(CLEAR)[..., None] * 255, 3, -1), 0),
    "16-bit grey": (saved(WIDE, "PNG"), np.repeat(WIDE[..., None] / 257, 3, -1), 0.5),
    "alpha": (saved(np.concatenate([PIXELS, ALPHA], -1), "PNG"), ON_WHITE, 1),
    "grey alpha": (saved(np.concatenate([PIXELS[..., :1], ALPHA], -1), "PNG"), ON_WHITE[..., [0, 0, 0]], 1),
    "colour key": (
        saved(Image.new("RGB", (4, 3), (9, 8, 7)), "PNG", transparency=(9, 8, 7)),
        np.full((3, 4, 3), 255),
        0,
    ),
    "cmyk": (saved(Image.fromarray(PIXELS).convert("CMYK"), quality=100), PIXELS, 4),
}
TURNS = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x),
}
CONVERTED |= {
    f"turned {k} {kind}": (turned(PIXELS, k, kind, **options), turn(PIXELS), bound)
    for k, turn in TURNS.items()
    for kind, options, bound in [("PNG", {}, 0), ("JPEG", {"quality": 100, "subsampling": 0}, 4)]
}
WHOLE = saved(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
DAMAGED = {
    "empty.jpg": (b"", "empty file"),
    "text.jpg": (b"<html>404</html>", "not an image file"),
    "half.jpg": (WHOLE[: len(WHOLE) // 2], "Premature end of JPEG file"),
    "no_end.jpg": (WHOLE[:-2], "Premature end of JPEG file"),
    "head.jpg": (WHOLE[:200], "Truncated|truncated|cannot|Could not|broken|file"),
    "zeroed.jpg": (WHOLE[:1000] + bytes(300) + WHOLE[1300:], "Corrupt JPEG data"),
    "half.png": (saved(PIXELS, "PNG")[:-40], "truncated"),
    "half_turned.jpg": (turned(PIXELS, 6)[:-40], "truncated"),
    "float.tiff": (saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "mode F have no known range"),
    "long.png": (saved(Image.new("L", (70000, 1)), "PNG"), "70000 x 1 pixels; a side can have 65535 at most"),
}
