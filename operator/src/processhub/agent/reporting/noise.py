"""Noise: changes of a report for which no client waits, and the budget of bytes for writing them.

A child in a crash loop changes its report several times in each round, and each write stores its whole slice again. Ten
thousand such children wrote megabytes a second and filled etcd within minutes. So the changes of a crash loop are
written only when the hub's budget allows, and one write carries many of them. A change for which a client may wait is
written at once.
"""

from __future__ import annotations

from collections.abc import Callable

from processhub.cluster.tokenbucket import ByteBudget

FEW = 6  # changes of one incarnation's report that are written at once, however many others there are
HUB_RATE = 200_000  # bytes a second that all members of a hub together may write for crash loops
# Bytes that the hub, and each member, may write before the rate applies.
HUB_BURST, MEMBER_BURST = 64 * 2**20, 8 * 2**20
_OWED_SECONDS = 30.0  # writes that could not wait delay crash loops by this much at most


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
