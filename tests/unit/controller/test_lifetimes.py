"""Children whose lifetime is over, and on-demand children that never started or have no place."""

from __future__ import annotations

from typing import Any

import pytest
from a_round import a_round
from aiohttp import web
from observing import observed

from builders import client_of, make_child, make_hub, make_observation
from processhub.api.child import Child
from processhub.api.hub import Hub
from processhub.controller.execute.lifetimes import Lifetimes
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.observe.memory import ObserveMemory
from processhub.controller.report.memory import ReportMemory
from processhub.controller.store.hubstate import HubState


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


EXEC = {"exec": {"command": ["true"]}}


def new(name: str, created: str, **spec: Any) -> Child:
    """A Child that never ran."""
    return make_child(name, spec, uid=f"uid-{name}", generation=1, creation_timestamp=created)


class Rounds:
    """The rounds of one hub under one leader: the deletions of each, and the seconds until the next."""

    def __init__(self, hub: Hub, *children: Child) -> None:
        self.hub, self.state, self.memory = hub, HubState(("ns", "hub")), ExecuteMemory()
        self.deleted: list[str] = []
        for child in children:
            self.state.put_child(child)

    async def round(self, now: float) -> float | None:
        async def delete(request: web.Request) -> web.Response:
            self.deleted.append(request.match_info["name"])
            return web.json_response({})

        app = web.Application()
        app.add_routes([web.delete("/apis/processhub.dev/v1alpha1/namespaces/ns/children/{name}", delete)])
        async with client_of(app) as client:
            round = a_round(self.hub, self.state, client=client, now=lambda: now)
            observation = observed(self.hub, self.state, {}, ObserveMemory(1))
            await Lifetimes(round, self.memory, ReportMemory()).delete_expired(observation)
        return round.requeue.after


@pytest.mark.parametrize("created", ["2001-01-01T00:00:00Z", "2101-01-01T00:00:00Z"], ids=["slow", "fast"])
async def test_a_child_on_demand_that_never_starts_ends_by_the_leaders_own_clock(created: str) -> None:
    """A request created it, and nobody deletes it. The API server's clock, which dated its creation, may be wrong."""
    hub = make_hub(spec={"onDemand": {**EXEC, "ttlSeconds": 6}})
    rounds = Rounds(hub, new("asked", created, onDemand=True), new("declared", created, **EXEC, ttlSeconds=6))

    assert await rounds.round(100.0) == 6
    await rounds.round(105.9)
    assert rounds.deleted == []
    await rounds.round(106.0)

    assert rounds.deleted == ["asked"], "the time of a declared child begins with its first start"


async def test_a_child_on_demand_that_has_no_place_is_deleted_at_once() -> None:
    """Its request is answered 429. If it were kept, it would start by itself as soon as another child ends."""
    hub = make_hub(spec={"onDemand": {**EXEC, "max": 2}})
    asked = [new(name, f"2026-01-01T00:00:0{second}Z", onDemand=True) for second, name in enumerate("abcd")]
    rounds = Rounds(hub, *asked)

    await rounds.round(0.0)

    assert sorted(rounds.deleted) == ["c", "d"]
