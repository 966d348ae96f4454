"""The network between a process and the API server, with the faults that the seed chooses.

A request that was sent goes on by itself: what its sender does meanwhile, or that it has ended, changes nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp
from memoryapi import Json, Key, MemoryClient, Refused, Wire, _listed, _parsed

from processhub.cluster.sending import Answer

from .processes import SimulatedLoop
from .server import Server
from .trace import Trace

_SILENCE_SECONDS = 90.0  # after which a client gives a watch up
_REFUSALS = {409: "Conflict", 429: "TooManyRequests", 403: "Forbidden", 500: "InternalError", 504: "Timeout"}


@dataclass
class Weather:
    """How likely a request of a process meets a fault now: by its name and a part of its requests ("": of all)."""

    rates: dict[tuple[str, str], float] = field(default_factory=dict)

    def rate(self, name: str, method: str, url: str) -> float:
        parts = ["" if method == "GET" else "write", "registryslices" if "/registryslices" in url else ""]
        kinds = {"", parts[0], f"{parts[0]} of {parts[1]}"}
        return max(
            (rate for (whose, part), rate in self.rates.items() if whose in ("", name) and part in kinds), default=0.0
        )


class _Received:
    """An answer as its client sees it."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str], lines: AsyncIterator[bytes] | None) -> None:
        self.status, self.headers, self.content = status, headers, self
        self._body, self._lines = body, lines

    async def read(self) -> bytes:
        return self._body

    def iter_any(self) -> AsyncIterator[bytes]:
        assert self._lines is not None
        return self._lines


class Network:
    """All connections."""

    def __init__(self, loop: SimulatedLoop, server: Server, rng: Random, trace: Trace) -> None:
        self.loop, self.server, self.rng, self.trace = loop, server, rng, trace
        self.weather = Weather()
        self.requests = 0
        self.kill: Callable[[str], None] = lambda _: None  # kills a process, by its name
        self._encoded: dict[tuple[int, str], bytes] = {}

    def client(self, name: str, wire: Wire) -> SimulatedClient:
        """The client of a process of this name."""
        return SimulatedClient(self, name, wire)

    def meets_fault(self, name: str, method: str = "GET", url: str = "") -> bool:
        return (rate := self.weather.rate(name, method, url)) > 0 and self.rng.random() < rate

    def line(self, version: int, kind: str, item: Json) -> bytes:
        """One line of a watch."""
        if (version, kind) not in self._encoded:
            self._encoded[version, kind] = json.dumps({"type": kind, "object": item}).encode() + b"\n"
        return self._encoded[version, kind]

    async def serve(self, name: str, wire: Wire, request: tuple[Any, ...], answer: asyncio.Future[_Received]) -> None:
        """Carry one request to the API server, and its answer back."""
        method, url = request[0], request[1]
        fault = self._fault(method) if self.meets_fault(name, method, url) else ""
        if fault:
            self.trace.fault(name, f"{method} {url.partition('?')[0]}: {fault}")
        await self._travel()
        await wire.whole.wait()
        if fault == "lost":
            await self._fail(answer)
            return
        if fault.isdecimal():
            self._settle(answer, *_refusal(int(fault), _REFUSALS[int(fault)]), _retry(fault, self.rng))
            return
        if fault == "stored late":
            self.loop.apart(self._fail(answer))
            await asyncio.sleep(self.rng.choice((0.5, 2.0, 8.0, 30.0)) * self.rng.random())
        try:
            status, body = 200, json.dumps(self.server.request(*request)).encode()
        except Refused as refused:
            status, body = _refusal(refused.code, refused.reason)
        if method != "GET":
            self.trace.note(name, f"{method} {url.partition('?')[0]} → {status}")
        if fault == "its sender is killed":
            self.kill(name)
        if fault in ("answer lost", "its sender is killed"):
            await self._fail(answer)
        elif fault.startswith("answered "):
            code = int(fault.split()[1])
            self._settle(answer, *_refusal(code, _REFUSALS[code]), {})
        else:
            await self._travel()
            await wire.whole.wait()
            self._settle(answer, status, body, {})

    def _fault(self, method: str) -> str:
        if method == "GET":
            return self.rng.choice(("lost", "lost", "429", "403", "500", "504"))
        stored = (
            "answer lost",
            "answer lost",
            "answered 500",
            "answered 504",
            "stored late",
            "stored late",
            "its sender is killed",
        )
        return self.rng.choice((*stored, "lost", "409", "429", "403"))

    async def _travel(self) -> None:
        slow = self.rng.random() < 0.02
        await asyncio.sleep(self.rng.uniform(0.1, 1.0) if slow else self.rng.uniform(0.001, 0.005))

    async def _fail(self, answer: asyncio.Future[_Received]) -> None:
        """Break the connection, or let the client wait for as long as it does."""
        if self.rng.random() < 0.7:
            await asyncio.sleep(self.rng.uniform(0.0, 0.5))
            if not answer.done():
                answer.set_exception(aiohttp.ClientConnectionError("the connection broke"))

    def _settle(self, answer: asyncio.Future[_Received], status: int, body: bytes, headers: dict[str, str]) -> None:
        if not answer.done():
            answer.set_result(_Received(status, body, headers, None))


