"""The life of an agent: follow the slices, hold the Lease, run the children, shut down in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

from processhub.agent.listeners import Listeners
from processhub.agent.parts import Surroundings, build_parts
from processhub.cluster.errors import ApiError
from processhub.cluster.informer import REWOUND_SECONDS

log = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED, EXIT_NO_WATCHDOG, EXIT_OTHER_HOLDER, EXIT_REWOUND = 0, 1, 70, 75, 76
_RETRY_SECONDS = 0.5
_FLUSH_SECONDS = 5.0
_FINISH_SECONDS = 5.0
_CLOSE_SECONDS = 5.0
# The part of the pod's grace period that is kept for the steps after the last child has ended: seconds, and the most.
_MARGIN_SECONDS, _MARGIN_SHARE = 12.0, 0.5


class Agent:
    """The life of one agent. Its parts are built in ``parts.py``."""

    def __init__(self, around: Surroundings) -> None:
        self._loop = asyncio.get_running_loop()
        self._around = around
        self._exit: asyncio.Future[int] = self._loop.create_future()
        self._ending: asyncio.Task[None] | None = None
        self._rewound = False
        self._tasks = _Tasks()
        self._parts = build_parts(around, self._tasks.begin)
        self._tasks.failed.listen(self._part_failed)
        around.watchdog.lost.listen(self._watchdog_lost)
        around.lease.taken.listen(lambda session: self._tasks.begin(self._serve_session(session)))
        around.lease.other_holder.listen(self._other_holder)
        around.lease.rewound.listen(self._begin_anew)
        self._parts.slices.rewound.listen(self._begin_anew)

    async def run(self) -> int:
        """Run until ``terminate`` is called or until an error ends the agent; returns the exit code."""
        parts = self._parts
        await parts.server.start()
        self._tasks.begin(parts.slices.informer.run())
        self._tasks.begin(self._wait_for_slices())
        parts.meter.start()
        parts.launchers.warm()
        code = await self._exit
        if code == EXIT_OK:
            self._ending = self._loop.create_task(self._end_in_order())
            await asyncio.wait((self._ending,))
            if self._ending.cancelled() or self._ending.exception() is not None:
                code = EXIT_FAILED
        parts.meter.stop()
        self._tasks.cancel()
        # A member that is paused takes nothing any more. As long as this process lives, it renews the Lease.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await parts.server.stop()
                await self._around.peers.close()
        return code

    async def _wait_for_slices(self) -> None:
        """Wait for this member's slice 0, then start to take the Lease.

        Slice 0 carries leaseSeconds and the term, which the Lease needs.
        """
        slices = self._parts.slices
        while not slices.ready:
            await slices.informer.synced.wait()
            await asyncio.sleep(0.02)
        self._around.lease.start()

    async def _serve_session(self, session: int) -> None:
        """Read the slices once more after the Lease was taken, and only then permit starts."""
        parts = self._parts
        while session == self._around.lease.session and not self._rewound:
            try:
                await parts.slices.refresh()
            except ApiError as error:
                log.warning("slices can't be read, retrying: %s", error.message)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if session != self._around.lease.session:
                return  # Another one has begun meanwhile, whose permit may be given already.
            if not parts.permit.given_once:
                parts.supervisor.adopt_last_reports()
                parts.handovers.follow(parts.supervisor.children.values())
            parts.requests.activations.retake()
            parts.permit.give(session)
            parts.reporter.open()
            parts.launchers.warm()
            parts.supervisor.advance()
            parts.requests.queue.advance()
            return

    # The end of the agent.

    def _part_failed(self, error: BaseException) -> None:
        log.error("a part of the agent failed; the container restarts", exc_info=error)
        self._finish(EXIT_FAILED)

    def _other_holder(self, holder: str) -> None:
        """End the agent at once: another holder of the Lease runs this member's children now."""
        self._finish(EXIT_OTHER_HOLDER)

    def _begin_anew(self) -> None:
        """End all children at once and, later, the agent: etcd was restored to an earlier time.

        What this agent knows has never happened, and another member may run a child that is this one's now. By the time
        that this agent ends, each other member has noticed too, or has lost its Lease (docs/protocol.md, rule 4).
        """
        if self._rewound or self._exit.done():
            return
        self._rewound = True
        seconds = self._parts.slices.settings.lease_seconds + REWOUND_SECONDS
        log.error("etcd was restored to an earlier time: all children end, and the agent begins anew in %g s", seconds)
        self._parts.permit.withdraw()
        self._parts.server.leave()
        self._tasks.begin(self._parts.server.finish(_FINISH_SECONDS))
        self._tasks.begin(self._parts.reporter.flush(0))
        self._around.watchdog.close()
        self._loop.call_later(seconds, self._finish, EXIT_REWOUND)

    def _watchdog_lost(self) -> None:
        if self._rewound:
            return
        log.error("the watchdog ended: its children ended with it, and this agent ends too")
        self._finish(EXIT_NO_WATCHDOG)

    def terminate(self) -> None:
        """End in order: hand over or stop the children, and release the Lease."""
        log.info("shutting down: stopping %d children", len(self._parts.supervisor.children))
        self._parts.server.leave()
        self._finish(EXIT_OK)

    def _finish(self, code: int) -> None:
        if code != EXIT_OK:
            # The watchdog kills all children now, whatever else is still to be done here.
            self._around.watchdog.close()
        if not self._exit.done():
            self._exit.set_result(code)
        elif code != EXIT_OK and self._ending is not None:
            self._ending.cancel()  # an orderly shutdown is not possible any more

    async def _end_in_order(self) -> None:
        """Shut down: hand over or stop the children, write the final status, release the Lease."""
        parts, supervisor = self._parts, self._parts.supervisor
        whole = self._around.env.grace_seconds
        began, left = self._loop.time(), max(whole - _MARGIN_SECONDS, whole * _MARGIN_SHARE)
        grace = min(supervisor.limits.stop_seconds, left)
        if parts.permit.held:
            # While the pod is terminating, the operator moves its children, and their state is handed over.
            await supervisor.emptied(min(supervisor.settings.handover_seconds, left - grace))
        await supervisor.stop_all(grace, left - grace - (self._loop.time() - began))
        supervisor.forget_all()
        await parts.reporter.flush(_FLUSH_SECONDS)
        await self._around.lease.release()
        # Requests that other members' children work on are still answered here. A caller that waits for an owner is
        # sent to another member.
        await parts.server.finish(min(supervisor.settings.request_seconds, _FINISH_SECONDS))


class _Tasks:
    """Tasks that run until the agent ends. ``failed`` notifies of an error that ended one of them."""

    def __init__(self) -> None:
        self.failed: Listeners[BaseException] = Listeners()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the coroutine as a task."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Cancel all tasks."""
        for task in self._tasks:
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed.notify(error)
