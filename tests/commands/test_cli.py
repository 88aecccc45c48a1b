"""What all commands share: the script, and what becomes of errors."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import pytest

from fastmix import cli
from helpers import ROOT
from helpers.conversion import two_classes


def test_the_fastmix_script(capsys, tmp_path):
    assert cli.main(["--help"]) == 0 and cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {verb} " in out for verb in cli.VERBS)
    assert cli.main(["convrt"]) == 2
    line = "fastmix: error: unknown verb 'convrt'; did you mean 'convert'? (see fastmix --help)\n"
    assert capsys.readouterr().err == line
    assert cli.main(["convert", str(tmp_path / "gone"), "a.beton"]) == 2
    assert capsys.readouterr().err == f"fastmix convert: error: {tmp_path / 'gone'}: no such folder or list\n"
    assert cli.main(["convert", str(two_classes(tmp_path / "in")), str(tmp_path / "a.beton")]) == 0


def test_what_run_makes_of_errors(capsys):
    def raising(error):
        def main(argv):
            raise error

        return main

    assert cli.run(raising(ValueError("two\n  lines")), "train") == 2
    assert capsys.readouterr().err == "fastmix train: error: two lines\n"
    assert cli.run(raising(FileNotFoundError(2, "No such file or directory", "a.yaml")), "train") == 2
    assert capsys.readouterr().err == "fastmix train: error: a.yaml: No such file or directory\n"
    assert cli.run(raising(FileNotFoundError("a.beton: no such file")), "train") == 2
    assert capsys.readouterr().err == "fastmix train: error: a.beton: no such file\n"
    assert cli.run(raising(KeyboardInterrupt()), "train") == 130
    assert capsys.readouterr().err == "\nfastmix train: interrupted\n"
    assert cli.run(lambda argv: None, "train") == 0 and cli.run(lambda argv: 7, "train") == 7
    assert cli.run(raising(ValueError("")), "train") == 2
    assert capsys.readouterr().err == "fastmix train: error: ValueError\n"
    assert cli.run(raising(ValueError("\x1b[31mred\x1b[0m \x07and\x1b[1;4m \udcff")), "train") == 2
    assert capsys.readouterr().err == "fastmix train: error: red and \\udcff\n"
    assert cli.run(raising(MemoryError("Unable to allocate 9 TiB")), "train") == 2
    assert "not enough memory: Unable to allocate 9 TiB; a smaller batch_total" in capsys.readouterr().err
    with pytest.raises(RuntimeError):  # a defect of ours keeps its traceback
        cli.run(raising(RuntimeError("x")), "train")


def test_the_traceback_shows_what_the_line_hides():
    """Also the exceptions of libraries from which it was raised, whether by `from error` or `from None`."""
    script = """
import sys
from fastmix import cli
def main(argv):
    try:
        {}[3]
    except KeyError as error:
        try:
            raise ValueError("inner") from None
        except ValueError:
            raise ValueError("outer") from None
sys.exit(cli.run(main, "train"))
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    run = partial(subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True)
    plain, shown = run(env=env), run(env=env | {"FASTMIX_TRACEBACK": "1"})
    assert (plain.returncode, plain.stderr) == (2, "fastmix train: error: outer\n")
    assert shown.returncode == 1 and all(text in shown.stderr for text in ("KeyError: 3", "inner", "outer"))


def test_outputs_that_take_no_more():
    """A reader that went away is no error; a full disk is one, and no exit code 0."""
    many, few = (
        f"import sys\nfrom fastmix import cli\nsys.exit(cli.run(lambda _: print('x\\n' * {n}), 'report'))"
        for n in (100_000, 1)
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", many], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 141)
    for script in (many, few):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-c", script], env=env, stdout=full, stderr=subprocess.PIPE, text=True
            )
        assert done.returncode == 2 and "No space left on device" in done.stderr and done.stderr.count("\n") == 1
