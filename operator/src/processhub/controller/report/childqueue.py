"""The statuses of Children: computed and written one by one, by workers that serve all hubs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from processhub.api.child import Child, ChildStatus
from processhub.api.meta import API_VERSION, find_condition
from processhub.api.reasons import Reason
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError, ConflictError, InvalidError, NotFoundError
from processhub.cluster.kinds import CHILDREN, metadata_of
from processhub.cluster.tasks import wait_for_event
from processhub.cluster.tokenbucket import Buckets, TokenBucket
from processhub.controller.report.child import with_others_conditions
from processhub.controller.report.deferredwrites import ChildKey, DeferredWrites
from processhub.controller.report.kstatus import UNDER_WAY
from processhub.controller.report.refusedstatuses import RefusedStatuses
from processhub.controller.store.hubstate import HubKey
from processhub.controller.store.informers import Store

_WORKERS = 16
_CHILD_RATE, _CHILD_BURST = 1.0, 10.0
_THROTTLE_SECONDS = 1.0  # After the last round with many changes. A round with few changes ends it at once.
_SETTLE_SECONDS = 0.25  # A start takes about 50 ms, so most Children are written once, when they run.
_MOTION_SECONDS = 3.0  # While many children move, each status is written once: when all have arrived, or after this.
_AGAIN_SECONDS, _AGAIN_MAX = 1.0, 60.0  # After a write that was refused; doubled each time.
log = logging.getLogger(__name__)


class ChildStatuses:
    """Writes the latest status of each marked Child. ``latest`` computes it when the Child is next."""

    def __init__(
        self,
        client: Client,
        store: Store,
        latest: Callable[[ChildKey], tuple[Child, ChildStatus] | None],
        refused: RefusedStatuses,
    ) -> None:
        self._client, self._store, self._latest, self._told = client, store, latest, refused
        self._waiting: dict[ChildKey, None] = {}  # In order, each once.
        self._writing: dict[ChildKey, bool] = {}  # Whether it was marked again meanwhile.
        self._wake = asyncio.Event()
        self._calm = asyncio.Event()
        self._buckets: Buckets[ChildKey, TokenBucket] = Buckets(lambda: TokenBucket(_CHILD_RATE, _CHILD_BURST))
        self._deferred_writes = DeferredWrites(self.mark)
        # Seconds until a refused write is retried, and the hub that says so.
        self._refused: dict[ChildKey, tuple[float, HubKey]] = {}
        self._settling: dict[ChildKey, float] = {}  # Until when a start may stay unreported.
        self._held: dict[ChildKey, float] = {}  # Until when one of many children that move is skipped.
        self._throttled: dict[HubKey, float] = {}  # Until when each hub counts as one with many changes.

    def mark(self, key: ChildKey) -> None:
        """Queue a Child. While its status is being written it waits, so that the latest status is written last."""
        if key in self._writing:
            self._writing[key] = True
            return
        self._waiting.setdefault(key)
        self._wake.set()

    def throttle(self, hub: HubKey, many_changes: bool) -> None:
        """Write one status at a time while a hub has many changes. Its slices, which start children, go first."""
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
                await wait_for_event(self._calm, rest)
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
            if await self._child(key):
                self._accept(key)
        except NotFoundError as error:
            self._accept(key)
            log.debug("status of child %s not written: %s", key[1], error.message)
        except Exception as error:
            # Any error is caught here, as the statuses of all other Children wait behind this one.
            before, hub = self._refused.get(key) or (_AGAIN_SECONDS / 2, self._hub_of(key))
            seconds = min(2 * before, _AGAIN_MAX)
            self._refused[key] = seconds, hub
            if known := isinstance(error, ApiError):
                self._told.failed(hub, _title(key), error)
            text = "status of child %s not written, again in %g s: %s"
            log.warning(text, key[1], seconds, error, exc_info=None if known else error)
            asyncio.get_running_loop().call_later(seconds, self.mark, key)

    def _hub_of(self, key: ChildKey) -> HubKey:
        child = self._store.child(key)
        return key[0], child.spec.hub if child is not None else ""

    def _accept(self, key: ChildKey) -> None:
        """Take that the Child's status is stored, or that there is none to write."""
        if (refused := self._refused.pop(key, None)) is not None:
            self._told.ended(refused[1], _title(key))

    async def _child(self, key: ChildKey) -> bool:
        """Write the status of a Child; False if it is put off."""
        loop = asyncio.get_running_loop()
        held = self._held.get(key)
        if held is not None and loop.time() < held:
            return False
        self._held.pop(key, None)
        found = self._latest(key)
        if found is None:
            self._settling.pop(key, None)
            return True
        child, status = found
        if status == child.status:
            self._settling.pop(key, None)
            return True
        many_changes = self._throttled.get((key[0], child.spec.hub), 0.0) > loop.time()
        in_motion = any(node.state in UNDER_WAY for node in status.nodes)
        if many_changes and held is None and child.status.nodes and in_motion:
            self._held[key] = loop.time() + _MOTION_SECONDS
            loop.call_later(_MOTION_SECONDS, self.mark, key)
            return False
        if _is_starting(status) and not child.status.nodes:
            until = self._settling.setdefault(key, loop.time() + _SETTLE_SECONDS)
            if loop.time() < until:
                loop.call_later(until - loop.time(), self.mark, key)
                return False
        self._settling.pop(key, None)
        bucket = self._buckets.of(key, loop.time())
        if not bucket.wait(loop.time()) and self._deferred_writes.defer(child, status):
            return False
        if not bucket.take(loop.time()):
            loop.call_later(bucket.wait(loop.time()), self.mark, key)
            return False
        if key in self._store.unread.children:
            await self._write_unread(child, status)
        else:
            self._store.put("children", await self._write_child(child, status))
        return True

    async def _write_child(self, child: Child, status: ChildStatus) -> Child:
        """Write by PUT, which costs the API server a third less than a patch. After a conflict a patch is sent."""
        namespace, name = child.metadata.key
        try:
            body = msgspec.structs.replace(child, status=status)
            return await self._client.replace(CHILDREN, namespace, name, body, subresource="status")
        except ConflictError:
            present = await self._client.get(CHILDREN, namespace, name)
            if present.metadata.uid != child.metadata.uid:
                return present  # The API server would patch the status of its successor, whatever uid the patch names.
            status = with_others_conditions(status, present.status)
            metadata = {"resourceVersion": present.metadata.resource_version}
            patch = {"metadata": metadata, "status": _complete(status)}
            return await self._client.patch(CHILDREN, namespace, name, patch, subresource="status")

    async def _write_unread(self, child: Child, status: ChildStatus) -> None:
        """Write the status of a Child that can't be read, once: its schema may reject every write of it."""
        metadata = {"resourceVersion": child.metadata.resource_version}
        patch, kind = {"metadata": metadata, "status": _complete(status)}, metadata_of(API_VERSION, "children")
        try:
            answer = await self._client.patch(kind, *child.metadata.key, patch, subresource="status")
            child = msgspec.structs.replace(child, metadata=answer.metadata)
        except ConflictError:
            return  # The watch delivers what has changed.
        except InvalidError as error:
            log.warning("status of child %s, which can't be read, not written: %s", child.metadata.name, error.message)
        self._store.put_unread(msgspec.structs.replace(child, status=status))


def _title(key: ChildKey) -> str:
    return f"child {key[1]}"


def _is_starting(status: ChildStatus) -> bool:
    """Whether the child is about to start, without any problem."""
    ready = find_condition(status.conditions, "Ready")
    accepted = find_condition(status.conditions, "Accepted")
    refused = accepted is not None and accepted.status == "False"
    return not refused and ready is not None and ready.reason in (Reason.PENDING, Reason.STARTING)


def _complete(status: ChildStatus) -> dict[str, object]:
    """The status with all fields, as a merge patch does not change fields that it does not have."""
    return {
        "conditions": status.conditions,
        "observedGeneration": status.observed_generation,
        "id": status.id,
        "member": status.member,
        "role": status.role or None,  # The schema allows no empty role and state.
        "state": status.state or None,
        "firstStartedAt": status.first_started_at or None,
        "nodes": status.nodes,
    }
