"""Which tests run together in one test process, and which cluster they need."""

from __future__ import annotations

import pytest

from scheduling import NONE, OPERATED, PLAIN, need_of, unit_of


@pytest.mark.parametrize(
    ("nodeid", "unit", "need"),
    [
        ("tests/parity/test_parity_calls.py::test_members_are_listed_by_name", "tests/parity", PLAIN),
        ("tests/integration/test_cli.py::test_x[list --hub nope]", "tests/integration/test_cli.py", PLAIN),
        ("tests/integration/test_operator_owned.py::test_x", "tests/integration/test_operator_owned.py", OPERATED),
        ("tests/integration/test_informer.py::test_x", "tests/integration/test_informer.py::test_x", PLAIN),
        (
            "tests/integration/test_operator_nodes.py::test_x",
            "tests/integration/test_operator_nodes.py::test_x",
            OPERATED,
        ),
        ("tests/unit/core/test_model_check.py::test_x", "tests/unit/core/test_model_check.py::test_x", NONE),
        ("tests/simulation/test_simulation.py::test_x", "tests/simulation/test_simulation.py::test_x", NONE),
    ],
)
def test_tests_that_share_a_slow_fixture_run_together(nodeid: str, unit: str, need: str) -> None:
    assert (unit_of(nodeid), need_of(unit)) == (unit, need)
