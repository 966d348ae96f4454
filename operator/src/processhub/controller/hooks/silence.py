"""Tells a hook that hangs: it takes its time limit for each attempt and gives no answer."""

from __future__ import annotations

import msgspec

_SILENT_AFTER = 3  # time-outs in a row
_SLOW_SECONDS = 0.9  # An attempt that took less has delayed nothing. The shortest time limit is 1 s.
_PROBE_SECONDS = 5.0  # between two calls of a hook that hangs


class Silence(msgspec.Struct):
    """How a hook has failed since it worked last. Times are in seconds of the event loop.

    ``timeouts``: how many calls in a row took their time. ``due``: when one that hangs is called again.
    """

    timeouts: int = 0
    due: float = 0.0

    def note(self, began: float, now: float) -> None:
        """Note a call that failed."""
        self.timeouts = self.timeouts + 1 if now - began >= _SLOW_SECONDS else 0
        self.due = now + _PROBE_SECONDS

    @property
    def hangs(self) -> bool:
        """Whether the hook hangs, so that what does not need it should not wait for it."""
        return self.timeouts >= _SILENT_AFTER

    def probes(self, now: float) -> bool:
        """Whether a hook that hangs is to be called once more. The next call is due some seconds later."""
        if now < self.due:
            return False
        self.due = now + _PROBE_SECONDS
        return True
