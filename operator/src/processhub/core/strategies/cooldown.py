"""When an imbalance of loads is moved against: not at once, not often, and hardly ever back.

``now`` is any monotonic clock, in seconds. Nothing is kept over a restart of the operator: it waits anew.
"""

from __future__ import annotations

AFTER_SECONDS = 60.0  # an imbalance is looked at so long before anything moves,
REST_SECONDS = 600.0  # two levellings are so far apart,
BACK_SECONDS = 3600.0  # or so far where loads have turned round in between; twice as far each time,
BACK_MAX_SECONDS = 86400.0  # up to this


class RebalanceCooldown:
    """One hub's. Loads that take turns on members never move a child: each turn begins the wait anew."""

    def __init__(self) -> None:
        self._since = float("-inf")
        self._givers: set[str] = set()
        self._takers: set[str] = set()
        self._levelled = float("-inf")
        self._last = ("", "")
        self._turned = False  # since then
        self._back = BACK_SECONDS

    def taker(self, imbalance: tuple[str, str] | None, now: float) -> str:
        """The member that shall draw children now, "" for none; ``imbalance``: the giver and the taker as they are."""
        if imbalance is None:
            self._givers.clear()
            self._takers.clear()
            return ""
        giver, taker = imbalance
        if not self._givers or giver in self._takers or taker in self._givers:
            self._since = now
            self._givers, self._takers = set(), set()
        self._givers.add(giver)
        self._takers.add(taker)
        if now - self._since < AFTER_SECONDS:
            return ""
        # Loads that turn round after a levelling may do so again: then it is better to let them be for long.
        self._turned = self._turned or giver == self._last[1] or taker == self._last[0]
        if now - self._levelled < (self._back if self._turned else REST_SECONDS):
            return ""
        self._back = min(2 * self._back, BACK_MAX_SECONDS) if self._turned else BACK_SECONDS
        self._levelled, self._last, self._turned = now, imbalance, False
        self._givers.clear()
        return taker
