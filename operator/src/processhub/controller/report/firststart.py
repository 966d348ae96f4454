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
from processhub.registry.copies import Copy


def first_started(child: Child, copies: Iterable[Copy], memory: ReportMemory) -> str:
    """The time at which the child was first seen to run, or ""."""
    uid = child.metadata.uid
    if unix_time(child.status.first_started_at) is not None:  # what is no time is written again
        memory.first_started.pop(uid, None)
        return child.status.first_started_at
    if uid not in memory.first_started:
        if not any(copy.report and copy.report.uid == uid and copy.report.state == State.RUNNING for copy in copies):
            return ""
        memory.first_started[uid] = now_millis()  # a ttl of a few seconds must not lose one to rounding
    return memory.first_started[uid]
