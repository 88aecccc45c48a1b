"""YAML with the numbers and booleans of its version 1.2, and no key twice."""

from __future__ import annotations

import re

import yaml


class Loader(yaml.SafeLoader):
    """YAML 1.2's numbers and booleans: `5e-5` is a number (PyYAML reads text), `off` is text (PyYAML reads false)."""


def _mapping(loader: Loader, node: yaml.MappingNode):
    """A mapping, as PyYAML makes it; but a key that stands in it twice is an error."""
    keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise yaml.YAMLError(f"the key {twice[0]!r} stands twice in one mapping{node.start_mark}")
    return (yield from loader.construct_yaml_map(node))


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if not tag.endswith((":bool", ":float", ":int"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")
Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), "-+0123456789")
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$", re.IGNORECASE),
    "-+.0123456789",
)
Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
Loader.add_constructor(
    "tag:yaml.org,2002:float",
    lambda loader, node: float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan")),
)


def parse(text: str, where: str):
    """What a YAML text holds; `where` begins the error. Raises ValueError of one line."""
    try:
        tree = yaml.load(text, Loader)
        _require_ends(tree)
        return tree
    # A whole number of thousands of digits is a ValueError, brackets a thousand deep are a RecursionError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not valid YAML: {' '.join(str(error).split())[:200]}") from error


def _require_ends(value, above: tuple = ()) -> None:
    """Raises ValueError for a mapping or list that holds itself, as an alias of YAML can say."""
    if isinstance(value, dict | list):
        if any(value is one for one in above):
            raise ValueError("a mapping or list holds itself")
        for one in value.values() if isinstance(value, dict) else value:
            _require_ends(one, (*above, value))
