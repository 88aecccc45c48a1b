"""Where data is kept: in the cache folder, or, where there is none that can be written, in a temporary one."""

import os

import pytest

from fastmix.pipelines.sources import cache


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    for name in ("FASTMIX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


def test_at_home(tmp_path):
    assert cache.kept("a", "b") == tmp_path / "home/.cache/fastmix/a/b"


def test_where_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.kept("a") == tmp_path / "xdg/fastmix/a"
    monkeypatch.setenv("FASTMIX_CACHE", "/dev/null/x")
    assert str(cache.kept("a")) == "/dev/null/x/a"
    with pytest.raises(
        OSError, match="/dev/null/x: Not a directory; set FASTMIX_CACHE to a folder that can be written"
    ):
        with cache.alone(cache.kept("a")):
            pass


@pytest.mark.parametrize("home", ["/dev/null", "/proc/self"])
def test_without_a_home_that_can_be_written(tmp_path, monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    path = cache.kept("a", "b")
    assert path == tmp_path / f"tmp/fastmix-cache-{os.getuid()}/a/b"
    with cache.alone(path) as locked:
        assert locked
    assert path.parent.parent.stat().st_mode & 0o777 == 0o700


def test_without_a_home(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache.kept("a") == tmp_path / f"tmp/fastmix-cache-{os.getuid()}/a"
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    with pytest.raises(ValueError, match="no folder to keep data in: set FASTMIX_CACHE"):
        cache.kept("a")


def test_what_others_may_write_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/dev/null")
    (tmp_path / f"tmp/fastmix-cache-{os.getuid()}").mkdir()
    (tmp_path / f"tmp/fastmix-cache-{os.getuid()}").chmod(0o777)
    with pytest.raises(ValueError, match="no folder to keep data in"):
        cache.kept("a")


def test_what_is_there_may_be_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path))
    (tmp_path / "a.beton").write_text("")
    (tmp_path / "a.lock").mkdir()  # a lock that cannot be opened, also by root
    with cache.alone(cache.kept("a.beton")) as locked:
        assert not locked
