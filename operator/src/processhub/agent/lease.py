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
from processhub.cluster.informer import version_of
from processhub.cluster.kinds import LEASES
from processhub.cluster.timestamps import now_micros

log = logging.getLogger(__name__)
_POLL_SECONDS = 0.3  # how often a Lease is read that another holder has or that does not exist yet
_RETRY_SECONDS = 0.5
_RELEASE_SECONDS = 3.0
_STUCK_SECONDS = 45.0  # longer than any one request may take


class Deadlines(Protocol):
    """Receives the deadlines until which children may run under the Lease."""

    def set(self, stop_at: float, kill_at: float) -> None:
        """Send stop signals at ``stop_at``, SIGKILL at ``kill_at`` (seconds of the Lease's clock); 0 0: never."""


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


class _History:
    """Notices that etcd was restored to an earlier time. Then ``went_back`` is true for good.

    A consistent read is never older than a write that was answered before it. Otherwise that write has never happened.
    """

    def __init__(self) -> None:
        self.rewound: Listeners[()] = Listeners()
        self.went_back = False
        self._written = 0  # the resourceVersion of the last write

    def wrote(self, lease: Lease) -> None:
        """Take the answer to a write."""
        self._written = version_of(lease.metadata.resource_version)

    def read(self, lease: Lease) -> bool:
        """Take a consistent read; returns whether it shows for the first time that etcd was restored."""
        if self.went_back or version_of(lease.metadata.resource_version) >= self._written:
            return False
        self.went_back = True
        return True


class LeaseKeeper:
    """Holds the Lease from ``start`` to ``release``. Attributes may be read from any thread.

    ``taken`` notifies of the session when the Lease is taken. The session's number rises when the Lease is taken back
    after it had expired; it stays the same when a renewal in time was answered only after the expiry. ``other_holder``
    notifies of another holder. These, and ``rewound``, notify on the thread that made the keeper. The latest usage is
    sent with each renewal, so it needs no write of its own.

    ``connect`` makes the client that is used only for the Lease. ``place`` is the loop of the Lease (None: one on a
    separate thread). ``clock`` is the clock of the deadlines, in seconds above 0.
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
        self.beat = clock()  # time of the last progress of the Lease's loop, for /healthz
        self._env, self._settings, self._feed, self._connect, self._clock = env, settings, feed, connect, clock
        self._name = lease_name(env.hub, env.member)
        self._usage: Usage | None = None
        self._main = asyncio.get_running_loop()
        self._missed = 0  # failures since the last renewal
        self._renewed = 0.0  # by the clock, just before the last successful renewal was sent; 0: not held
        # Seconds that the last renewal wrote into the Lease: its observers wait no longer than that.
        self._granted = settings.lease_seconds
        self._lease: Lease | None = None
        self._history = _History()
        self._place = place or LoopThread("lease")
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    @property
    def rewound(self) -> Listeners[()]:
        """Notifies that etcd was restored to an earlier time: the Lease is older than this agent has written it."""
        return self._history.rewound

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return self._place.loop

    # For the agent's main thread.

    def start(self) -> None:
        """Start to take the Lease."""
        self._place.start(self._begin)

    def set_usage(self, usage: Usage) -> None:
        """Send this usage with all further renewals."""
        self._usage = usage

    def apply(self, settings: Settings) -> None:
        """Use changed settings from now on."""
        if settings != self._settings:
            self._loop.call_soon_threadsafe(self._apply, settings)

    def held(self, session: int) -> bool:
        """Whether the Lease, as taken in ``session``, is valid now by this machine's clock.

        With fencing it counts as lost from the stop deadline on, because whatever starts after that would be killed.
        """
        return session == self.session > 0 and self._clock() < self._renewed + self._valid_seconds()

    def _valid_seconds(self) -> float:
        return self._seconds() * (2 / 3 if self._settings.fence else 1.0)

    def _seconds(self) -> int:
        """The seconds for which the last renewal is valid. A longer leaseSeconds counts from the next renewal on."""
        return min(self._settings.lease_seconds, self._granted)

    @property
    def alive(self) -> bool:
        """Whether the Lease's loop has made progress lately, or has not been started yet."""
        longest = max(self._settings.lease_seconds, _STUCK_SECONDS)
        return not self._place.running or self._clock() - self.beat < longest

    async def release(self) -> None:
        """Release the Lease (best effort, for some seconds at most) and end the loop."""
        if not self._place.running:
            return
        future = asyncio.run_coroutine_threadsafe(self._release(), self._loop)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(future), _RELEASE_SECONDS + 1)

    # On the Lease's own thread.

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
                    log.warning("the member's Lease %s: %s; retrying", self._name, error.message)
            except Exception:
                log.exception("the member's Lease %s can't be kept; retrying", self._name)
            await self._rest(_RETRY_SECONDS)

    async def _rest(self, seconds: float) -> None:
        self._hurry.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        self.beat = self._clock()

    async def _take(self, client: Client) -> None:
        """Wait until the Lease is free, and take it. It may also turn out to be held by this agent still."""
        seen: tuple[str, str] | None = None
        since = 0.0
        while True:
            lease = await self._look(client)
            if lease is not None:
                holder = lease.spec.holder_identity or ""
                if holder == self.identity:
                    self._lease = lease
                    return
                if self.session and holder and not self._history.went_back:
                    self._report_other(holder)
                    return
                mark = (holder, lease.spec.renew_time or "")
                if mark != seen:
                    seen, since = mark, self._clock()
                    if holder and not self._same_pod(holder):
                        log.info("the Lease is held by %s; waiting until it is released or expires", holder)
                max_wait = max(self._settings.lease_seconds, lease.spec.lease_duration_seconds or 0) + 1
                if not holder or self._same_pod(holder) or self._clock() - since > max_wait:
                    if await self._write(client, lease, taking=True):
                        return
                    continue
            await self._rest(_POLL_SECONDS)

    def _same_pod(self, holder: str) -> bool:
        """Whether the holder is an earlier container of this pod. Its processes have ended with it."""
        return holder.startswith(self._env.pod_uid + "/")

    async def _look(self, client: Client) -> Lease | None:
        try:
            lease = await client.get(LEASES, self._env.namespace, self._name, timeout=5)
        except NotFoundError:
            return None
        if lease.metadata.labels.get(LABEL_HUB_UID, self._env.hub_uid) != self._env.hub_uid:
            log.warning("the Lease %s belongs to a hub of another uid; waiting", self._name)
            return None
        if self._history.read(lease):
            self._main.call_soon_threadsafe(self.rewound.notify)
        return lease

    async def _renew(self, client: Client) -> bool:
        """Wait for a fifth of the Lease's duration and renew it; False if the Lease must be read again."""
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
                log.warning("the member's Lease could not be renewed: %s; retrying", error or "no answer in time")
            await self._rest(min(_RETRY_SECONDS, interval / 2))
            return False

    async def _write(self, client: Client, lease: Lease, *, taking: bool) -> bool:
        """Renew the Lease, or take it over. Returns False on a conflict: another client wrote it in between."""
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
        self._history.wrote(self._lease)
        if self._missed:
            log.info("the member's Lease is renewed again after %d failures", self._missed)
            self._missed = 0
        # Sent after the Lease had expired (or children were ordered to stop): its observers may have reassigned the
        # children.
        fresh = taking or not self._renewed or began >= self._renewed + self._valid_seconds()
        # Sent in time and answered late: in between, the Lease counted as lost, and starts were delayed.
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
