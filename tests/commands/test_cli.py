"""What all commands share: the script, and what becomes of errors."""

from __future__ import annotations

import pytest

from fastmix import cli
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


def test_what_run_makes_of_errors(capsys, monkeypatch):
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
    assert cli.run(lambda argv: None, "train") == 0 and cli.run(lambda argv: 7, "train") == 7
    with pytest.raises(RuntimeError):  # a defect of ours keeps its traceback
        cli.run(raising(RuntimeError("x")), "train")
    monkeypatch.setenv("FASTMIX_TRACEBACK", "1")
    with pytest.raises(ValueError, match="two"):
        cli.run(raising(ValueError("two")), "train")
