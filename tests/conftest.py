import os

# As in train.py, before `import torch`: beside another program, waiting threads would make the tests several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch

from mulan_min.demo.world import make_world

THREADS = torch.get_num_threads()      # before any test


@pytest.fixture(autouse=True)
def number_of_threads():
    """train.main changes it for the whole process. Sums depend on it in their last bit, so each test begins with the same."""
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def small_world(tmp_path_factory):
    """The demo world of the smoke preset, made once for all tests."""
    return str(make_world(tmp_path_factory.mktemp("world") / "demo", recordings=72, progress=False))
