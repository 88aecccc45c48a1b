"""What every command shares: one clear line and exit code 2 for a user's mistake, and the `fastmix VERB` script."""

from __future__ import annotations

import argparse
import difflib
import io
import os
import sys
from collections.abc import Callable
from importlib import import_module

import fastmix
from fastmix.errors import words
from fastmix.ranges import MOST, NAMES, Range

TRY_AGAIN = 75
"""Exit code of a run that was stopped and saved: sysexits.h's EX_TEMPFAIL, for a script that starts it again."""
VERBS = {
    "convert": "pack images into a .beton file",
    "supermix": "write images that SuperMix mixes into a .beton file",
    "migrate": "turn a config of OpenMixup or timm into one of this program",
    "train": "train a model from a config",
    "sweep": "train many runs, one after another, on several GPUs, or on a cluster",
    "report": "tell what runs reached, beside the published numbers",
    "validate": "measure a trained model on validation data",
    "robustness": "measure calibration, and top-1 under corruptions, attacks and occlusion",
    "predict": "tell what images show, with a trained model",
    "export": "write a trained model as ONNX, TorchScript, torch.export and plain weights",
    "look": "draw where a trained model looks",
    "draw": "draw images as training methods mix them",
    "doctor": "tell what this machine has, and what each missing part would give",
    "bench": "measure the mix pass, the loaders and the training step",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are a ValueError of one line, for `run` to show.

    An option of type int takes whole numbers from 1 to a million, one of type float numbers from 0 to a million: what
    takes others says so, as `type=number(int, Range(0, 9))`.
    """

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.register("type", int, number(int, Range(1, 1_000_000)))
        self.register("type", float, number(float, Range(0, 1_000_000)))

    def error(self, message: str):
        raise ValueError(f"{message} (see {self.prog} --help)")


def number(kind: type, allowed: Range) -> Callable[[str], int | float]:
    """The type of an option that is a number of a range."""

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or value not in allowed:
            raise argparse.ArgumentTypeError(f"'{text[:MOST]}' is not {NAMES[kind]} {allowed}")
        return value

    return read


def run(main: Callable[[list[str] | None], int | None], name: str, argv: list[str] | None = None) -> int:
    """Calls a command's main(argv) and returns its exit code. Here it is decided what an error becomes.

    ValueError, OSError and a lack of memory are a line on stderr, `fastmix NAME: error: ...`, and 2; Ctrl-C is 130; a
    reader that went away (`| head`) is 141. Anything else is a defect of ours and is raised as it is. With
    FASTMIX_TRACEBACK set in the environment all are, with what caused them.
    """
    _open_outputs()
    try:
        _require_folder()
        code = main(argv) or 0
        _flush()
        return code
    except KeyboardInterrupt:
        print(f"\nfastmix {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would raise again at the end
        return 141
    except Exception as error:
        lack = _lack(error)
        if not isinstance(error, ValueError | OSError) and not lack:
            raise
        if os.environ.get("FASTMIX_TRACEBACK"):
            _show_causes(error)
            raise
        print(f"fastmix {name}: error: {lack or words(error)}", file=sys.stderr)
        return 2


def _open_outputs() -> None:
    """Lets words be said anywhere: to nobody, where a daemon closed its outputs; escaped, where they are ASCII only."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _require_folder() -> None:
    """Without a present folder libraries find none of their files, and end the process."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ValueError("the present folder has been removed: go to one that is there") from None


def main(argv: list[str] | None = None) -> int:
    """`fastmix VERB ...`: hands the rest to fastmix.VERB.main, which is imported only now."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {verb:11}{text}" for verb, text in VERBS.items())
        print(f"usage: fastmix VERB ...\n\nverbs:\n{verbs}\n\nfastmix VERB --help tells more of each")
        return 0
    verb, rest = argv[0], argv[1:]
    if verb == "--version":
        print(fastmix.__version__)
        return 0
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1, 0)[0]
        print(f"fastmix: error: unknown verb '{verb}'; did you mean '{near}'? (see fastmix --help)", file=sys.stderr)
        return 2
    return run(import_module(f"fastmix.{verb}").main, verb, rest)


def _flush() -> None:
    """Writes out what was printed: at the end of the process a full disk would be told after the exit code."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stdout = None  # or Python would try again
        raise OSError(error.errno, error.strerror, "standard output") from error


def _lack(error: Exception) -> str:
    """What is said where an allocation failed, on the host or on a GPU, or a thread cannot be had; else nothing."""
    if "can't start new thread" in str(error):
        return (
            "the system gives this process no more threads (ulimit -u, a container's limit): data.workers=1 takes fewer"
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error):
        return f"not enough memory: {words(error)[:200]}; a smaller batch_total, or a larger accum, takes less"
    return ""


def _show_causes(error: BaseException | None) -> None:
    """Lets a traceback show also what `raise ... from None` hides."""
    while error is not None:
        error.__suppress_context__ = error.__cause__ is not None
        error = error.__cause__ or error.__context__


if __name__ == "__main__":
    sys.exit(main())
