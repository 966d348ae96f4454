"""What goes wrong with the writes of a member's Lease."""

from __future__ import annotations

from collections.abc import Callable

from processhub.cluster.errors import ForbiddenError, InvalidError


class LeaseTrouble:
    """The failures since the last success, and why the Lease is refused. ``tell(why)`` is called when that changes."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self.failures = 0  # of renewals, in all
        self.missed = 0  # since the last success
        self.timed_out = False  # whether the last write got no answer in time
        self._tell, self._why = tell, ""

    def failed(self, error: Exception) -> None:
        """Take a failure. Only one by which the API server refuses the write, now and later, is told."""
        self.missed += 1
        self.timed_out = isinstance(error, TimeoutError)
        if isinstance(error, ForbiddenError | InvalidError):
            self._say(error.refusal)

    def ended(self) -> None:
        """Take that the Lease was written."""
        self.missed, self.timed_out = 0, False
        self._say("")

    def _say(self, why: str) -> None:
        if why != self._why:
            self._why = why
            self._tell(why)
