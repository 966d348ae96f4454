"""Runs a command in a container through the API server and the kubelet, as ``kubectl exec`` does.

It uses the WebSocket form of the protocol: each message begins with the number of its channel. Version 4 can't say that
standard input has ended, so version 5 is used where there is one; a terminal has a key for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import aiohttp
import msgspec

from processhub.cli.output import writing
from processhub.cluster.client import Client
from processhub.cluster.errors import ConnectionFailedError
from processhub.cluster.kinds import PODS
from processhub.cluster.tasks import cancel_all

_STDIN, _STDOUT, _STDERR, _STATUS, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255
_CHUNK = 32 * 1024


class PodCommand(NamedTuple):
    """A command, and the container that it is to run in."""

    namespace: str
    pod: str
    container: str
    command: tuple[str, ...]


class _Cause(msgspec.Struct, frozen=True):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct, frozen=True):
    causes: tuple[_Cause, ...] = ()


class _Outcome(msgspec.Struct, frozen=True):
    """The Status object by which the kubelet ends."""

    status: str = ""
    reason: str = ""
    message: str = ""
    details: _Details | None = None


async def run_in_pod(client: Client, what: PodCommand, *, stdin: bool, terminal: bool) -> int:
    """Run the command with this process's standard streams; returns its exit code. Raises ApiError."""
    query = {"container": what.container, "command": what.command, "stdout": "true"}
    query |= {"stdin": "true"} if stdin else {}
    query |= {"tty": "true"} if terminal else {"stderr": "true"}
    protocol = "v5.channel.k8s.io" if stdin and not terminal else "v4.channel.k8s.io"
    path = PODS.path(what.namespace, what.pod, "exec")
    async with client.websocket(path, query, protocol) as socket, _raw_terminal(terminal, socket):
        sending = asyncio.create_task(_send(socket, ends=not terminal)) if stdin else None
        try:
            return await _receive(socket, what)
        finally:
            await cancel_all([sending] if sending is not None else [])


async def _receive(socket: aiohttp.ClientWebSocketResponse, what: PodCommand) -> int:
    """Print what arrives until the command ends; returns its exit code. Raises ConnectionFailedError, CliError."""
    streams = {_STDOUT: sys.stdout.buffer, _STDERR: sys.stderr.buffer}
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], message.data[1:]
        if channel == _STATUS:
            return _exit_code(data, what)
        if stream := streams.get(channel):
            with writing():
                stream.write(data)
                stream.flush()
    raise ConnectionFailedError(f"the connection to pod {what.pod} broke; the command may still run there")


def _exit_code(data: bytes, what: PodCommand) -> int:
    try:
        outcome = msgspec.json.decode(data, type=_Outcome)
    except msgspec.MsgspecError as error:
        raise ConnectionFailedError(
            f"the answer of pod {what.pod} can't be read: it is no Status of Kubernetes"
        ) from error
    if outcome.status == "Success":
        return 0
    causes = outcome.details.causes if outcome.details else ()
    code = next((cause.message for cause in causes if cause.reason == "ExitCode"), "")
    if code.isdecimal():
        return int(code)
    raise ConnectionFailedError(f"the command could not be run in pod {what.pod}: {outcome.message or outcome.reason}")


async def _send(socket: aiohttp.ClientWebSocketResponse, *, ends: bool) -> None:
    """Send standard input until it ends, and that it did."""
    async for chunk in _input():
        await socket.send_bytes(bytes([_STDIN]) + chunk)
    if ends:
        await socket.send_bytes(bytes([_CLOSE, _STDIN]))


async def _input() -> AsyncIterator[bytes]:
    """Standard input, read by a thread of its own: a file can't be waited for."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[bytes]()

    def read() -> None:
        while True:
            try:
                chunk = os.read(0, _CHUNK)
            except OSError:  # the terminal is gone
                chunk = b""
            with contextlib.suppress(RuntimeError):  # the loop has been closed: the command has ended
                loop.call_soon_threadsafe(queue.put_nowait, chunk)
            if not chunk:
                return

    import threading

    threading.Thread(target=read, daemon=True).start()
    while chunk := await queue.get():
        yield chunk


@contextlib.asynccontextmanager
async def _raw_terminal(wanted: bool, socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[None]:
    """Send each key and the size of the terminal to the command while the block runs."""
    if not wanted:
        yield
        return
    loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    async def resize() -> None:
        size = os.get_terminal_size(0)  # wherever the output goes
        await socket.send_bytes(bytes([_RESIZE]) + msgspec.json.encode({"Width": size.columns, "Height": size.lines}))

    def resized() -> None:
        task = loop.create_task(resize())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    with _raw_keys():
        loop.add_signal_handler(signal.SIGWINCH, resized)
        try:
            await resize()
            yield
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)


@contextlib.contextmanager
def _raw_keys() -> Iterator[None]:
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
