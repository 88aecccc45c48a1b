"""How many pixels an image may have: read from its header, before memory is asked for them."""

from __future__ import annotations

MAX_PIXELS = 500_000_000  # 1.5 GB as RGB
DENSEST = 512  # pixels that a byte of a JPEG can hold: each 8 x 8 block takes a bit or more


def check_pixels(height: int, width: int, most: int = MAX_PIXELS) -> None:
    """Raises ValueError for an image of more than `most` pixels."""
    if height * width > most:
        raise ValueError(f"{width} x {height} pixels are more than the {most} that an image may have")


def check_jpeg(height: int, width: int, size: int, most: int = MAX_PIXELS) -> None:
    """Raises ValueError where a JPEG of `size` bytes says that it has more than `most` pixels, or than it can hold."""
    check_pixels(height, width, most)
    if height * width > DENSEST * size:
        raise ValueError(f"{width} x {height} pixels cannot be in a JPEG of {size} bytes; it is damaged")
