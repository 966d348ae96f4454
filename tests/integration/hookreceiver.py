"""A webhook receiver for tests: an HTTP server that keeps the events and answers as the test configures it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Json = dict[str, Any]
Answer = Callable[[Json], web.StreamResponse]


class Receiver:
    """The received requests by path, in order. ``answers``: path → the answer there (204 by default)."""

    def __init__(self) -> None:
        self.url = ""
        self.came: list[tuple[str, Json]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: dict[str, Answer] = {}
        self.hanging: set[str] = set()  # paths that do not answer until they are released
        self._released = asyncio.Event()

    def hook(self, name: str, event: str, path: str = "", priority: int = 0, **webhook: Any) -> Json:
        """Return an entry of spec.hooks that is delivered here, at the path of its name unless a path is given."""
        return {
            "name": name,
            "event": event,
            "priority": priority,
            "webhook": {"url": f"{self.url}/{path or name}", **webhook},
        }

    def hooks(self, *events: str, path: str = "all") -> list[Json]:
        """Return a hook for each event, all delivered at one path."""
        return [self.hook(event.lower(), event, path) for event in events]

    def received(self, path: str = "all", event: str = "", **data: Any) -> list[Json]:
        """Return the events at a path, optionally of one kind and with these data."""
        return [
            came
            for where, came in self.came
            if where == path
            and event in ("", came["type"].removeprefix("dev.processhub."))
            and data.items() <= came["data"].items()
        ]

    async def once(self, event: str, path: str = "all", within: float = 40.0, **data: Any) -> Json:
        """Return the one event of this kind with these data, once it has arrived."""

        deadline = time.monotonic() + within
        while not (found := self.received(path, event, **data)):
            assert time.monotonic() < deadline, f"no {event} with {data}; there came {self.summary(path)}"
            await asyncio.sleep(0.02)
        assert len(found) == 1, found
        return found[0]

    def summary(self, path: str = "all") -> list[str]:
        """Return the kinds and subjects, for failure messages."""
        return [f"{came['type'].rpartition('.')[2]} {came['subject']}" for came in self.received(path)]

    def release(self, path: str = "") -> None:
        """Let a path (all, unless one is given) answer from now on, also the requests that wait."""
        self.hanging -= {path} if path else set(self.hanging)
        released, self._released = self._released, asyncio.Event()
        released.set()

    def forget(self) -> None:
        """Forget all requests so far."""
        self.came.clear()
        self.headers.clear()

    async def _take(self, request: web.Request) -> web.StreamResponse:
        path = request.path.lstrip("/")
        event: Json = await request.json()
        self.came.append((path, event))
        self.headers.append(dict(request.headers))
        while path in self.hanging:
            await self._released.wait()
        answer = self.answers.get(path)
        return answer(event) if answer else web.Response(status=204)


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """Run a receiver on a free port of this machine."""
    made = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", made._take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        made.release()
        await runner.cleanup()


def failing(statuses: Iterable[int]) -> Answer:
    """Return these statuses one after the other, then 204."""
    left = iter(statuses)
    return lambda _: web.Response(status=next(left, 204))
