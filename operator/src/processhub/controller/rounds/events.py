"""Events on Hubs, Children and ChildSets. Their number is limited: many starts at once must not post as many Events."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.meta import brief
from processhub.api.reasons import EventReason
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError
from processhub.cluster.kinds import untyped
from processhub.cluster.timestamps import now_micros
from processhub.cluster.tokenbucket import Buckets, TokenBucket
from processhub.core.listing import counted

EVENTS = untyped("v1", "events")
_RATE, _BURST = 5.0, 50.0  # Events of one hub's children: a second, at once
_HUB_RATE, _HUB_BURST = 0.2, 50.0  # Events about one Hub for one reason: a second, at once
_SUM_RATE, _SUM_BURST = 0.2, 5.0  # Events that sum up what happened to one ChildSet's or Hub's: a second, at once
_QUEUE = 1000
_MESSAGE_BYTES = 1024  # of an Event's message, by the API server's check
log = logging.getLogger(__name__)


class EventRecorder:
    """Posts Events in the background. Those above the rate are counted, and summed up in one Event on the Hub.

    The limits apply to all Events, because users' hooks decide how often some of them come and with what text.
    """

    def __init__(self, client: Client, reporter: str) -> None:
        self._client, self._reporter = client, reporter
        self._queue: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue(_QUEUE)
        self._buckets: Buckets[str, TokenBucket] = Buckets(lambda: TokenBucket(_RATE, _BURST))
        self._hub_buckets: Buckets[tuple[str, EventReason], TokenBucket] = Buckets(
            lambda: TokenBucket(_HUB_RATE, _HUB_BURST)
        )
        # By a Hub's uid: how many Events about its children, and about itself, were skipped.
        self._skipped: dict[tuple[str, EventReason], int] = {}
        self._skipped_of_hubs: dict[tuple[str, EventReason], int] = {}
        self._last: dict[tuple[str, str], str] = {}
        self._of_sets: dict[tuple[str, EventReason], int] = {}  # Numbers of children that have no Event yet.
        # By uid: of ChildSets, and of Hubs for the Events that were skipped.
        self._sums: Buckets[str, TokenBucket] = Buckets(lambda: TokenBucket(_SUM_RATE, _SUM_BURST))

    def about_hub(self, hub: Hub, reason: EventReason, message: str, *, warning: bool = False) -> None:
        """Post an Event on a Hub, or count it if there are too many for the same reason."""
        key = (hub.metadata.uid, reason)
        now = asyncio.get_running_loop().time()
        if self._hub_buckets.of(key, now).take(now):
            self._put("Hub", hub, reason, message, warning)
        else:
            self._skipped_of_hubs[key] = self._skipped_of_hubs.get(key, 0) + 1

    def about_set(self, item: ChildSet | Hub, reason: EventReason, count: int) -> None:
        """Post one Event for so many of a ChildSet's children, or of a Hub's on demand.

        Those above the rate are added to the next Event.
        """
        key = (item.metadata.uid, reason)
        self._of_sets[key] = self._of_sets.get(key, 0) + count
        now = asyncio.get_running_loop().time()
        if self._of_sets[key] and self._sums.of(item.metadata.uid, now).take(now):
            count = self._of_sets.pop(key)
            what = counted(count, "child", "children") + ("" if isinstance(item, ChildSet) else " on demand")
            self._put(item.kind, item, reason, f"{what}: {str(reason).lower()}", warning=False)

    def about_child(
        self, hub: Hub, child: Child | ChildSet | Hub, reason: EventReason, message: str, *, warning: bool = False
    ) -> None:
        """Post an Event on what asks for a child, or count it if there are too many for its hub.

        A repeated message is not posted.
        """
        key = (child.metadata.uid, str(reason))
        if self._last.get(key) == message:
            return
        now = asyncio.get_running_loop().time()
        if self._buckets.of(hub.metadata.uid, now).take(now):
            if len(self._last) > 20_000:
                self._last.clear()
            self._last[key] = message
            self._put(child.kind, child, reason, message, warning)
        else:
            skipped = (hub.metadata.uid, reason)
            self._skipped[skipped] = self._skipped.get(skipped, 0) + 1

    def flush(self, hub: Hub) -> None:
        """Sum up the skipped Events in one Event, now or in a later round by the rate limit."""
        now = asyncio.get_running_loop().time()
        for reason in EventReason:
            key = (hub.metadata.uid, reason)
            for skipped, one, many in (
                (self._skipped, "more child", "more children"),
                (self._skipped_of_hubs, "more time", "more times"),
            ):
                if key in skipped and self._sums.of(hub.metadata.uid, now).take(now):
                    message = f"{counted(skipped.pop(key), one, many)}: {reason}"
                    self._put("Hub", hub, reason, message, warning=False)

    async def run(self) -> None:
        """Post until cancelled."""
        while True:
            namespace, event = await self._queue.get()
            try:
                await self._client.create(EVENTS, namespace, event)
            except ApiError as error:
                log.warning("event %s not posted: %s", event["reason"], error.message)
            except Exception:  # The Events of all other objects wait behind this one.
                log.exception("event %s not posted", event["reason"])

    def _put(self, kind: str, item: Hub | Child | ChildSet, reason: EventReason, message: str, warning: bool) -> None:
        now = now_micros()
        metadata = item.metadata
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata.name[:200]}.", "namespace": metadata.namespace},
            "involvedObject": {
                "apiVersion": item.api_version,
                "kind": kind,
                "name": metadata.name,
                "namespace": metadata.namespace,
                "uid": metadata.uid,
            },
            "reason": str(reason),
            "message": brief(message, _MESSAGE_BYTES),
            "type": "Warning" if warning else "Normal",
            "eventTime": now,
            "firstTimestamp": now[:19] + "Z",
            "lastTimestamp": now[:19] + "Z",
            "count": 1,
            "action": str(reason),
            "reportingComponent": "processhub.dev/operator",
            "reportingInstance": self._reporter,
            "source": {"component": "processhub-operator"},
        }
        try:
            self._queue.put_nowait((metadata.namespace, event))
        except asyncio.QueueFull:
            log.warning("event dropped, too many are waiting: %s %s: %s", kind, metadata.name, message)
