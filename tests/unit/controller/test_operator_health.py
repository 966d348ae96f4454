"""The responses of an operator's probes, and when missing prerequisites are checked again."""
# ruff: noqa: ASYNC110 - conditions are polled, as in all tests

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from builders import client_of
from processhub.controller.lead import prerequisites
from processhub.controller.lead.health import serve
from processhub.controller.lead.prerequisites import PLURALS, Prerequisites

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("missing", "status", "text"), [("", 200, "ready\n"), ("no CRDs", 503, "not ready: no CRDs\n")]
)
async def test_readyz_names_what_is_missing(missing: str, status: int, text: str) -> None:
    runner = await serve("127.0.0.1", 0, healthy=lambda: True, missing=lambda: missing)
    try:
        host, port = runner.addresses[0][:2]
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/readyz") as answer:
            assert (answer.status, await answer.text()) == (status, text)
    finally:
        await runner.cleanup()


class Site:
    """An API server that serves these kinds and allows everything except ``refused`` (verb and resource)."""

    def __init__(self) -> None:
        self.served = list(PLURALS)
        self.refused: set[tuple[str, str]] = set()
        self.down = self.failed = False
        self.starting = 0  # this many further looks find no kinds
        self.asked: set[str] = set()

    async def discover(self, _: web.Request) -> web.Response:
        if self.down:
            self.failed = True
            return web.json_response({"kind": "Status", "message": "down"}, status=503)
        served = [] if self.starting else self.served
        self.starting = max(0, self.starting - 1)
        return web.json_response({"resources": [{"name": name} for name in served]})

    async def review(self, request: web.Request) -> web.Response:
        asked: Json = (await request.json())["spec"]["resourceAttributes"]
        self.asked.add(asked.get("namespace", ""))
        resource = "/".join(filter(None, (asked["resource"], asked["subresource"])))
        return web.json_response({"status": {"allowed": (asked["verb"], resource) not in self.refused}})

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/apis/processhub.dev/v1alpha1", self.discover)
        app.router.add_post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", self.review)
        return app


async def test_a_kind_that_is_not_served_and_a_missing_right_are_named() -> None:
    site = Site()
    async with client_of(site.app()) as client:
        needed = Prerequisites(client, ("a", "b"))
        assert await needed.check() == ""
        assert site.asked == {"a", "b", ""}, "in each namespace that it serves, and of nodes"

        site.refused = {("patch", "hubs/status")}
        assert await needed.check() == (
            "this operator's account may not patch hubs/status.processhub.dev in namespace a; the chart's ClusterRoles"
            " processhub-operator and processhub-operator-cluster have that right"
        )
        site.served.remove("childsets")
        assert await needed.check() == (
            "not installed in this cluster: CRD childsets.processhub.dev; install the chart with crds.enabled=true"
        )


async def test_an_outage_of_the_api_server_makes_no_replica_unready() -> None:
    site = Site()
    async with client_of(site.app()) as client:
        needed = Prerequisites(client, ())
        assert needed.missing, "not before the first check"
        checking = asyncio.create_task(needed.run())
        async with asyncio.timeout(20):
            while needed.missing:
                await asyncio.sleep(0.01)
        checking.cancel()
        site.down = True
        checking = asyncio.create_task(needed.run())
        async with asyncio.timeout(20):
            while not site.failed:
                await asyncio.sleep(0.01)
        assert needed.missing == ""
        checking.cancel()


async def test_what_an_api_server_that_was_just_started_lacks_for_a_moment_makes_no_replica_unready(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()
    async with client_of(site.app()) as client:
        needed = Prerequisites(client, ())
        await needed.look()

        site.starting = 1
        await needed.look()
        assert needed.missing == ""
        assert "not ready" not in caplog.text
        await needed.look()

        site.starting = 2
        await needed.look()
        await needed.look()
        assert needed.missing.startswith("not installed in this cluster: ")
        assert "not ready: not installed in this cluster: " in caplog.text
        await needed.look()
        assert needed.missing == ""


async def test_what_is_missing_is_looked_for_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prerequisites, "_AGAIN_SECONDS", 0.01)
    site = Site()
    site.starting = 3
    async with client_of(site.app()) as client:
        needed = Prerequisites(client, ())
        checking = asyncio.create_task(needed.run())
        async with asyncio.timeout(20):
            while needed.missing:
                await asyncio.sleep(0.01)
        checking.cancel()
