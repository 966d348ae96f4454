"""What all tests share: a control plane of the session's own for those that ask for one, and fixed examples."""

import functools
import os
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ("controlplane",)
ROOT = Path(__file__).resolve().parents[1]

# A change is judged by the same examples in each run; `make search` looks for others by chance.
# None has a deadline of its own: on a busy machine one example takes long without a reason in the code.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


class TogetherWhereTheyShare(LoadScopeScheduling):
    """Gives each test to a test process that is free, but for those that share a slow fixture.

    They go to one process, which makes it once: an operator and its hubs, a cluster. xdist's own groups have no effect
    on this pytest.
    """

    def _split_scope(self, nodeid: str) -> str:
        """What the test goes with: its folder, its file, or nothing else."""
        path = nodeid.partition("::")[0]
        if path.startswith("tests/parity/"):
            return "tests/parity"
        return path if path.startswith("tests/integration/") and _shares_a_fixture(path) else nodeid


@functools.cache
def _shares_a_fixture(path: str) -> bool:
    return 'fixture(scope="module"' in (ROOT / path).read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> TogetherWhereTheyShare:
    """For ``make test``: xdist asks for it."""
    return TogetherWhereTheyShare(config, log)
