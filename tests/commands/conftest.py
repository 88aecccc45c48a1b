import pytest

from helpers.trained_run import small_run


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """A cache of data that is the module's own, empty at first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTMIX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a run on images of 48 pixels, and its average of weights; tests work in it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("work")
        patch.chdir(folder)
        yield small_run(folder)
