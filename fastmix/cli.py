"""What every command shares: one clear line and exit code 2 for a user's mistake, and the `fastmix VERB` script."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable
from importlib import import_module

import fastmix
from fastmix.errors import words

TRY_AGAIN = 75
"""Exit code of a run that was stopped and saved: sysexits.h's EX_TEMPFAIL, for a script that starts it again."""
VERBS = {
    "convert": "pack images into a .beton file",
    "supermix": "write images that SuperMix mixes into a .beton file",
    "train": "train a model from a config",
    "sweep": "train many runs, one after another or on several GPUs",
    "report": "tell what runs reached, beside the published numbers",
    "validate": "measure a trained model on validation data",
    "predict": "tell what images show, with a trained model",
    "export": "write a trained model as ONNX, TorchScript, torch.export and plain weights",
    "draw": "draw images as training methods mix them",
    "doctor": "tell what this machine has, and what each missing part would give",
    "bench": "measure the mix pass, the loaders and the training step",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are a ValueError of one line, for `run` to show."""

    def error(self, message: str):
        raise ValueError(f"{message} (see {self.prog} --help)")


def run(main: Callable[[list[str] | None], int | None], name: str, argv: list[str] | None = None) -> int:
    """Calls a command's main(argv) and returns its exit code. Here it is decided what an error becomes.

    ValueError, OSError and a lack of memory are a line on stderr, `fastmix NAME: error: ...`, and 2; Ctrl-C is 130; a
    reader that went away (`| head`) is 141. Anything else is a defect of ours and is raised as it is. With
    FASTMIX_TRACEBACK set in the environment all are, with what caused them.
    """
    try:
        code = main(argv) or 0
        sys.stdout.flush()  # or a full disk would be told after the exit code was chosen
        return code
    except KeyboardInterrupt:
        print(f"\nfastmix {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would raise again at the end
        return 141
    except Exception as error:
        lack = _lack_of_memory(error)
        if not isinstance(error, ValueError | OSError) and not lack:
            raise
        if os.environ.get("FASTMIX_TRACEBACK"):
            _show_causes(error)
            raise
        print(f"fastmix {name}: error: {lack or words(error)}", file=sys.stderr)
        return 2


def main(argv: list[str] | None = None) -> int:
    """`fastmix VERB ...`: hands the rest to fastmix.VERB.main, which is imported only now."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {verb:10}{text}" for verb, text in VERBS.items())
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


def _lack_of_memory(error: Exception) -> str:
    """What is said where an allocation failed, on the host or on a GPU; else nothing."""
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
