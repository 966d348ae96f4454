"""The leader's Lease, held on a thread, an event loop and a connection of its own.

The rounds of large hubs may keep the main loop busy for seconds. If the Lease waited for them, it would be lost, and
the next leader would do the same rounds and lose it too. Two limits keep thread and main loop together:

- When the Lease is lost, the main loop is notified, and the process ends within seconds whether it has responded or
  not: a leader whose Lease another may hold must not write.
- If the main loop does not respond for a minute, the thread stops renewing the Lease and ends the process, so that
  another replica can lead.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from processhub.cluster.client import Client
from processhub.controller.lead.election import LEASE_SECONDS, RENEW_DEADLINE_SECONDS, Election

# Another candidate may take the Lease when LEASE_SECONDS have passed without a renewal. This one gives it up at
# RENEW_DEADLINE_SECONDS. The main loop has the time between, less a second, to stop all work.
LOST_SECONDS = float(LEASE_SECONDS - RENEW_DEADLINE_SECONDS - 1)
# A step of a round of 100,000 children takes a second, or ten on a slow machine. A loop that does not respond for this
# long does not recover, and its hubs wait for another leader.
WEDGED_SECONDS = 60.0
_LOGGED_SECONDS = 1.0
T = TypeVar("T")
log = logging.getLogger(__name__)


def end_process(why: str) -> None:
    """Log why, and end the process without another step of its main thread."""
    # The main thread may hold the log's lock forever.
    saying = threading.Thread(target=log.critical, args=("%s: the operator ends at once", why), daemon=True)
    saying.start()
    saying.join(_LOGGED_SECONDS)
    os._exit(1)


class LeaderThread:
    """Runs one candidate of the election. Use it as an async context manager in the loop that does the leader's work.

    ``connect`` and ``candidate`` are called on the thread; ``end`` is called there to end the process.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Client]],
        candidate: Callable[[Client], Awaitable[Election]],
        *,
        wedged_seconds: float = WEDGED_SECONDS,
        lost_seconds: float = LOST_SECONDS,
        end: Callable[[str], None] = end_process,
    ) -> None:
        self._connect, self._candidate, self._end = connect, candidate, end
        self._wedged_seconds, self._lost_seconds = wedged_seconds, lost_seconds
        self._main = asyncio.get_running_loop()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="leader lease", daemon=True)
        self._client: Client | None = None
        self._election: Election | None = None
        self._released = self._closing = False
        self._ending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._thread.start()
        try:
            await self._there(self._open())
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def acquire(self) -> int:
        """Wait until this process holds the Lease; returns the term."""
        return await self._there(self._candidates().acquire())

    async def hold(self, on_renewed: Callable[[float], None]) -> None:
        """Renew the Lease until it is lost; ``on_renewed(sent)`` is called in this loop after each renewal.

        Times are monotonic seconds, as those of the loops are. The process ends soon after this returns.
        """
        await self._there(self._hold(on_renewed))

    async def release(self) -> None:
        """Release the Lease. Call it once, after the last write; ``hold`` must be cancelled first."""
        await self._there(self._release())

    # On the thread.

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()
            if not self._closing:
                self._end("the thread that renews the leader's Lease has ended")

    async def _open(self) -> None:
        client = await self._connect()
        self._client = await client.__aenter__()
        self._election = await self._candidate(self._client)

    async def _shut(self) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    async def _hold(self, on_renewed: Callable[[float], None]) -> None:
        def renewed(sent: float) -> None:
            self._main.call_soon_threadsafe(on_renewed, sent)

        renewing = self._loop.create_task(self._candidates().hold(renewed))
        asking = self._loop.create_task(self._ask_main_loop())
        try:
            await asyncio.wait((renewing, asking), return_when=asyncio.FIRST_COMPLETED)
        finally:
            renewing.cancel()
            asking.cancel()
        if not renewing.done():
            self._end(f"the main loop has not answered for {self._wedged_seconds:g} s")
        elif not self._released:
            self._ending = self._loop.create_task(self._end_later())
            renewing.result()

    async def _ask_main_loop(self) -> None:
        """Return when the main loop has not responded for too long."""
        answered = time.monotonic()

        def answer() -> None:
            nonlocal answered
            answered = time.monotonic()

        while time.monotonic() - answered < self._wedged_seconds:
            self._main.call_soon_threadsafe(answer)
            await asyncio.sleep(self._wedged_seconds / 60)

    async def _end_later(self) -> None:
        await asyncio.sleep(self._lost_seconds)
        self._end(f"the leader's work has not stopped within {self._lost_seconds:g} s after its Lease was lost")

    async def _release(self) -> None:
        self._released = True
        await self._candidates().release()

    # On either thread.

    def _candidates(self) -> Election:
        assert self._election is not None, "use it as an async context manager"
        return self._election

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the thread's loop; returns its result."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _close(self) -> None:
        await self._there(self._shut())
        self._closing = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
