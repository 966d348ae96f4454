"""The cooldown of rebalancing: children are moved for balance neither at once, nor often, nor back and forth.

``now`` is any monotonic clock, in seconds. A restart of the operator begins every wait again.
"""

from __future__ import annotations

AFTER_SECONDS = 60.0  # How long an imbalance must last before children are moved.
REST_SECONDS = 600.0  # The least time between two rebalancings.
BACK_SECONDS = 3600.0  # The least time if loads have been reversed in between. It doubles each time.
BACK_MAX_SECONDS = 86400.0  # The limit of that doubling.


class RebalanceCooldown:
    """The cooldown of one hub. Alternating loads of members never move a child: each reversal restarts the wait."""

    def __init__(self) -> None:
        self._since = float("-inf")
        self._sources: set[str] = set()
        self._targets: set[str] = set()
        self._balanced = float("-inf")  # when children were last moved
        self._last = ("", "")  # the source and the target of that move
        self._turned = False  # whether loads have been reversed since then
        self._back = BACK_SECONDS

    def target(self, imbalance: tuple[str, str] | None, now: float) -> str:
        """The member that should draw children now, or "" for none; ``imbalance``: the present source and target."""
        if imbalance is None:
            self._sources.clear()
            self._targets.clear()
            return ""
        source, target = imbalance
        if not self._sources or source in self._targets or target in self._sources:
            self._since = now
            self._sources, self._targets = set(), set()
        self._sources.add(source)
        self._targets.add(target)
        if now - self._since < AFTER_SECONDS:
            return ""
        # Loads that were reversed after a rebalancing may be reversed again, so the next wait is long.
        self._turned = self._turned or source == self._last[1] or target == self._last[0]
        if now - self._balanced < (self._back if self._turned else REST_SECONDS):
            return ""
        self._back = min(2 * self._back, BACK_MAX_SECONDS) if self._turned else BACK_SECONDS
        self._balanced, self._last, self._turned = now, imbalance, False
        self._sources.clear()
        return target
