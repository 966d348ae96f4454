"""Which changes of a report nobody waits for, and how much a member may write for their sake.

A child that crashes over and over changes its report several times a round, and each write stores its whole slice anew:
ten thousand such children wrote megabytes a second, and etcd was full in minutes. So what a crash loop has to say is
written when the hub's budget allows, one write telling for all. What somebody waits for never waits for that.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from processhub.api.reasons import CRASH_ROUND, WAITED_FOR
from processhub.cluster.tokenbucket import ByteBudget
from processhub.registry.grammar import Report

FEW = 6  # changes of one incarnation's report that are told at once however many there are of others
HUB_RATE = 200_000  # bytes a second that all members of a hub write for crash loops, whatever their number,
HUB_BURST, MEMBER_BURST = 64 * 2**20, 8 * 2**20  # and what they, or one of them, may write before that counts
_OWED_SECONDS = 30.0  # what could not wait keeps crash loops silent for so long at most


def is_noise(before: Report, after: Report) -> bool:
    """Whether one incarnation has merely gone on in its round of failing, waiting and starting again."""
    return (
        before.state in CRASH_ROUND
        and after.state in CRASH_ROUND
        and before.reason not in WAITED_FOR
        and after.reason not in WAITED_FOR
        and _lasting(before) == _lasting(after)
    )


def _lasting(report: Report) -> Report:
    """The report without what each round changes."""
    return msgspec.structs.replace(
        report, state="", pid=0, restarts=0, started_at="", reason="", last_exit="", message=""
    )


class NoiseBudget:
    """One member's share of what its hub may write for crash loops; ``members()`` are those that have slices.

    A write costs the bytes of the whole object, for etcd stores that. One that somebody waits for is made at once and
    counts too: a crash loop then waits, for some seconds.
    """

    def __init__(self, members: Callable[[], int]) -> None:
        self._members = members
        self._budget = ByteBudget(HUB_RATE, MEMBER_BURST)

    def wait(self, now: float) -> float:
        """Seconds until noise may be written."""
        return self._budget.wait(now)

    def spend(self, now: float, size: int, *, noise: bool) -> None:
        """Count a write."""
        members = max(1, self._members())
        self._budget.limit(HUB_RATE / members, min(MEMBER_BURST, HUB_BURST / members))
        if noise:
            self._budget.spend(now, size)
        else:
            self._budget.spend(now, size, owed_seconds=_OWED_SECONDS)
