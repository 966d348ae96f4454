"""The life of one replica of the operator: it waits for the leader's Lease, and leads until it loses the Lease or ends.

``ReplicaSurroundings`` contains every part that opens connections or starts threads. So a replica can also run in one
thread, with a simulated API server and a simulated clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Protocol

from processhub.cluster.client import Client
from processhub.controller import metrics
from processhub.controller.engine import Engine
from processhub.controller.hooks.hubhooks import Receivers
from processhub.controller.settings import OperatorSettings

_STOP_SECONDS = 20.0  # for writes in flight


class Leadership(Protocol):
    """One candidate for the leader's Lease."""

    async def acquire(self) -> int:
        """Wait until the Lease is held; returns the term."""

    async def hold(self, on_renewed: Callable[[float], None]) -> None:
        """Renew the Lease until it is lost. After each renewal, ``on_renewed`` gets the loop's time of its sending."""

    async def release(self) -> None:
        """Give the Lease up. Call this after the last write."""


class Host(Protocol):
    """The host of the leader's work, which starts and stops it; in a pod, kopf."""

    async def run(self, engine: Engine, ended: asyncio.Event) -> None:
        """Start the engine, and stop it when ``ended`` is set. Raises DeposedError."""


@dataclass(frozen=True)
class ReplicaSurroundings:
    """The surroundings of a replica: the API server, the leader's Lease, the host of its work, and hooks' receivers."""

    settings: OperatorSettings
    client: Client
    leadership: Leadership
    host: Host
    receivers: Callable[[], Receivers]  # called when this replica begins to lead


class Replica:
    """One replica."""

    def __init__(self, around: ReplicaSurroundings) -> None:
        self._around = around
        self._engine: Engine | None = None

    @property
    def healthy(self) -> bool:
        """Whether all endless tasks of the leader run. A replica that stands by has none, and is healthy."""
        return self._engine is None or self._engine.healthy

    async def run(self, stop: asyncio.Event) -> int:
        """Run until ``stop`` is set (0) or leadership is lost (1). Raises DeposedError if another has to lead."""
        term = await _unless(stop, self._around.leadership.acquire())
        if term is None:
            return 0
        self._engine = Engine(self._around.client, self._around.settings, term, self._around.receivers())
        return await self._lead(self._engine, stop)

    async def _lead(self, engine: Engine, stop: asyncio.Event) -> int:
        """Lead until ``stop`` is set (0) or the Lease is lost (1). The Lease is kept until all work has stopped.

        Raises DeposedError.
        """
        metrics.LEADER.set(1)
        leadership, ended = self._around.leadership, asyncio.Event()
        work = asyncio.create_task(self._around.host.run(engine, ended), name="host")
        hold = asyncio.create_task(leadership.hold(engine.store.answered), name="lease")
        signalled = asyncio.create_task(stop.wait(), name="signal")
        stopped = asyncio.create_task(engine.stopped.wait(), name="stopped")  # kopf has signal handlers of its own
        over = asyncio.create_task(engine.over.wait(), name="over")
        tasks = (work, hold, signalled, stopped, over)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        metrics.LEADER.set(0)
        deposed = hold.done()
        if not deposed:
            ended.set()
            await asyncio.wait((work, stopped), timeout=_STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            # kopf may take seconds more to end its tasks; a standby need not wait for that.
            if engine.stopped.is_set():
                await leadership.release()
        failure = next((error for task in (work, hold) if task.done() and (error := task.exception())), None)
        # A deposed leader writes nothing more. Writes in flight are cancelled.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if failure is not None or (failure := engine.failure) is not None:
            raise failure
        return 1 if deposed else 0


async def _unless(stop: asyncio.Event, waiting: Coroutine[None, None, int]) -> int | None:
    """The result of ``waiting``, or None if ``stop`` was set first."""
    task = asyncio.create_task(waiting)
    signalled = asyncio.create_task(stop.wait())
    await asyncio.wait((task, signalled), return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if task.done():
        return task.result()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return None
