"""Configs of mmcv's kind (OpenMixup's): Python files that assign values. They are read by their syntax, and never run.

    tree, notes = read(Path("configs/r50.py"))

Understood is what such files consist of: literals, dict(...), names assigned before, arithmetic and joining of lists,
`x.extend(...)`, `if` of a known condition, and `_base_`. Whatever else stands there is `Unknown` and gets a note.
"""

from __future__ import annotations

import ast
import operator
import warnings
from dataclasses import dataclass
from pathlib import Path

from fastmix.reading import read as read_bytes

MOST = 1 << 20  # bytes of a config
LONGEST = 100_000  # values in all, and characters of a text that arithmetic makes
LARGEST = 2**64  # of its numbers
ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
SIGNS = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_}
COMPARISONS = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
DELETE = "_delete_"


@dataclass(frozen=True)
class Unknown:
    """A value that only running the file would tell."""

    text: str

    def __repr__(self) -> str:
        return self.text


class _CannotTell(Exception):
    """The expression is none of those that are understood."""


def read(path: Path) -> tuple[dict, list[str], list[Path]]:
    """The config's names and values with those of its bases, notes on what cannot be told, and all files, itself first.

    A dict goes over its base's key by key, unless `_delete_=True` stands in it; anything else replaces what was there.
    Raises ValueError of one line for a file that is no Python, and a base that is missing or leads back to itself;
    OSError for a file that cannot be read.
    """
    notes: list[str] = []
    files: list[Path] = []
    return _read(path, (), notes, files), notes, files


