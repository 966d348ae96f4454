"""How the tests share a machine: in two lots of about the same length, each with a control plane of its own."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under ``--numprocesses 2 --dist loadgroup``: the operator's tests and those without a cluster, and the rest."""
    for item in items:
        first = "site" in getattr(item, "fixturenames", ()) or "unit" in item.path.parts
        item.add_marker(pytest.mark.xdist_group("operator" if first else "rest"))
