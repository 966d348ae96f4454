"""The network between a process and the API server, with the faults that the seed chooses.

A request that was sent continues by itself, whatever its sender does in the meantime, even if it has ended.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
from memoryapi import MemoryClient, Wire, _line, old_list
from memoryrequests import Refused, status_of

from processhub.cluster.sending import Answer

from .processes import SimulatedLoop
from .server import Server
from .trace import Trace

if TYPE_CHECKING:
    from .kubelet import Container

_SILENCE_SECONDS = 90.0  # after which a client ends a watch
_LATE_SECONDS = 2.0  # until a request or an answer that comes late
_REFUSALS = {
    403: "Forbidden",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    504: "Timeout",
}


class _Metadata(msgspec.Struct, frozen=True):
    version: str = msgspec.field(name="resourceVersion", default="")


class _Versioned(msgspec.Struct, frozen=True):
    metadata: _Metadata = _Metadata()


class _Line(msgspec.Struct, frozen=True):
    object: _Versioned


_LIST, _LINE = msgspec.json.Decoder(_Versioned), msgspec.json.Decoder(_Line)


@dataclass
class Weather:
    """How likely a request of a process meets a fault now.

    The rates are by the name of the process ("": each) and a class of its requests: "" (all), "write", "write of
    leases", "watch", "watch of leases", and so on.
    """

    rates: dict[tuple[str, str], float] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)  # the code with which all writes of a kind are rejected
    stalled: dict[tuple[str, str], asyncio.Event] = field(default_factory=dict)  # watches that deliver nothing
    stale: set[tuple[str, str]] = field(default_factory=set)  # lists that are older than what their reader has seen
    # The fault of the next request of a class, by the beginning of a process's name: in stories. There are three more
    # of them: "arrives late", "answered late", and "stored after" so many seconds, without an answer.
    next: dict[tuple[str, str], str] = field(default_factory=dict)

    def clear(self) -> None:
        """End all."""
        self.rates.clear()
        self.refused.clear()
        self.stale.clear()
        for name, plural in list(self.stalled):
            self.go_on(name, plural)

    def refusal(self, what: str, url: str) -> str:
        """Return the code with which a request is rejected, or ""."""
        if not self.refused or what != "write":
            return ""
        parts = url.partition("?")[0].split("/")
        return next((str(code) for plural, code in self.refused.items() if plural in parts), "")

    def next_fault(self, name: str, what: str, url: str) -> str:
        """Return the fault that this request was chosen for, or ""."""
        for (whose, part), fault in self.next.items() if self.next else ():
            if name.startswith(whose) and _is_part(part, what, url.partition("?")[0]):
                del self.next[whose, part]
                return fault
        return ""

    def rate(self, name: str, what: str, url: str) -> float:
        """Return the highest rate that applies to a request. ``what``: "read", "write" or "watch"."""
        if not self.rates:
            return 0.0
        path = url.partition("?")[0]
        return max(
            (rate for (whose, part), rate in self.rates.items() if whose in ("", name) and _is_part(part, what, path)),
            default=0.0,
        )

    def stall(self, name: str, plural: str) -> None:
        """Let watches of a kind deliver nothing. A name is the beginning of a process's name."""
        self.stalled.setdefault((name, plural), asyncio.Event())

    def go_on(self, name: str, plural: str) -> None:
        """End the stall."""
        if (event := self.stalled.pop((name, plural), None)) is not None:
            event.set()

    def is_stale(self, name: str, plural: str) -> bool:
        """Return whether lists of a kind are old for a process."""
        return any(name.startswith(whose) and plural == kind for whose, kind in self.stale)

    def stall_of(self, name: str, url: str) -> asyncio.Event | None:
        """Return the stall that a watch waits for now."""
        if not self.stalled:
            return None
        parts = url.partition("?")[0].split("/")
        events = (
            event for (whose, plural), event in self.stalled.items() if name.startswith(whose) and plural in parts
        )
        return next(events, None)


