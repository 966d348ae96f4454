"""The validity of the member's Lease by this machine's clock (docs/protocol.md, rule 11)."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from processhub.api.slice import Settings


class Deadlines(Protocol):
    """Receives the deadlines until which children may run under the Lease."""

    def set(self, stop_at: float, kill_at: float) -> None:
        """Send stop signals at ``stop_at``, SIGKILL at ``kill_at`` (seconds of the Lease's clock); 0 0: never."""


class Renewal(Enum):
    """How a renewal that the API server confirmed continues the Lease."""

    IN_TIME = "in time"
    """The Lease was valid all the time."""
    LATE = "late"
    """It was sent in time and answered late: in between, the Lease counted as lost, and starts were delayed."""
    ANEW = "anew"
    """It was sent after the Lease had expired (or children were ordered to stop): a new session begins, because its
    observers may have reassigned the children."""


class Validity:
    """How long the Lease is valid. Attributes may be read from any thread.

    The number ``session`` rises when the Lease is taken, or is taken back after it had expired. Each renewal moves the
    deadlines in ``feed``. ``clock`` is the clock of the deadlines, in seconds above 0.
    """

    def __init__(self, settings: Settings, feed: Deadlines, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.session = 0
        self.renewed_at = 0.0  # by the clock, just before the last successful renewal was sent; 0: not held
        # Seconds that the last renewal wrote into the Lease: its observers wait no longer than that.
        self._granted = settings.lease_seconds
        self._feed, self._clock = feed, clock

    def holds(self, session: int) -> bool:
        """Whether the Lease, as taken in ``session``, is valid now.

        With fencing it counts as lost from the stop deadline on, because whatever starts after that would be killed.
        """
        return session == self.session > 0 and self._clock() < self._ends_at

    @property
    def seconds(self) -> int:
        """The seconds for which the last renewal is valid. A longer leaseSeconds counts from the next renewal on."""
        return min(self.settings.lease_seconds, self._granted)

    @property
    def _ends_at(self) -> float:
        return self.renewed_at + self.seconds * (2 / 3 if self.settings.fence else 1.0)

    @property
    def interval(self) -> float:
        """The seconds between two renewals."""
        return self.seconds / 5

    def until_renewal(self) -> float:
        """The seconds until the next renewal is to be sent."""
        return max(0.0, self.renewed_at + self.interval - self._clock()) if self.renewed_at else 0.0

    def apply(self, settings: Settings) -> None:
        """Use changed settings from now on."""
        self.settings = settings
        self._feed_deadlines()

    def renew(self, began: float, seconds: int, *, taken: bool) -> Renewal:
        """Record a renewal for so many seconds, sent at ``began``; ``taken``: it took the Lease from another holder."""
        if taken or not self.renewed_at or began >= self._ends_at:
            renewal = Renewal.ANEW
            self.session += 1
        else:
            renewal = Renewal.LATE if self._clock() >= self._ends_at else Renewal.IN_TIME
        self.renewed_at, self._granted = began, seconds
        self._feed_deadlines()
        return renewal

    def lose(self) -> None:
        """Record that another holder has the Lease. The deadlines stay: the agent ends, and its children with it."""
        self.renewed_at = 0.0

    def _feed_deadlines(self) -> None:
        if self.settings.fence and self.renewed_at:
            self._feed.set(self.renewed_at + self.seconds * 2 / 3, self.renewed_at + self.seconds - 1)
        else:
            self._feed.set(0, 0)
