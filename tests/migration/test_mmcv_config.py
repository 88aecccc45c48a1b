"""Configs of mmcv's kind, read by their syntax: what Python itself makes of the same text, and nothing is run."""

import pytest

from fastmix.migration.mmcv_config import Unknown, read

TEXT = """
from os import path
depth = 50
channels, classes = 512 * 4, 10
# a comment
norm = dict(mean=[0.5, 0.25, 1 / 4], std=(1., 2.))
pipeline = [dict(type='Crop', size=2 ** 5 * 7), dict(type='Flip', **norm)]
prefetch = False
if not prefetch:
    pipeline.extend([dict(type='ToTensor')])
    pipeline.append(dict(type='Normalize', **norm))
else:
    pipeline = []
pipeline.insert(0, {'type': 'Load', 1: -classes, **norm})
steps = [30 * n for n in (1, 2, 3)] if classes > 100 else [*norm['std'], 9 // 2, 7 % 4]
model = dict(type='Net', backbone=dict(depth=depth, out=(3,), scale=1e-3, name='r' + '50', none=None), on=not False)
total = 4
total *= channels
options = {'(bn|gn)(\\\\d+)?.(weight|bias)': dict(weight_decay=0.)}
"""


def config(folder, name="config.py", text=""):
    (folder / name).write_text(text)
    return folder / name


def test_what_is_read_is_what_python_makes_of_the_text(tmp_path):
    tree, notes, files = read(config(tmp_path, text=TEXT))
    names: dict = {}
    exec(TEXT, names)
    expected = {key: value for key, value in names.items() if key not in ("__builtins__", "path")}
    assert tree == expected and files == [tmp_path / "config.py"]
    assert notes == ["config.py, line 2: only running the file would tell what this is: from os import path"]


def test_bases_are_merged_key_by_key_unless_deleted(tmp_path):
    (tmp_path / "parts").mkdir()
    config(tmp_path, "parts/one.py", "data = dict(size=1, train=dict(a=1, b=[1, 2]))\nepochs = 3\n")
    config(tmp_path, "parts/two.py", "model = dict(type='A', head=dict(loss=dict(kind='ce', eps=1.)))\n")
    config(tmp_path, "middle.py", "_base_ = ['parts/one.py', './parts/two.py']\ndata = dict(train=dict(b=[3]))\n")
    top = "_base_ = 'middle.py'\nmodel = dict(head=dict(loss=dict(_delete_=True, kind='bce')))\nepochs = None\n"
    tree, notes, files = read(config(tmp_path, "top.py", top))
    assert tree == {
        "data": {"size": 1, "train": {"a": 1, "b": [3]}},
        "model": {"type": "A", "head": {"loss": {"kind": "bce"}}},
        "epochs": None,
    }
    assert notes == [] and [file.name for file in files] == ["top.py", "middle.py", "one.py", "two.py"]


def test_nothing_is_run_and_what_is_unknown_gets_a_line(tmp_path):
    mark = tmp_path / "mark"
    text = f"""
import os
lr = 0.1 * int(os.environ.get('GPUS', 1))
model = dict(type='Net', width=max(1, 2), depth=18)
open({str(mark)!r}, 'w').write('run')
def helper():
    return 1
x = [helper(), 2]
if unknown:
    y = 1
big = 10 ** 10 ** 10
long = [0] * 10 ** 9
assert lr
"""
    tree, notes, _ = read(config(tmp_path, text=text))
    assert not mark.exists()
    assert tree == {"model": {"type": "Net", "width": Unknown("max(1, 2)"), "depth": 18}, "x": [Unknown("helper()"), 2]}
    assert [note.split(":")[0] for note in notes] == [f"config.py, line {n}" for n in (2, 3, 4, 5, 6, 8, 9, 11, 12, 13)]


BOMBS = [
    "x = [1]\n" + "x = [x, x]\n" * 40,
    "x = [1]\n" + "x += x\n" * 40,
    "x = 'a'\n" + "x = x + x\n" * 40,
    "x = '%999999999d' % 1\n",
]


@pytest.mark.parametrize("text", BOMBS, ids=["references", "list", "text", "format"])
def test_values_that_would_grow_without_end_are_lines(tmp_path, text):
    tree, notes, _ = read(config(tmp_path, text=text + "y = 2\n"))
    assert tree["y"] == 2 and notes and all("only running the file would tell" in note for note in notes)
    assert len(tree.get("x", "")) <= 100_000


@pytest.mark.parametrize("text, words", [
    ("model = dict(\n", r"not a Python file \(line 1\): '\(' was never closed"),
    ("_base_ = 'none.py'\n", r"config.py: its _base_ .*none.py does not exist"),
    ("_base_ = 'config.py'\n", r"`_base_` leads back to itself"),
    ("_base_ = ['other.py']\n", r"other.py.*`_base_` leads back|config.py: `_base_` leads back"),
    ("_base_ = [1]\n", "_base_ holds 1, which is no path of a file"),
    ("a\0b", "not a Python file"),
    ("x = " + "(" * 500 + ")" * 500, "not a Python file"),
])  # fmt: skip
def test_what_is_no_config_is_refused_in_a_line(tmp_path, text, words):
    config(tmp_path, "other.py", "_base_ = 'config.py'\n")
    with pytest.raises(ValueError, match=words) as error:
        read(config(tmp_path, text=text))
    assert "\n" not in str(error.value)
