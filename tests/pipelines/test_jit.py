"""Compiled code on disk is used again, and not after a file of the loaders has changed."""

import importlib.util

from fastmix.pipelines.jit import cached

CODE = """
from fastmix.pipelines.jit.cached import compiled

@compiled
def double(x):
    return 2 * x
"""


def test_old_code_is_not_used_after_a_change(tmp_path, monkeypatch):
    path = tmp_path / "doubling.py"
    path.write_text(CODE)

    def hits() -> int:
        """How often a fresh import finds the function on disk."""
        spec = importlib.util.spec_from_file_location("doubling", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.double(21) == 42
        return sum(module.double.stats.cache_hits.values())

    assert [hits(), hits()] == [0, 1]
    monkeypatch.setattr(cached, "STAMP", (*cached.STAMP, ("new.py", 0, 0)))
    assert [hits(), hits()] == [0, 1]
