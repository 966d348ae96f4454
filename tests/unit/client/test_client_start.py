"""Starts that are rolled back: whatever happens meanwhile, no created child is left, or it is named."""
# ruff: noqa: ASYNC110 - conditions are polled, as in all tests

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web

from builders import make_client, make_hub
from processhub.api.child import ChildSpec
from processhub.api.naming import child_object_name
from processhub.client.session import Session
from processhub.client.start import StartCall
from processhub.client.writes import IN_FLIGHT

WAITS = 40


class Api:
    """An API server with Children only; by name, the statuses (0: no response) that come before the real one."""

    def __init__(self) -> None:
        self.children: dict[str, dict[str, object]] = {}
        self.refuses = ""  # a name
        self.creates: dict[str, list[int]] = {}  # the child is created nevertheless
        self.reads: dict[str, list[int]] = {}
        self.deletes = asyncio.Event()
        self.deletes.set()
        self.deleting = 0

    async def create(self, request: web.Request) -> web.StreamResponse:
        child = await request.json()
        name = child["metadata"]["name"]
        if name == self.refuses:
            return _status(422, "Invalid")
        if name in self.children:
            return _status(409, "AlreadyExists")
        child["metadata"] |= {"uid": f"uid-{name}", "namespace": "n", "resourceVersion": "1"}
        self.children[name] = child
        return _early(request, self.creates.get(name)) or web.json_response(child)

    async def read(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if early := _early(request, self.reads.get(name)):
            return early
        return web.json_response(self.children[name]) if name in self.children else _status(404, "NotFound")

    async def delete(self, request: web.Request) -> web.StreamResponse:
        self.deleting += 1
        await self.deletes.wait()
        self.children.pop(request.match_info["name"], None)
        return web.json_response({})


def _early(request: web.Request, statuses: list[int] | None) -> web.StreamResponse | None:
    if not statuses:
        return None
    status = statuses.pop(0)
    if not status:
        assert request.transport is not None
        request.transport.abort()
    return _status(status or 500, "InternalError" if status >= 500 else "Forbidden")


def _status(code: int, reason: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "reason": reason, "message": reason}, status=code)


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
async def session(api: Api) -> AsyncIterator[Session]:
    app = web.Application()
    path = "/apis/processhub.dev/v1alpha1/namespaces/n/children"
    app.add_routes(
        [
            web.post(path, api.create),
            web.get(path + "/{name}", api.read),
            web.delete(path + "/{name}", api.delete),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]

    async with make_client(f"http://{host}:{port}", "n") as client:
        yield Session(client, "n", make_hub("h"))
    await runner.cleanup()


def call(session: Session, *ids: str) -> StartCall:
    specs = {
        child_id: msgspec.convert({"hub": "h", "id": child_id, "exec": {"command": ["x"]}}, ChildSpec)
        for child_id in ids
    }
    return StartCall(session, specs, check_existing=True, on_failure="rollback")


async def test_a_rollback_is_completed_even_if_the_call_is_cancelled_during_it(api: Api, session: Session) -> None:
    ids = [f"c{number}" for number in range(IN_FLIGHT + 8)]
    api.refuses = child_object_name("bad")
    api.deletes.clear()
    running = asyncio.create_task(call(session, *ids, "bad").run(wait=False, timeout=WAITS))
    async with asyncio.timeout(WAITS):
        while api.deleting < IN_FLIGHT:
            await asyncio.sleep(0.01)

    running.cancel()
    await asyncio.sleep(0)
    api.deletes.set()
    await asyncio.wait((running,))

    assert running.cancelled()
    assert api.children == {}


async def test_a_child_that_cannot_be_looked_up_blocks_no_other_rollback(api: Api, session: Session) -> None:
    lost, other = child_object_name("lost"), child_object_name("other")
    api.creates[lost], api.reads[lost] = [0], [403]

    result = await call(session, "lost", "other").run(wait=False, timeout=WAITS)

    assert other not in api.children
    assert result.rollback is not None
    assert result.rollback.removed == ("other",)
    assert result.rollback.left.keys() == {"lost"}


async def test_a_child_whose_creation_was_answered_with_an_error_is_rolled_back_too(api: Api, session: Session) -> None:
    name = child_object_name("a")
    api.creates[name], api.reads[name] = [504], [403]  # it is retried, and looked up without success

    result = await call(session, "a").run(wait=False, timeout=WAITS)

    assert not result.ok
    assert api.children == {}
