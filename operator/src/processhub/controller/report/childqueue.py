"""The statuses of Children: each is computed and written when its turn comes, by workers that serve all hubs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import msgspec

from processhub.api.child import Child, ChildStatus
from processhub.api.meta import find_condition
from processhub.api.reasons import Reason, State
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError, ConflictError, NotFoundError
from processhub.cluster.kinds import CHILDREN
from processhub.cluster.tokenbucket import Buckets, TokenBucket
from processhub.controller.report.deferredwrites import DeferredWrites
from processhub.controller.store.hubstate import HubKey
from processhub.controller.store.informers import Store

_WORKERS = 16
_CHILD_RATE, _CHILD_BURST = 1.0, 10.0
_THROTTLE_SECONDS = 1.0  # after the last round with many changes; a round with few ends it at once
_SETTLE_SECONDS = 0.25  # a start takes about 50 ms: most children are written once, when they run
_MOTION_SECONDS = 3.0  # while many children move, each status is written once: when all have arrived, or after this
ChildKey = tuple[str, str]  # (namespace, object name)
_AGAIN_SECONDS, _AGAIN_MAX = 1.0, 60.0  # after a write that was refused, twice as long each time
log = logging.getLogger(__name__)


class ChildStatuses:
    """Writes the latest status of each Child that was marked; ``latest`` computes it when its turn comes."""

    def __init__(
        self, client: Client, store: Store, latest: Callable[[ChildKey], tuple[Child, ChildStatus] | None]
    ) -> None:
        self._client, self._store, self._latest = client, store, latest
        self._waiting: dict[ChildKey, None] = {}  # in order, each once
        self._writing: dict[ChildKey, bool] = {}  # whether it was marked again meanwhile
        self._wake = asyncio.Event()
        self._calm = asyncio.Event()
        self._buckets: Buckets[ChildKey, TokenBucket] = Buckets(lambda: TokenBucket(_CHILD_RATE, _CHILD_BURST))
        self._deferred_writes = DeferredWrites(self.mark)
        self._refused: dict[ChildKey, float] = {}  # seconds after which a write that was refused is tried again
        self._settling: dict[ChildKey, float] = {}  # until when a start may stay unreported
        self._held: dict[ChildKey, float] = {}  # until when one of many that are moved is not looked at again
        self._throttled: dict[HubKey, float] = {}  # until when each hub counts as one with many changes

    def mark(self, key: ChildKey) -> None:
        """Have the Child's status looked at; of two writes of one Child the older could come last, so it waits."""
        if key in self._writing:
            self._writing[key] = True
            return
        self._waiting.setdefault(key)
        self._wake.set()

    def throttle(self, hub: HubKey, many_changes: bool) -> None:
        """Write one Child status at a time while a hub has many changes: its slices, which start children, go first."""
        now = asyncio.get_running_loop().time()
        self._throttled = {key: until for key, until in self._throttled.items() if until > now}
        if many_changes:
            self._throttled[hub] = now + _THROTTLE_SECONDS
        elif self._throttled.pop(hub, None) is not None and not self._throttled:
            self._calm.set()
            held, self._held = self._held, {}
            for key in held:
                self.mark(key)

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(_WORKERS):
                group.create_task(self._work(throttled=number > 0))

    async def _work(self, *, throttled: bool) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if throttled and (rest := max(self._throttled.values(), default=0.0) - loop.time()) > 0:
                self._calm.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(rest):
                        await self._calm.wait()
                continue
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            key = next(iter(self._waiting))
            del self._waiting[key]
            self._writing[key] = False
            try:
                await self._retrying(key)
            finally:
                if self._writing.pop(key):
                    self.mark(key)

    async def _retrying(self, key: ChildKey) -> None:
        try:
            await self._child(key)
            self._refused.pop(key, None)
        except NotFoundError as error:
            self._refused.pop(key, None)
            log.debug("status of child %s not written: %s", key[1], error.message)
        except Exception as error:
            # Whatever it is: the statuses of all other children wait behind it.
            seconds = min(2 * self._refused.get(key, _AGAIN_SECONDS / 2), _AGAIN_MAX)
            self._refused[key] = seconds
            known = isinstance(error, ApiError)
            text = "status of child %s not written, again in %g s: %s"
            log.warning(text, key[1], seconds, error, exc_info=None if known else error)
            asyncio.get_running_loop().call_later(seconds, self.mark, key)

    async def _child(self, key: ChildKey) -> None:
        loop = asyncio.get_running_loop()
        held = self._held.get(key)
        if held is not None and loop.time() < held:
            return
        self._held.pop(key, None)
        found = self._latest(key)
        if found is None:
            self._settling.pop(key, None)
            return
        child, status = found
        if status == child.status:
            self._settling.pop(key, None)
            return
        many_changes = self._throttled.get((key[0], child.spec.hub), 0.0) > loop.time()
        if many_changes and held is None and child.status.nodes and _in_motion(status):
            self._held[key] = loop.time() + _MOTION_SECONDS
            loop.call_later(_MOTION_SECONDS, self.mark, key)
            return
        if _is_starting(status) and not child.status.nodes:
            until = self._settling.setdefault(key, loop.time() + _SETTLE_SECONDS)
            if loop.time() < until:
                loop.call_later(until - loop.time(), self.mark, key)
                return
        self._settling.pop(key, None)
        bucket = self._buckets.of(key, loop.time())
        if not bucket.wait(loop.time()) and self._deferred_writes.defer(child, status):
            return
        if not bucket.take(loop.time()):
            loop.call_later(bucket.wait(loop.time()), self.mark, key)
            return
        self._store.put("children", await self._write_child(child, status))

    async def _write_child(self, child: Child, status: ChildStatus) -> Child:
        """A PUT costs the API server a third less than a patch; a patch of the same object does not conflict."""
        namespace, name = child.metadata.key
        try:
            body = msgspec.structs.replace(child, status=status)
            return await self._client.replace(CHILDREN, namespace, name, body, subresource="status")
        except ConflictError:
            patch = {"metadata": {"uid": child.metadata.uid}, "status": _complete(status)}
            return await self._client.patch(CHILDREN, namespace, name, patch, subresource="status")


def _is_starting(status: ChildStatus) -> bool:
    """Whether all goes well and only takes its time."""
    ready = find_condition(status.conditions, "Ready")
    accepted = find_condition(status.conditions, "Accepted")
    refused = accepted is not None and accepted.status == "False"
    return not refused and ready is not None and ready.reason in (Reason.PENDING, Reason.STARTING)


def _in_motion(status: ChildStatus) -> bool:
    """Whether a copy comes or goes."""
    return any(node.state in (State.PENDING, State.STARTING, State.STOPPING) for node in status.nodes)


def _complete(status: ChildStatus) -> dict[str, object]:
    """All fields, also empty ones: a merge patch leaves what it does not name."""
    return {
        "conditions": status.conditions,
        "observedGeneration": status.observed_generation,
        "id": status.id,
        "member": status.member,
        "role": status.role or None,  # the schema knows no empty role and state
        "state": status.state or None,
        "firstStartedAt": status.first_started_at or None,
        "nodes": status.nodes,
    }
