"""Hooks as a caller of the client writes them."""

from __future__ import annotations

from typing import Any

import pytest

from processhub.api.hooks import HookEvent
from processhub.client.errors import InvalidHook
from processhub.client.hooks import parse_hooks

WEBHOOK = {"url": "http://audit.example"}
GOOD = {"name": "a", "event": "ChildStarted", "webhook": WEBHOOK}


def test_hooks_are_written_as_in_a_manifest() -> None:
    handler = {"name": "b", "event": "PreChildStart", "priority": 3, "python": {"handler": "m:f", "args": {"x": 1}}}

    first, second = parse_hooks([GOOD, handler])

    assert (first.name, first.event, first.webhook and first.webhook.timeout_seconds) == ("a", "ChildStarted", 3)
    assert (second.event, second.priority) == (HookEvent.PRE_CHILD_START, 3)
    assert second.python is not None
    assert second.python.args == {"x": 1}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([], "no hooks given; name at least one"),
        (GOOD, "hooks are given as a list"),
        (["audit"], r"hooks\[0\]: expected a mapping"),
        ([GOOD, GOOD], r"hooks\[1\]: the name 'a' is there twice"),
        ([{**GOOD, "event": "Started"}], r"hooks\[0\]: Invalid enum value 'Started' - at `\$.event`"),
        ([{**GOOD, "prio": 1}], r"hooks\[0\]: unknown field 'prio'; known are event, name, priority, python, webhook"),
        ([{**GOOD, "webhook": {**WEBHOOK, "timeout": 1}}], r"hooks\[0\].webhook: unknown field 'timeout'"),
        ([{"name": "a", "event": "ChildStarted"}], r"hooks\[0\] \('a'\): give exactly one of webhook and python"),
        ([{**GOOD, "python": {"handler": "m:f"}}], "give exactly one of webhook and python"),
        ([{"event": "ChildStarted", "webhook": WEBHOOK}], "missing required field `name`"),
    ],
)
def test_what_is_no_hook_is_refused_in_a_sentence(given: Any, why: str) -> None:
    with pytest.raises(InvalidHook, match=why):
        parse_hooks(given)
