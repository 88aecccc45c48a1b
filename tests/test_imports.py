"""No circle of imports anywhere, also inside functions. `make lint` holds the package against its floors."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fastmix
from helpers import ROOT


def modules() -> dict[str, Path]:
    """Every module of the package, by its imported name."""
    found = {}
    for top in ("fastmix", "kernels", "pipelines"):
        for path in (ROOT / top).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name if top == "fastmix" else f"fastmix.{name}"] = path
    return found


def imports(path: Path, known: set[str]) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    out = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                lazy = fastmix._HOME.get(alias.name) if node.module == "fastmix" else None
                out.add(lazy or (inner if inner in known else node.module))
    return (out & known) - {"fastmix"}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(path, set(known)) for name, path in known.items() if name != "fastmix"}


def test_the_graph_sees_imports_of_both_kinds(graph):
    assert "fastmix.kernels.plan" in graph["fastmix.batch"]
    assert "fastmix.models" in graph["fastmix.engine.optim"], "an import inside a function"


def test_no_circle(graph):
    TopologicalSorter(graph).prepare()
    with pytest.raises(CycleError):
        TopologicalSorter(graph | {"fastmix.config": {"fastmix.engine.loop"}}).prepare()


def test_no_package_is_imported_by_what_it_imports(graph):
    """A package's file is run before any in its folder; where it imports them, none of them may import it."""
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    inner = [(name, package) for name in graph for package in packages if name.startswith(f"{package}.")]
    assert inner and [pair for pair in inner if pair[1] in graph[pair[0]] and pair[0] in graph[pair[1]]] == []
