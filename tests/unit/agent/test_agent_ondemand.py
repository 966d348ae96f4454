"""Children that a first request starts: one object for an id, whatever is written meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from builders import make_client
from processhub.agent.env import Environment
from processhub.agent.requests.ondemand import OnDemandStarter
from processhub.api.naming import child_object_name
from processhub.api.slice import Settings


@pytest.mark.parametrize("gone", [True, False])
async def test_an_object_that_is_deleted_just_then_is_not_made_twice(tmp_path: Path, gone: bool) -> None:
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
