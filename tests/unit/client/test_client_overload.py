"""A client of an API server that has too many requests."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from virtualtime import run

from builders import make_client
from processhub.client.errors import Unreachable
from processhub.client.session import connected, find_hub
from processhub.client.writes import PatientClient, with_retries
from processhub.cluster.errors import UnavailableError, api_error
from processhub.cluster.kinds import HUBS

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


class Overloaded(PatientClient):
    """A client of an API server that never has time."""

    def __init__(self) -> None:
        super().__init__(make_client().config)
        self.requests = 0

    def send(self, *_: object, **__: object) -> Any:
        self.requests += 1
        raise api_error(429, b"too many requests, try again later", "1")


def test_an_api_server_that_stays_overloaded_is_reported() -> None:
    async def test() -> float:
        with pytest.raises(Unreachable, match="too many requests"):
            await find_hub(Overloaded(), "ns", "shop")
        return asyncio.get_running_loop().time()

    assert 4 <= run(test()) <= 60


def test_a_write_of_children_waits_no_longer_for_an_overloaded_api_server_than_other_requests() -> None:
    """Both the client and the loop around the write sent it again: 40 times in all."""
    client = Overloaded()

    async def test() -> None:
        with pytest.raises(UnavailableError):
            await with_retries(lambda: client.get(HUBS, "ns", "shop"))

    run(test())

    assert client.requests <= 8
