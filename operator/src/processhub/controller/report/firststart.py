"""The time at which a child was first seen to run.

It is kept in Child.status, so that it outlives the operator. Until the status is written it is kept in memory. A leader
that takes over in between counts from when it saw the child run.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from processhub.api.child import Child
from processhub.api.reasons import State
from processhub.controller.report.memory import ReportMemory
from processhub.registry.copies import Copy


def timestamp() -> str:
    """The present time, RFC 3339 with milliseconds, so that a ttl of a few seconds loses none to rounding."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def first_started(child: Child, copies: Iterable[Copy], memory: ReportMemory) -> str:
    """The time at which the child was first seen to run, or ""."""
    uid = child.metadata.uid
    if child.status.first_started_at:
        memory.first_started.pop(uid, None)
        return child.status.first_started_at
    if uid not in memory.first_started:
        if not any(copy.report and copy.report.uid == uid and copy.report.state == State.RUNNING for copy in copies):
            return ""
        memory.first_started[uid] = timestamp()
    return memory.first_started[uid]
