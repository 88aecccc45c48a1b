"""Fonts by the letters that they have, against their own tables; lines against the widths that they must fit."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from fastmix.engine import lettering

CACHES = (lettering._others, lettering._has, lettering._font)
FOX = "The quick brown fox jumps over the lazy dog, Ærøskøbing, Łódź, Ωμέγα, Жёлтый, λ 0.4, …"


@pytest.fixture
def fonts(tmp_path, monkeypatch):
    """A folder of fonts that the system looks into, beside those that are installed."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "fonts").mkdir()
    for cache in CACHES:
        cache.cache_clear()
    yield tmp_path / "fonts"
    for cache in CACHES:
        cache.cache_clear()


def made(path: Path, letters: str) -> None:
    """A font in which each of these letters is a bar of its own height."""
    builder = pytest.importorskip("fontTools.fontBuilder").FontBuilder(1000, isTTF=True)
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    names = [".notdef", *(f"letter{k}" for k in range(len(letters)))]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"letter{k}" for k, c in enumerate(letters)})
    glyphs = {}
    for k, name in enumerate(names):
        pen, top = TTGlyphPen(None), 500 + 20 * k
        pen.moveTo((100, 0))
        for point in ((100, top), (900, top), (900, 0)):
            pen.lineTo(point)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics({name: (1000, 100) for name in names})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


def test_a_font_has_the_letters_of_its_table():
    table = pytest.importorskip("fontTools.ttLib")
    font = lettering.face("a", 16)
    if not isinstance(font.path, str):
        pytest.skip("no DejaVu here")
    known = table.TTFont(font.path).getBestCmap()
    letters = [chr(k) for k in [*range(0x20, 0x700, 3), *range(0x900, 0x980, 5), *range(0x4E00, 0x4F00, 16)]]
    letters = [c for c in letters if unicodedata.category(c)[0] in "LNPS"]
    assert 300 < sum(ord(c) in known for c in letters) < len(letters)
    assert [c for c in letters if lettering._has(lettering.REGULAR, c) != (ord(c) in known)] == []


def test_a_script_has_the_installed_font_that_covers_it(fonts):
    assert lettering.face("猫犬", 16) is None or "Made" not in lettering.face("猫犬", 16).path
    for cache in CACHES:
        cache.cache_clear()
    letters = "\U00016a40\U00016a41 "  # of Mro, which few systems have
    made(fonts / "Made.ttf", letters)
    font = lettering.face(letters, 16)
    assert font.path == str(fonts / "Made.ttf") and lettering.has(letters + FOX)
    words = f"two {letters.strip()} three"
    assert "".join(part for part, _ in lettering.runs(words, 16)) == words
    paths = [font.path for _, font in lettering.runs(words, 16)]
    assert str(fonts / "Made.ttf") in paths and len(paths) == 3
    assert lettering.lacking([words, FOX]) == []


def test_a_script_without_a_font_is_named_once_and_no_box_is_drawn(fonts):
    names = ["cat", "\U00016a40", "\U00016a41\U00016a42"]
    assert [line.split(":")[0] for line in lettering.lacking(names)] == [
        "no installed font has Mro letters, such as U+16A40"
    ]
    assert not lettering.has(names[1]) and lettering.has(names[0])
    assert "".join(part for part, _ in lettering.runs("a\U00016a40\tb", 16)) == "a? b"


@pytest.mark.parametrize("size", [10, 14])
@pytest.mark.parametrize("bold", [False, True])
def test_a_line_is_no_wider_than_it_may_be(size, bold):
    for words in (FOX, "wwwwwwwwwwwwwwwwwwww", "قهوة عربية سوداء", "e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301"):
        whole = lettering.length(words, size, bold)
        assert lettering.fitted(words, whole, size, bold) == words
        for width in np.linspace(size * 1.5, whole - 0.5, 7):
            short = lettering.fitted(words, width, size, bold)
            assert short.endswith("…") and lettering.length(short, size, bold) <= width
            kept = short[:-1]
            assert words.startswith(kept) and not (kept and unicodedata.combining(words[len(kept)]))
            one_more = next((k for k in range(len(kept) + 1, len(words)) if not unicodedata.combining(words[k])), None)
            if one_more and words[one_more - 1] != " ":
                assert lettering.length(words[:one_more] + "…", size, bold) > width


def test_words_are_wrapped_and_the_last_line_says_that_there_is_more():
    width = 90
    lines = lettering.wrapped(FOX, width, 12, 99)
    assert " ".join(lines) == FOX and max(lettering.length(line, 12) for line in lines) <= width
    for one, two in zip(lines, lines[1:], strict=False):
        assert lettering.length(f"{one} {two.split()[0]}", 12) > width
    some = lettering.wrapped(FOX, width, 12, 3)
    assert some[:2] == lines[:2] and len(some) == 3 and some[2].endswith("…")
    assert lettering.wrapped("", width, 12, 3) == []


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow without raqm")
def test_a_number_stands_before_a_name_from_right_to_left():
    """The line begins with the ink of the number alone; the name is that of the name alone."""

    def ink(words: str) -> np.ndarray:
        image = Image.new("L", (200, 40), 255)
        lettering.write(ImageDraw.Draw(image), (4, 28), words, 16, (0,))
        return np.asarray(image) < 128

    number, name, both = ink("0.50 "), ink("قهوة عربية"), ink("0.50 قهوة عربية")
    split = round(4 + lettering.length("0.50 ", 16))
    assert number[:, :split].sum() > 20 and (both[:, : split - 1] == number[:, : split - 1]).all()
    assert abs(int(both[:, split - 1 :].sum()) - int(name.sum())) <= 0.1 * name.sum()


@pytest.mark.parametrize("words", ["gjpqy|ÅÉ", "λ 0.4", "A 0.60 cat"])
def test_no_ink_is_outside_of_the_line(words):
    """Drawn on a larger page, and looked for: within its width, and a line's height around the baseline."""
    image = Image.new("RGB", (400, 60), "white")
    end = lettering.write(ImageDraw.Draw(image), (50, 35), words, 12, (0, 0, 0))
    assert end == pytest.approx(50 + lettering.length(words, 12))
    ys, xs = np.nonzero((np.asarray(image) < 255).any(2))
    assert xs.min() >= 49 and xs.max() <= end + 1 and ys.min() >= 35 - 14 and ys.max() <= 35 + 5
