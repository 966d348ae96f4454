"""All parts of an agent together, without processes and without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from test_agent_router import until
from test_agent_supervisor import Launcher

from builders import client_of, make_client, make_slice
from processhub.agent.children.launchers import Launchers
from processhub.agent.children.report import report_in
from processhub.agent.children.runs import ExitStatus
from processhub.agent.children.usage import Meter
from processhub.agent.env import Environment
from processhub.agent.lease.keeper import LeaseKeeper
from processhub.agent.listeners import Listeners
from processhub.agent.parts import Parts, Surroundings, build_parts
from processhub.agent.requests import server as server_module
from processhub.agent.requests.server import Server
from processhub.agent.tls.identity import MemberTls
from processhub.api.child import ChildSpec, Exec
from processhub.api.reasons import Reason, State
from processhub.api.slice import RegistrySlice, Settings
from processhub.cluster.client import Client
from processhub.registry.grammar import Assignment, Report
from processhub.registry.workloads import encode_workload

DIGEST, WORKLOAD = encode_workload(ChildSpec(hub="h", exec=Exec(command=("x",))))
NAME = "h.h-0.0"


class Lease(LeaseKeeper):
    """The Lease, held in session 1 when the test says so."""

    is_held = True

    def held(self, session: int) -> bool:
        return self.is_held and session == 1


class Watchdog:
    """Nothing runs below it."""

    def __init__(self) -> None:
        self.lost: Listeners[()] = Listeners()

    def close(self) -> None: ...


class Peers:
    """No other member is there."""

    async def send_state(self, *_: object) -> None: ...

    async def send_states(self, *_: object) -> None: ...

    def token(self) -> str:
        return ""


def parts_of(folder: Path, client: Client | None = None, port: int = 8080) -> tuple[Parts, Launcher, Lease]:
    env = Environment("h", "default", "uid", "h-0", "h-0", "p", "127.0.0.1", "node", run_dir=folder, port=port)
    launcher, lease = Launcher(), Lease(env, Settings(), None)  # type: ignore[arg-type]
    around = Surroundings(
        env=env,
        client=client or make_client(),
        lease=lease,
        peers=Peers(),  # type: ignore[arg-type]
        tls=MemberTls(env),
        watchdog=Watchdog(),
        launchers=lambda *_: Launchers({Exec: launcher}, warm=lambda: None, spare_pid=int),
        meter=partial(Meter, 1),
        server=Server,
        lines_dropped=int,
    )
    return build_parts(around, lambda work: work.close()), launcher, lease


def own_slice(version: int, entry: Assignment | None, report: Report | None = None, **settings: Any) -> RegistrySlice:
    return make_slice(
        {"a": entry} if entry is not None else {},
        {"a": report} if report is not None else {},
        hub="h",
        hub_uid="uid",
        namespace="default",
        member="h-0",
        workloads={DIGEST: WORKLOAD},
        settings=Settings(**settings),
        holder="an earlier agent" if report is not None else "",
        observed_generation=0,
        generation=version,
        resource_version=str(version),
    )


CRASH = ExitStatus(Reason.EXITED, "exit code 1")
ENTRY = Assignment(uid="u", epoch=1, workload=DIGEST)


async def test_a_child_starts_once_the_lease_is_held_and_is_counted(tmp_path: Path) -> None:
    parts, launcher, _ = parts_of(tmp_path)
    parts.slices.informer.put(own_slice(1, ENTRY))
    assert launcher.started == []

    parts.permit.give(1)
    parts.supervisor.advance()
    assert launcher.started == ["a"]

    parts.supervisor.children["a"].running(7)
    assert b"processhub_agent_child_start_seconds_count 1.0" in parts.metrics.text()
    assert parts.supervisor.running() == 1


async def test_during_an_outage_a_child_is_restarted_only_with_divergence(tmp_path: Path) -> None:
    for fence, expected in ((True, ["a"]), (False, ["a", "a"])):
        parts, launcher, lease = parts_of(tmp_path)
        parts.slices.informer.put(own_slice(1, ENTRY, fence=fence))
        parts.permit.give(1)
        parts.supervisor.advance()
        child = parts.supervisor.children["a"]
        child.running(7)

        lease.is_held = False
        child.stop(1)
        child.ended(CRASH)

        assert launcher.started == expected


async def test_the_report_of_an_earlier_agent_on_the_same_incarnation_is_continued(tmp_path: Path) -> None:
    parts, _, _ = parts_of(tmp_path)
    parts.slices.informer.put(own_slice(1, ENTRY, Report(uid="u", epoch=1, state="Running", restarts=3)))
    assert parts.supervisor.children["a"].history.restarts == 3

    parts, _, _ = parts_of(tmp_path)
    parts.slices.informer.put(own_slice(1, ENTRY, Report(uid="another", epoch=1, state="Running", restarts=3)))
    assert parts.supervisor.children["a"].history.restarts == 0


async def test_an_agent_that_ends_starts_and_takes_over_no_child(tmp_path: Path) -> None:
    parts, launcher, _ = parts_of(tmp_path)
    parts.permit.give(1)
    assert parts.permit.may_take_over()

    await parts.supervisor.stop_all(1, 1)
    parts.slices.informer.put(own_slice(1, ENTRY))

    assert launcher.started == []
    assert not parts.permit.may_take_over()


async def test_the_children_of_a_removed_slice_end_and_are_reported_in_slice_0(tmp_path: Path) -> None:
    parts, _, _ = parts_of(tmp_path)
    parts.permit.give(1)
    item = own_slice(1, ENTRY)
    metadata = msgspec.structs.replace(item.metadata, name="h.h-0.1", uid="1", generation=2, resource_version="2")
    second = msgspec.structs.replace(item, metadata=metadata)
    parts.slices.informer.put(second)
    child = parts.supervisor.children["a"]
    child.running(7)

    parts.slices._drop("h.h-0.1")

    assert child.status.state == State.STOPPING
    assert report_in(child, "h.h-0.1") is None
    assert report_in(child, NAME) is not None


async def test_the_bodies_of_the_requests_that_wait_have_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.setattr(server_module, "_BODIES_MAX", 1_000_000)

    async def review(_: web.Request) -> web.Response:
        user = {"username": "system:serviceaccount:default:a"}
        return web.json_response({"status": {"authenticated": True, "audiences": ["processhub"], "user": user}})

    app = web.Application()
    app.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", review)
    async with client_of(app) as client:
        parts, launcher, _ = parts_of(tmp_path, client, unused_tcp_port)
        parts.slices.informer.put(own_slice(1, ENTRY))
        parts.slices.informer.synced.set()
        await parts.server.start()
        url, headers = f"http://127.0.0.1:{unused_tcp_port}/v1/children/a/call", {"Authorization": "Bearer t"}
        async with aiohttp.ClientSession(headers=headers) as session:

            async def call(size: int, *, chunked: bool = False) -> tuple[int, str | None]:
                async def content() -> AsyncIterator[bytes]:
                    yield body

                body = b'"%s"' % (b"x" * (size - 2))
                async with session.post(url, data=content() if chunked else body) as answer:
                    return answer.status, answer.headers.get("Retry-After")

            waiting = [asyncio.create_task(call(400_000)) for _ in range(2)]
            await until(lambda: parts.requests.queue.waiting == 2)

            assert await call(300_000) == (429, "1")
            assert await call(10, chunked=True) == (429, "1"), "it may have 4 MiB"
            third = asyncio.create_task(call(100_000))
            await until(lambda: parts.requests.queue.waiting == 3)
            for task in (*waiting, third):
                task.cancel()
            await asyncio.gather(*waiting, third, return_exceptions=True)
            await until(lambda: not parts.requests.queue.waiting)
            again = asyncio.create_task(call(900_000))
            await until(lambda: parts.requests.queue.waiting)
            again.cancel()
        await parts.server.stop()
    assert launcher.started == []
