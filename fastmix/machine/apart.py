"""Functions called in a process of their own: what crashes or hangs there is an answer here, and not the end.

One process calls them in order and writes each answer when it has it. Where it dies, the function that it was in gets
the blame, and a new process goes on with the next.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from io import BytesIO

START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from fastmix.machine.apart import main; main()"
LONGER = 2  # times the limit of all: when a process is given up that even SIGALRM does not end


def call(functions: dict[str, Callable], seconds: int) -> tuple[dict[str, object], dict[str, str]]:
    """What each function of a module returns, and, for those that return nothing, why: two dicts by the given names.

    A function that takes longer than `seconds` is ended. Whatever one prints is lost.
    """
    values, failed, left = {}, {}, list(functions)
    while left:
        answers, end = _process([functions[name] for name in left], seconds)
        for name, (value, error) in zip(left, answers, strict=False):
            if error:
                failed[name] = error
            else:
                values[name] = value
        left = left[len(answers) :]
        if left:
            failed[left.pop(0)] = end
    return values, failed


def line(error: BaseException) -> str:
    """An exception's type and message in one line of at most 200 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def _process(functions: list[Callable], seconds: int) -> tuple[list[tuple[object, str]], str]:
    """The answers of a process, all of them or those before it ended, and how it ended."""
    names = [f"{function.__module__}:{function.__qualname__}" for function in functions]
    command = [sys.executable, "-c", START, json.dumps(sys.path), str(seconds), *names]
    nothing = subprocess.DEVNULL
    try:
        process = subprocess.Popen(command, stdin=nothing, stdout=subprocess.PIPE, stderr=nothing)
    except OSError as error:
        return [], line(error)
    try:
        written, end = process.communicate(timeout=LONGER * seconds * len(names))[0], _end(process.returncode, seconds)
    except subprocess.TimeoutExpired as error:
        written, end = error.stdout or b"", "did not end"
    finally:
        if process.returncode is None:
            process.kill()
    answers, stream = [], BytesIO(written)
    while stream.tell() < len(written):
        try:
            answers.append(pickle.load(stream))
        except (EOFError, pickle.UnpicklingError):  # ended while it wrote
            break
    return answers, end


def _end(code: int, seconds: int) -> str:
    if code == -signal.SIGALRM:
        return f"took longer than {seconds} s"
    return f"crashed with {signal.Signals(-code).name}" if code < 0 else f"ended Python with exit code {code}"


def main() -> None:
    """The other process: its arguments are sys.path, seconds, and functions as "module:name"."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    for name in sys.argv[3:]:
        signal.alarm(int(sys.argv[2]))  # the system ends the process, also inside a library that never returns
        try:
            module, function = name.split(":")
            answer = pickle.dumps((getattr(import_module(module), function)(), ""))
        except BaseException as error:  # also SystemExit: a package that says so when imported
            answer = pickle.dumps((None, line(error)))
        signal.alarm(0)
        answers.write(answer)
    os._exit(0)  # without the libraries' own endings, which may hang, too
