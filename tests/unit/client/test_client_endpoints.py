"""The endpoints at which a client looks for members."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from builders import client_of
from processhub.api.hub import Hub, HubStatus, MemberStatus
from processhub.api.meta import ObjectMeta
from processhub.client import endpoints
from processhub.client.endpoints import MemberEndpoints
from processhub.client.session import Session

ELSEWHERE = "203.0.113.7"  # reserved for documentation (RFC 5737): never an address of this machine


class Forward:
    """A port-forward that can't be opened."""

    def __init__(self, *_: Any) -> None:
        pass

    async def open(self) -> str:
        raise TimeoutError

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("address", "pod_of", "server", "bases"),
    [
        (ELSEWHERE, "", "https://api.example", []),
        (ELSEWHERE, "10.0.0.1", "https://10.0.0.1:443", ["http://h.n.svc:8080", f"http://{ELSEWHERE}:9090"]),
        (ELSEWHERE, "10.0.0.1", "https://10.0.0.1", ["http://h.n.svc:8080", f"http://{ELSEWHERE}:9090"]),
        (ELSEWHERE, "fd00::1", "https://[fd00::1]:443", ["http://h.n.svc:8080", f"http://{ELSEWHERE}:9090"]),
        (ELSEWHERE, "10.0.0.1", "https://kubernetes.default", ["http://h.n.svc:8080", f"http://{ELSEWHERE}:9090"]),
        (
            ELSEWHERE,
            "10.0.0.1",
            "https://kubernetes.default.svc:443",
            ["http://h.n.svc:8080", f"http://{ELSEWHERE}:9090"],
        ),
        (ELSEWHERE, "10.0.0.1", "https://api.example", []),
        (ELSEWHERE, "10.0.0.1", "https://10.0.0.1:6443", []),
        ("127.3.4.5", "", "https://api.example", ["http://127.3.4.5:9090"]),
        ("127.3.4.5", "10.0.0.1", "https://127.0.0.1:6443", ["http://127.3.4.5:9090"]),
        ("::1", "", "https://api.example", ["http://[::1]:9090"]),
    ],
)
async def test_a_pods_address_is_used_only_where_it_belongs_to_that_pod(
    monkeypatch: pytest.MonkeyPatch, address: str, pod_of: str, server: str, bases: list[str]
) -> None:
    """Elsewhere, as in a pod of another cluster, another host may have it, and would get the client's token."""

    async def answers(*_: Any) -> bool:
        return True  # whoever it is

    monkeypatch.setattr(endpoints, "_answers", answers)
    monkeypatch.setattr(endpoints, "PortForward", Forward)
    monkeypatch.delenv("HUB_URL", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if pod_of:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", pod_of)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    member = MemberStatus(name="h-0", pod="h-0", pod_ip=address, port=9090, ready=True)
    session: Any = SimpleNamespace(
        name="h",
        namespace="n",
        client=SimpleNamespace(config=SimpleNamespace(host=server)),
        living_hub=lambda: SimpleNamespace(status=SimpleNamespace(members=(member,))),
    )

    assert [base async for base in MemberEndpoints(session).bases()] == bases


async def test_the_address_of_a_member_that_was_replaced_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers(*_: Any) -> bool:
        return True

    monkeypatch.setattr(endpoints, "_answers", answers)
    monkeypatch.setattr(endpoints, "PortForward", Forward)
    monkeypatch.delenv("HUB_URL", raising=False)

    def with_member(address: str) -> Hub:
        member = MemberStatus(name="h-0", pod="h-0", pod_ip=address, ready=True)
        return Hub(metadata=ObjectMeta(name="h", namespace="n"), status=HubStatus(members=(member,)))

    async with client_of(web.Application()) as client:
        server = URL(client.config.host)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(server.host))
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        session = Session(client, "n", with_member("10.1.0.1"))
        tried = MemberEndpoints(session)
        tried.worked("http://10.1.0.1:8080")
        assert [base async for base in tried.bases()] == ["http://h.n.svc:8080", "http://10.1.0.1:8080"]

        session.hub = with_member("10.1.0.2")
        assert [base async for base in tried.bases()] == ["http://h.n.svc:8080", "http://10.1.0.2:8080"]


async def forward_site(request: web.Request) -> web.StreamResponse:
    """An API server that accepts port-forwards, to a member that never answers."""
    socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
    await socket.prepare(request)
    for channel in (0, 1):
        await socket.send_bytes(bytes([channel]) + (8080).to_bytes(2, "little"))
    async for _ in socket:
        pass
    return socket


async def test_requests_share_a_port_forward_also_when_none_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HUB_URL", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    members = tuple(MemberStatus(name=name, pod=name, pod_ip=ELSEWHERE, ready=True) for name in ("h-0", "h-1"))
    app = web.Application()
    app.router.add_get("/api/v1/namespaces/ns/pods/{pod}/portforward", forward_site)
    async with client_of(app) as client:
        hub = Hub(metadata=ObjectMeta(name="h", namespace="ns"), status=HubStatus(members=members))
        tried = MemberEndpoints(Session(client, "ns", hub))

        async def one_request() -> str:
            return await anext(tried.bases())  # it ends without an answer, so the base neither worked nor failed

        bases = await asyncio.gather(*(one_request() for _ in range(20)))
        bases += [await one_request() for _ in range(20)]
        await tried.close()

    assert len(set(bases)) <= len(members)


async def test_a_member_that_takes_no_more_requests_still_answers_those_that_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one that shuts down does. The others share its port-forward."""
    for name in ("HUB_URL", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    asked, answered = asyncio.Event(), asyncio.Event()

    async def answers_late(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        for channel in (0, 1):
            await socket.send_bytes(bytes([channel]) + (8080).to_bytes(2, "little"))
        async for message in socket:
            assert message.data == b"\0question"
            asked.set()
            await answered.wait()
            await socket.send_bytes(b"\0answer")
        return socket

    member = MemberStatus(name="h-0", pod="h-0", pod_ip=ELSEWHERE, ready=True)
    app = web.Application()
    app.router.add_get("/api/v1/namespaces/ns/pods/{pod}/portforward", answers_late)
    async with client_of(app) as client:
        hub = Hub(metadata=ObjectMeta(name="h", namespace="ns"), status=HubStatus(members=(member,)))
        tried = MemberEndpoints(Session(client, "ns", hub))
        base = await anext(tried.bases())
        address = URL(base)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"question")
        await asked.wait()

        tried.failed(base)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(address.host, address.port)
        assert await anext(tried.bases()) != base, "the next request gets a port-forward of its own"

        answered.set()
        assert await reader.readexactly(6) == b"answer"
        await tried.close()
        assert await reader.read() == b"", "nothing is left of it"
        writer.close()
