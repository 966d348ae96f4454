"""Children whose time is up, where somebody does not let one of them be deleted."""

from __future__ import annotations

import msgspec
from a_round import a_round
from aiohttp import web
from aiohttp.test_utils import TestServer

from processhub.api.child import Child
from processhub.api.hub import Hub, HubSpec
from processhub.api.meta import ObjectMeta
from processhub.cluster.client import Client
from processhub.cluster.config import Config
from processhub.controller.execute.lifetimes import Lifetimes
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.observe.observation import Observation
from processhub.controller.report.memory import ReportMemory
from processhub.controller.store.hubstate import HubState
from processhub.core.model.quorum import Verdict
from processhub.core.model.snapshot import HubSnapshot

QUORATE = Verdict(required=0, live=1, largest_seen=1, quorate=True, partitioned=False, reason="", why="")


def over(name: str) -> Child:
    return msgspec.convert(
        {
            "metadata": {"name": name, "namespace": "ns", "uid": f"uid-{name}", "generation": 1},
            "spec": {"hub": "hub", "exec": {"command": ["true"]}, "ttlSeconds": 1},
            "status": {"firstStartedAt": "2026-01-01T00:00:00Z"},
        },
        Child,
    )


async def no_token() -> str | None:
    return None


async def test_a_child_that_may_not_be_deleted_holds_up_nothing_else_of_its_hub() -> None:
    """What comes after it in a round would never be reached: members made, statuses written."""
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
    snapshot = HubSnapshot(spec=HubSpec(), members=(), children={}, record={}, next_epoch=1)
    chosen = {known.child.id: known for known in state.children.values()}
    observation = Observation(members={}, snapshot=snapshot, refusals={}, chosen=chosen, quorum=QUORATE)

    async with TestServer(app) as server:
        config = Config(host=str(server.make_url("")).rstrip("/"), namespace="ns", ssl=False, token=no_token)
        async with Client(config) as client:
            for _ in range(2):
                hub = Hub(metadata=ObjectMeta(name="hub"))
                round = a_round(hub, state, client=client, failures=memory.failures, now=lambda: 0.0)
                await Lifetimes(round, memory, ReportMemory()).delete_expired(observation)

    assert deleted == ["other"]
    assert asked == 1, "it is not tried again at once"
    assert round.requeue.after is not None, "but later"
    (failure,) = memory.failures.values()
    assert failure.sentence == "child/kept can't be deleted though its ttlSeconds (1) are over: the policy says no"
