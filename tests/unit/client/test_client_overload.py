"""A client of an API server that has too many requests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from processhub.client.errors import Unreachable
from processhub.client.session import connected, find_hub

HUB = {"metadata": {"name": "shop", "namespace": "ns", "uid": "u", "resourceVersion": "5"}, "spec": {}}
BUSY = {"kind": "Status", "code": 429, "reason": "TooManyRequests", "message": "too many requests, try again later"}


class Site:
    """An API server that has no time for as many requests."""

    def __init__(self, busy: int) -> None:
        self.busy = busy

    async def answer(self, _: web.Request) -> web.Response:
        if self.busy:
            self.busy -= 1
            return web.Response(status=429, text=json.dumps(BUSY), headers={"Retry-After": "0"})
        return web.json_response(HUB)


async def name_of_hub(folder: Path, busy: int) -> str:
    app = web.Application()
    app.router.add_get("/{path:.*}", Site(busy).answer)
    async with TestServer(app, shutdown_timeout=0.1) as server:
        content = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c"}}],
            "clusters": [{"name": "c", "cluster": {"server": str(server.make_url(""))}}],
        }
        (folder / "config").write_text(yaml.safe_dump(content))
        async with connected("ns", kubeconfig=str(folder / "config")) as (client, namespace):
            return (await find_hub(client, namespace, "shop")).metadata.name


async def test_a_request_waits_while_the_api_server_is_overloaded(tmp_path: Path) -> None:
    assert await name_of_hub(tmp_path, busy=3) == "shop"


async def test_an_api_server_that_stays_overloaded_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="too many requests"):
        await name_of_hub(tmp_path, busy=100)
