"""What went wrong, in one line; also where another library raised it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

MOST = 400  # characters of a line
ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0e-\x1f\x7f]")


def words(error: BaseException) -> str:
    """An exception as one line, never empty: of an OSError file and reason, of others what they say, uncoloured."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        text = f"{where}{error.strerror}"
    else:
        text = str(error)
    if isinstance(error, LookupError | ArithmeticError | AttributeError):
        text = f"{type(error).__name__} {text}"  # alone it says a key or an index
    text = " ".join(ANSI.sub("", text).split()).encode(errors="backslashreplace").decode()
    return text or type(error).__name__


@contextmanager
def foreign(what: object) -> Iterator[None]:
    """Whatever is raised within becomes a ValueError of one line, `what: reason`.

    For a call into another library with values of the user's, which may raise anything. The exception itself is the
    ValueError's cause, which FASTMIX_TRACEBACK shows.
    """
    try:
        yield
    except Exception as error:
        text = words(error)
        raise ValueError(f"{what}: {text if len(text) <= MOST else text[: MOST - 3] + '...'}") from error
