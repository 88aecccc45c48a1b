import pytest


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """A cache of data that is the module's own, empty at first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTMIX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
