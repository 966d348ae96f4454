"""When a child that ended is started again: how long that waits, and how often it may happen."""

from __future__ import annotations

from collections import deque

from processhub.agent.children.runs import ExitStatus
from processhub.api.reasons import RestartPolicy

_MIN_SECONDS, _MAX_SECONDS = 0.1, 30.0
_STEADY_SECONDS = 10.0  # A run of this length makes the next restart an immediate one again.


class Backoff:
    """The restarts of one incarnation of a child.

    The first restart is immediate. Each later one waits twice as long as the one before it, from 0.1 s up to 30 s,
    until a run lasts 10 s: then the next restart is immediate again.
    """

    __slots__ = ("_delay", "_times")

    def __init__(self) -> None:
        self._delay = 0.0
        self._times: deque[float] = deque()  # of the restarts that may count towards the limit

    def ran(self, seconds: float) -> None:
        """Take in how long the run that ended was up."""
        if seconds >= _STEADY_SECONDS:
            self._delay = 0.0

    def allow(self, now: float, limit: int, window: float) -> bool:
        """Count a restart at ``now``; False where ``limit`` restarts within ``window`` seconds are exceeded by it.

        A limit of 0 allows any number.
        """
        if not limit:
            return True
        while self._times and now - self._times[0] > window:
            self._times.popleft()
        if len(self._times) >= limit:
            return False
        self._times.append(now)
        return True

    def next_delay(self) -> float:
        """Seconds to wait before this restart; the restart after it waits longer."""
        delay = self._delay
        self._delay = min(max(delay * 2, _MIN_SECONDS), _MAX_SECONDS)
        return delay


class RunHistory:
    """The restarts of one incarnation of a child, and since when its present process is up."""

    __slots__ = ("_backoff", "count", "up_since")

    def __init__(self) -> None:
        self._backoff = Backoff()
        self.count = 0
        self.up_since = 0.0  # when the present process came up, by the loop's clock; 0: none did

    def next_delay(self, now: float, limit: int, window: float) -> float | None:
        """Count a restart; returns the seconds to wait before it, None where it is one too many."""
        if self.up_since:
            self._backoff.ran(now - self.up_since)
        self.up_since = 0.0
        if not self._backoff.allow(now, limit, window):
            return None
        self.count += 1
        return self._backoff.next_delay()


def rests(policy: str, exit_status: ExitStatus) -> bool:
    """Whether the policy leaves a child that ended so as it is."""
    return policy == RestartPolicy.TEMPORARY or (policy == RestartPolicy.TRANSIENT and exit_status.success)
