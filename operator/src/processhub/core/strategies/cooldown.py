"""When children are moved because of an imbalance of loads: not at once, not often, and hardly ever back.

``now`` is any monotonic clock, in seconds. Nothing outlives a restart of the operator: every wait begins anew then.
"""

from __future__ import annotations

AFTER_SECONDS = 60.0  # How long an imbalance must last before anything moves.
REST_SECONDS = 600.0  # How far two balancings are apart.
BACK_SECONDS = 3600.0  # How far they are apart where loads have turned round in between; this doubles each time,
BACK_MAX_SECONDS = 86400.0  # up to this.


class RebalanceCooldown:
    """The cooldown of one hub. Loads that alternate between members never move a child: each turn restarts the wait."""

    def __init__(self) -> None:
        self._since = float("-inf")
        self._sources: set[str] = set()
        self._targets: set[str] = set()
        self._balanced = float("-inf")  # when children were last moved
        self._last = ("", "")  # the source and the target of that
        self._turned = False  # whether loads have turned round since then
        self._back = BACK_SECONDS

    def target(self, imbalance: tuple[str, str] | None, now: float) -> str:
        """The member that shall draw children now, "" for none; ``imbalance``: the present source and target."""
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
        # Loads that turn round after a balancing may do so again: then nothing is moved for long.
        self._turned = self._turned or source == self._last[1] or target == self._last[0]
        if now - self._balanced < (self._back if self._turned else REST_SECONDS):
            return ""
        self._back = min(2 * self._back, BACK_MAX_SECONDS) if self._turned else BACK_SECONDS
        self._balanced, self._last, self._turned = now, imbalance, False
        self._sources.clear()
        return target
