"""Words in pictures: installed fonts that have their letters, and lines that fit a width."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from functools import cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

from PIL import ImageDraw, ImageFont, features

DOTS = "…"
ENDINGS = (".ttf", ".otf", ".ttc", ".otc")
NO_LETTER = "\U0010fffe"  # which no font has: what it draws in its place
SIZE = 16  # pixels at which letters are looked for

LINES = {"direction": "ltr"} if features.check("raqm") else {}  # from the left, whatever script a line begins with

Run = tuple[str, ImageFont.FreeTypeFont]
Colour = tuple[int, int, int]


def write(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], words: str, size: int, colour: Colour, bold: bool = False
) -> float:
    """Draws a line of words, whose baseline begins at `place`; returns where it ends."""
    x, y = place
    for part, font in runs(words, size, bold):
        pen.text((x, y), part, colour, font, anchor="ls", **LINES)
        x += font.getlength(part, **LINES)
    return x


def length(words: str, size: int, bold: bool = False) -> float:
    """Pixels that a line takes."""
    return sum(font.getlength(part, **LINES) for part, font in runs(words, size, bold))


def fitted(words: str, width: float, size: int, bold: bool = False) -> str:
    """The line, or as many of its first letters as leave room for an ellipsis; no letter loses its marks."""
    if length(words, size, bold) <= width:
        return words
    ends = [k for k in range(1, len(words)) if not _joins(words[k]) and words[k - 1] != "\u200d"]
    fits = [words[:k].rstrip() + DOTS for k in ends if length(words[:k].rstrip() + DOTS, size, bold) <= width]
    return max(fits, key=len, default=DOTS)


def wrapped(words: str, width: float, size: int, most: int, bold: bool = False) -> list[str]:
    """The words on lines of that width, at most so many; a word that is too long, and the last line, are shortened."""
    lines, left = [], words.split()
    while left and len(lines) < most:
        count = next((k for k in range(len(left), 1, -1) if length(" ".join(left[:k]), size, bold) <= width), 1)
        if len(lines) == most - 1:
            count = len(left)
        lines.append(fitted(" ".join(left[:count]), width, size, bold))
        left = left[count:]
    return lines


def runs(words: str, size: int, bold: bool = False) -> list[Run]:
    """The words with the font of each part: one for all where there is one, else one for each word or letter.

    What no font has becomes a question mark, what cannot be seen (a tab) a space.
    """
    words = "".join(c if c.isprintable() or _joins(c) else " " for c in words)
    if not words:
        return []
    if font := face(words, size, bold):
        return [(words, font)]
    parts = []
    for word in re.findall(r"\S+\s*|\s+", words):
        whole = face(word, size, bold)
        parts += [(word, whole)] if whole else [(c, face(c, size, bold)) for c in word]
    known = [(part, font) if font else ("?", face("?", size, bold)) for part, font in parts]
    return [("".join(part for part, _ in same), font) for font, same in groupby(known, lambda run: run[1])]


def lacking(names: list[str]) -> list[str]:
    """A line on each script of these names that no installed font has, or that cannot be set."""
    letters = sorted({c for name in names for c in name if c.isprintable()})
    lines, told = [], set()
    for c in letters:
        script = unicodedata.name(c, "other").split()[0].capitalize().replace("Cjk", "CJK")
        if script not in told and face(c, SIZE) is None:
            told.add(script)
            lines.append(f"no installed font has {script} letters, such as U+{ord(c):04X}: install one (Noto has all)")
    if any(unicodedata.bidirectional(c) in ("R", "AL") for c in letters) and not features.check("raqm"):
        lines.append("words are not set from right to left: install libfribidi")
    return lines


def face(words: str, size: int, bold: bool = False) -> ImageFont.FreeTypeFont | None:
    """The first font that has all of these letters, DejaVu Sans before others; None: no font has."""
    for path in ([BOLD] * bold) + [REGULAR]:
        if all(_has(path, c) for c in words):
            return _font(path, size)
    return next((_font(path, size) for path in _others() if all(_has(path, c) for c in words)), None)


def has(words: str) -> bool:
    """Whether installed fonts have all of these letters."""
    return all(face(c, SIZE) is not None for c in {*words} if c.isprintable())


REGULAR, BOLD = "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"


@cache
def _font(path: str, size: int, basic: bool = False) -> ImageFont.FreeTypeFont | None:
    """A font of a file, or of the folders of the system by its name. Without DejaVu that which comes with Pillow."""
    layout = ImageFont.Layout.BASIC if basic or not features.check("raqm") else ImageFont.Layout.RAQM
    for place in dict.fromkeys([path, str(_matplotlibs() / path)]):
        try:
            return ImageFont.truetype(place, size, layout_engine=layout)
        except (OSError, ValueError):
            continue
    return ImageFont.load_default(size) if path in (REGULAR, BOLD) else None


@cache
def _has(path: str, letter: str) -> bool:
    if letter.isspace() or unicodedata.category(letter) == "Cf":
        return True
    font = _font(path, SIZE, basic=True)
    try:
        return font is not None and _drawn(font, letter) != _drawn(font, NO_LETTER)
    except OSError:  # of a damaged font
        return False


def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> tuple:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@cache
def _others() -> list[str]:
    """The other installed font files: upright ones of medium weight first, of Noto before others."""
    found = {}
    for folder in [*_folders(), _matplotlibs()]:
        for root, _, names in os.walk(folder):
            found |= {os.path.join(root, name): name for name in names if name.lower().endswith(ENDINGS)}

    def rank(path: str) -> tuple:
        name = found[path].lower()
        odd = any(word in name for word in ("bold", "italic", "oblique", "mono", "thin", "black", "light", "condensed"))
        return odd, "serif" in name, not name.startswith("noto"), name, path

    return sorted((path for path, name in found.items() if not name.startswith("LastResort")), key=rank)


def _folders() -> list[Path]:
    """Where systems keep fonts."""
    home, get = Path.home(), os.environ.get
    if sys.platform == "darwin":
        return [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    if os.name == "nt":
        return [Path(get("LOCALAPPDATA", "")) / "Microsoft/Windows/Fonts", Path(get("WINDIR", "C:/Windows")) / "Fonts"]
    shared = (get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")
    own = get("XDG_DATA_HOME") or home / ".local/share"
    return [home / ".fonts", *(Path(part) / "fonts" for part in (own, *shared))]


@cache
def _matplotlibs() -> Path:
    """The fonts that come with matplotlib, where it is installed; it is not imported."""
    spec = find_spec("matplotlib")
    return Path(spec.origin).parent / "mpl-data/fonts/ttf" if spec and spec.origin else Path("no fonts")


def _joins(letter: str) -> bool:
    """Whether it belongs to the letter before it: a mark, a joiner, a variant."""
    return unicodedata.category(letter) in ("Mn", "Mc", "Me", "Cf")
