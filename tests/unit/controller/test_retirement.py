"""Which objects of a member are deleted when the hub has scaled it away."""

from __future__ import annotations

import pytest
from a_round import a_round
from aiohttp import web

from builders import client_of, make_hub, make_lease, make_member, make_slice
from processhub.controller.execute.memberleases import retire
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.store.hubstate import HubState
from processhub.core.model.membership import Phase


def deletions() -> tuple[list[str], web.Application]:
    """The names of the objects that are deleted, and the API server that does so."""
    requests: list[str] = []

    async def delete(request: web.Request) -> web.Response:
        requests.append(request.match_info["name"])
        return web.json_response({"kind": "Status", "status": "Success"})

    app = web.Application()
    leases = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/{name}"
    slices = "/apis/processhub.dev/v1alpha1/namespaces/ns/registryslices/{name}"
    app.add_routes([web.delete(leases, delete), web.delete(slices, delete)])
    return requests, app


@pytest.mark.parametrize(("phase", "deleted"), [(Phase.LIVE, []), (Phase.HELD, []), (Phase.GONE, ["hub.hub-7"])])
async def test_the_lease_of_a_surplus_member_without_pod_and_slices_stays_while_it_may_run(
    phase: Phase, deleted: list[str]
) -> None:
    """Without its Lease it would count as gone, and its children would start elsewhere beside it."""
    requests, app = deletions()
    hub = make_hub()
    state = HubState(hub.metadata.key)
    state.put_lease(make_lease("hub-7", "pod/1"), 0.0)
    member = make_member("hub-7", phase=phase, wanted=False, holder="pod/1")
    async with client_of(app) as client:
        await retire(a_round(hub, state, client=client), ExecuteMemory(), {"hub-7": member}, replicas=3)

    assert requests == deleted
    assert list(state.leases) == ["hub.hub-7"] * (not deleted)


async def test_a_surplus_member_keeps_slice_and_lease_while_the_stateful_set_will_make_its_pod_again() -> None:
    """A later member is kept for what is bound to it. Without slice and Lease the pod would never be ready."""
    requests, app = deletions()
    hub = make_hub()
    state = HubState(hub.metadata.key)
    state.put_lease(make_lease("hub-7", ""), 0.0)
    for slices in ((make_slice(member="hub-7"),), ()):
        member = make_member("hub-7", *slices, phase=Phase.GONE, wanted=False)
        async with client_of(app) as client:
            await retire(a_round(hub, state, client=client), ExecuteMemory(), {"hub-7": member}, replicas=9)

    assert requests == []
    assert list(state.leases) == ["hub.hub-7"]


async def test_a_lease_that_was_never_read_is_forgotten_and_not_deleted() -> None:
    """It has no uid to name in the deletion, which would delete any Lease of that name."""
    hub = make_hub(status={"members": [{"name": "hub-7"}]})
    state = HubState(hub.metadata.key)
    state.add_missing_leases(hub, 0.0)
    member = make_member("hub-7", phase=Phase.GONE, wanted=False, lease=state.leases.of_member("hub-7"))

    requests, app = deletions()
    async with client_of(app) as client:
        await retire(a_round(hub, state, client=client), ExecuteMemory(), {"hub-7": member}, replicas=3)

    assert not state.leases
    assert requests == []
