"""Children whose lifetime is over."""

from __future__ import annotations

import msgspec
import pytest
from a_round import a_round
from aiohttp import web

from builders import QUORATE, client_of, make_child, make_client, make_hub, make_observation
from processhub.api.child import Child, ChildStatus
from processhub.api.reasons import State
from processhub.controller.execute.lifetimes import Lifetimes
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.report.child import first_started
from processhub.controller.report.memory import ReportMemory
from processhub.controller.report.reporter import Reporter
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.informers import Store
from processhub.core.model.plan import Plan
from processhub.registry.copies import Copy
from processhub.registry.grammar import Report


def over(name: str) -> Child:
    return make_child(
        name,
        {"exec": {"command": ["true"]}, "ttlSeconds": 1},
        status={"firstStartedAt": "2026-01-01T00:00:00Z"},
        uid=f"uid-{name}",
        generation=1,
    )


async def test_a_child_that_may_not_be_deleted_delays_nothing_else_of_its_hub() -> None:
    """Later steps of the round would never be reached: creating members, writing statuses."""
    deleted: list[str] = []
    asked = 0

    async def delete(request: web.Request) -> web.Response:
        nonlocal asked
        name = request.match_info["name"]
        if name == "kept":
            asked += 1
            return web.json_response({"kind": "Status", "message": "the policy says no"}, status=403)
        deleted.append(name)
        return web.json_response({})

    app = web.Application()
    app.add_routes([web.delete("/apis/processhub.dev/v1alpha1/namespaces/ns/children/{name}", delete)])
    state, memory = HubState(("ns", "hub")), ExecuteMemory()
    for name in ("kept", "other"):
        state.put_child(over(name))
    observation = make_observation(chosen={known.child.id: known for known in state.children.values()})

    async with client_of(app) as client:
        for _ in range(2):
            round = a_round(make_hub(), state, client=client, failures=memory.failures, now=lambda: 0.0)
            await Lifetimes(round, memory, ReportMemory()).delete_expired(observation)

    assert deleted == ["other"]
    assert asked == 1, "it is not tried again at once"
    assert round.requeue.after is not None, "but later"
    (failure,) = memory.failures.values()
    assert failure.sentence == "child/kept can't be deleted though its ttlSeconds (1) are over: the policy says no"


async def test_a_child_whose_lifetime_was_extended_is_not_deleted_by_a_watch_that_lags() -> None:
    present, deleted = "7", []

    async def delete(request: web.Request) -> web.Response:
        if (await request.json())["preconditions"].get("resourceVersion", present) != present:
            return web.json_response({"kind": "Status", "reason": "Conflict", "message": "it has changed"}, status=409)
        deleted.append(request.match_info["name"])
        return web.json_response({})

    app = web.Application()
    app.add_routes([web.delete("/apis/processhub.dev/v1alpha1/namespaces/ns/children/{name}", delete)])
    state, memory = HubState(("ns", "hub")), ExecuteMemory()

    async with client_of(app) as client:
        for seen in ("6", present):
            child = over("a")
            state.put_child(
                msgspec.structs.replace(child, metadata=msgspec.structs.replace(child.metadata, resource_version=seen))
            )
            observation = make_observation(chosen={known.child.id: known for known in state.children.values()})
            round = a_round(make_hub(), state, client=client, failures=memory.failures, now=lambda: 0.0)
            await Lifetimes(round, memory, ReportMemory()).delete_expired(observation)
            if seen != present:
                assert deleted == []
                assert round.requeue.after is not None, "it is read, and looked at again"

    assert deleted == ["a"]


async def test_a_first_start_that_is_no_time_ends_no_round() -> None:
    child = over("kept")
    child = msgspec.structs.replace(child, status=msgspec.structs.replace(child.status, first_started_at="soon"))
    state = HubState(("ns", "hub"))
    state.put_child(child)
    observation = make_observation(chosen={known.child.id: known for known in state.children.values()})
    round = a_round(make_hub(), state, now=lambda: 0.0)

    await Lifetimes(round, ExecuteMemory(), ReportMemory()).delete_expired(observation)

    assert round.requeue.after is None, "no end is awaited"


def test_the_first_start_is_read_from_the_status() -> None:
    memory, fresh = ReportMemory(), make_child("a", {"exec": {"command": ["true"]}}, uid="uid-a")
    assert first_started(fresh, [], memory) == "", "it has not run yet"

    known = msgspec.structs.replace(fresh, status=ChildStatus(first_started_at="2026-01-01T00:00:00.250Z"))
    memory.first_started["a"] = "uid-a", "2026-01-02T00:00:00.000Z"
    assert first_started(known, [], memory) == "2026-01-01T00:00:00.250Z"
    assert memory.first_started == {}
    rubbish = msgspec.structs.replace(fresh, status=ChildStatus(first_started_at="soon"))
    assert first_started(rubbish, [], memory) == "", "a time that is none is written again"


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "created again"])
async def test_the_first_start_of_a_deleted_child_is_kept_for_no_longer_than_the_child(again: bool) -> None:
    child, memory, hub = make_child("a", {"exec": {"command": ["true"]}}, uid="uid-a"), ReportMemory(), make_hub()
    client = make_client()
    store = Store(client, (), lambda _: None)
    reporter = Reporter(client, store, lambda _: None, lambda _: None)
    copies = [Copy("hub-0", None, Report(uid="uid-a", epoch=1, state=State.RUNNING))]
    assert first_started(child, copies, memory)
    if again:
        store.state(hub.metadata.key).put_child(make_child("a", {"exec": {"command": ["true"]}}, uid="uid-b"))

    round = a_round(hub, client=client, store=store)
    round.changed.add("a")
    nothing = Plan(entries={}, unplaced={}, next_epoch=1)
    reporter.round_ended(round, memory, make_observation(quorum=QUORATE), nothing, {}, None)

    successor = make_child("a", {"exec": {"command": ["true"]}}, uid="uid-b")
    assert first_started(successor, copies, memory) == "", "another one has run"
    assert memory.first_started.keys() == ({"a"} if again else set())
