"""An agent's life: follow the slices, hold the Lease, run the children, end in order."""

from __future__ import annotations

import asyncio
import logging

from processhub.agent.parts import Surroundings, build_parts
from processhub.agent.tasks import Tasks
from processhub.cluster.errors import ApiError

log = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED, EXIT_NO_WATCHDOG, EXIT_OTHER_HOLDER = 0, 1, 70, 75
_RETRY_SECONDS = 0.5
_FLUSH_SECONDS = 5.0
_FINISH_SECONDS = 5.0
_MARGIN_SECONDS = 12.0  # of the pod's grace period, for what comes after the children's end


class Agent:
    """The life of one agent. Its parts are built in ``parts.py``."""

    def __init__(self, around: Surroundings) -> None:
        self._loop = asyncio.get_running_loop()
        self._around = around
        self._exit: asyncio.Future[int] = self._loop.create_future()
        self._ending: asyncio.Task[None] | None = None
        self._tasks = Tasks()
        self._parts = build_parts(around, self._tasks.begin)
        self._tasks.failed.listen(self._part_failed)
        around.watchdog.lost.listen(self._watchdog_lost)
        around.lease.taken.listen(self._lease_taken)
        around.lease.other_holder.listen(self._other_holder)

    async def run(self) -> int:
        """Run until ``terminate`` is called or until the agent can't go on; returns the exit code."""
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
        await parts.server.stop()
        await self._around.peers.close()
        return code

    async def _wait_for_slices(self) -> None:
        """The Lease is taken only once this member's slice 0 is there: it carries leaseSeconds and the term."""
        slices = self._parts.slices
        while not slices.ready:
            await slices.informer.synced.wait()
            await asyncio.sleep(0.02)
        self._around.lease.start()

    def _lease_taken(self, session: int) -> None:
        self._tasks.begin(self._serve_session(session))

    async def _serve_session(self, session: int) -> None:
        """The Lease is ours (again): act on what the slices hold at this moment, only then start."""
        parts = self._parts
        while session == self._around.lease.session:
            try:
                await parts.slices.refresh()
            except ApiError as error:
                log.warning("slices can't be read: %s", error.message)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if not parts.permit.given_once:
                parts.handovers.follow(parts.supervisor.children.values())
            parts.permit.give(session)
            parts.reporter.open()
            parts.launchers.warm()
            parts.supervisor.advance()
            parts.requests.queue.advance()
            return

    # its end

    def _part_failed(self, error: BaseException) -> None:
        log.error("a part of the agent failed; the container starts over", exc_info=error)
        self._finish(EXIT_FAILED)

    def _other_holder(self, holder: str) -> None:
        """Everything it runs is another's now."""
        self._finish(EXIT_OTHER_HOLDER)

    def _watchdog_lost(self) -> None:
        log.error("the watchdog ended: its children ended with it, and so does this agent")
        self._finish(EXIT_NO_WATCHDOG)

    def terminate(self) -> None:
        """End in order: children are handed over or stopped, and the Lease is released."""
        log.info("told to end: stopping %d children", len(self._parts.supervisor.children))
        self._parts.server.leave()
        self._finish(EXIT_OK)

    def _finish(self, code: int) -> None:
        if code != EXIT_OK:
            # The watchdog ends all children now, whatever else is still to be done here.
            self._around.watchdog.close()
        if not self._exit.done():
            self._exit.set_result(code)
        elif code != EXIT_OK and self._ending is not None:
            self._ending.cancel()  # it can't be done in order any more

    async def _end_in_order(self) -> None:
        """Children handed over or stopped, no restarts any more, that said in the status, the Lease released."""
        parts, supervisor = self._parts, self._parts.supervisor
        began, left = self._loop.time(), max(0.0, self._around.env.grace_seconds - _MARGIN_SECONDS)
        grace = min(supervisor.limits.stop_seconds, left)
        if parts.permit.held:
            # The operator moves them, with their state, while their pod is terminating.
            await supervisor.emptied(min(supervisor.settings.handover_seconds, left - grace))
        await supervisor.stop_all(grace, left - grace - (self._loop.time() - began))
        supervisor.forget_all()
        await parts.reporter.flush(_FLUSH_SECONDS)
        await self._around.lease.release()
        # What other members' children still work on is answered here; who waits for an owner asks another member.
        await parts.server.finish(min(supervisor.settings.request_seconds, _FINISH_SECONDS))
