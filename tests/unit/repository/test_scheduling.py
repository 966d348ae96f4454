"""Which tests run together in one test process, and which cluster they need."""

from __future__ import annotations

import pytest

from scheduling import AT_ONCE, LONG, NONE, OPERATED, PLAIN, Units, need_of, unit_of


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
        ("tests/unit/core/test_planner.py::test_x", "tests/unit/core/test_planner.py::test_x", NONE),
        ("tests/unit/core/test_model_check.py::test_x", "tests/unit/core/test_model_check.py::test_x", LONG),
        ("tests/simulation/test_simulation.py::test_x", "tests/simulation/test_simulation.py::test_x", LONG),
    ],
)
def test_tests_that_share_a_slow_fixture_run_together(nodeid: str, unit: str, need: str) -> None:
    assert (unit_of(nodeid), need_of(unit)) == (unit, need)


def test_short_tests_of_a_file_run_a_few_at_once_and_others_as_they_share() -> None:
    units, names = Units(), [f"tests/unit/core/test_planner.py::test_{number}" for number in range(AT_ONCE + 1)]
    short = [units.of(name) for name in names]
    other = units.of("tests/unit/controller/test_quorum.py::test_x")

    assert len(set(short[:AT_ONCE])) == 1
    assert len({*short, other}) == 3
    assert {need_of(unit) for unit in (*short, other)} == {NONE}
    assert [units.of(name) for name in names] == short, "as when it was handed out"
    for nodeid in ("tests/unit/core/test_model_check.py::test_x", "tests/integration/test_cli.py::test_x"):
        assert units.of(nodeid) == unit_of(nodeid)
