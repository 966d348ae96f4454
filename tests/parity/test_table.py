"""docs/coming-from-processhub.md, row by row: each name in it exists, and one test shows the row at work."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from paritytable import ROOT, fields, rows

from processhub import Actor, Hub
from processhub.api.hooks import HookEvent
from processhub.api.reasons import Reason
from processhub.cli.app import app
from processhub.client import errors

_KUBECTL = {"apply", "delete", "edit", "get", "wait", "drain"}  # verbs of kubectl itself
_NOT_OURS = {"init", "scope", "global", "local"}


def commands() -> set[str]:
    """Return all verbs of kubectl hub."""
    group: Any = typer.main.get_command(app)
    verbs = set()
    for name, command in group.commands.items():
        verbs.add(name)
        verbs |= {f"{name} {below}" for below in getattr(command, "commands", {})}
    return verbs


def strategies() -> set[str]:
    """Return the values that the Hub's CRD allows or describes."""
    return set(re.findall(r"\b[A-Z][A-Za-z]+\b", (ROOT / "crds" / "hubs.yaml").read_text()))


@pytest.mark.parametrize(("theirs", "names"), rows(), ids=[theirs for theirs, _ in rows()])
def test_the_counterpart_exists(theirs: str, names: list[str]) -> None:
    for name in names:
        assert _is_there(name), f"{theirs}: nothing here is called {name!r}"


def _is_there(name: str) -> bool:
    if name.startswith("kubectl hub "):
        return name.removeprefix("kubectl hub ") in commands()
    if name.startswith("kubectl "):
        return name.removeprefix("kubectl ") in _KUBECTL
    if name.startswith("hub."):
        return callable(getattr(Hub, name.removeprefix("hub."), None))
    if name.startswith("spec."):
        return name in fields()
    if name.endswith("="):
        return name.removesuffix("=") in inspect.signature(Hub.start_children).parameters
    if name.startswith(("await ", '"')) or "=" in name:
        return True  # an example of the row's other names
    if name[0].isupper():
        known = {event.value for event in HookEvent} | {reason.value for reason in Reason} | strategies()
        return name in known or hasattr(errors, name)
    bare = name.partition("(")[0]
    return hasattr(Actor, bare) or bare == "roleSignal" or bare in _NOT_OURS


def test_each_row_has_one_test_in_the_file_of_its_section() -> None:
    shown = []
    for path in sorted(Path(__file__).parent.glob("test_parity_*.py")):
        module = importlib.import_module(path.stem)
        for name, test in vars(module).items():
            if name.startswith("test_"):
                marks = [mark.args for mark in getattr(test, "pytestmark", []) if mark.name == "row"]
                assert len(marks) == 1, f"{path.name}: {name} names no row of the table, or several"
                ((row,),) = marks
                section = row.partition(":")[0].lower().replace(" ", "_")
                assert path.stem == f"test_parity_{section}", f"{path.name}: {name} shows a row of another section"
                shown.append(row)

    assert sorted(shown) == sorted(theirs for theirs, _ in rows())


def test_each_call_strategy_and_event_has_a_row() -> None:
    named = {name for _, names in rows() for name in names}

    assert len(rows()) > 60
    assert {event.value for event in HookEvent} <= named
    assert {f"hub.{name}" for name in ("start_children", "stop_children", "call", "cast", "drain")} <= named
