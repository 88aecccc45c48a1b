"""Text of any letters as a Markdown or LaTeX table, read back by a reader written for this test."""

import re
import string

from fastmix.runs.tables import latex, markdown

WORD = "a" + string.punctuation.replace("*", "") + "z – ± † x_y runs/a-1"  # a pair of stars is bold
SAID = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"$\pm$": "±"}
SAID |= {r"$^\dagger$": "†", "--": "–", "$<$": "<", "$>$": ">", "$|$": "|", "$-$": "-"}


def said(text: str) -> str:
    """What LaTeX sets for a text. Fails for a sign that it would take for its own."""
    found = ""
    while text:
        known = next((key for key in SAID if text.startswith(key)), "")
        if known:
            found, text = found + SAID[known], text[len(known) :]
        elif escaped := re.match(r"\\([&%$#_{}])", text):
            found, text = found + escaped[1], text[2:]
        else:
            assert text[0] not in "\\{}$&#^_~%<>|" and text[0].isascii(), text
            found, text = found + text[0], text[1:]
    return found


def test_latex_sets_any_letters_as_they_are():
    text = latex([WORD, "n"], [[WORD, "-1.5 ± 0.2"], ["b", "+2"]], [f"told {WORD}", f"† {WORD}"])
    begin, *lines = text.splitlines()
    assert begin == r"\begin{tabular}{lr}" and text.isascii()
    cells = [re.split(r" (?<!\\)& ", line.removesuffix(r" \\")) for line in lines if line.endswith(r" \\")]
    assert [[said(cell) for cell in line] for line in cells] == [[WORD, "n"], [WORD, "-1.5 ± 0.2"], ["b", "+2"]]
    assert cells[1][1] == r"$-$1.5 $\pm$ 0.2", "a minus sign, no hyphen"
    notes = [
        said(line.removesuffix(r"\par")) for line in lines if line.endswith(r"z -- $\pm$ $^\dagger$ x\_y runs/a-1\par")
    ]
    assert notes == [f"told {WORD}", f"† {WORD}"]
    opened = [re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end")]
    assert opened == [["tabular", "minipage"], ["tabular", "minipage"]]


def test_bold_is_bold_in_both():
    assert r"\textbf{61.20} $\pm$ 0.10 \\" in latex(["a"], [["**61.20** ± 0.10"]])
    assert "| **61.20** ± 0.10 |" in markdown(["a"], [["**61.20** ± 0.10"]])


def test_markdown_keeps_its_columns_and_says_what_is_below():
    lines = markdown(["a|b", "n"], [["x|y", "1"]], ["one two " * 20, "† note", "† other"]).splitlines()
    assert [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[:3]] == [
        [r" a\|b ", " n   "],
        ["------", "-----"],
        [r" x\|y ", " 1   "],
    ]
    assert max(map(len, lines)) <= 120 and " ".join(lines[4:6]) == ("one two " * 20).strip()
    assert lines[6:] == ["", "- † note", "- † other"]
