"""What all tests share: a control plane of the session's own for those that ask for one, and fixed examples."""

import os

import pytest
from hypothesis import settings

pytest_plugins = ("controlplane",)

# A change is judged by the same examples in each run; `make search` looks for others by chance.
# None has a deadline of its own: on a busy machine one example takes long without a reason in the code.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

# Fixtures of a module or a folder that take long to make: an operator and its hubs, a cluster.
_MADE_ONCE = {"answered", "empty", "own", "owning", "product"}


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share such a fixture are one process's, so that it is not made in each."""
    for item in items:
        if _MADE_ONCE & set(getattr(item, "fixturenames", ())):
            folder = item.path.parent
            item.add_marker(pytest.mark.xdist_group(folder.name if folder.name == "parity" else item.path.stem))