def _is_part(part: str, what: str, path: str) -> bool:
    kind, _, plural = part.partition(" of ")
    return kind in ("", what) and (not plural or plural in path.split("/"))


class _Received:
    """A response as its client sees it."""

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
        self.parted: set[frozenset[str]] = set()  # pairs of members that do not reach each other
        self._seen: dict[tuple[str, str], int] = {}  # process and kind → the highest version that it was sent

    def client(self, name: str, wire: Wire) -> SimulatedClient:
        """The client of a process of this name."""
        return SimulatedClient(self, name, wire)

    def connects(self, one: Container, other: Container) -> bool:
        """Whether two members reach each other."""
        whole = one.wire.whole.is_set() and other.wire.whole.is_set()
        return whole and frozenset((one.machine.member, other.machine.member)) not in self.parted

    def meets_fault(self, name: str, what: str, url: str) -> bool:
        """Return whether a request of this process, or a line of its watch, meets a fault."""
        return (rate := self.weather.rate(name, what, url)) > 0 and self.rng.random() < rate

    async def serve(self, name: str, wire: Wire, request: tuple[Any, ...], answer: asyncio.Future[_Received]) -> None:
        """Carry one request to the API server, and its response back."""
        method, url = request[0], request[1]
        what = "read" if method == "GET" else "write"
        fault = self.weather.refusal(what, url) or self.weather.next_fault(name, what, url)
        if not fault and self.meets_fault(name, what, url):
            fault = self._fault(method)
        if fault:
            self.trace.fault(name, f"{method} {url.partition('?')[0]}: {fault}")
        await self.travel()
        await wire.whole.wait()
        if fault == "lost":
            await self._fail(answer)
            return
        if fault.isdecimal():
            self._settle(answer, *_refusal(int(fault)), _retry(fault, self.rng))
            return
        if fault == "arrives late":
            await asyncio.sleep(_LATE_SECONDS)
        if fault == "stored late":
            self.loop.apart(self._fail(answer))
            await asyncio.sleep(self.rng.choice((0.5, 2.0, 8.0, 30.0)) * self.rng.random())
        elif fault.startswith("stored after "):
            _break(answer)
            await asyncio.sleep(float(fault.rpartition(" ")[2]))
        try:
            status, body = 200, msgspec.json.encode(self.server.request(*request))
        except Refused as refused:
            status, body = _refused(refused)
        if method != "GET":
            self.trace.note(name, f"{method} {url.partition('?')[0]} → {status}")
        if fault == "its sender is killed":
            self.kill(name)
        if fault in ("answer lost", "its sender is killed"):
            await self._fail(answer)
        elif fault in ("answered 500", "answered 504"):
            code = int(fault.split()[1])
            self._settle(answer, *_refusal(code), {})
        else:
            await (asyncio.sleep(_LATE_SECONDS) if fault == "answered late" else self.travel())
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

    def sent(self, name: str, plural: str, version: str) -> None:
        """Note the version of a list, or of an object of a watch, that a process gets."""
        self._seen[name, plural] = max(int(version or 0), self._seen.get((name, plural), 0))

    def forget(self) -> None:
        """Forget which versions were sent: etcd was restored."""
        self._seen.clear()

    def older(self, name: str, plural: str) -> str:
        """Return the beginning of a list that is older than what the process has seen, or "" for a consistent one."""
        seen = self._seen.get((name, plural), 0)
        version = seen - self.rng.randint(1, 30)
        if not self.weather.is_stale(name, plural) or version < max(self.server.compacted, 1):
            return ""
        self.trace.fault(name, f"a list of {plural} is of version {version}, and {seen} was seen")
        return old_list(version)

    async def travel(self) -> None:
        """Let the travel time of a message pass."""
        slow = self.rng.random() < 0.02
        await asyncio.sleep(self.rng.uniform(0.1, 1.0) if slow else self.rng.uniform(0.001, 0.005))

    async def _fail(self, answer: asyncio.Future[_Received]) -> None:
        """Break the connection, or let the client wait until its timeout."""
        if self.rng.random() < 0.7:
            await asyncio.sleep(self.rng.uniform(0.0, 0.5))
            _break(answer)

    def _settle(self, answer: asyncio.Future[_Received], status: int, body: bytes, headers: dict[str, str]) -> None:
        if not answer.done():
            answer.set_result(_Received(status, body, headers, None))


