"""Hooks as a caller of the client writes them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from builders import make_hub
from processhub.api.hooks import HookEvent
from processhub.api.hub import HookStatus, Hub, HubSpec, HubStatus
from processhub.api.meta import condition_of
from processhub.api.registeredhooks import RegisteredHooks, observed_mark, parse_registered_hooks
from processhub.client.errors import InvalidHook
from processhub.client.hooks import cancel, parse_hooks, register
from processhub.cluster.errors import api_error

WEBHOOK = {"url": "http://audit.example"}
GOOD = {"name": "a", "event": "ChildStarted", "webhook": WEBHOOK}


def test_hooks_are_written_as_in_a_manifest() -> None:
    handler = {"name": "b", "event": "PreChildStart", "priority": 3, "python": {"handler": "m:f", "args": {"x": 1}}}

    first, second = parse_hooks([GOOD, handler])

    assert (first.name, first.event, first.webhook and first.webhook.timeout_seconds) == ("a", "ChildStarted", 3)
    assert (second.event, second.priority) == (HookEvent.PRE_CHILD_START, 3)
    assert second.python is not None
    assert second.python.args == {"x": 1}
    webhook = {**WEBHOOK, "timeoutSeconds": None}
    assert parse_hooks([{**GOOD, "webhook": webhook, "priority": None, "python": None}]) == (first,)


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
def test_an_invalid_hook_is_rejected_in_a_sentence(given: Any, why: str) -> None:
    with pytest.raises(InvalidHook, match=why):
        parse_hooks(given)


class RefusedHub:
    """A session with a Hub whose last edit is not accepted, and the operator that acts on ``followed``."""

    name, namespace = "hub", "ns"

    def __init__(self, followed: HubSpec) -> None:
        message = "spec.distribution.strategy 'Nearest' is not known"
        refused = condition_of("Accepted", False, "UnknownStrategy", message, 1)
        self.hub = make_hub(
            generation=1, spec=HubSpec(hooks=parse_hooks([GOOD])), status=HubStatus(conditions=(refused,))
        )
        self.client, self._followed = self, followed

    async def get(self, *_: Any) -> Hub:
        return self.hub

    async def patch(self, _: Any, namespace: str, name: str, patch: dict[str, Any]) -> Hub:
        metadata = msgspec.structs.replace(self.hub.metadata, annotations=patch["metadata"]["annotations"])
        called = parse_registered_hooks(metadata).in_effect(self._followed.hooks)
        hooks = HookStatus(in_effect=tuple(hook.name for hook in called), observed=observed_mark(metadata))
        status = msgspec.structs.replace(self.hub.status, hooks=hooks)
        self.hub = msgspec.structs.replace(self.hub, metadata=metadata, status=status)
        return self.hub

    def living_hub(self) -> Hub:
        return self.hub


async def test_cancelling_a_hook_that_an_earlier_spec_has_in_another_form_is_an_error() -> None:
    session: Any = RefusedHub(HubSpec(hooks=parse_hooks([{**GOOD, "priority": 5}])))

    with pytest.raises(
        InvalidHook, match=r"hook a of hub hub is cancelled, but the hub is reconciled by an earlier spec.*'Nearest'"
    ):
        await cancel(session, ["a"])


async def test_a_cancelled_hook_stays_in_the_spec_until_it_is_edited() -> None:
    session: Any = RefusedHub(HubSpec(hooks=parse_hooks([GOOD])))

    await cancel(session, ["a"])

    assert [hook.name for hook in session.hub.spec.hooks] == ["a"]
    assert parse_registered_hooks(session.hub.metadata).in_effect(session.hub.spec.hooks) == ()
    edited = parse_hooks([{**GOOD, "priority": 5}])
    assert parse_registered_hooks(session.hub.metadata).in_effect(edited) == edited


class StoresWithoutAnswer(RefusedHub):
    """A hub whose API server stores the first edit, answers it with 504, and refuses edits of older versions."""

    version = 1

    async def patch(self, *given: Any, dry_run: bool = False) -> Hub:
        if dry_run:
            return self.hub
        if given[-1]["metadata"]["resourceVersion"] != self.hub.metadata.resource_version:
            raise api_error(409, b"", None)
        await super().patch(*given)
        self.version += 1
        metadata = msgspec.structs.replace(self.hub.metadata, resource_version=str(self.version))
        self.hub = msgspec.structs.replace(self.hub, metadata=metadata)
        if self.version == 2:
            raise api_error(504, b"", None)
        return self.hub


async def test_a_hook_whose_registration_is_stored_without_an_answer_is_registered() -> None:
    session: Any = StoresWithoutAnswer(HubSpec(hooks=parse_hooks([GOOD])))

    await register(session, parse_hooks([{**GOOD, "name": "b"}]))

    in_effect = parse_registered_hooks(session.hub.metadata).in_effect(session.hub.spec.hooks)
    assert [hook.name for hook in in_effect] == ["a", "b"]
    with pytest.raises(InvalidHook, match="has a hook b already"):
        await register(session, parse_hooks([{**GOOD, "name": "b"}]))


def test_a_hook_of_the_spec_replaces_a_registered_one() -> None:
    (declared,) = parse_hooks([GOOD])
    registered, other = parse_hooks([{**GOOD, "priority": 5}, {**GOOD, "name": "b"}])

    assert RegisteredHooks(registered=(registered, other)).in_effect((declared,)) == (declared, other)
