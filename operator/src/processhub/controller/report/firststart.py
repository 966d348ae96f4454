"""The time at which a child was first seen to run.

It is kept in Child.status, so that it outlives the operator. Until the status is written it is kept in memory. A leader
that takes over in between counts from when it saw the child run.
"""

from __future__ import annotations

from collections.abc import Iterable

from processhub.api.child import Child
from processhub.api.reasons import State
from processhub.cluster.timestamps import now_millis, unix_time
from processhub.controller.report.memory import ReportMemory
from processhub.controller.store.children import Children
from processhub.registry.copies import Copy


def first_started(child: Child, copies: Iterable[Copy], memory: ReportMemory) -> str:
    """The time at which the child was first seen to run, or ""."""
    uid = child.metadata.uid
    known_uid, seen_at = memory.first_started.get(child.id, ("", ""))
    if unix_time(child.status.first_started_at) is not None:  # what is no time is written again
        if known_uid == uid:
            del memory.first_started[child.id]
        return child.status.first_started_at
    if known_uid != uid:
        if not any(copy.report and copy.report.uid == uid and copy.report.state == State.RUNNING for copy in copies):
            return ""
        seen_at = now_millis()  # a ttl of a few seconds must not lose one to rounding
        memory.first_started[child.id] = uid, seen_at
    return seen_at


def forget_deleted(changed: Iterable[str], children: Children, memory: ReportMemory) -> None:
    """Forget the ``changed`` ids of which no Child is left: the status of theirs may have been written last."""
    for child_id in memory.first_started.keys() & changed:
        if child_id not in children.by_id:
            del memory.first_started[child_id]
