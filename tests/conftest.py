"""Shared by all tests: a control plane of the session for tests that use one, and fixed examples."""

import gc
import os

import pytest
from hypothesis import settings
from xdist.remote import Producer

from scheduling import ClusterScheduling

pytest.register_assert_rewrite("apiservers", "operatorworld", "operatorsite", "podworld", "settling")  # first
pytest_plugins = ("controlplane",)

# A change is tested with the same examples in each run; `make search` looks for others at random.
# No example has its own deadline: on a busy machine one may take long without a reason in the code.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Let later collections of garbage visit neither modules nor tests: that would take a tenth of a second each."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ClusterScheduling:
    """Return the scheduler that assigns tests to several test processes."""
    return ClusterScheduling(config, log)
