"""Restart back-off: how long a child that ended waits for its restart, and how many restarts are allowed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from processhub.agent.children.runs import ExitStatus
from processhub.api.reasons import RestartPolicy, State
from processhub.registry.grammar import Report

_MIN_SECONDS, _MAX_SECONDS = 0.1, 30.0
_STEADY_SECONDS = 10.0  # After a run of this length the next restart is immediate again.


@dataclass(eq=False, slots=True)
class Backoff:
    """The restarts of one incarnation of a child.

    The first restart is immediate. Each later one waits twice as long as the one before it, from 0.1 s up to 30 s. A
    run of 10 s or more resets the delay. A child that crashes at once is restarted after:

        restart   1    2      3      4      …   11 and later
        waits     0 s  0.1 s  0.2 s  0.4 s  …   30 s
    """

    times: deque[float] = field(default_factory=deque)  # when each restart within the limit's window happened
    _delay: float = 0.0

    def ran(self, seconds: float) -> None:
        """Record how many seconds the run that ended was up."""
        if seconds >= _STEADY_SECONDS:
            self._delay = 0.0

    def allow(self, now: float, limit: int, window: float) -> bool:
        """Count a restart at ``now``; returns False if it exceeds ``limit`` restarts within ``window`` seconds.

        A limit of 0 allows any number.
        """
        if not limit:
            return True
        while self.times and now - self.times[0] > window:
            self.times.popleft()
        if len(self.times) >= limit:
            return False
        self.times.append(now)
        return True

    def next_delay(self) -> float:
        """The seconds to wait before this restart. The next call returns a longer time."""
        delay = self._delay
        self._delay = min(max(delay * 2, _MIN_SECONDS), _MAX_SECONDS)
        return delay


@dataclass(eq=False, slots=True)
class RunHistory:
    """The earlier runs of one incarnation of a child, and the time since when its present process is up."""

    backoff: Backoff = field(default_factory=Backoff)
    restarts: int = 0
    up_since: float = 0.0  # when the present process came up, by the loop's clock; 0: no process is up
    tried: bool = False  # this agent has started it before
    interrupted: bool = False  # an earlier agent of this member was running it
    was_up: bool = False  # and had reported it Running

    def adopt(self, report: Report) -> None:
        """Continue the history that an earlier agent has reported."""
        self.restarts = report.restarts
        self.was_up = report.state in (State.RUNNING, State.STOPPING)
        self.interrupted = self.was_up or report.state == State.STARTING

    def next_delay(self, now: float, limit: int, window: float, *, own: bool = True) -> float | None:
        """Count a restart; returns the seconds to wait before it, or None if the restart limit is exceeded.

        One that is not the child's ``own`` is immediate, and does not count for the limit.
        """
        if self.up_since:
            self.backoff.ran(now - self.up_since)
        self.up_since = 0.0
        if own and not self.backoff.allow(now, limit, window):
            return None
        self.restarts += 1
        return self.backoff.next_delay() if own else 0.0


def rests(policy: str, exit_status: ExitStatus) -> bool:
    """Whether the restart policy leaves a child that ended in this way stopped."""
    return policy == RestartPolicy.TEMPORARY or (policy == RestartPolicy.TRANSIENT and exit_status.success)
