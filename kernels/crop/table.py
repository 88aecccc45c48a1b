"""What the crop pass reads of each output: 64 bytes that say where its image lies and what of it is wanted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

SUPPORTS = {"bilinear": 1.0, "bicubic": 2.0}  # how far the filter reaches at scale 1, in pixels

# An output's row of the table. All zero: a black image.
ROW = np.dtype(
    [
        ("place", "<i8"),  # bytes from the pixels' first one to the first that the filter sees
        *((step, "<i4") for step in ("line", "pixel", "channel")),  # bytes to the next of these
        *((name, kind) for axis in "yx" for name, kind in (
            (f"low_{axis}", "<i4"),  # the first pixel that the filter sees, counted from the window's corner
            (f"high_{axis}", "<i4"),  # and the one after the last
            (f"start_{axis}", "<f4"),  # where the window begins in its corner's pixel, 0..1
            (f"scale_{axis}", "<f4"),  # its extent / S
        )),
        ("support", "<f4"),
        ("flip", "<i4"),
        ("reflect", "<i4"),  # the pixels outside are those inside, mirrored at the first and at the last one
    ],
    align=True,
)  # fmt: skip
WORDS = ROW.itemsize // 4


def rows(
    heights: np.ndarray,
    widths: np.ndarray,
    windows: np.ndarray,
    flips: np.ndarray,
    size: int,
    offsets: np.ndarray,
    *,
    planar: bool | np.ndarray = False,
    interpolation: str = "bilinear",
    whole: bool = False,
    reflect: bool = False,
) -> np.ndarray:
    """The table of `crop`, int32 [n, WORDS], for n images of these sizes.

    heights, widths int [n]; windows (y, x, h, w) float64 [n,4] in pixels; flips bool [n]; size: pixels of both sides of
    the results; offsets int64 [n]: bytes from the pixels' first one to the image's; planar bool or bool [n]: [3,h,w],
    not [h,w,3]. A window of the results' size at an integer place is copied, and is 0 outside the image; any other must
    lie inside. whole: the filter sees the pixels around the window too, not the window alone. reflect: a copied window
    shows the image mirrored outside it, without its edge pixel once more, and 0 beyond its mirror image.
    Raises ValueError for an image of 2**31 bytes or more.
    """
    table = np.zeros(len(windows), ROW)
    heights, widths, offsets = (np.asarray(v, np.int64) for v in (heights, widths, offsets))
    if (large := 3 * heights * widths >= 2**31).any():
        k = int(large.argmax())
        raise ValueError(f"crop: image {k} has {widths[k]} x {heights[k]} pixels, 2**31 bytes or more: reduce it first")
    table["line"], table["pixel"] = np.where(planar, widths, 3 * widths), np.where(planar, 1, 3)
    table["channel"] = np.where(planar, heights * widths, 1)
    table["flip"] = flips
    table["place"] = offsets
    corner = np.floor(windows[:, :2])
    copied = (windows[:, 2:] == size).all(1) & (windows[:, :2] == corner).all(1)
    table["support"] = np.where(copied, 0.5, SUPPORTS[interpolation])
    table["reflect"] = reflect & copied
    for k, (axis, lengths) in enumerate(zip("yx", (heights, widths), strict=True)):
        start, extent = windows[:, k], windows[:, 2 + k]
        all_seen = whole | copied
        low = np.where(all_seen, 0, np.floor(start + 1e-6))
        high = np.where(all_seen, lengths, np.minimum(np.ceil(start + extent - 1e-6), lengths))
        table[f"low_{axis}"], table[f"high_{axis}"] = low - corner[:, k], high - corner[:, k]
        table[f"start_{axis}"], table[f"scale_{axis}"] = start - corner[:, k], extent / size
        table["place"] += (low * table["line" if axis == "y" else "pixel"]).astype(np.int64)
    return table.view(np.int32).reshape(-1, WORDS)


def offsets(images: Sequence[Tensor]) -> np.ndarray:
    """Bytes from the first image's memory to each one's, int64 [n], where every image is a tensor of its own."""
    addresses = np.array([image.data_ptr() for image in images], np.int64)
    return addresses - addresses[:1]
