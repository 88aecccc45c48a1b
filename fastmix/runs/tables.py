"""Rows of text as a Markdown or LaTeX table, and what is said below it. In a cell, **x** is bold in both."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

LATEX = {"\\": r"\textbackslash{}", "–": "--", "±": r"$\pm$", "†": r"$^\dagger$", "−": "$-$", "~": r"\textasciitilde{}"}
LATEX |= {"^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$"} | {mark: "\\" + mark for mark in "&%$#_{}"}
NUMBER = re.compile(r"[-+*]*\d.*|–")
"""Cells that begin as a number does: in LaTeX a column of such alone stands at the right."""


def markdown(header: list[str], rows: list[list[str]], legend: Sequence[str] = ()) -> str:
    """A pipe table whose source is aligned too; below it a paragraph and a list of notes."""
    lines = [[cell.replace("|", r"\|") for cell in line] for line in (header, *rows)]
    widths = [max(3, *(len(line[k]) for line in lines)) for k in range(len(header))]
    text = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    text = [text[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *text[1:]]
    told, *notes = legend or ("",)
    text += ["", *textwrap.wrap(told, 120, break_on_hyphens=False)] * bool(told)
    text += ["", *(f"- {note}" for note in notes)] * bool(notes)
    return "\n".join(text) + "\n"


def latex(header: list[str], rows: list[list[str]], legend: Sequence[str] = ()) -> str:
    r"""A tabular of the booktabs package, to be read by \input in a table: \usepackage{booktabs}."""
    body = [" & ".join(map(_escape, row)) + r" \\" for row in rows]
    right = [all(NUMBER.fullmatch(row[k]) for row in rows) for k in range(len(header))]
    begin = r"\begin{tabular}{" + "".join("r" if one else "l" for one in right) + "}"
    text = [begin, r"\toprule", " & ".join(map(_escape, header)) + r" \\", r"\midrule", *body]
    text += [r"\bottomrule", r"\end{tabular}"]
    if legend:
        text += [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize"]
        text += [_escape(line) + r"\par" for line in legend if line]
        text.append(r"\end{minipage}")
    return "\n".join(text) + "\n"


def _escape(cell: str) -> str:
    text = "".join(LATEX.get(mark, mark) for mark in cell)
    text = re.sub(r"(?<![\w.-])-(?=\d)", "$-$", text)
    return re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", text)
