"""The member's Lease: taken, renewed and judged on a thread, an event loop and a connection of its own.

A busy agent never starves it, and a stalled agent never feeds it: the watchdog's deadline moves only with a renewal
that the API server confirmed, counted from before it was sent. Another holder means that this agent is a leftover;
it ends at once and starts over as a new process with a new nonce, so that nothing it believed survives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from processhub.agent.env import Environment
from processhub.agent.listeners import Listeners
from processhub.agent.loopthread import LoopThread
from processhub.agent.watchdog.linux import boottime
from processhub.api.kubernetes import Lease
from processhub.api.naming import ANNOTATION_LOAD, LABEL_HUB_UID, lease_name
from processhub.api.slice import Settings
from processhub.api.usage import Usage, format_usage
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError, ConflictError, NotFoundError
from processhub.cluster.kinds import LEASES
from processhub.cluster.timestamps import now_micros

log = logging.getLogger(__name__)
_POLL_SECONDS = 0.3  # how often a Lease that is another's, or not there yet, is looked at
_RETRY_SECONDS = 0.5
_RELEASE_SECONDS = 3.0
_STUCK_SECONDS = 45.0  # longer than any one request may take


class Deadlines(Protocol):
    """Takes the times until which the Lease lets children run."""

    def set(self, stop_at: float, kill_at: float) -> None:
        """Send stop signals at ``stop_at``, SIGKILL at ``kill_at`` (seconds of the Lease's clock); 0 0: never."""


class LeaseLoop(Protocol):
    """The event loop on which the Lease is kept: in an agent that of a thread."""

    loop: asyncio.AbstractEventLoop

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""

    def start(self, begin: Callable[[], None]) -> None:
        """Start it, and call ``begin`` on it."""

    def stop(self) -> None:
        """End it; called on the loop."""


class LeaseKeeper:
    """Holds the Lease from ``start`` to ``release``. Attributes may be read from any thread.

    ``taken`` notifies of the session when the Lease is taken, again with a higher number when it was taken back after
    it had run out, and with the same when a renewal was answered only after that. ``other_holder`` notifies of another
    holder. Both notify on the thread that made the keeper. The latest usage goes with each renewal: that costs no write
    of its own.

    ``connect`` makes the client for the Lease alone, ``place`` is the loop that it is kept on (None: one on a thread of
    its own), and ``clock`` that of the deadlines, in seconds above 0.
    """

    def __init__(
        self,
        env: Environment,
        settings: Settings,
        feed: Deadlines,
        *,
        connect: Callable[[], Awaitable[Client]] = Client.connect,
        place: LeaseLoop | None = None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self.taken: Listeners[int] = Listeners()
        self.other_holder: Listeners[str] = Listeners()
        self.identity = f"{env.pod_uid}/{random.randbytes(4).hex()}"  # noqa: S311 no secret
        self.session = 0
        self.renewals = self.failures = 0
        self.beat = clock()  # when the Lease's loop last came round, for /healthz
        self._env, self._settings, self._feed, self._connect, self._clock = env, settings, feed, connect, clock
        self._name = lease_name(env.hub, env.member)
        self._usage: Usage | None = None
        self._main = asyncio.get_running_loop()
        self._missed = 0  # failures since the last renewal
        self._renewed = 0.0  # by the clock, before the last successful renewal was sent; 0: not held
        self._granted = settings.lease_seconds  # the seconds that it asked for: who watches the Lease waits no longer
        self._lease: Lease | None = None
        self._place = place or LoopThread("lease")
        self._loop = self._place.loop
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    # for the agent's main thread

    def start(self) -> None:
        """Begin to take the Lease."""
        self._place.start(self._begin)

    def set_usage(self, usage: Usage) -> None:
        """Send this usage with the renewals from now on."""
        self._usage = usage

    def apply(self, settings: Settings) -> None:
        """Use changed settings from now on."""
        if settings != self._settings:
            self._loop.call_soon_threadsafe(self._apply, settings)

    def held(self, session: int) -> bool:
        """Whether the Lease, as taken in ``session``, is valid now by this machine's clock.

        With fencing it counts as lost from the stop deadline on: what would be started then would be killed.
        """
        return session == self.session > 0 and self._clock() < self._renewed + self._valid_seconds()

    def _valid_seconds(self) -> float:
        return self._seconds() * (2 / 3 if self._settings.fence else 1.0)

    def _seconds(self) -> int:
        """For how long the last renewal holds: a longer time that was set since has to be asked for first."""
        return min(self._settings.lease_seconds, self._granted)

    @property
    def alive(self) -> bool:
        """Whether its loop has come round lately (or was not started yet)."""
        longest = max(self._settings.lease_seconds, _STUCK_SECONDS)
        return not self._place.running or self._clock() - self.beat < longest

    async def release(self) -> None:
        """Give the Lease up (best effort, some seconds at most) and end the thread."""
        if not self._place.running:
            return
        future = asyncio.run_coroutine_threadsafe(self._release(), self._loop)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(future), _RELEASE_SECONDS + 1)

    # on the Lease's own thread

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._keep())

    def _apply(self, settings: Settings) -> None:
        self._settings = settings
        self._feed_watchdog()
        self._hurry.set()

    def _feed_watchdog(self) -> None:
        settings = self._settings
        if settings.fence and self._renewed:
            seconds = self._seconds()
            self._feed.set(self._renewed + seconds * 2 / 3, self._renewed + seconds - 1)
        else:
            self._feed.set(0, 0)

    async def _keep(self) -> None:
        while True:
            try:
                async with await self._connect() as client:
                    await self._take(client)
                    while await self._renew(client):
                        pass
            except ApiError as error:
                self._missed += 1
                if self._missed <= 2:
                    log.warning("the member's Lease %s: %s; trying on", self._name, error.message)
            except Exception:
                log.exception("the member's Lease %s can't be kept; trying again", self._name)
            await self._rest(_RETRY_SECONDS)

    async def _rest(self, seconds: float) -> None:
        self._hurry.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        self.beat = self._clock()

    async def _take(self, client: Client) -> None:
        """Wait until the Lease is free to take, and take it (or find that it still is our own)."""
        seen: tuple[str, str] | None = None
        since = 0.0
        while True:
            lease = await self._look(client)
            if lease is not None:
                holder = lease.spec.holder_identity or ""
                if holder == self.identity:
                    self._lease = lease
                    return
                if self.session and holder:
                    self._report_other(holder)
                    return
                mark = (holder, lease.spec.renew_time or "")
                if mark != seen:
                    seen, since = mark, self._clock()
                    if holder and not self._same_pod(holder):
                        log.info("the Lease is held by %s; waiting until it is released or runs out", holder)
                max_wait = max(self._settings.lease_seconds, lease.spec.lease_duration_seconds or 0) + 1
                if not holder or self._same_pod(holder) or self._clock() - since > max_wait:
                    if await self._write(client, lease, taking=True):
                        return
                    continue
            await self._rest(_POLL_SECONDS)

    def _same_pod(self, holder: str) -> bool:
        """A holder of this pod's uid was this container before it was restarted: its processes are gone."""
        return holder.startswith(self._env.pod_uid + "/")

    async def _look(self, client: Client) -> Lease | None:
        try:
            lease = await client.get(LEASES, self._env.namespace, self._name, timeout=5)
        except NotFoundError:
            return None
        if lease.metadata.labels.get(LABEL_HUB_UID, self._env.hub_uid) != self._env.hub_uid:
            log.warning("the Lease %s belongs to a hub of another uid; waiting", self._name)
            return None
        return lease

    async def _renew(self, client: Client) -> bool:
        """Rest a fifth of the Lease's duration and renew it; False where it must be looked at anew."""
        interval = self._seconds() / 5
        await self._rest(max(0.0, self._renewed + interval - self._clock()) if self._renewed else 0.0)
        if self._lease is None:
            return False
        try:
            async with asyncio.timeout(interval):
                return await self._write(client, self._lease, taking=False)
        except (ApiError, TimeoutError) as error:
            self.failures += 1
            self._missed += 1
            if self._missed == 1:
                log.warning("the member's Lease could not be renewed: %s; trying on", error or "no answer in time")
            await self._rest(min(_RETRY_SECONDS, interval / 2))
            return False

    async def _write(self, client: Client, lease: Lease, *, taking: bool) -> bool:
        """Renew, or take it over. False on a conflict: somebody wrote in between."""
        began, seconds = self._clock(), self._settings.lease_seconds
        now = now_micros()
        spec = msgspec.structs.replace(
            lease.spec,
            holder_identity=self.identity,
            lease_duration_seconds=seconds,
            renew_time=now,
        )
        if taking:
            spec = msgspec.structs.replace(
                spec, acquire_time=now, lease_transitions=(lease.spec.lease_transitions or 0) + 1
            )
        metadata = lease.metadata
        if (usage := self._usage) is not None:
            annotations = {**metadata.annotations, ANNOTATION_LOAD: format_usage(usage)}
            metadata = msgspec.structs.replace(metadata, annotations=annotations)
        body = msgspec.structs.replace(lease, metadata=metadata, spec=spec)
        try:
            self._lease = await client.replace(LEASES, self._env.namespace, self._name, body)
        except (ConflictError, NotFoundError):
            self._lease = None
            return False
        self.renewals += 1
        if self._missed:
            log.info("the member's Lease is renewed again after %d failures", self._missed)
            self._missed = 0
        # Sent after the last one had run out (or children were told to stop): whoever watched may have given them away.
        fresh = taking or not self._renewed or began >= self._renewed + self._valid_seconds()
        # Sent in time and answered late: between the two it counted as lost, and starts were put off.
        late = not fresh and self._clock() >= self._renewed + self._valid_seconds()
        if fresh:
            self.session += 1
        self._renewed, self._granted = began, seconds
        self._feed_watchdog()
        if fresh:
            log.info("holding the member's Lease as %s", self.identity)
        if fresh or late:
            self._main.call_soon_threadsafe(self.taken.notify, self.session)
        return True

    def _report_other(self, holder: str) -> None:
        log.error("the member's Lease is held by %s now: this agent ends", holder)
        self._renewed = 0.0
        self._main.call_soon_threadsafe(self.other_holder.notify, holder)

    async def _release(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._renewed:
            with contextlib.suppress(ApiError, TimeoutError):
                async with asyncio.timeout(_RELEASE_SECONDS), await self._connect() as client:
                    lease = await client.get(LEASES, self._env.namespace, self._name)
                    if lease.spec.holder_identity == self.identity:
                        spec = msgspec.structs.replace(lease.spec, holder_identity="")
                        await client.replace(
                            LEASES, self._env.namespace, self._name, msgspec.structs.replace(lease, spec=spec)
                        )
        self._place.stop()
