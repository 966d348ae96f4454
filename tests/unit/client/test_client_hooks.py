"""Hooks as a caller of the client writes them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from builders import make_hub
from processhub.api.hooks import HookEvent
from processhub.api.hub import Hub, HubSpec, HubStatus
from processhub.api.meta import condition_of
from processhub.client.errors import InvalidHook
from processhub.client.hooks import cancel, parse_hooks

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
        ([{**GOOD, "event": "Started"}], r"hooks\[0\]: event can't be 'Started'; write .*ChildStarted"),
        ([{**GOOD, "prio": 1}], r"hooks\[0\]: unknown field 'prio'; known are event, name, priority, python, webhook"),
        ([{**GOOD, "webhook": {**WEBHOOK, "timeout": 1}}], r"hooks\[0\].webhook: unknown field 'timeout'"),
        ([{"name": "a", "event": "ChildStarted"}], r"hooks\[0\] \('a'\): give exactly one of webhook and python"),
        ([{**GOOD, "python": {"handler": "m:f"}}], "give exactly one of webhook and python"),
        ([{"event": "ChildStarted", "webhook": WEBHOOK}], "name is missing; write it"),
    ],
)
def test_what_is_no_hook_is_refused_in_a_sentence(given: Any, why: str) -> None:
    with pytest.raises(InvalidHook, match=why):
        parse_hooks(given)


class RefusedHub:
    """A session with a Hub that is not accepted; ``followed``: the generation of its spec that is."""

    name, namespace = "hub", "ns"

    def __init__(self, followed: int) -> None:
        message = "spec.distribution.strategy 'Nearest' is not known"
        self.hub = make_hub(
            generation=1,
            spec=HubSpec(hooks=parse_hooks([GOOD])),
            status=HubStatus(
                observed_generation=2,
                conditions=(
                    condition_of("Accepted", False, "UnknownStrategy", message, 2),
                    condition_of("Ready", True, "MembersReady", "", followed),
                ),
            ),
        )
        self.client = self

    async def get(self, *_: Any) -> Hub:
        return self.hub

    async def patch(self, _: Any, namespace: str, name: str, patch: dict[str, Any]) -> Hub:
        metadata = msgspec.structs.replace(self.hub.metadata, generation=2)
        self.hub = msgspec.structs.replace(self.hub, metadata=metadata, spec=HubSpec(hooks=patch["spec"]["hooks"]))
        return self.hub

    def living_hub(self) -> Hub:
        return self.hub


async def test_who_cancels_a_hook_of_a_spec_that_is_not_followed_learns_of_it() -> None:
    """The hub is reconciled by its last accepted spec, which has the hook."""
    session: Any = RefusedHub(followed=1)

    with pytest.raises(
        InvalidHook, match="hub hub has no hook 'a' in its spec any more, but that spec is not in effect"
    ):
        await cancel(session, ["a"])

    assert session.hub.spec.hooks == ()


async def test_a_hook_is_cancelled_where_only_a_part_of_the_spec_is_refused() -> None:
    session: Any = RefusedHub(followed=2)

    await cancel(session, ["a"])

    assert session.hub.spec.hooks == ()
