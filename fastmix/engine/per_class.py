"""Scores of each class, and what its images are taken for."""

from __future__ import annotations

import csv
import io

import numpy as np

from fastmix.engine.evaluate import Predictions


def per_class(found: Predictions, names: list[str]) -> list[dict]:
    """A row for each class of `names`, label by label, and for each label beyond them, which is named by its number.

    class, images, top1 and top5 in percent (None without images), confused_with (the class that its images are most
    often mistaken for, of several the first; None where none is) and mistaken (how many are).
    """
    labels, top, hits = (column[found.valid] for column in (found.labels, found.top, found.hits))
    names = _all(names, labels, top)
    rows = []
    for label, name in enumerate(names):
        mine = labels == label
        n = int(mine.sum())
        wrong = np.bincount(top[mine & ~hits[:, 0], 0], minlength=len(names))
        worst = int(wrong.argmax())
        rows.append(
            {
                "class": name,
                "images": n,
                "top1": 100 * int(hits[mine, 0].sum()) / n if n else None,
                "top5": 100 * int(hits[mine].any(1).sum()) / n if n else None,
                "confused_with": names[worst] if wrong[worst] else None,
                "mistaken": int(wrong[worst]),
            }
        )
    return rows


def confusion(found: Predictions, names: list[str]) -> tuple[list[str], np.ndarray]:
    """The same names, and how many images of each label are taken for each: int64 [classes,classes], label first."""
    labels, top = found.labels[found.valid], found.top[found.valid]
    names = _all(names, labels, top)
    n = len(names)
    return names, np.bincount(labels * n + top[:, 0], minlength=n * n).reshape(n, n)


def _all(names: list[str], labels: np.ndarray, top: np.ndarray) -> list[str]:
    return names + [str(k) for k in range(len(names), 1 + max(labels.max(), top.max()))]


def as_csv(rows: list[dict]) -> str:
    """CSV with a header; an empty field is None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
