"""No import runs upward, and none in a circle. Imports inside functions count too."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import fastmix
from helpers import ROOT

FLOORS = (  # each knows only itself and those before it
    {"kernels"},
    {"pipelines"},
    {"compat", "config", "published", "tables", "follow", "configs", "dist"},
    {"batch", "augment", "targets", "models", "state", "weights"},
    {"mixers"},
    {"task", "optim", "ema", "log", "loaders", "evaluate", "picture", "runs", "results", "gains", "jobs", "precise_bn"}
    | {"per_class", "real"},
    {"step", "graph"},
    {"loop", "dryrun"},
    {"cli"},
    {"convert", "supermix", "train", "sweep", "report", "validate", "draw", "bench"},
)


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


def floor(module: str) -> int:
    part = module.split(".")[1]
    found = [k for k, names in enumerate(FLOORS) if part in names]
    assert found, f"{module} has no floor: add it to FLOORS"
    return found[0]


KNOWN = modules()
GRAPH = {name: imports(path, set(KNOWN)) for name, path in KNOWN.items() if name != "fastmix"}


def test_the_graph_sees_imports_of_both_kinds():
    assert "fastmix.kernels.plan" in GRAPH["fastmix.batch"]
    assert "fastmix.models" in GRAPH["fastmix.engine.optim"], "an import inside a function"


def test_no_import_runs_upward():
    upward = [f"{a} imports {b}" for a, targets in GRAPH.items() for b in targets if floor(b) > floor(a)]
    assert upward == []


def test_no_circle():
    TopologicalSorter(GRAPH).prepare()


def test_mixers_know_no_loader_and_the_loop_no_method():
    assert [b for a, targets in GRAPH.items() if ".mixers" in a for b in targets if ".pipelines" in b] == []
    assert [b for b in GRAPH["fastmix.engine.loop"] if ".mixers" in b] == []
