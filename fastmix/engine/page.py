"""The page of a contact sheet: blocks of framed images with their words, on white."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from fastmix import mixers
from fastmix.engine import lettering, picture
from fastmix.engine.mixtures import Block, Cell, colour_of, letter_of
from fastmix.engine.picture import BLACK, DARK, EDGE, GAP, MARGIN, SIZE, WHITE, Label

TITLE, NAME, SMALL = 20, 14, 10  # pixels of letters
LINE = 14  # pixels of a line of small letters
GUTTER = 18  # pixels at the left for the letters of the images, where more than one is drawn
APART = 22  # pixels between two blocks
NOTES, REASON = 3, 12  # lines at most of a block's note, and of why it could not be drawn
PALE = (243, 243, 243)
LEGEND = (
    "Upper image: the mask, white where the image itself is seen and black where its partner is; of three and more "
    "images each other one has its colour. Lower image: what the network is given. Below: how much each label counts."
)
TONES = ((90, 90, 90), (150, 75, 0), (0, 110, 80), (0, 90, 160), (130, 50, 130), (180, 50, 30), (70, 90, 20))


def page(
    blocks: list[Block], images: np.ndarray, labels: list[int], class_names: list[str], across: int, tile: int | None,
    title: str, own: int,
) -> np.ndarray:  # fmt: skip
    """The whole picture, uint8 [H,W,3]: the images uint8 [N,h,w,3] with their labels, then the blocks, `across` of them
    side by side.

    images: those of the batch, and from `own` on those of the step before; only those that a block names are shown.
    tile: pixels that an image is wide; None: as many as it has, or LEAST.
    """
    size = tile or picture.enlarged(images[:1]).shape[2]
    columns = max((len(row) for block in blocks for row in block.rows), default=1)
    gutter = GUTTER * (max(len(block.rows) for block in blocks) > 1)
    width = max(gutter + columns * (size + 2 + GAP) - GAP, 160)
    bands = []
    for first in range(0, len(blocks), across):
        some = blocks[first : first + across]
        notes = max(len(lettering.wrapped(block.note, width, SMALL, NOTES)) for block in some)
        parts = [_block(block, class_names, size, width, gutter, notes) for block in some]
        bands.append(_beside(parts, APART))
    full = max(band.width for band in bands)
    head = _head(blocks, images, labels, class_names, size, max(full, 420), title, own)
    return np.asarray(_framed(_below([head, *bands], APART)))


def scaled(image: np.ndarray, size: int) -> Image.Image:
    """An image uint8 [h,w,3] so many pixels wide: pixels repeated where that is a multiple, else resampled."""
    height, width = image.shape[:2]
    if size % width == 0:
        return Image.fromarray(image.repeat(size // width, 0).repeat(size // width, 1))
    method = Image.Resampling.LANCZOS if size < width else Image.Resampling.BICUBIC
    return Image.fromarray(image).resize((size, max(1, round(height * size / width))), method)


def _block(block: Block, class_names: list[str], size: int, width: int, gutter: int, notes: int) -> Image.Image:
    """One method's part of the page, with room for `notes` lines of its note."""
    tone = TONES[[*mixers.FAMILIES, block.family].index(block.family) % len(TONES)]
    parts = [_header(block, width, tone, notes)]
    if block.reason:
        parts.append(_card(f"not drawn: {block.reason}", width, 2 * size, REASON))
    for k, row in enumerate(block.rows):
        line = Image.new("RGB", (gutter, 1), WHITE) if not gutter else _letter(k, gutter, size)
        parts.append(_beside([line, *[_cell(cell, class_names, size) for cell in row]], GAP, first=0))
    return _wide(_below(parts, 2), width)


def _header(block: Block, width: int, tone: tuple, notes: int) -> Image.Image:
    image, pen = _empty(width, 28 + LINE * notes)
    pen.rectangle((0, 0, width, 2), tone)
    name = lettering.fitted(block.name, width, NAME, bold=True)
    end = lettering.write(pen, (0, 20), name, NAME, BLACK, bold=True)
    family = lettering.fitted(block.family, max(width - end - 10, 1), SMALL)
    if len(family) > 3:
        lettering.write(pen, (width - lettering.length(family, SMALL), 20), family, SMALL, tone)
    for k, line in enumerate(lettering.wrapped(block.note, width, SMALL, NOTES)):
        lettering.write(pen, (0, 34 + LINE * k), line, SMALL, DARK)
    return image


