"""Deferred writes of Children's statuses: those that only follow a crash loop or change texts wait for a budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice

import msgspec

from processhub.api.child import Child, ChildStatus
from processhub.api.meta import find_condition
from processhub.api.reasons import CRASH_ROUND, WAITED_FOR
from processhub.api.slice import stored_bytes
from processhub.cluster.tokenbucket import Buckets, ByteBudget
from processhub.controller.store.hubstate import HubKey

ChildKey = tuple[str, str]  # (namespace, object name)
HUB_RATE, HUB_BURST = 200_000, 16 * 2**20  # Bytes of one hub's Children: a second, at once.
_FEW = 2  # So many restarts of a child are reported at once, however many others restart.
_STEP_SECONDS, _STEP = 0.25, 16  # So many deferred writes are released at a time.
_ENVELOPE = 2048  # Bytes of an object that are not in this program's struct.


class DeferredWrites:
    """The Children whose writes are deferred, in order. ``mark(key)`` queues a released one again."""

    def __init__(self, mark: Callable[[ChildKey], None]) -> None:
        self._mark = mark
        self._budgets: Buckets[HubKey, ByteBudget] = Buckets(lambda: ByteBudget(HUB_RATE, HUB_BURST))
        self._waiting: dict[HubKey, dict[ChildKey, None]] = {}
        self._released: set[ChildKey] = set()

    def defer(self, child: Child, status: ChildStatus) -> bool:
        """Whether the write of this status is to wait. If it is not, it is counted."""
        key, hub = child.metadata.key, (child.metadata.namespace, child.spec.hub)
        loop = asyncio.get_running_loop()
        budget = self._budgets.of(hub, loop.time())
        released = key in self._released
        self._released.discard(key)
        if not is_noise(child.status, status):
            self._waiting.get(hub, {}).pop(key, None)
            return False
        if not released and (hub in self._waiting or budget.wait(loop.time())):
            if hub not in self._waiting:
                loop.call_later(_STEP_SECONDS, self._step, hub)
            self._waiting.setdefault(hub, {}).setdefault(key)
            return True
        budget.spend(loop.time(), stored_bytes(msgspec.structs.replace(child, status=status)) + _ENVELOPE)
        return False

    def _step(self, hub: HubKey) -> None:
        """Release the writes that have waited longest, if the budget allows it."""
        loop = asyncio.get_running_loop()
        waiting = self._waiting[hub]
        if not self._budgets.of(hub, loop.time()).wait(loop.time()):
            for key in list(islice(waiting, _STEP)):
                del waiting[key]
                self._released.add(key)
                self._mark(key)
        if waiting:
            loop.call_later(_STEP_SECONDS, self._step, hub)
        else:
            del self._waiting[hub]


def is_noise(before: ChildStatus, after: ChildStatus) -> bool:
    """Whether the child only went on in a crash loop that is reported already, or only texts changed."""
    return _without_words(before) == _without_words(after) or (
        before.state in CRASH_ROUND
        and after.state in CRASH_ROUND
        and _reason(before) not in WAITED_FOR
        and _reason(after) not in WAITED_FOR
        and max((node.restarts for node in after.nodes), default=0) > _FEW
        and _lasting(before) == _lasting(after)
    )


def _reason(status: ChildStatus) -> str:
    ready = find_condition(status.conditions, "Ready")
    return ready.reason if ready is not None else ""


def _without_words(status: ChildStatus) -> ChildStatus:
    """The status without the texts that only people read."""
    nodes = tuple(msgspec.structs.replace(node, last_exit="") for node in status.nodes)
    conditions = tuple(msgspec.structs.replace(condition, message="") for condition in status.conditions)
    return msgspec.structs.replace(status, nodes=nodes, conditions=conditions)


def _lasting(status: ChildStatus) -> ChildStatus:
    """The status without the fields that each restart of a crash loop changes."""
    nodes = tuple(
        msgspec.structs.replace(node, state="", pid=0, restarts=0, started_at="", last_exit="")
        if node.state in CRASH_ROUND
        else node
        for node in status.nodes
    )
    conditions = tuple(condition for condition in status.conditions if condition.type != "Ready")
    return msgspec.structs.replace(status, state="", nodes=nodes, conditions=conditions)
