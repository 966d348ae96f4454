"""The lines of ``kubectl hub logs``, from an API server that answers as one does or hangs."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from aiohttp import web

from builders import client_of
from processhub.api.hub import Hub
from processhub.api.meta import ObjectMeta
from processhub.cli import logs
from processhub.cli.podlog import pod_log
from processhub.cli.shared import Output
from processhub.client.session import Session
from processhub.cluster.errors import ConnectionFailedError

PATH = "/api/v1/namespaces/ns/pods/shop-0/log"
NOW = datetime.now(UTC)


def line(child: str, message: str, seconds_ago: int) -> bytes:
    time = (NOW - timedelta(seconds=seconds_ago)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return msgspec.json.encode({"child": child, "hub": "shop", "time": time, "stream": "stdout", "message": message})


LINES = [line("a", "old", 3600), line("b", "of another", 20), line("a", "middle", 100), line("a", "new", 10)]


class Kubelet:
    """Answers a request for a log: ``at_once`` lines, and the others when it goes on."""

    def __init__(self) -> None:
        self.query: dict[str, str] = {}
        self.at_once, self.goes_on = len(LINES), asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.query = dict(request.query)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"".join(text + b"\n" for text in LINES[: self.at_once]))
        if self.at_once < len(LINES):
            await self.goes_on.wait()
            await response.write(b"".join(text + b"\n" for text in LINES[self.at_once :]))
        return response


@asynccontextmanager
async def kubelet(request_timeout: float | None = None) -> AsyncIterator[tuple[Kubelet, Session]]:
    found, app = Kubelet(), web.Application()
    app.router.add_get(PATH, found.answer)
    async with client_of(app) as client:
        client.config = dataclasses.replace(client.config, request_timeout=request_timeout)
        yield found, Session(client, "ns", Hub(metadata=ObjectMeta(name="shop", namespace="ns")))
        found.goes_on.set()


async def printed(capsys: pytest.CaptureFixture[str], session: Session, wanted: logs.Wanted, pod: str = "") -> str:
    begin = logs.begin_of(wanted, NOW)
    log = logs._Log(session, "shop-0", pod, "a", Output.TABLE, begin, wanted.timestamps)
    await logs._print(log, follow=wanted.follow, tail=wanted.tail)
    return capsys.readouterr().out


async def test_lines_are_chosen_by_their_age_and_number(capsys: pytest.CaptureFixture[str]) -> None:
    async with kubelet() as (_, session):
        assert await printed(capsys, session, logs.Wanted()) == "old\nmiddle\nnew\n"
        assert await printed(capsys, session, logs.Wanted(since="5m")) == "middle\nnew\n"
        assert await printed(capsys, session, logs.Wanted(since="5m", tail=1)) == "new\n"
        assert await printed(capsys, session, logs.Wanted(since="5m", tail=1, follow=True)) == "new\n"
        (text,) = (await printed(capsys, session, logs.Wanted(tail=1, timestamps=True))).splitlines()
        assert text == f"{NOW - timedelta(seconds=10):%Y-%m-%dT%H:%M:%S.%f}Z new"


async def test_the_api_server_chooses_the_lines_of_a_childs_own_pod(capsys: pytest.CaptureFixture[str]) -> None:
    async with kubelet() as (found, session):
        await printed(capsys, session, logs.Wanted(since="5m", timestamps=True), pod="main")

        begin = f"{NOW - timedelta(minutes=5):%Y-%m-%dT%H:%M:%S.%f}Z"
        assert found.query == {"container": "main", "sinceTime": begin, "timestamps": "true"}


async def test_a_request_timeout_ends_the_wait_for_a_log_but_not_the_following_of_one() -> None:
    async with kubelet(request_timeout=0.3) as (found, session):
        found.at_once = 1

        async def read(*, follow: bool) -> list[bytes]:
            chunks = pod_log(session.client, "ns", "shop-0", container="agent", follow=follow)
            return [text async for text in chunks]

        with pytest.raises(ConnectionFailedError, match=r"it did not come within the 0\.3 s of --request-timeout"):
            await read(follow=False)

        following = asyncio.create_task(read(follow=True))
        done, _ = await asyncio.wait({following}, timeout=0.6)
        assert not done
        found.goes_on.set()
        assert await following == LINES
