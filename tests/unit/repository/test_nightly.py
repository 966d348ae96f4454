"""The tests that run only at night, and the list of them in CONTRIBUTING.md."""

from __future__ import annotations

import ast
import functools
import gc
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
_ROW = re.compile(r"^\| `(?P<test>tests/[^`]+::[^`]+)` \| (?P<reason>\S.*) \|$", re.M)


@functools.cache
def marked() -> tuple[str, ...]:
    """Return path and name of each test with the marker, with the id if only some of its parameters have it."""
    # Python 3.11 fails to build a syntax tree if what it collects meanwhile runs code, as a task's end does that logs.
    gc.disable()
    try:
        return tuple(_marked())
    finally:
        gc.enable()


def _marked() -> Iterator[str]:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "mark.nightly" in text else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{path.relative_to(ROOT)}::{node.name}"
                for decorator in node.decorator_list:
                    if ast.unparse(decorator) == "pytest.mark.nightly":
                        yield name
                    yield from (f"{name}[{given}]" for given in _parameters(decorator))


def _parameters(decorator: ast.expr) -> Iterator[str]:
    """Return the ids of a decorator's parameters that have the marker."""
    for node in ast.walk(decorator):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.param":
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            if "marks" in keywords and ast.unparse(keywords["marks"]) == "pytest.mark.nightly":
                yield str(ast.literal_eval(keywords["id"]))


def test_contributing_lists_each_nightly_test_with_its_reason() -> None:
    rows = {match["test"]: match["reason"] for match in _ROW.finditer((ROOT / "CONTRIBUTING.md").read_text())}

    assert set(rows) == set(marked())
    assert all(reason[0].isupper() and reason.endswith(".") for reason in rows.values())


def test_the_marker_is_used_in_no_other_form() -> None:
    """A form that ``marked`` does not read would leave a test out of the list."""
    found = sum(
        path.read_text().count("mark.nightly")
        for path in (ROOT / "tests").rglob("*.py")
        if path != Path(__file__).resolve()
    )

    assert found == len(marked())
