"""Only processhub/registry reads and writes the text of entries: no other module knows their format.

The short form in which a status is stored belongs to the resource, so it is in processhub/api.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from processhub.api.reasons import State

PACKAGE = Path(__file__).parents[3] / "operator/src/processhub"
OPTIONS = "run|to|state|restart|idle|tags|meta|ask|reason|gave|kept|got|claim|exit|msg"
TEXT_OF_AN_ENTRY = re.compile(rf" ({OPTIONS})=| (wait|asleep|demand) ?| ({'|'.join(State)}) ")


def knowledge_of_entries(source: str) -> Iterator[str]:
    """Yield the places in a module that search an entry for a part, write an entry, or split one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and TEXT_OF_AN_ENTRY.fullmatch(node.value):
            yield f"line {node.lineno}: {node.value!r}"
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("split", "rsplit", "partition")
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and node.args[0].value == " "
            and re.search(r"\b(text|entry|entries|report|reported|assigned)\b", ast.unparse(node.func.value))
        ):
            yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "source",
    [
        "found = ' to=' in text",
        "running = ' Running ' in text",
        "line = f'{uid} {epoch} Active {hash} wait' + f' run={run}'",
        "count = text.endswith(' demand')",
        "uid, _, role, _ = text.split(' ', 3)",
        "uid = item.spec.entries[child_id].partition(' ')[0]",
    ],
)
def test_reading_an_entry_by_hand_is_found(source: str) -> None:
    assert list(knowledge_of_entries(source))


def test_no_module_but_those_of_the_registry_reads_or_writes_entries() -> None:
    modules = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "registry"]
    modules.remove(PACKAGE / "api/running.py")
    found = {
        f"{path.relative_to(PACKAGE)}, {what}" for path in modules for what in knowledge_of_entries(path.read_text())
    }

    assert len(modules) > 100
    assert not found, "use a function of processhub/registry/grammar.py, or add one that says what it looks for"


def test_only_the_resource_itself_reads_the_stored_form_of_a_status() -> None:
    """Its ``entries`` lack the children that run well: they would count as ended."""
    modules = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "api"]
    found = {
        f"{path.relative_to(PACKAGE)}, line {node.lineno}"
        for path in modules
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("entries", "running") and _is_a_slices_status(node.value)
    }

    assert not found, "use SliceStatus.reports"


def _is_a_slices_status(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "status" and "set" not in ast.unparse(node)
