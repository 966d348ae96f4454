"""TLS of a member: what its port accepts, whom it sends a token, and how a certificate is renewed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from certified import authority, certify

from builders import loopback, make_slice
from processhub.agent.env import PORT, Environment
from processhub.agent.peers.client import Peers
from processhub.agent.peers.link import Forwarding, UnreachableError
from processhub.agent.peers.statesender import Batch, SmallState
from processhub.agent.registry.lookup import RoutedCopy
from processhub.agent.request import Request
from processhub.agent.requests.listener import Listener, of_own_pod
from processhub.agent.tls.identity import MemberTls
from processhub.api.requests import ANSWER_HEADER
from processhub.api.slice import SliceStatus, SliceTls, TlsReport
from processhub.cluster.trust import trusting

HERE, THERE = loopback(1), loopback(2)  # this member's address, and the other's
OWNER = RoutedCopy("hub-2", f"{THERE}:{PORT}", "Active", 3, wait=False, running=True)
STATE = SmallState("a", "u", 3, "sum", b"the-state")


def member_tls(folder: Path, ip: str = HERE) -> MemberTls:
    return MemberTls(Environment("hub", "n", "h", "hub-1", "hub-1", "p", ip, "node", run_dir=folder))


def peers_of(tls: MemberTls, folder: Path) -> Peers:
    token = folder / "token"
    token.write_text("the-token")
    env = Environment("hub", "n", "h", "hub-1", "hub-1", "p", HERE, "node", run_dir=folder, token_file=str(token))
    return Peers(env, tls)


@asynccontextmanager
async def listening(tls: MemberTls) -> AsyncIterator[Listener]:
    """The other member's port, which answers each request with whether it came over TLS."""

    async def encrypted(request: web.Request) -> web.Response:
        assert request.transport is not None
        over_tls = request.transport.get_extra_info("ssl_object") is not None
        return web.Response(text=f"{over_tls} {of_own_pod(request.transport)}", headers={ANSWER_HEADER: "child"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", encrypted)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    assert runner.server is not None
    listener = Listener(runner.server, tls, THERE, PORT)
    await listener.start()
    try:
        yield listener
    finally:
        listener.stop()
        await runner.cleanup()


async def ask(peers: Peers) -> str:
    """What the other member answered."""
    answer = await peers.forward(Forwarding(OWNER, "a", Request("call", b"1"), 40, asyncio.Event(), lambda: True))
    assert answer is not None
    return answer.body.decode()


@asynccontextmanager
async def heard() -> AsyncIterator[bytearray]:
    """All bytes that are sent to the other member's port, on which nothing but plain HTTP is served."""
    received = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read(65536))
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(listen, THERE, PORT, reuse_address=True):
        yield received


async def test_a_port_accepts_tls_too_once_there_is_a_certificate_and_refuses_no_connection_meanwhile(
    tmp_path: Path,
) -> None:
    tls, url = member_tls(tmp_path), f"{THERE}:{PORT}/"
    async with listening(tls) as listener, aiohttp.ClientSession() as kept, aiohttp.ClientSession() as session:
        async with kept.get(f"http://{url}") as answer:
            assert (await answer.text()).startswith("False")

        certify(tls, authority())
        asyncio.get_running_loop().call_soon(listener.look)
        asked = []
        for _ in range(10):
            async with session.get(f"http://{url}", headers={"Connection": "close"}) as answer:
                asked.append(answer.status)

        assert asked == [200] * 10
        async with session.get(f"https://{url}", **tls.verification()) as answer:
            assert (await answer.text()).startswith("True")
        async with kept.get(f"http://{url}") as answer:
            assert answer.status == 200, "a connection that was open before"


async def test_a_caller_that_says_nothing_keeps_nobody_waiting(tmp_path: Path) -> None:
    tls = member_tls(tmp_path)
    certify(tls, authority())
    async with listening(tls), aiohttp.ClientSession() as session:
        _, silent = await asyncio.open_connection(THERE, PORT)
        async with session.get(f"https://{THERE}:{PORT}/", **tls.verification()) as answer:
            assert answer.status == 200
        silent.close()


async def test_tls_is_used_to_a_member_from_when_it_offers_it(tmp_path: Path) -> None:
    here, there, signer = member_tls(tmp_path / "here"), member_tls(tmp_path / "there", THERE), authority()
    peers = peers_of(here, tmp_path)
    certify(there, signer, required=False)
    async with listening(there):
        here.take(SliceTls(authorities=signer.certificate))
        before = await ask(peers)
        status = SliceStatus(address=THERE, port=PORT, tls=TlsReport(offered=True))
        here.registry_changed(None, make_slice(member="hub-2", status=status))
        after = await ask(peers)
        here.registry_changed(make_slice(member="hub-2", status=status), None)
        last = await ask(peers)
    await peers.close()

    assert [text.split()[0] for text in (before, after, last)] == ["False", "True", "False"]


async def test_nothing_is_sent_in_clear_where_tls_is_required(tmp_path: Path) -> None:
    here, signer = member_tls(tmp_path / "here"), authority()
    peers = peers_of(here, tmp_path)
    certify(here, signer)
    async with heard() as received:
        with pytest.raises(UnreachableError, match=r"hub-2 .* it does not offer TLS, which its hub requires"):
            await ask(peers)
        (receipt,) = await peers.send_states(OWNER.address, Batch((STATE,)))
    await peers.close()

    assert receipt.status == 0
    assert received
    assert not any(secret in received for secret in (b"the-token", b"the-state", b"POST"))


@pytest.mark.parametrize("name", ["", "other.n.svc"], ids=["another authority", "another hub"])
async def test_a_member_whose_certificate_is_not_the_hubs_gets_no_token(tmp_path: Path, name: str) -> None:
    here, there, signer = member_tls(tmp_path / "here"), member_tls(tmp_path / "there", THERE), authority()
    peers = peers_of(here, tmp_path)
    certify(here, signer)
    certify(there, signer if name else authority(), name=name)
    async with listening(there):
        with pytest.raises(UnreachableError, match=r"its certificate is not valid for hub\.n\.svc"):
            await ask(peers)
    await peers.close()


async def test_a_renewed_certificate_is_used_for_the_next_connection(tmp_path: Path) -> None:
    tls, signer = member_tls(tmp_path), authority()
    certify(tls, signer)

    async def serial() -> object:
        _, writer = await asyncio.open_connection(
            THERE, PORT, ssl=trusting(signer.certificate), server_hostname=tls.server_name
        )
        found = writer.get_extra_info("peercert")["serialNumber"]
        writer.close()
        return found

    async with listening(tls):
        first, request = await serial(), tls.report.request
        certify(tls, signer)
        second = await serial()

    assert first != second
    assert tls.report.request == request, "the key is the same for the life of the pod"


async def test_a_container_that_is_started_again_has_the_certificate_of_the_one_before(tmp_path: Path) -> None:
    before, signer = member_tls(tmp_path), authority()
    certify(before, signer)
    order = SliceTls(authorities=signer.certificate, certificate=(tmp_path / "tls" / "tls.crt").read_text())

    after = member_tls(tmp_path)
    after.take(order)

    assert after.report.offered
    assert (tmp_path / "tls" / "tls.key").stat().st_mode & 0o777 == 0o600


async def test_a_certificate_for_another_key_is_not_offered(tmp_path: Path) -> None:
    signer, former, now = authority(), member_tls(tmp_path / "a"), member_tls(tmp_path / "b")
    certify(former, signer)
    certificate = (tmp_path / "a" / "tls" / "tls.crt").read_text()

    now.take(SliceTls(authorities=signer.certificate, certificate=certificate, required=True))

    assert not now.report.offered
    assert now.missing, "it is not ready before it has one"
    certify(now, signer)
    assert now.report.offered
    assert not now.missing


async def test_authorities_that_cannot_be_read_leave_those_before(tmp_path: Path) -> None:
    tls, signer = member_tls(tmp_path), authority()
    certify(tls, signer)
    before = tls.verification()

    tls.take(SliceTls(authorities="no certificate", required=True))

    assert tls.verification() == before
    assert tls.base("1.2.3.4:8080") == "https://1.2.3.4:8080"


async def test_without_an_order_there_is_no_tls(tmp_path: Path) -> None:
    tls = member_tls(tmp_path)
    certify(tls, authority())

    tls.take(SliceTls())

    assert tls.base("1.2.3.4:8080") == "http://1.2.3.4:8080"
    assert tls.verification() == {}
    assert tls.report == TlsReport()


async def test_the_own_pod_is_known_by_its_address(tmp_path: Path) -> None:
    tls = member_tls(tmp_path)
    connector = aiohttp.TCPConnector(local_addr=(THERE, 0))
    async with listening(tls), aiohttp.ClientSession() as other, aiohttp.ClientSession(connector=connector) as own:
        async with other.get(f"http://{THERE}:{PORT}/") as answer:
            assert await answer.text() == "False False"
        async with own.get(f"http://{THERE}:{PORT}/") as answer:
            assert await answer.text() == "False True"


def test_old_protocols_are_not_spoken() -> None:
    assert trusting("").minimum_version == ssl.TLSVersion.TLSv1_2
