"""Children that a first request starts: one object for an id, whatever is written meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from builders import client_of, make_client, make_slice
from processhub.agent.env import Environment
from processhub.agent.problems import Problem
from processhub.agent.requests import ondemand
from processhub.agent.requests.ondemand import OnDemandStarter
from processhub.api.naming import child_object_name
from processhub.api.slice import RegistrySlice, Settings
from processhub.registry.grammar import Assignment


@pytest.mark.parametrize("gone", [True, False])
async def test_an_object_that_is_deleted_at_that_moment_is_not_created_twice(tmp_path: Path, gone: bool) -> None:
    made: list[str] = []

    async def create(request: web.Request) -> web.Response:
        child = await request.json()
        made.append(child["metadata"]["name"])
        if made[-1] == child_object_name("a"):
            return web.json_response({"reason": "AlreadyExists"}, status=409)
        return web.json_response(child, status=201)

    async def read(request: web.Request) -> web.Response:
        if gone:
            return web.json_response({"reason": "NotFound"}, status=404)
        metadata = {"name": request.match_info["name"], "namespace": "n", "uid": "u", "resourceVersion": "1"}
        return web.json_response({"metadata": metadata, "spec": {"hub": "another", "id": "a"}})

    app, path = web.Application(), "/apis/processhub.dev/v1alpha1/namespaces/n/children"
    app.add_routes([web.post(path, create), web.get(path + "/{name}", read)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    env = Environment("hub", "n", "h", "hub-1", "hub-1", "p", "127.0.0.1", "node", run_dir=tmp_path)
    async with make_client(f"http://{host}:{port}", "n") as client:
        await OnDemandStarter(env, client, lambda: Settings(on_demand=True), list).ensure("a")
    await runner.cleanup()

    assert made == [child_object_name("a")] + ([] if gone else [child_object_name("hub/a")])


async def test_a_request_without_a_place_is_rejected_only_when_its_child_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a burst beyond onDemand.max each request finds room at first; a child rejected too early might start later."""
    monkeypatch.setattr(ondemand, "_LOOKED_SECONDS", 0.0)
    there: set[str] = set()
    full: list[RegistrySlice] = []

    async def create(request: web.Request) -> web.Response:
        child = await request.json()
        there.add(child["metadata"]["name"])
        return web.json_response(child, status=201)

    async def read(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in there:
            return web.json_response({"reason": "NotFound"}, status=404)
        metadata = {"name": name, "namespace": "n", "uid": "u", "resourceVersion": "1"}
        return web.json_response({"metadata": metadata, "spec": {"hub": "hub", "id": name, "onDemand": True}})

    app, path = web.Application(), "/apis/processhub.dev/v1alpha1/namespaces/n/children"
    app.add_routes([web.post(path, create), web.get(path + "/{name}", read)])
    env = Environment("hub", "n", "h", "hub-1", "hub-1", "p", "127.0.0.1", "node", run_dir=tmp_path)
    async with client_of(app) as client:
        starter = OnDemandStarter(env, client, lambda: Settings(on_demand=True, on_demand_max=1), lambda: full)
        await starter.ensure("late")
        full.append(make_slice({"early": Assignment(uid="u", epoch=1, workload="w", on_demand=True)}))

        await starter.ensure("late")  # the operator has not decided yet
        there.clear()
        for child_id in ("late", "later"):
            with pytest.raises(Problem) as refused:
                await starter.ensure(child_id)
            assert refused.value.status == 429

    assert there == set(), "nothing is left of them"
