import pytest

from mulan_min.demo.world import make_world


@pytest.fixture(scope="session")
def small_world(tmp_path_factory):
    """The demo world of the smoke preset, made once for all tests."""
    return str(make_world(tmp_path_factory.mktemp("world") / "demo", recordings=72, progress=False))