def _refusal(code: int, reason: str) -> tuple[int, bytes]:
    return code, json.dumps({"kind": "Status", "reason": reason, "message": reason, "code": code}).encode()


def _retry(fault: str, rng: Random) -> dict[str, str]:
    return {"Retry-After": str(rng.randint(1, 3))} if fault == "429" else {}


class SimulatedClient(MemoryClient):
    """The client of one process."""

    def __init__(self, network: Network, name: str, wire: Wire) -> None:
        super().__init__(network.server, wire)
        self._network, self._name = network, name

    def send(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None,
        payload: bytes | None,
        content_type: str | None,
        timeout: aiohttp.ClientTimeout,
        accept: str = "",
    ) -> AbstractAsyncContextManager[Answer]:
        """The answer to one request."""
        url = path + "?" + "&".join(f"{name}={value}" for name, value in (query or {}).items() if value)
        network = self._network
        network.requests += 1

        @asynccontextmanager
        async def sending() -> AsyncIterator[Answer]:
            if query and "watch" in query:
                yield await self._begin_watch(url)
                return
            answer: asyncio.Future[_Received] = network.loop.create_future()
            network.loop.apart(network.serve(self._name, self._wire, (method, url, payload, content_type), answer))
            async with asyncio.timeout(timeout.total):
                received = await answer
            yield received

        return sending()

    async def _begin_watch(self, url: str) -> _Received:
        network = self._network
        await network._travel()
        await _until(self._wire.whole)
        if network.meets_fault(self._name):
            fault = network.rng.choice(("ended at once", "410", "429", "500", "broken"))
            network.trace.fault(self._name, f"watch of {url.partition('?')[0]}: {fault}")
            if fault == "broken":
                raise aiohttp.ClientConnectionError("the connection broke")
            if fault.isdecimal():
                reason = "Expired" if fault == "410" else _REFUSALS[int(fault)]
                return _Received(*_refusal(int(fault), reason), _retry(fault, network.rng), None)
            return _Received(200, b"", {}, _nothing())
        return _Received(200, b"", {}, self._follow(url))

    async def _follow(self, url: str) -> AsyncIterator[bytes]:
        network, server = self._network, self._network.server
        key, _, query = _parsed(url)
        seen = int(query["resourceVersion"])
        while True:
            changed, lines = server.changed[key.plural], []
            for version, kind, at, item in server.changes_after(key.plural, seen):
                seen = version
                kind = self._as_selected(kind, version, _listed(key, at, item, query), (key, at, query))
                if kind:
                    lines.append(network.line(version, kind, item))
            if lines and network.meets_fault(self._name):
                async for line in self._disturbed(url, lines):
                    yield line
            elif lines:
                await _until(self._wire.whole)
                yield b"".join(lines)
            await _until(changed)
            await asyncio.sleep(0.002)

    def _as_selected(self, kind: str, version: int, selected: bool, where: tuple[Key, Key, dict[str, str]]) -> str:
        """The type of a change for this watch, which an object enters or leaves by its labels; "": not seen by it."""
        before = self._network.server.before.get(version)
        if kind != "MODIFIED" or before is None:
            return kind if selected else ""
        key, at, query = where
        was_selected = _listed(key, at, before, query)
        if selected:
            return "MODIFIED" if was_selected else "ADDED"
        return "DELETED" if was_selected else ""

    async def _disturbed(self, url: str, lines: list[bytes]) -> AsyncIterator[bytes]:
        """Lines of a watch that breaks, or is late."""
        network = self._network
        fault = network.rng.choice(("cut", "late", "late", "410"))
        network.trace.fault(self._name, f"watch of {url.partition('?')[0]}: {fault}")
        if fault == "late":
            await asyncio.sleep(network.rng.choice((0.1, 1.0, 5.0, 20.0)) * network.rng.random())
            yield b"".join(lines)
        elif fault == "cut":
            whole = b"".join(lines)
            yield whole[: network.rng.randrange(len(whole))]
            raise aiohttp.ClientPayloadError("the connection broke")
        else:
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            yield json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"


async def _until(event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(_SILENCE_SECONDS):
            await event.wait()
    except TimeoutError:
        raise aiohttp.SocketTimeoutError("nothing was received for long") from None


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
