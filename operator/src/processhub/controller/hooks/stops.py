"""PreChildStop: a child is stopped for good only once its hooks have answered or timed out.

A child is stopped for good if it was deleted, suspended or re-created. Moves, edits and losses are not asked about.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

import msgspec

from processhub.api.hooks import HookEvent
from processhub.controller.hooks.asking import Asker, Unanswered
from processhub.controller.observe.observation import Observation
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan
from processhub.registry.grammar import Assignment

log = logging.getLogger(__name__)


class StopAdmission:
    """The admission of one hub's stops. ``wake`` requeues the hub."""

    def __init__(self, asker: Asker, wake: Callable[[], None]) -> None:
        self._asker, self._wake = asker, wake
        # By the child's uid and id; if the task is done, the child may stop.
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}

    def hold(self, plan: Plan, observation: Observation) -> Plan:
        """Remove the stops from the plan that have to wait for their hooks, and ask these."""
        record, wanted = observation.snapshot.record, observation.snapshot.children
        entries: dict[str, Mapping[str, Assignment | None]] = {}
        ending: set[tuple[str, str]] = set()
        for member, changes in plan.entries.items():
            kept = dict(changes)
            for child_id, change in changes.items():
                entry = next((place.entry for place in record.get(child_id, ()) if place.member == member), None)
                if entry is None or entry.asleep or observation.members[member].phase is Phase.GONE:
                    continue
                now = wanted.get(child_id)
                if now is not None and now.uid == entry.uid and not now.suspended:
                    continue
                if change is not None and not change.wait:
                    continue
                ending.add((entry.uid, child_id))
                if not self._may_stop(child_id, member, entry, observation):
                    del kept[child_id]
            entries[member] = kept
        for key in self._asking.keys() - ending:
            self._asking.pop(key).cancel()
        return msgspec.structs.replace(plan, entries={member: kept for member, kept in entries.items() if kept})

    def close(self) -> None:
        """Stop asking."""
        for task in self._asking.values():
            task.cancel()

    def _may_stop(self, child_id: str, member: str, entry: Assignment, observation: Observation) -> bool:
        task = self._asking.get((entry.uid, child_id))
        if task is None:
            there = observation.owner(child_id, entry.uid) is not None
            data = {"child": child_id, "uid": entry.uid, "member": member, "epoch": entry.epoch, "role": entry.role}
            data |= {"tags": list(entry.tags), "metadata": dict(entry.metadata)}
            data |= {"reason": "Suspended" if there else "Deleted"}
            task = asyncio.create_task(self._ask(child_id, data), name=f"PreChildStop {child_id}")
            self._asking[entry.uid, child_id] = task
        return task.done()

    async def _ask(self, child_id: str, data: Mapping[str, object]) -> None:
        try:
            answer = await self._asker.ask(HookEvent.PRE_CHILD_STOP, child_id, data)
            if not answer.allow:
                log.warning("child %s is stopped nevertheless: %s", child_id, answer.reason)
        except Unanswered as error:
            log.warning("child %s is stopped nevertheless: %s", child_id, error)
        finally:
            asyncio.get_running_loop().call_soon(self._wake)
