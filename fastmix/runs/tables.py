"""Rows of text as a Markdown or LaTeX table. In a cell, **x** is bold in both."""

from __future__ import annotations

import re

LATEX = {"\\": r"\textbackslash{}", "–": "--", "±": r"$\pm$", "†": r"$^\dagger$", "−": "$-$"} | {
    mark: "\\" + mark for mark in "&%$#_{}"
}


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A pipe table whose source is aligned too."""
    lines = [header, *rows]
    widths = [max(3, *(len(line[k]) for line in lines)) for k in range(len(header))]
    text = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([text[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *text[1:]]) + "\n"


def latex(header: list[str], rows: list[list[str]]) -> str:
    r"""A tabular of the booktabs package: \usepackage{booktabs}."""
    body = [" & ".join(map(_escape, row)) + r" \\" for row in rows]
    begin = r"\begin{tabular}{" + "l" * len(header) + "}"
    top = [begin, r"\toprule", " & ".join(map(_escape, header)) + r" \\", r"\midrule"]
    return "\n".join([*top, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _escape(cell: str) -> str:
    text = "".join(LATEX.get(mark, mark) for mark in cell)
    return re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", text)