def _cell(cell: Cell, class_names: list[str], size: int) -> Image.Image:
    """A column of a row: what was drawn, the mask or words, the mixture, its labels."""
    lower = scaled(cell.pixels, size)
    upper = _card(cell.upper, size, lower.height, 8) if isinstance(cell.upper, str) else scaled(cell.upper, size)
    labels = cell.labels
    lines = picture.lines_of(labels, class_names, [_named(label) for label in labels])
    image, pen = _empty(size + 2, LINE + 2 * (lower.height + 4) + LINE * (len(lines) + bool(cell.note)) + 4)
    lettering.write(pen, (1, LINE - 3), lettering.fitted(cell.head, size, SIZE), SIZE, BLACK)
    picture.place(image, np.asarray(upper), 1, LINE + 1)
    picture.place(image, np.asarray(lower), 1, LINE + lower.height + 5)
    y = LINE + 2 * (lower.height + 4)
    for k, line in enumerate(lines):
        colour = colour_of(labels[k].source) if labels[k].source is not None else DARK
        lettering.write(pen, (1, y + LINE * (k + 1) - 3), lettering.fitted(line, size, SMALL), SMALL, colour)
    if cell.note:
        y += LINE * len(lines)
        lettering.write(pen, (1, y + LINE - 3), lettering.fitted(cell.note, size, SMALL), SMALL, DARK)
    return image


def _head(
    blocks: list[Block], images: np.ndarray, labels: list[int], class_names: list[str], size: int, width: int,
    title: str, own: int,
) -> Image.Image:  # fmt: skip
    """The title, the images that are mixed, each with its letter and class, and what the parts of a block are."""
    cells = [cell for block in blocks for row in block.rows for cell in row]
    used = sorted({k for cell in cells for k in cell.sources})
    names = [picture.name_of(class_names, label) for label in labels]
    tiles = [_source(images[k], k, names[k], k >= own, size) for k in used]
    strip = _beside(tiles, GAP) if tiles else _empty(1, 1)[0]
    left = width - strip.width - APART
    words = _words(LEGEND, left if left > 200 else width)
    body = _beside([strip, words], APART) if left > 200 else _below([strip, words], GAP)
    if not title:
        return body
    top, pen = _empty(width, TITLE + 8)
    lettering.write(pen, (0, TITLE - 2), lettering.fitted(title, width, TITLE, bold=True), TITLE, BLACK, bold=True)
    return _below([top, body], GAP)


def _source(image: np.ndarray, k: int, name: str, past: bool, size: int) -> Image.Image:
    tile = scaled(image, size)
    out, pen = _empty(size + 2, tile.height + 2 + LINE * (1 + past))
    picture.place(out, np.asarray(tile), 1, 1, colour_of(k))
    end = lettering.write(pen, (1, tile.height + LINE), f"{letter_of(k)} ", SIZE, colour_of(k), bold=True)
    lettering.write(pen, (end, tile.height + LINE), lettering.fitted(name, size - end, SIZE), SIZE, BLACK)
    if past:
        words = lettering.fitted("step before", size, SMALL)
        lettering.write(pen, (1, tile.height + 2 * LINE), words, SMALL, DARK)
    return out


def _letter(k: int, gutter: int, size: int) -> Image.Image:
    image, pen = _empty(gutter, LINE + size)
    lettering.write(pen, (0, LINE + size // 2 + 5), letter_of(k), NAME, colour_of(k), bold=True)
    return image


def _card(words: str, width: int, height: int, most: int) -> Image.Image:
    """Words in place of an image."""
    image, pen = _empty(width, height, PALE)
    pen.rectangle((0, 0, width - 1, height - 1), None, EDGE)
    for k, line in enumerate(lettering.wrapped(words, width - 8, SMALL, min(most, (height - 6) // (LINE - 1)))):
        lettering.write(pen, (4, 4 + (LINE - 1) * (k + 1) - 3), line, SMALL, BLACK)
    return image


def _words(words: str, width: int) -> Image.Image:
    lines = lettering.wrapped(words, width, SIZE, 10)
    image, pen = _empty(width, (LINE + 2) * len(lines) + 4)
    for k, line in enumerate(lines):
        lettering.write(pen, (0, (LINE + 2) * (k + 1) - 3), line, SIZE, DARK)
    return image


def _named(label: Label) -> str:
    return "" if label.source is None else letter_of(label.source)


def _empty(width: int, height: int, colour=WHITE) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (max(1, round(width)), max(1, round(height))), colour)
    return image, ImageDraw.Draw(image)


def _beside(parts: list[Image.Image], gap: int, first: int | None = None) -> Image.Image:
    """Parts side by side, their tops in line; first: the gap behind the first one, where it is another."""
    page, _ = _empty(sum(part.width for part in parts) + gap * (len(parts) - 1), max(part.height for part in parts))
    x = 0
    for k, part in enumerate(parts):
        page.paste(part, (x, 0))
        x += part.width + (first if k == 0 and first is not None else gap)
    return page


def _below(parts: list[Image.Image], gap: int) -> Image.Image:
    page, _ = _empty(max(part.width for part in parts), sum(part.height for part in parts) + gap * (len(parts) - 1))
    y = 0
    for part in parts:
        page.paste(part, (0, y))
        y += part.height + gap
    return page


def _wide(image: Image.Image, width: int) -> Image.Image:
    page, _ = _empty(width, image.height)
    page.paste(image, (0, 0))
    return page


def _framed(image: Image.Image) -> Image.Image:
    page, _ = _empty(image.width + 2 * MARGIN, image.height + 2 * MARGIN)
    page.paste(image, (MARGIN, MARGIN))
    return page
