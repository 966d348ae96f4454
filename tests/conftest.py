"""What all tests share: a control plane of the session's own for those that ask for one, and fixed examples."""

import os

import pytest
from hypothesis import settings
from xdist.remote import Producer

from scheduling import ClusterScheduling

pytest_plugins = ("controlplane",)

# A change is judged by the same examples in each run; `make search` looks for others by chance.
# None has a deadline of its own: on a busy machine one example takes long without a reason in the code.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ClusterScheduling:
    """What gives tests to several test processes."""
    return ClusterScheduling(config, log)
