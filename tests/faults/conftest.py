"""One warm server for all tests of this folder."""

import pytest

from faults.harness import server


@pytest.fixture(scope="session")
def running(tmp_path_factory):
    with server(tmp_path_factory.mktemp("server")) as by:
        yield by
