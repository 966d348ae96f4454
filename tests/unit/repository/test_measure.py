"""The measures of the code base, on made-up code."""

from __future__ import annotations

import ast

import pytest

import measure

CODE = """
class Desk:
    kept = 1

    def __init__(self, size):
        self.size, self._open = size, True
        size.other = 1

    async def close(self):
        self._open = False
        self.closed += 1
"""


def test_each_attribute_of_a_class_is_counted_once() -> None:
    item = ast.parse(CODE).body[0]
    assert isinstance(item, ast.ClassDef)

    assert measure._state(item) == {"size", "_open", "closed"}


@pytest.mark.parametrize(("lines", "long"), [(measure.LONG_FUNCTION, 0), (measure.LONG_FUNCTION + 1, 1)])
def test_a_long_function_is_counted_with_its_decorators(lines: int, long: int) -> None:
    body = "\n".join(f"    a = {number}" for number in range(lines - 2))

    assert len(list(measure._long_functions(ast.parse(f"@cached\ndef f():\n{body}")))) == long


def test_a_measure_that_is_worse_than_its_bound_fails_the_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        measure.Measure("contracts", 8, measure.Bound(least=9)),
        measure.Measure("long functions", 5, measure.Bound(most=5), "f in a.py"),
        measure.Measure("lines", 10**6, measure.Bound()),
    ]
    monkeypatch.setattr(measure, "measures", lambda: found)

    assert measure.main([]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "     5  ≤ 5     long functions  f in a.py"
    assert measure.main(["--check"]) == 1
    assert capsys.readouterr().out == "     8  ≥ 9     contracts\n"


def test_the_code_base_is_within_its_bounds() -> None:
    found = {item.name: item for item in measure.measures()}

    assert all(item.bound.holds(item.value) for item in found.values())
    assert found["lines of the product"].value > 20_000
    assert found["attributes of the largest class"].where