def _read(path: Path, above: tuple[Path, ...], notes: list[str], files: list[Path]) -> dict:
    here = path.resolve()
    if here in above:
        raise ValueError(f"{path}: `_base_` leads back to itself")
    if above and not path.is_file():
        raise ValueError(f"{above[-1]}: its _base_ {path} does not exist")
    files.append(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # patterns with a backslash, which Python remarks on
            module = ast.parse(read_bytes(path, MOST))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise ValueError(f"{path}: not a Python file{line}: {reason}") from None
    names: dict = {}
    _Body(path, names, notes).run(module.body)
    bases = names.pop("_base_", [])
    merged: dict = {}
    for base in [bases] if isinstance(bases, str) else bases if isinstance(bases, list | tuple) else [bases]:
        if not isinstance(base, str):
            raise ValueError(f"{path}: _base_ holds {base!r}, which is no path of a file")
        merged = _merge(merged, _read(path.parent / base, (*above, here), notes, files))
    return _merge(merged, names)


class _Body:
    """The statements of a file, one after the other: what they give names to lands in `names`."""

    def __init__(self, path: Path, names: dict, notes: list[str]):
        self.path, self.names, self.notes = path, names, notes

    def run(self, body: list[ast.stmt]) -> None:
        for statement in body:
            before = dict(self.names)
            try:
                self.statement(statement)
                if _parts(self.names) > LONGEST:
                    raise _CannotTell
            except (_CannotTell, RecursionError):
                self.names.clear()
                self.names.update(before)
                self.unknown(statement)

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
                self.names[name] = self.value(node.value)
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)) if len(targets) == len(
                values
            ) and all(isinstance(target, ast.Name) for target in targets):
                found = [self.value(value) for value in values]
                self.names |= {target.id: value for target, value in zip(targets, found, strict=True)}
            case ast.AugAssign(target=ast.Name(id=name)):
                self.names[name] = self.value(ast.BinOp(ast.Name(name), node.op, node.value))
            case ast.If():
                self.run(node.body if self.value(node.test) else node.orelse)
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=verb), args=args)):
                self.change(name, verb, [self.value(arg) for arg in args])
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case _:
                raise _CannotTell

    def change(self, name: str, verb: str, args: list) -> None:
        """x.extend([...]), x.append(...), x.insert(0, ...), x.update(...) of a known x."""
        match self.names.get(name), verb, args:
            case list() as known, "extend", [list() | tuple() as more]:
                self.names[name] = [*known, *more]
            case list() as known, "append", [value]:
                self.names[name] = [*known, value]
            case list() as known, "insert", [int() as at, value]:
                self.names[name] = [*known[:at], value, *known[at:]]
            case dict() as known, "update", [dict() as more]:
                self.names[name] = known | more
            case _:
                raise _CannotTell

    def value(self, node: ast.expr):
        """What an expression is; Unknown where a part of it cannot be told. Raises _CannotTell where it is asked for
        as a whole, in a condition or a call."""
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None):
                return node.value
            case ast.List(elts=elts):
                return self.items(elts)
            case ast.Tuple(elts=elts):
                return tuple(self.items(elts))
            case ast.Dict():
                return self.mapping(zip(node.keys, node.values, strict=True))
            case ast.Call(func=ast.Name(id="dict"), args=[]):
                return self.mapping((word.arg, word.value) for word in node.keywords)
            case ast.Name(id=name) if name in self.names:
                return self.names[name]
            case ast.UnaryOp() if type(node.op) in SIGNS:
                return self.apply(SIGNS[type(node.op)], node.operand)
            case ast.BinOp() if type(node.op) in ARITHMETIC:
                return self.apply(ARITHMETIC[type(node.op)], node.left, node.right)
            case ast.Compare(ops=[one], comparators=[right]) if type(one) in COMPARISONS:
                return self.apply(COMPARISONS[type(one)], node.left, right)
            case ast.Subscript():
                return self.apply(operator.getitem, node.value, node.slice)
            case ast.IfExp():
                return self.value(node.body if self.value(node.test) else node.orelse)
        raise _CannotTell

    def part(self, node: ast.expr):
        """A value inside a list or dict, which may be unknown without the rest being so."""
        try:
            return self.value(node)
        except _CannotTell:
            self.unknown(node)
            return Unknown(ast.unparse(node)[:80])

    def items(self, nodes: list[ast.expr]) -> list:
        out = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                more = self.value(node.value)
                if not isinstance(more, list | tuple):
                    raise _CannotTell
                out += more
            else:
                out.append(self.part(node))
        return out

    def mapping(self, pairs) -> dict:
        """dict(a=1, **other) or {"a": 1, **other}: a key is a word, an expression, or None before what is spread."""
        out: dict = {}
        for key, node in pairs:
            if key is None:
                more = self.value(node)
                if not isinstance(more, dict):
                    raise _CannotTell
                out |= more
                continue
            name = key if isinstance(key, str) else self.value(key)
            if not isinstance(name, str | int | float | bool | None):
                raise _CannotTell
            out[name] = self.part(node)
        return out

    def apply(self, what, *nodes: ast.expr):
        values = [self.value(node) for node in nodes]
        numbers = [v for v in values if isinstance(v, int | float)]
        size = sum(len(v) for v in values if isinstance(v, str | list | tuple))
        if any(abs(v) > LARGEST for v in numbers) or size * max([1, *numbers]) > LONGEST:
            raise _CannotTell
        if what is operator.pow and any(abs(v) > 64 for v in numbers[1:]) or what is operator.mod and size:
            raise _CannotTell
        try:
            return what(*values)
        except Exception:  # of values that do not go together: a user's file may join anything
            raise _CannotTell from None

    def unknown(self, node: ast.AST) -> None:
        try:
            text = " ".join(ast.unparse(node).split())
        except RecursionError:
            text = type(node).__name__
        short = text if len(text) <= 60 else f"{text[:57]}..."
        self.notes.append(
            f"{self.path.name}, line {node.lineno}: only running the file would tell what this is: {short}"
        )


def _parts(value) -> int:
    """How many values there are within a value, counted as often as they are named, but no further than LONGEST."""
    count, waiting = 0, [value]
    while waiting and count <= LONGEST:
        count += 1
        inner = waiting.pop()
        waiting.extend(inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list | tuple) else ())
    return count


def _merge(low: dict, high: dict) -> dict:
    out = dict(low)
    for key, value in high.items():
        if isinstance(value, dict):
            below = {} if value.get(DELETE) else out.get(key)
            value = {k: v for k, v in value.items() if k != DELETE}
            value = _merge(below if isinstance(below, dict) else {}, value)
        out[key] = value
    return out
