"""Writes of the statuses of Hubs and ChildSets, which are reported at the end of a round."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Generic

import msgspec

from processhub.api.childset import ChildSetStatus
from processhub.api.hub import Hub, HubStatus
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError, ConflictError, ConnectionFailedError, NotFoundError, UnavailableError
from processhub.cluster.kinds import metadata_of
from processhub.cluster.tasks import cancel_all
from processhub.cluster.tokenbucket import Buckets, ByteBudget
from processhub.controller.report.refusedstatuses import RefusedStatuses
from processhub.controller.report.statusrate import Item, StatusPolicy, StatusRate
from processhub.controller.rounds.round import Requeue
from processhub.controller.store.hubstate import HubKey
from processhub.controller.store.informers import Store

log = logging.getLogger(__name__)


class AppliedStatuses(Generic[Item]):
    """Writes statuses of one kind in the background, as often as ``policy`` allows.

    They are written by server-side apply, so that conditions of other writers stay. ``wake(key)`` is called after a
    write that failed, or during which another status was reported.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        wake: Callable[[HubKey], None],
        policy: StatusPolicy[Item],
        refused: RefusedStatuses,
    ) -> None:
        self._client, self._store, self._wake, self._policy, self._refused = client, store, wake, policy, refused
        self._word = policy.kind.plural.removesuffix("s")
        self._rates: dict[HubKey, dict[str, StatusRate[Item]]] = {}  # By uid; the one written last comes last.
        self._budgets: Buckets[HubKey, ByteBudget] = Buckets(policy.budget)
        self._tasks: dict[str, asyncio.Task[None]] = {}  # By uid.
        self._missed: set[str] = set()  # The uids of which a status was reported while one was written.

    def report(
        self,
        hub: HubKey,
        items: Collection[Item],
        compute: Callable[[], Mapping[str, HubStatus | ChildSetStatus]],
        requeue: Requeue,
        *,
        spacing: float = 0.0,
    ) -> None:
        """Write the statuses of these objects of a hub where they differ. ``compute`` returns them by uid.

        If one has to wait, another round is asked for. ``spacing``: seconds between two writes of one object at least.
        """
        now = asyncio.get_running_loop().time()
        before = self._rates.pop(hub, {})
        self._refused.keep(hub, self._word, map(self._title, items))
        if not items:
            return
        by_uid = {item.metadata.uid: item for item in items}
        # The one written last comes last, so that each object that waits for the budget gets it in turn.
        rates = self._rates[hub] = {uid: rate for uid, rate in before.items() if uid in by_uid}
        due = []
        for uid in (*rates, *(uid for uid in by_uid if uid not in rates)):
            rate = rates.setdefault(uid, StatusRate(self._policy))
            if uid in self._tasks:
                self._missed.add(uid)  # The end of the write wakes the hub.
                continue
            if (wait := rate.wait(now, spacing)) > 0:
                requeue.again_in(wait)
            else:
                due.append(by_uid[uid])
        statuses = compute() if due else {}
        budget = self._budgets.of(hub, now)
        for item in due:
            uid = item.metadata.uid
            status = statuses.get(uid)
            if status is None or status == item.status:
                continue
            if (wait := rates[uid].reserve(item, status, now, budget)) > 0:
                requeue.again_in(wait)
                continue
            rate = rates[uid] = rates.pop(uid)
            self._tasks[uid] = asyncio.create_task(self._write(hub, item, status, rate))

    def forget(self, hub: HubKey) -> None:
        """Forget the rates of a hub's objects, which are gone."""
        self._rates.pop(hub, None)

    async def close(self) -> None:
        """End the writes that are under way."""
        await cancel_all(self._tasks.values())

    def _title(self, item: Item) -> str:
        return f"{self._word} {item.metadata.name}"

    async def _write(self, hub: HubKey, item: Item, status: HubStatus | ChildSetStatus, rate: StatusRate[Item]) -> None:
        uid, done = item.metadata.uid, False
        try:
            done = await self._apply(hub, item, status, rate)
            if done:
                self._refused.ended(hub, self._title(item))
        finally:
            del self._tasks[uid]
            if not done or uid in self._missed:
                self._wake(hub)
            self._missed.discard(uid)

    async def _apply(self, hub: HubKey, item: Item, status: HubStatus | ChildSetStatus, rate: StatusRate[Item]) -> bool:
        """Write the status; returns whether it was stored."""
        kind, what = self._policy.kind, self._title(item)
        # The version, because the API server applies a status to whatever has the name, and does not compare the uid.
        # A conflict wakes the hub, whose next round has the present object.
        body = {
            "apiVersion": item.api_version,
            "kind": item.kind,
            "metadata": {"name": item.metadata.name, "resourceVersion": item.metadata.resource_version},
            "status": status,
        }
        # The answer has what can't be read, too.
        unread = item.metadata.key in (self._store.broken_hubs if isinstance(item, Hub) else self._store.unread.sets)
        try:
            if unread:
                bare = metadata_of(kind.api_version, kind.plural)
                answer = await self._client.apply(bare, *item.metadata.key, body, subresource="status")
                self._store.put_unread(msgspec.structs.replace(item, metadata=answer.metadata, status=status))
                rate.taken()
                return True
            stored = await self._client.apply(kind, *item.metadata.key, body, subresource="status")
        except (NotFoundError, ConflictError) as error:
            log.info("status of %s not written: %s", what, error.message)
            self._refused.failed(hub, what, error)
            return False
        except ApiError as error:
            if not isinstance(error, ConnectionFailedError | UnavailableError):
                rate.refused(asyncio.get_running_loop().time())
            log.warning("status of %s not written: %s", what, error.message)
            self._refused.failed(hub, what, error)
            return False
        rate.taken()
        self._store.put(kind.plural, stored)
        return True
