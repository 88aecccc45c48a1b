"""What every command shares: one clear line and exit code 2 for a user's mistake, and the `fastmix VERB` script."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable
from importlib import import_module

import fastmix

VERBS = {
    "convert": "pack images into a .beton file",
    "supermix": "write images that SuperMix mixes into a .beton file",
    "train": "train a model from a config",
    "sweep": "train many runs, one after another or on several GPUs",
    "report": "tell what runs reached, beside the published numbers",
    "validate": "measure a trained model on validation data",
    "predict": "tell what images show, with a trained model",
    "export": "write a trained model as ONNX, TorchScript, torch.export or plain weights",
    "draw": "draw images as training methods mix them",
    "doctor": "tell what this machine has, and what each missing part would give",
    "bench": "measure the mix pass, the loaders and the training step",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are a ValueError of one line, for `run` to show."""

    def error(self, message: str):
        raise ValueError(f"{message} (see {self.prog} --help)")


def run(main: Callable[[list[str] | None], int | None], name: str, argv: list[str] | None = None) -> int:
    """Calls a command's main(argv) and returns its exit code.

    ValueError and OSError become one line on stderr, `fastmix NAME: error: ...`, and 2; Ctrl-C becomes 130, and output
    that nobody reads to its end 1. With FASTMIX_TRACEBACK set in the environment errors are raised as they are.
    """
    try:
        return main(argv) or 0
    except BrokenPipeError:  # who reads the output has had enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(f"\nfastmix {name}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if os.environ.get("FASTMIX_TRACEBACK"):
            raise
        print(f"fastmix {name}: error: {_line(error)}", file=sys.stderr)
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


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
