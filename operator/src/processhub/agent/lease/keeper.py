"""The member's Lease: taken and renewed on a thread, an event loop and a connection of its own.

The Lease works like this:

- The agent renews it at every fifth of leaseSeconds. Each renewal that the API server confirms moves the watchdog's
  deadline, counted from before the renewal was sent.
- A busy agent still renews in time, because the thread is separate. An agent that stands still renews nothing, and
  the watchdog ends its children.
- If another holder appears, this agent is outdated. It ends at once. The container restarts it as a new process with
  a new nonce, so that nothing it remembered is used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from processhub.agent.env import Environment
from processhub.agent.lease.record import LeaseRecord
from processhub.agent.lease.trouble import LeaseTrouble
from processhub.agent.lease.validity import Deadlines, Renewal, Validity
from processhub.agent.listeners import Listeners
from processhub.agent.loopthread import LoopThread
from processhub.agent.watchdog.linux import boottime
from processhub.api.kubernetes import Lease
from processhub.api.slice import Settings
from processhub.api.usage import Usage
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError
from processhub.cluster.informer import REWOUND_SECONDS
from processhub.cluster.tasks import wait_for_event

log = logging.getLogger(__name__)
_POLL_SECONDS = 0.3  # how often a Lease is read that another holder has or that does not exist yet
_RETRY_SECONDS = 0.5
_RELEASE_SECONDS = 3.0
_STUCK_SECONDS = 45.0  # longer than any one request may take


class LeaseLoop(Protocol):
    """The event loop on which the Lease is kept; in an agent, the loop of a separate thread."""

    loop: asyncio.AbstractEventLoop

    @property
    def running(self) -> bool:
        """Whether the loop was started and has not ended."""

    def start(self, begin: Callable[[], None]) -> None:
        """Start the loop, and call ``begin`` on it."""

    def stop(self) -> None:
        """End the loop. Call this on the loop."""


class LeaseKeeper:
    """Holds the Lease from ``start`` to ``release``. Attributes may be read from any thread.

    ``taken`` notifies of the session when the Lease is taken. The session's number rises when the Lease is taken back
    after it had expired; it stays the same when a renewal in time was answered only after the expiry. ``other_holder``
    notifies of another holder. ``rewound`` notifies that etcd was restored to an earlier time. ``refused`` notifies of
    why the API server refuses to store the Lease, "" when it stores it again. All notify on the thread that made the
    keeper. The latest usage is sent with each renewal, so it needs no write of its own.

    ``connect`` makes the client that is used only for the Lease. ``place`` is the loop of the Lease (None: one on a
    separate thread). ``clock`` is the clock of the deadlines, in seconds above 0.
    """

    def __init__(
        self,
        env: Environment,
        settings: Settings,
        feed: Deadlines,
        *,
        connect: Callable[[], Awaitable[Client]] = Client.connect_in_pod,
        place: LeaseLoop | None = None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self.taken: Listeners[int] = Listeners()
        self.other_holder: Listeners[str] = Listeners()
        self.rewound: Listeners[()] = Listeners()
        self.refused: Listeners[str] = Listeners()
        self.renewals = 0
        self._record, self._validity = LeaseRecord(env), Validity(settings, feed, clock)
        self._connect, self._clock = connect, clock
        self._beat = clock()  # time of the last progress of the Lease's loop, for /healthz
        self._main = asyncio.get_running_loop()
        self._trouble = LeaseTrouble(lambda why: self._main.call_soon_threadsafe(self.refused.notify, why))
        self._place = place or LoopThread("lease")
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    # For the agent's main thread.

    @property
    def identity(self) -> str:
        """The name of this agent as the holder of the Lease."""
        return self._record.identity

    @property
    def session(self) -> int:
        """The number of the session in which the Lease was taken; 0 before the first one."""
        return self._validity.session

    @property
    def failures(self) -> int:
        """How many renewals have failed."""
        return self._trouble.failures

    def start(self) -> None:
        """Start to take the Lease."""
        self._place.start(self._begin)

    def set_usage(self, usage: Usage) -> None:
        """Send this usage with all further renewals."""
        self._record.usage = usage

    def set_refused(self, why: str) -> None:
        """Say with all further renewals why the member's reports are not stored; "": they are."""
        self._record.refused = why

    def apply(self, settings: Settings) -> None:
        """Use changed settings from now on."""
        self._place.loop.call_soon_threadsafe(self._apply, settings)

    def held(self, session: int) -> bool:
        """Whether the Lease, as taken in ``session``, is valid now by this machine's clock."""
        return self._validity.holds(session)

    @property
    def alive(self) -> bool:
        """Whether the Lease's loop has made progress lately, or has not been started yet."""
        longest = max(self._validity.settings.lease_seconds, _STUCK_SECONDS)
        return not self._place.running or self._clock() - self._beat < longest

    async def release(self) -> None:
        """Release the Lease (best effort, for some seconds at most) and end the loop."""
        if not self._place.running:
            return
        future = asyncio.run_coroutine_threadsafe(self._release(), self._place.loop)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(future), _RELEASE_SECONDS + 1)

    # On the Lease's own thread.

    def _begin(self) -> None:
        self._task = self._place.loop.create_task(self._keep())

    def _apply(self, settings: Settings) -> None:
        self._validity.apply(settings)
        self._hurry.set()

    async def _keep(self) -> None:
        while True:
            waited = False  # for an answer that did not come
            try:
                async with await self._connect() as client:
                    await self._take(client)
                    while await self._renew(client):
                        pass
                waited = self._trouble.timed_out
            except ApiError as error:
                self._trouble.failed(error)
                if self._trouble.missed <= 2:
                    log.warning("the member's Lease %s: %s; retrying", self._record.name, error.message)
            except Exception:
                log.exception("the member's Lease %s can't be kept; retrying", self._record.name)
            if not waited:
                await self._rest(_RETRY_SECONDS)

    async def _rest(self, seconds: float) -> None:
        self._hurry.clear()
        await wait_for_event(self._hurry, seconds)
        self._beat = self._clock()

    async def _take(self, client: Client) -> None:
        """Wait until the Lease is free, and take it. It may also turn out to be held by this agent still."""
        seen: tuple[str, str] | None = None
        since = 0.0
        while True:
            known = self._record.rewound
            lease = await self._record.read(client)
            if self._record.rewound and not known:
                self._main.call_soon_threadsafe(self.rewound.notify)
            if lease is not None:
                holder = lease.spec.holder_identity or ""
                if holder == self.identity:
                    self._record.held = lease
                    return
                if self.session and holder and not self._record.rewound:
                    self._report_other(holder)
                    return
                mark = (holder, lease.spec.renew_time or "")
                if mark != seen:
                    seen, since = mark, self._clock()
                    if holder and not self._record.same_pod(holder):
                        log.info("the Lease is held by %s; waiting until it is released or expires", holder)
                if self._clock() - since >= self._max_wait(lease, holder):
                    if await self._write(client, lease, taking=True):
                        return
                    continue
            await self._rest(_POLL_SECONDS)

    def _max_wait(self, lease: Lease, holder: str) -> float:
        """How long this agent waits for a Lease that this holder does not renew.

        An earlier container of this pod has ended. If there was none, a restore of etcd has brought the pod back:
        what the slices say may run elsewhere until it is noticed there too.
        """
        duration = max(self._validity.settings.lease_seconds, lease.spec.lease_duration_seconds or 0)
        if not self._record.same_pod(holder):
            return duration + 1 if holder else 0.0
        return 0.0 if self._record.has_run else duration + REWOUND_SECONDS

    async def _renew(self, client: Client) -> bool:
        """Wait for a fifth of the Lease's duration and renew it; False if the Lease must be read again."""
        interval = self._validity.interval
        await self._rest(self._validity.until_renewal())
        if self._record.held is None:
            return False
        try:
            async with asyncio.timeout(interval):
                return await self._write(client, self._record.held, taking=False)
        except (ApiError, TimeoutError) as error:
            self._trouble.failures += 1
            self._trouble.failed(error)
            if self._trouble.missed == 1:
                log.warning("the member's Lease could not be renewed: %s; retrying", error or "no answer in time")
            if not self._trouble.timed_out:
                await self._rest(min(_RETRY_SECONDS, interval / 2))
            return False

    async def _write(self, client: Client, lease: Lease, *, taking: bool) -> bool:
        """Renew the Lease, or take it over. Returns False on a conflict: another client wrote it in between."""
        began, seconds = self._clock(), self._validity.settings.lease_seconds
        if not await self._record.write(client, lease, seconds, taking=taking):
            return False
        self.renewals += 1
        if self._trouble.missed:
            log.info("the member's Lease is renewed again after %d failures", self._trouble.missed)
            self._trouble.ended()
        renewal = self._validity.renew(began, seconds, taken=taking)
        if renewal is Renewal.ANEW:
            log.info("holding the member's Lease as %s", self.identity)
        if renewal is not Renewal.IN_TIME:
            self._main.call_soon_threadsafe(self.taken.notify, self.session)
        return True

    def _report_other(self, holder: str) -> None:
        log.error("the member's Lease is held by %s now: this agent ends", holder)
        self._validity.lose()
        self._main.call_soon_threadsafe(self.other_holder.notify, holder)

    async def _release(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._validity.renewed_at:
            with contextlib.suppress(ApiError, TimeoutError):
                async with asyncio.timeout(_RELEASE_SECONDS), await self._connect() as client:
                    await self._record.release(client)
        self._place.stop()
