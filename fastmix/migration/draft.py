"""What is written while another program's settings are read: a config's keys, and a note on what finds no place."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import yaml

from fastmix import config
from fastmix.errors import words
from fastmix.migration.mmcv_config import Unknown
from fastmix.mixers import MIXERS, build
from fastmix.ranges import shown
from fastmix.yaml12 import Loader

WIDTH = 120  # characters of a line of YAML


class Source:
    """A mapping of foreign settings that remembers which of them were asked for."""

    def __init__(self, tree: object, name: str = ""):
        self.tree = tree if isinstance(tree, dict) else {}
        self.name, self.asked = name, set()
        self.parts: dict[str, Source] = {}

    def take(self, key: str, default=None, kind: type | tuple | None = None):
        """The value, or the default where there is none, or none of that kind (which then counts as not asked for)."""
        value = self.tree.get(key, default)
        if kind and not (isinstance(value, kind) or value is default):
            return default
        self.asked.add(key)
        return value

    def part(self, key: str) -> Source:
        """A mapping inside, empty where there is none."""
        if isinstance(self.tree.get(key), dict) or self.tree.get(key) is None:
            self.asked.add(key)
        return self.parts.setdefault(key, Source(self.tree.get(key), self.path(key)))

    def path(self, key: object) -> str:
        return f"{self.name}.{key}" if self.name else str(key)

    def pass_over(self, *keys: str) -> None:
        """These need no equivalent."""
        self.asked |= set(keys)

    def left(self) -> list[str]:
        """What nobody asked for: `name=value`."""
        own = [f"{self.path(key)}={shown(value)}" for key, value in self.tree.items() if key not in self.asked]
        return own + [line for part in self.parts.values() for line in part.left()]


class Draft:
    """A config in the making.

    Each value is tried as it is put: one that this project's config refuses becomes a note, and the default stays.
    """

    def __init__(self):
        self.tree: dict = {}
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    @contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """A part of the file that is not of the form which its own program takes becomes a note."""
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            self.note(f"{what} is not of the form that is expected there ({words(error)}): the rest of it is left out")

    def put(self, key: str, value, where: str = "") -> None:
        """Sets a dotted key, if the value is possible; `where` names the foreign setting."""
        if isinstance(value, Unknown):
            self.note(f"{where or key}={value}: not known without running the file; {key} keeps its default")
            return
        tree: object = value
        for name in reversed(key.split(".")):
            tree = {name: tree}
        try:
            config.fill(config.Config, tree, "")
        except ValueError as error:
            self.note(f"{where or key}={shown(value)} is not possible here: {str(error).removeprefix(': ')}")
            return
        *parents, last = key.split(".")
        node = self.tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value

    def method(self, name: str, row: dict) -> None:
        """The run's method: the row of `mixers` that `mix` picks."""
        self.tree["mix"], self.tree["mixers"] = name, {name: row}
        try:
            build(name, self.tree["mixers"], self.tree.get("fidelity", "paper"))
        except ValueError as error:
            self.note(str(error))

    def finished(self, where: str) -> config.Config:
        """The config. Raises ValueError where the values contradict one another."""
        return config.from_tree(self.tree, where)


def row(name: str, fidelity: str = "paper", **options) -> dict:
    """Options of the mixer of that name that differ from its defaults; those of alpha always."""
    defaults = {key: p.default for key, p in inspect.signature(MIXERS[name]).parameters.items()}
    if fidelity == "openmixup":
        defaults |= MIXERS[name].openmixup
    return {key: v for key, v in options.items() if key == "alpha" or _plain(v) != _plain(defaults.get(key))}


def written(cfg: config.Config, comments: list[str]) -> str:
    """The config as short YAML: comments, then what differs from the defaults."""
    tree = _differing(cfg, config.Config())
    body = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=WIDTH, default_flow_style=None)
    return "".join(f"# {line}\n" for line in comments) + body


class _Dumper(yaml.SafeDumper):
    """Numbers as the loader reads them, and no anchors."""

    yaml_implicit_resolvers = Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data) -> bool:
        return True


_Dumper.add_representer(
    float,
    lambda dumper, v: dumper.represent_scalar("tag:yaml.org,2002:float", ".inf" if v == float("inf") else repr(v)),
)


def _differing(value, default) -> dict:
    out = {}
    for field in dataclasses.fields(value):
        mine, other = getattr(value, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(mine):
            if part := _differing(mine, other):
                out[field.name] = part
        elif field.name == "mixers" or _plain(mine) != _plain(other):
            out[field.name] = _plain(mine)
    return out


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
