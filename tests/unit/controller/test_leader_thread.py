"""The leader's Lease beside a busy main loop, and what ends a leader that does not lead any more.

The API server runs in its own thread: the tests keep the main loop busy.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web
from waiting import until

from builders import make_client
from processhub.cluster.client import Client
from processhub.controller.lead import election as module
from processhub.controller.lead.election import Election
from processhub.controller.lead.leaderthread import LeaderThread

DEADLINE = 40.0
RENEW_DEADLINE = 1.0
LONG = 10_000.0
ME, OTHER = "me", "another"


class Site:
    """An API server with one Lease; it records the time of each renewal (monotonic seconds)."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.renewals: list[float] = []
        self.refuse = False
        self.url = ""
        self._version = 1

    async def get(self, _: web.Request) -> web.Response:
        return web.json_response(self.lease) if self.lease else _no(404)

    async def put(self, request: web.Request) -> web.Response:
        lease = await request.json()
        if self.refuse:
            return _no(503)
        if self.lease is not None and lease["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            return _no(409)
        self._store(lease)
        self.renewals.append(time.monotonic())
        return web.json_response(lease)

    async def none(self, _: web.Request) -> web.Response:
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})

    def take(self) -> None:
        """Let another candidate take the Lease."""
        assert self.lease is not None
        self._store({**self.lease, "spec": {**self.lease["spec"], "holderIdentity": OTHER}})

    @property
    def holder(self) -> str:
        assert self.lease is not None
        return str(self.lease["spec"]["holderIdentity"])

    def _store(self, lease: dict[str, Any]) -> None:
        self._version += 1
        self.lease = {**lease, "metadata": {**lease["metadata"], "resourceVersion": str(self._version)}}
        lease["metadata"] = self.lease["metadata"]


def _no(status: int) -> web.Response:
    return web.json_response({"kind": "Status", "message": "no"}, status=status)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(module, "RENEW_DEADLINE_SECONDS", RENEW_DEADLINE)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.02)
    site, ready, loop = Site(), threading.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        app = web.Application()
        leases = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"
        app.add_routes([web.get(leases + "/{name}", site.get), web.put(leases + "/{name}", site.put)])
        app.add_routes([web.post(leases, site.put)])
        for plural in ("hubs", "registryslices"):
            app.add_routes([web.get(f"/apis/processhub.dev/v1alpha1/{plural}", site.none)])
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        tcp = web.TCPSite(runner, "127.0.0.1", 0)
        await tcp.start()
        site.url = "http://{}:{}".format(*runner.addresses[0])
        ready.set()
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    task = loop.create_task(serve())
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait((task,))), daemon=True)
    thread.start()
    assert ready.wait(DEADLINE)
    yield site
    loop.call_soon_threadsafe(task.cancel)
    thread.join(DEADLINE)
    loop.close()


class Ends(list[str]):
    """Records the requested ends of the process."""

    def __init__(self) -> None:
        super().__init__()
        self.came = threading.Event()

    def __call__(self, why: str) -> None:
        self.append(why)
        self.came.set()


def leader(site: Site, ends: Ends, wedged_seconds: float = LONG, lost_seconds: float = LONG) -> LeaderThread:
    async def connect() -> Client:
        return make_client(site.url)

    async def candidate(client: Client) -> Election:
        return Election(client, "ns", ME, ())

    return LeaderThread(
        connect,
        candidate,
        wedged_seconds=wedged_seconds,
        lost_seconds=lost_seconds,
        end=ends,
    )


def work_until(seen: Any, what: str) -> None:
    """Keep the main loop and a processor busy."""
    began = time.monotonic()
    while not seen():
        assert time.monotonic() - began < DEADLINE, what
        sum(range(1000))


async def test_a_main_loop_that_is_busy_for_longer_than_the_deadline_keeps_the_lease(site: Site) -> None:
    ends, heard = Ends(), list[float]()
    async with leader(site, ends) as leadership:
        await leadership.acquire()
        holding = asyncio.create_task(leadership.hold(heard.append))
        await until(lambda: heard, "a renewal")

        busy_from, before = time.monotonic(), len(heard)
        work_until(lambda: site.renewals[-1] > busy_from + 2 * RENEW_DEADLINE, "a renewal after the deadline")
        assert len(heard) == before, "the main loop was busy"
        during = len(site.renewals)
        await until(lambda: len(heard) >= during, "told of them")

        assert not holding.done()
        assert site.holder.startswith(ME)
        assert sorted(heard) == heard, "each renewal was told, in order,"
        assert max(after - sent for sent, after in pairwise(heard)) < RENEW_DEADLINE, "with the time when it was sent"
        holding.cancel()
    assert ends == []


async def test_a_leader_that_loses_the_lease_while_its_loop_is_busy_is_ended(site: Site) -> None:
    """Writes of the loop would be made beside those of the next leader."""
    ends = Ends()
    async with leader(site, ends, lost_seconds=0.05) as leadership:
        await leadership.acquire()
        holding = asyncio.create_task(leadership.hold(lambda _: None))
        await asyncio.sleep(0)  # the renewal has started
        site.take()

        work_until(ends.came.is_set, "the end")

        assert ends == ["the leader's work has not stopped within 0.05 s after its Lease was lost"]
        await asyncio.wait_for(holding, DEADLINE)
    assert site.holder == OTHER


async def test_a_leader_that_loses_the_lease_and_stops_in_time_is_not_ended(site: Site) -> None:
    ends = Ends()
    async with leader(site, ends) as leadership:
        await leadership.acquire()
        site.refuse = True

        await asyncio.wait_for(leadership.hold(lambda _: None), DEADLINE)

    assert ends == []


async def test_the_lease_is_not_renewed_for_a_main_loop_that_does_not_respond(site: Site) -> None:
    """Otherwise its Lease would be renewed for ever, and no standby would lead its hubs."""
    ends = Ends()
    async with leader(site, ends, wedged_seconds=0.3) as leadership:
        await leadership.acquire()
        holding = asyncio.create_task(leadership.hold(lambda _: None))
        await asyncio.sleep(0)

        work_until(ends.came.is_set, "the end")
        renewed = len(site.renewals)
        await asyncio.wait_for(holding, DEADLINE)

    assert ends == ["the main loop has not answered for 0.3 s"]
    assert len(site.renewals) - renewed <= 1, "at most the one that was under way"


async def test_a_main_loop_that_responds_now_and_then_keeps_the_lease(site: Site) -> None:
    ends = Ends()
    async with leader(site, ends, wedged_seconds=2.0) as leadership:
        await leadership.acquire()
        holding = asyncio.create_task(leadership.hold(lambda _: None))
        await asyncio.sleep(0)
        began = time.monotonic()
        while time.monotonic() < began + 3.0:
            seen = len(site.renewals)
            work_until(lambda seen=seen: len(site.renewals) > seen, "a renewal")
            await asyncio.sleep(0)

        assert not holding.done()
        holding.cancel()
    assert ends == []


async def test_a_release_frees_the_lease_and_does_not_end_the_process(site: Site) -> None:
    ends = Ends()
    async with leader(site, ends, lost_seconds=0.0) as leadership:
        await leadership.acquire()
        heard = asyncio.Event()
        holding = asyncio.create_task(leadership.hold(lambda _: heard.set()))
        await asyncio.wait_for(heard.wait(), DEADLINE)

        await leadership.release()
        assert site.holder == ""
        await asyncio.wait_for(holding, DEADLINE)  # it finds that it does not hold the Lease

    assert ends == []
    assert site.holder == ""
