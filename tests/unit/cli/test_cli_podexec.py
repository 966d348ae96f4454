"""Commands in containers by the WebSocket protocol of ``pods/exec``, against a server of the test."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytest_asyncio
from aiohttp import WSMsgType, web

from processhub.cli.errors import CliError
from processhub.cli.podexec import PodCommand, run_in_pod
from processhub.cluster.client import Client
from processhub.cluster.config import Config
from processhub.cluster.errors import ConnectionFailedError

Kubelet = Callable[[web.WebSocketResponse], Awaitable[None]]
WHAT = PodCommand("ns", "hub-0", "agent", ("cat", "-n"))


class Server:
    """A server with the exec path of one pod; the requests that it got, and how it answers."""

    def __init__(self) -> None:
        self.queries: list[list[tuple[str, str]]] = []
        self.protocols: list[str] = []
        self.kubelet: Kubelet

    async def answer(self, request: web.Request) -> web.WebSocketResponse:
        self.queries.append(list(request.query.items()))
        self.protocols.append(request.headers["Sec-WebSocket-Protocol"])
        socket = web.WebSocketResponse(protocols=self.protocols)
        await socket.prepare(request)
        await self.kubelet(socket)
        await socket.close()
        return socket


@pytest_asyncio.fixture
async def site() -> AsyncIterator[tuple[Server, Client]]:
    server, application = Server(), web.Application()
    application.router.add_get("/api/v1/namespaces/ns/pods/hub-0/exec", server.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    async def no_token() -> None:
        return None

    async with Client(Config(f"http://127.0.0.1:{runner.addresses[0][1]}", "ns", ssl=False, token=no_token)) as client:
        yield server, client
    await runner.cleanup()


@pytest.fixture
def stdin() -> Iterator[int]:
    """The other end of a pipe that is standard input."""
    kept, (ours, theirs) = os.dup(0), os.pipe()
    os.dup2(ours, 0)
    yield theirs
    os.dup2(kept, 0)
    for number in (kept, ours):
        os.close(number)


def failure(code: str) -> bytes:
    causes = [{"reason": "ExitCode", "message": code}]
    return json.dumps({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}).encode()


async def test_standard_input_is_sent_to_its_end(
    site: tuple[Server, Client], stdin: int, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    server, client = site

    async def echo(socket: web.WebSocketResponse) -> None:
        async for message in socket:
            assert message.type is WSMsgType.BINARY
            if message.data == b"\xff\x00":  # standard input has ended
                await socket.send_bytes(b'\x03{"status": "Success"}')
                return
            await socket.send_bytes(b"\x01" + message.data[1:])

    server.kubelet = echo
    os.write(stdin, b"some input\n")
    os.close(stdin)

    assert await run_in_pod(client, WHAT, stdin=True, terminal=False) == 0
    assert capsysbinary.readouterr().out == b"some input\n"
    assert server.protocols == ["v5.channel.k8s.io"]
    assert server.queries == [
        [("container", "agent"), ("command", "cat"), ("command", "-n"), ("stdout", "true"), ("stdin", "true"),
         ("stderr", "true")]
    ]  # fmt: skip


@pytest.fixture
def terminal() -> Iterator[int]:
    """The other end of a terminal of 100 by 30 that is standard input."""
    kept, (theirs, ours) = os.dup(0), pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    os.dup2(ours, 0)
    yield theirs
    os.dup2(kept, 0)
    for number in (kept, ours, theirs):
        os.close(number)


async def test_a_terminal_passes_each_key_and_its_size(
    site: tuple[Server, Client], terminal: int, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    server, client = site
    sizes: list[dict[str, int]] = []
    before = termios.tcgetattr(0)

    async def shell(socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if message.data[:1] == b"\x04":
                sizes.append(json.loads(message.data[1:]))
                if len(sizes) == 1:
                    os.write(terminal, b"\x03")  # Ctrl-C is a key of the command
            else:
                await socket.send_bytes(b"\x01" + message.data[1:])
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
                os.kill(os.getpid(), signal.SIGWINCH)
            if len(sizes) == 2:
                await socket.send_bytes(b"\x03" + failure("130"))
                return

    server.kubelet = shell

    assert await asyncio.wait_for(run_in_pod(client, WHAT, stdin=True, terminal=True), 20) == 130
    assert sizes == [{"Width": 100, "Height": 30}, {"Width": 120, "Height": 40}]
    assert capsysbinary.readouterr().out == b"\x03"
    assert termios.tcgetattr(0) == before
    assert server.protocols == ["v4.channel.k8s.io"]
    assert ("tty", "true") in server.queries[0]
    assert ("stderr", "true") not in server.queries[0]


async def test_both_outputs_and_the_exit_code_are_those_of_the_command(
    site: tuple[Server, Client], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    server, client = site

    async def speak(socket: web.WebSocketResponse) -> None:
        for message in (b"\x01", b"\x01out\n", b"\x02err\n", b"\x03" + failure("9")):
            await socket.send_bytes(message)

    server.kubelet = speak

    assert await run_in_pod(client, WHAT, stdin=False, terminal=False) == 9
    assert capsysbinary.readouterr() == (b"out\n", b"err\n")


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (b"\x03" + b'{"status": "Failure", "message": "no such container"}', "could not be run in pod hub-0: no such"),
        (b"\x03{", "the answer of pod hub-0 can't be read"),
        (b"\x01cut off", "the connection to pod hub-0 broke; the command may still run there"),
    ],
)
async def test_an_end_without_an_exit_code_is_a_failure(site: tuple[Server, Client], end: bytes, sentence: str) -> None:
    server, client = site

    async def fail(socket: web.WebSocketResponse) -> None:
        await socket.send_bytes(end)

    server.kubelet = fail

    with pytest.raises(ConnectionFailedError, match=sentence):
        await run_in_pod(client, WHAT, stdin=False, terminal=False)


async def test_output_for_which_the_disk_has_no_room_is_a_failure_that_says_so(
    site: tuple[Server, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = site

    async def speak(socket: web.WebSocketResponse) -> None:
        await socket.send_bytes(b"\x01out\n")

    server.kubelet = speak

    with Path("/dev/full").open("wb", buffering=0) as full:  # noqa: ASYNC230 a device
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=full))
        with pytest.raises(CliError, match="the output can't be written: No space left on device"):
            await run_in_pod(client, WHAT, stdin=False, terminal=False)
