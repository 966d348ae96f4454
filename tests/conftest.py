"""Shared by all tests: a control plane of the session for tests that use one, and fixed examples."""

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from xdist.remote import Producer

from scheduling import ClusterScheduling

pytest.register_assert_rewrite("apiservers", "operatorworld", "operatorsite", "podworld", "settling")  # first
pytest_plugins = ("controlplane", "nothingleft")

# A change is tested with the same examples in each run; `make search` looks for others at random.
# No example has its own deadline: on a busy machine one may take long without a reason in the code.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Collect no garbage while the tests are collected, and let it visit neither modules nor tests later.

    There is hardly any, and a look for it takes up to a tenth of a second, in each test process.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ClusterScheduling:
    """Return the scheduler that assigns tests to several test processes."""
    return ClusterScheduling(config, log)