def _break(answer: asyncio.Future[_Received]) -> None:
    if not answer.done():
        answer.set_exception(aiohttp.ClientConnectionError("the connection broke"))


def _refused(refused: Refused) -> tuple[int, bytes]:
    return refused.code, msgspec.json.encode(status_of(refused))


def _refusal(code: int) -> tuple[int, bytes]:
    return _refused(Refused(code, _REFUSALS[code]))


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
        """Return the response to one request."""
        url = path + "?" + "&".join(f"{name}={value}" for name, value in (query or {}).items() if value)
        network, plural = self._network, path.rpartition("/")[2]
        network.requests += 1
        if query and "limit" in query and "continue" not in query and (start := network.older(self._name, plural)):
            url += f"&continue={start}"

        @asynccontextmanager
        async def sending() -> AsyncIterator[Answer]:
            if query and "watch" in query:
                yield await self._begin_watch(url)
                return
            answer: asyncio.Future[_Received] = network.loop.create_future()
            network.loop.apart(network.serve(self._name, self._wire, (method, url, payload, content_type), answer))
            # A response arrives at once, so nothing of it before means that the server was silent.
            async with asyncio.timeout(min(timeout.total or inf, timeout.sock_read or inf)):
                received = await answer
            if query and "limit" in query and received.status == HTTPStatus.OK:
                network.sent(self._name, plural, _LIST.decode(await received.read()).metadata.version)
            yield received

        return sending()

    async def _begin_watch(self, url: str) -> _Received:
        network = self._network
        await network.travel()
        await _arrives(self._wire)
        if network.meets_fault(self._name, "watch", url):
            fault = network.rng.choice(("ended at once", "410", "429", "500", "504", "broken"))
            network.trace.fault(self._name, f"watch of {url.partition('?')[0]}: {fault}")
            if fault == "broken":
                raise aiohttp.ClientConnectionError("the connection broke")
            if fault.isdecimal():
                return _Received(*_refusal(int(fault)), _retry(fault, network.rng), None)
            return _Received(200, b"", {}, _nothing())
        return _Received(200, b"", {}, self._follow(url))

    async def _follow(self, url: str) -> AsyncIterator[bytes]:
        network, plural = self._network, url.partition("?")[0].rpartition("/")[2]
        async for line in network.server.watch(url):
            if network.meets_fault(self._name, "watch", url):
                fault = network.rng.choice(("cut", "late", "late", "410"))
                network.trace.fault(self._name, f"watch of {url.partition('?')[0]}: {fault}")
                if fault == "cut":
                    yield line[: network.rng.randrange(len(line))]
                    raise aiohttp.ClientPayloadError("the connection broke")
                if fault == "410":
                    yield _line("ERROR", status_of(Refused(410, "Expired", "too old resource version")))
                    return
                await asyncio.sleep(network.rng.choice((0.1, 1.0, 5.0, 20.0)) * network.rng.random())
            while (event := network.weather.stall_of(self._name, url)) is not None:
                await event.wait()
            await _arrives(self._wire)
            network.sent(self._name, plural, _version_of(line))
            yield line


@functools.lru_cache(1000)
def _version_of(line: bytes) -> str:
    """Return the version in a watch's line. Most lines are sent on several watches."""
    return _LINE.decode(line).object.metadata.version


async def _arrives(wire: Wire) -> None:
    try:
        async with asyncio.timeout(_SILENCE_SECONDS):
            await wire.whole.wait()
    except TimeoutError:
        raise aiohttp.SocketTimeoutError("nothing was received for long") from None


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
