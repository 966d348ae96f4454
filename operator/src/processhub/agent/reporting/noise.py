"""Noise: changes of a report for which no client waits, and the budget of bytes for writing them.

A child in a crash loop changes its report several times in each round, and each write stores its whole slice again. Ten
thousand such children wrote megabytes a second and filled etcd within minutes. So the changes of a crash loop are
written only when the hub's budget allows, and one write carries many of them. A change for which a client may wait is
written at once.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from processhub.api.reasons import CRASH_ROUND, WAITED_FOR
from processhub.cluster.tokenbucket import ByteBudget
from processhub.registry.grammar import Report

FEW = 6  # changes of one incarnation's report that are written at once, however many others there are
HUB_RATE = 200_000  # bytes a second that all members of a hub together may write for crash loops
# Bytes that the hub, and each member, may write before the rate applies.
HUB_BURST, MEMBER_BURST = 64 * 2**20, 8 * 2**20
_OWED_SECONDS = 30.0  # writes that could not wait delay crash loops by this much at most


def is_noise(before: Report, after: Report) -> bool:
    """Whether an incarnation has only moved on in its loop of failing, waiting and starting again."""
    return (
        before.state in CRASH_ROUND
        and after.state in CRASH_ROUND
        and before.reason not in WAITED_FOR
        and after.reason not in WAITED_FOR
        and _lasting(before) == _lasting(after)
    )


def _lasting(report: Report) -> Report:
    """The report without the fields that each round of a crash loop changes."""
    return msgspec.structs.replace(
        report, state="", pid=0, restarts=0, started_at="", reason="", last_exit="", message=""
    )


class NoiseBudget:
    """One member's share of the bytes that its hub may write for crash loops.

    ``members()`` is the number of members that have slices. A write costs the bytes of the whole object, because etcd
    stores the whole object. Urgent writes are made at once, and count too: after them, a crash loop waits for some
    seconds.
    """

    def __init__(self, members: Callable[[], int]) -> None:
        self._members = members
        self._budget = ByteBudget(HUB_RATE, MEMBER_BURST)

    def wait(self, now: float) -> float:
        """The seconds until noise may be written."""
        return self._budget.wait(now)

    def spend(self, now: float, size: int, *, noise: bool) -> None:
        """Count a write of ``size`` bytes."""
        members = max(1, self._members())
        self._budget.limit(HUB_RATE / members, min(MEMBER_BURST, HUB_BURST / members))
        if noise:
            self._budget.spend(now, size)
        else:
            self._budget.spend(now, size, owed_seconds=_OWED_SECONDS)
