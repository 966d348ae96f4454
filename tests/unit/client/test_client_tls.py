"""TLS from a client to members: it is used where the Hub says so, whatever answers in a member's place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from certified import authority, certify

from builders import loopback, make_client
from processhub.agent.env import Environment
from processhub.agent.requests.listener import Listener
from processhub.agent.tls.identity import MemberTls
from processhub.api.hub import Hub, HubSpec, HubStatus, MemberStatus, Timeouts, TlsStatus
from processhub.api.meta import ObjectMeta
from processhub.api.requests import ANSWER_HEADER
from processhub.client.errors import NoOwner
from processhub.client.membertls import MemberConnections
from processhub.client.requests import Requests
from processhub.client.session import Session
from processhub.controller.authority.certificates import KeyPair

ADDRESS, PORT = loopback(3), 8080


def session(signer: KeyPair, *, required: bool = True) -> Session:
    """A client's view of a hub with one member, at an address of this machine."""
    status = HubStatus(
        members=(MemberStatus(name="shop-0", pod="shop-0", pod_ip=ADDRESS, port=PORT, ready=True),),
        tls=TlsStatus(required=required, server_name="shop.ns.svc", authorities=signer.certificate),
    )
    spec = HubSpec(timeouts=Timeouts(request_seconds=1))
    return Session(make_client(), "ns", Hub(metadata=ObjectMeta(name="shop", namespace="ns"), spec=spec, status=status))


@asynccontextmanager
async def requests_of(found: Session, monkeypatch: pytest.MonkeyPatch, folder: Path) -> AsyncIterator[Requests]:
    for name in ("HUB_URL", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    (folder / "token").write_text("the-token")
    monkeypatch.setenv("HUB_TOKEN_FILE", str(folder / "token"))
    async with found.client:
        requests = Requests(found)
        try:
            yield requests
        finally:
            await requests.close()


@asynccontextmanager
async def member(signer: KeyPair, folder: Path) -> AsyncIterator[None]:
    """A member whose certificate this authority signed."""
    tls = MemberTls(Environment("shop", "ns", "h", "shop-0", "shop-0", "p", ADDRESS, "node", run_dir=folder))
    certify(tls, signer)

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        text = f'"{request.transport.get_extra_info("ssl_object") is not None}"'
        headers = {ANSWER_HEADER: "child", "Content-Type": "application/json"}
        return web.Response(text=text, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    assert runner.server is not None
    listener = Listener(runner.server, tls, ADDRESS, PORT)
    await listener.start()
    try:
        yield
    finally:
        listener.stop()
        await runner.cleanup()


@pytest.mark.parametrize("required", [True, False])
async def test_a_call_goes_over_tls_where_the_hub_requires_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, required: bool
) -> None:
    signer = authority()
    async with (
        member(signer, tmp_path),
        requests_of(session(signer, required=required), monkeypatch, tmp_path) as requests,
    ):
        assert await requests.call("a", {}, None, "") == str(required)


async def test_who_has_a_certificate_of_another_authority_gets_no_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with (
        member(authority(), tmp_path),
        requests_of(session(authority()), monkeypatch, tmp_path) as requests,
    ):
        with pytest.raises(NoOwner, match=r"member shop-0 at .* \(its certificate is not valid for shop\.ns\.svc: "):
            await requests.call("a", {}, None, "")


async def test_who_answers_plain_http_gets_no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    received = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read(65536))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with (
        await asyncio.start_server(listen, ADDRESS, PORT, reuse_address=True),
        requests_of(session(authority()), monkeypatch, tmp_path) as requests,
    ):
        with pytest.raises(NoOwner, match="it does not offer TLS, which its hub requires"):
            await requests.call("a", {}, None, "")

    assert b"the-token" not in received
    assert b"POST" not in received


def test_the_address_of_a_child_that_started_before_is_used_with_tls_and_a_gateways_is_left_alone() -> None:
    connections = MemberConnections(session(authority()))

    assert connections.url("http://10.0.0.7:8080", "/x") == "https://10.0.0.7:8080/x"
    assert connections.verification("http://10.0.0.7:8080")["server_hostname"] == "shop.ns.svc"
    assert connections.verification("https://shop.ns.svc:8080")["server_hostname"] == "shop.ns.svc"
    assert connections.verification("https://gateway.example.com") == {}
    assert connections.url("https://gateway.example.com", "/x") == "https://gateway.example.com/x"


def test_a_replaced_authority_is_taken_from_the_hub() -> None:
    first, second = authority(), authority()
    found = session(first)
    connections = MemberConnections(found)
    before = connections.verification("http://10.0.0.7:8080")

    assert connections.verification("http://10.0.0.7:8080") == before
    found.hub = session(second).hub
    assert connections.verification("http://10.0.0.7:8080") != before
