"""Pictures of first batches, made small enough to lie within a page."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path

FILE = "first_batch.png"
ALL = 1_600_000
"""Bytes of all pictures of a page, of which each may have its part; base64 makes a third more of them."""
MOST = 40_000
"""Bytes of one picture."""
WIDTHS = (560, 448, 320, 224, 160)
"""Pixels to which a picture is made narrower, until it is small enough. One that is narrower is left as it is."""
QUALITY = 82


class Album:
    """Pictures of run folders, each made small once."""

    def __init__(self):
        self.kept: dict[tuple, str | None] = {}

    def take(self, folders: Sequence[Path]) -> list[str | None]:
        """The first batch of each run as a data address; None where there is none to show."""
        signs = [_sign(folder / FILE) for folder in folders]
        most = min(MOST, ALL // max(1, len(signs) - signs.count(None)))
        keys = [(folder / FILE, sign, most) for folder, sign in zip(folders, signs, strict=True)]
        self.kept = {key: self.kept[key] if key in self.kept else key[1] and small(key[0], most) for key in keys}
        return [self.kept[key] for key in keys]


def _sign(path: Path) -> tuple | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def small(path: Path, most: int) -> str | None:
    """The picture in a file as the data address of a JPEG of at most so many bytes.

    None for one that cannot be read, such as a part of a file, and for one that stays too large.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    for width in WIDTHS:
        if image.width > width:
            image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.BOX)
        out = io.BytesIO()
        image.save(out, "JPEG", quality=QUALITY)
        if len(out.getvalue()) <= most:
            return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
    return None
