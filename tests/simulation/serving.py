"""The server of a member without HTTP: requests of callers, and connections of other members."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from processhub.agent.peers.line import Line
from processhub.agent.problems import Problem
from processhub.agent.request import Request
from processhub.agent.requests.forwarded import ForwardingSession
from processhub.agent.requests.server import Served, Server

if TYPE_CHECKING:
    from .sockets import Socket


class Asked(msgspec.Struct, frozen=True):
    """The body of a request: its number, the seconds that the child takes, and whether the child crashes over it."""

    number: int
    seconds: float = 0.0
    crashes: bool = False


class MemberServer(Server):
    """The server of a member."""

    def __init__(self, served: Served) -> None:
        super().__init__(served)
        self.served, self.listens = served, False
        self._accepted: dict[ForwardingSession, None] = {}  # as ``_sessions``, and closed in the same order in each run

    async def start(self) -> None:
        self.listens = True

    async def stop(self) -> None:
        self.listens = False
        await asyncio.gather(*(session.close() for session in self._accepted))

    async def receive(self, child_id: str, asked: Asked) -> str:
        """Answer a request of a caller: "", or the code of the problem."""
        self._at_work += 1
        try:
            self._check_synced()
            self._router.check_stays()
            answer = await self._router.send(child_id, Request("call", msgspec.json.encode(asked)))
        except Problem as problem:
            return f"{problem.status} {problem.kind}: {problem.detail}"
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._idle.set()
        return f"{answer.status} {answer.body.decode()}"

    async def accept(self, socket: Socket) -> None:
        """Serve the requests that come on a connection of another member."""

        async def check() -> None: ...

        line: Any = socket
        session = ForwardingSession(Line(line), self._serve_on_connection, check)
        self._sessions.add(session)
        self._accepted[session] = None
        try:
            await session.run()
        finally:
            self._sessions.discard(session)
            del self._accepted[session]
            await socket.close()
